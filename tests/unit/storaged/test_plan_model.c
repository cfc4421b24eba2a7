/* tests/unit/storaged/test_plan_model.c — random documents, indexes and queries: whatever plan
 * runs, the results are those of a scan of the collection.
 *
 * Each query runs by $natural, as the planner likes, and once with each index as its hint; then as
 * count and distinct. Documents are small and their values few, so that arrays, nulls, missing
 * fields, equal keys and keys that were cut meet all the time. VEDDB_MODEL_SEED runs one seed. */
#include "libcommon/base/rand.h"
#include "tests/unit/storaged/reads_support.h"

#ifdef __SANITIZE_ADDRESS__
#define SEEDS 20 /* of the same sequence; without sanitizers all run */
#else
#define SEEDS 60
#endif
#define QUERIES       60
#define DOCUMENTS_MAX 60
#define RESULTS_MAX   400

typedef struct {
    vd_rand_t rand;
    uint64_t seed;
    char text[60000];
    size_t len;
    char indexes[8][400]; /* specifications */
    char names[8][16];
    bool whole[8]; /* holds every document: may be hinted for any query */
    uint32_t index_count;
    vd_arena_t *arena;
} model_t;

static uint32_t pick(model_t *m, uint32_t n)
{
    return (uint32_t)(vd_rand_below(&m->rand, n));
}

