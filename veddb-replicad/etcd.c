/* veddb-replicad/etcd.c — see etcd.h.
 *
 * One multi handle drives the request under way and the watch, so that one thread is enough and a
 * watch goes on while requests are made. */
#include "veddb-replicad/etcd.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/files.h"
#include "libcommon/runtime/tls.h"
#include "veddb-replicad/json.h"

#include <curl/curl.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#define TURN_MS         50
#define ATTEMPT_MIN_MS  100
#define KEY_MAX         (REPL_ETCD_NAME_MAX + 32)
#define VALUE_MAX       1024
#define PEM_BYTES_MAX   (1u << 20)
#define BASE64_MAX(len) (((len) + 2) / 3 * 4 + 1)

struct repl_etcd {
    char endpoints[REPL_ETCD_ENDPOINTS_MAX][REPL_ETCD_URL_MAX];
    uint32_t endpoint_count, current;
    vd_buf_t ca, certificate, key; /* PEM; the key is wiped */
    uint64_t timeout_ms;
    char leader_key[BASE64_MAX(KEY_MAX)], term_key[BASE64_MAX(KEY_MAX)];
    char range_from[BASE64_MAX(KEY_MAX)], range_end[BASE64_MAX(KEY_MAX)]; /* both keys */
    CURLM *multi;
    CURL *request, *watch;
    struct curl_slist *headers;
    vd_buf_t answer;
    repl_json_t json; /* of the answer */
    char why[CURL_ERROR_SIZE];
    char watch_body[2 * BASE64_MAX(KEY_MAX) + 100];
    bool watching, news;
    _Atomic bool stopping;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void curl_begin(void)
{
    (void)curl_global_init(CURL_GLOBAL_DEFAULT); /* what fails here fails again in curl_easy_init */
}

/* ---- base64 ---- */

static void encode(vd_slice_t bytes, char *out)
{
    (void)EVP_EncodeBlock((unsigned char *)out, bytes.data, (int)bytes.len);
}

static bool decode(const repl_json_value_t *v, uint8_t *out, size_t max, vd_slice_t *ret)
{
    if (v == NULL || v->kind != REPL_JSON_STRING || v->text.len == 0 || v->text.len % 4 != 0 ||
        v->text.len / 4 * 3 > max)
        return false;
    int len = EVP_DecodeBlock(out, v->text.data, (int)v->text.len);
    if (len < 0)
        return false;
    for (size_t i = 1; i <= 2 && v->text.data[v->text.len - i] == '='; i++)
        len--;
    *ret = vd_slice(out, (size_t)len);
    return true;
}

/* ---- set-up ---- */

static int add_endpoint(repl_etcd_t *etcd, const char *from, size_t len, vd_error_t *err)
{
    while (len != 0 && from[0] == ' ')
        from++, len--;
    while (len != 0 && (from[len - 1] == ' ' || from[len - 1] == '/'))
        len--;
    if (etcd->endpoint_count == REPL_ETCD_ENDPOINTS_MAX)
        return vd_error_set(err, VD_ERR_CONFIG, "more than %d endpoints of etcd",
                            REPL_ETCD_ENDPOINTS_MAX);
    if (len <= 8 || len >= REPL_ETCD_URL_MAX || strncmp(from, "https://", 8) != 0)
        return vd_error_set(err, VD_ERR_CONFIG,
                            "an endpoint of etcd must be https://host:port, not '%.*s'",
                            (int)(len < 100 ? len : 100), from);
    memcpy(etcd->endpoints[etcd->endpoint_count++], from, len);
    return VD_OK;
}

static int read_endpoints(repl_etcd_t *etcd, const char *list, vd_error_t *err)
{
    int rc = VD_OK;
    for (const char *at = list; rc == VD_OK;) {
        size_t len = strcspn(at, ",");
        rc = add_endpoint(etcd, at, len, err);
        if (at[len] == 0)
            break;
        at += len + 1;
    }
    return rc;
}

static size_t answer_arrived(char *bytes, size_t size, size_t count, void *context)
{
    repl_etcd_t *etcd = context;
    return vd_buf_append(&etcd->answer, bytes, size * count) == VD_OK ? size * count : 0;
}

/* What a watch says is read by asking: that something came is enough. Its first piece says only
 * that it has begun, but what was before that is worth a look, too. */
static size_t news_arrived(char *bytes, size_t size, size_t count, void *context)
{
    (void)bytes; /* see above */
    repl_etcd_t *etcd = context;
    etcd->news = true;
    return size * count;
}

/* Bytes that live as long as the handle; an empty one is not set. */
static bool set_pem(CURL *handle, CURLoption option, const vd_buf_t *pem)
{
    struct curl_blob blob = {pem->data + pem->start, vd_buf_len(pem), CURL_BLOB_NOCOPY};
    return blob.len == 0 || curl_easy_setopt(handle, option, &blob) == CURLE_OK;
}

static bool set_policy(repl_etcd_t *etcd, CURL *handle)
{
    char suites_12[VD_TLS_SUITES_MAX], suites_13[VD_TLS_SUITES_MAX];
    vd_tls_suites(suites_12, suites_13);
    return curl_easy_setopt(handle, CURLOPT_SSL_CIPHER_LIST, suites_12) == CURLE_OK &&
           curl_easy_setopt(handle, CURLOPT_TLS13_CIPHERS, suites_13) == CURLE_OK &&
           curl_easy_setopt(handle, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
           curl_easy_setopt(handle, CURLOPT_PROTOCOLS_STR, "https") == CURLE_OK &&
           curl_easy_setopt(handle, CURLOPT_PROXY, "") == CURLE_OK &&
           curl_easy_setopt(handle, CURLOPT_FOLLOWLOCATION, 0L) == CURLE_OK &&
           curl_easy_setopt(handle, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1) ==
               CURLE_OK &&
           curl_easy_setopt(handle, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2) ==
               CURLE_OK &&
           curl_easy_setopt(handle, CURLOPT_SSL_VERIFYPEER, 1L) == CURLE_OK &&
           curl_easy_setopt(handle, CURLOPT_SSL_VERIFYHOST, 2L) == CURLE_OK &&
           /* Only this authority: not those of the machine. */
           curl_easy_setopt(handle, CURLOPT_CAINFO, NULL) == CURLE_OK &&
           curl_easy_setopt(handle, CURLOPT_CAPATH, NULL) == CURLE_OK &&
           set_pem(handle, CURLOPT_CAINFO_BLOB, &etcd->ca) &&
           set_pem(handle, CURLOPT_SSLCERT_BLOB, &etcd->certificate) &&
           set_pem(handle, CURLOPT_SSLKEY_BLOB, &etcd->key) &&
           curl_easy_setopt(handle, CURLOPT_TCP_NODELAY, 1L) == CURLE_OK &&
           curl_easy_setopt(handle, CURLOPT_TCP_KEEPALIVE, 1L) == CURLE_OK &&
           curl_easy_setopt(handle, CURLOPT_HTTPHEADER, etcd->headers) == CURLE_OK &&
           curl_easy_setopt(handle, CURLOPT_POST, 1L) == CURLE_OK;
}

static int open_handles(repl_etcd_t *etcd, vd_error_t *err)
{
    (void)pthread_once(&once, curl_begin); /* can't fail for a static once */
    etcd->multi = curl_multi_init();
    etcd->request = curl_easy_init();
    etcd->watch = curl_easy_init();
    etcd->headers = curl_slist_append(NULL, "Content-Type: application/json");
    bool good = etcd->multi != NULL && etcd->request != NULL && etcd->watch != NULL &&
                etcd->headers != NULL && set_policy(etcd, etcd->request) &&
                set_policy(etcd, etcd->watch);
    good = good &&
           curl_easy_setopt(etcd->request, CURLOPT_WRITEFUNCTION, answer_arrived) == CURLE_OK &&
           curl_easy_setopt(etcd->request, CURLOPT_WRITEDATA, etcd) == CURLE_OK &&
           curl_easy_setopt(etcd->request, CURLOPT_ERRORBUFFER, etcd->why) == CURLE_OK &&
           curl_easy_setopt(etcd->watch, CURLOPT_WRITEFUNCTION, news_arrived) == CURLE_OK &&
           curl_easy_setopt(etcd->watch, CURLOPT_WRITEDATA, etcd) == CURLE_OK;
    return good ? VD_OK : vd_error_set(err, VD_ERR_INTERNAL, "libcurl can't be set up");
}

static int pem_read(const char *path, vd_buf_t *out, vd_error_t *err)
{
    vd_buf_init(out, PEM_BYTES_MAX);
    return path == NULL || path[0] == '\0' ? VD_OK : vd_files_read(path, out, err);
}

static int read_files(repl_etcd_t *etcd, const repl_etcd_options_t *options, vd_error_t *err)
{
    int rc = pem_read(options->ca_file, &etcd->ca, err);
    if (rc == VD_OK)
        rc = pem_read(options->certificate_file, &etcd->certificate, err);
    if (rc == VD_OK)
        rc = pem_read(options->key_file, &etcd->key, err);
    return rc;
}

static void make_keys(repl_etcd_t *etcd, const char *set_name)
{
    char key[KEY_MAX];
    (void)snprintf(key, sizeof key, "/veddb/%s/leader", set_name);
    encode(vd_slice_str(key), etcd->leader_key);
    (void)snprintf(key, sizeof key, "/veddb/%s/term", set_name);
    encode(vd_slice_str(key), etcd->term_key);
    (void)snprintf(key, sizeof key, "/veddb/%s/", set_name);
    encode(vd_slice_str(key), etcd->range_from);
    (void)snprintf(key, sizeof key, "/veddb/%s0", set_name); /* '0' comes behind '/' */
    encode(vd_slice_str(key), etcd->range_end);
    (void)snprintf(etcd->watch_body, sizeof etcd->watch_body,
                   "{\"create_request\":{\"key\":\"%s\",\"range_end\":\"%s\"}}", etcd->range_from,
                   etcd->range_end);
}

int repl_etcd_create(const repl_etcd_options_t *options, repl_etcd_t **ret_etcd, vd_error_t *err)
{
    VD_ASSERT(options != NULL && ret_etcd != NULL);
    if (options->set_name[0] == 0 || strlen(options->set_name) > REPL_ETCD_NAME_MAX)
        return vd_error_set(err, VD_ERR_CONFIG, "the set's name has 1 to %d bytes",
                            REPL_ETCD_NAME_MAX);
    repl_etcd_t *etcd = vd_xalloc(sizeof *etcd);
    etcd->timeout_ms = options->timeout_ms;
    vd_buf_init(&etcd->answer, REPL_ETCD_ANSWER_MAX);
    make_keys(etcd, options->set_name);
    int rc = read_endpoints(etcd, options->endpoints, err);
    if (rc == VD_OK)
        rc = read_files(etcd, options, err);
    if (rc == VD_OK)
        rc = open_handles(etcd, err);
    if (rc != VD_OK) {
        repl_etcd_destroy(&etcd);
        return rc;
    }
    *ret_etcd = etcd;
    return VD_OK;
}

static void watch_end(repl_etcd_t *etcd)
{
    if (etcd->watching)
        (void)curl_multi_remove_handle(etcd->multi, etcd->watch); /* it was added */
    etcd->watching = false;
}

void repl_etcd_destroy(repl_etcd_t **etcd_p)
{
    repl_etcd_t *etcd = *etcd_p;
    if (etcd == NULL)
        return;
    watch_end(etcd);
    curl_easy_cleanup(etcd->request);
    curl_easy_cleanup(etcd->watch);
    if (etcd->multi != NULL)
        (void)curl_multi_cleanup(etcd->multi); /* nothing is added any more */
    curl_slist_free_all(etcd->headers);
    vd_buf_done(&etcd->answer);
    vd_buf_done(&etcd->ca);
    vd_buf_done(&etcd->certificate);
    if (etcd->key.data != NULL)
        vd_wipe(etcd->key.data, etcd->key.cap);
    vd_buf_done(&etcd->key);
    vd_free(etcd);
    *etcd_p = NULL;
}

/* ---- requests ---- */

/* Moves what is under way; true when `wanted` has ended. */
static bool turn(repl_etcd_t *etcd, CURL *wanted, CURLcode *ret_result)
{
    int running, left;
    CURLMsg *message;
    bool ended = false;
    (void)curl_multi_perform(etcd->multi, &running); /* what fails has a message below */
    while ((message = curl_multi_info_read(etcd->multi, &left)) != NULL) {
        if (message->msg != CURLMSG_DONE)
            continue;
        if (message->easy_handle == etcd->watch) {
            watch_end(etcd);
        } else if (message->easy_handle == wanted) {
            ended = true;
            *ret_result = message->data.result;
        }
    }
    return ended;
}

static bool attempt(repl_etcd_t *etcd, const char *path, const char *body, uint64_t timeout_ms,
                    long *ret_status)
{
    char url[REPL_ETCD_URL_MAX + 64];
    CURLcode result = CURLE_ABORTED_BY_CALLBACK;
    bool ended = false;
    (void)snprintf(url, sizeof url, "%s%s", etcd->endpoints[etcd->current], path);
    vd_buf_clear(&etcd->answer);
    etcd->why[0] = 0;
    if (curl_easy_setopt(etcd->request, CURLOPT_URL, url) != CURLE_OK ||
        curl_easy_setopt(etcd->request, CURLOPT_POSTFIELDS, body) != CURLE_OK ||
        curl_easy_setopt(etcd->request, CURLOPT_POSTFIELDSIZE, (long)strlen(body)) != CURLE_OK ||
        curl_easy_setopt(etcd->request, CURLOPT_TIMEOUT_MS, (long)timeout_ms) != CURLE_OK ||
        curl_multi_add_handle(etcd->multi, etcd->request) != CURLM_OK)
        return false;
    while (!ended && !atomic_load(&etcd->stopping)) {
        ended = turn(etcd, etcd->request, &result);
        if (!ended)
            (void)curl_multi_poll(etcd->multi, NULL, 0, TURN_MS, NULL); /* early is fine */
    }
    (void)curl_easy_getinfo(etcd->request, CURLINFO_RESPONSE_CODE, ret_status); /* set below, too */
    (void)curl_multi_remove_handle(etcd->multi, etcd->request);                 /* it was added */
    return ended && result == CURLE_OK;
}

/* Endpoints in turn, from the one that answered last. One that has no leader, or is overloaded, is
 * as good as away. The answer is in etcd->json. */
static int ask(repl_etcd_t *etcd, const char *path, const char *body, vd_error_t *err)
{
    uint64_t share = etcd->timeout_ms / (etcd->endpoint_count < 3 ? etcd->endpoint_count : 3);
    uint64_t until = vd_monotonic_ms() + etcd->timeout_ms;
    long status = 0;
    bool answered = false;
    for (uint32_t i = 0; i < etcd->endpoint_count && !answered; i++) {
        uint64_t now = vd_monotonic_ms();
        if (atomic_load(&etcd->stopping) || now >= until)
            break;
        uint64_t ms = share > ATTEMPT_MIN_MS ? share : ATTEMPT_MIN_MS;
        status = 0;
        answered =
            attempt(etcd, path, body, now + ms < until ? ms : until - now, &status) && status < 500;
        if (!answered) {
            etcd->current = (etcd->current + 1) % etcd->endpoint_count;
            watch_end(etcd); /* it hung on the same one */
        }
    }
    if (!answered)
        return vd_error_set(err, VD_ERR_HOST_UNREACHABLE, "etcd does not answer: %s",
                            etcd->why[0] != 0 ? etcd->why : "its endpoints are not available");
    vd_slice_t text = vd_buf_slice(&etcd->answer);
    if (status != 200)
        return vd_error_set(err, VD_ERR_OPERATION_FAILED, "etcd refused %s (%ld): %.*s", path,
                            status, (int)(text.len < 200 ? text.len : 200), text.data);
    return repl_json_parse(text, &etcd->json, err);
}

static int bad_answer(const char *what, vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_PROTOCOL, "etcd answered without %s", what);
}

/* ---- the keys ---- */

static bool hex_u64(vd_slice_t text, uint64_t *ret)
{
    uint64_t n = 0;
    for (size_t i = 0; i < text.len; i++) {
        uint8_t c = text.data[i];
        if (c >= '0' && c <= '9')
            n = n << 4 | (uint64_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            n = n << 4 | (uint64_t)(c - 'a' + 10);
        else
            return false;
    }
    *ret = n;
    return text.len == 16;
}

static bool parse_term(vd_slice_t text, repl_etcd_record_t *record)
{
    uint64_t owner;
    repl_json_value_t rest = {.kind = REPL_JSON_NUMBER};
    if (text.len < 18 || text.data[16] != '/' || !hex_u64(vd_slice(text.data, 16), &record->term))
        return false;
    rest.text = vd_slice(text.data + 17, text.len - 17);
    if (!repl_json_u64(&rest, &owner) || owner == 0 || owner > UINT32_MAX)
        return false;
    record->owner = (uint32_t)owner;
    return true;
}

static bool parse_leader(vd_slice_t text, repl_etcd_record_t *record)
{
    repl_json_t json;
    uint64_t leader;
    if (repl_json_parse(text, &json, NULL) != VD_OK ||
        !repl_json_u64(repl_json_get(&json, &json.values[0], "term"), &record->leader_term) ||
        !repl_json_u64(repl_json_get(&json, &json.values[0], "leader"), &leader) || leader == 0 ||
        leader > UINT32_MAX)
        return false;
    record->leader = (uint32_t)leader;
    return true;
}

/* {kvs: [{key, value, lease}]}; both keys may be missing, others are not ours. */
static bool take_keys(repl_etcd_t *etcd, const repl_json_value_t *kvs, repl_etcd_record_t *record)
{
    const repl_json_t *json = &etcd->json;
    const repl_json_value_t *kv = repl_json_first(json, kvs);
    uint8_t bytes[VALUE_MAX];
    vd_slice_t text;
    bool good = true;
    while (kv != NULL && good) {
        const repl_json_value_t *key = repl_json_get(json, kv, "key");
        bool leader = key != NULL && vd_slice_is(key->text, etcd->leader_key);
        bool term = key != NULL && vd_slice_is(key->text, etcd->term_key);
        if (leader || term)
            good = decode(repl_json_get(json, kv, "value"), bytes, sizeof bytes, &text);
        if (leader && good)
            good = parse_leader(text, record) &&
                   repl_json_u64(repl_json_get(json, kv, "lease"), &record->lease);
        if (term && good)
            good = parse_term(text, record);
        kv = kv->next < kvs->next ? &json->values[kv->next] : NULL;
    }
    return good;
}

int repl_etcd_read(repl_etcd_t *etcd, repl_etcd_record_t *ret_record, vd_error_t *err)
{
    char body[2 * BASE64_MAX(KEY_MAX) + 100];
    repl_etcd_record_t record = {0};
    (void)snprintf(body, sizeof body, "{\"key\":\"%s\",\"range_end\":\"%s\"}", etcd->range_from,
                   etcd->range_end);
    int rc = ask(etcd, "/v3/kv/range", body, err);
    if (rc == VD_OK &&
        !take_keys(etcd, repl_json_get(&etcd->json, &etcd->json.values[0], "kvs"), &record))
        rc = vd_error_set(err, VD_ERR_PROTOCOL,
                          "the keys of this set in etcd have values that are not VedDB's");
    if (rc == VD_OK)
        *ret_record = record;
    return rc;
}

/* ---- the lease ---- */

int repl_etcd_grant(repl_etcd_t *etcd, uint64_t seconds, uint64_t *ret_lease, vd_error_t *err)
{
    char body[100];
    (void)snprintf(body, sizeof body, "{\"TTL\":\"%llu\"}", (unsigned long long)seconds);
    int rc = ask(etcd, "/v3/lease/grant", body, err);
    if (rc == VD_OK &&
        !repl_json_u64(repl_json_get(&etcd->json, &etcd->json.values[0], "ID"), ret_lease))
        rc = bad_answer("a lease", err);
    return rc;
}

static int lease_ask(repl_etcd_t *etcd, const char *path, uint64_t lease, vd_error_t *err)
{
    char body[100];
    (void)snprintf(body, sizeof body, "{\"ID\":\"%llu\"}", (unsigned long long)lease);
    return ask(etcd, path, body, err);
}

int repl_etcd_keep_alive(repl_etcd_t *etcd, uint64_t lease, uint64_t *ret_left_s, vd_error_t *err)
{
    int rc = lease_ask(etcd, "/v3/lease/keepalive", lease, err);
    if (rc != VD_OK)
        return rc;
    const repl_json_value_t *result = repl_json_get(&etcd->json, &etcd->json.values[0], "result");
    uint64_t id;
    if (!repl_json_u64(repl_json_get(&etcd->json, result, "ID"), &id) || id != lease)
        return bad_answer("the lease", err);
    *ret_left_s = 0; /* a zero is left out */
    (void)repl_json_u64(repl_json_get(&etcd->json, result, "TTL"), ret_left_s);
    return VD_OK;
}

int repl_etcd_time_left(repl_etcd_t *etcd, uint64_t lease, uint64_t *ret_left_s, vd_error_t *err)
{
    int rc = lease_ask(etcd, "/v3/lease/timetolive", lease, err);
    *ret_left_s = 0; /* also of one that is gone: its time is -1 */
    if (rc == VD_OK)
        (void)repl_json_u64(repl_json_get(&etcd->json, &etcd->json.values[0], "TTL"), ret_left_s);
    return rc;
}

int repl_etcd_revoke(repl_etcd_t *etcd, uint64_t lease, vd_error_t *err)
{
    return lease_ask(etcd, "/v3/lease/revoke", lease, err);
}

/* ---- the claim ---- */

/* What must be true of the term key. */
static void term_condition(const repl_etcd_record_t *before, uint64_t term, uint32_t self,
                           char *out, size_t size)
{
    char value[64], packed[BASE64_MAX(sizeof value)];
    bool again = before->term == term && before->owner == self;
    if (before->term == 0) {
        (void)snprintf(out, size,
                       "\"target\":\"CREATE\",\"result\":\"EQUAL\",\"create_revision\":\"0\"");
        return;
    }
    /* Less than "<term>/": whoever had claimed an older one. */
    if (again)
        (void)snprintf(value, sizeof value, "%016llx/%u", (unsigned long long)term, self);
    else
        (void)snprintf(value, sizeof value, "%016llx/", (unsigned long long)term);
    encode(vd_slice_str(value), packed);
    (void)snprintf(out, size, "\"target\":\"VALUE\",\"result\":\"%s\",\"value\":\"%s\"",
                   again ? "EQUAL" : "LESS", packed);
}

static void put_name(const char *name, char *out, size_t size)
{
    size_t n = 0;
    for (const uint8_t *c = (const uint8_t *)name; *c != 0 && n + 7 < size; c++) {
        if (*c == '"' || *c == '\\' || *c < 0x20)
            n += (size_t)snprintf(out + n, size - n, "\\u%04x", *c);
        else
            out[n++] = (char)*c;
    }
    out[n] = 0;
}

int repl_etcd_claim(repl_etcd_t *etcd, const repl_etcd_record_t *before, uint64_t term,
                    uint32_t self, const char *name, uint64_t lease, bool *ret_granted,
                    vd_error_t *err)
{
    char condition[300], quoted[VALUE_MAX / 2], leader[VALUE_MAX], term_value[64];
    char leader_packed[BASE64_MAX(sizeof leader)], term_packed[BASE64_MAX(sizeof term_value)];
    char body[4 * BASE64_MAX(KEY_MAX) + sizeof leader_packed + sizeof term_packed + 1000];
    term_condition(before, term, self, condition, sizeof condition);
    put_name(name, quoted, sizeof quoted);
    (void)snprintf(leader, sizeof leader, "{\"term\":%llu,\"leader\":%u,\"name\":\"%s\"}",
                   (unsigned long long)term, self, quoted);
    (void)snprintf(term_value, sizeof term_value, "%016llx/%u", (unsigned long long)term, self);
    encode(vd_slice_str(leader), leader_packed);
    encode(vd_slice_str(term_value), term_packed);
    int len = snprintf(
        body, sizeof body,
        "{\"compare\":[{\"key\":\"%s\",%s}],"
        "\"success\":[{\"request_put\":{\"key\":\"%s\",\"value\":\"%s\",\"lease\":\"%llu\"}},"
        "{\"request_put\":{\"key\":\"%s\",\"value\":\"%s\"}}]}",
        etcd->term_key, condition, etcd->leader_key, leader_packed, (unsigned long long)lease,
        etcd->term_key, term_packed);
    VD_ASSERT(len > 0 && (size_t)len < sizeof body); /* all parts are bounded */
    int rc = ask(etcd, "/v3/kv/txn", body, err);
    if (rc != VD_OK)
        return rc;
    const repl_json_value_t *done = repl_json_get(&etcd->json, &etcd->json.values[0], "succeeded");
    *ret_granted = done != NULL && vd_slice_is(done->text, "true"); /* a false is left out */
    return VD_OK;
}

/* ---- waiting ---- */

static void watch_begin(repl_etcd_t *etcd)
{
    char url[REPL_ETCD_URL_MAX + 64];
    (void)snprintf(url, sizeof url, "%s/v3/watch", etcd->endpoints[etcd->current]);
    etcd->watching =
        curl_easy_setopt(etcd->watch, CURLOPT_URL, url) == CURLE_OK &&
        curl_easy_setopt(etcd->watch, CURLOPT_POSTFIELDS, etcd->watch_body) == CURLE_OK &&
        curl_easy_setopt(etcd->watch, CURLOPT_CONNECTTIMEOUT_MS, (long)etcd->timeout_ms) ==
            CURLE_OK &&
        curl_multi_add_handle(etcd->multi, etcd->watch) == CURLM_OK;
}

bool repl_etcd_wait(repl_etcd_t *etcd, uint64_t timeout_ms)
{
    int active = 0;
    uint64_t until = vd_monotonic_ms() + timeout_ms, now;
    CURLcode ignored;
    if (!etcd->watching)
        watch_begin(etcd);
    (void)turn(etcd, NULL, &ignored); /* of the watch alone */
    while (!etcd->news && !atomic_load(&etcd->stopping) && (now = vd_monotonic_ms()) < until) {
        /* Without a descriptor that moved it was a wake, or time: the caller looks again. */
        (void)curl_multi_poll(etcd->multi, NULL, 0, (int)(until - now), &active);
        (void)turn(etcd, NULL, &ignored);
        if (active == 0)
            break;
    }
    bool news = etcd->news;
    etcd->news = false;
    return news;
}

bool repl_etcd_is_watching(const repl_etcd_t *etcd)
{
    return etcd->watching;
}

const char *repl_etcd_endpoint(const repl_etcd_t *etcd)
{
    return etcd->endpoints[etcd->current];
}

void repl_etcd_wake(repl_etcd_t *etcd)
{
    (void)curl_multi_wakeup(etcd->multi); /* a wait then ends by its time */
}

void repl_etcd_stop(repl_etcd_t *etcd)
{
    atomic_store(&etcd->stopping, true);
    repl_etcd_wake(etcd);
}
