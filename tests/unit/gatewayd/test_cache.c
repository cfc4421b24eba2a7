/* tests/unit/gatewayd/test_cache.c — which requests get a key; and what the cache gives out,
 * against a table of versions that the test writes. */
#include "libcommon/bson/build.h"
#include "proto/versions.h"
#include "veddb-gatewayd/cache.h"
#include "veddb-gatewayd/reply.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- keys ---- */

typedef struct {
    vd_bb_t bb;
    vd_bson_t body;
} find_t;

/* {find: "c", filter: {_id: 1}, $db: "d"}, open for more. */
static void find_begin(find_t *find, const char *collection, int32_t id)
{
    vd_bb_init(&find->bb, 1 << 16);
    vd_bb_cstr(&find->bb, "find", collection);
    vd_bb_begin_document(&find->bb, "filter");
    vd_bb_int32(&find->bb, "_id", id);
    vd_bb_close(&find->bb);
    vd_bb_cstr(&find->bb, "$db", "d");
}

static bool find_key(find_t *find, gate_cache_key_t *key)
{
    cr_assert_eq(vd_bb_finish(&find->bb, &find->body, NULL), VD_OK);
    bool is = gate_cache_key(find->body, key);
    vd_bb_done(&find->bb);
    return is;
}

static gate_cache_key_t plain_key(int32_t id)
{
    find_t find;
    gate_cache_key_t key;
    find_begin(&find, "c", id);
    cr_assert(find_key(&find, &key));
    return key;
}

static bool same(const gate_cache_key_t *a, const gate_cache_key_t *b)
{
    return a->len == b->len && memcmp(a->bytes, b->bytes, a->len) == 0;
}

static void put_session(vd_bb_t *bb, uint8_t fill)
{
    uint8_t id[16];
    memset(id, fill, sizeof id);
    vd_bb_begin_document(bb, "lsid");
    vd_bb_binary(bb, "id", 4, vd_slice(id, sizeof id));
    vd_bb_close(bb);
}

Test(cache_key, what_changes_nothing_is_left_out)
{
    gate_cache_key_t plain = plain_key(1), other = plain_key(2), key;
    find_t find;
    cr_assert_not(same(&plain, &other));
    find_begin(&find, "c", 1);
    put_session(&find.bb, 7);
    vd_bb_begin_document(&find.bb, "$clusterTime");
    vd_bb_timestamp(&find.bb, "clusterTime", 99);
    vd_bb_close(&find.bb);
    vd_bb_int32(&find.bb, "maxTimeMS", 100);
    cr_assert(find_key(&find, &key));
    cr_assert(same(&plain, &key));
    find_begin(&find, "c2", 1);
    cr_assert(find_key(&find, &key));
    cr_assert_not(same(&plain, &key), "another collection");
    find_begin(&find, "c", 1);
    vd_bb_int32(&find.bb, "limit", 1);
    cr_assert(find_key(&find, &key));
    cr_assert_not(same(&plain, &key), "another form of it");
}

Test(cache_key, read_concern)
{
    static const struct {
        const char *level;
        uint64_t after;
        bool is;
    } cases[] = {
        {"local", 0, true},
        {"majority", 0, true},
        {"available", 0, true},
        {"snapshot", 0, false},
        {"linearizable", 0, false},
        {"local", 77, true},
        {NULL, 77, true},
        {NULL, 0, true},
        {"", 0, false},
    };
    gate_cache_key_t keys[VD_COUNT_OF(cases)], plain = plain_key(1);
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        find_t find;
        find_begin(&find, "c", 1);
        vd_bb_begin_document(&find.bb, "readConcern");
        if (cases[i].level != NULL)
            vd_bb_cstr(&find.bb, "level", cases[i].level);
        if (cases[i].after != 0)
            vd_bb_timestamp(&find.bb, "afterClusterTime", cases[i].after);
        vd_bb_close(&find.bb);
        cr_assert_eq(find_key(&find, &keys[i]), cases[i].is, "%zu", i);
        if (cases[i].is)
            cr_assert_eq(keys[i].after_cluster_time, cases[i].after, "%zu", i);
        cr_assert_not(same(&keys[i], &plain), "%zu", i);
    }
    cr_assert_not(same(&keys[0], &keys[1]), "levels are not mixed");
    cr_assert(same(&keys[0], &keys[5]), "the time stands beside the key");
}

