/* veddb-storaged/engine/aside.c — see aside.h. Rows of the lookaside table: page, table's id,
 * counter, key -> transaction, timestamps, state, type of update, value. */
#include "veddb-storaged/engine/aside.h"

#include "libcommon/base/buf.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "veddb-storaged/engine/engine_private.h"
#include "veddb-storaged/engine/rewrite.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#define ASIDE_URI          "file:WiredTigerLAS.wt"
#define ASIDE_KEYS         "QIQu"
#define ASIDE_VALUES       "QQQBBu"
#define ASIDE_BIRTHMARK    1 /* the newest version stands in the table itself: swept by age */
#define ASIDE_CLOSE_MIN_MS 50
#define ASIDE_CLOSE_MAX_MS 400
#define ASIDE_HELD_MS      5000 /* and more where a pass of the sweep takes longer */
#define ASIDE_HELD_MAX_MS  20000
#define ASIDE_ROWS_PER_MS  500
#define ASIDE_SWEEP_MS     1000 /* of sweeps while all tables are open */
#define ASIDE_SWEEPS_IDLE  15   /* so many that remove nothing are enough */
#define ASIDE_PAUSE_US     10000
#define ASIDE_DRAIN_US     1000
#define ASIDE_LONG_TRIES   30 /* with long transactions only each so many calls */
#define ASIDE_SAMPLE_MS    5000
#define ASIDE_STUCK_MAX    32
#define ASIDE_KEY_MAX      (64u << 20)
#define ASIDE_LOOK_ROWS    4096 /* between looks whether it shall end */

/* Its drop wakes the sweep; one that a crash left is dropped by the next. */
#define ASIDE_DECOY_URI "file:aside.wt"

typedef struct {
    uint64_t page, counter;
    uint32_t id; /* 0: none */
    vd_buf_t key;
} row_t;

struct stor_aside {
    stor_engine_t *engine;
    WT_SESSION *session, *reader; /* reader: what is not committed yet counts, too */
    row_t witness;
    uint64_t *begins;       /* by slot: of transactions, at the last call; 0 = none was open */
    uint64_t swept_to;      /* a table was closed since that mark: the sweep goes so far */
    uint64_t sampled_ms;    /* when begins was */
    uint64_t mark;          /* of the last call */
    uint32_t tries, waited; /* waited: calls that did nothing for long transactions */
    uint32_t stuck[ASIDE_STUCK_MAX], stuck_count;
    bool (*stopped)(const void *context);
    const void *context;
};

/* ---- who waits ---- */

void stor_hold_open_begin(stor_engine_t *engine, const char *name)
{
    stor_hold_t *hold = &engine->hold;
    for (;;) {
        /* Counted before the look, as `held` is set before the count is read: one of both acts. */
        atomic_fetch_add(&hold->opening, 1);
        if (VD_LIKELY(!atomic_load(&hold->held)))
            return;
        pthread_mutex_lock(&hold->lock);
        bool mine = strcmp(hold->name, name) == 0;
        if (mine) {
            atomic_fetch_sub(&hold->opening, 1);
            while (strcmp(hold->name, name) == 0)
                pthread_cond_wait(&hold->changed, &hold->lock);
        }
        pthread_mutex_unlock(&hold->lock);
        if (!mine)
            return;
    }
}

void stor_hold_open_end(stor_engine_t *engine)
{
    atomic_fetch_sub(&engine->hold.opening, 1);
}

void stor_hold_begin_wait(stor_engine_t *engine)
{
    stor_hold_t *hold = &engine->hold;
    pthread_mutex_lock(&hold->lock);
    while (atomic_load(&hold->begins))
        pthread_cond_wait(&hold->changed, &hold->lock);
    pthread_mutex_unlock(&hold->lock);
}

static void begins_hold(stor_engine_t *engine, bool hold)
{
    pthread_mutex_lock(&engine->hold.lock);
    atomic_store(&engine->hold.begins, hold);
    pthread_cond_broadcast(&engine->hold.changed);
    pthread_mutex_unlock(&engine->hold.lock);
}

/* name "": none. */
static void table_hold(stor_engine_t *engine, const char *name)
{
    pthread_mutex_lock(&engine->hold.lock);
    (void)snprintf(engine->hold.name, sizeof engine->hold.name, "%s", name);
    atomic_store(&engine->hold.held, name[0] != '\0');
    pthread_cond_broadcast(&engine->hold.changed);
    pthread_mutex_unlock(&engine->hold.lock);
}

static void nap(long us)
{
    struct timespec pause = {.tv_nsec = us * 1000};
    (void)nanosleep(&pause, NULL); /* waking early is fine */
}

