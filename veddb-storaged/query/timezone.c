/* veddb-storaged/query/timezone.c — reads TZif files (RFC 8536) and the POSIX rule at their end for
 * times behind the last transition. */
#include "veddb-storaged/query/timezone.h"

#include "libcommon/base/buf.h"
#include "libcommon/base/map.h"
#include "libcommon/base/mem.h"
#include "veddb-storaged/query/date.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#define ZONE_FOLDER "/usr/share/zoneinfo/"

/* When daylight saving starts or ends, of a POSIX rule. */
typedef struct {
    char kind; /* 'M' month.week.day, 'J' day 1..365 without Feb 29, 'N' day 0..365 */
    int month, week, day;
    int32_t time_s; /* local, since midnight; may be negative or over a day */
} change_t;

typedef struct {
    int32_t standard_s, daylight_s;
    bool has_daylight;
    change_t start, end;
} posix_t;

struct stor_zone_rules {
    uint32_t count;
    int64_t *times;   /* of transitions, UTC seconds, rising */
    int32_t *offsets; /* from times[i] on */
    int32_t before_s; /* before the first */
    bool has_posix;
    posix_t posix; /* after the last */
};

/* ---- the POSIX rule ---- */

static bool read_number(const char **p, int *ret)
{
    int n = 0, digits = 0;
    for (; **p >= '0' && **p <= '9' && digits < 4; (*p)++, digits++)
        n = n * 10 + (**p - '0');
    *ret = n;
    return digits > 0;
}

static bool read_time(const char **p, int32_t *ret_s)
{
    int sign = 1, part[3] = {0, 0, 0};
    if (**p == '+' || **p == '-')
        sign = *(*p)++ == '-' ? -1 : 1;
    for (int i = 0; i < 3; i++) {
        if (i > 0 && **p != ':')
            break;
        if (i > 0)
            (*p)++;
        if (!read_number(p, &part[i]))
            return false;
    }
    *ret_s = sign * (part[0] * 3600 + part[1] * 60 + part[2]);
    return true;
}

static bool skip_name(const char **p)
{
    const char *start = *p;
    if (**p == '<') {
        while (**p != '\0' && **p != '>')
            (*p)++;
        return *(*p)++ == '>';
    }
    while ((**p >= 'A' && **p <= 'Z') || (**p >= 'a' && **p <= 'z'))
        (*p)++;
    return *p > start;
}

static bool read_change(const char **p, change_t *ret)
{
    if (**p != ',')
        return false;
    (*p)++;
    ret->kind = 'N';
    if (**p == 'M' || **p == 'J')
        ret->kind = *(*p)++;
    if (ret->kind == 'M') {
        if (!read_number(p, &ret->month) || *(*p)++ != '.' || !read_number(p, &ret->week) ||
            *(*p)++ != '.' || !read_number(p, &ret->day))
            return false;
        if (ret->month < 1 || ret->month > 12 || ret->week < 1 || ret->week > 5 || ret->day > 6)
            return false;
    } else if (!read_number(p, &ret->day)) {
        return false;
    }
    ret->time_s = 7200;
    if (**p != '/')
        return true;
    (*p)++;
    return read_time(p, &ret->time_s);
}

static bool read_posix(const char *text, posix_t *ret)
{
    const char *p = text;
    memset(ret, 0, sizeof *ret);
    if (!skip_name(&p) || !read_time(&p, &ret->standard_s))
        return false;
    ret->standard_s = -ret->standard_s; /* POSIX counts west */
    if (*p == '\0')
        return true;
    if (!skip_name(&p))
        return false;
    ret->daylight_s = ret->standard_s + 3600;
    if (*p != ',' && *p != '\0') {
        if (!read_time(&p, &ret->daylight_s))
            return false;
        ret->daylight_s = -ret->daylight_s;
    }
    ret->has_daylight = read_change(&p, &ret->start) && read_change(&p, &ret->end);
    return ret->has_daylight && *p == '\0';
}

/* Local seconds since 1970 at which the change happens in that year. */
static int64_t change_in_year(const change_t *change, int64_t year)
{
    int64_t days;
    if (change->kind == 'M') {
        int64_t first = stor_days_from_civil(year, change->month, 1);
        int ahead = (change->day - stor_day_of_week(first) + 7) % 7;
        int day = 1 + ahead + (change->week - 1) * 7;
        while (day > stor_days_in_month(year, change->month))
            day -= 7;
        days = first + day - 1;
    } else {
        int day = change->day;
        if (change->kind == 'J')
            day += stor_days_in_month(year, 2) == 29 && change->day >= 60 ? 0 : -1;
        days = stor_days_from_civil(year, 1, 1) + day;
    }
    return days * 86400 + change->time_s;
}

