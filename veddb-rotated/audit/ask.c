/* veddb-rotated/audit/ask.c — see ask.h. */
#include "veddb-rotated/audit/ask.h"

#include "libcommon/base/arena.h"
#include "libcommon/base/limits.h"
#include "libcommon/base/mem.h"
#include "libcommon/bson/view.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>

#define RECORD_JSON_MAX 8192
#define CONDITIONS_MAX  16

typedef struct {
    char *name, *value;
} condition_t;

typedef struct {
    const rot_ask_t *ask;
    vd_arena_t *arena;
    vd_buf_t *out;
    uint64_t from; /* records below are passed over */
    uint64_t found, matched, limit;
    condition_t conditions[CONDITIONS_MAX];
    uint32_t condition_count;
    bool full;
    /* prove */
    uint64_t number, leaf_segment, leaf_count, leaf_max, index;
    rot_hash_t *leaves;
    bool has;
    uint8_t head[ROT_HEAD_BYTES];
    vd_buf_t record;
} state_t;

static int hex(vd_buf_t *out, const uint8_t *bytes, size_t len)
{
    int rc = VD_OK;
    for (size_t i = 0; rc == VD_OK && i < len; i++)
        rc = vd_buf_printf(out, "%02x", bytes[i]);
    return rc;
}

/* ---- tail and search ---- */

static const char *const sources[] = {"", "journal", "events", "log"};

static int print_record(state_t *state, const rot_record_t *record, const char *json)
{
    return vd_buf_printf(state->out,
                         "%s{\"record\":%" PRIu64 ",\"segment\":%" PRIu64
                         ",\"source\":\"%s\",\"position\":%" PRIu64 ",\"event\":%s}",
                         state->found == 0 ? "" : ",", record->number, record->segment,
                         sources[record->source], record->position, json);
}

static bool text_is(vd_value_t v, const char *text)
{
    return v.type == VD_BSON_STRING && vd_slice_is(vd_value_string(v), text);
}

/* value: "name@db" */
static bool user_is(vd_bson_t event, const char *value)
{
    vd_value_t users = vd_bson_get(event, "users");
    const char *at = strrchr(value, '@');
    size_t len = at == NULL ? strlen(value) : (size_t)(at - value);
    vd_bson_iter_t iter;
    if (users.type != VD_BSON_ARRAY)
        return false;
    vd_bson_iter_init(&iter, vd_value_document(users));
    while (vd_bson_iter_next(&iter)) {
        vd_bson_t one =
            iter.value.type == VD_BSON_OBJECT ? vd_value_document(iter.value) : VD_BSON_NONE;
        vd_value_t user = vd_bson_get(one, "user");
        if (user.type == VD_BSON_STRING &&
            vd_slice_equal(vd_value_string(user), vd_slice(value, len)) &&
            (at == NULL || text_is(vd_bson_get(one, "db"), at + 1)))
            return true;
    }
    return false;
}

static bool condition_holds(const condition_t *condition, vd_bson_t event, const char *json)
{
    const char *name = condition->name, *value = condition->value;
    vd_value_t param = vd_bson_get(event, "param");
    vd_bson_t inner = param.type == VD_BSON_OBJECT ? vd_value_document(param) : VD_BSON_NONE;
    vd_value_t ts = vd_bson_get(event, "ts"), result = vd_bson_get(event, "result");
    int64_t number = 0;
    if (strcmp(name, "atype") == 0)
        return text_is(vd_bson_get(event, "atype"), value);
    if (strcmp(name, "user") == 0)
        return user_is(event, value);
    if (strcmp(name, "ns") == 0)
        return text_is(vd_bson_get(inner, "ns"), value);
    if (strcmp(name, "result") == 0)
        return vd_value_as_int64(result, &number) && number == strtoll(value, NULL, 10);
    if (strcmp(name, "since") == 0)
        return ts.type == VD_BSON_DATE && vd_value_int64(ts) >= strtoll(value, NULL, 10);
    if (strcmp(name, "until") == 0)
        return ts.type == VD_BSON_DATE && vd_value_int64(ts) < strtoll(value, NULL, 10);
    return strstr(json, value) != NULL; /* text */
}

