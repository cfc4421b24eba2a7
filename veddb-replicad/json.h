/* veddb-replicad/json.h — reads the JSON that etcd sends. Pure.
 *
 * Duty:    checks one text whole (RFC 8259) and cuts it into a table of values, in the order of the
 *          text; nothing is copied.
 * Limits:  REPL_JSON_VALUES_MAX values, REPL_JSON_DEPTH_MAX deep; more is VD_ERR_PROTOCOL.
 * Threads: any. */
#pragma once
#include "libcommon/base/error.h"

#define REPL_JSON_VALUES_MAX 512
#define REPL_JSON_DEPTH_MAX  24

typedef enum {
    REPL_JSON_OBJECT,
    REPL_JSON_ARRAY,
    REPL_JSON_STRING, /* text without the quotes, escapes as they stand */
    REPL_JSON_NUMBER,
    REPL_JSON_WORD, /* true, false, null */
} repl_json_kind_t;

typedef struct {
    repl_json_kind_t kind;
    vd_slice_t name; /* in an object; escapes as they stand */
    vd_slice_t text; /* of a string, number or word */
    uint32_t next;   /* index behind this value and all in it */
} repl_json_value_t;

typedef struct {
    repl_json_value_t values[REPL_JSON_VALUES_MAX]; /* 0 is the whole */
    uint32_t count;
} repl_json_t;

/* The text is borrowed. */
VD_MUST_CHECK int repl_json_parse(vd_slice_t text, repl_json_t *ret_json, vd_error_t *err);
/* The value of that name in the object `parent`; NULL when there is none, or parent is NULL. */
const repl_json_value_t *repl_json_get(const repl_json_t *json, const repl_json_value_t *parent,
                                       const char *name);
/* The first element of an array; NULL when there is none. */
const repl_json_value_t *repl_json_first(const repl_json_t *json, const repl_json_value_t *array);
/* A whole number not below zero, written as a number or, as etcd does for 64 bits, as a string.
 * False (and *ret untouched) when it is none. */
bool repl_json_u64(const repl_json_value_t *value, uint64_t *ret);
