/* veddb-storaged/query/date_text.c — dates written without a format: ISO 8601 and the usual English
 * and numeric forms.
 *
 * The text is cut into words, numbers and signs; each date form claims what it knows. Forms that
 * are not known are ConversionFailure: nothing is guessed. */
#include "veddb-storaged/query/date.h"

#include <strings.h>

typedef struct {
    vd_slice_t text;
    size_t at;
    bool has_date, has_time, has_zone;
    stor_date_parts_t parts;
    stor_zone_t zone;
} read_t;

static int fail(const read_t *r, vd_error_t *err)
{
    char c = r->at < r->text.len ? (char)r->text.data[r->at] : ' ';
    return vd_error_set(err, VD_ERR_CONVERSION_FAILURE,
                        "Error parsing date string '%.*s'; %zu: Unexpected character '%c'",
                        (int)(r->text.len > 100 ? 100 : r->text.len), (const char *)r->text.data,
                        r->at, c >= ' ' && c < 127 ? c : '?');
}

static uint8_t peek(const read_t *r, size_t ahead)
{
    return r->at + ahead < r->text.len ? r->text.data[r->at + ahead] : 0;
}

static bool is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}

static bool is_letter(uint8_t c)
{
    return (c | 32) >= 'a' && (c | 32) <= 'z';
}

static size_t digits_ahead(const read_t *r, size_t from)
{
    size_t n = 0;
    while (is_digit(peek(r, from + n)))
        n++;
    return n;
}

static int take_number(read_t *r, size_t digits)
{
    int n = 0;
    for (size_t i = 0; i < digits; i++)
        n = n * 10 + (r->text.data[r->at++] - '0');
    return n;
}

static vd_slice_t take_word(read_t *r)
{
    size_t start = r->at;
    while (is_letter(peek(r, 0)))
        r->at++;
    return vd_slice(r->text.data + start, r->at - start);
}

static void skip_blanks(read_t *r)
{
    while (peek(r, 0) == ' ' || peek(r, 0) == '\t' || peek(r, 0) == ',')
        r->at++;
}

static bool set_date(read_t *r, int64_t year, int month, int day)
{
    if (r->has_date || month < 1 || month > 12 || day < 1 || day > 31)
        return false;
    r->has_date = true;
    r->parts.year = year;
    r->parts.month = month;
    r->parts.day = day;
    return true;
}

/* .123456 : milliseconds, the rest is dropped */
static void take_fraction(read_t *r)
{
    size_t n = digits_ahead(r, 1);
    if ((peek(r, 0) != '.' && peek(r, 0) != ',') || n == 0)
        return;
    r->at++;
    int ms = 0;
    for (size_t i = 0; i < 3; i++)
        ms = ms * 10 + (i < n ? r->text.data[r->at + i] - '0' : 0);
    r->at += n;
    r->parts.ms = ms;
}

static bool take_meridian(read_t *r)
{
    size_t save = r->at;
    while (peek(r, 0) == ' ')
        r->at++;
    uint8_t c = peek(r, 0) | 32;
    if ((c != 'a' && c != 'p') || (peek(r, 1) | 32) != 'm' || is_letter(peek(r, 2))) {
        r->at = save;
        return true;
    }
    r->at += 2;
    if (r->parts.hour < 1 || r->parts.hour > 12)
        return false;
    r->parts.hour = r->parts.hour % 12 + (c == 'p' ? 12 : 0);
    return true;
}

/* hh:mm[:ss[.fff]] [am|pm] */
static bool take_time(read_t *r, size_t digits)
{
    if (r->has_time)
        return false;
    r->has_time = true;
    r->parts.hour = take_number(r, digits);
    r->at++; /* the colon */
    if (digits_ahead(r, 0) != 2)
        return false;
    r->parts.minute = take_number(r, 2);
    if (peek(r, 0) == ':') {
        r->at++;
        if (digits_ahead(r, 0) != 2)
            return false;
        r->parts.second = take_number(r, 2);
        take_fraction(r);
    }
    return take_meridian(r) && r->parts.hour <= 24 && r->parts.minute <= 59 &&
           r->parts.second <= 60;
}

