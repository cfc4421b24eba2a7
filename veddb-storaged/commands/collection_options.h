/* veddb-storaged/commands/collection_options.h — the options of a collection as create and collMod
 * take them.
 *
 * Duty:    checks what is given, refuses by name what is not built, and makes the form in which the
 *          catalog keeps it and listCollections shows it: validator, validationLevel,
 *          validationAction, cas, changeStreamPreAndPostImages, capped, size, max, timeseries,
 *          expireAfterSeconds. What says the
 *          default ({capped: false}) is accepted.
 * Threads: the worker's; documents borrow the body or live in the request's arena. */
#pragma once
#include "veddb-storaged/args.h"
#include "veddb-storaged/request.h"

typedef struct {
    vd_bson_t validator;
    bool has_validator;
    vd_slice_t level, action; /* empty = not given */
    vd_slice_t cas;           /* off, optional, required; empty = not given */
    bool has_images, images;  /* changeStreamPreAndPostImages */
    bool capped;
    int64_t size, max;    /* of a capped one; 0 = not given */
    vd_bson_t collation;  /* whole; NONE = simple. collMod can't change it */
    vd_bson_t timeseries; /* checked and whole; NONE = not given */
    bool has_expire;
    int64_t expire_after_seconds; /* of a time-series collection; -1 = off */
} stor_collection_options_t;

/* validator: MISSING, or what stands in the body. */
VD_MUST_CHECK int stor_collection_options_check(stor_request_t *request, vd_slice_t collection,
                                                vd_value_t validator,
                                                stor_collection_options_t *options,
                                                const char *command, vd_error_t *err);
/* changeStreamPreAndPostImages: {enabled}, or nothing. Not for the server's own databases. */
VD_MUST_CHECK int stor_collection_images_check(const stor_request_t *request, vd_bson_t images,
                                               stor_collection_options_t *options,
                                               const char *command, vd_error_t *err);
/* Those of `old`, replaced by what is given. whole: level and action are named also when they are
 * the defaults (as collMod leaves them). */
VD_MUST_CHECK int stor_collection_options_merge(vd_arena_t *arena, vd_bson_t old,
                                                const stor_collection_options_t *options,
                                                bool whole, vd_bson_t *ret_options,
                                                vd_error_t *err);
