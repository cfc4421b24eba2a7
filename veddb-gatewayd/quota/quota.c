/* veddb-gatewayd/quota/quota.c — see quota.h. */
#include "veddb-gatewayd/quota/quota.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/list.h"
#include "libcommon/base/map.h"
#include "libcommon/base/mem.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define LOOKED_AT_MAX    64 /* entries, for one newcomer */
#define PARTS_OF_SECOND  64 /* what a thread takes in advance */
#define THREAD_USERS_MAX (1u << 20)

struct gate_entry {
    vd_node_t node; /* among the idle ones of its scope */
    uint32_t references;
    uint32_t connections;
    bool crowd; /* of those who found no place */
    gate_bucket_t buckets[GATE_RATES];
    bool begun[GATE_RATES]; /* the bucket was in use */
    vd_slice_t key;         /* behind the entry */
};

typedef struct {
    vd_map_t *map;
    vd_list_t idle; /* longest idle first */
    gate_entry_t *crowd;
} table_t;

struct gate_quota {
    pthread_mutex_t lock;
    table_t tables[GATE_SCOPES];
    gate_limit_values_t configured;
    gate_override_t *overrides;
    uint32_t override_count;
    _Atomic uint64_t values[GATE_LIMITS]; /* written under the lock */
    _Atomic uint64_t generation;
    _Atomic unsigned on;
};

struct gate_accounts {
    gate_quota_t *quota;
    vd_map_t *maps[GATE_SCOPES];
};

/* ---- settings ---- */

static uint64_t value_of(const gate_quota_t *quota, gate_limit_t limit)
{
    return atomic_load_explicit(&quota->values[limit], memory_order_relaxed);
}

static unsigned bit_of(unsigned limit)
{
    const gate_limit_row_t *row = &gate_limit_rows[limit];
    if (row->rate == GATE_RATE_HANDSHAKES)
        return 0; /* counted where they come in */
    if (row->rate != GATE_RATE_NONE)
        return 1u << row->scope;
    return row->scope == GATE_SCOPE_USER ? GATE_ON_USER_BOUNDS : 0;
}

/* Under the lock, after a change. */
static void changed(gate_quota_t *quota)
{
    unsigned on = 0;
    for (unsigned i = 0; i < GATE_LIMITS; i++) {
        if (value_of(quota, (gate_limit_t)i) != 0)
            on |= bit_of(i);
    }
    for (uint32_t i = 0; i < quota->override_count; i++) {
        if (quota->overrides[i].value != 0)
            on |= bit_of(quota->overrides[i].limit);
    }
    atomic_store(&quota->on, on);
    atomic_fetch_add(&quota->generation, 1);
}

gate_quota_t *gate_quota_create(const gate_limit_values_t *values)
{
    gate_quota_t *quota = vd_xalloc(sizeof *quota);
    (void)pthread_mutex_init(&quota->lock, NULL); /* can't fail with default attributes */
    quota->configured = *values;
    quota->overrides = vd_xalloc(GATE_OVERRIDES_MAX * sizeof *quota->overrides);
    for (int i = 0; i < GATE_SCOPES; i++) {
        quota->tables[i].map = vd_map_create(GATE_ENTRIES_MAX);
        vd_list_init(&quota->tables[i].idle);
        quota->tables[i].crowd = vd_xalloc(sizeof *quota->tables[i].crowd);
        quota->tables[i].crowd->crowd = true;
    }
    gate_quota_reset(quota, VD_SLICE_NULL);
    return quota;
}

void gate_quota_destroy(gate_quota_t **quota_p)
{
    gate_quota_t *quota = *quota_p;
    if (quota == NULL)
        return;
    for (int i = 0; i < GATE_SCOPES; i++) {
        size_t position = 0;
        void *entry;
        while (vd_map_next(quota->tables[i].map, &position, &(vd_slice_t){0}, &entry))
            vd_free(entry);
        vd_map_destroy(&quota->tables[i].map);
        vd_free(quota->tables[i].crowd);
    }
    vd_free(quota->overrides);
    (void)pthread_mutex_destroy(&quota->lock);
    vd_free(quota);
    *quota_p = NULL;
}