/* ---- open, close ---- */

int stor_aside_open(stor_engine_t *engine, stor_aside_t **ret_aside, vd_error_t *err)
{
    stor_aside_t *aside = vd_xalloc(sizeof *aside);
    WT_CONNECTION *conn = engine->conn;
    aside->engine = engine;
    vd_buf_init(&aside->witness.key, ASIDE_KEY_MAX);
    aside->begins = vd_xalloc(engine->options.sessions_max * sizeof *aside->begins);
    stor_wt_message_clear();
    int ret = conn->open_session(conn, NULL, "cache_cursors=false", &aside->session);
    if (ret == 0)
        ret = conn->open_session(conn, NULL, "isolation=read-uncommitted,cache_cursors=false",
                                 &aside->reader);
    if (ret != 0) {
        int rc = stor_wt_error(ret, err, "opening a session");
        stor_aside_close(&aside);
        return rc;
    }
    *ret_aside = aside;
    return VD_OK;
}

void stor_aside_close(stor_aside_t **aside_p)
{
    stor_aside_t *aside = *aside_p;
    if (aside == NULL)
        return;
    if (aside->session != NULL)
        (void)aside->session->close(aside->session, NULL); /* no transaction is open */
    if (aside->reader != NULL)
        (void)aside->reader->close(aside->reader, NULL); /* none here, either */
    vd_buf_done(&aside->witness.key);
    vd_free(aside->begins);
    vd_free(aside);
    *aside_p = NULL;
}

/* ---- what stands aside ---- */

uint64_t stor_aside_count(stor_aside_t *aside)
{
    WT_CURSOR *cursor = NULL;
    const char *description = NULL, *text = NULL;
    int64_t value = 1;
    WT_SESSION *session = aside->session;
    if (session->open_cursor(session, "statistics:", NULL, NULL, &cursor) != 0)
        return 1; /* not known: not zero */
    cursor->set_key(cursor, WT_STAT_CONN_CACHE_LOOKASIDE_ENTRIES);
    if (cursor->search(cursor) != 0 ||
        cursor->get_value(cursor, &description, &text, &value) != 0 || value < 0)
        value = 1;
    (void)cursor->close(cursor); /* statistics only */
    return (uint64_t)value;
}

static int rows_open(stor_aside_t *aside, WT_CURSOR **ret_cursor)
{
    WT_SESSION *reader = aside->reader;
    int ret = reader->open_cursor(reader, ASIDE_URI, NULL, NULL, ret_cursor);
    if (ret != 0 || (strcmp((*ret_cursor)->key_format, ASIDE_KEYS) == 0 &&
                     strcmp((*ret_cursor)->value_format, ASIDE_VALUES) == 0))
        return ret;
    (void)(*ret_cursor)->close(*ret_cursor); /* a reading cursor */
    *ret_cursor = NULL;
    return ENOTSUP;
}

static int key_read(WT_CURSOR *cursor, row_t *row, WT_ITEM *key)
{
    return cursor->get_key(cursor, &row->page, &row->id, &row->counter, key);
}

/* The page of the first row, or of the last. */
static int page_at(stor_aside_t *aside, bool last, uint64_t *ret_page)
{
    WT_CURSOR *cursor = NULL;
    WT_ITEM key;
    row_t row;
    int ret = rows_open(aside, &cursor);
    if (ret == 0)
        ret = last ? cursor->prev(cursor) : cursor->next(cursor);
    if (ret == 0 && (ret = key_read(cursor, &row, &key)) == 0)
        *ret_page = row.page;
    if (cursor != NULL)
        (void)cursor->close(cursor); /* a reading cursor */
    return ret;
}

uint64_t stor_aside_mark(stor_aside_t *aside)
{
    uint64_t page = 0;
    int ret = page_at(aside, true, &page);
    return ret == 0 ? page : ret == WT_NOTFOUND ? 0 : UINT64_MAX;
}

bool stor_aside_has(stor_aside_t *aside, uint64_t mark)
{
    uint64_t page = 0;
    if (mark == 0)
        return false;
    int ret = page_at(aside, false, &page);
    return ret == 0 ? page <= mark : ret != WT_NOTFOUND;
}

static bool is_stuck(const stor_aside_t *aside, uint32_t id)
{
    for (uint32_t i = 0; i < aside->stuck_count; i++)
        if (aside->stuck[i] == id)
            return true;
    return false;
}

static bool is_stopped(const stor_aside_t *aside)
{
    return aside->stopped != NULL && aside->stopped(aside->context);
}

