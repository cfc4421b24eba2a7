/* veddb-gatewayd/auth/lockout.c — see lockout.h.
 *
 * A pair's key is the digest of its parts: of one size, whatever a client calls itself. Entries
 * stand in a list by their last use, so that making room looks at few of them. */
#include "veddb-gatewayd/auth/lockout.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/list.h"
#include "libcommon/base/map.h"
#include "libcommon/base/mem.h"

#include <openssl/sha.h>
#include <pthread.h>

#define QUIET_MS       3600000 /* failures are forgotten */
#define LOOK_MAX       64      /* entries looked at to make room for one */
#define SLOW_FREE      20      /* failures a minute of one user, from anywhere, that slow nobody */
#define SLOW_STEP_MS   50      /* for each one more */
#define MINUTE_MS      60000
#define KEY_BYTES      SHA256_DIGEST_LENGTH
#define NAME_MAX_BYTES 1024

typedef struct {
    vd_node_t node; /* by last use */
    uint8_t key[KEY_BYTES];
    uint32_t failures;
    uint64_t used_ms, locked_until_ms;
    bool good;     /* of a pair: it had a good login */
    double recent; /* of a user: failures of the last minute, roughly */
} entry_t;

typedef struct {
    vd_map_t *map;
    vd_list_t list;
    size_t max;
} table_t;

struct gate_lockout {
    pthread_mutex_t lock;
    table_t pairs, users;
    uint32_t failures_max;
    uint64_t lock_ms;
};

static void table_init(table_t *table, size_t max)
{
    table->map = vd_map_create(max);
    table->max = max;
    vd_list_init(&table->list);
}

static void table_done(table_t *table)
{
    vd_node_t *node;
    while ((node = vd_list_pop_front(&table->list)) != NULL)
        vd_free(VD_CONTAINER_OF(node, entry_t, node));
    vd_map_destroy(&table->map);
}

gate_lockout_t *gate_lockout_create(uint32_t failures, uint64_t lock_ms)
{
    VD_ASSERT(failures > 0 && lock_ms > 0);
    gate_lockout_t *lockout = vd_xalloc(sizeof *lockout);
    (void)pthread_mutex_init(&lockout->lock, NULL); /* can't fail with default attributes */
    table_init(&lockout->pairs, GATE_LOCKOUT_PAIRS_MAX);
    table_init(&lockout->users, GATE_LOCKOUT_USERS_MAX);
    lockout->failures_max = failures;
    lockout->lock_ms = lock_ms;
    return lockout;
}

void gate_lockout_destroy(gate_lockout_t **lockout_p)
{
    gate_lockout_t *lockout = *lockout_p;
    *lockout_p = NULL;
    if (lockout == NULL)
        return;
    table_done(&lockout->pairs);
    table_done(&lockout->users);
    (void)pthread_mutex_destroy(&lockout->lock);
    vd_free(lockout);
}

static void put(uint8_t *text, size_t *len, vd_slice_t part)
{
    size_t n = part.len < NAME_MAX_BYTES ? part.len : NAME_MAX_BYTES;
    if (n != 0)
        memcpy(text + *len, part.data, n);
    *len += n;
    text[(*len)++] = 0;
}

/* address NULL: of the user. */
static void key_of(const gate_lockout_who_t *who, const gate_address_t *address,
                   uint8_t key[KEY_BYTES])
{
    uint8_t text[2 * NAME_MAX_BYTES + 32];
    size_t len = 0;
    put(text, &len, who->db);
    put(text, &len, who->user);
    if (address != NULL) {
        memcpy(text + len, address->bytes, sizeof address->bytes);
        len += sizeof address->bytes;
    }
    (void)SHA256(text, len, key);
}

static entry_t *find(const table_t *table, const uint8_t key[KEY_BYTES])
{
    return vd_map_get(table->map, vd_slice(key, KEY_BYTES));
}

static void drop(table_t *table, entry_t *entry)
{
    vd_list_remove(&entry->node);
    (void)vd_map_remove(table->map, vd_slice(entry->key, KEY_BYTES));
    vd_free(entry);
}

/* Of the oldest ones that lock nobody the first that had no good login, else the first. Those that
 * lock go to the end, out of the way. */
static bool make_room(table_t *table, uint64_t now_ms)
{
    entry_t *chosen = NULL;
    for (uint32_t looked = 0; looked < LOOK_MAX && (chosen == NULL || chosen->good); looked++) {
        vd_node_t *node = vd_list_pop_front(&table->list);
        if (node == NULL)
            break;
        entry_t *entry = VD_CONTAINER_OF(node, entry_t, node);
        vd_list_push_back(&table->list, node);
        if (entry->locked_until_ms <= now_ms && (chosen == NULL || !entry->good))
            chosen = entry;
    }
    if (chosen != NULL)
        drop(table, chosen);
    return chosen != NULL;
}

