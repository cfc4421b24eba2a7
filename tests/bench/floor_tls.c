/* tests/bench/floor_tls.c — a floor: a bare epoll server that answers every OP_MSG with a fixed 1
 * KB reply over TLS, so that what TLS and sockets alone cost stands beside the database's figures.
 * Answers the SCRAM-less lean generator (no --user). Serves until its standard input ends. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define REPLY_BYTES 1100
#define INPUT_BYTES 65536

typedef struct {
    SSL *ssl;
    int fd;
    size_t len;
    uint8_t in[INPUT_BYTES];
} peer_t;

static uint8_t reply[REPLY_BYTES];

/* {ok: 1.0, pad: <string>} of exactly REPLY_BYTES with its OP_MSG head. */
static void make_reply(void)
{
    int32_t header[5] = {REPLY_BYTES, 1, 0, 2013, 0}, doc_len = REPLY_BYTES - 21,
            pad_len = doc_len - 4 - 12 - 5 - 4 - 1;
    double one = 1;
    uint8_t *p = reply;
    memcpy(p, header, 20), p += 21;
    memcpy(p, &doc_len, 4), p += 4;
    memcpy(p, "\1ok\0", 4), memcpy(p + 4, &one, 8), p += 12;
    memcpy(p, "\2pad\0", 5), p += 5;
    memcpy(p, &pad_len, 4), p += 4;
    memset(p, 'x', (size_t)pad_len - 1);
}

static void serve(peer_t *peer)
{
    for (;;) {
        int n = SSL_read(peer->ssl, peer->in + peer->len, (int)(INPUT_BYTES - peer->len));
        if (n <= 0) {
            if (SSL_get_error(peer->ssl, n) == SSL_ERROR_WANT_READ)
                return;
            SSL_free(peer->ssl);
            close(peer->fd);
            free(peer);
            return;
        }
        peer->len += (size_t)n;
        int32_t len;
        while (peer->len >= 16 && (memcpy(&len, peer->in, 4), len >= 16) &&
               peer->len >= (size_t)len) {
            memmove(peer->in, peer->in + len, peer->len - (size_t)len);
            peer->len -= (size_t)len;
            if (SSL_write(peer->ssl, reply, REPLY_BYTES) <= 0)
                return;
        }
    }
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(
            stderr,
            "usage: floor_tls CERTIFICATE KEY   prints its port; ends with its standard input\n");
        return 64;
    }
    make_reply();
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    if (SSL_CTX_use_certificate_chain_file(ctx, argv[1]) != 1 ||
        SSL_CTX_use_PrivateKey_file(ctx, argv[2], SSL_FILETYPE_PEM) != 1)
        return 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t at_len = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM, 0), epoll = epoll_create1(0), one = 1;
    if (bind(listener, (struct sockaddr *)&at, at_len) != 0 || listen(listener, 512) != 0)
        return 1;
    getsockname(listener, (struct sockaddr *)&at, &at_len);
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    struct epoll_event events[128], watch = {.events = EPOLLIN, .data.ptr = NULL},
                                    input = {.events = EPOLLIN, .data.ptr = &input};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &watch);
    epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &input);
    for (;;) {
        int n = epoll_wait(epoll, events, 128, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr == &input)
                return 0;
            if (events[i].data.ptr != NULL) {
                serve(events[i].data.ptr);
                continue;
            }
            peer_t *peer = calloc(1, sizeof *peer);
            peer->fd = accept(listener, NULL, NULL);
            setsockopt(peer->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            peer->ssl = SSL_new(ctx);
            SSL_set_fd(peer->ssl, peer->fd);
            if (SSL_accept(peer->ssl) != 1) { /* blocking: the generator connects one by one */
                SSL_free(peer->ssl);
                close(peer->fd);
                free(peer);
                continue;
            }
            fcntl(peer->fd, F_SETFL, O_NONBLOCK);
            watch = (struct epoll_event){.events = EPOLLIN, .data.ptr = peer};
            epoll_ctl(epoll, EPOLL_CTL_ADD, peer->fd, &watch);
        }
    }
}
