/* veddb-storaged/audit/heads.c — see audit.h and proto/heads.md: heads of the audit logs of other
 * nodes are kept here, ours is told to them, and what they hold of it to rotated.
 *
 * Of a head nothing is looked at but what it is of and its number: who knows the keys checks it. */
#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "veddb-storaged/audit/audit_private.h"
#include "veddb-storaged/catalog/catalog.h"

#include <openssl/sha.h>
#include <stdio.h>

#define LOG_ID_AT    8
#define LOG_ID_BYTES 16
#define NUMBER_AT    24

/* ---- our own ---- */

void stor_audit_own_head_take(stor_audit_t *audit, const vdp_audit_sealed_t *sealed)
{
    atomic_store(&audit->rolled_back, sealed->alarm);
    if (sealed->signed_head.len != VDP_AUDIT_HEAD_BYTES)
        return;
    (void)pthread_mutex_lock(&audit->heads_lock);
    memcpy(audit->own_head, sealed->signed_head.data, VDP_AUDIT_HEAD_BYTES);
    audit->checked_len = (uint32_t)sealed->checked.len;
    if (audit->checked_len > 0)
        memcpy(audit->checked, sealed->checked.data, audit->checked_len);
    audit->own_serial++;
    (void)pthread_mutex_unlock(&audit->heads_lock);
}

bool stor_audit_own_head(stor_audit_t *audit, uint64_t *serial, stor_audit_head_room_t *room,
                         vdp_audit_head_t *ret_head)
{
    (void)pthread_mutex_lock(&audit->heads_lock);
    bool fresh = audit->own_serial != 0 && audit->own_serial != *serial;
    if (fresh) {
        *serial = audit->own_serial;
        memcpy(room->head, audit->own_head, sizeof room->head);
        memcpy(room->checked, audit->checked, audit->checked_len);
        *ret_head = (vdp_audit_head_t){.head = vd_slice(room->head, sizeof room->head),
                                       .alarm = atomic_load(&audit->rolled_back),
                                       .checked = vd_slice(room->checked, audit->checked_len)};
    }
    (void)pthread_mutex_unlock(&audit->heads_lock);
    return fresh;
}

static bool head_copy(uint8_t to[VDP_AUDIT_HEAD_BYTES], vd_slice_t head)
{
    if (head.len != VDP_AUDIT_HEAD_BYTES)
        return false;
    memcpy(to, head.data, VDP_AUDIT_HEAD_BYTES);
    return true;
}

void stor_audit_held(stor_audit_t *audit, const vdp_audit_held_t *held)
{
    if (audit == NULL)
        return;
    (void)pthread_mutex_lock(&audit->heads_lock);
    uint32_t n = 0; /* a newer answer takes the place of the same node's */
    while (n < audit->held_count && !vd_slice_is(held->node, audit->held[n].node))
        n++;
    if (n < STOR_AUDIT_HELD_MAX) {
        stor_audit_held_t *one = &audit->held[n];
        *one = (stor_audit_held_t){.frozen = held->frozen};
        (void)snprintf(one->node, sizeof one->node, "%.*s", VD_SLICE_FMT(held->node));
        one->has_head = head_copy(one->head, held->head);
        one->has_other = head_copy(one->other, held->other);
        audit->held_count += n == audit->held_count;
    } /* else: it is asked again within 30 s */
    (void)pthread_mutex_unlock(&audit->heads_lock);
}

bool stor_audit_held_next(stor_audit_t *audit, stor_audit_held_t *ret_held)
{
    (void)pthread_mutex_lock(&audit->heads_lock);
    bool has = audit->held_count > 0;
    if (has) {
        *ret_held = audit->held[0];
        memmove(audit->held, audit->held + 1, --audit->held_count * sizeof audit->held[0]);
    }
    (void)pthread_mutex_unlock(&audit->heads_lock);
    return has;
}

/* ---- those of others ---- */

typedef struct {
    uint8_t head[VDP_AUDIT_HEAD_BYTES];
    bool frozen;
} log_t;

/* The logs of one node, in the order in which their last heads came. */
typedef struct {
    log_t logs[STOR_AUDIT_LOGS_MAX];
    uint32_t count;
} logs_t;