static int override_set(gate_quota_t *quota, vd_slice_t user, gate_limit_t limit, uint64_t value,
                        vd_error_t *err)
{
    gate_override_t *found = NULL;
    for (uint32_t i = 0; i < quota->override_count && found == NULL; i++) {
        if (quota->overrides[i].limit == limit && vd_slice_is(user, quota->overrides[i].user))
            found = &quota->overrides[i];
    }
    if (found == NULL && quota->override_count == GATE_OVERRIDES_MAX)
        return vd_error_set(err, VD_ERR_FULL, "at most %d limits of single users can be set",
                            GATE_OVERRIDES_MAX);
    if (found == NULL)
        found = &quota->overrides[quota->override_count++];
    found->limit = limit;
    found->value = value;
    (void)snprintf(found->user, sizeof found->user, "%.*s", VD_SLICE_FMT(user));
    return VD_OK;
}

int gate_quota_set(gate_quota_t *quota, vd_slice_t user, gate_limit_t limit, uint64_t value,
                   vd_error_t *err)
{
    int rc = VD_OK;
    VD_ASSERT(limit < GATE_LIMITS && user.len < GATE_LIMITED_USER_SIZE);
    (void)pthread_mutex_lock(&quota->lock);
    if (user.len != 0)
        rc = override_set(quota, user, limit, value, err);
    else
        atomic_store(&quota->values[limit], value);
    changed(quota);
    (void)pthread_mutex_unlock(&quota->lock);
    return rc;
}

void gate_quota_reset(gate_quota_t *quota, vd_slice_t user)
{
    (void)pthread_mutex_lock(&quota->lock);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < quota->override_count; i++) {
        if (user.len != 0 && !vd_slice_is(user, quota->overrides[i].user))
            quota->overrides[kept++] = quota->overrides[i];
    }
    quota->override_count = kept;
    for (unsigned i = 0; i < GATE_LIMITS && user.len == 0; i++)
        atomic_store(&quota->values[i], quota->configured.values[i]);
    changed(quota);
    (void)pthread_mutex_unlock(&quota->lock);
}

void gate_quota_values(gate_quota_t *quota, gate_limit_values_t *ret_now,
                       gate_limit_values_t *ret_configured)
{
    (void)pthread_mutex_lock(&quota->lock);
    for (unsigned i = 0; i < GATE_LIMITS; i++)
        ret_now->values[i] = value_of(quota, (gate_limit_t)i);
    *ret_configured = quota->configured;
    (void)pthread_mutex_unlock(&quota->lock);
}

uint32_t gate_quota_overrides(gate_quota_t *quota, gate_override_t *out, uint32_t max)
{
    (void)pthread_mutex_lock(&quota->lock);
    uint32_t count = quota->override_count < max ? quota->override_count : max;
    if (count != 0)
        memcpy(out, quota->overrides, count * sizeof *out);
    (void)pthread_mutex_unlock(&quota->lock);
    return count;
}

unsigned gate_quota_on(const gate_quota_t *quota)
{
    return atomic_load_explicit(&quota->on, memory_order_relaxed);
}

uint64_t gate_quota_value(const gate_quota_t *quota, gate_limit_t limit)
{
    return value_of(quota, limit);
}

/* ---- entries; all under the lock ---- */

static const gate_bucket_rate_t *rate_of(const gate_limit_values_t *limits, gate_scope_t scope,
                                         gate_rate_t rate, gate_bucket_rate_t *out)
{
    gate_limit_t limit = gate_limit_of_rate(scope, rate);
    if (limit == GATE_LIMITS || limits->values[limit] == 0)
        return NULL;
    *out = gate_bucket_rate(limits->values[limit], limits->values[GATE_LIMIT_BURST]);
    return out;
}

static void limits_of(const gate_quota_t *quota, gate_scope_t scope, vd_slice_t key,
                      gate_limit_values_t *out)
{
    for (unsigned i = 0; i < GATE_LIMITS; i++)
        out->values[i] = value_of(quota, (gate_limit_t)i);
    for (uint32_t i = 0; scope == GATE_SCOPE_USER && i < quota->override_count; i++) {
        if (vd_slice_is(key, quota->overrides[i].user))
            out->values[quota->overrides[i].limit] = quota->overrides[i].value;
    }
}

