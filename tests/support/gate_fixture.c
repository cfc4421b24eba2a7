/* tests/support/gate_fixture.c — see gate_fixture.h. */
#include "tests/support/gate_fixture.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "tests/support/certificates.h"
#include "veddb-gatewayd/auth/scram.h"
#include "veddb-gatewayd/wire.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- set-up ---- */

static void write_certificate(gate_fixture_t *fixture)
{
    static char certificate[100], key_file[100];
    (void)snprintf(certificate, sizeof certificate, "%s/server.crt", fixture->folder);
    (void)snprintf(key_file, sizeof key_file, "%s/server.key", fixture->folder);
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *x =
        test_certificate("localhost", key, &(test_certificate_t){.begins_s = -60, .ends_s = 86400});
    (void)umask(077);
    test_write_pem(certificate, x, NULL, NULL);
    test_write_pem(key_file, NULL, key, NULL);
    X509_free(x);
    EVP_PKEY_free(key);
    fixture->settings.tls = (vd_tls_options_t){
        .certificate_file = certificate, .key_file = key_file, .ca_file = "", .server = true};
}

static void write_bootstrap(gate_fixture_t *fixture)
{
    gate_settings_t *settings = &fixture->settings;
    (void)snprintf(settings->bootstrap_file, sizeof settings->bootstrap_file, "%s/bootstrap",
                   fixture->folder);
    FILE *file = fopen(settings->bootstrap_file, "we");
    VD_ASSERT(file != NULL);
    (void)fprintf(file, "{\"user\": \"%s\", \"password\": \"%s\"}\n", FIXTURE_USER,
                  FIXTURE_PASSWORD);
    VD_ASSERT(fclose(file) == 0 && chmod(settings->bootstrap_file, 0600) == 0);
}

void gate_fixture_init(gate_fixture_t *fixture)
{
    gate_settings_t *settings = &fixture->settings;
    memset(fixture, 0, sizeof *fixture);
    (void)signal(SIGPIPE, SIG_IGN);
    vd_log_setup("unit_gatewayd", VD_LOG_ERROR, VD_LOG_LOGFMT);
    (void)snprintf(fixture->folder, sizeof fixture->folder, "/tmp/vdgateXXXXXX");
    VD_ASSERT(mkdtemp(fixture->folder) != NULL);
    write_certificate(fixture);
    write_bootstrap(fixture);
    (void)snprintf(settings->node_name, sizeof settings->node_name, "test");
    (void)snprintf(settings->replica_set, sizeof settings->replica_set, "veddb");
    (void)snprintf(settings->listen, sizeof settings->listen, "127.0.0.1");
    (void)snprintf(settings->storage_path, sizeof settings->storage_path, "%s/operation",
                   fixture->folder);
    settings->listen_fd = settings->http_fd = -1;
    settings->threads = 1;
    settings->connections_max = 1000;
    settings->connections_per_address_max = 1000;
    settings->login_rate = 1000;
    settings->lockout_failures = 1000;
    settings->lockout_ms = 60000;
    settings->tokens = (gate_token_settings_t){
        .issuer = "veddb", .access_ms = 900000, .refresh_ms = 86400000, .lease_ms = 1000};
    settings->handshake_timeout_ms = 5000;
    settings->storage_wait_ms = 5000;
    settings->held_max_bytes = 64u << 20;
    settings->session_timeout_ms = 30 * 60 * 1000;
    settings->compressors[0] = 1, settings->compressors[1] = 3, settings->compressors[2] = 2;
    settings->compressor_count = 3;
}

static void on_ready(void *context, const char *detail)
{
    (void)detail;
    gate_fixture_t *fixture = context;
    atomic_store(&fixture->ready, true);
}

static void on_drained(void *context)
{
    gate_fixture_t *fixture = context;
    atomic_store(&fixture->drained, true);
}

static void *thread_main(void *context)
{
    gate_fixture_t *fixture = context;
    VD_ASSERT(vd_loop_run(fixture->loop, NULL) == VD_OK);
    gate_destroy(&fixture->gate);
    return NULL;
}