static int32_t posix_offset(const posix_t *posix, int64_t utc_s)
{
    if (!posix->has_daylight)
        return posix->standard_s;
    int64_t year;
    int month, day;
    stor_civil_from_days(stor_floor_div(utc_s + posix->standard_s, 86400), &year, &month, &day);
    int64_t start = change_in_year(&posix->start, year) - posix->standard_s;
    int64_t end = change_in_year(&posix->end, year) - posix->daylight_s;
    bool in_summer = start < end ? utc_s >= start && utc_s < end : utc_s >= start || utc_s < end;
    return in_summer ? posix->daylight_s : posix->standard_s;
}

/* ---- TZif ---- */

typedef struct {
    const uint8_t *p, *end;
    uint32_t counts[6]; /* isutcnt isstdcnt leapcnt timecnt typecnt charcnt */
} reader_t;

static uint32_t get_be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static bool read_header(reader_t *r, char *ret_version)
{
    if (r->end - r->p < 44 || memcmp(r->p, "TZif", 4) != 0)
        return false;
    *ret_version = (char)r->p[4];
    for (int i = 0; i < 6; i++) {
        r->counts[i] = get_be32(r->p + 20 + 4 * i);
        if (r->counts[i] > STOR_ZONE_FILE_MAX_BYTES)
            return false;
    }
    r->p += 44;
    return true;
}

static size_t block_len(const reader_t *r, size_t time_size)
{
    return r->counts[3] * (time_size + 1) + r->counts[4] * 6 + r->counts[5] +
           r->counts[2] * (time_size + 4) + r->counts[1] + r->counts[0];
}

static bool read_block(reader_t *r, size_t time_size, stor_zone_rules_t *rules)
{
    uint32_t count = r->counts[3], types = r->counts[4];
    if (types == 0 || (size_t)(r->end - r->p) < block_len(r, time_size))
        return false;
    const uint8_t *times = r->p, *index = times + count * time_size, *type = index + count;
    rules->times = vd_xalloc(sizeof *rules->times * ((size_t)count + 1));
    rules->offsets = vd_xalloc(sizeof *rules->offsets * ((size_t)count + 1));
    for (uint32_t i = 0; i < count; i++) {
        if (index[i] >= types)
            return false;
        rules->times[i] = time_size == 8 ? (int64_t)vd_get_u64_be(times + 8 * (size_t)i)
                                         : (int32_t)get_be32(times + 4 * (size_t)i);
        rules->offsets[i] = (int32_t)get_be32(type + 6 * (size_t)index[i]);
        if (rules->offsets[i] > 26 * 3600 || rules->offsets[i] < -26 * 3600)
            return false;
        if (i > 0 && rules->times[i] <= rules->times[i - 1])
            return false;
    }
    rules->count = count;
    rules->before_s = (int32_t)get_be32(type);
    r->p += block_len(r, time_size);
    return rules->before_s <= 26 * 3600 && rules->before_s >= -26 * 3600;
}

static bool read_footer(reader_t *r, stor_zone_rules_t *rules)
{
    char text[128];
    if (r->p >= r->end || *r->p != '\n')
        return false;
    const uint8_t *start = r->p + 1, *stop = memchr(start, '\n', (size_t)(r->end - start));
    if (stop == NULL || (size_t)(stop - start) >= sizeof text)
        return false;
    memcpy(text, start, (size_t)(stop - start));
    text[stop - start] = '\0';
    rules->has_posix = text[0] != '\0' && read_posix(text, &rules->posix);
    return true;
}

static bool read_tzif(const uint8_t *data, size_t len, stor_zone_rules_t *rules)
{
    reader_t r = {.p = data, .end = data + len};
    char version;
    if (!read_header(&r, &version))
        return false;
    if (version < '2')
        return read_block(&r, 4, rules);
    if ((size_t)(r.end - r.p) < block_len(&r, 4))
        return false;
    r.p += block_len(&r, 4);
    return read_header(&r, &version) && read_block(&r, 8, rules) && read_footer(&r, rules);
}

/* ---- the cache ---- */

static pthread_mutex_t cache_lock = PTHREAD_MUTEX_INITIALIZER;
static vd_map_t *cache;

static void rules_destroy(stor_zone_rules_t *rules)
{
    vd_free(rules->times);
    vd_free(rules->offsets);
    vd_free(rules);
}

static size_t read_file(const char *path, uint8_t *data, size_t max)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    size_t len = 0;
    while (len < max) {
        ssize_t n = read(fd, data + len, max - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        len += (size_t)n;
    }
    (void)close(fd); /* only read */
    return len < max ? len : 0;
}

