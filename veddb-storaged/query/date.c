/* veddb-storaged/query/date.c — calendar arithmetic, $dateToString's formats and $dateFromString's.
 */
#include "veddb-storaged/query/date.h"

#include <stdio.h>
#include <strings.h>

static const char *const month_names[] = {"January",   "February", "March",    "April",
                                          "May",       "June",     "July",     "August",
                                          "September", "October",  "November", "December"};

/* ---- calendar ---- */

/* Years are counted from March, so that the leap day is the last of its year. */
int64_t stor_days_from_civil(int64_t year, int month, int day)
{
    year -= month <= 2;
    int64_t era = stor_floor_div(year, 400), in_era = year - era * 400;
    int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + in_era * 365 + in_era / 4 - in_era / 100 + day_of_year - 719468;
}

void stor_civil_from_days(int64_t days, int64_t *ret_year, int *ret_month, int *ret_day)
{
    days += 719468;
    int64_t era = stor_floor_div(days, 146097), in_era = days - era * 146097;
    int64_t year = (in_era - in_era / 1460 + in_era / 36524 - in_era / 146096) / 365;
    int day_of_year = (int)(in_era - (365 * year + year / 4 - year / 100));
    int month = (5 * day_of_year + 2) / 153;
    *ret_day = day_of_year - (153 * month + 2) / 5 + 1;
    *ret_month = month < 10 ? month + 3 : month - 9;
    *ret_year = year + era * 400 + (*ret_month <= 2);
}

int stor_days_in_month(int64_t year, int month)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    return days[month - 1] + (month == 2 && leap);
}

void stor_date_split(int64_t local_ms, stor_date_parts_t *ret_parts)
{
    int64_t days = stor_floor_div(local_ms, STOR_DAY_MS);
    int rest = (int)((local_ms % STOR_DAY_MS + STOR_DAY_MS) % STOR_DAY_MS);
    stor_civil_from_days(days, &ret_parts->year, &ret_parts->month, &ret_parts->day);
    ret_parts->ms = rest % 1000;
    ret_parts->second = rest / 1000 % 60;
    ret_parts->minute = rest / 60000 % 60;
    ret_parts->hour = rest / 3600000;
}

bool stor_date_join(const stor_date_parts_t *parts, int64_t *ret_local_ms)
{
    if (parts->year > 300000000 || parts->year < -300000000)
        return false;
    int64_t ms = parts->hour * INT64_C(3600000) + parts->minute * INT64_C(60000) +
                 parts->second * INT64_C(1000) + parts->ms;
    return !__builtin_mul_overflow(stor_days_from_civil(parts->year, parts->month, parts->day),
                                   STOR_DAY_MS, ret_local_ms) &&
           !__builtin_add_overflow(*ret_local_ms, ms, ret_local_ms);
}

int stor_day_of_week(int64_t days)
{
    return (int)(((days + 4) % 7 + 7) % 7);
}

int stor_day_of_year(int64_t days)
{
    int64_t year;
    int month, day;
    stor_civil_from_days(days, &year, &month, &day);
    return (int)(days - stor_days_from_civil(year, 1, 1)) + 1;
}

int stor_week_of_year(int64_t days)
{
    return (stor_day_of_year(days) - 1 + 7 - stor_day_of_week(days)) / 7;
}

int64_t stor_iso_year_start(int64_t year)
{
    int64_t fourth = stor_days_from_civil(year, 1, 4); /* always in week 1 */
    return fourth - (stor_day_of_week(fourth) + 6) % 7;
}

void stor_iso_week(int64_t days, int64_t *ret_year, int *ret_week)
{
    int64_t year;
    int month, day;
    stor_civil_from_days(days, &year, &month, &day);
    if (days >= stor_iso_year_start(year + 1))
        year++;
    else if (days < stor_iso_year_start(year))
        year--;
    *ret_year = year;
    *ret_week = (int)((days - stor_iso_year_start(year)) / 7) + 1;
}

int stor_month_by_name(vd_slice_t name)
{
    for (int i = 0; i < 12; i++)
        if ((name.len == 3 || name.len == strlen(month_names[i])) &&
            strncasecmp((const char *)name.data, month_names[i], name.len) == 0)
            return i + 1;
    return name.len == 4 && strncasecmp((const char *)name.data, "sept", 4) == 0 ? 9 : 0;
}