static int record_look(void *context, const rot_record_t *record, vd_error_t *err)
{
    state_t *state = context;
    if (record->number < state->from || state->full)
        return VD_OK;
    vd_bson_t event = {record->document.data, (uint32_t)record->document.len};
    vd_arena_reset(state->arena);
    int rc = vd_bson_validate(record->document, 0, VD_BSON_DEPTH_MAX, err);
    if (rc != VD_OK)
        return rc;
    const char *json = vd_bson_to_json(state->arena, event, RECORD_JSON_MAX);
    for (uint32_t i = 0; i < state->condition_count; i++)
        if (!condition_holds(&state->conditions[i], event, json))
            return VD_OK;
    state->matched++;
    size_t len = strlen(json);
    if (len >= 3 && strcmp(json + len - 3, "...") == 0)
        json = "{\"cut\":true}"; /* too long for an answer; verify.py --print has it */
    if (vd_buf_len(state->out) + RECORD_JSON_MAX + 512 > ROT_ASK_BYTES_MAX ||
        state->found == state->limit || print_record(state, record, json) != VD_OK) {
        state->full = true;
        return VD_OK;
    }
    state->found++;
    return VD_OK;
}

/* Walks the segments from `first` on, up to the limit. */
static int walk_from(state_t *state, uint64_t first, vd_error_t *err)
{
    const rot_ask_t *ask = state->ask;
    rot_publics_t publics;
    rot_walk_t walk;
    uint64_t *numbers = NULL;
    uint32_t count = 0;
    int rc = rot_publics_load(ask->folder, true, false, &publics, err);
    if (rc != VD_OK)
        return rc;
    rc = rot_walk_init(&walk, ask->folder, &publics, ask->keys, err);
    walk.record = record_look;
    walk.context = state;
    if (rc == VD_OK)
        rc = rot_segments_list(ask->folder, &numbers, &count, err);
    for (uint32_t i = 0; rc == VD_OK && i < count && numbers[i] <= ask->limit_segment; i++)
        if (numbers[i] >= first)
            rc = rot_walk_segment(&walk, numbers[i],
                                  numbers[i] == ask->limit_segment ? ask->limit_offset : UINT64_MAX,
                                  false, NULL, err);
    vd_free(numbers);
    rot_walk_done(&walk);
    rot_publics_done(&publics);
    return rc;
}

static int list(state_t *state, uint64_t first, vd_error_t *err)
{
    int rc = vd_buf_printf(state->out, "{\"records\":[");
    if (rc == VD_OK)
        rc = walk_from(state, first, err);
    if (rc == VD_OK)
        rc = vd_buf_printf(state->out, "],\"found\":%" PRIu64 ",\"more\":%s}", state->found,
                           state->full ? "true" : "false");
    return rc;
}

static bool number_read(const char *text, uint64_t *ret)
{
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    *ret = n;
    return text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0;
}

static int tail(state_t *state, vd_error_t *err)
{
    const rot_ask_t *ask = state->ask;
    uint64_t count = 20;
    if (ask->argument[0] != '\0' && (!number_read(ask->argument, &count) || count == 0))
        return vd_error_set(err, VD_ERR_BAD_VALUE, "tail takes a number of records");
    if (count > ROT_ASK_RECORDS_MAX)
        count = ROT_ASK_RECORDS_MAX;
    state->limit = count;
    /* The last segment tells how many records there are; the one before it may be needed too. */
    rot_publics_t publics;
    rot_walk_t walk;
    int rc = rot_publics_load(ask->folder, true, false, &publics, err);
    if (rc != VD_OK)
        return rc;
    rc = rot_walk_init(&walk, ask->folder, &publics, ask->keys, err);
    if (rc == VD_OK)
        rc = rot_walk_segment(&walk, ask->limit_segment, ask->limit_offset, false, NULL, err);
    uint64_t last = walk.now.records, in_segment = walk.now.tree.count;
    rot_walk_done(&walk);
    rot_publics_done(&publics);
    if (rc != VD_OK)
        return rc;
    state->from = last > count ? last - count + 1 : 1;
    return list(state,
                in_segment >= count || ask->limit_segment == 1 ? ask->limit_segment
                                                               : ask->limit_segment - 1,
                err);
}

