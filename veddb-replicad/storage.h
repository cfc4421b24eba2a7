/* veddb-replicad/storage.h — the link to our own storage.
 *
 * Duty:    attaches (again after each loss), keeps what ATTACHED and STATE say, sends questions
 *          and notices, brings answers to who asked. Decides nothing.
 * Owner:   node.h.
 * Threads: the loop's. */
#pragma once
#include "libcommon/bson/view.h"
#include "libcommon/runtime/loop.h"
#include "proto/heads.h"
#include "veddb-replicad/calls.h"

typedef struct repl_storage repl_storage_t;

typedef struct {
    bool attached, ready, empty, loading;
    uint32_t role; /* VDP_ROLE_* */
    uint64_t term, newest, durable, oldest, majority, floor;
    uint64_t made_ms;       /* when storage looked at `newest`; 0: it does not say */
    uint64_t auth_position; /* as in STATE */
    uint8_t boot_id[16], set_id[12];
    bool has_set_id;
    bool load_known; /* the copy that is half loaded, and whose it is */
    uint8_t load_snapshot[16];
    char load_source[VDP_NODE_NAME_MAX + 1];
    char leader[VDP_NODE_NAME_MAX + 1]; /* whom storage was told last; "" = not known */
    uint8_t builds[8 * VDP_BUILDS_MAX]; /* index builds that are ready there */
    uint32_t builds_len;
    bool builds_changed; /* by the state that was told last */
} repl_storage_state_t;

typedef struct {
    const char *path, *node;
    uint8_t instance[16];
    /* ATTACHED (attached: it is another start of it than before, or the first) or STATE. config is
     * borrowed; empty: none. */
    void (*state)(void *context, bool attached, vd_bson_t config);
    void (*lost)(void *context);
    /* It has cut the link (link.h). */
    void (*cut_off)(void *context);
    /* The newest head of our audit log. */
    void (*audit_head)(void *context, const vdp_audit_head_t *head);
    void (*ask)(void *context, uint64_t request, const vdp_replication_ask_t *ask, vd_slice_t body);
    void *context;
} repl_storage_options_t;

VD_MUST_CHECK int repl_storage_open(vd_loop_t *loop, const repl_storage_options_t *options,
                                    repl_storage_t **ret_storage, vd_error_t *err);
void repl_storage_close(repl_storage_t **storage_p);
const repl_storage_state_t *repl_storage_state(const repl_storage_t *storage);
/* done is always called: with VD_ERR_CLOSED when storage dies. Returns the request's number. */
uint64_t repl_storage_ask(repl_storage_t *storage, const vdp_message_t *message, const void *fields,
                          vd_slice_t body, uint64_t timeout_ms, repl_done_t done, void *context);
/* A notice; one that can't be sent is dropped: state is told anew on attaching. */
void repl_storage_tell(repl_storage_t *storage, const vdp_message_t *message, const void *fields,
                       vd_slice_t body);
void repl_storage_answer(repl_storage_t *storage, uint64_t request, int code, const char *message,
                         vd_slice_t body);
