/* veddb-storaged/defaults.h — the read and write concern of commands that name none, as
 * setDefaultRWConcern has set them.
 *
 * Duty:    keeps a copy of the document "ReadWriteConcernDefaults" of config.settings, which is
 *          replicated like any other; gives it to requests.
 * When:    loaded at the start, by the keeper about once a second, and at once where it was set.
 * Owner:   storaged.c.
 * Threads: any. */
#pragma once
#include "veddb-storaged/request.h"

#define STOR_DEFAULTS_COLLECTION "settings"
#define STOR_DEFAULTS_ID         "ReadWriteConcernDefaults"
#define STOR_DEFAULTS_MODE_MAX   128

typedef struct stor_defaults stor_defaults_t;

/* What is set; fields that are not are as they were for a node without. */
typedef struct {
    bool has_write, has_read;
    stor_write_concern_t write; /* its mode: in `mode` */
    char mode[STOR_DEFAULTS_MODE_MAX + 1];
    char read[16]; /* "local", "available", "majority" */
    uint64_t update_time;
    int64_t update_wall_ms, loaded_wall_ms;
} stor_defaults_values_t;

stor_defaults_t *stor_defaults_create(void);
void stor_defaults_destroy(stor_defaults_t **defaults_p);
void stor_defaults_get(stor_storage_t *storage, stor_defaults_values_t *ret_values);
/* Reads the document; without one nothing is set. Not in a transaction. */
VD_MUST_CHECK int stor_defaults_load(stor_storage_t *storage, stor_session_t *session,
                                     vd_error_t *err);
/* What the request names no concern for gets the default. After its arguments were read. */
void stor_defaults_apply(stor_request_t *request, bool names_level);

/* {w, j, wtimeout} and {level}, checked as defaults: VD_ERR_BAD_VALUE and others. */
VD_MUST_CHECK int stor_defaults_parse_write(vd_bson_t document, stor_defaults_values_t *values,
                                            vd_error_t *err);
VD_MUST_CHECK int stor_defaults_parse_read(vd_bson_t document, stor_defaults_values_t *values,
                                           vd_error_t *err);
/* defaultReadConcern ... updateWallClockTime, those that are set, into the open document. */
void stor_defaults_put(vd_bb_t *bb, const stor_defaults_values_t *values);