static int witness_take(stor_aside_t *aside, const row_t *row, const WT_ITEM *key)
{
    aside->witness.page = row->page;
    aside->witness.id = row->id;
    aside->witness.counter = row->counter;
    vd_buf_clear(&aside->witness.key);
    return vd_buf_append(&aside->witness.key, key->data, key->size) == VD_OK ? 0 : ENOMEM;
}

/* The first row up to the mark that no age removes, of a table that can still be closed; without
 * one, and before any table was closed, the first at all. *ret_any: rows are there; *ret_stuck:
 * and nothing that can be done moves them. */
static int look(stor_aside_t *aside, uint64_t mark, bool *ret_any, bool *ret_stuck)
{
    WT_CURSOR *cursor = NULL;
    row_t row;
    WT_ITEM key, value;
    uint64_t page = 0, rows = 0, txn, start, durable;
    uint8_t state, type;
    bool stuck = false, ages = false;
    vd_buf_t last;
    vd_buf_init(&last, ASIDE_KEY_MAX);
    aside->witness.id = 0;
    *ret_any = *ret_stuck = false;
    int ret = rows_open(aside, &cursor);
    while (ret == 0 && (ret = cursor->next(cursor)) == 0 &&
           (ret = key_read(cursor, &row, &key)) == 0 && row.page <= mark) {
        *ret_any = true;
        if (++rows % ASIDE_LOOK_ROWS == 0 && is_stopped(aside))
            break;
        vd_slice_t seen = vd_buf_slice(&last);
        if (row.page == page && seen.len == key.size && memcmp(seen.data, key.data, key.size) == 0)
            continue; /* an older version of the same record */
        page = row.page;
        vd_buf_clear(&last);
        if (vd_buf_append(&last, key.data, key.size) != VD_OK)
            ret = ENOMEM;
        if (ret == 0)
            ret = cursor->get_value(cursor, &txn, &start, &durable, &state, &type, &value);
        if (ret != 0)
            break;
        bool ages_out = type == ASIDE_BIRTHMARK;
        ages = ages || ages_out;
        if (!ages_out && !is_stuck(aside, row.id)) {
            ret = witness_take(aside, &row, &key);
            break;
        }
        stuck = stuck || !ages_out;
        if (aside->witness.id == 0 && aside->swept_to < mark && !is_stuck(aside, row.id))
            ret = witness_take(aside, &row, &key);
    }
    if (cursor != NULL)
        (void)cursor->close(cursor); /* a reading cursor */
    vd_buf_done(&last);
    *ret_stuck = aside->witness.id == 0 && (stuck || (ages && aside->swept_to < mark));
    return ret == WT_NOTFOUND ? 0 : ret;
}

static bool witness_is_gone(stor_aside_t *aside)
{
    WT_CURSOR *cursor = NULL;
    const row_t *witness = &aside->witness;
    vd_slice_t key = vd_buf_slice(&witness->key);
    WT_ITEM item = {.data = key.data, .size = key.len};
    int ret = rows_open(aside, &cursor);
    if (ret == 0) {
        cursor->set_key(cursor, witness->page, witness->id, witness->counter, &item);
        ret = cursor->search(cursor);
    }
    if (cursor != NULL)
        (void)cursor->close(cursor); /* a reading cursor */
    return ret == WT_NOTFOUND;
}

/* ---- the sweep ---- */

/* WiredTiger's sweep looks at the lookaside table when it wakes and transactions have ended since;
 * with the switch on each time, else at most each two seconds. No checkpoint of its own meanwhile:
 * a table can't be closed during one. */
static int sweep_hurry(stor_aside_t *aside, bool hurry, vd_error_t *err)
{
    WT_CONNECTION *conn = aside->engine->conn;
    int rc = stor_engine_checkpoints_stop(aside->engine, hurry, err);
    if (rc != VD_OK && hurry)
        return rc;
    pthread_mutex_lock(&aside->engine->admin_lock);
    stor_wt_message_clear();
    int ret = conn->reconfigure(conn, hurry ? "timing_stress_for_test=[aggressive_sweep]"
                                            : "timing_stress_for_test=[]");
    pthread_mutex_unlock(&aside->engine->admin_lock);
    return rc != VD_OK || ret == 0 ? rc : stor_wt_error(ret, err, "the sweep's pace");
}

/* Is a transaction, too. */
static int sweep_wake(stor_aside_t *aside)
{
    WT_SESSION *session = aside->session;
    int ret = session->create(session, ASIDE_DECOY_URI, "key_format=u,value_format=u");
    if (ret == 0)
        ret = session->drop(session, ASIDE_DECOY_URI, "checkpoint_wait=false");
    nap(ASIDE_PAUSE_US);
    return ret == EBUSY ? 0 : ret; /* a checkpoint has it: the next one drops it */
}