/* ---- formats ---- */

int stor_date_check_format(vd_slice_t format, bool parse, vd_error_t *err)
{
    const char *known = parse ? "%bBdGHjLmMSuVYzZ" : "%bBdGHjLmMSUuVwYzZ";
    for (size_t i = 0; i < format.len; i++) {
        if (format.data[i] != '%')
            continue;
        if (++i == format.len)
            return vd_error_set(err, VD_ERR_LOCATION(18535),
                                "Unmatched '%%' at end of format string");
        if (format.data[i] == 0 || strchr(known, format.data[i]) == NULL)
            return vd_error_set(err, VD_ERR_LOCATION(18536),
                                "Invalid format character '%%%c' in format string", format.data[i]);
    }
    return VD_OK;
}

/* Writes one specifier into buf of 32 bytes. */
static void format_one(char specifier, const stor_date_parts_t *p, int64_t days, int offset_s,
                       char *buf)
{
    int64_t iso_year;
    int week, minutes = (offset_s < 0 ? -offset_s : offset_s) / 60;
    char sign = offset_s < 0 ? '-' : '+';
    stor_iso_week(days, &iso_year, &week);
    switch (specifier) {
    case 'Y':
        snprintf(buf, 32, "%04d", (int)p->year);
        break;
    case 'm':
        snprintf(buf, 32, "%02d", p->month);
        break;
    case 'd':
        snprintf(buf, 32, "%02d", p->day);
        break;
    case 'H':
        snprintf(buf, 32, "%02d", p->hour);
        break;
    case 'M':
        snprintf(buf, 32, "%02d", p->minute);
        break;
    case 'S':
        snprintf(buf, 32, "%02d", p->second);
        break;
    case 'L':
        snprintf(buf, 32, "%03d", p->ms);
        break;
    case 'j':
        snprintf(buf, 32, "%03d", stor_day_of_year(days));
        break;
    case 'w':
        snprintf(buf, 32, "%d", stor_day_of_week(days) + 1);
        break;
    case 'u':
        snprintf(buf, 32, "%d", (stor_day_of_week(days) + 6) % 7 + 1);
        break;
    case 'U':
        snprintf(buf, 32, "%02d", stor_week_of_year(days));
        break;
    case 'V':
        snprintf(buf, 32, "%02d", week);
        break;
    case 'G':
        snprintf(buf, 32, "%04d", (int)iso_year);
        break;
    case 'b':
        snprintf(buf, 32, "%.3s", month_names[p->month - 1]);
        break;
    case 'B':
        snprintf(buf, 32, "%s", month_names[p->month - 1]);
        break;
    case 'z':
        snprintf(buf, 32, "%c%02d%02d", sign, minutes / 60, minutes % 60);
        break;
    case 'Z':
        snprintf(buf, 32, "%c%03d", sign, minutes);
        break;
    default:
        snprintf(buf, 32, "%c", specifier);
        break;
    }
}

int stor_date_format(vd_arena_t *arena, vd_slice_t format, int64_t utc_ms, const stor_zone_t *zone,
                     vd_slice_t *ret, vd_error_t *err)
{
    stor_date_parts_t parts;
    int64_t local = stor_zone_to_local(zone, utc_ms), days = stor_floor_div(local, STOR_DAY_MS);
    int offset = stor_zone_offset(zone, utc_ms);
    stor_date_split(local, &parts);
    if (parts.year < 0 || parts.year > 9999)
        return vd_error_set(err, VD_ERR_LOCATION(18537),
                            "Could not convert date to string: date component was outside the "
                            "supported range of 0-9999: %lld",
                            (long long)parts.year);
    char one[32], *out = vd_arena_alloc(arena, format.len * 9 + 1); /* "September" is the longest */
    size_t len = 0;
    for (size_t i = 0; i < format.len; i++) {
        if (format.data[i] != '%' || i + 1 == format.len) {
            out[len++] = (char)format.data[i];
            continue;
        }
        format_one((char)format.data[++i], &parts, days, offset, one);
        size_t n = strlen(one);
        memcpy(out + len, one, n);
        len += n;
    }
    *ret = vd_slice(out, len);
    return VD_OK;
}

