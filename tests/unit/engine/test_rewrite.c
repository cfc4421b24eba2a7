/* tests/unit/engine/test_rewrite.c — re-encryption in the engine: passes until no block of the old
 * key is left, the proof, a copy that opens without it, and crashes at every point. */
#include "libcommon/base/fault.h"
#include "libcommon/base/list.h"
#include "tests/unit/engine/engine_support.h"
#include "veddb-storaged/engine/checkpoint.h"
#include "veddb-storaged/engine/rewrite.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>

#define PASSES_MAX 12

/* The first byte counts up: as the epoch of an envelope. */
static bool flip_first(const char *table, vd_slice_t key, vd_slice_t value, vd_buf_t *out)
{
    (void)table, (void)key;
    if (vd_buf_append_slice(out, value) != VD_OK)
        return false;
    if (value.len > 0)
        ((uint8_t *)vd_buf_slice(out).data)[0]++;
    return true;
}

static void key_bytes(uint8_t number, uint8_t id[STOR_KEY_ID_BYTES], uint8_t key[STOR_KEY_BYTES])
{
    memset(id, 0, STOR_KEY_ID_BYTES);
    memset(key, 0, STOR_KEY_BYTES);
    id[0] = key[0] = number;
}

static int key_put(place_t *place, uint8_t number, stor_key_state_t state)
{
    uint8_t id[STOR_KEY_ID_BYTES], key[STOR_KEY_BYTES];
    key_bytes(number, id, key);
    return stor_keys_put_version(place->keys, id, key, state, number, &place->err);
}

/* Only these keys, the last of them active. */
static void keys_have(place_t *place, int first, int last)
{
    stor_keys_destroy(&place->keys);
    place->keys = stor_keys_create();
    place->options.keys = place->keys;
    for (int i = first; i <= last; i++)
        if (key_put(place, (uint8_t)i, i == last ? STOR_KEY_ACTIVE : STOR_KEY_DECRYPT_ONLY) !=
            VD_OK)
            abort();
}

static int key_switch(place_t *place, uint8_t number)
{
    uint8_t id[STOR_KEY_ID_BYTES], key[STOR_KEY_BYTES];
    key_bytes(number, id, key);
    int rc = stor_engine_key_note(place->engine, id, number, &place->err);
    return rc == VD_OK ? key_put(place, number, STOR_KEY_ACTIVE) : rc;
}

/* ---- data ---- */

typedef struct {
    const char *name;
    int records;
    size_t key_bytes, value_bytes;
} shape_t;
static const shape_t shapes[] = {
    {"c-1", 3000, 8, 300},  /* many blocks */
    {"c-2", 3, 8, 1500000}, /* one record is a block */
    {"c-3", 40, 7000, 20},  /* long keys */
    {"i-1", 4000, 30, 3},   {"empty", 0, 0, 0}, {"one", 1, 3, 10}, {"j-1", 500, 12, 1000},
};

static void record(const shape_t *shape, int i, char *key, char *value)
{
    int len = snprintf(key, 16, "%06d", i);
    memset(key + len, 'k', shape->key_bytes > (size_t)len ? shape->key_bytes - (size_t)len : 0);
    key[shape->key_bytes > (size_t)len ? shape->key_bytes : (size_t)len] = 0;
    memset(value, 'a' + i % 20, shape->value_bytes);
    char digits[16];
    int n = snprintf(digits, sizeof digits, "%08d", i);
    if (shape->value_bytes > 12)
        memcpy(value + 1, digits, (size_t)n);
}

static int fill(place_t *place)
{
    char *key = malloc(10000), *value = malloc(2000000);
    stor_session_t *session = NULL;
    stor_cursor_t *cursor;
    int rc = stor_session_open(place->engine, &session, &place->err);
    for (size_t s = 0; rc == VD_OK && s < VD_COUNT_OF(shapes); s++) {
        rc = stor_engine_table_create(place->engine, shapes[s].name, false, &place->err);
        if (rc == VD_OK)
            rc = stor_cursor_open(session, shapes[s].name, &cursor, &place->err);
        for (int i = 0; rc == VD_OK && i < shapes[s].records; i++) {
            record(&shapes[s], i, key, value);
            rc = stor_txn_begin(session, &place->err);
            if (rc == VD_OK)
                rc = stor_cursor_put(cursor, vd_slice_str(key),
                                     vd_slice(value, shapes[s].value_bytes), &place->err);
            if (rc == VD_OK)
                rc = stor_txn_commit(session, &place->err);
        }
    }
    stor_session_close(&session);
    free(key);
    free(value);
    return rc;
}