/* NULL when the table is full of entries that lock somebody. */
static entry_t *take(table_t *table, const uint8_t key[KEY_BYTES], uint64_t now_ms)
{
    entry_t *entry = find(table, key);
    if (entry != NULL) {
        vd_list_remove(&entry->node);
        vd_list_push_back(&table->list, &entry->node);
        return entry;
    }
    if (vd_map_count(table->map) >= table->max && !make_room(table, now_ms))
        return NULL;
    entry = vd_xalloc(sizeof *entry);
    memcpy(entry->key, key, KEY_BYTES);
    entry->used_ms = now_ms;
    if (vd_map_put(table->map, vd_slice(entry->key, KEY_BYTES), entry, NULL) != VD_OK) {
        vd_free(entry);
        return NULL;
    }
    vd_list_push_back(&table->list, &entry->node);
    return entry;
}

/* Callers read their clock before they have the lock: the latest counts. */
static void used(entry_t *entry, uint64_t now_ms)
{
    if (entry->used_ms < now_ms)
        entry->used_ms = now_ms;
}

static void decay(entry_t *user, uint64_t now_ms)
{
    double part = (double)vd_elapsed(user->used_ms, now_ms) / MINUTE_MS;
    user->recent = part >= 1 ? 0 : user->recent * (1 - part);
    used(user, now_ms);
}

static int64_t slow_ms(entry_t *user, uint64_t now_ms)
{
    if (user == NULL)
        return 0;
    decay(user, now_ms);
    double more = user->recent - SLOW_FREE;
    int64_t wait = more <= 0 ? 0 : (int64_t)(more * SLOW_STEP_MS) + 1;
    return wait < GATE_LOCKOUT_SLOW_MS ? wait : GATE_LOCKOUT_SLOW_MS;
}

int64_t gate_lockout_wait_ms(gate_lockout_t *lockout, const gate_lockout_who_t *who,
                             uint64_t now_ms)
{
    uint8_t pair_key[KEY_BYTES], user_key[KEY_BYTES];
    int64_t wait;
    key_of(who, &who->address, pair_key);
    key_of(who, NULL, user_key);
    (void)pthread_mutex_lock(&lockout->lock);
    const entry_t *pair = find(&lockout->pairs, pair_key);
    if (pair != NULL && pair->locked_until_ms > now_ms)
        wait = -1;
    else if (pair != NULL && pair->good)
        wait = 0;
    else
        wait = slow_ms(find(&lockout->users, user_key), now_ms);
    (void)pthread_mutex_unlock(&lockout->lock);
    return wait;
}

bool gate_lockout_failed(gate_lockout_t *lockout, const gate_lockout_who_t *who, uint64_t now_ms)
{
    uint8_t pair_key[KEY_BYTES], user_key[KEY_BYTES];
    bool locks = false;
    key_of(who, &who->address, pair_key);
    key_of(who, NULL, user_key);
    (void)pthread_mutex_lock(&lockout->lock);
    entry_t *user = take(&lockout->users, user_key, now_ms),
            *pair = take(&lockout->pairs, pair_key, now_ms);
    if (user != NULL) {
        decay(user, now_ms);
        user->recent += 1;
    }
    if (pair != NULL) {
        bool over = pair->locked_until_ms != 0 && pair->locked_until_ms <= now_ms;
        if (over || vd_elapsed(pair->used_ms, now_ms) > QUIET_MS)
            pair->failures = 0, pair->locked_until_ms = 0;
        used(pair, now_ms);
        locks = ++pair->failures >= lockout->failures_max && pair->locked_until_ms == 0;
        if (locks)
            pair->locked_until_ms = now_ms + lockout->lock_ms;
    }
    (void)pthread_mutex_unlock(&lockout->lock);
    return locks;
}

void gate_lockout_good(gate_lockout_t *lockout, const gate_lockout_who_t *who, uint64_t now_ms)
{
    uint8_t key[KEY_BYTES];
    key_of(who, &who->address, key);
    (void)pthread_mutex_lock(&lockout->lock);
    entry_t *pair = take(&lockout->pairs, key, now_ms);
    if (pair != NULL) {
        pair->failures = 0, pair->locked_until_ms = 0;
        pair->good = true;
        used(pair, now_ms);
    }
    (void)pthread_mutex_unlock(&lockout->lock);
}

size_t gate_lockout_pairs(gate_lockout_t *lockout)
{
    (void)pthread_mutex_lock(&lockout->lock);
    size_t count = vd_map_count(lockout->pairs.map);
    (void)pthread_mutex_unlock(&lockout->lock);
    return count;
}
