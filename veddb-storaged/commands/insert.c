/* veddb-storaged/commands/insert.c — insert.
 *
 * Documents go into the table in groups, one transaction each: one journal entry, one commit. The
 * result is as if each had been inserted by itself: a document that fails in an ordered insert ends
 * the group before it, and is tried again alone; in an unordered one the group goes on without it.
 */
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/commands/write_common.h"
#include "veddb-storaged/timeseries.h"

#define GROUP_MAX 500

static const stor_arg_t insert_table[] = {STOR_WRITE_ARGS("documents")};

static const stor_writes_class_t insert_class = {.kind = STOR_WRITES_INSERT,
                                                 .name = "insert",
                                                 .field = "documents",
                                                 .table = insert_table,
                                                 .table_count = VD_COUNT_OF(insert_table)};

/* A document that was refused; told to the client only when its group is committed. */
typedef struct refused {
    struct refused *next;
    uint32_t index;
    int code;
    const char *message;
    vd_slice_t details;
} refused_t;

typedef struct {
    stor_writes_t *writes;
    uint32_t at;    /* the next document */
    uint32_t first; /* of the run of inserted ones that no row of the session stands for yet */
    uint32_t run, inserted;
    size_t bytes;
    refused_t *refused, **last;
} group_t;

/* Differs between the documents of a command and between commands. */
static uint64_t fill_timestamp(const stor_request_t *request, uint32_t index)
{
    uint64_t seconds = (uint64_t)(request->variables.now_ms / 1000);
    return seconds << 32 | (uint32_t)(request->number + index);
}

static int insert_document(group_t *group, vd_error_t *err)
{
    stor_writes_t *writes = group->writes;
    stor_request_t *request = writes->request;
    vd_bson_t document;
    vd_slice_t key;
    int rc = stor_document_prepare(request->arena, writes->statements[group->at],
                                   fill_timestamp(request, group->at), &document, err);
    if (rc == VD_OK)
        rc = stor_write_validate(&writes->write, document, NULL, writes->args.bypass, err);
    if (rc == VD_OK && writes->collection->timeseries.is) {
        rc = stor_timeseries_insert(&writes->write, document,
                                    stor_writes_statement_id(writes, group->at), err);
    } else if (rc == VD_OK) {
        rc = stor_id_key(request->arena, vd_bson_get(document, "_id"), &key, err);
        if (rc == VD_OK)
            rc = stor_write_insert(&writes->write, key, document,
                                   stor_writes_statement_id(writes, group->at), err);
    }
    if (rc == VD_OK)
        group->bytes += document.len;
    return rc;
}

/* The inserted documents up to here have consecutive statement ids: one row for all. */
static int run_record(group_t *group, vd_error_t *err)
{
    stor_writes_t *writes = group->writes;
    uint32_t run = group->run;
    group->run = 0;
    if (run == 0 || writes->request->txn_number < 0)
        return VD_OK;
    stor_statement_result_t row = {.statement = stor_writes_statement_id(writes, group->first),
                                   .count = run,
                                   .timestamp = writes->write.timestamp,
                                   .n = 1,
                                   .kind = STOR_WRITES_INSERT};
    return stor_write_result(&writes->write, &row, err);
}

static int run_extend(group_t *group, vd_error_t *err)
{
    stor_writes_t *writes = group->writes;
    int rc = VD_OK;
    if (group->run > 0 &&
        (group->first + group->run != group->at ||
         stor_writes_statement_id(writes, group->at) !=
             (int32_t)((uint32_t)stor_writes_statement_id(writes, group->first) + group->run)))
        rc = run_record(group, err);
    if (group->run == 0)
        group->first = group->at;
    group->run++;
    group->inserted++;
    return rc;
}

static void refuse(group_t *group, int code, const vd_error_t *err)
{
    vd_arena_t *arena = group->writes->request->arena;
    refused_t *refused = VD_ARENA_NEW(arena, refused_t);
    refused->index = group->at;
    refused->code = code;
    refused->message = vd_arena_strdup(arena, err->message);
    refused->details = err->details;
    *group->last = refused;
    group->last = &refused->next;
}