int stor_date_iso(int64_t utc_ms, char buf[STOR_DATE_ISO_SIZE], vd_error_t *err)
{
    stor_date_parts_t p;
    stor_date_split(utc_ms, &p);
    if (p.year < 0 || p.year > 9999)
        return vd_error_set(err, VD_ERR_LOCATION(18537),
                            "Could not convert date to string: date component was outside the "
                            "supported range of 0-9999: %lld",
                            (long long)p.year);
    snprintf(buf, STOR_DATE_ISO_SIZE, "%04u-%02u-%02uT%02u:%02u:%02u.%03uZ",
             (unsigned)p.year & 0x3FFF, (unsigned)p.month & 15, (unsigned)p.day & 31,
             (unsigned)p.hour & 31, (unsigned)p.minute & 63, (unsigned)p.second & 63,
             (unsigned)p.ms & 1023);
    return VD_OK;
}

/* ---- scanning by a format ---- */

typedef struct {
    vd_slice_t text;
    size_t at;
    int64_t year, month, day, hour, minute, second, ms, iso_year, iso_week, iso_day, day_of_year;
    bool has_offset;
    int32_t offset_s;
} scan_t;

#define SCAN_UNSET (-1)

static int scan_fail(const scan_t *scan, const char *why, vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_CONVERSION_FAILURE, "Error parsing date string '%.*s'; %zu: %s",
                        (int)(scan->text.len > 100 ? 100 : scan->text.len),
                        (const char *)scan->text.data, scan->at, why);
}

static bool scan_digits(scan_t *scan, int digits_min, int digits_max, int64_t *ret)
{
    int64_t n = 0;
    int digits = 0;
    for (; digits < digits_max && scan->at < scan->text.len; digits++, scan->at++) {
        uint8_t c = scan->text.data[scan->at];
        if (c < '0' || c > '9')
            break;
        n = n * 10 + (c - '0');
    }
    *ret = n;
    return digits >= digits_min;
}

static bool scan_month_name(scan_t *scan)
{
    size_t len = 0;
    while (scan->at + len < scan->text.len && ((scan->text.data[scan->at + len] | 32) >= 'a') &&
           ((scan->text.data[scan->at + len] | 32) <= 'z'))
        len++;
    scan->month = stor_month_by_name(vd_slice(scan->text.data + scan->at, len));
    scan->at += len;
    return scan->month > 0;
}

static bool scan_offset(scan_t *scan, char specifier)
{
    vd_slice_t rest = vd_slice(scan->text.data + scan->at, scan->text.len - scan->at);
    size_t len = 0;
    scan->has_offset = true;
    if (specifier == 'Z') { /* minutes */
        int64_t minutes;
        if (rest.len < 2 || (rest.data[0] != '+' && rest.data[0] != '-'))
            return false;
        scan->at++;
        if (!scan_digits(scan, 1, 4, &minutes))
            return false;
        scan->offset_s = (int32_t)(minutes * 60) * (rest.data[0] == '-' ? -1 : 1);
        return true;
    }
    if (rest.len > 0 && (rest.data[0] == 'Z' || rest.data[0] == 'z')) {
        scan->at++;
        return true;
    }
    while (len < rest.len && len < 6 && strchr("+-:0123456789", rest.data[len]) != NULL &&
           rest.data[len] != 0)
        len++;
    scan->at += len;
    return stor_zone_parse_offset(vd_slice(rest.data, len), &scan->offset_s);
}