/* All records are there, but for the first byte as they were written. */
static const char *check(place_t *place)
{
    char *key = malloc(10000), *value = malloc(2000000);
    const char *wrong = NULL;
    stor_session_t *session = NULL;
    stor_cursor_t *cursor;
    if (stor_session_open(place->engine, &session, &place->err) != VD_OK)
        wrong = "no session";
    for (size_t s = 0; wrong == NULL && s < VD_COUNT_OF(shapes); s++) {
        vd_slice_t k, v;
        int i = 0;
        if (stor_txn_begin(session, &place->err) != VD_OK ||
            stor_cursor_open(session, shapes[s].name, &cursor, &place->err) != VD_OK)
            wrong = shapes[s].name;
        for (; wrong == NULL && stor_cursor_next(cursor, true, &k, &v, NULL) == VD_OK; i++) {
            record(&shapes[s], i, key, value);
            if (!vd_slice_equal(k, vd_slice_str(key)) || v.len != shapes[s].value_bytes ||
                memcmp(v.data + 1, value + 1, v.len - 1) != 0)
                wrong = shapes[s].name;
        }
        if (wrong == NULL && i != shapes[s].records)
            wrong = shapes[s].name;
        stor_txn_rollback(session);
    }
    stor_session_close(&session);
    free(key);
    free(value);
    return wrong;
}

/* ---- the passes ---- */

typedef struct {
    place_t *place;
    stor_rewrite_t *rewrite;
    stor_rewrite_counts_t *counts;
    bool write;
} pass_t;

static int pass_table(const char *table, void *context)
{
    pass_t *pass = context;
    return stor_rewrite_table(pass->rewrite, table, pass->write, pass->counts, &pass->place->err);
}

static int pass_all(place_t *place, stor_rewrite_t *rewrite, bool write,
                    stor_rewrite_counts_t *counts)
{
    pass_t pass = {place, rewrite, counts, write};
    memset(counts, 0, sizeof *counts);
    int rc = stor_rewrite_checkpoint(rewrite, &place->err);
    if (rc == VD_OK)
        rc = stor_engine_tables(place->engine, pass_table, &pass, &place->err);
    if (rc == VD_OK)
        rc = stor_rewrite_own(rewrite, counts, &place->err);
    return rc;
}

/* To the end; VD_ERR_INTERNAL when the passes do not end. */
static int rotate(place_t *place, bool (*flip)(const char *, vd_slice_t, vd_slice_t, vd_buf_t *),
                  int *ret_passes)
{
    stor_rewrite_t *rewrite = NULL;
    stor_rewrite_counts_t *counts = calloc(1, sizeof *counts);
    stor_rewrite_options_t options = {.flip = flip};
    int passes = 0;
    int rc = stor_rewrite_open(place->engine, &options, &rewrite, &place->err);
    if (rc == VD_OK)
        rc = stor_rewrite_small(rewrite, &place->err);
    for (counts->old_blocks = 1; rc == VD_OK && counts->old_blocks > 0; passes++) {
        rc = pass_all(place, rewrite, true, counts);
        if (rc == VD_OK && passes == PASSES_MAX)
            rc = vd_error_set(&place->err, VD_ERR_INTERNAL, "%llu blocks stay",
                              (unsigned long long)counts->old_blocks);
    }
    for (int tries = 0; rc == VD_OK; tries++) {
        memset(counts, 0, sizeof *counts);
        if (tries % 20 == 0)
            rc = stor_rewrite_log_renew(rewrite, &place->err);
        if (rc == VD_OK)
            rc = stor_rewrite_log_count(rewrite, counts, &place->err);
        if (rc != VD_OK || counts->old_blocks == 0)
            break;
        usleep(20000);
        if (tries > 500)
            rc = vd_error_set(&place->err, VD_ERR_INTERNAL, "the log stays");
    }
    /* A table that somebody else has for himself at the moment is not walked: again. */
    bool again = true;
    for (int tries = 0; rc == VD_OK && again && tries < 100; tries++) {
        rc = pass_all(place, rewrite, false, counts);
        stor_rewrite_small_count(rewrite, counts);
        again = counts->busy && counts->old_blocks == 0;
    }
    if (rc == VD_OK && (counts->old_blocks != 0 || counts->busy))
        rc = vd_error_set(&place->err, VD_ERR_INTERNAL, "the proof fails: %llu blocks, busy %d",
                          (unsigned long long)counts->old_blocks, counts->busy);
    if (ret_passes != NULL)
        *ret_passes = passes;
    stor_rewrite_close(&rewrite);
    free(counts);
    return rc;
}