/* Nothing would be lost with it. */
static bool owes_nothing(const gate_quota_t *quota, gate_scope_t scope, gate_entry_t *entry,
                         uint64_t now_us)
{
    gate_limit_values_t limits;
    gate_bucket_rate_t space;
    limits_of(quota, scope, entry->key, &limits);
    for (unsigned i = 0; i < GATE_RATES; i++) {
        const gate_bucket_rate_t *rate = rate_of(&limits, scope, (gate_rate_t)i, &space);
        if (rate == NULL || !entry->begun[i])
            continue;
        gate_bucket_fill(&entry->buckets[i], rate, now_us);
        if (entry->buckets[i].level < rate->full)
            return false;
    }
    return true;
}

static void entry_forget(table_t *table, gate_entry_t *entry)
{
    vd_list_remove(&entry->node);
    (void)vd_map_remove(table->map, entry->key);
    vd_free(entry);
}

/* Looks at some of those that were idle longest; the rest have their turn with the next newcomer.
 */
static void make_room(gate_quota_t *quota, gate_scope_t scope, uint64_t now_us)
{
    table_t *table = &quota->tables[scope];
    for (int i = 0; i < LOOKED_AT_MAX && !vd_list_empty(&table->idle); i++) {
        gate_entry_t *entry = VD_CONTAINER_OF(vd_list_first(&table->idle), gate_entry_t, node);
        if (owes_nothing(quota, scope, entry, now_us)) {
            entry_forget(table, entry);
            return;
        }
        vd_list_remove(&entry->node);
        vd_list_push_back(&table->idle, &entry->node);
    }
}

static gate_entry_t *entry_take(gate_quota_t *quota, gate_scope_t scope, vd_slice_t key,
                                uint64_t now_us)
{
    table_t *table = &quota->tables[scope];
    gate_entry_t *entry = vd_map_get(table->map, key);
    if (entry == NULL && vd_map_count(table->map) >= GATE_ENTRIES_MAX)
        make_room(quota, scope, now_us);
    if (entry == NULL && vd_map_count(table->map) < GATE_ENTRIES_MAX) {
        entry = vd_xalloc(sizeof *entry + key.len);
        if (key.len != 0)
            memcpy(entry + 1, key.data, key.len);
        entry->key = vd_slice(entry + 1, key.len);
        int rc = vd_map_put(table->map, entry->key, entry, NULL);
        VD_ASSERT(rc == VD_OK); /* counted above */
    }
    if (entry == NULL)
        entry = table->crowd;
    entry->references++;
    vd_list_remove(&entry->node);
    return entry;
}

static void entry_give(gate_quota_t *quota, gate_scope_t scope, gate_entry_t *entry,
                       uint64_t now_us)
{
    VD_ASSERT(entry->references > 0);
    if (--entry->references != 0 || entry->crowd)
        return;
    vd_list_push_back(&quota->tables[scope].idle, &entry->node);
    if (owes_nothing(quota, scope, entry, now_us))
        entry_forget(&quota->tables[scope], entry);
}

static gate_bucket_t *bucket_of(gate_entry_t *entry, gate_rate_t rate,
                                const gate_bucket_rate_t *how, uint64_t now_us)
{
    if (!entry->begun[rate])
        gate_bucket_init(&entry->buckets[rate], how, now_us);
    entry->begun[rate] = true;
    return &entry->buckets[rate];
}

