/* veddb-gatewayd/limits.c — see limits.h. */
#include "veddb-gatewayd/limits.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/map.h"
#include "libcommon/base/mem.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>

typedef struct {
    uint32_t open;
    double tokens; /* below zero: debt */
    uint64_t at_ms;
    vd_slice_t key; /* points at address */
    gate_address_t address;
} entry_t;

struct gate_limits {
    pthread_mutex_t lock;
    vd_map_t *map;
    uint32_t per_address_max;
    double per_minute;
};

gate_limits_t *gate_limits_create(uint32_t per_address_max, uint32_t logins_per_minute)
{
    VD_ASSERT(per_address_max > 0 && logins_per_minute > 0);
    gate_limits_t *limits = vd_xalloc(sizeof *limits);
    (void)pthread_mutex_init(&limits->lock, NULL); /* can't fail with default attributes */
    limits->map = vd_map_create(GATE_ADDRESSES_MAX);
    limits->per_address_max = per_address_max;
    limits->per_minute = logins_per_minute;
    return limits;
}

void gate_limits_destroy(gate_limits_t **limits_p)
{
    gate_limits_t *limits = *limits_p;
    if (limits == NULL)
        return;
    size_t position = 0;
    void *entry;
    while (vd_map_next(limits->map, &position, &(vd_slice_t){0}, &entry))
        vd_free(entry);
    vd_map_destroy(&limits->map);
    (void)pthread_mutex_destroy(&limits->lock);
    vd_free(limits);
    *limits_p = NULL;
}

gate_address_t gate_address_from(const struct sockaddr *address)
{
    gate_address_t result = {{0}};
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const void *)address;
        result.bytes[10] = result.bytes[11] = 0xFF;
        memcpy(result.bytes + 12, &v4->sin_addr, 4);
    } else if (address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const void *)address;
        memcpy(result.bytes, &v6->sin6_addr, 16);
        /* One host may own a whole /64: that is what is counted. */
        if (!IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr) && !IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr))
            memset(result.bytes + 8, 0, 8);
    }
    return result;
}

const char *gate_address_print(const gate_address_t *address, char out[64])
{
    static const uint8_t mapped[12] = {[10] = 0xFF, [11] = 0xFF};
    bool v4 = memcmp(address->bytes, mapped, sizeof mapped) == 0;
    if (inet_ntop(v4 ? AF_INET : AF_INET6, address->bytes + (v4 ? 12 : 0), out, 64) == NULL)
        out[0] = 0; /* can't be: the families are known and the space is enough */
    return out;
}

void gate_limits_set_per_address(gate_limits_t *limits, uint32_t per_address_max)
{
    (void)pthread_mutex_lock(&limits->lock);
    limits->per_address_max = per_address_max;
    (void)pthread_mutex_unlock(&limits->lock);
}

static void refill(gate_limits_t *limits, entry_t *entry)
{
    uint64_t now = vd_monotonic_ms();
    entry->tokens += (double)(now - entry->at_ms) * limits->per_minute / 60000.0;
    if (entry->tokens > limits->per_minute)
        entry->tokens = limits->per_minute;
    entry->at_ms = now;
}

static void forget_idle(gate_limits_t *limits)
{
    size_t position = 0;
    vd_slice_t key;
    void *value;
    while (vd_map_next(limits->map, &position, &key, &value)) {
        entry_t *entry = value;
        refill(limits, entry);
        if (entry->open == 0 && entry->tokens >= limits->per_minute) {
            (void)vd_map_remove(limits->map,
                                vd_slice(entry->address.bytes, sizeof entry->address.bytes));
            vd_free(entry);
        }
    }
}

/* NULL when the table is full of addresses that matter. */
static entry_t *entry_of(gate_limits_t *limits, const gate_address_t *address)
{
    vd_slice_t key = vd_slice(address->bytes, sizeof address->bytes);
    entry_t *entry = vd_map_get(limits->map, key);
    if (entry != NULL)
        return entry;
    if (vd_map_count(limits->map) >= GATE_ADDRESSES_MAX)
        forget_idle(limits);
    entry = vd_xalloc(sizeof *entry);
    entry->address = *address;
    entry->tokens = limits->per_minute;
    entry->at_ms = vd_monotonic_ms();
    if (vd_map_put(limits->map, key, entry, NULL) != VD_OK) {
        vd_free(entry);
        return NULL;
    }
    return entry;
}

bool gate_limits_enter(gate_limits_t *limits, const gate_address_t *address)
{
    (void)pthread_mutex_lock(&limits->lock);
    entry_t *entry = entry_of(limits, address);
    bool good = entry != NULL && entry->open < limits->per_address_max;
    if (good)
        entry->open++;
    (void)pthread_mutex_unlock(&limits->lock);
    return good;
}

void gate_limits_leave(gate_limits_t *limits, const gate_address_t *address)
{
    (void)pthread_mutex_lock(&limits->lock);
    entry_t *entry = entry_of(limits, address);
    if (entry != NULL && entry->open > 0)
        entry->open--;
    if (entry != NULL && entry->open == 0) {
        refill(limits, entry);
        if (entry->tokens >= limits->per_minute) {
            (void)vd_map_remove(limits->map, vd_slice(address->bytes, sizeof address->bytes));
            vd_free(entry);
        }
    }
    (void)pthread_mutex_unlock(&limits->lock);
}

int64_t gate_limits_login_wait_ms(gate_limits_t *limits, const gate_address_t *address)
{
    (void)pthread_mutex_lock(&limits->lock);
    entry_t *entry = entry_of(limits, address);
    int64_t wait = -1;
    if (entry != NULL) {
        refill(limits, entry);
        wait = entry->tokens >= 1
                   ? 0
                   : (int64_t)((1 - entry->tokens) * 60000.0 / limits->per_minute) + 1;
        if (wait > GATE_LOGIN_WAIT_MAX_MS)
            wait = -1;
    }
    (void)pthread_mutex_unlock(&limits->lock);
    return wait;
}

void gate_limits_login_failed(gate_limits_t *limits, const gate_address_t *address)
{
    (void)pthread_mutex_lock(&limits->lock);
    entry_t *entry = entry_of(limits, address);
    if (entry != NULL) {
        refill(limits, entry);
        /* The debt is bounded: an address is shut out for a minute at most after it stops. */
        if (entry->tokens > -limits->per_minute)
            entry->tokens -= 1;
    }
    (void)pthread_mutex_unlock(&limits->lock);
}
