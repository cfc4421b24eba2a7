/* veddb-gatewayd/http/private.h — what the files of this room share.
 *
 * A job is a request on its way over the worker: it belongs to the HTTPS thread, to the worker
 * while it runs there. */
#pragma once
#include "veddb-gatewayd/http/http.h"

#include <bson/bson.h>
#include <event2/event.h>
#include <event2/http.h>

#define GATE_HTTP_LOGIN_WAIT_MS 2000 /* for storage */

struct gate_http {
    gate_t *gate;
    struct event_base *base;
    struct evhttp *server;
    struct event *wake_event;
    int wake_fd;
    pthread_t thread;
    bool started;
    _Atomic bool stopping;
    vd_worker_t *worker; /* one thread */
    vd_list_t jobs;      /* not yet answered; the HTTPS thread's */
    /* The last login that was good: scrapers come every few seconds with the same. The worker's. */
    uint8_t last_login[32];
    uint64_t last_epoch, last_ms;
    bool last_known;
};

/* From where somebody came, and to which of our addresses. */
typedef struct {
    char client[64], server[64];
} gate_http_origin_t;

typedef enum {
    GATE_HTTP_LOGIN_GOOD,
    GATE_HTTP_LOGIN_BAD,
    GATE_HTTP_LOGIN_FORBIDDEN,
    GATE_HTTP_LOGIN_LATER,
    GATE_HTTP_LOGIN_THROTTLED,
} gate_http_login_t;

typedef struct gate_http_job gate_http_job_t;

typedef struct {
    const char *type;
    /* Behind a login with serverStatus: what is shown. */
    int (*print)(gate_t *gate, vd_buf_t *out);
    /* Or: does what is asked, and sets status, reason and `out`. */
    void (*act)(gate_http_job_t *job);
    int method;          /* EVHTTP_REQ_GET (and HEAD), or EVHTTP_REQ_POST */
    const char *command; /* keys.c: which it stands for */
} gate_http_page_t;

struct gate_http_job {
    vd_node_t node;
    gate_http_t *http;
    struct evhttp_request *request;
    const gate_http_page_t *page;
    gate_address_t address;
    gate_http_origin_t origin;
    char *header;      /* Authorization; NULL: there is none */
    char *type;        /* Content-Type; NULL: there is none */
    char *certificate; /* the client's subject, as RFC 2253 writes it; NULL: it showed none */
    char *query;       /* behind the path's question mark; NULL: there is none */
    vd_buf_t body;
    gate_http_login_t login;
    bool forged; /* a web page's order: to be refused */
    bool known;  /* who asks was logged in: whatever comes of it is his */
    int rc, status;
    const char *reason;
    bool challenge; /* WWW-Authenticate goes with it */
    vd_buf_t out;
    _Atomic bool done; /* the worker has left it */
};

/* admission.c: from its handshake on the connection counts among those of its address, or loses its
 * socket. */
VD_MUST_CHECK int gate_http_admission_attach(gate_t *gate, SSL *ssl, vd_error_t *err);

/* login.c; all block. */
/* Whose header it is: may this one see figures? */
gate_http_login_t gate_http_check_monitor(gate_http_job_t *job);
/* Who it is: *ret_user is set when it is good. */
gate_http_login_t gate_http_identify(gate_http_job_t *job, vd_arena_t *arena,
                                     gate_user_t **ret_user);
/* By name and password. */
gate_http_login_t gate_http_password(gate_http_job_t *job, vd_arena_t *arena, vd_slice_t name,
                                     vd_slice_t db, vd_slice_t password, gate_user_t **ret_user);
VD_MUST_CHECK int gate_http_load_user(gate_t *gate, vd_arena_t *arena, vd_slice_t name,
                                      vd_slice_t db, gate_user_t **ret_user, vd_error_t *err);
bool gate_http_comes_from(const gate_user_t *user, const gate_http_origin_t *origin);

/* act.c: how pages that do something answer. The body is RFC 6749's: {error, error_description}. */
void gate_http_status(gate_http_job_t *job, int status);
/* Before libbson is first used: what it frees is overwritten from then on. */
void gate_http_json_wipes(void);
/* One JSON object and nothing behind it; else NULL. The caller destroys it. */
bson_t *gate_http_json(vd_slice_t body);
void gate_http_fail(gate_http_job_t *job, int status, const char *error, const char *about);
void gate_http_fail_login(gate_http_job_t *job, gate_http_login_t login);
/* An event of the audit log, on disk when it returns; what: the page. */
int gate_http_note(gate_http_job_t *job, const char *atype, const gate_user_t *user,
                   const char *what, const char *detail, int result, vd_error_t *err);
/* A web page's order was refused: logged, noted, told. */
void gate_http_forged(gate_http_job_t *job);
/* A login was: counted, noted, told. */
void gate_http_refused(gate_http_job_t *job, const gate_user_t *user, const char *what,
                       gate_http_login_t login);
/* Who asks is logged in and may do this command there, by the same function as on the wire; else
 * the answer is made. *ret_user: who, to be dropped either way. */
VD_MUST_CHECK bool gate_http_allowed(gate_http_job_t *job, const char *command, const char *db,
                                     vd_arena_t *arena, gate_user_t **ret_user, const char *what);

/* keys.c */
#define GATE_HTTP_KEYS 9
typedef struct {
    const char *path;
    gate_http_page_t page;
} gate_http_keys_page_t;
extern const gate_http_keys_page_t gate_http_keys_pages[GATE_HTTP_KEYS];

/* tokens.c */
extern const gate_http_page_t gate_http_token_page, gate_http_token_revoke_page,
    gate_http_user_revoke_page, gate_http_all_revoke_page, gate_http_jwks_page,
    gate_http_sessions_page;
