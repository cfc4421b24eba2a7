/* veddb-storaged/pins.c — see pins.h. */
#include "veddb-storaged/pins.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/mem.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/sessions_private.h"

#include <time.h>

typedef struct stor_pin {
    vd_node_t node; /* all of them, oldest first */
    stor_session_key_t key;
    uint64_t at, opened_us;
    stor_session_t *session;
    stor_catalog_mark_t catalog;
    bool busy, dead;
} pin_t;

struct stor_pins {
    stor_storage_t *storage;
    pthread_mutex_t lock;
    pthread_cond_t left;
    vd_list_t all;
    uint32_t count;
};

stor_pins_t *stor_pins_create(stor_storage_t *storage)
{
    stor_pins_t *pins = vd_xalloc(sizeof *pins);
    pins->storage = storage;
    (void)pthread_mutex_init(&pins->lock, NULL);
    (void)pthread_cond_init(&pins->left, NULL);
    vd_list_init(&pins->all);
    return pins;
}

static void lock(stor_pins_t *pins)
{
    (void)pthread_mutex_lock(&pins->lock);
}

static void unlock(stor_pins_t *pins)
{
    (void)pthread_mutex_unlock(&pins->lock);
}

/* Out of the list already. */
static void pin_free(stor_pins_t *pins, pin_t *pin)
{
    if (stor_txn_active(pin->session))
        stor_txn_rollback(pin->session); /* it only read */
    stor_transactions_session_give(pins->storage->sessions, &pin->session);
    vd_free(pin);
}

/* Under the lock: takes it out of the list, or marks it when a request is in it. */
static void pin_take(stor_pins_t *pins, pin_t *pin, vd_list_t *out)
{
    pin->dead = true;
    if (pin->busy)
        return;
    vd_list_remove(&pin->node);
    pins->count--;
    vd_list_push_back(out, &pin->node);
}

static void list_free(stor_pins_t *pins, vd_list_t *list)
{
    vd_node_t *node;
    while ((node = vd_list_pop_front(list)) != NULL)
        pin_free(pins, VD_CONTAINER_OF(node, pin_t, node));
}

void stor_pins_destroy(stor_pins_t **pins_p)
{
    stor_pins_t *pins = *pins_p;
    if (pins == NULL)
        return;
    stor_pins_end(pins->storage, NULL, NULL);
    VD_ASSERT(pins->count == 0);
    (void)pthread_mutex_destroy(&pins->lock);
    (void)pthread_cond_destroy(&pins->left);
    vd_free(pins);
    *pins_p = NULL;
}

uint64_t stor_pins_count(const stor_storage_t *storage)
{
    stor_pins_t *pins = storage->sessions->pins;
    lock(pins);
    uint64_t count = pins->count;
    unlock(pins);
    return count;
}

/* ---- in and out ---- */

static bool is_of(const pin_t *pin, const stor_session_key_t *key)
{
    return !pin->dead && memcmp(pin->key.bytes, key->bytes, sizeof key->bytes) == 0;
}

/* Under the lock. at 0: any whose snapshot nothing has been committed behind. */
static pin_t *find(stor_pins_t *pins, const stor_session_key_t *key, uint64_t at, uint64_t newest)
{
    VD_LIST_EACH(&pins->all, node)
    {
        pin_t *pin = VD_CONTAINER_OF(node, pin_t, node);
        if (is_of(pin, key) && pin->at == (at == 0 ? newest : at))
            return pin;
    }
    return NULL;
}

static void use(stor_request_t *request, pin_t *pin)
{
    request->pin = pin;
    request->pinned_at = pin->at;
    request->worker_session = request->session;
    request->session = pin->session;
    request->catalog_mark = pin->catalog;
    request->read_level = STOR_READ_SNAPSHOT; /* the reply waits for the majority */
    stor_request_depends(request, pin->at);
}

static void wait_left(stor_pins_t *pins)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += STOR_SESSION_WAIT_NS;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    (void)pthread_cond_timedwait(&pins->left, &pins->lock, &until);
}

/* VD_ERR_NOT_FOUND (quiet): there is none. */
static int enter_found(stor_request_t *request, uint64_t at, vd_error_t *err)
{
    stor_pins_t *pins = request->storage->sessions->pins;
    stor_session_key_t key = stor_session_key_of(&request->command);
    int rc = VD_OK;
    lock(pins);
    for (;;) {
        pin_t *pin = find(pins, &key, at, stor_engine_newest(request->storage->engine));
        if (pin == NULL) {
            rc = VD_ERR_NOT_FOUND;
            break;
        }
        if (!pin->busy) {
            pin->busy = true;
            use(request, pin);
            break;
        }
        wait_left(pins);
        request->checks = 0; /* each check looks at the clock */
        rc = stor_request_check(request, err);
        if (rc != VD_OK)
            break;
    }
    unlock(pins);
    return rc;
}

/* Room for one more: the session's oldest goes, or the oldest of all. False: all are in use. */
static bool room_make(stor_pins_t *pins, const stor_session_key_t *key, vd_list_t *out)
{
    pin_t *own = NULL, *oldest = NULL;
    uint32_t count = 0;
    VD_LIST_EACH(&pins->all, node)
    {
        pin_t *pin = VD_CONTAINER_OF(node, pin_t, node);
        bool of = is_of(pin, key);
        count += of;
        if (!pin->busy && of && own == NULL)
            own = pin;
        if (!pin->busy && oldest == NULL)
            oldest = pin;
    }
    if (count >= STOR_PINS_PER_SESSION && own != NULL)
        pin_take(pins, own, out);
    else if (pins->count >= STOR_PINS_MAX && oldest != NULL)
        pin_take(pins, oldest, out);
    return pins->count < STOR_PINS_MAX;
}