typedef void (*more_t)(vd_bb_t *bb);
#define MORE(name, ...)                                                                            \
    static void name(vd_bb_t *bb)                                                                  \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }
MORE(with_skip, vd_bb_int32(bb, "skip", 1);)
MORE(with_sort, vd_bb_begin_document(bb, "sort"); vd_bb_close(bb);)
MORE(with_hint, vd_bb_cstr(bb, "hint", "_id_");)
MORE(with_comment, vd_bb_cstr(bb, "comment", "x");)
MORE(with_collation, vd_bb_begin_document(bb, "collation"); vd_bb_close(bb);)
MORE(with_let, vd_bb_begin_document(bb, "let"); vd_bb_close(bb);)
MORE(with_txn, vd_bb_int64(bb, "txnNumber", 1);)
MORE(with_unknown, vd_bb_int32(bb, "veddb", 1);)
MORE(with_roles, vd_bb_begin_document(bb, "projection"); vd_bb_cstr(bb, "r", "$$USER_ROLES");
     vd_bb_close(bb);)
MORE(with_meta, vd_bb_begin_document(bb, "projection"); vd_bb_begin_document(bb, "v");
     vd_bb_cstr(bb, "$meta", "version"); vd_bb_close(bb); vd_bb_close(bb);)
MORE(with_long, char text[600]; memset(text, 'a', sizeof text); text[599] = 0;
     vd_bb_begin_document(bb, "projection"); vd_bb_int32(bb, text, 1); vd_bb_close(bb);)
MORE(with_second_filter, vd_bb_begin_document(bb, "filter"); vd_bb_int32(bb, "a", 1);
     vd_bb_close(bb);)

Test(cache_key, everything_else_is_refused)
{
    static const more_t cases[] = {with_skip,      with_sort, with_hint, with_comment,
                                   with_collation, with_let,  with_txn,  with_unknown,
                                   with_roles,     with_meta, with_long, with_second_filter};
    gate_cache_key_t key;
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        find_t find;
        find_begin(&find, "c", 1);
        cases[i](&find.bb);
        cr_assert_not(find_key(&find, &key), "%zu", i);
    }
}

/* One {filter: {...}} after the other, written by hand. */
MORE(filter_in, vd_bb_begin_document(bb, "_id"); vd_bb_begin_array(bb, "$in");
     vd_bb_int32(bb, "0", 1); vd_bb_close(bb); vd_bb_close(bb);)
MORE(filter_more, vd_bb_int32(bb, "_id", 1); vd_bb_int32(bb, "a", 1);)
MORE(filter_other, vd_bb_int32(bb, "a", 1);)
MORE(filter_none, (void)bb;)
MORE(filter_null, vd_bb_null(bb, "_id");)
MORE(filter_array, vd_bb_begin_array(bb, "_id"); vd_bb_close(bb);)

Test(cache_key, only_one_id)
{
    static const more_t cases[] = {filter_in,   filter_more, filter_other,
                                   filter_none, filter_null, filter_array};
    gate_cache_key_t key;
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        find_t find;
        vd_bb_init(&find.bb, 1 << 16);
        vd_bb_cstr(&find.bb, "find", "c");
        vd_bb_begin_document(&find.bb, "filter");
        cases[i](&find.bb);
        vd_bb_close(&find.bb);
        cr_assert_not(find_key(&find, &key), "%zu", i);
    }
    find_t find;
    vd_bb_init(&find.bb, 1 << 16);
    vd_bb_cstr(&find.bb, "count", "c");
    cr_assert_not(find_key(&find, &key));
    vd_bb_init(&find.bb, 1 << 16);
    vd_bb_cstr(&find.bb, "find", "c");
    cr_assert_not(find_key(&find, &key), "no filter");
}

