/* veddb-gatewayd/transport.h — the bytes of one client: TLS, or plain where tls.insecure_dev allows
 * it (loopback only).
 *
 * Owner:   the connection; its loop thread.
 * Errors:  negative GATE_IO_* codes; after GATE_IO_FAILED of the handshake `gate_transport_failure`
 *          says why. */
#pragma once
#include "libcommon/runtime/tls.h"

typedef enum {
    GATE_IO_WANT_READ = -1,
    GATE_IO_WANT_WRITE = -2,
    GATE_IO_END = -3, /* the client has closed */
    GATE_IO_FAILED = -4,
} gate_io_t;

typedef struct {
    int fd;
    SSL *ssl;       /* NULL: plain, or not known yet */
    vd_tls_t *look; /* plain is allowed: the first bytes tell */
} gate_transport_t;

/* On a non-blocking socket, which stays the caller's. */
VD_MUST_CHECK int gate_transport_open(gate_transport_t *io, int fd, vd_tls_t *tls, bool plain_too,
                                      vd_error_t *err);
void gate_transport_close(gate_transport_t *io, bool polite);
/* 0 when it is through, else a gate_io_t. */
int gate_transport_handshake(gate_transport_t *io);
/* Bytes, more than none, or a gate_io_t. */
int gate_transport_read(gate_transport_t *io, uint8_t *buf, size_t size);
int gate_transport_write(gate_transport_t *io, vd_slice_t bytes);
/* Bytes were taken from the socket that were not read yet. */
bool gate_transport_pending(const gate_transport_t *io);
const char *gate_transport_failure(const gate_transport_t *io, char *buf, size_t size);