bool gate_quota_handshake(gate_quota_t *quota, vd_slice_t address, uint64_t now_us,
                          gate_scope_t *ret_scope)
{
    static const gate_scope_t scopes[] = {GATE_SCOPE_ADDRESS, GATE_SCOPE_TOTAL};
    bool good = true;
    (void)pthread_mutex_lock(&quota->lock);
    for (int i = 0; i < 2 && good; i++) {
        gate_limit_values_t limits;
        gate_bucket_rate_t space;
        uint64_t wait;
        vd_slice_t key = scopes[i] == GATE_SCOPE_TOTAL ? VD_SLICE_NULL : address;
        limits_of(quota, scopes[i], key, &limits);
        const gate_bucket_rate_t *rate = rate_of(&limits, scopes[i], GATE_RATE_HANDSHAKES, &space);
        if (rate == NULL)
            continue;
        gate_entry_t *entry = entry_take(quota, scopes[i], key, now_us);
        gate_bucket_t *bucket = bucket_of(entry, GATE_RATE_HANDSHAKES, rate, now_us);
        good = gate_bucket_take(bucket, rate, now_us, 1, 0, 0, &wait) > 0;
        *ret_scope = scopes[i];
        entry_give(quota, scopes[i], entry, now_us);
    }
    (void)pthread_mutex_unlock(&quota->lock);
    return good;
}

/* ---- accounts ---- */

gate_accounts_t *gate_accounts_create(gate_quota_t *quota)
{
    gate_accounts_t *accounts = vd_xalloc(sizeof *accounts);
    accounts->quota = quota;
    for (int i = 0; i < GATE_SCOPES; i++)
        accounts->maps[i] = vd_map_create(THREAD_USERS_MAX);
    return accounts;
}

void gate_accounts_destroy(gate_accounts_t **accounts_p)
{
    gate_accounts_t *accounts = *accounts_p;
    if (accounts == NULL)
        return;
    for (int i = 0; i < GATE_SCOPES; i++) {
        VD_ASSERT(vd_map_count(accounts->maps[i]) == 0);
        vd_map_destroy(&accounts->maps[i]);
    }
    vd_free(accounts);
    *accounts_p = NULL;
}

gate_account_t *gate_accounts_open(gate_accounts_t *accounts, gate_scope_t scope, vd_slice_t key)
{
    gate_quota_t *quota = accounts->quota;
    gate_account_t *account = vd_map_get(accounts->maps[scope], key);
    if (account != NULL) {
        account->references++;
        return account;
    }
    account = vd_xalloc(sizeof *account);
    account->scope = scope;
    account->references = 1;
    (void)pthread_mutex_lock(&quota->lock);
    account->entry = entry_take(quota, scope, key, vd_monotonic_us());
    (void)pthread_mutex_unlock(&quota->lock);
    /* The crowd's key is empty: such accounts are not shared, which costs only memory. */
    if (!account->entry->crowd &&
        vd_map_put(accounts->maps[scope], account->entry->key, account, NULL) != VD_OK)
        VD_ASSERT(!"more accounts than connections");
    return account;
}

void gate_accounts_close(gate_accounts_t *accounts, gate_account_t **account_p)
{
    gate_account_t *account = *account_p;
    gate_quota_t *quota = accounts->quota;
    *account_p = NULL;
    if (account == NULL || --account->references != 0)
        return;
    if (!account->entry->crowd)
        (void)vd_map_remove(accounts->maps[account->scope], account->entry->key);
    uint64_t now_us = vd_monotonic_us();
    (void)pthread_mutex_lock(&quota->lock);
    bool current = account->generation == atomic_load(&quota->generation);
    for (unsigned i = 0; i < GATE_RATES && current; i++) { /* what it had in advance */
        const gate_bucket_rate_t *rate = &account->rates[i];
        if (rate->per_second > 0 && account->entry->begun[i])
            gate_bucket_charge(&account->entry->buckets[i], rate, now_us, -account->credit[i]);
    }
    entry_give(quota, account->scope, account->entry, now_us);
    (void)pthread_mutex_unlock(&quota->lock);
    vd_free(account);
}

/* Values as they are in force now; what was taken in advance under others is void. */
static void refresh(gate_quota_t *quota, gate_account_t *account)
{
    if (VD_LIKELY(account->generation ==
                  atomic_load_explicit(&quota->generation, memory_order_acquire)))
        return;
    (void)pthread_mutex_lock(&quota->lock);
    account->generation = atomic_load(&quota->generation);
    limits_of(quota, account->scope, account->entry->key, &account->limits);
    (void)pthread_mutex_unlock(&quota->lock);
    for (unsigned i = 0; i < GATE_RATES; i++) {
        gate_bucket_rate_t space;
        const gate_bucket_rate_t *rate =
            rate_of(&account->limits, account->scope, (gate_rate_t)i, &space);
        account->rates[i] = rate == NULL ? (gate_bucket_rate_t){0} : *rate;
    }
    memset(account->credit, 0, sizeof account->credit);
}

