/* veddb-storaged/query/date.h — the calendar: milliseconds since 1970 <-> year, month, day, week;
 * formatting and parsing by pattern.
 *
 * Duty:    proleptic Gregorian, pure; knows nothing of zones (timezone.h): "local" times are
 *          milliseconds that were shifted by the zone's offset.
 * Threads: any. */
#pragma once
#include "libcommon/base/arena.h"
#include "libcommon/base/error.h"
#include "veddb-storaged/query/timezone.h"

#define STOR_DATE_ISO_SIZE 32
#define STOR_DAY_MS        INT64_C(86400000)

typedef struct {
    int64_t year;
    int month, day; /* 1.. */
    int hour, minute, second, ms;
} stor_date_parts_t;

static inline int64_t stor_floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b != 0 && (a % b < 0) != (b < 0));
}

int64_t stor_days_from_civil(int64_t year, int month, int day);
void stor_civil_from_days(int64_t days, int64_t *ret_year, int *ret_month, int *ret_day);
int stor_days_in_month(int64_t year, int month);
void stor_date_split(int64_t local_ms, stor_date_parts_t *ret_parts);
/* Parts within their ranges to local milliseconds; false when they do not fit 64 bits. */
bool stor_date_join(const stor_date_parts_t *parts, int64_t *ret_local_ms);
/* A unit of time by its name ("day"), as a number for the two below; false when it is none. */
bool stor_date_unit_find(vd_slice_t name, int *ret_unit);
/* So many units later, in UTC; false when that is out of range. (expr_datemath.c) */
bool stor_date_unit_add(int unit, int64_t ms, int64_t amount, int64_t *ret);
/* Its length; 0 for months and longer, which have none. */
int64_t stor_date_unit_ms(int unit);
int stor_day_of_week(int64_t days);  /* 0 = Sunday */
int stor_day_of_year(int64_t days);  /* 1.. */
int stor_week_of_year(int64_t days); /* weeks start on Sunday, 0..53 */
void stor_iso_week(int64_t days, int64_t *ret_year, int *ret_week);
/* First day (a Monday) of ISO week 1. */
int64_t stor_iso_year_start(int64_t year);

/* %Y %m ... as $dateToString; checked first by stor_date_check_format. 18537 outside the years 0 to
 * 9999. */
VD_MUST_CHECK int stor_date_format(vd_arena_t *arena, vd_slice_t format, int64_t utc_ms,
                                   const stor_zone_t *zone, vd_slice_t *ret, vd_error_t *err);
/* 18535, 18536. parse: for $dateFromString, whose specifiers are fewer. */
VD_MUST_CHECK int stor_date_check_format(vd_slice_t format, bool parse, vd_error_t *err);
/* "2024-02-29T10:00:00.000Z" */
VD_MUST_CHECK int stor_date_iso(int64_t utc_ms, char buf[STOR_DATE_ISO_SIZE], vd_error_t *err);
/* Reads text by a format; ConversionFailure (241). zone: where the text has none. zone_given: the
 * caller named a zone, so the text may not. */
VD_MUST_CHECK int stor_date_scan(vd_slice_t text, vd_slice_t format, const stor_zone_t *zone,
                                 bool zone_given, int64_t *ret_ms, vd_error_t *err);
/* Reads the usual forms of dates without a format (date_text.c). */
VD_MUST_CHECK int stor_date_read(vd_slice_t text, const stor_zone_t *zone, bool zone_given,
                                 int64_t *ret_ms, vd_error_t *err);
/* 1..12 of "jan", "January" ...; 0 when it is none. */
int stor_month_by_name(vd_slice_t name);