static bool scan_one(scan_t *scan, char specifier)
{
    switch (specifier) {
    case 'Y':
        return scan_digits(scan, 4, 4, &scan->year);
    case 'G':
        return scan_digits(scan, 4, 4, &scan->iso_year);
    case 'm':
        return scan_digits(scan, 2, 2, &scan->month) && scan->month >= 1 && scan->month <= 12;
    case 'd':
        return scan_digits(scan, 2, 2, &scan->day) && scan->day >= 1 && scan->day <= 31;
    case 'H':
        return scan_digits(scan, 2, 2, &scan->hour) && scan->hour <= 23;
    case 'M':
        return scan_digits(scan, 2, 2, &scan->minute) && scan->minute <= 59;
    case 'S':
        return scan_digits(scan, 2, 2, &scan->second) && scan->second <= 60;
    case 'L':
        return scan_digits(scan, 3, 3, &scan->ms);
    case 'j':
        return scan_digits(scan, 3, 3, &scan->day_of_year) && scan->day_of_year >= 1 &&
               scan->day_of_year <= 366;
    case 'V':
        return scan_digits(scan, 2, 2, &scan->iso_week) && scan->iso_week >= 1 &&
               scan->iso_week <= 53;
    case 'u':
        return scan_digits(scan, 1, 1, &scan->iso_day) && scan->iso_day >= 1 && scan->iso_day <= 7;
    case 'b':
    case 'B':
        return scan_month_name(scan);
    case 'z':
    case 'Z':
        return scan_offset(scan, specifier);
    default:
        return scan->at < scan->text.len && scan->text.data[scan->at++] == (uint8_t)specifier;
    }
}

/* The local time that was read; false when something is missing. */
static bool scan_result(const scan_t *scan, int64_t *ret_local)
{
    int64_t days;
    if (scan->iso_year != SCAN_UNSET) {
        if (scan->iso_week == SCAN_UNSET || scan->year != SCAN_UNSET)
            return false;
        days = stor_iso_year_start(scan->iso_year) + (scan->iso_week - 1) * 7 +
               (scan->iso_day == SCAN_UNSET ? 0 : scan->iso_day - 1);
    } else if (scan->year == SCAN_UNSET) {
        return false;
    } else if (scan->day_of_year != SCAN_UNSET) {
        days = stor_days_from_civil(scan->year, 1, 1) + scan->day_of_year - 1;
    } else {
        if (scan->month == SCAN_UNSET || scan->day == SCAN_UNSET)
            return false;
        days = stor_days_from_civil(scan->year, (int)scan->month, (int)scan->day);
    }
    int64_t hour = scan->hour == SCAN_UNSET ? 0 : scan->hour;
    int64_t minute = scan->minute == SCAN_UNSET ? 0 : scan->minute;
    int64_t second = scan->second == SCAN_UNSET ? 0 : scan->second;
    *ret_local = days * STOR_DAY_MS + hour * 3600000 + minute * 60000 + second * 1000 +
                 (scan->ms == SCAN_UNSET ? 0 : scan->ms);
    return true;
}

int stor_date_scan(vd_slice_t text, vd_slice_t format, const stor_zone_t *zone, bool zone_given,
                   int64_t *ret_ms, vd_error_t *err)
{
    scan_t scan = {text,       0,          SCAN_UNSET, SCAN_UNSET, SCAN_UNSET,
                   SCAN_UNSET, SCAN_UNSET, SCAN_UNSET, SCAN_UNSET, SCAN_UNSET,
                   SCAN_UNSET, SCAN_UNSET, SCAN_UNSET, false,      0};
    for (size_t i = 0; i < format.len; i++) {
        bool specifier = format.data[i] == '%' && i + 1 < format.len;
        bool good = specifier ? scan_one(&scan, (char)format.data[++i])
                              : scan.at < text.len && text.data[scan.at++] == format.data[i];
        if (!good)
            return scan_fail(&scan, "the text does not have the form that the format asks for",
                             err);
    }
    if (scan.at < text.len)
        return scan_fail(&scan, "Trailing data", err);
    int64_t local;
    if (!scan_result(&scan, &local))
        return vd_error_set(err, VD_ERR_CONVERSION_FAILURE,
                            "an incomplete date/time string has been found, with elements missing: "
                            "\"%.*s\"",
                            (int)(text.len > 100 ? 100 : text.len), (const char *)text.data);
    if (scan.has_offset && zone_given)
        return vd_error_set(err, VD_ERR_CONVERSION_FAILURE,
                            "you cannot pass in a date/time string with GMT offset together with a "
                            "timezone argument");
    *ret_ms =
        scan.has_offset ? local - (int64_t)scan.offset_s * 1000 : stor_zone_to_utc(zone, local);
    return VD_OK;
}
