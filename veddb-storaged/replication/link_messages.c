/* veddb-storaged/replication/link_messages.c — what replicad may ask for: one function a message,
 * and the one table of them. See link.h. */
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "veddb-storaged/audit/audit.h"
#include "veddb-storaged/inbox.h"
#include "veddb-storaged/journal.h"
#include "veddb-storaged/replication/apply.h"
#include "veddb-storaged/replication/link_private.h"
#include "veddb-storaged/replication/load.h"
#include "veddb-storaged/replication/positions.h"
#include "veddb-storaged/replication/snapshot.h"
#include "veddb-storaged/replication/tail.h"

#define BATCH_MAX_BYTES (32u * 1024 * 1024)
#define QUEUED_ENOUGH   (64u * 1024 * 1024) /* given to the link: a BATCH waits until less is */
#define FOUND_MAX       64
#define POSITIONS_MAX   64

/* ---- what the worker "applier" does ---- */

static int run_role(stor_replication_link_t *link, stor_session_t *session, stor_link_job_t *job,
                    vd_error_t *err)
{
    const vdp_replication_role_t *asked = &job->asked.role;
    vdp_replication_role_set_t *set = &job->answer.role_set;
    if (asked->role < VDP_ROLE_PRIMARY || asked->role > VDP_ROLE_REMOVED)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "role %u is unknown", asked->role);
    if (asked->role == VDP_ROLE_PRIMARY && atomic_load(&link->loading))
        return vd_error_set(err, VD_ERR_BAD_VALUE, "a half-loaded node can't be primary");
    set->term = asked->term;
    set->role = asked->role;
    return stor_replication_role_set(link->storage, session, asked->term, (int)asked->role,
                                     asked->leader, &set->newest, err);
}

static int run_apply(stor_replication_link_t *link, stor_session_t *session, stor_link_job_t *job,
                     vd_error_t *err)
{
    stor_apply_t *apply = link->storage->replication->apply;
    uint64_t applied = 0;
    int rc = stor_apply_batch(apply, session, &job->asked.apply, job->body, &applied, err);
    job->answer.applied.applied = applied;
    job->durable = applied;
    if (rc == VD_OK) {
        stor_positions_applied(link->storage->replication->positions);
        stor_engine_flush_soon(link->storage->engine);
    }
    return rc;
}

static int config_put(stor_session_t *session, uint64_t timestamp, void *context, vd_error_t *err)
{
    (void)timestamp; /* the row is the configuration alone */
    return stor_replication_config_put(session, *(const vd_bson_t *)context, err);
}

static int64_t config_number(vd_bson_t config, const char *name)
{
    int64_t number = 0;
    bool there = config.len > 0 && vd_value_as_int64(vd_bson_get(config, name), &number);
    return there ? number : 0;
}

static int config_check(stor_replication_link_t *link, int64_t version, vd_bson_t config,
                        vd_error_t *err)
{
    vd_arena_t *arena = vd_arena_create();
    vd_bson_t present = stor_replication_config(link->storage, arena);
    int64_t before = config_number(present, "version"),
            before_term = config_number(present, "term");
    vd_arena_destroy(&arena);
    if (vd_bson_validate(vd_slice(config.data, config.len), 0, VD_BSON_DEPTH_MAX, NULL) != VD_OK ||
        config_number(config, "version") != version)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "the configuration is malformed");
    /* A new primary makes the one that it acts by its own: of a newer term. */
    bool renews = version >= before && config_number(config, "term") > before_term;
    if (version != before + 1 && !renews)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "configuration %lld does not follow %lld",
                            (long long)version, (long long)before);
    return VD_OK;
}