/* name=value lines. */
static int search(state_t *state, vd_error_t *err)
{
    static const char *const names[] = {"atype", "user",  "ns",   "result",
                                        "since", "until", "text", "limit"};
    char *line = vd_arena_printf(state->arena, "%s", state->ask->argument);
    char *copy = vd_xstrdup(line), *rest = NULL;
    int rc = VD_OK;
    state->limit = 100;
    for (char *one = strtok_r(copy, "\n", &rest); rc == VD_OK && one != NULL;
         one = strtok_r(NULL, "\n", &rest)) {
        char *equals = strchr(one, '=');
        bool known = false;
        if (equals != NULL)
            *equals = '\0';
        for (size_t i = 0; equals != NULL && i < VD_COUNT_OF(names); i++)
            known = known || strcmp(one, names[i]) == 0;
        if (!known || state->condition_count == CONDITIONS_MAX)
            rc = vd_error_set(err, VD_ERR_BAD_VALUE, "search knows nothing of '%.100s'", one);
        else if (strcmp(one, "limit") != 0)
            state->conditions[state->condition_count++] = (condition_t){one, equals + 1};
        else if (!number_read(equals + 1, &state->limit) || state->limit > ROT_ASK_RECORDS_MAX)
            rc = vd_error_set(err, VD_ERR_BAD_VALUE, "limit is a number up to %d",
                              ROT_ASK_RECORDS_MAX);
    }
    if (rc == VD_OK)
        rc = list(state, 0, err);
    vd_free(copy);
    return rc;
}

/* ---- verify and prove ---- */

static int verify(state_t *state, vd_error_t *err)
{
    const rot_ask_t *ask = state->ask;
    rot_verify_options_t options = {.folder = ask->folder,
                                    .second_place = ask->second_place,
                                    .held = ask->held,
                                    .held_count = ask->held_count,
                                    .keys = ask->keys,
                                    .limit_segment = ask->limit_segment,
                                    .limit_offset = ask->limit_offset,
                                    .limit_copy = ask->limit_copy};
    rot_verdict_t verdict;
    int rc = rot_verify(&options, &verdict, err);
    if (rc != VD_OK)
        return rc;
    rc = vd_buf_printf(state->out,
                       "{\"good\":true,\"firstSegment\":%" PRIu64 ",\"lastSegment\":%" PRIu64
                       ",\"records\":%" PRIu64 ",\"heads\":%" PRIu64 ",\"lastHead\":%" PRIu64
                       ",\"copies\":%" PRIu64 ",\"peerHeads\":%" PRIu64 ",\"root\":\"",
                       verdict.first_segment, verdict.last.segment, verdict.records, verdict.heads,
                       verdict.last.number, verdict.copies, verdict.held);
    if (rc == VD_OK)
        rc = hex(state->out, verdict.root.bytes, sizeof verdict.root.bytes);
    return rc == VD_OK ? vd_buf_printf(state->out, "\"}") : rc;
}

static int leaf_note(void *context, const rot_record_t *record, vd_error_t *err)
{
    state_t *state = context;
    if (state->has && record->segment != state->leaf_segment)
        return VD_OK;
    if (record->segment != state->leaf_segment)
        state->leaf_count = 0;
    state->leaf_segment = record->segment;
    if (state->leaf_count == state->leaf_max)
        state->leaves = vd_xrealloc(state->leaves, (state->leaf_max = state->leaf_max * 2 + 256) *
                                                       sizeof *state->leaves);
    if (record->number == state->number) {
        state->has = true;
        state->index = state->leaf_count;
        if (vd_buf_append_slice(&state->record, record->bytes) != VD_OK) /* can't be */
            return vd_error_set(err, VD_ERR_FULL, "the record is too long");
    }
    state->leaves[state->leaf_count++] = record->hash;
    return VD_OK;
}

static void head_take(void *context, const rot_head_t *head, const rot_hash_t *hash,
                      const uint8_t *bytes)
{
    state_t *state = context;
    (void)hash; /* not needed */
    if (state->has && head->segment == state->leaf_segment)
        memcpy(state->head, bytes, ROT_HEAD_BYTES);
}

/* The hash of leaves [from, from + count); on the way down the siblings of `index` are printed,
 * lowest first. */