uint64_t gate_account_limit(gate_accounts_t *accounts, gate_account_t *account, gate_limit_t limit)
{
    refresh(accounts->quota, account);
    return account->limits.values[limit];
}

bool gate_account_enter(gate_accounts_t *accounts, gate_account_t *account)
{
    refresh(accounts->quota, account);
    uint64_t max = account->limits.values[GATE_LIMIT_CONNECTIONS_PER_USER];
    (void)pthread_mutex_lock(&accounts->quota->lock);
    bool good = max == 0 || account->entry->connections < max;
    account->entry->connections += good;
    (void)pthread_mutex_unlock(&accounts->quota->lock);
    return good;
}

void gate_account_leave(gate_accounts_t *accounts, gate_account_t *account)
{
    (void)pthread_mutex_lock(&accounts->quota->lock);
    VD_ASSERT(account->entry->connections > 0);
    account->entry->connections--;
    (void)pthread_mutex_unlock(&accounts->quota->lock);
}

/* From the shared bucket; 0: it would have to wait for too long. */
static double fetch(gate_quota_t *quota, gate_account_t *account, gate_rate_t rate,
                    const gate_bucket_rate_t *how, uint64_t now_us, double least,
                    uint64_t wait_max_us, uint64_t *ret_wait_us)
{
    (void)pthread_mutex_lock(&quota->lock);
    double got = gate_bucket_take(bucket_of(account->entry, rate, how, now_us), how, now_us, least,
                                  how->per_second / PARTS_OF_SECOND, wait_max_us, ret_wait_us);
    (void)pthread_mutex_unlock(&quota->lock);
    return got;
}

/* The first `count` kinds. */
static void give(gate_account_t *account, const double cost[GATE_RATES], unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (account->rates[i].per_second > 0)
            account->credit[i] += cost[i];
    }
}

int64_t gate_account_take(gate_accounts_t *accounts, gate_account_t *account, uint64_t now_us,
                          const double cost[GATE_RATES], uint64_t wait_max_us,
                          gate_rate_t *ret_rate, uint64_t *ret_wait_us)
{
    gate_quota_t *quota = accounts->quota;
    uint64_t longest = 0;
    refresh(quota, account);
    for (unsigned i = 0; i < GATE_RATE_HANDSHAKES; i++) {
        const gate_bucket_rate_t *how = &account->rates[i];
        uint64_t wait = 0;
        if (how->per_second <= 0 || cost[i] <= 0)
            continue;
        if (account->credit[i] < cost[i]) {
            double got = fetch(quota, account, (gate_rate_t)i, how, now_us,
                               cost[i] - account->credit[i], wait_max_us, &wait);
            if (got <= 0) {
                *ret_rate = (gate_rate_t)i;
                *ret_wait_us = wait;
                give(account, cost, i);
                return -1;
            }
            account->credit[i] += got;
        }
        account->credit[i] -= cost[i];
        if (wait > longest) {
            longest = wait;
            *ret_rate = (gate_rate_t)i;
        }
    }
    *ret_wait_us = longest;
    return (int64_t)longest;
}

void gate_account_give(gate_account_t *account, const double cost[GATE_RATES])
{
    give(account, cost, GATE_RATE_HANDSHAKES);
}

void gate_account_charge(gate_accounts_t *accounts, gate_account_t *account, uint64_t now_us,
                         gate_rate_t rate, double amount)
{
    gate_quota_t *quota = accounts->quota;
    refresh(quota, account);
    const gate_bucket_rate_t *how = &account->rates[rate];
    if (how->per_second <= 0)
        return;
    account->credit[rate] -= amount;
    if (account->credit[rate] >= 0)
        return;
    (void)pthread_mutex_lock(&quota->lock);
    gate_bucket_charge(bucket_of(account->entry, rate, how, now_us), how, now_us,
                       -account->credit[rate]);
    (void)pthread_mutex_unlock(&quota->lock);
    account->credit[rate] = 0;
}