static int key_end(place_t *place, uint8_t number)
{
    uint8_t id[STOR_KEY_ID_BYTES], key[STOR_KEY_BYTES];
    key_bytes(number, id, key);
    int rc = stor_engine_key_forget(place->engine, id, &place->err);
    return rc == VD_OK ? stor_keys_retire(place->keys, id, &place->err) : rc;
}

static int verify_visit(const char *table, void *context)
{
    place_t *place = context;
    return stor_engine_table_verify(place->engine, table, &place->err);
}

/* A folder opens with key `number` alone, and has everything. No other engine is open: the process
 * has one. */
static void has_all(place_t *place, int number)
{
    keys_have(place, number, number);
    cr_assert_eq(place_open(place, false), VD_OK, "%s", place->err.message);
    cr_assert_eq(stor_engine_tables(place->engine, verify_visit, place, &place->err), VD_OK, "%s",
                 place->err.message);
    const char *wrong = check(place);
    cr_assert_null(wrong, "table %s", wrong);
    cr_assert_eq(place_close(place), VD_OK, "%s", place->err.message);
}

/* ---- tests ---- */

Test(rewrite, everything_moves_to_the_new_key)
{
    static const bool reopened[] = {false, true};
    for (size_t i = 0; i < VD_COUNT_OF(reopened); i++) {
        place_t place, copy;
        int passes = 0;
        place_init(&place);
        keys_have(&place, 1, 1);
        cr_assert_eq(place_open(&place, true), VD_OK, "%s", place.err.message);
        cr_assert_eq(fill(&place), VD_OK, "%s", place.err.message);
        if (reopened[i]) { /* nothing is in memory */
            cr_assert_eq(place_close(&place), VD_OK);
            keys_have(&place, 1, 1);
            cr_assert_eq(place_open(&place, false), VD_OK);
        }
        cr_assert_eq(key_switch(&place, 2), VD_OK);
        cr_assert_eq(rotate(&place, flip_first, &passes), VD_OK, "%s", place.err.message);
        cr_assert_geq(passes, 2, "the first pass can't have seen none");
        cr_assert_eq(key_end(&place, 1), VD_OK, "%s", place.err.message);
        const char *wrong = check(&place);
        cr_assert_null(wrong, "table %s", wrong);
        place_copy(&place, &copy); /* of a folder in use, as after a crash */
        cr_assert_eq(place_close(&place), VD_OK, "%s", place.err.message);
        has_all(&place, 2);
        has_all(&copy, 2);
        place_done(&copy);
        place_done(&place);
    }
}

Test(rewrite, a_second_walk_of_a_checkpoint_is_no_proof)
{
    place_t place;
    stor_rewrite_t *rewrite = NULL;
    stor_rewrite_options_t options = {.flip = flip_first};
    stor_rewrite_counts_t *counts = calloc(1, sizeof *counts);
    place_init(&place);
    keys_have(&place, 1, 1);
    cr_assert_eq(place_open(&place, true), VD_OK, "%s", place.err.message);
    cr_assert_eq(fill(&place), VD_OK, "%s", place.err.message);
    cr_assert_eq(stor_engine_checkpoint(place.engine, &place.err), VD_OK);
    cr_assert_eq(key_switch(&place, 2), VD_OK);
    cr_assert_eq(stor_rewrite_open(place.engine, &options, &rewrite, &place.err), VD_OK);
    cr_assert_eq(stor_rewrite_checkpoint(rewrite, &place.err), VD_OK);
    cr_assert_eq(stor_rewrite_table(rewrite, "c-1", false, counts, &place.err), VD_OK);
    uint64_t first = counts->old_blocks;
    cr_assert_gt(first, 20);
    cr_assert_eq(counts->by_key[0], first, "they are the first key's");
    /* It makes a fresh one by itself, rather than saying zero. */
    cr_assert_eq(stor_rewrite_table(rewrite, "c-1", false, counts, &place.err), VD_OK);
    cr_assert_geq(counts->old_blocks, 2 * first - 2);
    stor_rewrite_close(&rewrite);
    free(counts);
    place_done(&place);
}

