/* veddb-storaged/query/timezone.h — time zones: Olson names from the system's tz files, and fixed
 * offsets "+02:00".
 *
 * Owner:   zones are read once, kept for the life of the process and never change.
 * Threads: any (the cache has a lock).
 * Limits:  at most STOR_ZONES_MAX zones, files of at most STOR_ZONE_FILE_MAX_BYTES. */
#pragma once
#include "libcommon/base/error.h"
#include "libcommon/base/slice.h"

#define STOR_ZONES_MAX           2048
#define STOR_ZONE_FILE_MAX_BYTES (64 * 1024)
#define STOR_ZONE_NAME_MAX_BYTES 64

typedef struct stor_zone_rules stor_zone_rules_t;

typedef struct {
    const stor_zone_rules_t *rules; /* NULL: fixed */
    int32_t offset_s;               /* fixed: seconds east of UTC */
} stor_zone_t;

#define STOR_ZONE_UTC ((stor_zone_t){NULL, 0})

/* "UTC", "GMT", "Europe/Paris", "+05:30", "-0500", "+03". 40485 when unknown. */
VD_MUST_CHECK int stor_zone_find(vd_slice_t name, stor_zone_t *ret_zone, vd_error_t *err);
/* "+hh", "+hhmm", "+hh:mm" */
bool stor_zone_parse_offset(vd_slice_t text, int32_t *ret_offset_s);
/* Seconds east of UTC at that moment. */
int32_t stor_zone_offset(const stor_zone_t *zone, int64_t utc_ms);
/* A wall-clock time to UTC: the first of two, and behind the gap where there is none. */
int64_t stor_zone_to_utc(const stor_zone_t *zone, int64_t local_ms);
static inline int64_t stor_zone_to_local(const stor_zone_t *zone, int64_t utc_ms)
{
    int64_t local;
    return __builtin_add_overflow(utc_ms, (int64_t)stor_zone_offset(zone, utc_ms) * 1000, &local)
               ? utc_ms
               : local;
}