/* ---- the cache ---- */

static const uint8_t boots[2][16] = {{1}, {2}};

typedef struct {
    char path[64];
    vdp_versions_t *table;
    gate_cache_t *cache;
    uint8_t reply[2048];
} place_t;

static void place_table(place_t *place, const uint8_t boot_id[16])
{
    int fd = open(place->path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    cr_assert(fd >= 0 && ftruncate(fd, sizeof *place->table) == 0);
    place->table = mmap(NULL, sizeof *place->table, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    cr_assert_neq(place->table, MAP_FAILED);
    close(fd);
    place->table->epoch = VDP_VERSIONS_ENDED;
    place->table->auth_epoch = 5;
    memcpy(place->table->boot_id, boot_id, 16);
    place->table->magic = VDP_VERSIONS_MAGIC;
}

static void place_open(place_t *place, uint64_t bytes_max)
{
    memset(place, 0, sizeof *place);
    snprintf(place->path, sizeof place->path, "/tmp/vd-cache-XXXXXX");
    int fd = mkstemp(place->path);
    cr_assert(fd >= 0);
    close(fd);
    place_table(place, boots[0]);
    gate_cache_options_t options = {place->path, bytes_max, 1000};
    place->cache = gate_cache_create(&options);
    gate_cache_attach(place->cache, boots[0]);
}

static void place_done(place_t *place)
{
    gate_cache_destroy(&place->cache);
    munmap(place->table, sizeof *place->table);
    unlink(place->path);
}

static void put(place_t *place, int32_t id, uint32_t slot, size_t len)
{
    gate_cache_key_t key = plain_key(id);
    vdp_operation_reply_t reply = {.version_slot = slot + 1,
                                   .version_epoch = place->table->epoch,
                                   .version = place->table->slots[slot]};
    memset(place->reply, id, sizeof place->reply);
    gate_cache_put(place->cache, &key, &reply, vd_slice(place->reply, len));
}

static bool has(place_t *place, int32_t id)
{
    gate_cache_key_t key = plain_key(id);
    gate_cache_question_t question = {.key = &key, .auth_epoch = 5, .newest = 100};
    vd_slice_t reply = gate_cache_find(place->cache, &question);
    cr_assert(reply.len == 0 || reply.data[0] == (uint8_t)id);
    return reply.len != 0;
}

Test(cache, serves_what_has_not_changed)
{
    place_t place;
    place_open(&place, 1 << 20);
    cr_assert_not(has(&place, 1));
    put(&place, 1, 10, 100);
    put(&place, 2, 20, 100);
    cr_assert(has(&place, 1) && has(&place, 2));
    vdp_version_begin(&place.table->slots[10]);
    cr_assert_not(has(&place, 1), "a change is under way");
    vdp_version_end(&place.table->slots[10]);
    cr_assert_not(has(&place, 1), "and has ended");
    cr_assert(has(&place, 2));
    put(&place, 1, 10, 100);
    cr_assert(has(&place, 1));
    const gate_cache_stats_t *stats = gate_cache_stats(place.cache);
    cr_assert_eq(stats->invalidations, 1);
    cr_assert_eq(stats->hits, 4);
    cr_assert_eq(stats->misses, 3);
    cr_assert_eq(stats->entries, 2);
    place_done(&place);
}

Test(cache, keeps_nothing_that_is_uncertain)
{
    place_t place;
    place_open(&place, 1 << 20);
    gate_cache_key_t key = plain_key(1);
    vdp_operation_reply_t reply = {.version_slot = 11, .version_epoch = place.table->epoch};
    vd_slice_t body = vd_slice(place.reply, 100);
    vdp_version_begin(&place.table->slots[10]);
    put(&place, 1, 10, 100);
    cr_assert_not(has(&place, 1), "pending when it was read");
    gate_cache_put(place.cache, &key, &reply, body);
    vdp_version_end(&place.table->slots[10]);
    cr_assert_not(has(&place, 1), "pending when it came");
    gate_cache_put(place.cache, &key, &reply, body);
    cr_assert_not(has(&place, 1), "changed before it came");
    reply.version_slot = 0;
    gate_cache_put(place.cache, &key, &reply, body);
    reply.version_slot = VDP_VERSIONS_SLOTS + 1;
    gate_cache_put(place.cache, &key, &reply, body);
    cr_assert_not(has(&place, 1), "no slot");
    cr_assert_eq(gate_cache_stats(place.cache)->entries, 0);
    place_done(&place);
}

Test(cache, everything_changes_with_the_epoch)
{
    place_t place;
    place_open(&place, 1 << 20);
    put(&place, 1, 10, 100);
    cr_assert(has(&place, 1));
    vdp_version_begin(&place.table->epoch);
    cr_assert_not(has(&place, 1));
    put(&place, 1, 10, 100);
    cr_assert_not(has(&place, 1));
    vdp_version_end(&place.table->epoch);
    cr_assert_not(has(&place, 1));
    put(&place, 1, 10, 100);
    cr_assert(has(&place, 1));
    place_done(&place);
}

Test(cache, another_storage)
{
    place_t place;
    place_open(&place, 1 << 20);
    put(&place, 1, 10, 100);
    gate_cache_attach(place.cache, boots[0]);
    cr_assert(has(&place, 1), "the same says again who it is");
    gate_cache_attach(place.cache, boots[1]);
    cr_assert_not(has(&place, 1), "its table is not there yet");
    cr_assert_not(gate_cache_wants(place.cache));
    munmap(place.table, sizeof *place.table);
    unlink(place.path);
    place_table(&place, boots[1]);
    gate_cache_attach(place.cache, boots[1]);
    cr_assert(gate_cache_wants(place.cache));
    cr_assert_not(has(&place, 1));
    put(&place, 1, 10, 100);
    cr_assert(has(&place, 1));
    place_done(&place);
}

Test(cache, privileges_times_and_sessions)
{
    place_t place;
    place_open(&place, 1 << 20);
    put(&place, 1, 10, 100);
    gate_cache_key_t key = plain_key(1);
    static const uint8_t lsid[16] = {9};
    gate_cache_question_t ask = {.key = &key, .auth_epoch = 4, .newest = 100, .now_ms = 50};
    cr_assert_eq(gate_cache_find(place.cache, &ask).len, 0, "privileges of yesterday");
    ask.auth_epoch = 5;
    cr_assert_neq(gate_cache_find(place.cache, &ask).len, 0);
    key.after_cluster_time = 101;
    cr_assert_eq(gate_cache_find(place.cache, &ask).len, 0, "later than what we know of");
    key.after_cluster_time = 100;
    cr_assert_neq(gate_cache_find(place.cache, &ask).len, 0);
    ask.lsid = lsid;
    cr_assert_eq(gate_cache_find(place.cache, &ask).len, 0, "storage has not heard of it");
    cr_assert_neq(gate_cache_find(place.cache, &ask).len, 0);
    ask.now_ms += 999;
    cr_assert_neq(gate_cache_find(place.cache, &ask).len, 0);
    ask.now_ms += 1;
    cr_assert_eq(gate_cache_find(place.cache, &ask).len, 0, "nor for long");
    cr_assert_neq(gate_cache_find(place.cache, &ask).len, 0);
    place_done(&place);
}

Test(cache, memory_is_bounded_and_the_hot_stay)
{
    enum { MAX = 64 * 1024, MANY = 2000 };
    place_t place;
    place_open(&place, MAX);
    const gate_cache_stats_t *stats = gate_cache_stats(place.cache);
    put(&place, 1, 1, 1000);
    for (int32_t i = 2; i < MANY; i++) {
        cr_assert(has(&place, 1), "%d", i); /* in use: it stays */
        put(&place, i, (uint32_t)i, 1000);
        put(&place, i, (uint32_t)i, 1000); /* asked for again: may take another's room */
        cr_assert_leq(stats->bytes, MAX);
    }
    cr_assert(has(&place, MANY - 1));
    cr_assert_not(has(&place, 2));
    cr_assert_gt(stats->evictions, 1000);
    cr_assert_gt(stats->entries, 40);
    uint64_t before = stats->evictions;
    for (int32_t i = MANY; i < 2 * MANY; i++)
        put(&place, i, (uint32_t)i, 1000);
    cr_assert_lt(stats->evictions - before, 20, "what is read once takes nobody's room");
    place_done(&place);
}

Test(cache, rests_while_nothing_is_read_twice)
{
    enum { MANY = 10000, HOT = 500 };
    place_t place;
    place_open(&place, 64 << 20);
    const gate_cache_stats_t *stats = gate_cache_stats(place.cache);
    for (int32_t i = 0; i < MANY; i++) {
        cr_assert_not(has(&place, i));
        put(&place, i, (uint32_t)i, 100);
    }
    cr_assert_lt(stats->entries, MANY / 2, "it has kept %llu", (unsigned long long)stats->entries);
    for (int round = 0; round < 200; round++)
        for (int32_t i = 0; i < HOT; i++)
            if (!has(&place, MANY + i))
                put(&place, MANY + i, (uint32_t)i, 100);
    for (int32_t i = 0; i < HOT; i++)
        cr_assert(has(&place, MANY + i), "it is awake again: %d", i);
    place_done(&place);
}

Test(cache, switched_off)
{
    gate_cache_options_t options = {"/nowhere", 0, 1000};
    gate_cache_t *cache = gate_cache_create(&options);
    cr_assert_null(cache);
    gate_cache_attach(cache, boots[0]);
    cr_assert_not(gate_cache_wants(cache));
    gate_cache_destroy(&cache);
    options.bytes_max = 1 << 20;
    cache = gate_cache_create(&options);
    gate_cache_attach(cache, boots[0]); /* no such file */
    cr_assert_not(gate_cache_wants(cache));
    gate_cache_destroy(&cache);
}

Test(cache, times_are_renewed)
{
    vd_bb_t bb;
    vd_bson_t body;
    vd_bb_init(&bb, 4096);
    vd_bb_int32(&bb, "n", 1);
    gate_reply_ok(&bb, &(gate_reply_times_t){50, 60});
    cr_assert_eq(vd_bb_finish(&bb, &body, NULL), VD_OK);
    static const struct {
        gate_reply_times_t in, out;
    } cases[] = {
        {{40, 55}, {50, 60}}, {{55, 58}, {55, 60}}, {{70, 0}, {70, 70}}, {{70, 90}, {70, 90}}};
    uint8_t copy[4096];
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        memcpy(copy, body.data, body.len);
        cr_assert(gate_reply_renew(copy, body.len, &cases[i].in));
        vd_bson_t renewed = {copy, body.len};
        cr_assert_eq(vd_value_timestamp(vd_bson_get(renewed, "operationTime")),
                     cases[i].out.operation_time, "%zu", i);
        cr_assert_eq(
            vd_value_timestamp(vd_bson_get_path(renewed, VD_SLICE_LIT("$clusterTime.clusterTime"))),
            cases[i].out.cluster_time, "%zu", i);
    }
    cr_assert_not(gate_reply_renew(copy, 20, &cases[0].in));
    vd_bb_done(&bb);
}