/* Names of nodes are longer than names of rows may be. */
static const char *row_name(vd_slice_t node, char name[48])
{
    uint8_t digest[SHA256_DIGEST_LENGTH];
    (void)SHA256(node.data, node.len, digest);
    int len = snprintf(name, 48, "heads.");
    for (int i = 0; i < 16; i++)
        len += snprintf(name + len, 48 - (size_t)len, "%02x", digest[i]);
    return name;
}

static int logs_load(stor_session_t *session, const char *name, vd_arena_t *arena, logs_t *logs,
                     vd_error_t *err)
{
    vd_value_t row;
    vd_error_t miss = VD_ERROR_INIT;
    vd_bson_iter_t iter;
    int rc = stor_catalog_meta_get(session, name, arena, &row, &miss);
    if (rc == VD_ERR_NOT_FOUND)
        return VD_OK;
    if (rc != VD_OK)
        return vd_error_set(err, rc, "%s", miss.message);
    vd_value_t list =
        row.type == VD_BSON_OBJECT ? vd_bson_get(vd_value_document(row), "logs") : VD_VALUE_MISSING;
    if (list.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_CORRUPT, "a row of audit heads is malformed");
    vd_bson_iter_init(&iter, vd_value_document(list));
    while (logs->count < STOR_AUDIT_LOGS_MAX && vd_bson_iter_next(&iter)) {
        vd_bson_t one =
            iter.value.type == VD_BSON_OBJECT ? vd_value_document(iter.value) : VD_BSON_NONE;
        vd_value_t head = vd_bson_get(one, "head"), frozen = vd_bson_get(one, "frozen");
        uint8_t subtype;
        log_t *log = &logs->logs[logs->count];
        if (head.type != VD_BSON_BINARY || !head_copy(log->head, vd_value_binary(head, &subtype)))
            return vd_error_set(err, VD_ERR_CORRUPT, "a row of audit heads is malformed");
        log->frozen = frozen.type == VD_BSON_BOOL && vd_value_bool(frozen);
        logs->count++;
    }
    return VD_OK;
}

static int logs_save(stor_session_t *session, const char *name, vd_slice_t node, const logs_t *logs,
                     vd_error_t *err)
{
    vd_bb_t bb;
    vd_bson_t row;
    vd_bb_init(&bb, 8192);
    vd_bb_string(&bb, "node", node);
    vd_bb_begin_array(&bb, "logs");
    for (uint32_t i = 0; i < logs->count; i++) {
        char position[12];
        vd_bb_open_document(&bb, vd_array_name(i, position));
        vd_bb_binary(&bb, "head", 0, vd_slice(logs->logs[i].head, VDP_AUDIT_HEAD_BYTES));
        vd_bb_bool(&bb, "frozen", logs->logs[i].frozen);
        vd_bb_close(&bb);
    }
    vd_bb_close(&bb);
    int rc = vd_bb_finish(&bb, &row, err);
    if (rc == VD_OK)
        rc = stor_txn_begin(session, err);
    if (rc == VD_OK) {
        rc = stor_catalog_meta_put(session, name, vd_value_from_document(row), err);
        if (rc == VD_OK)
            rc = stor_txn_commit(session, err);
        else
            stor_txn_rollback(session);
    }
    vd_bb_done(&bb);
    return rc;
}

static bool same_log(const uint8_t *a, const uint8_t *b)
{
    return memcmp(a + LOG_ID_AT, b + LOG_ID_AT, LOG_ID_BYTES) == 0;
}

/* Its owner's rotated was told of this one, and it is no evidence. */
static bool is_checked(const uint8_t *head, vd_slice_t checked)
{
    uint8_t digest[VDP_AUDIT_CHECKED_BYTES];
    (void)SHA256(head, VDP_AUDIT_HEAD_BYTES, digest);
    for (size_t at = 0; at < checked.len; at += sizeof digest)
        if (memcmp(checked.data + at, digest, sizeof digest) == 0)
            return true;
    return false;
}

/* Room for one more: the oldest that is no evidence goes. */
static bool room_make(logs_t *logs)
{
    uint32_t n = 0;
    if (logs->count < STOR_AUDIT_LOGS_MAX)
        return true;
    while (n < logs->count && logs->logs[n].frozen)
        n++;
    if (n == logs->count)
        return false;
    memmove(logs->logs + n, logs->logs + n + 1, (--logs->count - n) * sizeof logs->logs[0]);
    return true;
}

