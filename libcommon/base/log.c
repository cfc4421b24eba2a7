/* libcommon/base/log.c — one line per event; see log.h.
 *
 * The line is made on the stack and leaves in one write(2); the ring is behind a mutex that is held
 * for a copy only. */
#include "libcommon/base/log.h"
#include "libcommon/base/paths.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/error.h"
#include "libcommon/base/mem.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    uint16_t len;
    char text[VD_LOG_LINE_MAX];
} ring_line_t;

static const char *const level_names[] = {"debug", "info", "warn", "error", "fatal"};

static char program_name[32] = "veddb";
static vd_log_level_t level_now = VD_LOG_INFO;
static vd_log_format_t format_now = VD_LOG_LOGFMT;
static uint64_t generation_now;
static pthread_mutex_t ring_lock = PTHREAD_MUTEX_INITIALIZER;
static ring_line_t ring[VD_LOG_RING_LINES];
static uint64_t ring_next; /* lines ever written */

void vd_log_setup(const char *program, vd_log_level_t level, vd_log_format_t format)
{
    VD_ASSERT(program != NULL);
    (void)snprintf(program_name, sizeof program_name, "%s", program);
    format_now = format;
    vd_log_set_level(level);
}

void vd_log_set_generation(uint64_t generation)
{
    __atomic_store_n(&generation_now, generation, __ATOMIC_RELAXED);
}

void vd_log_set_level(vd_log_level_t level)
{
    __atomic_store_n(&level_now, level, __ATOMIC_RELAXED);
}

vd_log_level_t vd_log_level(void)
{
    return __atomic_load_n(&level_now, __ATOMIC_RELAXED);
}

int vd_log_level_parse(vd_slice_t name, vd_log_level_t *ret_level)
{
    for (size_t i = 0; i < VD_COUNT_OF(level_names); i++) {
        if (!vd_slice_is(name, level_names[i]))
            continue;
        *ret_level = (vd_log_level_t)i;
        return VD_OK;
    }
    return VD_ERR_BAD_VALUE;
}

const char *vd_log_level_name(vd_log_level_t level)
{
    VD_ASSERT((size_t)level < VD_COUNT_OF(level_names));
    return level_names[level];
}

/* Bytes of the UTF-8 sequence at p (1 to 4), 0 when it is none. */
static size_t utf8_length(const uint8_t *p, size_t left)
{
    size_t n = p[0] < 0x80   ? 1
               : p[0] < 0xC2 ? 0
               : p[0] < 0xE0 ? 2
               : p[0] < 0xF0 ? 3
               : p[0] < 0xF5 ? 4
                             : 0;
    if (n > left)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xC0) != 0x80)
            return 0;
    return n;
}

/* Appends value with JSON's escapes; logfmt readers know the same ones. Stops before it overruns.
 */
static size_t escape(vd_slice_t value, char *out, size_t size)
{
    size_t len = 0;
    for (size_t i = 0; i < value.len;) {
        char piece[8];
        size_t taken = 1, n;
        uint8_t c = value.data[i];
        if (c == '"' || c == '\\')
            n = (size_t)snprintf(piece, sizeof piece, "\\%c", c);
        else if (c == '\n')
            n = (size_t)snprintf(piece, sizeof piece, "\\n");
        else if (c == '\t')
            n = (size_t)snprintf(piece, sizeof piece, "\\t");
        else if (c < 0x20 || c == 0x7F)
            n = (size_t)snprintf(piece, sizeof piece, "\\u%04x", c);
        else if ((taken = utf8_length(value.data + i, value.len - i)) != 0)
            memcpy(piece, value.data + i, n = taken);
        else
            taken = 1, n = (size_t)snprintf(piece, sizeof piece, "\\ufffd");
        if (len + n > size)
            break;
        memcpy(out + len, piece, n);
        len += n;
        i += taken;
    }
    return len;
}

const char *vd_log_quote(vd_slice_t value, char *buf, size_t size)
{
    VD_ASSERT(size >= 3);
    bool plain = value.len != 0 && value.len < size;
    for (size_t i = 0; plain && i < value.len; i++) {
        uint8_t c = value.data[i];
        plain = c > 0x20 && c < 0x7F && c != '"' && c != '=' && c != '\\';
    }
    if (plain) {
        memcpy(buf, value.data, value.len);
        buf[value.len] = '\0';
        return buf;
    }
    buf[0] = '"';
    size_t len = 1 + escape(value, buf + 1, size - 3);
    buf[len] = '"';
    buf[len + 1] = '\0';
    return buf;
}

typedef struct {
    char text[VD_LOG_LINE_MAX];
    size_t len; /* at most VD_LOG_LINE_MAX - 3: room for what closes the line */
} line_t;

static void put(line_t *line, const char *data, size_t len)
{
    size_t room = VD_LOG_LINE_MAX - 3 - line->len;
    if (len > room)
        len = room;
    memcpy(line->text + line->len, data, len);
    line->len += len;
}

static void VD_PRINTF(2, 3) putf(line_t *line, const char *format, ...)
{
    char piece[256];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(piece, sizeof piece, format, args);
    va_end(args);
    if (n > 0)
        put(line, piece, (size_t)n < sizeof piece ? (size_t)n : sizeof piece - 1);
}

