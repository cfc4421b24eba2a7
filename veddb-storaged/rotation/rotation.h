/* veddb-storaged/rotation/rotation.h — storage's half of a rotation of keys: everything is written
 * anew under the active key, counted, and the old key forgotten. rotated decides the steps.
 *
 * Duty:    does what the order in force says (proto/rotation.md), on a thread of its own, and
 *          knows how far it is. Keeps nothing on disk: an order of an earlier start begins anew
 *          and finds done what is done. reencrypt: the active key is fetched where it is not
 *          here; then passes (engine/rewrite.h) until one finds no block of another key; then the
 *          log; then it waits until named checkpoints, bulk loads, spill files and old versions
 *          that stand aside (lookaside) of before are gone. verify: counts over checkpoints that
 *          nobody has walked, over metadata, log, named checkpoints and the small files. What
 *          can't be counted counts as one block left: never a false zero. retire: refused while
 *          anything of the process may need the key; then noted durably that the data needs it no
 *          more, then wiped. Pace: pace.h; and it rests while free space is short, with a
 *          checkpoint, so that blocks become free; so it does under fsyncLock. Its note says what
 *          it waits for.
 * Owner:   start/stop by main.c, between engine's open and close.
 * Threads: the worker; the link's; the rest any. */
#pragma once
#include "proto/rotation.h"
#include "veddb-storaged/replication/asks.h"
#include "veddb-storaged/storaged.h"

typedef struct stor_rotation stor_rotation_t;

typedef struct {
    /* Asks the key holder and puts what it has into storage->keys (each first noted:
     * stor_engine_key_note). On the worker's thread. */
    int (*keys_fetch)(void *context, vd_error_t *err);
    void *context;
} stor_rotation_options_t;

/* The worker. */
VD_MUST_CHECK int stor_rotation_start(stor_storage_t *storage,
                                      const stor_rotation_options_t *options,
                                      stor_rotation_t **ret_rotation, vd_error_t *err);
void stor_rotation_stop(stor_rotation_t **rotation_p);
/* The order in force from now on. anew: begin it anew, even if it is the one in force. Any thread.
 */
void stor_rotation_order(stor_rotation_t *rotation, const vdp_rotation_order_t *order, bool anew);
/* How far it is. *ret_report's slices are valid until the next call with the same text. */
typedef struct {
    char current[256], note[512];
} stor_rotation_text_t;
void stor_rotation_report(stor_rotation_t *rotation, vdp_rotation_report_t *ret_report,
                          stor_rotation_text_t *text, vd_buf_t *body);
/* Grows with each change that is worth a report at once. */
uint64_t stor_rotation_changes(const stor_rotation_t *rotation);
/* Every STOR_ROTATION_WINDOW_MS: looks at what requests took. One thread. */
#define STOR_ROTATION_WINDOW_MS 500
void stor_rotation_window(stor_rotation_t *rotation);
/* A backup begins. False: it has to wait: no order has come yet, or blocks are being counted.
 * *ret_proven: no block needs a key up to that version that is not active. Until its end the steps
 * that prove that of other keys wait. NULL: true. */
bool stor_rotation_backup_begin(stor_rotation_t *rotation, uint32_t *ret_proven);
void stor_rotation_backup_end(stor_rotation_t *rotation);
uint32_t stor_rotation_highest_key(const stor_storage_t *storage);

/* ---- link.c: the link to rotated, with a thread of its own ---- */
typedef struct stor_rotation_link stor_rotation_link_t;
VD_MUST_CHECK int stor_rotation_link_start(stor_storage_t *storage, stor_rotation_t *rotation,
                                           const char *socket_path, stor_rotation_link_t **ret_link,
                                           vd_error_t *err);
void stor_rotation_link_stop(stor_rotation_link_t **link_p);
/* An operator's command, for rotated. answered's body is BSON. */
VD_MUST_CHECK int stor_rotation_link_ask(stor_rotation_link_t *link,
                                         const vdp_replication_ask_t *question,
                                         stor_ask_answered_t answered, void *context,
                                         vd_error_t *err);
