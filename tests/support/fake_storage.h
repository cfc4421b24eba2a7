/* tests/support/fake_storage.h — storage's end of the gateway's link, scripted: keeps users and
 * roles, answers everything else with an echo, and can die, be silent, or fail. An internal write
 * that comes again with its txnNumber is answered again, and not done.
 *
 * Owner: the test; runs on a thread of its own. All functions may be called from the test. */
#pragma once
#include "libcommon/base/buf.h"
#include "libcommon/bson/view.h"

typedef struct fake_storage fake_storage_t;

fake_storage_t *fake_storage_start(const char *path);
/* As a crash: nothing more is answered, the link goes away. What it keeps is kept. */
void fake_storage_kill(fake_storage_t *storage);
/* A new life with another boot id. */
void fake_storage_revive(fake_storage_t *storage);
void fake_storage_stop(fake_storage_t **storage_p);

/* Commands of that name get no answer (NULL: none are silenced). */
void fake_storage_silence(fake_storage_t *storage, const char *name);
/* The last of them is answered after all. */
void fake_storage_answer_late(fake_storage_t *storage);
/* The next command of that name is answered with this error. */
void fake_storage_fail_next(fake_storage_t *storage, const char *name, int code);
/* What happens to the next command of that name, internal ones too, once it was done. */
typedef enum {
    FAKE_STORAGE_SWALLOW, /* no answer */
    FAKE_STORAGE_GARBLE,  /* an answer that can't be read */
    FAKE_STORAGE_REFUSE,  /* FAILURE */
    FAKE_STORAGE_DENY,    /* FAILURE that does not say of what */
} fake_storage_mishap_t;
void fake_storage_mishap_next(fake_storage_t *storage, const char *name,
                              fake_storage_mishap_t mishap);
/* How many have happened. */
uint32_t fake_storage_mishaps(fake_storage_t *storage);
/* Internal commands are answered with "try again", or as usual. */
void fake_storage_put_off(fake_storage_t *storage, bool on);
void fake_storage_set_ready(fake_storage_t *storage, bool ready);
void fake_storage_set_writable(fake_storage_t *storage, bool writable);
/* What it is in its set (VDP_ROLE_*); an empty topology: a node alone. */
void fake_storage_set_role(fake_storage_t *storage, uint32_t role, uint64_t term,
                           vd_bson_t topology);
/* The first document of admin.<collection>; false when there is none. */
bool fake_storage_copy(fake_storage_t *storage, const char *collection, vd_buf_t *out);
/* As if another member had written it. */
void fake_storage_put(fake_storage_t *storage, const char *collection, vd_bson_t document);
/* As if another member had changed users: dropped that one, or (NULL) nobody we know. */
void fake_storage_change_users(fake_storage_t *storage, const char *dropped_id);
uint64_t fake_storage_newest(fake_storage_t *storage);
/* How often commands of that name came, from clients. */
uint32_t fake_storage_count(fake_storage_t *storage, const char *name);
/* How often one came that was sent again after a restart. */
uint32_t fake_storage_resent(fake_storage_t *storage);
/* How often one came that wants no reply. */
uint32_t fake_storage_unanswered(fake_storage_t *storage);
uint32_t fake_storage_cancelled(fake_storage_t *storage);
uint32_t fake_storage_closed(fake_storage_t *storage);
/* Documents in admin.<collection>. */
uint32_t fake_storage_documents(fake_storage_t *storage, const char *collection);