static void put(model_t *m, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(model_t *m, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    m->len += (size_t)vsnprintf(m->text + m->len, sizeof m->text - m->len, format, args);
    va_end(args);
    cr_assert_lt(m->len, sizeof m->text - 1);
}

static void long_string(model_t *m)
{
    put(m, "'");
    for (int i = 0; i < 2100; i++)
        put(m, "l");
    put(m, "%u'", pick(m, 4));
}

static void scalar(model_t *m)
{
    static const char *const values[] = {"0",
                                         "1",
                                         "2",
                                         "3",
                                         "4",
                                         "5",
                                         "-1",
                                         "2.0",
                                         "2.5",
                                         "-0.5",
                                         "null",
                                         "'a'",
                                         "'ab'",
                                         "'abc'",
                                         "'b'",
                                         "''",
                                         "true",
                                         "false",
                                         "{'%date': 5}",
                                         "{'x': 1}",
                                         "{'x': 1, 'y': 2}",
                                         "{}",
                                         "{'%numberLong': '3'}",
                                         "{'%numberDecimal': '2.50'}",
                                         "1",
                                         "2",
                                         "3",
                                         "4",
                                         "6",
                                         "7"};
    char text[80];
    if (pick(m, 150) == 0) {
        long_string(m);
        return;
    }
    (void)snprintf(text, sizeof text, "%s", values[pick(m, VD_COUNT_OF(values))]);
    for (char *p = text; *p != 0; p++)
        if (*p == '%')
            *p = '$';
    put(m, "%s", text);
}

static void value(model_t *m, int depth, bool arrays);

static void object(model_t *m, int depth, bool arrays)
{
    static const char *const names[] = {"x", "y", "z"};
    bool first = true;
    put(m, "{");
    for (int i = 0; i < 3; i++) {
        if (pick(m, 3) == 0)
            continue;
        put(m, "%s'%s': ", first ? "" : ", ", names[i]);
        value(m, depth + 1, arrays);
        first = false;
    }
    put(m, "}");
}

static void value(model_t *m, int depth, bool arrays)
{
    uint32_t kind = pick(m, 10);
    if (depth < 2 && arrays && kind < 2) {
        uint32_t count = pick(m, 4);
        put(m, "[");
        for (uint32_t i = 0; i < count; i++) {
            put(m, "%s", i == 0 ? "" : ", ");
            if (pick(m, 2) == 0)
                object(m, depth, pick(m, 4) == 0);
            else
                value(m, depth + 1, pick(m, 4) == 0);
        }
        put(m, "]");
    } else if (depth < 2 && kind < 4) {
        object(m, depth, arrays);
    } else {
        scalar(m);
    }
}

/* arrays: 0 none, 1 in one field, 2 anywhere. */
static void documents(model_t *m, int arrays)
{
    uint32_t count = 1 + pick(m, DOCUMENTS_MAX);
    uint32_t field = pick(m, 4);
    m->len = 0;
    put(m, "{'insert': 'c', 'ordered': false, 'documents': [");
    for (uint32_t i = 0; i < count; i++) {
        put(m, "%s{'_id': %u", i == 0 ? "" : ", ", i);
        for (uint32_t k = 0; k < 4; k++) {
            if (pick(m, 6) == 0)
                continue;
            put(m, ", '%c': ", "abcd"[k]);
            value(m, 0, arrays == 2 || (arrays == 1 && k == field));
        }
        put(m, "}");
    }
    put(m, "]}");
}

static const char *path(model_t *m)
{
    static const char *const paths[] = {"a", "b", "c", "d", "a.x", "a.y", "b.x", "a", "b", "c.y"};
    return paths[pick(m, VD_COUNT_OF(paths))];
}

static void make_index(model_t *m, reads_t *reads)
{
    char *spec = m->indexes[m->index_count];
    size_t room = sizeof m->indexes[0], len = 0;
    const char *used[3] = {NULL};
    uint32_t fields = 1 + pick(m, 3), kind = pick(m, 12);
    bool whole = true;
    len += (size_t)snprintf(spec, room, "{'key': {");
    if (kind == 0) {
        len += (size_t)snprintf(spec + len, room - len, "'$**': 1");
        whole = false;
    } else if (kind == 1) {
        len += (size_t)snprintf(spec + len, room - len, "'%s': 'hashed'", path(m));
    } else {
        for (uint32_t i = 0; i < fields; i++) {
            const char *p = path(m);
            bool again = false;
            for (uint32_t k = 0; k < i; k++)
                again |= strcmp(used[k], p) == 0;
            used[i] = p;
            if (again) {
                fields = i;
                break;
            }
            len += (size_t)snprintf(spec + len, room - len, "%s'%s': %d", i == 0 ? "" : ", ", p,
                                    pick(m, 2) == 0 ? 1 : -1);
        }
    }
    (void)snprintf(m->names[m->index_count], sizeof m->names[0], "i%u", m->index_count);
    len += (size_t)snprintf(spec + len, room - len, "}, 'name': 'i%u'", m->index_count);
    if (kind == 2) {
        len += (size_t)snprintf(spec + len, room - len, ", 'sparse': true");
        whole = false;
    } else if (kind == 3) {
        static const char *const partial[] = {"{'c': {'$gt': 1}}", "{'a': {'$exists': true}}",
                                              "{'b': {'$lte': 4}, 'a': {'$gte': 0}}",
                                              "{'d': {'$type': 'string'}}"};
        len += (size_t)snprintf(spec + len, room - len, ", 'partialFilterExpression': %s",
                                partial[pick(m, 4)]);
        whole = false;
    }
    (void)snprintf(spec + len, room - len, "}");
    char command[600];
    (void)snprintf(command, sizeof command, "{'createIndexes': 'c', 'indexes': [%s]}", spec);
    if (reads_run(reads, "db", command) == VD_OK)
        m->whole[m->index_count++] = whole;
}

/* ---- queries ---- */

static void operators(model_t *m)
{
    static const char *const compare[] = {"$gt", "$gte", "$lt", "$lte", "$eq", "$ne"};
    switch (pick(m, 11)) {
    case 0:
        put(m, "{'$in': [");
        scalar(m);
        put(m, ", ");
        scalar(m);
        put(m, pick(m, 4) == 0 ? ", null]}" : "]}");
        break;
    case 1:
        put(m, "{'$exists': %s}", pick(m, 2) == 0 ? "true" : "false");
        break;
    case 2:
        put(m, "{'$type': '%s'}", pick(m, 2) == 0 ? "number" : "string");
        break;
    case 3:
        put(m, "{'%%regex': '^a%s', '%%options': ''}", pick(m, 2) == 0 ? "b" : "");
        break;
    case 4:
        put(m, "{'$mod': [2, %u]}", pick(m, 2));
        break;
    case 5:
        put(m, "{'$not': {'$gt': ");
        scalar(m);
        put(m, "}}");
        break;
    case 6:
        put(m, "{'$elemMatch': {'$gte': ");
        scalar(m);
        put(m, ", '$lt': ");
        scalar(m);
        put(m, "}}");
        break;
    case 7:
        put(m, "{'$elemMatch': {'x': ");
        scalar(m);
        put(m, ", 'y': {'$gte': ");
        scalar(m);
        put(m, "}}}");
        break;
    case 8:
        put(m, "{'$nin': [");
        scalar(m);
        put(m, ", ");
        scalar(m);
        put(m, "]}");
        break;
    default:
        put(m, "{'%s': ", compare[pick(m, 6)]);
        if (pick(m, 12) == 0)
            value(m, 1, true);
        else
            scalar(m);
        if (pick(m, 3) == 0) {
            put(m, ", '%s': ", compare[pick(m, 4)]);
            scalar(m);
        }
        put(m, "}");
    }
}

static void condition(model_t *m, int depth)
{
    uint32_t kind = pick(m, depth < 2 ? 9 : 7);
    if (kind >= 7) {
        uint32_t count = 2 + pick(m, 2);
        put(m, "{'%s': [", kind == 7 ? "$or" : pick(m, 3) == 0 ? "$nor" : "$and");
        for (uint32_t i = 0; i < count; i++) {
            put(m, "%s", i == 0 ? "" : ", ");
            condition(m, depth + 1);
        }
        put(m, "]}");
        return;
    }
    put(m, "{'%s': ", path(m));
    if (kind < 3) {
        if (pick(m, 8) == 0)
            value(m, 0, true);
        else
            scalar(m);
    } else {
        operators(m);
    }
    put(m, "}");
}

static void filter(model_t *m)
{
    uint32_t count = pick(m, 4);
    if (count == 0) {
        put(m, "{}");
        return;
    }
    if (count == 1) {
        condition(m, 0);
        return;
    }
    put(m, "{'$and': [");
    for (uint32_t i = 0; i < count; i++) {
        put(m, "%s", i == 0 ? "" : ", ");
        condition(m, 0);
    }
    put(m, "]}");
}

typedef struct {
    char filter[20000], sort[200], projection[200];
    int skip, limit;
} query_t;

static void make_query(model_t *m, query_t *q)
{
    memset(q, 0, sizeof *q);
    m->len = 0;
    filter(m);
    cr_assert_lt(m->len, sizeof q->filter);
    memcpy(q->filter, m->text, m->len + 1);
    if (pick(m, 2) == 0) {
        const char *a = path(m), *b = path(m);
        if (strcmp(a, b) == 0)
            (void)snprintf(q->sort, sizeof q->sort, "{'%s': %d}", a, pick(m, 2) ? 1 : -1);
        else
            (void)snprintf(q->sort, sizeof q->sort, "{'%s': %d, '%s': %d}", a, pick(m, 2) ? 1 : -1,
                           b, pick(m, 2) ? 1 : -1);
    }
    if (pick(m, 3) == 0)
        (void)snprintf(q->projection, sizeof q->projection,
                       pick(m, 2) ? "{'%s': 1, '_id': 0}" : "{'%s': 1}", path(m));
    if (pick(m, 4) == 0) {
        q->skip = (int)pick(m, 5);
        q->limit = 1 + (int)pick(m, 10);
    }
}

/* ---- results ---- */

typedef struct {
    int rc;
    uint32_t count;
    vd_bson_t documents[RESULTS_MAX];
} results_t;

static void run(model_t *m, reads_t *reads, const query_t *q, const char *hint, bool cut,
                bool projected, results_t *ret)
{
    vd_bson_iter_t iter;
    m->len = 0;
    put(m, "{'find': 'c', 'batchSize': 1000, 'filter': %s", q->filter);
    if (q->sort[0] != 0)
        put(m, ", 'sort': %s", q->sort);
    if (projected && q->projection[0] != 0)
        put(m, ", 'projection': %s", q->projection);
    if (cut && q->limit > 0)
        put(m, ", 'skip': %d, 'limit': %d", q->skip, q->limit);
    if (hint[0] != 0)
        put(m, ", 'hint': %s", hint);
    put(m, "}");
    ret->rc = reads_run(reads, "db", m->text);
    ret->count = 0;
    if (ret->rc != VD_OK)
        return;
    vd_bson_iter_init(&iter, vd_value_document(reads_at(reads, "cursor.firstBatch")));
    while (vd_bson_iter_next(&iter)) {
        cr_assert_lt(ret->count, RESULTS_MAX);
        vd_bson_t document = vd_value_document(iter.value);
        ret->documents[ret->count++] =
            (vd_bson_t){vd_arena_copy(m->arena, document.data, document.len), document.len};
    }
}

/* Fields of an object in order of their names: covered documents have the index's order. */
static vd_bson_t normal(vd_arena_t *arena, vd_bson_t document)
{
    vd_bson_iter_t iter;
    struct {
        vd_slice_t name;
        vd_value_t value;
    } fields[32];
    uint32_t count = 0;
    vd_bb_t bb;
    vd_bson_t out;
    vd_bson_iter_init(&iter, document);
    while (vd_bson_iter_next(&iter) && count < 32) {
        uint32_t at = count++;
        while (at > 0 && vd_slice_compare(fields[at - 1].name, iter.name) > 0) {
            fields[at] = fields[at - 1];
            at--;
        }
        fields[at].name = iter.name;
        fields[at].value = iter.value;
    }
    vd_bb_init_arena(&bb, arena, 1 << 20);
    for (uint32_t i = 0; i < count; i++)
        vd_bb_value(&bb, fields[i].name,
                    fields[i].value.type == VD_BSON_OBJECT
                        ? vd_value_from_document(normal(arena, vd_value_document(fields[i].value)))
                        : fields[i].value);
    cr_assert_eq(vd_bb_finish(&bb, &out, NULL), VD_OK);
    return out;
}

static int bytes_compare(const void *a, const void *b)
{
    const vd_bson_t *x = a, *y = b;
    return vd_slice_compare(vd_slice(x->data, x->len), vd_slice(y->data, y->len));
}

static void results_sort(model_t *m, results_t *r)
{
    for (uint32_t i = 0; i < r->count; i++)
        r->documents[i] = normal(m->arena, r->documents[i]);
    qsort(r->documents, r->count, sizeof r->documents[0], bytes_compare);
}

static bool same_sorted(const results_t *a, const results_t *b)
{
    if (a->count != b->count)
        return false;
    for (uint32_t i = 0; i < a->count; i++)
        if (bytes_compare(&a->documents[i], &b->documents[i]) != 0)
            return false;
    return true;
}

static void fail(model_t *m, reads_t *reads, const query_t *q, const char *hint, const char *what,
                 const results_t *want, const results_t *is)
{
    char indexes[4000] = "";
    for (uint32_t i = 0; i < m->index_count; i++)
        strncat(indexes, m->indexes[i], sizeof indexes - strlen(indexes) - 1);
    const char *missing = "";
    for (uint32_t i = 0; want != NULL && i < want->count && missing[0] == 0; i++) {
        bool found = false;
        for (uint32_t k = 0; k < is->count; k++)
            found |= bytes_compare(&want->documents[i], &is->documents[k]) == 0;
        if (!found)
            missing = vd_bson_to_json(m->arena, want->documents[i], 500);
    }
    const char *extra = "";
    for (uint32_t i = 0; want != NULL && i < is->count && extra[0] == 0; i++) {
        bool found = false;
        for (uint32_t k = 0; k < want->count; k++)
            found |= bytes_compare(&want->documents[k], &is->documents[i]) == 0;
        if (!found)
            extra = vd_bson_to_json(m->arena, is->documents[i], 500);
    }
    m->len = 0;
    put(m, "{'explain': {'find': 'c', 'filter': %s", q->filter);
    if (q->sort[0] != 0)
        put(m, ", 'sort': %s", q->sort);
    if (q->projection[0] != 0)
        put(m, ", 'projection': %s", q->projection);
    if (hint[0] != 0)
        put(m, ", 'hint': %s", hint);
    put(m, "}, 'verbosity': 'queryPlanner'}");
    (void)reads_run(reads, "db", m->text);
    cr_assert(false,
              "seed %llu: %s\n filter %.600s\n sort %s projection %s skip %d limit %d hint %s\n "
              "indexes %s\n want %u got %u\n missing %s\n extra %s\n plan %s",
              (unsigned long long)m->seed, what, q->filter, q->sort, q->projection, q->skip,
              q->limit, hint, indexes, want == NULL ? 0 : want->count, is == NULL ? 0 : is->count,
              missing, extra, reads_text(reads));
}

/* Documents one behind the other are in the order of the sort. */
static bool in_order(model_t *m, const query_t *q, const results_t *r)
{
    stor_sort_t *sort;
    vd_value_t a[STOR_SORT_KEYS_MAX], b[STOR_SORT_KEYS_MAX];
    if (q->sort[0] == 0)
        return true;
    cr_assert_eq(stor_sort_parse(m->arena, query_json(m->arena, q->sort), &sort, NULL), VD_OK);
    for (uint32_t i = 1; i < r->count; i++) {
        if (stor_sort_key(sort, m->arena, r->documents[i - 1], a, NULL) != VD_OK ||
            stor_sort_key(sort, m->arena, r->documents[i], b, NULL) != VD_OK)
            return true;
        if (stor_sort_compare(sort, a, b) > 0)
            return false;
    }
    return true;
}

static bool same_keys(model_t *m, const query_t *q, const results_t *x, const results_t *y)
{
    stor_sort_t *sort;
    vd_value_t a[STOR_SORT_KEYS_MAX], b[STOR_SORT_KEYS_MAX];
    cr_assert_eq(stor_sort_parse(m->arena, query_json(m->arena, q->sort), &sort, NULL), VD_OK);
    for (uint32_t i = 0; i < x->count && i < y->count; i++)
        if (stor_sort_key(sort, m->arena, x->documents[i], a, NULL) == VD_OK &&
            stor_sort_key(sort, m->arena, y->documents[i], b, NULL) == VD_OK &&
            stor_sort_compare(sort, a, b) != 0)
            return false;
    return true;
}

/* One way to run the query against the scan's results: whole, projected, cut. */
static void check_hint(model_t *m, reads_t *reads, const query_t *q, const char *hint)
{
    static results_t want, is;
    run(m, reads, q, "{'$natural': 1}", false, false, &want);
    run(m, reads, q, hint, false, false, &is);
    if (is.rc == VD_ERR_LOCATION(291))
        return; /* the index can't answer it */
    if (want.rc != VD_OK || is.rc != VD_OK) {
        if (want.rc == VD_OK || (is.rc == VD_OK && q->sort[0] == 0))
            fail(m, reads, q, hint, "an error", NULL, NULL);
        return;
    }
    if (!in_order(m, q, &is))
        fail(m, reads, q, hint, "out of order", NULL, NULL);
    uint32_t whole = want.count;
    if (q->limit > 0) {
        static results_t want_cut, cut;
        run(m, reads, q, "{'$natural': 1}", true, false, &want_cut);
        run(m, reads, q, hint, true, false, &cut);
        if (cut.rc != VD_OK || cut.count != want_cut.count ||
            (q->sort[0] != 0 && !same_keys(m, q, &cut, &want_cut)))
            fail(m, reads, q, hint, "cut otherwise", &want_cut, &cut);
    }
    results_sort(m, &want);
    results_sort(m, &is);
    if (!same_sorted(&want, &is))
        fail(m, reads, q, hint, "other documents", &want, &is);
    if (q->projection[0] != 0) {
        run(m, reads, q, "{'$natural': 1}", false, true, &want);
        run(m, reads, q, hint, false, true, &is);
        results_sort(m, &want);
        results_sort(m, &is);
        if (is.rc != VD_OK || !same_sorted(&want, &is))
            fail(m, reads, q, hint, "other projected documents", &want, &is);
    }
    m->len = 0;
    put(m, "{'count': 'c', 'query': %s", q->filter);
    if (hint[0] != 0)
        put(m, ", 'hint': %s", hint);
    put(m, "}");
    if (reads_run(reads, "db", m->text) != VD_OK ||
        vd_value_int32(reads_at(reads, "n")) != (int32_t)whole)
        fail(m, reads, q, hint, "another count", NULL, NULL);
}

static void distinct_values(model_t *m, reads_t *reads, const query_t *q, const char *key,
                            const char *hint, results_t *ret)
{
    vd_bson_iter_t iter;
    m->len = 0;
    put(m, "{'distinct': 'c', 'key': '%s', 'query': %s%s%s}", key, q->filter,
        hint[0] == 0 ? "" : ", 'hint': ", hint);
    ret->rc = reads_run(reads, "db", m->text);
    ret->count = 0;
    if (ret->rc != VD_OK)
        return;
    vd_bson_iter_init(&iter, vd_value_document(reads_at(reads, "values")));
    while (vd_bson_iter_next(&iter)) {
        vd_bb_t bb;
        vd_value_t v = iter.value;
        if (vd_value_is_number(v)) /* which of 2 and 2.0 comes first is chance */
            v = vd_value_from_double(m->arena, vd_value_as_double(v));
        vd_bb_init_arena(&bb, m->arena, 1 << 20);
        vd_bb_value(&bb, VD_SLICE_LIT("v"), v);
        cr_assert_eq(vd_bb_finish(&bb, &ret->documents[ret->count++], NULL), VD_OK);
    }
    qsort(ret->documents, ret->count, sizeof ret->documents[0], bytes_compare);
}

static void check_distinct(model_t *m, reads_t *reads, const query_t *q)
{
    static results_t want, is;
    const char *key = path(m);
    distinct_values(m, reads, q, key, "{'$natural': 1}", &want);
    for (uint32_t i = 0; i <= m->index_count; i++) {
        char hint[32] = "";
        if (i < m->index_count)
            (void)snprintf(hint, sizeof hint, "'%s'", m->names[i]);
        if (i < m->index_count && !m->whole[i])
            continue;
        distinct_values(m, reads, q, key, hint, &is);
        /* objects that are equal may differ in the types of their numbers */
        if (want.rc == VD_OK && (is.rc != VD_OK || is.count != want.count))
            fail(m, reads, q, hint[0] == 0 ? key : hint, "other distinct values", &want, &is);
    }
}

static void check_seed(reads_t *reads, uint64_t seed)
{
    static model_t model;
    static query_t query;
    model_t *m = &model;
    memset(m, 0, sizeof *m);
    vd_rand_seed(&m->rand, seed);
    m->seed = seed;
    m->arena = vd_arena_create();
    (void)reads_run(reads, "db", "{'drop': 'c'}");
    int arrays = (int)pick(m, 3);
    bool late = pick(m, 2) == 0; /* indexes before or behind the documents */
    uint32_t wanted = 1 + pick(m, 4);
    if (late) {
        documents(m, arrays);
        cr_assert_eq(reads_run(reads, "db", m->text), VD_OK, "%s", reads_text(reads));
    }
    for (uint32_t i = 0; i < wanted; i++)
        make_index(m, reads);
    if (!late) {
        documents(m, arrays);
        cr_assert_eq(reads_run(reads, "db", m->text), VD_OK, "%s", reads_text(reads));
    }
    for (int i = 0; i < QUERIES; i++) {
        vd_arena_reset(m->arena);
        vd_arena_reset(reads->texts);
        make_query(m, &query);
        check_hint(m, reads, &query, "");
        for (uint32_t k = 0; k < m->index_count; k++) {
            char hint[32];
            (void)snprintf(hint, sizeof hint, "'%s'", m->names[k]);
            if (m->whole[k])
                check_hint(m, reads, &query, hint);
        }
        check_distinct(m, reads, &query);
    }
    vd_arena_destroy(&m->arena);
}

Test(plan_model, every_plan_gives_what_a_scan_gives)
{
    const char *only = getenv("VEDDB_MODEL_SEED"), *many = getenv("VEDDB_MODEL_SEEDS");
    uint64_t from = only == NULL ? 1 : strtoull(only, NULL, 10);
    uint64_t count = only != NULL ? 1 : many != NULL ? strtoull(many, NULL, 10) : SEEDS;
    reads_t *reads = reads_open();
    for (uint64_t seed = from; seed < from + count; seed++)
        check_seed(reads, seed);
    reads_close(reads);
}