static int run_config(stor_replication_link_t *link, stor_session_t *session, stor_link_job_t *job,
                      vd_error_t *err)
{
    stor_storage_t *storage = link->storage;
    vd_bson_t config = {job->body.data, (uint32_t)job->body.len};
    uint64_t timestamp = 0;
    int rc = config_check(link, job->asked.config.version, config, err);
    if (rc == VD_OK)
        rc = stor_replication_write_enter(storage, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_journal_note(storage, session, STOR_CHANGE_CONFIG, config, config_put, &config,
                           &timestamp, err);
    stor_replication_write_leave(storage);
    if (rc != VD_OK)
        return rc;
    stor_replication_config_changed(storage, config);
    job->answer.config_set.timestamp = timestamp;
    job->durable = timestamp;
    stor_engine_flush_soon(storage->engine);
    return VD_OK;
}

static int run_rollback(stor_replication_link_t *link, stor_session_t *session,
                        stor_link_job_t *job, vd_error_t *err)
{
    vdp_replication_rolled_back_t *answer = &job->answer.rolled_back;
    if (stor_replication_role(link->storage) != VDP_ROLE_RECOVERING)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "only a recovering node rolls back");
    int rc = stor_rollback_save(link->storage, session, job->asked.rollback.to, &answer->documents,
                                &job->text, err);
    answer->folder = vd_buf_slice(&job->text);
    if (rc == VD_OK)
        rc = stor_audit_rolled_back(link->storage->audit, session, job->asked.rollback.to,
                                    answer->documents, answer->folder, err);
    if (rc == VD_OK)
        atomic_store(&link->forsaken, true);
    return rc;
}

/* What STATE says of the load. */
static void known_look(stor_replication_link_t *link, stor_session_t *session)
{
    stor_load_known_t load = {0};
    bool known = stor_load_known(session, &load);
    uint64_t floor = stor_load_floor(session);
    (void)pthread_mutex_lock(&link->storage->replication->lock);
    link->known = known;
    link->load = load;
    link->floor = floor;
    (void)pthread_mutex_unlock(&link->storage->replication->lock);
}

static int run_load_begin(stor_replication_link_t *link, stor_session_t *session,
                          stor_link_job_t *job, vd_error_t *err)
{
    vd_bson_t manifest = {job->body.data, (uint32_t)job->body.len};
    if (vd_bson_validate(job->body, 0, VD_BSON_DEPTH_MAX, err) != VD_OK)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "the manifest is malformed");
    int rc = stor_load_begin(link->storage, session, &job->asked.begin, manifest,
                             &job->answer.load_state, &job->out, err);
    known_look(link, session);
    if (rc == VD_OK) {
        job->answer.load_state.snapshot = job->asked.begin.snapshot;
        atomic_store(&link->loading, true);
    }
    return rc;
}

static int run_load_chunk(stor_replication_link_t *link, stor_session_t *session,
                          stor_link_job_t *job, vd_error_t *err)
{
    job->answer.chunk_done.collection = job->asked.chunk.collection;
    return stor_load_chunk(link->storage, session, &job->asked.chunk, job->body,
                           &job->answer.chunk_done.documents, err);
}

static int run_load_end(stor_replication_link_t *link, stor_session_t *session,
                        stor_link_job_t *job, vd_error_t *err)
{
    int rc =
        stor_load_end(link->storage, session, &job->asked.end, &job->answer.ended.position, err);
    if (rc == VD_OK) {
        stor_apply_position_set(link->storage->replication->apply, job->answer.ended.position);
        atomic_store(&link->loading, false);
        atomic_store(&link->forsaken, false);
    }
    known_look(link, session);
    return rc;
}

/* ---- what the worker "copier" does ---- */

static int run_snapshot_open(stor_replication_link_t *link, stor_session_t *session,
                             stor_link_job_t *job, vd_error_t *err)
{
    stor_snapshots_t *snapshots = link->storage->replication->snapshots;
    vd_slice_t again = job->asked.open.snapshot;
    int rc = again.len > 0
                 ? stor_snapshot_reopen(snapshots, again, &job->answer.opened, &job->out, err)
                 : stor_snapshot_open(snapshots, session, &job->answer.opened, &job->out, err);
    if (rc == VD_OK && vd_buf_append_slice(&job->text, job->answer.opened.snapshot) == VD_OK)
        job->answer.opened.snapshot = vd_buf_slice(&job->text); /* it may be closed meanwhile */
    return rc;
}

static int run_snapshot_read(stor_replication_link_t *link, stor_session_t *session,
                             stor_link_job_t *job, vd_error_t *err)
{
    vdp_snapshot_chunk_t *chunk = &job->answer.chunk;
    int rc = stor_snapshot_read(link->storage->replication->snapshots, session, &job->asked.read,
                                job->body, &job->out, chunk, err);
    chunk->snapshot = job->asked.read.snapshot;
    if (rc != VD_OK)
        return rc;
    size_t len = chunk->sha256.len; /* own copies: the next read changes them */
    if (vd_buf_append_slice(&job->text, chunk->sha256) != VD_OK ||
        vd_buf_append_slice(&job->text, chunk->after) != VD_OK)
        return vd_error_set(err, VD_ERR_FULL, "a key of %zu bytes", chunk->after.len);
    vd_slice_t text = vd_buf_slice(&job->text);
    chunk->sha256 = vd_slice(text.data, len);
    chunk->after = vd_slice(text.data + len, text.len - len);
    return VD_OK;
}

