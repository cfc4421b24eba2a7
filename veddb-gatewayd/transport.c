/* veddb-gatewayd/transport.c — see transport.h. */
#include "veddb-gatewayd/transport.h"

#include <errno.h>
#include <openssl/err.h>
#include <stdio.h>
#include <sys/socket.h>

static int bounded(size_t size)
{
    return size > INT32_MAX ? INT32_MAX : (int)size;
}

static int io_of_ssl(const gate_transport_t *io, int n)
{
    switch (SSL_get_error(io->ssl, n)) {
    case SSL_ERROR_WANT_READ:
        return GATE_IO_WANT_READ;
    case SSL_ERROR_WANT_WRITE:
        return GATE_IO_WANT_WRITE;
    case SSL_ERROR_ZERO_RETURN:
        return GATE_IO_END;
    case SSL_ERROR_SYSCALL:
        return errno == 0 ? GATE_IO_END : GATE_IO_FAILED;
    default:
        return GATE_IO_FAILED;
    }
}

static int io_of_errno(int otherwise)
{
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? otherwise : GATE_IO_FAILED;
}

int gate_transport_open(gate_transport_t *io, int fd, vd_tls_t *tls, bool plain_too,
                        vd_error_t *err)
{
    *io = (gate_transport_t){.fd = fd, .look = plain_too ? tls : NULL};
    return plain_too ? VD_OK : vd_tls_ssl_new(tls, fd, &io->ssl, err);
}

void gate_transport_close(gate_transport_t *io, bool polite)
{
    if (io->ssl == NULL)
        return;
    if (polite) { /* tells the client if the socket takes it; nobody waits for its answer */
        ERR_clear_error();
        (void)SSL_shutdown(io->ssl);
    }
    SSL_free(io->ssl);
    io->ssl = NULL;
}

/* A record of TLS begins with 0x16, 3 and a version that is not 0; the first message of a client in
 * the clear is below 64 KB, so that its third byte is 0. */
static int look(gate_transport_t *io)
{
    uint8_t head[3];
    ssize_t n = recv(io->fd, head, sizeof head, MSG_PEEK | MSG_DONTWAIT);
    if (n == 0)
        return GATE_IO_END;
    if (n < 0)
        return io_of_errno(GATE_IO_WANT_READ);
    if ((size_t)n < sizeof head)
        return GATE_IO_WANT_READ;
    vd_tls_t *tls = io->look;
    io->look = NULL;
    if (head[0] != 0x16 || head[1] != 3 || head[2] == 0)
        return 0;
    return vd_tls_ssl_new(tls, io->fd, &io->ssl, NULL) == VD_OK ? 0 : GATE_IO_FAILED;
}

int gate_transport_handshake(gate_transport_t *io)
{
    if (io->look != NULL) {
        int rc = look(io);
        if (rc != 0)
            return rc;
    }
    if (io->ssl == NULL)
        return 0;
    ERR_clear_error();
    errno = 0;
    int n = SSL_do_handshake(io->ssl);
    if (n != 1)
        return io_of_ssl(io, n);
    SSL_set_read_ahead(io->ssl, 1); /* one read for a record's head and body */
    return 0;
}

int gate_transport_read(gate_transport_t *io, uint8_t *buf, size_t size)
{
    if (io->ssl == NULL) {
        ssize_t n = recv(io->fd, buf, (size_t)bounded(size), MSG_DONTWAIT);
        return n > 0 ? (int)n : n == 0 ? GATE_IO_END : io_of_errno(GATE_IO_WANT_READ);
    }
    ERR_clear_error();
    errno = 0;
    int n = SSL_read(io->ssl, buf, bounded(size));
    return n > 0 ? n : io_of_ssl(io, n);
}

int gate_transport_write(gate_transport_t *io, vd_slice_t bytes)
{
    if (io->ssl == NULL) {
        ssize_t n =
            send(io->fd, bytes.data, (size_t)bounded(bytes.len), MSG_DONTWAIT | MSG_NOSIGNAL);
        return n > 0 ? (int)n : io_of_errno(GATE_IO_WANT_WRITE);
    }
    ERR_clear_error();
    errno = 0;
    int n = SSL_write(io->ssl, bytes.data, bounded(bytes.len));
    return n > 0 ? n : io_of_ssl(io, n);
}

bool gate_transport_pending(const gate_transport_t *io)
{
    return io->ssl != NULL && SSL_has_pending(io->ssl) != 0;
}

const char *gate_transport_failure(const gate_transport_t *io, char *buf, size_t size)
{
    if (io->ssl != NULL)
        return vd_tls_failure(io->ssl, buf, size);
    (void)snprintf(buf, size, "the connection ended");
    return buf;
}