static void *thread_begin(void *context)
{
    gate_fixture_t *fixture = context;
    vd_error_t err = VD_ERROR_INIT;
    if (gate_start(fixture->gate, fixture->loop, &err) != VD_OK)
        vd_assert_failed(err.message, __FILE__, __LINE__);
    return thread_main(context);
}

void gate_fixture_start_without_storage(gate_fixture_t *fixture)
{
    gate_events_t events = {.ready = on_ready, .drained = on_drained, .context = fixture};
    vd_error_t err = VD_ERROR_INIT;
    VD_ASSERT(vd_loop_create(&fixture->loop, NULL) == VD_OK);
    if (gate_create(&fixture->settings, &events, &fixture->gate, &err) != VD_OK)
        vd_assert_failed(err.message, __FILE__, __LINE__);
    VD_ASSERT(pthread_create(&fixture->thread, NULL, thread_begin, fixture) == 0);
    fixture->running = true;
    for (int i = 0; i < 1000 && fixture->gate->http == NULL; i++)
        (void)usleep(2000);
    fixture->settings.port = fixture->gate->settings.port;
    fixture->settings.http_port = fixture->gate->settings.http_port;
}

void gate_fixture_start(gate_fixture_t *fixture)
{
    if (fixture->storage == NULL)
        fixture->storage = fake_storage_start(fixture->settings.storage_path);
    gate_fixture_start_without_storage(fixture);
    VD_ASSERT(gate_fixture_wait_ready(fixture));
}

bool gate_fixture_wait_ready(gate_fixture_t *fixture)
{
    for (int i = 0; i < 5000 && !atomic_load(&fixture->ready); i++)
        (void)usleep(2000);
    return atomic_load(&fixture->ready);
}

void gate_fixture_done(gate_fixture_t *fixture)
{
    if (fixture->running) {
        vd_loop_stop(fixture->loop);
        (void)pthread_join(fixture->thread, NULL);
        vd_loop_destroy(&fixture->loop);
    }
    if (fixture->storage != NULL)
        fake_storage_stop(&fixture->storage);
    char command[100];
    (void)snprintf(command, sizeof command, "rm -rf %s", fixture->folder);
    VD_ASSERT(system(command) == 0);
}

/* ---- client ---- */