/* All tables are open: what ages goes. */
static int sweep_aged(stor_aside_t *aside, uint64_t mark)
{
    uint64_t until = vd_monotonic_ms() + ASIDE_SWEEP_MS, before = 0;
    int ret = 0;
    for (int idle = 0; ret == 0 && idle < ASIDE_SWEEPS_IDLE && vd_monotonic_ms() < until &&
                       !is_stopped(aside) && stor_aside_has(aside, mark);) {
        uint64_t count = stor_aside_count(aside);
        idle = count == before ? idle + 1 : 0;
        before = count;
        ret = sweep_wake(aside);
    }
    return ret;
}

/* ---- a table ---- */

/* False: it has none (dropped), or one that can't be closed. */
static int table_find(stor_aside_t *aside, uint32_t id, char name[STOR_TABLE_NAME_MAX_BYTES + 1],
                      bool *ret_own)
{
    WT_CURSOR *cursor = NULL;
    char part[24];
    const char *uri = NULL, *config = NULL;
    WT_SESSION *session = aside->session;
    (void)snprintf(part, sizeof part, ",id=%" PRIu32 ",", id);
    name[0] = '\0';
    *ret_own = false;
    int ret = session->open_cursor(session, "metadata:", NULL, NULL, &cursor);
    while (ret == 0 && (ret = cursor->next(cursor)) == 0) {
        ret = cursor->get_key(cursor, &uri);
        if (ret == 0)
            ret = cursor->get_value(cursor, &config);
        if (ret != 0 || strncmp(uri, "file:", 5) != 0 || strstr(config, part) == NULL)
            continue;
        size_t len = strlen(uri + 5);
        *ret_own = strcmp(uri, STOR_OWN_TABLE_URI) == 0 || strncmp(uri + 5, "WiredTiger", 10) == 0;
        if (!*ret_own && len > 3 && len - 3 <= STOR_TABLE_NAME_MAX_BYTES)
            (void)snprintf(name, STOR_TABLE_NAME_MAX_BYTES + 1, "%.*s", (int)(len - 3), uri + 5);
        break;
    }
    if (cursor != NULL)
        (void)cursor->close(cursor); /* a reading cursor */
    return ret == WT_NOTFOUND ? 0 : ret;
}

/* Transactions that were open at the last call still are: old snapshots, or about to be. */
static bool long_ones(stor_aside_t *aside)
{
    stor_engine_t *engine = aside->engine;
    uint64_t now_ms = vd_monotonic_ms();
    bool any = now_ms - aside->sampled_ms > ASIDE_SAMPLE_MS; /* not known yet */
    aside->sampled_ms = now_ms;
    pthread_mutex_lock(&engine->sessions_lock);
    for (uint32_t slot = 0; slot < engine->options.sessions_max; slot++) {
        const stor_session_t *session = engine->slots[slot];
        uint64_t now = session == NULL || atomic_load(&session->busy) == 0
                           ? 0
                           : atomic_load(&session->counts.begins);
        any = any || (now != 0 && now == aside->begins[slot]);
        aside->begins[slot] = now;
    }
    pthread_mutex_unlock(&engine->sessions_lock);
    return any;
}

static bool any_busy(stor_engine_t *engine)
{
    bool any = false;
    pthread_mutex_lock(&engine->sessions_lock);
    for (uint32_t slot = 0; slot < engine->options.sessions_max && !any; slot++)
        any = engine->slots[slot] != NULL && atomic_load(&engine->slots[slot]->busy) != 0;
    pthread_mutex_unlock(&engine->sessions_lock);
    return any;
}

/* EBUSY: not in that time. */
static int table_close(stor_aside_t *aside, const char *name, const char *uri, uint64_t limit_ms)
{
    stor_engine_t *engine = aside->engine;
    uint64_t until = vd_monotonic_ms() + limit_ms;
    int ret = EBUSY;
    begins_hold(engine, true);
    while (any_busy(engine) && vd_monotonic_ms() < until)
        nap(ASIDE_DRAIN_US);
    until = vd_monotonic_ms() + limit_ms;
    table_hold(engine, name);
    while (atomic_load(&engine->hold.opening) != 0 && vd_monotonic_ms() < until)
        nap(ASIDE_DRAIN_US);
    if (atomic_load(&engine->hold.opening) == 0)
        stor_sessions_notify(engine, name, STOR_LET_GO_CLOSE);
    while (atomic_load(&engine->hold.opening) == 0 &&
           (ret = aside->session->alter(aside->session, uri, "access_pattern_hint=none")) ==
               EBUSY && /* says nothing new; closes it */
           vd_monotonic_ms() < until)
        nap(ASIDE_DRAIN_US);
    begins_hold(engine, false);
    return ret;
}

