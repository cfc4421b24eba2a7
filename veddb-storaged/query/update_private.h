/* veddb-storaged/query/update_private.h — what the files of update.h share: the path tree, one
 * operator, one application.
 *
 * update_parse.c     update document -> tree of nodes; array filters; pipelines; replacement
 * update_apply.c     one walk over tree and document; replacement, pipeline, upsert
 * update_operators.c on one value: $set $unset $inc $mul $min $max $currentDate $rename $bit
 * update_array.c     on arrays: $push $addToSet $pull $pullAll $pop
 * update_print.c     values in messages, as MongoDB prints them
 * document.c         stor_document_prepare and the checks of whole documents */
#pragma once
#include "libcommon/bson/build.h"
#include "libcommon/bson/compare.h"
#include "veddb-storaged/query/update.h"

#define STOR_UPDATE_PARTS_MAX  200                  /* parts of one path */
#define STOR_UPDATE_STAGES_MAX 1000                 /* stages of a pipeline update */
#define STOR_UPDATE_PRINT_SIZE 160                  /* bytes of a value in a message */
#define STOR_ERR_NOT_SINGLE    VD_ERR_LOCATION(54)  /* NotSingleValueField */
#define STOR_ERR_NOT_EXACT     VD_ERR_LOCATION(111) /* NotExactValueField */

typedef enum {
    STOR_OP_SET,
    STOR_OP_SET_ON_INSERT,
    STOR_OP_UNSET,
    STOR_OP_INC,
    STOR_OP_MUL,
    STOR_OP_MIN,
    STOR_OP_MAX,
    STOR_OP_CURRENT_DATE,
    STOR_OP_RENAME, /* the destination; the source has a node of its own: */
    STOR_OP_RENAME_SOURCE,
    STOR_OP_BIT,
    STOR_OP_PUSH,
    STOR_OP_ADD_TO_SET,
    STOR_OP_PULL,
    STOR_OP_PULL_ALL,
    STOR_OP_POP,
} stor_operator_kind_t;

typedef enum { STOR_BIT_AND, STOR_BIT_OR, STOR_BIT_XOR } stor_bit_kind_t;

typedef struct {
    stor_bit_kind_t kind;
    bool wide; /* the operand is a 64-bit integer */
    int64_t operand;
} stor_bit_t;

typedef struct {
    vd_slice_t path; /* empty: the whole element */
    bool descending;
} stor_push_key_t;

typedef struct {
    stor_operator_kind_t kind;
    vd_value_t value;         /* the operand; of $currentDate the date itself */
    uint32_t value_count;     /* $push, $addToSet, $pullAll */
    const vd_value_t *values; /* in the order given; $addToSet: without repetitions */
    const uint32_t *sorted;   /* $addToSet, $pullAll: positions in values, by value */
    bool has_slice, has_position;
    int64_t slice, position;
    uint32_t key_count; /* $push's $sort */
    const stor_push_key_t *keys;
    stor_filter_t *filter; /* $pull; NULL: elements equal to value */
    bool filter_wraps;     /* the filter is on {v: element}, else on elements that are objects */
    uint32_t bit_count;
    const stor_bit_t *bits;
    bool from_front; /* $pop: -1 */
    uint32_t rename; /* number of the $rename in the update */
} stor_operator_t;

typedef enum {
    STOR_NODE_FIELDS, /* children by field name or array position */
    STOR_NODE_FILTER, /* children by array filter: $[] has the empty name */
    STOR_NODE_LEAF,
} stor_node_kind_t;

typedef struct stor_update_node stor_update_node_t;
struct stor_update_node {
    stor_node_kind_t kind;
    vd_slice_t name;
    int64_t position; /* name as an array position, or -1 */
    const stor_operator_t *op;
    uint32_t child_count, child_cap;
    stor_update_node_t **children;  /* after the parse in the order in which they are applied */
    stor_update_node_t *positional; /* the child named `$` */
    uint32_t *table;     /* hash of names -> child number + 1, for nodes with many children */
    uint32_t table_size; /* a power of two, or 0 */
};

typedef struct {
    vd_slice_t name;
    stor_filter_t *filter;
    bool used;
} stor_array_filter_t;

typedef struct {
    stor_path_t from, to;
} stor_rename_t;

struct stor_update {
    stor_update_kind_t kind;
    const stor_variables_t *variables;
    int64_t now_ms;
    uint64_t now_ts;
    /* operators */
    stor_update_node_t *root;
    uint32_t filter_count;
    stor_array_filter_t *filters;
    uint32_t rename_count, rename_cap;
    stor_rename_t *renames;
    uint32_t depth; /* no operator can make a document deeper than this, except by $rename */
    /* replacement */
    vd_bson_t replacement; /* as given, empty timestamps filled */
    /* pipeline */
    uint32_t stage_count;
    stor_project_t **stages;
};

/* Where the walk is: the way from the document to the present element. */
typedef struct stor_update_path {
    const struct stor_update_path *parent; /* NULL at the top level */
    vd_slice_t part;
} stor_update_path_t;