bool gate_client_open(gate_client_t *client, uint16_t port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct timeval patience = {20, 0};
    memset(client, 0, sizeof *client);
    vd_buf_init(&client->reply, 64u << 20);
    vd_bb_init(&client->bb, 64u << 20);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    client->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (client->fd < 0 || connect(client->fd, (struct sockaddr *)&to, sizeof to) != 0)
        return false;
    (void)setsockopt(client->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    client->context = SSL_CTX_new(TLS_client_method());
    client->ssl = SSL_new(client->context);
    (void)SSL_set_fd(client->ssl, client->fd);
    return SSL_connect(client->ssl) == 1;
}

void gate_client_close(gate_client_t *client)
{
    if (client->ssl != NULL) {
        (void)SSL_shutdown(client->ssl);
        SSL_free(client->ssl);
    }
    if (client->context != NULL)
        SSL_CTX_free(client->context);
    if (client->fd >= 0)
        (void)close(client->fd);
    vd_buf_done(&client->reply);
    vd_bb_done(&client->bb);
    memset(client, 0, sizeof *client);
    client->fd = -1;
}

bool gate_client_send_bytes(gate_client_t *client, const void *bytes, size_t len)
{
    const uint8_t *at = bytes;
    while (len != 0) {
        int n = SSL_write(client->ssl, at, len > 1000000 ? 1000000 : (int)len);
        if (n <= 0)
            return false;
        at += n, len -= (size_t)n;
    }
    return true;
}

static bool read_all(gate_client_t *client, uint8_t *out, size_t len)
{
    while (len != 0) {
        int n = SSL_read(client->ssl, out, len > 1000000 ? 1000000 : (int)len);
        if (n <= 0)
            return false;
        out += n, len -= (size_t)n;
    }
    return true;
}

bool gate_client_receive(gate_client_t *client, vd_bson_t *ret_document)
{
    uint8_t head[16], *space;
    gate_wire_header_t header;
    size_t skip = 0;
    if (!read_all(client, head, sizeof head) ||
        gate_wire_header(vd_slice(head, sizeof head), 64u << 20, &header, NULL) != VD_OK)
        return false;
    vd_buf_clear(&client->reply);
    VD_ASSERT(vd_buf_reserve(&client->reply, header.length, &space) == VD_OK);
    if (!read_all(client, space, header.length - 16))
        return false;
    vd_buf_commit(&client->reply, header.length - 16);
    client->last_reply_id = header.request_id;
    client->last_response_to = header.response_to;
    client->last_op = header.op;
    if (header.op == GATE_OP_MSG) {
        client->last_flags = vd_get_u32(space);
        skip = 5;
    } else if (header.op == GATE_OP_REPLY) {
        skip = 20;
    } else {
        return true; /* the test looks itself */
    }
    vd_buf_consume(&client->reply, skip);
    return vd_bson_validate(vd_buf_slice(&client->reply), VD_BSON_CHECK_UTF8, 100, NULL) == VD_OK &&
           vd_bson_peek(vd_buf_slice(&client->reply), ret_document, NULL) == VD_OK;
}

vd_bb_t *gate_client_begin(gate_client_t *client)
{
    vd_bb_reset(&client->bb);
    return &client->bb;
}

bool gate_client_send(gate_client_t *client, const char *db, uint32_t flags)
{
    vd_bson_t document;
    vd_buf_t out;
    vd_bb_cstr(&client->bb, "$db", db);
    VD_ASSERT(vd_bb_finish(&client->bb, &document, NULL) == VD_OK);
    vd_buf_init(&out, 64u << 20);
    VD_ASSERT(gate_wire_write_msg(&out, ++client->next_id, 0, flags,
                                  vd_slice(document.data, document.len)) == VD_OK);
    bool good = gate_client_send_bytes(client, vd_buf_slice(&out).data, vd_buf_len(&out));
    vd_buf_done(&out);
    return good;
}

bool gate_client_run(gate_client_t *client, const char *db, vd_bson_t *ret_reply)
{
    return gate_client_send(client, db, 0) && gate_client_receive(client, ret_reply) &&
           client->last_response_to == client->next_id;
}

bool gate_client_simple(gate_client_t *client, const char *db, const char *name,
                        vd_bson_t *ret_reply)
{
    vd_bb_int32(gate_client_begin(client), name, 1);
    return gate_client_run(client, db, ret_reply);
}

bool gate_client_on(gate_client_t *client, const char *db, const char *name, const char *collection,
                    vd_bson_t *ret_reply)
{
    vd_bb_cstr(gate_client_begin(client), name, collection);
    return gate_client_run(client, db, ret_reply);
}

/* ---- SCRAM, the client's side, written on its own ---- */

void gate_scram_client_first(const char *user, const char *nonce, char out[1024])
{
    (void)snprintf(out, 1024, "n,,n=%s,r=%s", user, nonce);
}

static void hmac(const uint8_t key[32], size_t key_len, const char *text, uint8_t out[32])
{
    unsigned len = 32;
    VD_ASSERT(HMAC(EVP_sha256(), key, (int)key_len, (const uint8_t *)text, strlen(text), out,
                   &len) != NULL);
}

bool gate_scram_client_final(const char *user, const char *nonce, const char *password,
                             vd_slice_t challenge, char out[1024], uint8_t ret_server[32])
{
    char text[1024], server_nonce[600], salt_text[200], auth[3000], without[800], proof_text[64];
    unsigned iterations;
    uint8_t salt[100], salted[32], client_key[32], stored[32], signature[32], server_key[32];
    uint32_t salt_len;
    (void)snprintf(text, sizeof text, "%.*s", VD_SLICE_FMT(challenge));
    if (sscanf(text, "r=%599[^,],s=%199[^,],i=%u", server_nonce, salt_text, &iterations) != 3 ||
        strncmp(server_nonce, nonce, strlen(nonce)) != 0 ||
        !gate_base64_decode(vd_slice_str(salt_text), salt, sizeof salt, &salt_len))
        return false;
    (void)PKCS5_PBKDF2_HMAC(password, (int)strlen(password), salt, (int)salt_len, (int)iterations,
                            EVP_sha256(), 32, salted);
    hmac(salted, 32, "Client Key", client_key);
    hmac(salted, 32, "Server Key", server_key);
    (void)SHA256(client_key, 32, stored);
    (void)snprintf(without, sizeof without, "c=biws,r=%s", server_nonce);
    (void)snprintf(auth, sizeof auth, "n=%s,r=%s,%s,%s", user, nonce, text, without);
    hmac(stored, 32, auth, signature);
    for (int i = 0; i < 32; i++)
        client_key[i] ^= signature[i];
    proof_text[gate_base64_encode(vd_slice(client_key, 32), proof_text)] = 0;
    (void)snprintf(out, 1024, "%s,p=%s", without, proof_text);
    hmac(server_key, 32, auth, ret_server);
    return true;
}

static int failed(vd_bson_t reply)
{
    int code = reply_code(reply);
    return code == 0 ? -1 : code;
}

int gate_client_login(gate_client_t *client, const char *db, const char *user, const char *password)
{
    char message[1024], expected[64];
    uint8_t server[32];
    vd_bson_t reply;
    gate_scram_client_first(user, "abcdefghijklmnop", message);
    vd_bb_t *bb = gate_client_begin(client);
    vd_bb_int32(bb, "saslStart", 1);
    vd_bb_cstr(bb, "mechanism", "SCRAM-SHA-256");
    vd_bb_binary(bb, "payload", 0, vd_slice_str(message));
    vd_bb_begin_document(bb, "options");
    vd_bb_bool(bb, "skipEmptyExchange", true);
    vd_bb_close(bb);
    if (!gate_client_run(client, db, &reply))
        return -1;
    vd_value_t payload = vd_bson_get(reply, "payload");
    if (!reply_ok(reply) || payload.type != VD_BSON_BINARY)
        return failed(reply);
    if (!gate_scram_client_final(user, "abcdefghijklmnop", password, vd_value_binary(payload, NULL),
                                 message, server))
        return -2;
    bb = gate_client_begin(client);
    vd_bb_int32(bb, "saslContinue", 1);
    vd_bb_int32(bb, "conversationId", 1);
    vd_bb_binary(bb, "payload", 0, vd_slice_str(message));
    if (!gate_client_run(client, db, &reply))
        return -1;
    payload = vd_bson_get(reply, "payload");
    if (!reply_ok(reply) || payload.type != VD_BSON_BINARY)
        return failed(reply);
    expected[0] = 'v', expected[1] = '=';
    uint32_t len = 2 + gate_base64_encode(vd_slice(server, 32), expected + 2);
    bool same = vd_slice_equal(vd_value_binary(payload, NULL), vd_slice(expected, len)) &&
                vd_value_as_flag(vd_bson_get(reply, "done"));
    return same ? 0 : -3;
}

void gate_client_admin(gate_client_t *client, gate_fixture_t *fixture)
{
    VD_ASSERT(gate_client_open(client, fixture->settings.port));
    VD_ASSERT(gate_client_login(client, "admin", FIXTURE_USER, FIXTURE_PASSWORD) == 0);
}

bool reply_ok(vd_bson_t reply)
{
    return vd_value_as_double(vd_bson_get(reply, "ok")) == 1.0;
}

int reply_code(vd_bson_t reply)
{
    int64_t code = 0;
    (void)vd_value_as_int64(vd_bson_get(reply, "code"), &code);
    return (int)code;
}

bool reply_message_is(vd_bson_t reply, const char *text)
{
    vd_value_t message = vd_bson_get(reply, "errmsg");
    return message.type == VD_BSON_STRING && vd_slice_is(vd_value_string(message), text);
}