static int run_snapshot_close(stor_replication_link_t *link, stor_session_t *session,
                              stor_link_job_t *job, vd_error_t *err)
{
    (void)session, (void)err; /* a notice about what may be gone already */
    stor_snapshot_close(link->storage->replication->snapshots, job->asked.close.snapshot);
    return VD_OK;
}

/* ---- what is done at once ---- */

static int run_topology(stor_replication_link_t *link, stor_session_t *session,
                        stor_link_job_t *job, vd_error_t *err)
{
    (void)session;
    if (vd_bson_validate(job->body, 0, VD_BSON_DEPTH_MAX, err) != VD_OK)
        return VD_ERR_PROTOCOL;
    stor_replication_topology_set(link->storage, job->asked.topology.version,
                                  (vd_bson_t){job->body.data, (uint32_t)job->body.len});
    if (link->storage->inbox != NULL)
        stor_inbox_announce(link->storage->inbox);
    return VD_OK;
}

static int run_status(stor_replication_link_t *link, stor_session_t *session, stor_link_job_t *job,
                      vd_error_t *err)
{
    (void)session;
    if (vd_bson_validate(job->body, 0, VD_BSON_DEPTH_MAX, err) != VD_OK)
        return VD_ERR_PROTOCOL;
    stor_replication_status_set(link->storage,
                                (vd_bson_t){job->body.data, (uint32_t)job->body.len});
    return VD_OK;
}

static int run_positions(stor_replication_link_t *link, stor_session_t *session,
                         stor_link_job_t *job, vd_error_t *err)
{
    (void)session;
    vdp_position_t members[POSITIONS_MAX];
    size_t count = job->body.len / VDP_POSITION_BYTES;
    if (job->body.len % VDP_POSITION_BYTES != 0 || count > POSITIONS_MAX)
        return vd_error_set(err, VD_ERR_PROTOCOL, "positions of %zu bytes", job->body.len);
    for (size_t i = 0; i < count; i++)
        vdp_position_read(job->body.data + i * VDP_POSITION_BYTES, &members[i]);
    stor_replication_lease(link->storage, job->asked.positions.term,
                           job->asked.positions.lease_until_ms);
    stor_replication_fresh(link->storage, job->asked.positions.term, job->asked.positions.fresh_ms);
    stor_positions_builds_note(link->storage->replication->positions, job->asked.positions.term,
                               job->asked.positions.builds);
    stor_positions_note(link->storage->replication->positions, job->asked.positions.term,
                        job->asked.positions.majority, members, (uint32_t)count);
    return VD_OK;
}

static int run_audit_keep(stor_replication_link_t *link, stor_session_t *session,
                          stor_link_job_t *job, vd_error_t *err)
{
    return stor_audit_keep(link->storage, session, &job->asked.audit_keep, &job->text,
                           &job->answer.audit_kept, err);
}

static int run_audit_held(stor_replication_link_t *link, stor_session_t *session,
                          stor_link_job_t *job, vd_error_t *err)
{
    (void)session; /* passed on alone */
    (void)err;
    stor_audit_held(link->storage->audit, &job->asked.audit_held);
    return VD_OK;
}

static int run_count(stor_replication_link_t *link, stor_session_t *session, stor_link_job_t *job,
                     vd_error_t *err)
{
    stor_journal_count_t counts[VDP_COUNTS_MAX];
    uint32_t count = (uint32_t)(job->body.len / 8);
    if (job->body.len % 8 != 0 || job->body.len / 8 > VDP_COUNTS_MAX)
        return vd_error_set(err, VD_ERR_PROTOCOL, "a count for %zu bytes", job->body.len);
    for (uint32_t i = 0; i < count; i++)
        counts[i] = (stor_journal_count_t){.above = vd_get_u64(job->body.data + (size_t)i * 8)};
    job->answer.counted.newest = stor_engine_visible(link->storage->engine);
    int rc = stor_journal_count(link->storage->journal, session, counts, count, err);
    for (uint32_t i = 0; rc == VD_OK && i < count; i++)
        rc = vd_buf_append_u64(&job->out,
                               counts[i].entries | (counts[i].exact ? 0 : VDP_COUNT_AT_LEAST));
    return rc;
}