static void put_time(line_t *line)
{
    int64_t ms = vd_wall_ms();
    time_t seconds = (time_t)(ms / 1000);
    struct tm tm;
    (void)gmtime_r(&seconds, &tm);
    putf(line, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday,
         tm.tm_hour, tm.tm_min, tm.tm_sec, (int)(ms % 1000));
}

static bool is_number(const char *s, size_t len)
{
    size_t i = len != 0 && s[0] == '-';
    if (i == len || len - i > 18 || (s[i] == '0' && len - i > 1))
        return false;
    for (; i < len; i++)
        if (s[i] < '0' || s[i] > '9')
            return false;
    return true;
}

/* `key=value key="quoted value"` as JSON members; the quoted form has JSON's escapes already. */
static void put_json_fields(line_t *line, const char *s)
{
    for (;;) {
        while (*s == ' ')
            s++;
        if (*s == '\0')
            return;
        const char *key = s;
        s += strcspn(s, "= ");
        size_t key_len = (size_t)(s - key);
        const char *value = "";
        size_t value_len = 0;
        bool quoted = false;
        if (*s == '=') {
            value = ++s;
            quoted = *s == '"';
            if (quoted) {
                for (s++; *s != '\0' && *s != '"'; s++)
                    if (*s == '\\' && s[1] != '\0')
                        s++;
                if (*s == '"')
                    s++;
            } else {
                s += strcspn(s, " ");
            }
            value_len = (size_t)(s - value);
        }
        /* A member that does not fit is left out whole: a cut line is still JSON. */
        if (line->len + key_len + value_len * 6 + 8 > VD_LOG_LINE_MAX - 3)
            return;
        char escaped[VD_LOG_LINE_MAX];
        put(line, ",\"", 2);
        put(line, escaped, escape(vd_slice(key, key_len), escaped, sizeof escaped));
        put(line, "\":", 2);
        if (is_number(value, value_len) ||
            (quoted && value_len >= 2 && value[value_len - 1] == '"')) {
            put(line, value, value_len);
        } else {
            put(line, "\"", 1);
            put(line, escaped, escape(vd_slice(value, value_len), escaped, sizeof escaped));
            put(line, "\"", 1);
        }
    }
}

static void ring_keep(const line_t *line)
{
    (void)pthread_mutex_lock(&ring_lock);
    ring_line_t *slot = &ring[ring_next++ % VD_LOG_RING_LINES];
    slot->len = (uint16_t)(line->len - 1); /* without the line's end */
    memcpy(slot->text, line->text, slot->len);
    (void)pthread_mutex_unlock(&ring_lock);
}

void vd_log(vd_log_level_t level, const char *msg, const char *fields, ...)
{
    if (level < vd_log_level())
        return;
    char text[VD_LOG_LINE_MAX];
    va_list args;
    va_start(args, fields);
    if (vsnprintf(text, sizeof text, fields, args) < 0)
        text[0] = '\0';
    va_end(args);
    vd_paths_tell(text, sizeof text);
    for (char *p = text; *p != '\0'; p++) /* a value that was not quoted must not end the line */
        if ((unsigned char)*p < 0x20)
            *p = ' ';

    char message[512];
    size_t message_len = escape(vd_slice_str(msg), message, sizeof message);
    unsigned long long generation = __atomic_load_n(&generation_now, __ATOMIC_RELAXED);
    line_t line;
    line.len = 0;
    if (format_now == VD_LOG_JSON) {
        put(&line, "{\"ts\":\"", 7);
        put_time(&line);
        putf(&line, "\",\"level\":\"%s\",\"prog\":\"%s\",\"pid\":%ld,\"gen\":%llu,\"msg\":\"",
             vd_log_level_name(level), program_name, (long)getpid(), generation);
        put(&line, message, message_len);
        put(&line, "\"", 1);
        put_json_fields(&line, text);
        line.text[line.len++] = '}';
    } else {
        put(&line, "ts=", 3);
        put_time(&line);
        putf(&line, " level=%s prog=%s pid=%ld gen=%llu msg=\"", vd_log_level_name(level),
             program_name, (long)getpid(), generation);
        put(&line, message, message_len);
        put(&line, "\"", 1);
        if (text[0] != '\0') {
            put(&line, " ", 1);
            put(&line, text, strlen(text));
        }
    }
    line.text[line.len++] = '\n';
    ring_keep(&line);
    (void)!write(STDERR_FILENO, line.text, line.len); /* nobody to tell when it fails */
}

void vd_log_ring_read(void (*read)(vd_slice_t line, void *context), void *context)
{
    VD_ASSERT(read != NULL);
    ring_line_t *copy = vd_xalloc(sizeof *copy);
    uint64_t end, at;
    (void)pthread_mutex_lock(&ring_lock);
    end = ring_next;
    (void)pthread_mutex_unlock(&ring_lock);
    for (at = end > VD_LOG_RING_LINES ? end - VD_LOG_RING_LINES : 0; at < end; at++) {
        /* The callback runs without the lock: it may log itself. */
        (void)pthread_mutex_lock(&ring_lock);
        bool kept = ring_next - at <= VD_LOG_RING_LINES;
        if (kept) {
            copy->len = ring[at % VD_LOG_RING_LINES].len;
            memcpy(copy->text, ring[at % VD_LOG_RING_LINES].text, copy->len);
        }
        (void)pthread_mutex_unlock(&ring_lock);
        if (kept)
            read(vd_slice(copy->text, copy->len), context);
    }
    vd_free(copy);
}