/* After the 'T' of an ISO date: also hhmm and hhmmss without colons, or hh alone. */
static bool take_iso_time(read_t *r)
{
    size_t n = digits_ahead(r, 0);
    if (n == 2 && peek(r, 2) == ':')
        return take_time(r, 2);
    if ((n != 2 && n != 4 && n != 6) || r->has_time)
        return false;
    r->has_time = true;
    r->parts.hour = take_number(r, 2);
    if (n >= 4)
        r->parts.minute = take_number(r, 2);
    if (n == 6) {
        r->parts.second = take_number(r, 2);
        take_fraction(r);
    }
    return r->parts.hour <= 24 && r->parts.minute <= 59 && r->parts.second <= 60;
}

/* A number that starts a date: 2017-02-08, 2017/2/8, 20170208, 02/08/2017, 08.02.2017, 08-02-2017,
 * 8 February 2017. */
static bool take_numeric_date(read_t *r, size_t digits)
{
    uint8_t sign = peek(r, digits);
    size_t second = digits_ahead(r, digits + 1), third;
    if (digits == 8) {
        int year = take_number(r, 4), month = take_number(r, 2);
        return set_date(r, year, month, take_number(r, 2));
    }
    if (digits == 4 && sign == '-' && (peek(r, 5) | 32) == 'w' && digits_ahead(r, 6) == 2) {
        int year = take_number(r, 4); /* 2017-W06-3 */
        r->at += 2;
        int week = take_number(r, 2), day = 1;
        if (peek(r, 0) == '-' && digits_ahead(r, 1) == 1) {
            r->at++;
            day = take_number(r, 1);
        }
        if (week < 1 || week > 53 || day < 1 || day > 7)
            return false;
        int64_t civil_year;
        int month, day_of_month;
        stor_civil_from_days(stor_iso_year_start(year) + (week - 1) * 7 + day - 1, &civil_year,
                             &month, &day_of_month);
        return set_date(r, civil_year, month, day_of_month);
    }
    if (digits == 4 && (sign == '-' || sign == '/') && (second == 1 || second == 2)) {
        int year = take_number(r, 4), day = 1;
        r->at++;
        int month = take_number(r, second);
        if (peek(r, 0) == sign && (digits_ahead(r, 1) == 1 || digits_ahead(r, 1) == 2)) {
            r->at++;
            day = take_number(r, digits_ahead(r, 0));
        }
        return set_date(r, year, month, day);
    }
    third = digits + 1 + second;
    if (digits <= 2 && (sign == '/' || sign == '-' || sign == '.') &&
        (second == 1 || second == 2) && peek(r, third) == sign && digits_ahead(r, third + 1) == 4) {
        int first = take_number(r, digits);
        r->at++;
        int other = take_number(r, second);
        r->at++;
        int year = take_number(r, 4);
        return sign == '/' ? set_date(r, year, first, other) : set_date(r, year, other, first);
    }
    return false;
}

static void skip_ordinal(read_t *r)
{
    static const char *const endings[] = {"st", "nd", "rd", "th"};
    for (int i = 0; i < 4; i++)
        if ((peek(r, 0) | 32) == endings[i][0] && (peek(r, 1) | 32) == endings[i][1] &&
            !is_letter(peek(r, 2))) {
            r->at += 2;
            return;
        }
}

/* "8 February 2017", "8th of Feb, 2017", "08-Feb-2017": at the day. False leaves the place as it
 * was. */
static bool take_day_month_year(read_t *r, size_t digits)
{
    size_t save = r->at;
    int day = take_number(r, digits);
    skip_ordinal(r);
    skip_blanks(r);
    if (peek(r, 0) == '-')
        r->at++;
    int month = stor_month_by_name(take_word(r));
    skip_blanks(r);
    if (peek(r, 0) == '-')
        r->at++;
    if (month == 0 || digits_ahead(r, 0) != 4) {
        r->at = save;
        return false;
    }
    return set_date(r, take_number(r, 4), month, day);
}