static int run_find(stor_replication_link_t *link, stor_session_t *session, stor_link_job_t *job,
                    vd_error_t *err)
{
    stor_tail_t *tail = link->storage->replication->tail;
    uint64_t timestamps[FOUND_MAX];
    uint32_t count = 0;
    if (job->asked.find.sample && job->body.len == 0) {
        int rc = stor_tail_sample(tail, session, timestamps, FOUND_MAX, &count, err);
        for (uint32_t i = 0; rc == VD_OK && i < count; i++)
            rc = vd_buf_append_u64(&job->out, timestamps[i]);
        return rc;
    }
    if (job->body.len % 8 != 0 || job->body.len / 8 > FOUND_MAX)
        return vd_error_set(err, VD_ERR_PROTOCOL, "a search for %zu bytes", job->body.len);
    for (; count < job->body.len / 8; count++)
        timestamps[count] = vd_get_u64(job->body.data + (size_t)count * 8);
    return stor_tail_find(tail, session, timestamps, count, &job->answer.found.timestamp, err);
}

/* VD_ERR_NOT_FOUND: parked. */
static int run_tail(stor_replication_link_t *link, stor_session_t *session, stor_link_job_t *job,
                    vd_error_t *err)
{
    vdp_replication_tail_t *ask = &job->asked.tail;
    if (ask->bytes_max > BATCH_MAX_BYTES)
        ask->bytes_max = BATCH_MAX_BYTES;
    if (vd_link_queued_bytes(link->link, job->peer) > QUEUED_ENOUGH)
        return VD_ERR_NOT_FOUND;
    /* Before the look: a flush after it wakes us. */
    atomic_store(&link->watching, true);
    return stor_tail_read(link->storage->replication->tail, session, ask, &job->out,
                          &job->answer.batch, err);
}

static int run_answer(stor_replication_link_t *link, stor_session_t *session, stor_link_job_t *job,
                      vd_error_t *err)
{
    (void)session;
    const vdp_replication_answer_t *answer = &job->asked.answer;
    int code = answer->code >= INT_MIN && answer->code <= 0 ? (int)answer->code : VD_ERR_PROTOCOL;
    if (stor_asks_answer(&link->asks, job->request_id, code, answer->message, job->body))
        return VD_OK;
    return vd_error_set(err, VD_ERR_PROTOCOL, "an answer that nobody waits for");
}

/* A new replicad: what the one before asked for is of no use any more. */
static int run_attach(stor_replication_link_t *link, stor_session_t *session, stor_link_job_t *job,
                      vd_error_t *err)
{
    (void)session, (void)err;
    link->peer = job->peer;
    stor_link_queue_free(&link->tails);
    stor_link_queue_free(&link->held);
    (void)pthread_mutex_lock(&link->applier.lock);
    stor_link_queue_free(&link->applier.applies);
    (void)pthread_mutex_unlock(&link->applier.lock);
    stor_link_state_send(link, &vdp_replication_attached, job->request_id);
    vd_log(VD_LOG_INFO, "replicad attached", "node=%.*s", VD_SLICE_FMT(job->asked.attach.node));
    return VD_OK;
}

/* ---- the table ---- */