/* Values that can't be flipped: written as they are. */
Test(rewrite, what_cant_be_flipped_moves_too)
{
    place_t place;
    place_init(&place);
    keys_have(&place, 1, 1);
    cr_assert_eq(place_open(&place, true), VD_OK, "%s", place.err.message);
    cr_assert_eq(fill(&place), VD_OK, "%s", place.err.message);
    cr_assert_eq(place_close(&place), VD_OK);
    keys_have(&place, 1, 2);
    cr_assert_eq(place_open(&place, false), VD_OK, "%s", place.err.message);
    cr_assert_eq(rotate(&place, NULL, NULL), VD_OK, "%s", place.err.message);
    cr_assert_eq(key_end(&place, 1), VD_OK);
    cr_assert_eq(place_close(&place), VD_OK);
    has_all(&place, 2);
    place_done(&place);
}

/* Blocks that a slice's checkpoint frees are used by the next one: a file never comes near to
 * twice its size. */
Test(rewrite, files_grow_by_slices)
{
    place_t place;
    stor_session_t *session = NULL;
    stor_cursor_t *cursor;
    stor_rewrite_t *rewrite = NULL;
    stor_rewrite_counts_t *counts = calloc(1, sizeof *counts);
    static char value[2000];
    uint64_t before = 0, after = 0, ignored;
    stor_rewrite_options_t options = {.flip = flip_first, .slice_bytes = 512 << 10};
    place_init(&place);
    keys_have(&place, 1, 1);
    cr_assert_eq(place_open(&place, true), VD_OK, "%s", place.err.message);
    cr_assert_eq(stor_engine_table_create(place.engine, "c-1", false, &place.err), VD_OK);
    cr_assert_eq(stor_session_open(place.engine, &session, &place.err), VD_OK);
    cr_assert_eq(stor_cursor_open(session, "c-1", &cursor, &place.err), VD_OK);
    for (int i = 0; i < 6000;) {
        cr_assert_eq(stor_txn_begin(session, &place.err), VD_OK);
        for (int k = 0; k < 500; k++, i++) {
            char key[16];
            (void)snprintf(key, sizeof key, "%06d", i);
            memset(value, 'a' + i % 20, sizeof value);
            cr_assert_eq(stor_cursor_put(cursor, vd_slice_str(key), vd_slice(value, sizeof value),
                                         &place.err),
                         VD_OK);
        }
        cr_assert_eq(stor_txn_commit(session, &place.err), VD_OK);
    }
    stor_session_close(&session);
    cr_assert_eq(place_close(&place), VD_OK); /* what is in memory is clean, and the file whole */
    cr_assert_eq(place_open(&place, false), VD_OK);
    cr_assert_eq(stor_engine_table_size(place.engine, "c-1", &before, &ignored, NULL), VD_OK);
    cr_assert_gt(before, 8 << 20);
    cr_assert_eq(key_switch(&place, 2), VD_OK);
    cr_assert_eq(stor_rewrite_open(place.engine, &options, &rewrite, &place.err), VD_OK);
    cr_assert_eq(pass_all(&place, rewrite, true, counts), VD_OK, "%s", place.err.message);
    cr_assert_gt(counts->rewritten, 100);
    cr_assert_eq(pass_all(&place, rewrite, true, counts), VD_OK, "%s", place.err.message);
    stor_rewrite_close(&rewrite);
    /* Files shrink at their end alone, at a checkpoint: this is near to the most that it had. */
    cr_assert_eq(stor_engine_table_size(place.engine, "c-1", &after, &ignored, NULL), VD_OK);
    cr_expect_lt((double)after, 1.5 * (double)before, "%llu from %llu", (unsigned long long)after,
                 (unsigned long long)before);
    free(counts);
    cr_assert_eq(place_close(&place), VD_OK);
    place_done(&place);
}

