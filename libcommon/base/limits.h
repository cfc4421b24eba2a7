/* libcommon/base/limits.h — every upper bound of the system, unit in the name. */
#pragma once

/* What MongoDB's drivers are told in hello. */
#define VD_BSON_DOCUMENT_MAX_BYTES (16 * 1024 * 1024) /* what a user may store */
/* command replies, journal entries */
#define VD_BSON_INTERNAL_MAX_BYTES (VD_BSON_DOCUMENT_MAX_BYTES + 16 * 1024)
#define VD_WIRE_MESSAGE_MAX_BYTES  48000000
#define VD_WIRE_PRELOGIN_MAX_BYTES (64 * 1024)
#define VD_WRITE_BATCH_MAX         100000
#define VD_BSON_DEPTH_MAX          180 /* nesting of stored documents */
#define VD_QUERY_DEPTH_MAX         100 /* nesting of filters and expressions */
#define VD_NAMESPACE_MAX_BYTES     255
#define VD_DATABASE_NAME_MAX_BYTES 63

/* Queries. */
#define VD_KEYCODE_MAX_BYTES     2048
#define VD_FIRST_BATCH_DOCUMENTS 101
/* what sorts, groups and windows of one query keep in memory; the rest goes to disk */
#define VD_QUERY_MEMORY_MAX_BYTES (100 * 1024 * 1024)
/* the least that all queries together may keep; else half of the cache */
#define VD_QUERIES_MEMORY_MIN_BYTES (256ull * 1024 * 1024)
/* what all queries together may have on disk; the free-space reserve counts besides */
#define VD_SPILL_MAX_BYTES         (256ull * 1024 * 1024 * 1024)
#define VD_REGEX_MATCH_LIMIT       1000000
#define VD_REGEX_PATTERN_MAX_BYTES 32764
#define VD_ARRAY_FILTERS_MAX       1000
#define VD_UPDATE_ARRAY_GAP_MAX    1500000 /* MongoDB's bound on padding with nulls */

/* Cursors and sessions. */
#define VD_CURSORS_OPEN_MAX    10000
#define VD_CURSOR_IDLE_MAX_MS  (10 * 60 * 1000)
#define VD_SESSIONS_MAX        100000
#define VD_SESSION_IDLE_MAX_MS (30 * 60 * 1000)

/* Links between our processes. */
#define VD_LINK_FRAME_MAX_BYTES (256 * 1024)
#define VD_LINK_ITEM_MAX_BYTES  (VD_WIRE_MESSAGE_MAX_BYTES + 64 * 1024)
#define VD_LINK_QUEUE_MAX_BYTES (256 * 1024 * 1024)

/* Gateway. */
#define VD_CONNECTIONS_MAX         10000
#define VD_CONNECTION_INFLIGHT_MAX 1 /* drivers never pipeline on a connection */