/* "February 8th, 2017", "Feb 2017" */
static bool take_month_day_year(read_t *r, int month)
{
    int day = 1;
    skip_blanks(r);
    size_t n = digits_ahead(r, 0);
    if (n == 1 || n == 2) {
        day = take_number(r, n);
        skip_ordinal(r);
        skip_blanks(r);
        n = digits_ahead(r, 0);
    }
    return n == 4 && peek(r, 4) != ':' && set_date(r, take_number(r, 4), month, day);
}

static bool is_week_day(vd_slice_t word)
{
    static const char *const names[] = {"sunday",   "monday", "tuesday", "wednesday",
                                        "thursday", "friday", "saturday"};
    for (int i = 0; i < 7; i++)
        if ((word.len == 3 || word.len == strlen(names[i])) &&
            strncasecmp((const char *)word.data, names[i], word.len) == 0)
            return true;
    return false;
}

static bool take_zone(read_t *r, size_t start)
{
    r->at = start;
    while (r->at < r->text.len && peek(r, 0) != ' ' && peek(r, 0) != ',')
        r->at++;
    vd_slice_t name = vd_slice(r->text.data + start, r->at - start);
    if (r->has_zone)
        return false;
    r->has_zone = true;
    if (name.len == 1 && (name.data[0] | 32) == 'z')
        r->zone = STOR_ZONE_UTC;
    else if (name.len > 3 && (name.data[3] == '+' || name.data[3] == '-') &&
             (strncasecmp((const char *)name.data, "GMT", 3) == 0 ||
              strncasecmp((const char *)name.data, "UTC", 3) == 0))
        return stor_zone_find(vd_slice(name.data + 3, name.len - 3), &r->zone, NULL) == VD_OK;
    else if (stor_zone_find(name, &r->zone, NULL) != VD_OK) {
        r->at = start;
        return false;
    }
    return true;
}

static bool take_any(read_t *r)
{
    size_t start = r->at, digits = digits_ahead(r, 0);
    if (digits > 0) {
        if (digits <= 2 && peek(r, digits) == ':')
            return take_time(r, digits);
        if (take_numeric_date(r, digits))
            return true;
        if (r->at != start)
            return false;
        return digits <= 2 && take_day_month_year(r, digits);
    }
    uint8_t c = peek(r, 0);
    if (c == '+' || c == '-')
        return r->has_time && take_zone(r, start);
    if (!is_letter(c))
        return false;
    if ((c | 32) == 't' && r->has_date && is_digit(peek(r, 1))) {
        r->at++;
        return take_iso_time(r);
    }
    vd_slice_t word = take_word(r);
    int month = stor_month_by_name(word);
    if (month > 0 && !r->has_date)
        return take_month_day_year(r, month);
    if (is_week_day(word) || (word.len == 2 && strncasecmp((const char *)word.data, "at", 2) == 0))
        return true; /* says nothing new */
    if (word.len == 8 && strncasecmp((const char *)word.data, "midnight", 8) == 0) {
        r->has_time = true;
        return true;
    }
    return take_zone(r, start);
}

int stor_date_read(vd_slice_t text, const stor_zone_t *zone, bool zone_given, int64_t *ret_ms,
                   vd_error_t *err)
{
    read_t r = {.text = text};
    for (skip_blanks(&r); r.at < text.len; skip_blanks(&r))
        if (!take_any(&r))
            return fail(&r, err);
    if (!r.has_date)
        return vd_error_set(err, VD_ERR_CONVERSION_FAILURE,
                            "an incomplete date/time string has been found, with elements missing: "
                            "\"%.*s\"",
                            (int)(text.len > 100 ? 100 : text.len), (const char *)text.data);
    if (r.has_zone && zone_given)
        return vd_error_set(err, VD_ERR_CONVERSION_FAILURE,
                            "you cannot pass in a date/time string with time zone information "
                            "together with a timezone argument");
    int64_t local;
    if (!stor_date_join(&r.parts, &local))
        return fail(&r, err);
    *ret_ms = stor_zone_to_utc(r.has_zone ? &r.zone : zone, local);
    return VD_OK;
}