Test(rewrite, a_keyring_without_a_key_of_the_data_is_refused_by_version)
{
    place_t place;
    uint8_t id[STOR_KEY_ID_BYTES] = {1};
    place_init(&place);
    keys_have(&place, 1, 1);
    cr_assert_eq(place_open(&place, true), VD_OK, "%s", place.err.message);
    cr_assert_eq(fill(&place), VD_OK, "%s", place.err.message);
    cr_assert_eq(stor_keys_retire(place.keys, id, NULL), VD_ERR_ILLEGAL_OPERATION, "it is active");
    cr_assert_eq(key_switch(&place, 2), VD_OK);
    cr_assert_eq(place_close(&place), VD_OK, "%s", place.err.message);
    keys_have(&place, 2, 2); /* the old one was thrown away too early */
    cr_assert_eq(place_open(&place, false), VD_ERR_KEY_MISSING);
    cr_assert_not_null(strstr(place.err.message, "version 1"), "%s", place.err.message);
    keys_have(&place, 1, 1); /* a keyring of before */
    cr_assert_eq(place_open(&place, false), VD_ERR_KEY_MISSING);
    cr_assert_not_null(strstr(place.err.message, "version 2"), "%s", place.err.message);
    keys_have(&place, 1, 2);
    cr_assert_eq(stor_keys_retire(place.keys, id, NULL), VD_OK);
    cr_assert_eq(place_open(&place, false), VD_ERR_KEY_DESTROYED);
    keys_have(&place, 1, 2);
    cr_assert_eq(place_open(&place, false), VD_OK, "%s", place.err.message);
    place_done(&place);
}

/* ---- beside writers ---- */

typedef struct {
    place_t *place;
    atomic_bool stop;
    atomic_int failed;
    int rounds[4];
} writers_t;

typedef struct {
    writers_t *writers;
    int number;
} writer_t;

/* Counts its own records up, in a table that is made for it, and makes and drops tables. */
static void *writer_run(void *context)
{
    writer_t *writer = context;
    writers_t *writers = writer->writers;
    stor_engine_t *engine = writers->place->engine;
    stor_session_t *session = NULL;
    vd_error_t err = VD_ERROR_INIT;
    if (stor_session_open(engine, &session, &err) != VD_OK)
        abort();
    for (int round = 1; !atomic_load(&writers->stop); round++) {
        stor_cursor_t *cursor;
        char name[32], value[400];
        (void)snprintf(name, sizeof name, "t-%d-%d", writer->number, round);
        if (round % 20 == 0 && (stor_engine_table_create(engine, name, false, &err) != VD_OK ||
                                put_one(session, name, "k", "v", NULL, &err) != VD_OK))
            atomic_fetch_add(&writers->failed, 1);
        if (round % 20 == 10 && round > 20) {
            (void)snprintf(name, sizeof name, "t-%d-%d", writer->number, round - 10);
            stor_engine_table_retire(engine, name);
            either(stor_engine_table_drop(engine, name, NULL)); /* a checkpoint may have it */
        }
        memset(value, 'x', sizeof value);
        (void)snprintf(value, sizeof value, "v%d", round);
        int rc = stor_txn_begin(session, &err);
        if (rc == VD_OK)
            rc = stor_cursor_open(session, "c-w", &cursor, &err);
        for (int i = 0; rc == VD_OK && i < 20; i++) {
            char key[32];
            (void)snprintf(key, sizeof key, "%d-%05d", writer->number, (round * 37 + i) % 2000);
            rc = stor_cursor_put(cursor, vd_slice_str(key), vd_slice(value, sizeof value), &err);
        }
        char key[32];
        (void)snprintf(key, sizeof key, "round-%d", writer->number);
        if (rc == VD_OK)
            rc = stor_cursor_put(cursor, vd_slice_str(key), vd_slice(&round, sizeof round), &err);
        if (rc == VD_OK)
            rc = stor_txn_commit(session, &err);
        else if (stor_txn_active(session))
            stor_txn_rollback(session);
        if (rc == VD_OK)
            writers->rounds[writer->number] = round;
        else if (rc != VD_ERR_WRITE_CONFLICT)
            atomic_fetch_add(&writers->failed, 1);
        vd_error_clear(&err);
        usleep(200);
    }
    stor_session_close(&session);
    return NULL;
}

/* Leaves their bytes alone, but counts: the values of "round" must stay what was written. */
static bool flip_none(const char *table, vd_slice_t key, vd_slice_t value, vd_buf_t *out)
{
    return strcmp(table, "c-w") != 0 && flip_first(table, key, value, out);
}

