/* veddb-gatewayd/http/admission.c — HTTPS connections within the limits of their addresses.
 *
 * libevent accepts and tells nobody; it asks for a transport before the transport has a socket. The
 * first thing that happens to that socket is the start of its handshake, long before a certificate
 * is looked up or signed for: there we ask, and a connection too many loses its socket. It counts
 * as long as OpenSSL keeps its state, and that goes with the connection. */
#include "libcommon/base/mem.h"
#include "veddb-gatewayd/http/private.h"
#include "veddb-gatewayd/listener.h"

#include <pthread.h>

typedef struct {
    gate_t *gate;
    gate_address_t address;
    bool asked, entered;
} visit_t;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int visit_index = -1;

static void visit_end(void *parent, void *data, CRYPTO_EX_DATA *all, int index, long number,
                      void *context)
{
    (void)parent, (void)all, (void)index, (void)number, (void)context;
    visit_t *visit = data;
    if (visit == NULL)
        return;
    if (visit->entered)
        gate_limits_leave(visit->gate->limits, &visit->address);
    atomic_fetch_sub(&visit->gate->stats.https_current, 1);
    vd_free(visit);
}

static void make_index(void)
{
    visit_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, visit_end);
}

static void handshake(const SSL *ssl, int where, int value)
{
    visit_t *visit = SSL_get_ex_data(ssl, visit_index);
    struct sockaddr_storage from;
    socklen_t len = sizeof from;
    int fd = SSL_get_fd(ssl);
    (void)value;
    if ((where & SSL_CB_HANDSHAKE_START) == 0 || visit == NULL || visit->asked)
        return;
    visit->asked = true;
    if (getpeername(fd, (struct sockaddr *)&from, &len) == 0) {
        visit->address = gate_address_from((const struct sockaddr *)&from);
        visit->entered = gate_listener_enter(visit->gate, &visit->address);
    }
    if (visit->entered)
        return;
    atomic_fetch_add(&visit->gate->stats.https_rejected, 1);
    (void)shutdown(fd, SHUT_RDWR); /* what follows finds its end */
}

int gate_http_admission_attach(gate_t *gate, SSL *ssl, vd_error_t *err)
{
    (void)pthread_once(&once, make_index);
    visit_t *visit = vd_xalloc(sizeof *visit);
    visit->gate = gate;
    if (visit_index < 0 || SSL_set_ex_data(ssl, visit_index, visit) != 1) {
        vd_free(visit);
        return vd_error_set(err, VD_ERR_NO_MEMORY, "a connection can't be counted");
    }
    atomic_fetch_add(&gate->stats.https_current, 1);
    SSL_set_info_callback(ssl, handshake);
    return VD_OK;
}
