/* veddb-storaged/timeseries.h — time-series collections: measurements in the order of their time.
 *
 * Duty:    options as create and collMod take them; the form of a stored measurement: its place
 *          in front as the first _id (an ObjectId of time and number), then the time, the
 *          metadata and the rest, where the measurement's own _id is, which need not be unique.
 *          So the table, its journal, copies and indexes hold ordinary documents with an ordinary
 *          key; whoever shows one to a client takes the place off (stor_timeseries_shown). What
 *          MongoDB refuses of updates, deletes and indexes.
 * Order:   places sort as times do, of all dates; within a millisecond as they were inserted.
 * Owner:   results live in the arena given.
 * Threads: any.
 * Errors:  MongoDB's. */
#pragma once
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/write.h"

#define STOR_TIMESERIES_SPAN_MAX 31536000

/* ---- options ---- */
/* `timeseries` of create, checked and with its defaults. */
VD_MUST_CHECK int stor_timeseries_options(stor_request_t *request, vd_bson_t given,
                                          vd_bson_t *ret_options, vd_error_t *err);
/* collMod: what `given` makes of `old`; *ret_changed false: nothing. */
VD_MUST_CHECK int stor_timeseries_modify(vd_arena_t *arena, vd_bson_t old, vd_bson_t given,
                                         vd_bson_t *ret_options, bool *ret_changed,
                                         vd_error_t *err);
/* `expireAfterSeconds` of a collection; *ret_seconds -1: "off" (of collMod only). */
VD_MUST_CHECK int stor_timeseries_expire(vd_value_t given, const char *command, bool may_be_off,
                                         int64_t *ret_seconds, vd_error_t *err);
/* Reads a collection's options into ret; the names borrow from them. */
void stor_timeseries_read(vd_bson_t options, stor_collection_timeseries_t *ret);

/* ---- measurements ---- */
void stor_timeseries_place(int64_t time_ms, uint32_t number, uint8_t ret_place[12]);
/* A prepared document as it is stored under a place with this number. VD_ERR_BAD_VALUE: its time
 * is no date. */
VD_MUST_CHECK int stor_timeseries_stored(vd_arena_t *arena,
                                         const stor_collection_timeseries_t *series,
                                         vd_bson_t document, uint32_t number, vd_bson_t *ret_stored,
                                         vd_error_t *err);
/* A stored measurement without its place. VD_ERR_CORRUPT: there is none. */
VD_MUST_CHECK int stor_timeseries_shown(vd_arena_t *arena, vd_bson_t stored, vd_bson_t *ret_shown,
                                        vd_error_t *err);
/* Inserts a prepared document into a time-series collection. */
VD_MUST_CHECK int stor_timeseries_insert(stor_write_t *write, vd_bson_t document, int32_t statement,
                                         vd_error_t *err);

/* ---- what is refused ---- */
VD_MUST_CHECK int stor_timeseries_delete_check(const stor_request_t *request, bool multi,
                                               vd_error_t *err);
VD_MUST_CHECK int stor_timeseries_update_check(const stor_request_t *request,
                                               const stor_collection_timeseries_t *series,
                                               vd_bson_t query, vd_value_t update, bool multi,
                                               bool upsert, vd_error_t *err);
/* A specification that is right by itself. */
VD_MUST_CHECK int stor_timeseries_index_check(vd_arena_t *arena,
                                              const stor_collection_timeseries_t *series,
                                              vd_bson_t spec, vd_error_t *err);
