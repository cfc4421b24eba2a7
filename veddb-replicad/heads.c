/* veddb-replicad/heads.c — our audit log's newest head is shown to the members, and theirs given
 * to storage; proto/heads.md. Contract in node.h. */
#include "veddb-replicad/node.h"

#define NEW_MS   1000  /* a new head is shown after so long */
#define AGAIN_MS 30000 /* the same one again */
#define KEEP_MS  5000
#define BEHIND   5 /* as often a head is shown again at once to a member that holds another one */

/* ---- ours ---- */

typedef struct {
    repl_node_t *node;
    uint32_t member;
} shown_t;

static void shown_answered(void *context, const repl_answer_t *answer)
{
    shown_t *shown = context;
    repl_node_t *node = shown->node;
    repl_member_t *member = repl_member_by_id(node, shown->member);
    vdp_audit_peer_held_t held = {0};
    vd_error_t err = VD_ERROR_INIT;
    if (member != NULL)
        member->heads.asking = false;
    if (member != NULL &&
        repl_answer_take(answer, &vdp_peer_audit_held, &held, NULL, &err) == VD_OK) {
        vdp_audit_held_t fields = {.node = vd_slice_str(repl_member_name(node, shown->member)),
                                   .head = held.head,
                                   .frozen = held.frozen,
                                   .other = held.other};
        repl_storage_tell(node->storage, &vdp_replication_audit_held, &fields, VD_SLICE_NULL);
        bool same = held.head.len == sizeof node->heads.head &&
                    memcmp(held.head.data, node->heads.head, held.head.len) == 0;
        member->heads.behind = same || held.frozen ? 0 : member->heads.behind + 1;
    } else if (member != NULL) {
        member->heads.tag = 0; /* shown again at the next tick */
        member->heads.at_ms = repl_now(node);
    }
    vd_free(shown);
}

static void show(void *context, repl_conn_t *conn)
{
    repl_node_t *node = context;
    repl_member_t *member =
        repl_conn_link(conn) == NULL ? NULL : repl_member_of(node, conn); /* as heartbeats */
    uint64_t now = repl_now(node);
    if (member == NULL || member->heads.asking || member->id == node->self)
        return;
    bool again = member->heads.serial == node->heads.serial;
    bool soon = !again || member->heads.tag == 0 ||
                (member->heads.behind > 0 && member->heads.behind <= BEHIND);
    bool first = member->heads.tag != 0 && member->heads.tag != repl_conn_tag(conn);
    if (!first && member->heads.at_ms != 0 &&
        now < member->heads.at_ms + (soon ? NEW_MS : AGAIN_MS))
        return;
    shown_t *shown = vd_xalloc(sizeof *shown);
    *shown = (shown_t){node, member->id};
    member->heads.tag = repl_conn_tag(conn);
    member->heads.serial = node->heads.serial;
    member->heads.at_ms = now;
    member->heads.asking = true;
    if (!again)
        member->heads.behind = 0;
    vdp_audit_head_t fields = {.head = vd_slice(node->heads.head, sizeof node->heads.head),
                               .alarm = node->heads.alarm,
                               .checked = vd_slice(node->heads.checked, node->heads.checked_len)};
    (void)repl_conn_ask(conn, &vdp_peer_audit_head, &fields, VD_SLICE_NULL, false,
                        10 * node->lease_ms, shown_answered, shown); /* answered in any case */
}

void repl_heads_own(void *context, const vdp_audit_head_t *head)
{
    repl_node_t *node = context;
    if (head->head.len != VDP_AUDIT_HEAD_BYTES)
        return;
    memcpy(node->heads.head, head->head.data, VDP_AUDIT_HEAD_BYTES);
    node->heads.checked_len = (uint32_t)head->checked.len;
    if (node->heads.checked_len > 0)
        memcpy(node->heads.checked, head->checked.data, node->heads.checked_len);
    node->heads.alarm = head->alarm;
    node->heads.serial++;
}

void repl_heads_tick(repl_node_t *node)
{
    if (node->heads.serial != 0)
        repl_peers_each(node->peers, show, node);
}

/* ---- those of others ---- */

typedef struct {
    repl_node_t *node;
    uint64_t tag, request;
    const repl_answer_t *answer;
} keep_t;

static void keep_answer(void *context, repl_conn_t *conn)
{
    keep_t *keep = context;
    vdp_audit_peer_held_t held = {0};
    vd_error_t err = VD_ERROR_INIT;
    if (repl_conn_tag(conn) != keep->tag)
        return;
    if (repl_answer_take(keep->answer, &vdp_replication_audit_kept, &held, NULL, &err) != VD_OK)
        repl_conn_send_failure(conn, keep->request, &err);
    else if (repl_conn_send(conn, &vdp_peer_audit_held, keep->request, &held, VD_SLICE_NULL,
                            NULL) != VD_OK)
        VD_DEBUG("an answer to a node was not sent", "message=%s", vdp_peer_audit_held.name);
}

static void kept(void *context, const repl_answer_t *answer)
{
    keep_t *keep = context;
    keep->answer = answer;
    repl_peers_each(keep->node->peers, keep_answer, keep); /* unless it has gone */
    vd_free(keep);
}

void repl_heads_shown(repl_node_t *node, repl_conn_t *conn, uint64_t request,
                      const vdp_audit_head_t *head)
{
    vdp_audit_keep_t fields = {.node = vd_slice_str(repl_conn_greeting(conn)->node),
                               .head = head->head,
                               .alarm = head->alarm,
                               .checked = head->checked};
    keep_t *keep = vd_xalloc(sizeof *keep);
    *keep = (keep_t){.node = node, .tag = repl_conn_tag(conn), .request = request};
    (void)repl_storage_ask(node->storage, &vdp_replication_audit_keep, &fields, VD_SLICE_NULL,
                           KEEP_MS, kept, keep); /* answered in any case */
}