/* One application to one document. */
typedef struct {
    const stor_update_t *update;
    vd_arena_t *arena;
    vd_bb_t *bb;
    vd_bson_t document;
    bool insert; /* an upsert's new document */
    bool changed;
    bool inside_id;         /* below or at an _id that was there before */
    int64_t array_position; /* of `$`, or -1 */
    vd_value_t *renamed;    /* per $rename: the source's value, or MISSING */
    vd_error_t *err;
} stor_update_run_t;

typedef enum {
    STOR_RESULT_KEEP,  /* no change */
    STOR_RESULT_VALUE, /* *ret_value stands in its place */
    STOR_RESULT_REMOVE,
    STOR_RESULT_WRITTEN, /* the new element is in run->bb already */
} stor_operator_result_t;

/* ---- update_parse.c ---- */
stor_update_node_t *stor_node_create(vd_arena_t *arena, stor_node_kind_t kind, vd_slice_t name);
/* UINT32_MAX, NULL when there is none. */
uint32_t stor_node_index(const stor_update_node_t *node, vd_slice_t name);
stor_update_node_t *stor_node_child(const stor_update_node_t *node, vd_slice_t name);
void stor_node_add(vd_arena_t *arena, stor_update_node_t *node, stor_update_node_t *child);
/* Sorts the children of this node as MongoDB applies them. */
void stor_node_sort(vd_arena_t *arena, stor_update_node_t *node);
/* An array position as MongoDB reads it from a path: digits, at most 32 bits; else -1. */
int64_t stor_array_position(vd_slice_t part);
/* Objects and arrays inside a value, the value itself counted; 0 for a scalar. */
uint32_t stor_value_depth(vd_value_t v);
/* {$expr} and {$jsonSchema} have no place in $pull and array filters. */
VD_MUST_CHECK int stor_filter_refuse_special(const stor_filter_t *filter, vd_error_t *err);

/* ---- update_operators.c ---- */
/* `name` is the operator, `field` its element: {$inc: {field: value}}. */
VD_MUST_CHECK int stor_operator_parse(vd_arena_t *arena, stor_update_t *update,
                                      stor_operator_kind_t kind, vd_slice_t field, vd_value_t value,
                                      stor_operator_t **ret_op, vd_error_t *err);
/* The operator on a value that exists. in_array: the element stands in an array. */
VD_MUST_CHECK int stor_operator_apply(stor_update_run_t *run, const stor_operator_t *op,
                                      const stor_update_path_t *path, vd_slice_t name,
                                      vd_value_t old, bool in_array,
                                      stor_operator_result_t *ret_result, vd_value_t *ret_value);
/* True when the operator makes a field that is not there. */
bool stor_operator_creates(const stor_update_run_t *run, const stor_operator_t *op);
/* Writes that field. */
void stor_operator_create(stor_update_run_t *run, const stor_operator_t *op, vd_slice_t name);
/* Whole numbers as MongoDB's options take them: FailedToParse otherwise. */
VD_MUST_CHECK int stor_parse_integer(vd_slice_t field, vd_value_t value, int64_t *ret,
                                     vd_error_t *err);

/* ---- update_array.c ---- */
VD_MUST_CHECK int stor_array_operator_parse(vd_arena_t *arena, stor_operator_t *op,
                                            vd_slice_t field, vd_value_t value, vd_error_t *err);
VD_MUST_CHECK int stor_array_operator_apply(stor_update_run_t *run, const stor_operator_t *op,
                                            const stor_update_path_t *path, vd_slice_t name,
                                            vd_value_t old, stor_operator_result_t *ret_result);
void stor_array_operator_create(stor_update_run_t *run, const stor_operator_t *op, vd_slice_t name);
/* The document {name: value}. */
vd_bson_t stor_wrap_value(vd_arena_t *arena, vd_slice_t name, vd_value_t value);

/* ---- update_print.c ---- */
/* `name: value` as MongoDB's messages show an element, cut at size. Returns buf. */
const char *stor_print_element(vd_slice_t name, vd_value_t value, char *buf, size_t size);
/* `{ a: 1 }`. */
const char *stor_print_value(vd_value_t value, char *buf, size_t size);
/* `_id: 1` of the document, or `no id`. */
const char *stor_print_id(vd_bson_t document, char *buf, size_t size);
/* "a.b.0". */
vd_slice_t stor_path_text(vd_arena_t *arena, const stor_update_path_t *path);

/* ---- document.c ---- */
/* Deeper than VD_BSON_DEPTH_MAX? */
bool stor_document_too_deep(vd_bson_t document);
/* The type rules of a stored _id: 53 or 52. */
VD_MUST_CHECK int stor_check_id(vd_value_t id, vd_error_t *err);
/* Names inside _id may not start with `$`, except a DBRef's. */
VD_MUST_CHECK int stor_check_embedded(vd_bson_t document, vd_error_t *err);

/* A run of whole elements [from, to) of a document, copied as they are. vd_bb_concat takes what
 * stands between a document's length and its final NUL, so the run is given as the middle of one.
 */
static inline void stor_bb_run(vd_bb_t *bb, const uint8_t *from, const uint8_t *to)
{
    if (to > from)
        vd_bb_concat(bb, (vd_bson_t){from - 4, (uint32_t)(to - from) + 5});
}

static inline bool stor_slice_dollar(vd_slice_t name)
{
    return name.len > 0 && name.data[0] == '$';
}
