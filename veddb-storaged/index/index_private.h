/* veddb-storaged/index/index_private.h — objects of indexes, as the catalog, the builds and the
 * upkeep make and change them.
 *
 * Threads: objects: any, by references; sets never change. */
#pragma once
#include "veddb-storaged/index/index.h"

#include <pthread.h>

/* An object in the state given; the caller has the only reference. */
VD_MUST_CHECK int stor_index_make(uint64_t id, uint64_t table, vd_bson_t spec,
                                  stor_index_state_t state, stor_index_t **ret_index,
                                  vd_error_t *err);
/* BUILDING, with what is kept of its build. */
VD_MUST_CHECK int stor_index_make_building(uint64_t id, uint64_t table, vd_bson_t spec,
                                           vd_bson_t building, stor_index_t **ret_index,
                                           vd_error_t *err);
stor_index_t *stor_index_reference(stor_index_t *index);
void stor_index_unreference(stor_index_t **index_p);

/* Sets: each with one reference of the caller's; NULL is the empty set. */
stor_index_set_t *stor_index_set_reference(stor_index_set_t *set);
void stor_index_set_unreference(stor_index_set_t **set_p);
/* The set with those added, in this order, behind what it has; or without those (by id). */
stor_index_set_t *stor_index_set_with(const stor_index_set_t *set, stor_index_t *const *items,
                                      uint32_t count);
stor_index_set_t *stor_index_set_without(const stor_index_set_t *set, stor_index_t *const *items,
                                         uint32_t count);
/* With the item of the same id replaced. */
stor_index_set_t *stor_index_set_replaced(const stor_index_set_t *set, stor_index_t *item);
stor_index_t *stor_index_set_find(const stor_index_set_t *set, uint64_t id);
/* By name, whatever its state is. */
stor_index_t *stor_index_set_named(const stor_index_set_t *set, vd_slice_t name);

/* Two key patterns; numbers by value. */
bool stor_index_same_key(vd_bson_t a, vd_bson_t b);

/* ---- prepareUnique ---- */
/* Entries of such an index have the _id in their keys, so two writers of one key would not
 * conflict. Each puts the row of the key's bucket, too: key = index id u64 BE, bucket u16 BE; value
 * = 0. */
#define STOR_INDEX_GUARDS_TABLE "guards"

/* ---- entries ---- */
/* Key of the entry in the table: of a unique index the fields alone. */
vd_slice_t stor_index_entry_key(vd_arena_t *arena, const stor_index_def_t *def, vd_slice_t fields,
                                vd_slice_t id_key);
vd_slice_t stor_index_entry_value(vd_arena_t *arena, const stor_index_def_t *def,
                                  const stor_index_key_t *key, vd_slice_t id_key);
/* The fields' values as {a: 1}: for messages and keyValue. What was cut is left out. */
vd_bson_t stor_index_entry_values(vd_arena_t *arena, const stor_index_def_t *def, vd_slice_t fields,
                                  vd_slice_t type_bits);
/* E11000 as MongoDB tells it. */
int stor_index_duplicate(vd_arena_t *arena, const char *ns, const stor_index_def_t *def,
                         vd_slice_t fields, vd_slice_t type_bits, vd_error_t *err);

/* ---- the log of a build ---- */
/* While an index is built, writers put what they would do to its table into a table beside it:
 * key = number u64 BE, value = op u8, u32 length of the fields, fields, u16 BE length of the key
 * of the _id, that key, flag (1: exact), type bits.
 *
 * Proof that nothing is lost or left over. Every write from the fence on (when the index came into
 * the set) logs each key that a document loses or gains. For a document D and a key K let v0 be the
 * version at the fence and v1..vn those since, in order of their commits. The build reads some vi
 * once. If no entry of the log is about (K, D), all versions agree on K, so what was read is right.
 * Else the last entry tells whether vn has K, and whatever came before it does not matter: removing
 * what is not there and putting what is there change nothing. So it is enough that the entries of
 * one D are taken in order and each at least once. Numbers are drawn from a counter inside the
 * transaction; a transaction that changes D anew began after the one before had committed (else it
 * conflicts), so its numbers are larger, and a snapshot that has its entries has the older ones:
 * they were taken, or stand in front of them in the same pass. Entries of other transactions that
 * commit late, under smaller numbers, are of other documents, and are taken in a later pass; the
 * last pass is behind the fence, when no transaction is under way. A pass begins at the least
 * number that a transaction under way had drawn before the pass before it began: all below had
 * ended by then, and that pass has taken them. So some are taken twice, but then with all that
 * follow them. */
typedef struct stor_index_log {
    char table[32];       /* "b-7" */
    pthread_mutex_t lock; /* next and writers: one draws and is noted in one step */
    uint64_t next;
    struct stor_index_log_writer *writers; /* transactions that have entries and have not ended */
    atomic_int cancelled;                  /* a code: who builds gives up */
    atomic_uint pause_us;                  /* that a writer makes before its transaction */
    uint64_t build; /* those of one build have the same: the first one's id */
    /* {build: int64, quorum: value, user: string}, as it is kept; in the index's arena. quorum:
     * as it was asked for, or missing; user: who asked. */
    vd_bson_t building;
} stor_index_log_t;
enum { STOR_INDEX_LOG_REMOVE, STOR_INDEX_LOG_PUT };
#define STOR_INDEX_LOG_SPARE 0x80 /* a bit of op that means nothing: rotation/flip.h */

typedef struct {
    int op;
    vd_slice_t fields, id_key, type_bits;
    bool exact;
} stor_index_log_entry_t;
VD_MUST_CHECK int stor_index_log_add(stor_session_t *session, vd_arena_t *arena,
                                     stor_index_log_t *log, const stor_index_log_entry_t *entry,
                                     vd_error_t *err);
/* The least number that an entry still to be seen can have. */
uint64_t stor_index_log_floor(stor_index_log_t *log);
uint64_t stor_index_log_next(stor_index_log_t *log);
VD_MUST_CHECK int stor_index_log_read(vd_slice_t value, stor_index_log_entry_t *ret_entry,
                                      vd_error_t *err);

/* Bits that are new become durable, in a transaction of their own; then in memory. */
VD_MUST_CHECK int stor_index_multikey_raise(stor_engine_t *engine, stor_index_t *index,
                                            stor_index_multikey_t bits, vd_error_t *err);