static int subtree(state_t *state, uint64_t from, uint64_t count, bool *first, rot_hash_t *ret)
{
    if (count == 1) {
        *ret = state->leaves[from];
        return VD_OK;
    }
    uint64_t split = 1;
    while (split * 2 < count)
        split *= 2;
    rot_hash_t left, right;
    int rc = subtree(state, from, split, first, &left);
    if (rc == VD_OK)
        rc = subtree(state, from + split, count - split, first, &right);
    if (rc == VD_OK && state->index >= from && state->index < from + count) {
        bool in_left = state->index < from + split;
        rc = vd_buf_printf(state->out, "%s{\"side\":\"%s\",\"hash\":\"", *first ? "" : ",",
                           in_left ? "right" : "left");
        if (rc == VD_OK)
            rc = hex(state->out, in_left ? right.bytes : left.bytes, ROT_HASH_BYTES);
        if (rc == VD_OK)
            rc = vd_buf_printf(state->out, "\"}");
        *first = false;
    }
    rot_tree_node(&left, &right, ret);
    return rc;
}

static int prove(state_t *state, vd_error_t *err)
{
    const rot_ask_t *ask = state->ask;
    rot_verify_options_t options = {.folder = ask->folder,
                                    .keys = ask->keys,
                                    .limit_segment = ask->limit_segment,
                                    .limit_offset = ask->limit_offset,
                                    .record = leaf_note,
                                    .head = head_take,
                                    .context = state};
    rot_verdict_t verdict;
    rot_hash_t root;
    bool first = true;
    if (!number_read(ask->argument, &state->number) || state->number == 0)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "prove takes the number of a record");
    int rc = rot_verify(&options, &verdict, err);
    if (rc == VD_OK && !state->has)
        rc = vd_error_set(err, VD_ERR_NOT_FOUND, "there is no sealed record %" PRIu64,
                          state->number);
    if (rc == VD_OK && vd_buf_len(&state->record) > 32 * 1024)
        rc = vd_error_set(err, VD_ERR_FULL, "the record is too long for an answer");
    if (rc == VD_OK)
        rc = vd_buf_printf(state->out,
                           "{\"number\":%" PRIu64 ",\"segment\":%" PRIu64 ",\"index\":%" PRIu64
                           ",\"leaves\":%" PRIu64 ",\"siblings\":[",
                           state->number, state->leaf_segment, state->index, state->leaf_count);
    if (rc == VD_OK)
        rc = subtree(state, 0, state->leaf_count, &first, &root);
    if (rc == VD_OK)
        rc = vd_buf_printf(state->out, "],\"head\":\"");
    if (rc == VD_OK)
        rc = hex(state->out, state->head, sizeof state->head);
    if (rc == VD_OK)
        rc = vd_buf_printf(state->out, "\",\"record\":\"");
    vd_slice_t record = vd_buf_slice(&state->record);
    if (rc == VD_OK)
        rc = hex(state->out, record.data, record.len);
    return rc == VD_OK ? vd_buf_printf(state->out, "\"}") : rc;
}

int rot_ask_run(const rot_ask_t *ask, vd_buf_t *out, vd_error_t *err)
{
    static const struct {
        const char *verb;
        int (*run)(state_t *state, vd_error_t *err);
    } verbs[] = {{"verify", verify}, {"tail", tail}, {"search", search}, {"prove", prove}};
    state_t state = {.ask = ask, .out = out, .arena = vd_arena_create()};
    int rc = VD_ERR_COMMAND_NOT_FOUND;
    vd_buf_init(&state.record, ROT_RECORD_MAX_BYTES);
    if (ask->limit_segment == 0)
        rc = vd_error_set(err, VD_ERR_AGAIN, "nothing is sealed yet");
    else
        for (size_t i = 0; i < VD_COUNT_OF(verbs); i++)
            if (strcmp(ask->verb, verbs[i].verb) == 0)
                rc = verbs[i].run(&state, err);
    if (rc != VD_OK)
        (void)vd_error_set(err, rc,
                           "the audit log knows no such question, or the answer is too "
                           "large"); /* where nothing better was said */
    vd_buf_done(&state.record);
    vd_free(state.leaves);
    vd_arena_destroy(&state.arena);
    return rc;
}
