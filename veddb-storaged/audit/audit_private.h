/* veddb-storaged/audit/audit_private.h — what the files of this room share. */
#pragma once
#include "libcommon/base/map.h"
#include "veddb-storaged/audit/audit.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/query/match.h"

#define STOR_AUDIT_TABLE            "audit"
#define STOR_AUDIT_RESTART          "journalRestart"
#define STOR_AUDIT_NAMES_MAX        4096
#define STOR_AUDIT_MARKS            256
#define STOR_AUDIT_RECORD_MAX_BYTES (512 * 1024)

/* Up to this place in the journal so many of its bytes were read. */
typedef struct {
    uint64_t journal, bytes;
    uint32_t part;
} stor_audit_mark_t;

typedef struct {
    char node[VDP_NODE_NAME_MAX + 1];
    uint8_t head[VDP_AUDIT_HEAD_BYTES], other[VDP_AUDIT_HEAD_BYTES];
    bool has_head, has_other, frozen;
} stor_audit_held_t;

struct stor_audit {
    stor_storage_t *storage;
    stor_audit_options_t options;
    stor_filter_t *filter; /* NULL: all; in the arena */
    vd_arena_t *arena, *scratch;
    pthread_mutex_t lock; /* of `last` and its commit */
    uint64_t last;
    atomic_uint_fast64_t committed, sealed_journal, sealed_events, sealed_bytes, head;
    atomic_uint_fast64_t events, records, refused, shed, gaps, filtered;
    atomic_int_fast64_t sealed_wall_ms;
    atomic_bool refusing, over, alarmed, attached, rolled_back;
    pthread_mutex_t heads_lock; /* of these: */
    uint8_t own_head[VDP_AUDIT_HEAD_BYTES];
    uint8_t checked[VDP_AUDIT_CHECKED_MAX * VDP_AUDIT_CHECKED_BYTES];
    uint32_t checked_len; /* of what others hold, rotated has found it good */
    uint64_t own_serial;  /* 0: none yet */
    stor_audit_held_t held[STOR_AUDIT_HELD_MAX];
    uint32_t held_count;
    /* the link's thread */
    uint64_t durable, mark, mark_flushes; /* of event numbers */
    uint64_t read_bytes;                  /* of the journal; counted as before_bytes is */
    uint64_t before_bytes;                /* that waited in the journal when we started */
    uint64_t begin;                       /* where the audit of this database began; 0: with it */
    stor_audit_mark_t marks[STOR_AUDIT_MARKS];
    uint32_t mark_count;
    vd_map_t *names; /* collection id -> "db.name" */
    vd_bb_t bb;
};

/* The filter as audit.filter has it; *ret_filter NULL: all. In the arena. VD_ERR_CONFIG. */
VD_MUST_CHECK int stor_audit_filter_parse(vd_arena_t *arena, const char *text,
                                          stor_filter_t **ret_filter, vd_error_t *err);
bool stor_audit_filter_takes(const stor_filter_t *filter, vd_arena_t *arena, vd_bson_t event);
bool stor_audit_takes(const stor_audit_t *audit, vd_arena_t *arena, vd_bson_t event);
/* heads.c */
void stor_audit_own_head_take(stor_audit_t *audit, const vdp_audit_sealed_t *sealed);
/* The oldest answer that waits for rotated; false: none. */
bool stor_audit_held_next(stor_audit_t *audit, stor_audit_held_t *ret_held);
/* tail.c */
void stor_audit_marks_sealed(stor_audit_t *audit, uint64_t journal, uint32_t part);