static int enter_room(stor_request_t *request, pin_t *pin, vd_error_t *err)
{
    stor_pins_t *pins = request->storage->sessions->pins;
    vd_list_t out;
    vd_list_init(&out);
    lock(pins);
    bool room = room_make(pins, &pin->key, &out);
    if (room) {
        vd_list_push_back(&pins->all, &pin->node);
        pins->count++;
        pin->busy = true;
        use(request, pin);
    }
    unlock(pins);
    list_free(pins, &out);
    return room ? VD_OK
                : vd_error_set(err, VD_ERR_SNAPSHOT_UNAVAILABLE,
                               "too many snapshots are being read (limit %d)", STOR_PINS_MAX);
}

static int unavailable(uint64_t at, vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_SNAPSHOT_UNAVAILABLE,
                        "Read timestamp Timestamp(%u, %u) is not available: snapshots belong to "
                        "the session that began them, and end after a minute",
                        (unsigned)(at >> 32), (unsigned)at);
}

/* at: must be what the snapshot shows, no more and no less; 0: whatever is newest. */
static int enter_new(stor_request_t *request, uint64_t at, vd_error_t *err)
{
    stor_storage_t *storage = request->storage;
    pin_t *pin = vd_xalloc(sizeof *pin);
    uint64_t visible = stor_engine_visible(storage->engine);
    pin->key = stor_session_key_of(&request->command);
    pin->opened_us = vd_monotonic_us();
    pin->catalog = stor_catalog_mark(storage->catalog);
    int rc = stor_transactions_session_take(storage->sessions, &pin->session, err);
    if (rc == VD_OK)
        rc = stor_txn_begin(pin->session, err);
    if (rc == VD_OK) {
        pin->at = stor_txn_snapshot_newest(pin->session);
        if (at != 0 && (pin->at != at || visible < at))
            rc = unavailable(at, err);
    }
    if (rc == VD_OK)
        rc = enter_room(request, pin, err);
    if (rc == VD_OK)
        return rc;
    if (pin->session != NULL)
        pin_free(storage->sessions->pins, pin);
    else
        vd_free(pin);
    return rc;
}

static int enter(stor_request_t *request, uint64_t at, bool make, vd_error_t *err)
{
    int rc = enter_found(request, at, err);
    if (rc != VD_ERR_NOT_FOUND)
        return rc;
    return make ? enter_new(request, at, err) : unavailable(at, err);
}

int stor_pin_enter(stor_request_t *request, vd_error_t *err)
{
    uint64_t at = request->at_cluster_time;
    if (request->read_level != STOR_READ_SNAPSHOT || request->transaction_number >= 0 ||
        (request->entry->flags & STOR_COMMAND_NOT_FIRST) != 0)
        return VD_OK; /* a getMore's cursor knows (stor_pin_again), whatever drivers send with it */
    if (at > stor_engine_newest(request->storage->engine))
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "readConcern atClusterTime value must not be greater than the current "
                            "clusterTime.");
    return enter(request, at, true, err);
}

int stor_pin_again(stor_request_t *request, uint64_t at, vd_error_t *err)
{
    return at == 0 ? VD_OK : enter(request, at, false, err);
}

void stor_pin_leave(stor_request_t *request)
{
    pin_t *pin = request->pin;
    if (pin == NULL)
        return;
    stor_pins_t *pins = request->storage->sessions->pins;
    vd_list_t out;
    vd_list_init(&out);
    stor_txn_rest(pin->session);
    request->session = request->worker_session;
    request->worker_session = NULL;
    request->pin = NULL;
    request->catalog_mark = (stor_catalog_mark_t){0};
    lock(pins);
    pin->busy = false;
    if (pin->dead)
        pin_take(pins, pin, &out);
    (void)pthread_cond_broadcast(&pins->left);
    unlock(pins);
    list_free(pins, &out);
}

/* ---- ends ---- */

void stor_pins_end(stor_storage_t *storage,
                   bool (*matches)(const stor_session_key_t *key, const void *context),
                   const void *context)
{
    if (storage->sessions == NULL)
        return;
    stor_pins_t *pins = storage->sessions->pins;
    vd_list_t out;
    vd_list_init(&out);
    lock(pins);
    VD_LIST_EACH(&pins->all, node)
    {
        pin_t *pin = VD_CONTAINER_OF(node, pin_t, node);
        if (matches == NULL || matches(&pin->key, context))
            pin_take(pins, pin, &out);
    }
    unlock(pins);
    list_free(pins, &out);
}

void stor_pins_expire(stor_storage_t *storage, bool cache_is_short)
{
    stor_pins_t *pins = storage->sessions->pins;
    uint64_t now_us = vd_monotonic_us(), lifetime_us = stor_transaction_lifetime_ms(storage) * 1000;
    vd_list_t out;
    vd_list_init(&out);
    lock(pins);
    VD_LIST_EACH(&pins->all, node)
    {
        pin_t *pin = VD_CONTAINER_OF(node, pin_t, node);
        if (cache_is_short || vd_elapsed(pin->opened_us, now_us) > lifetime_us)
            pin_take(pins, pin, &out);
    }
    unlock(pins);
    list_free(pins, &out);
}