static void frozen_tell(stor_storage_t *storage, stor_session_t *session, vd_slice_t node,
                        uint64_t held, uint64_t shown)
{
    vd_bb_t bb;
    vd_bson_t event;
    vd_error_t err = VD_ERROR_INIT;
    vd_log(VD_LOG_ERROR, "the audit log of another node was put back or changed",
           "node=%.*s held=%llu shown=%llu", VD_SLICE_FMT(node), (unsigned long long)held,
           (unsigned long long)shown);
    if (storage->audit == NULL)
        return;
    vd_bb_init(&bb, 4096);
    stor_audit_begin(&bb, "auditRollback", vd_wall_ms(), VD_SLICE_NULL, VD_SLICE_NULL);
    vd_bb_begin_document(&bb, "param");
    vd_bb_string(&bb, "node", node);
    vd_bb_int64(&bb, "heldHead", (int64_t)held);
    vd_bb_int64(&bb, "shownHead", (int64_t)shown);
    vd_bb_close(&bb);
    vd_bb_int32(&bb, "result", 0);
    int rc = vd_bb_finish(&bb, &event, &err);
    if (rc == VD_OK)
        rc = stor_audit_event(storage->audit, session, event, &err);
    if (rc != VD_OK)
        vd_log(VD_LOG_ERROR, "an alarm is not in the audit log", "error=\"%s\"", err.message);
    vd_bb_done(&bb);
}

int stor_audit_keep(stor_storage_t *storage, stor_session_t *session, const vdp_audit_keep_t *keep,
                    vd_buf_t *text, vdp_audit_peer_held_t *ret_held, vd_error_t *err)
{
    char name[48];
    logs_t logs = {0};
    const uint8_t *head = keep->head.data;
    if (keep->node.len == 0 || keep->head.len != VDP_AUDIT_HEAD_BYTES ||
        keep->checked.len % VDP_AUDIT_CHECKED_BYTES != 0 || memcmp(head, "VDAH\1\0\0\0", 8) != 0)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "no head of an audit log");
    vd_arena_t *arena = vd_arena_create();
    int rc = logs_load(session, row_name(keep->node, name), arena, &logs, err);
    vd_arena_destroy(&arena);
    if (rc != VD_OK)
        return rc;
    uint32_t n = 0;
    while (n < logs.count && !same_log(logs.logs[n].head, head))
        n++;
    bool known = n < logs.count;
    uint64_t shown = vd_get_u64(head + NUMBER_AT), held = 0;
    const log_t *other = NULL; /* of those of another log, the one that came last */
    for (uint32_t i = 0; i < logs.count; i++)
        other = i != n ? &logs.logs[i] : other;
    *ret_held = (vdp_audit_peer_held_t){.frozen = known && logs.logs[n].frozen};
    if ((known && vd_buf_append(text, logs.logs[n].head, VDP_AUDIT_HEAD_BYTES) != VD_OK) ||
        (other != NULL && vd_buf_append(text, other->head, VDP_AUDIT_HEAD_BYTES) != VD_OK))
        return vd_error_set(err, VD_ERR_FULL, "the answer is too large");
    size_t at = known ? VDP_AUDIT_HEAD_BYTES : 0;
    if (known)
        ret_held->head = vd_slice(vd_buf_slice(text).data, VDP_AUDIT_HEAD_BYTES);
    if (other != NULL)
        ret_held->other = vd_slice(vd_buf_slice(text).data + at, VDP_AUDIT_HEAD_BYTES);

    bool freezes = known && keep->alarm && !logs.logs[n].frozen;
    held = known ? vd_get_u64(logs.logs[n].head + NUMBER_AT) : 0;
    if (known && !freezes &&
        (logs.logs[n].frozen || shown <= held || !is_checked(logs.logs[n].head, keep->checked)))
        return VD_OK;
    log_t now = {.frozen = freezes};
    memcpy(now.head, freezes ? logs.logs[n].head : head, VDP_AUDIT_HEAD_BYTES);
    if (known)
        memmove(logs.logs + n, logs.logs + n + 1, (--logs.count - n) * sizeof logs.logs[0]);
    else if (!room_make(&logs))
        return vd_error_set(err, VD_ERR_FULL, "%.*s has shown %d audit logs that were put back",
                            VD_SLICE_FMT(keep->node), STOR_AUDIT_LOGS_MAX);
    logs.logs[logs.count++] = now; /* the newest stands last */
    rc = logs_save(session, name, keep->node, &logs, err);
    if (rc == VD_OK && freezes)
        frozen_tell(storage, session, keep->node, held, shown);
    return rc;
}
