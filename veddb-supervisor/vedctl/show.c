/* veddb-supervisor/vedctl/show.c — see show.h. */
#include "veddb-supervisor/vedctl/show.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

bson_t *vedctl_parse(const vd_buf_t *json)
{
    bson_error_t error;
    vd_slice_t text = vd_buf_slice(json);
    bson_t *doc = bson_new_from_json(text.data, (ssize_t)text.len, &error);
    if (doc == NULL)
        fprintf(stderr, "vedctl: the answer can't be read: %s\n", error.message);
    return doc;
}

const char *vedctl_text(const bson_t *doc, const char *name)
{
    bson_iter_t iter;
    return bson_iter_init_find(&iter, doc, name) && BSON_ITER_HOLDS_UTF8(&iter)
               ? bson_iter_utf8(&iter, NULL)
               : "";
}

int64_t vedctl_number(const bson_t *doc, const char *name)
{
    bson_iter_t iter;
    return bson_iter_init_find(&iter, doc, name) ? bson_iter_as_int64(&iter) : 0;
}

double vedctl_real(const bson_t *doc, const char *name)
{
    bson_iter_t iter;
    return bson_iter_init_find(&iter, doc, name) ? bson_iter_as_double(&iter) : 0;
}

bool vedctl_flag(const bson_t *doc, const char *name)
{
    bson_iter_t iter;
    return bson_iter_init_find(&iter, doc, name) && bson_iter_as_bool(&iter);
}

static bool view_of(const bson_iter_t *iter, bson_t *ret)
{
    const uint8_t *data;
    uint32_t len;
    if (BSON_ITER_HOLDS_ARRAY(iter))
        bson_iter_array(iter, &len, &data);
    else if (BSON_ITER_HOLDS_DOCUMENT(iter))
        bson_iter_document(iter, &len, &data);
    else
        return false;
    return bson_init_static(ret, data, len);
}

bool vedctl_sub(const bson_t *doc, const char *name, bson_t *ret)
{
    bson_iter_t iter;
    return bson_iter_init_find(&iter, doc, name) && view_of(&iter, ret);
}

bool vedctl_next(bson_iter_t *iter, bson_t *ret)
{
    while (bson_iter_next(iter))
        if (view_of(iter, ret))
            return true;
    return false;
}

const char *vedctl_date(int64_t ms, char buf[VEDCTL_TEXT_SIZE])
{
    time_t seconds = (time_t)(ms / 1000);
    struct tm tm;
    if (ms == 0 || gmtime_r(&seconds, &tm) == NULL ||
        strftime(buf, VEDCTL_TEXT_SIZE, "%Y-%m-%d %H:%M:%S", &tm) == 0)
        return "-";
    return buf;
}

const char *vedctl_span(int64_t ms, char buf[VEDCTL_TEXT_SIZE])
{
    int64_t s = ms / 1000;
    if (ms < 10000)
        (void)snprintf(buf, VEDCTL_TEXT_SIZE, "%" PRId64 "ms", ms);
    else if (s < 3600)
        (void)snprintf(buf, VEDCTL_TEXT_SIZE, "%" PRId64 "m %" PRId64 "s", s / 60, s % 60);
    else if (s < 86400)
        (void)snprintf(buf, VEDCTL_TEXT_SIZE, "%" PRId64 "h %" PRId64 "m", s / 3600, s / 60 % 60);
    else
        (void)snprintf(buf, VEDCTL_TEXT_SIZE, "%" PRId64 "d %" PRId64 "h", s / 86400,
                       s / 3600 % 24);
    return buf;
}

const char *vedctl_size(int64_t bytes, char buf[VEDCTL_TEXT_SIZE])
{
    static const char *const units[] = {"B", "KB", "MB", "GB", "TB", "PB"};
    double size = (double)bytes;
    size_t unit = 0;
    while (size >= 1024 && unit + 1 < sizeof units / sizeof units[0])
        size /= 1024, unit++;
    (void)snprintf(buf, VEDCTL_TEXT_SIZE, unit == 0 ? "%.0f %s" : "%.1f %s", size, units[unit]);
    return buf;
}