static const stor_link_row_t rows[] = {
    {.id = VDP_REPLICATION_ATTACH,
     .message = &vdp_replication_attach,
     .notice = true, /* answers by itself */
     .run = run_attach},
    {.id = VDP_REPLICATION_ROLE,
     .message = &vdp_replication_role,
     .answer = &vdp_replication_role_set,
     .where = APPLIER,
     .run = run_role},
    {.id = VDP_REPLICATION_TAIL,
     .message = &vdp_replication_tail,
     .answer = &vdp_replication_batch,
     .never_loading = true,
     .run = run_tail},
    {.id = VDP_REPLICATION_APPLY,
     .message = &vdp_replication_apply,
     .answer = &vdp_replication_applied,
     .where = APPLIER,
     .never_primary = true,
     .never_loading = true,
     .run = run_apply},
    {.id = VDP_REPLICATION_POSITIONS,
     .message = &vdp_replication_positions,
     .notice = true,
     .run = run_positions},
    {.id = VDP_REPLICATION_TOPOLOGY,
     .message = &vdp_replication_topology,
     .notice = true,
     .run = run_topology},
    {.id = VDP_REPLICATION_STATUS,
     .message = &vdp_replication_status,
     .notice = true,
     .run = run_status},
    {.id = VDP_REPLICATION_ANSWER,
     .message = &vdp_replication_answer,
     .notice = true,
     .run = run_answer},
    {.id = VDP_REPLICATION_CONFIG,
     .message = &vdp_replication_config,
     .answer = &vdp_replication_config_set,
     .where = APPLIER,
     .run = run_config},
    {.id = VDP_REPLICATION_FIND,
     .message = &vdp_replication_find,
     .answer = &vdp_replication_found,
     .run = run_find},
    {.id = VDP_REPLICATION_COUNT,
     .message = &vdp_replication_count,
     .answer = &vdp_replication_counted,
     .run = run_count},
    {.id = VDP_REPLICATION_AUDIT_KEEP,
     .message = &vdp_replication_audit_keep,
     .answer = &vdp_replication_audit_kept,
     .run = run_audit_keep},
    {.id = VDP_REPLICATION_AUDIT_HELD,
     .message = &vdp_replication_audit_held,
     .notice = true,
     .run = run_audit_held},
    {.id = VDP_REPLICATION_ROLLBACK,
     .message = &vdp_replication_rollback,
     .answer = &vdp_replication_rolled_back,
     .where = APPLIER,
     .never_primary = true,
     .run = run_rollback},
    {.id = VDP_SNAPSHOT_OPEN,
     .message = &vdp_snapshot_open,
     .answer = &vdp_snapshot_opened,
     .where = COPIER,
     .never_loading = true,
     .run = run_snapshot_open},
    {.id = VDP_SNAPSHOT_READ,
     .message = &vdp_snapshot_read,
     .answer = &vdp_snapshot_chunk,
     .where = COPIER,
     .run = run_snapshot_read},
    {.id = VDP_SNAPSHOT_CLOSE,
     .message = &vdp_snapshot_close,
     .where = COPIER,
     .notice = true,
     .run = run_snapshot_close},
    {.id = VDP_LOAD_BEGIN,
     .message = &vdp_load_begin,
     .answer = &vdp_load_state,
     .where = APPLIER,
     .never_primary = true,
     .run = run_load_begin},
    {.id = VDP_LOAD_CHUNK,
     .message = &vdp_load_chunk,
     .answer = &vdp_load_chunk_done,
     .where = APPLIER,
     .never_primary = true,
     .only_loading = true,
     .run = run_load_chunk},
    {.id = VDP_LOAD_END,
     .message = &vdp_load_end,
     .answer = &vdp_load_ended,
     .where = APPLIER,
     .never_primary = true,
     .only_loading = true,
     .run = run_load_end},
};

const stor_link_row_t *stor_link_row(uint32_t id)
{
    for (size_t i = 0; i < VD_COUNT_OF(rows); i++)
        if (rows[i].id == id)
            return &rows[i];
    return NULL;
}

/* Where it runs, just before it does: what was queued before it may have changed the state. */
static int state_check(stor_replication_link_t *link, const stor_link_row_t *row, vd_error_t *err)
{
    if (row->never_primary && stor_replication_role(link->storage) == VDP_ROLE_PRIMARY)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "%s to a primary", vdp_id_name(row->id));
    if (row->never_loading && atomic_load(&link->loading))
        return vd_error_set(err, VD_ERR_BAD_VALUE, "%s while a snapshot is loaded",
                            vdp_id_name(row->id));
    if (row->only_loading && !atomic_load(&link->loading))
        return vd_error_set(err, VD_ERR_BAD_VALUE, "%s before LOAD_BEGIN", vdp_id_name(row->id));
    return VD_OK;
}

void stor_link_job_run(stor_replication_link_t *link, stor_session_t *session, stor_link_job_t *job)
{
    job->err = (vd_error_t)VD_ERROR_INIT;
    job->rc = state_check(link, job->row, &job->err);
    if (job->rc == VD_OK)
        job->rc = job->row->run(link, session, job, &job->err);
    VD_ASSERT(stor_txn_active(session) == false);
}