/* Fills the open transaction with documents from group->at on. */
static int group_fill(group_t *group, uint32_t most, vd_error_t *err)
{
    stor_writes_t *writes = group->writes;
    stor_request_t *request = writes->request;
    size_t used = vd_arena_used(request->arena);
    uint32_t end = most < writes->count - group->at ? group->at + most : writes->count;
    while (group->at < end && group->bytes < STOR_WRITE_GROUP_MAX_BYTES &&
           vd_arena_used(request->arena) - used < 2 * STOR_WRITE_GROUP_MAX_BYTES) {
        vd_error_t step = VD_ERROR_INIT;
        int rc = stor_request_check(request, &step);
        if (rc == VD_OK)
            rc = insert_document(group, &step);
        if (rc == VD_OK)
            rc = run_extend(group, &step);
        if (stor_writes_is_fatal(rc) || rc == VD_ERR_WRITE_CONFLICT) {
            vd_error_copy(&step, err);
            return rc;
        }
        if (rc != VD_OK && writes->args.ordered && group->inserted > 0)
            break; /* as of now it may be refused no more: alone, and anew */
        if (rc != VD_OK)
            refuse(group, rc, &step);
        group->at++;
        if (rc != VD_OK && writes->args.ordered)
            break;
    }
    return run_record(group, err);
}

static int group_try(group_t *group, uint32_t most, vd_error_t *err)
{
    stor_writes_t *writes = group->writes;
    int rc = stor_write_begin(&writes->write, err);
    if (rc == VD_OK)
        rc = group_fill(group, most, err);
    if (rc == VD_OK && group->inserted > 0)
        return stor_writes_commit(writes, err);
    stor_writes_undo(writes);
    return rc;
}

/* Documents from *at on, as many as make one transaction. */
static int insert_group(stor_writes_t *writes, uint32_t *at, bool *ret_stop, vd_error_t *err)
{
    stor_request_t *request = writes->request;
    vd_arena_mark_t mark = vd_arena_mark(request->arena);
    uint32_t most = writes->replay || writes->collection->capped.is ? 1 : GROUP_MAX;
    group_t group;
    int rc;
    writes->write.attempts = 0;
    for (;;) {
        vd_error_t step = VD_ERROR_INIT;
        group = (group_t){.writes = writes, .at = *at};
        group.last = &group.refused;
        rc = group_try(&group, most, &step);
        if (rc == VD_OK)
            break;
        rc = stor_writes_again(writes, rc, &step);
        if (rc != VD_OK) {
            vd_error_copy(&step, err);
            return rc;
        }
        vd_arena_rewind(request->arena, mark);
        most = 1; /* two large groups could meet for ever */
    }
    writes->n += group.inserted;
    for (const refused_t *refused = group.refused; refused != NULL; refused = refused->next)
        stor_writes_note_error(writes, refused->index, refused->code, refused->message,
                               refused->details);
    atomic_fetch_add_explicit(&request->storage->counters.insert, group.at - *at,
                              memory_order_relaxed);
    *ret_stop = group.refused != NULL && writes->args.ordered;
    *at = group.at;
    vd_arena_rewind(request->arena, mark);
    return VD_OK;
}

/* The disk has run full behind documents that are in: these are told of, this one is refused. */
static int insert_refused(stor_writes_t *writes, uint32_t *at, bool *ret_stop,
                          const vd_error_t *err)
{
    stor_writes_note_error(writes, *at, VD_ERR_OUT_OF_DISK_SPACE, err->message, VD_SLICE_NULL);
    *ret_stop = writes->args.ordered;
    ++*at;
    return VD_OK;
}

static int insert_all(stor_writes_t *writes, vd_error_t *err)
{
    bool stop = false;
    int rc = VD_OK;
    for (uint32_t at = 0; rc == VD_OK && at < writes->count && !stop;) {
        stor_statement_result_t result;
        vd_arena_mark_t mark = vd_arena_mark(writes->request->arena);
        rc = stor_writes_replayed(writes, at, &result, err);
        if (rc == VD_OK) {
            writes->n += result.n;
            at++;
            vd_arena_rewind(writes->request->arena, mark);
        } else if (rc == VD_ERR_NOT_FOUND) {
            vd_error_t step = VD_ERROR_INIT;
            rc = stor_writes_collection(writes, true, &step);
            if (rc == VD_OK)
                rc = insert_group(writes, &at, &stop, &step);
            if (rc == VD_ERR_OUT_OF_DISK_SPACE && at > 0)
                rc = insert_refused(writes, &at, &stop, &step);
            if (rc == VD_OK && at < writes->count)
                stor_writes_yield(writes);
            if (rc != VD_OK && err != NULL)
                vd_error_copy(&step, err);
        }
    }
    return rc;
}

int stor_command_insert(stor_request_t *request, vd_error_t *err)
{
    stor_writes_t writes;
    stor_writes_init(&writes, request, &insert_class);
    int rc = stor_writes_parse(&writes, err);
    if (rc == VD_OK)
        rc = stor_writes_start(&writes, err);
    if (rc == VD_OK)
        rc = insert_all(&writes, err);
    if (rc == VD_OK)
        rc = stor_writes_reply(&writes, err);
    stor_writes_done(&writes);
    return rc;
}