Test(rewrite, beside_writers_and_tables_that_come_and_go)
{
    place_t place;
    pthread_t threads[2];
    writers_t writers = {.place = &place};
    writer_t each[2] = {{&writers, 0}, {&writers, 1}};
    place_init(&place);
    keys_have(&place, 1, 1);
    cr_assert_eq(place_open(&place, true), VD_OK, "%s", place.err.message);
    cr_assert_eq(fill(&place), VD_OK, "%s", place.err.message);
    cr_assert_eq(stor_engine_table_create(place.engine, "c-w", false, &place.err), VD_OK);
    for (int i = 0; i < 2; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, writer_run, &each[i]), 0);
    for (int i = 0; i < 6000 && (writers.rounds[0] < 100 || writers.rounds[1] < 100); i++)
        usleep(5000);
    cr_assert_eq(key_switch(&place, 2), VD_OK);
    cr_assert_eq(rotate(&place, flip_none, NULL), VD_OK, "%s", place.err.message);
    atomic_store(&writers.stop, true);
    for (int i = 0; i < 2; i++)
        (void)pthread_join(threads[i], NULL);
    cr_assert_eq(atomic_load(&writers.failed), 0);
    cr_assert_eq(key_end(&place, 1), VD_OK);
    cr_assert_eq(place_close(&place), VD_OK, "%s", place.err.message);
    has_all(&place, 2);
    keys_have(&place, 2, 2);
    cr_assert_eq(place_open(&place, false), VD_OK, "%s", place.err.message);
    stor_session_t *session = NULL;
    cr_assert_eq(stor_session_open(place.engine, &session, &place.err), VD_OK);
    for (int i = 0; i < 2; i++) {
        char key[32];
        stor_cursor_t *cursor;
        vd_slice_t value;
        int round = 0;
        (void)snprintf(key, sizeof key, "round-%d", i);
        cr_assert_eq(stor_txn_begin(session, &place.err), VD_OK);
        cr_assert_eq(stor_cursor_open(session, "c-w", &cursor, &place.err), VD_OK);
        cr_assert_eq(stor_cursor_search(cursor, vd_slice_str(key), &value, &place.err), VD_OK);
        memcpy(&round, value.data, sizeof round);
        stor_txn_rollback(session);
        cr_assert_eq(round, writers.rounds[i], "a committed round is lost");
    }
    stor_session_close(&session);
    place_done(&place);
}

/* ---- crashes ---- */

typedef struct {
    place_t *place;
    const char *fault;
} crash_t;

static int crash_child(void *context)
{
    crash_t *crash = context;
    keys_have(crash->place, 1, 2);
    if (place_open(crash->place, false) != VD_OK)
        return 2;
    if (crash->fault != NULL && vd_fault_arm(crash->fault, NULL) != VD_OK)
        return 3;
    if (rotate(crash->place, flip_first, NULL) != VD_OK)
        return 4;
    if (key_end(crash->place, 1) != VD_OK)
        return 5;
    return place_close(crash->place) == VD_OK ? 0 : 6;
}

static int fill_child(void *context)
{
    place_t *place = context;
    keys_have(place, 1, 1);
    if (place_open(place, true) != VD_OK || fill(place) != VD_OK)
        return 1;
    return place_close(place) == VD_OK ? 0 : 2;
}

Test(rewrite, goes_on_after_a_crash_at_every_point)
{
    static const char *const faults[] = {
        "rewrite.before_checkpoint=kill",    "rewrite.after_checkpoint=kill",
        "rewrite.before_commit=kill:skip=3", "rewrite.after_commit=kill",
        "rewrite.after_commit=kill:skip=20", "rewrite.after_checkpoint=kill:skip=1",
        "rewrite.before_log=kill",           "rewrite.before_checkpoint=kill:skip=1",
    };
    place_t place;
    place_init(&place);
    int status = in_child(fill_child, &place);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %d", status);
    for (size_t i = 0; i < VD_COUNT_OF(faults); i++) {
        crash_t crash = {&place, faults[i]};
        status = in_child(crash_child, &crash);
        cr_assert(WIFSIGNALED(status), "%s: status %d", faults[i], status);
    }
    crash_t last = {&place, NULL};
    status = in_child(crash_child, &last);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %d", status);
    has_all(&place, 2);
    place_done(&place);
}
