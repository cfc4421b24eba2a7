/* tests/unit/storaged/test_versions.c — what a reply to a find depends on, as the gateway is told
 * it; and that each command that changes the document, or what the find means, moves it. */
#include "tests/unit/storaged/reads_support.h"

#define FIND "{'find': 'c', 'filter': {'_id': 1}, 'limit': 1, 'singleBatch': true}"

static reads_t *start(void)
{
    reads_versioned = true;
    reads_t *reads = reads_open();
    cr_assert_eq(reads_run(reads, "db", "{'insert': 'c', 'documents': [{'_id': 1, 'n': 1}]}"), 0);
    return reads;
}

/* As the gateway asks. */
static stor_version_seen_t find(reads_t *reads, const char *command)
{
    reads->flags |= VDP_COMMAND_VERSIONED;
    (void)reads_run(reads, "db", command); /* refusals are looked at like all else */
    reads->flags &= ~(uint32_t)VDP_COMMAND_VERSIONED;
    return reads->request.status == VD_OK ? reads->request.seen : (stor_version_seen_t){0};
}

static bool is_same(const stor_version_seen_t *a, const stor_version_seen_t *b)
{
    return a->slot == b->slot && a->epoch == b->epoch && a->version == b->version;
}

Test(versioned, only_one_document_by_its_id)
{
    static const struct {
        const char *command;
        bool is;
    } cases[] = {
        {FIND, true},
        {"{'find': 'c', 'filter': {'_id': 1}}", true},
        {"{'find': 'c', 'filter': {'_id': 1}, 'projection': {'n': 1}}", true},
        {"{'find': 'c', 'filter': {'_id': 1}, 'readConcern': {'level': 'majority'}}", true},
        {"{'find': 'c', 'filter': {'_id': 2}}", false},           /* not there */
        {"{'find': 'none', 'filter': {'_id': 1}}", false},        /* no collection */
        {"{'find': 'c', 'filter': {'n': 1}}", false},             /* not by _id */
        {"{'find': 'c', 'filter': {'_id': {'$gte': 1}}}", false}, /* a range */
        {"{'find': 'c', 'filter': {'_id': 1}, 'batchSize': 0}", false},
        {"{'find': 'c', 'filter': {'_id': 1}, 'skip': 1}", false},
        {"{'find': 'c', 'filter': {'_id': 1}, 'readConcern': {'level': 'linearizable'}}", false},
        {"{'find': 'c', 'filter': {'_id': 1}, 'nonsense': 1}", false},
        {"{'count': 'c', 'query': {'_id': 1}}", false},
    };
    reads_t *reads = start();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++)
        cr_assert_eq(find(reads, cases[i].command).slot != 0, cases[i].is, "%s", cases[i].command);
    cr_assert_eq(reads_run(reads, "db", FIND), 0);
    cr_assert_eq(reads->request.seen.slot, 0, "nobody has asked");
    reads_close(reads);
}

Test(versioned, every_change_moves_it)
{
    static const char *const changes[] = {
        "{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$set': {'n': 2}}}]}",
        "{'update': 'c', 'updates': [{'q': {}, 'u': {'$inc': {'n': 1}}, 'multi': true}]}",
        "{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'n': 7}}]}",
        "{'findAndModify': 'c', 'query': {'_id': 1}, 'update': {'$set': {'n': 3}}}",
        "{'delete': 'c', 'deletes': [{'q': {'_id': 1}, 'limit': 1}]}",
        "{'insert': 'c', 'documents': [{'_id': 1, 'n': 4}]}",
        "{'collMod': 'c', 'validationLevel': 'off'}",
        "{'drop': 'c'}",
        "{'insert': 'c', 'documents': [{'_id': 1, 'n': 5}]}",
    };
    reads_t *reads = start();
    stor_version_seen_t before = find(reads, FIND);
    for (size_t i = 0; i < VD_COUNT_OF(changes); i++) {
        cr_assert_eq(reads_run(reads, "db", changes[i]), 0, "%s: %s", changes[i],
                     reads_text(reads));
        stor_version_seen_t after = find(reads, FIND);
        cr_assert_not(is_same(&before, &after), "%s", changes[i]);
        before = after;
    }
    reads_close(reads);
}

Test(versioned, what_leaves_it_as_it_is)
{
    static const char *const others[] = {
        "{'find': 'c'}",
        "{'update': 'c', 'updates': [{'q': {'_id': 5}, 'u': {'$set': {'n': 2}}}]}",
        "{'create': 'another'}",
    };
    reads_t *reads = start();
    stor_version_seen_t before = find(reads, FIND);
    for (size_t i = 0; i < VD_COUNT_OF(others); i++) {
        cr_assert_eq(reads_run(reads, "db", others[i]), 0, "%s", others[i]);
        stor_version_seen_t after = find(reads, FIND);
        cr_assert(is_same(&before, &after), "%s", others[i]);
    }
    stor_versions_serve(reads->storage.versions, false);
    cr_assert_eq(find(reads, FIND).slot, 0, "not primary");
    reads_close(reads);
}