static bool name_is_safe(vd_slice_t name)
{
    if (name.len == 0 || name.len > STOR_ZONE_NAME_MAX_BYTES || name.data[0] == '/')
        return false;
    for (size_t i = 0; i < name.len; i++) {
        uint8_t c = name.data[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     c == '_' || c == '-' || c == '+' || c == '/';
        if (!plain)
            return false;
    }
    return true;
}

static stor_zone_rules_t *load(vd_slice_t name)
{
    char path[sizeof ZONE_FOLDER + STOR_ZONE_NAME_MAX_BYTES];
    snprintf(path, sizeof path, ZONE_FOLDER "%.*s", VD_SLICE_FMT(name));
    uint8_t *data = vd_xalloc(STOR_ZONE_FILE_MAX_BYTES);
    size_t len = read_file(path, data, STOR_ZONE_FILE_MAX_BYTES);
    stor_zone_rules_t *rules = vd_xalloc(sizeof *rules);
    if (len == 0 || !read_tzif(data, len, rules)) {
        rules_destroy(rules);
        rules = NULL;
    }
    vd_free(data);
    return rules;
}

static const stor_zone_rules_t *find_rules(vd_slice_t name)
{
    pthread_mutex_lock(&cache_lock);
    if (cache == NULL)
        cache = vd_map_create(STOR_ZONES_MAX);
    stor_zone_rules_t *rules = vd_map_get(cache, name);
    if (rules == NULL) {
        rules = load(name);
        if (rules != NULL && vd_map_put(cache, name, rules, NULL) != VD_OK) {
            rules_destroy(rules);
            rules = NULL;
        }
    }
    pthread_mutex_unlock(&cache_lock);
    return rules;
}

/* ---- the public door ---- */

static bool two_digits(const uint8_t *p, int *ret)
{
    if (p[0] < '0' || p[0] > '9' || p[1] < '0' || p[1] > '9')
        return false;
    *ret = (p[0] - '0') * 10 + (p[1] - '0');
    return true;
}

bool stor_zone_parse_offset(vd_slice_t text, int32_t *ret_offset_s)
{
    int hours, minutes = 0;
    if (text.len < 3 || (text.data[0] != '+' && text.data[0] != '-') ||
        !two_digits(text.data + 1, &hours))
        return false;
    if (text.len == 5) {
        if (!two_digits(text.data + 3, &minutes))
            return false;
    } else if (text.len == 6) {
        if (text.data[3] != ':' || !two_digits(text.data + 4, &minutes))
            return false;
    } else if (text.len != 3) {
        return false;
    }
    *ret_offset_s = (text.data[0] == '-' ? -1 : 1) * (hours * 3600 + minutes * 60);
    return true;
}

int stor_zone_find(vd_slice_t name, stor_zone_t *ret_zone, vd_error_t *err)
{
    if (vd_slice_is(name, "UTC") || vd_slice_is(name, "GMT")) {
        *ret_zone = STOR_ZONE_UTC;
        return VD_OK;
    }
    int32_t offset;
    if (stor_zone_parse_offset(name, &offset)) {
        *ret_zone = (stor_zone_t){NULL, offset};
        return VD_OK;
    }
    const stor_zone_rules_t *rules = name_is_safe(name) ? find_rules(name) : NULL;
    if (rules == NULL)
        return vd_error_set(err, VD_ERR_LOCATION(40485),
                            "unrecognized time zone identifier: \"%.*s\"",
                            (int)(name.len > 100 ? 100 : name.len), (const char *)name.data);
    *ret_zone = (stor_zone_t){rules, 0};
    return VD_OK;
}

int32_t stor_zone_offset(const stor_zone_t *zone, int64_t utc_ms)
{
    const stor_zone_rules_t *rules = zone->rules;
    if (rules == NULL)
        return zone->offset_s;
    int64_t utc_s = stor_floor_div(utc_ms, 1000);
    if (rules->count == 0 || utc_s < rules->times[0])
        return rules->count == 0 && rules->has_posix ? posix_offset(&rules->posix, utc_s)
                                                     : rules->before_s;
    if (utc_s >= rules->times[rules->count - 1])
        return rules->has_posix ? posix_offset(&rules->posix, utc_s)
                                : rules->offsets[rules->count - 1];
    uint32_t low = 0, high = rules->count - 1; /* times[low] <= utc_s < times[high] */
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (utc_s < rules->times[middle])
            high = middle;
        else
            low = middle;
    }
    return rules->offsets[low];
}

static int64_t saturating_add(int64_t a, int64_t b)
{
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? (b < 0 ? INT64_MIN : INT64_MAX) : sum;
}

int64_t stor_zone_to_utc(const stor_zone_t *zone, int64_t local_ms)
{
    if (zone->rules == NULL)
        return saturating_add(local_ms, -(int64_t)zone->offset_s * 1000);
    int32_t early = stor_zone_offset(zone, saturating_add(local_ms, -STOR_DAY_MS));
    int32_t late = stor_zone_offset(zone, saturating_add(local_ms, STOR_DAY_MS));
    int64_t utc = saturating_add(local_ms, -(int64_t)early * 1000);
    if (early == late || stor_zone_offset(zone, utc) == early)
        return utc;
    int64_t other = saturating_add(local_ms, -(int64_t)late * 1000);
    return stor_zone_offset(zone, other) == late ? other : utc;
}
