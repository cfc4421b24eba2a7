/* veddb-gatewayd/bootstrap.c — see bootstrap.h. */
#include "veddb-gatewayd/bootstrap.h"

#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/files.h"
#include "veddb-gatewayd/commands/user_document.h"

#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    const uint8_t *at, *end;
} reader_t;

static void blanks(reader_t *in)
{
    while (in->at < in->end &&
           (*in->at == ' ' || *in->at == '\t' || *in->at == '\n' || *in->at == '\r'))
        in->at++;
}

static bool literal(reader_t *in, char c)
{
    blanks(in);
    if (in->at == in->end || *in->at != (uint8_t)c)
        return false;
    in->at++;
    return true;
}

static bool hex4(reader_t *in, uint32_t *ret)
{
    uint32_t v = 0;
    for (int i = 0; i < 4; i++) {
        if (in->at == in->end)
            return false;
        char c = (char)*in->at++;
        if (c >= '0' && c <= '9')
            v = v << 4 | (uint32_t)(c - '0');
        else if ((c | 32) >= 'a' && (c | 32) <= 'f')
            v = v << 4 | (uint32_t)((c | 32) - 'a' + 10);
        else
            return false;
    }
    *ret = v;
    return true;
}

static size_t utf8_put(uint32_t c, char out[3])
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xC0 | c >> 6), out[1] = (char)(0x80 | (c & 63));
        return 2;
    }
    out[0] = (char)(0xE0 | c >> 12), out[1] = (char)(0x80 | (c >> 6 & 63)),
    out[2] = (char)(0x80 | (c & 63));
    return 3;
}

/* A JSON string; escapes of the basic plane only (a surrogate is refused, the character itself may
 * stand there). */
static bool string(reader_t *in, char *out, size_t size)
{
    size_t n = 0;
    if (!literal(in, '"'))
        return false;
    while (in->at < in->end && *in->at != '"') {
        char bytes[3] = {(char)*in->at++};
        size_t len = 1;
        if ((uint8_t)bytes[0] < 0x20)
            return false;
        if (bytes[0] == '\\') {
            static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
            if (in->at == in->end)
                return false;
            char c = (char)*in->at++;
            const char *at = c == 0 ? NULL : strchr(from, c);
            uint32_t code;
            if (at != NULL)
                bytes[0] = to[at - from];
            else if (c == 'u' && hex4(in, &code) && code != 0 && (code < 0xD800 || code > 0xDFFF))
                len = utf8_put(code, bytes);
            else
                return false;
        }
        if (n + len >= size)
            return false;
        memcpy(out + n, bytes, len);
        n += len;
    }
    out[n] = 0;
    return literal(in, '"');
}

int gate_bootstrap_parse(vd_slice_t text, char *ret_user, size_t user_size, char *ret_password,
                         size_t password_size, vd_error_t *err)
{
    reader_t in = {text.data, text.data + text.len};
    ret_user[0] = ret_password[0] = 0;
    bool good = literal(&in, '{');
    for (int i = 0; i < 2 && good; i++) {
        char name[16];
        good = (i == 0 || literal(&in, ',')) && string(&in, name, sizeof name) && literal(&in, ':');
        if (good && strcmp(name, "user") == 0)
            good = string(&in, ret_user, user_size);
        else if (good && strcmp(name, "password") == 0)
            good = string(&in, ret_password, password_size);
        else
            good = false;
    }
    good = good && literal(&in, '}');
    blanks(&in);
    if (!good || in.at != in.end || ret_user[0] == 0 || ret_password[0] == 0)
        return vd_error_set(err, VD_ERR_CONFIG,
                            "the bootstrap file must be {\"user\": \"..\", \"password\": \"..\"}");
    return VD_OK;
}

static int read_file(const char *path, vd_buf_t *out, vd_error_t *err)
{
    int fd = vd_files_open(path), rc = VD_OK;
    struct stat about;
    uint8_t *space;
    if (fd < 0 || fstat(fd, &about) != 0) {
        rc = vd_error_set(err, VD_ERR_CONFIG, "the bootstrap file %s can't be opened", path);
        goto cleanup;
    }
    if (!S_ISREG(about.st_mode) || (about.st_mode & 077) != 0) {
        rc = vd_error_set(err, VD_ERR_CONFIG, "the bootstrap file %s must be a file of mode 0600",
                          path);
        goto cleanup;
    }
    if (vd_buf_reserve(out, GATE_BOOTSTRAP_BYTES_MAX, &space) != VD_OK) {
        rc = vd_error_set(err, VD_ERR_NO_MEMORY, "no memory for the bootstrap file");
        goto cleanup;
    }
    ssize_t n = read(fd, space, GATE_BOOTSTRAP_BYTES_MAX);
    if (n <= 0 || n == GATE_BOOTSTRAP_BYTES_MAX) {
        rc = vd_error_set(err, VD_ERR_CONFIG, "the bootstrap file %s is empty or too long", path);
        goto cleanup;
    }
    vd_buf_commit(out, (size_t)n);
cleanup:
    if (fd >= 0)
        (void)close(fd);
    return rc;
}

int gate_bootstrap(gate_t *gate, vd_error_t *err)
{
    char user[GATE_SCRAM_NAME_MAX], password[1024];
    vd_buf_t file, reply;
    vd_bb_t bb;
    vd_bson_t document, command;
    vd_arena_t *arena = vd_arena_create();
    vd_buf_init(&file, GATE_BOOTSTRAP_BYTES_MAX + 1);
    vd_buf_init(&reply, 64 * 1024);
    int rc = read_file(gate->settings.bootstrap_file, &file, err);
    if (rc == VD_OK)
        rc = gate_bootstrap_parse(vd_buf_slice(&file), user, sizeof user, password, sizeof password,
                                  err);
    if (rc != VD_OK)
        goto cleanup;
    static const gate_role_ref_t root = {{(const uint8_t *)"root", 4},
                                         {(const uint8_t *)"admin", 5}};
    rc =
        gate_user_document(arena, vd_slice_str(user), VD_SLICE_LIT("admin"), vd_slice_str(password),
                           VD_BSON_NONE, VD_VALUE_MISSING, &root, 1, &document, err);
    if (rc != VD_OK)
        goto cleanup;
    vd_bb_init_arena(&bb, arena, 64 * 1024);
    vd_bb_cstr(&bb, "insert", "system.users");
    vd_bb_begin_array(&bb, "documents");
    vd_bb_document(&bb, "0", document);
    vd_bb_close(&bb);
    vd_bb_cstr(&bb, "$db", "admin");
    rc = vd_bb_finish(&bb, &command, err);
    if (rc == VD_OK)
        rc = gate_internal_write(gate, GATE_CALL_ONCE, command, &reply, err);
    if (rc == VD_ERR_DUPLICATE_KEY) { /* an earlier start got this far */
        vd_error_clear(err);
        rc = VD_OK;
    }
    if (rc == VD_OK)
        vd_log(VD_LOG_INFO, "first administrator is there", "user=%s",
               vd_log_quote(vd_slice_str(user), (char[600]){0}, 600));
cleanup:
    vd_wipe(password, sizeof password);
    if (vd_buf_len(&file) != 0)
        vd_wipe(vd_buf_at(&file, 0), vd_buf_len(&file));
    vd_buf_done(&file);
    vd_buf_done(&reply);
    vd_arena_destroy(&arena);
    return rc;
}