/* Closed and held until the sweep has taken note. */
static int table_sweep(stor_aside_t *aside, const char *name, vd_error_t *err)
{
    stor_engine_t *engine = aside->engine;
    char uri[STOR_TABLE_NAME_MAX_BYTES + 16];
    uint64_t limit_ms = (uint64_t)ASIDE_CLOSE_MIN_MS << aside->tries;
    bool gone = false;
    int rc = stor_table_uri(name, uri, err);
    if (rc != VD_OK)
        return rc;
    if (limit_ms < ASIDE_CLOSE_MAX_MS)
        aside->tries++;
    uint64_t mark = stor_aside_mark(aside);
    stor_rewrite_keep_out(engine, name);
    pthread_mutex_lock(&engine->admin_lock);
    stor_wt_message_clear();
    uint64_t begun = vd_monotonic_ms();
    int ret = table_close(aside, name, uri, limit_ms);
    uint64_t held_ms = ASIDE_HELD_MS + stor_aside_count(aside) / ASIDE_ROWS_PER_MS;
    uint64_t until =
        vd_monotonic_ms() + (held_ms < ASIDE_HELD_MAX_MS ? held_ms : ASIDE_HELD_MAX_MS);
    bool closed = ret == 0;
    uint64_t closed_ms = vd_monotonic_ms();
    while (ret == 0 && !(gone = witness_is_gone(aside)) && vd_monotonic_ms() < until)
        ret = sweep_wake(aside);
    table_hold(engine, "");
    pthread_mutex_unlock(&engine->admin_lock);
    stor_rewrite_let_in(engine, name);
    if (closed && gone) {
        aside->tries = 0;
        aside->swept_to = mark != UINT64_MAX ? mark : aside->witness.page;
    } else if (closed && aside->stuck_count < ASIDE_STUCK_MAX) {
        aside->stuck[aside->stuck_count++] = aside->witness.id;
    }
    if (closed)
        vd_log(gone ? VD_LOG_INFO : VD_LOG_WARN, "a table was closed for its old versions",
               "table=%s swept=%d closing_ms=%" PRIu64 " held_ms=%" PRIu64, name, gone,
               closed_ms - begun, vd_monotonic_ms() - closed_ms);
    return ret == 0 || ret == EBUSY || ret == ENOENT ? VD_OK : stor_wt_error(ret, err, name);
}

static int free_try(stor_aside_t *aside, uint64_t mark, bool *ret_stuck, vd_error_t *err)
{
    char name[STOR_TABLE_NAME_MAX_BYTES + 1];
    bool any = false, own = false;
    int ret = aside->swept_to > 0 ? sweep_aged(aside, mark) : 0;
    if (ret == 0)
        ret = look(aside, mark, &any, ret_stuck);
    if (ret == 0 && aside->witness.id != 0)
        ret = table_find(aside, aside->witness.id, name, &own);
    if (ret != 0)
        return stor_wt_error(ret, err, "the lookaside table");
    if (aside->witness.id == 0)
        return VD_OK;
    if (own && aside->stuck_count < ASIDE_STUCK_MAX)
        aside->stuck[aside->stuck_count++] = aside->witness.id;
    if (name[0] != '\0')
        return table_sweep(aside, name, err);
    ret = sweep_wake(aside); /* dropped: the sweep knows */
    return ret == 0 ? VD_OK : stor_wt_error(ret, err, "waking the sweep");
}

int stor_aside_free(stor_aside_t *aside, uint64_t mark, bool (*stopped)(const void *context),
                    const void *context, bool *ret_stuck, vd_error_t *err)
{
    *ret_stuck = false;
    aside->stopped = stopped;
    aside->context = context;
    if (aside->mark != mark) { /* what was stuck may have been left by what came since */
        aside->mark = mark;
        aside->tries = aside->waited = aside->stuck_count = 0;
    }
    if (long_ones(aside) && ++aside->waited < ASIDE_LONG_TRIES)
        return VD_OK;
    aside->waited = 0;
    int rc = sweep_hurry(aside, true, err);
    if (rc == VD_OK)
        rc = free_try(aside, mark, ret_stuck, err);
    int after = sweep_hurry(aside, false, rc == VD_OK ? err : NULL);
    return rc != VD_OK ? rc : after;
}
