/* veddb-storaged/args.h — a command's own arguments, read by a table into a struct, as strictly as
 * MongoDB's IDL does.
 *
 * Duty: unknown field: Location40415 "BSON field 'find.foo' is an unknown field."; duplicate:
 *       40413; missing and required: 40414; wrong type: TypeMismatch "BSON field 'find.filter' is
 *       the wrong type 'int', expected type 'object'"; negative where not allowed: 51024. Generic
 *       arguments ($db, lsid, txnNumber, readConcern, ... see request.c) are skipped at the top
 *       level. null is "absent", as MongoDB has it for optional fields. Pure; slices and documents
 *       borrow the body. Absent fields leave the struct as it was: set defaults first. */
#pragma once
#include "libcommon/bson/view.h"

typedef enum {
    STOR_ARG_VALUE,    /* vd_value_t: any type, also null */
    STOR_ARG_DOCUMENT, /* vd_bson_t */
    STOR_ARG_ARRAY,    /* vd_bson_t */
    STOR_ARG_STRING,   /* vd_slice_t */
    STOR_ARG_BOOL,     /* bool; numbers count too (IDL safeBool) */
    STOR_ARG_INT,      /* int64_t from any number, truncated as safeInt does */
    STOR_ARG_COUNT,    /* the same, >= 0 */
    STOR_ARG_POSITIVE, /* the same, >= 1 */
    STOR_ARG_IGNORED,  /* accepted, and rightly without effect here (say why in the table) */
    STOR_ARG_REFUSED,  /* known to MongoDB, not built here: NotImplemented naming it */
} stor_arg_type_t;

enum { STOR_ARG_REQUIRED = 1u << 0, STOR_ARG_NULL_IS_ERROR = 1u << 1 };

typedef struct {
    const char *name;
    stor_arg_type_t type;
    uint32_t offset;
    uint32_t flags;
} stor_arg_t;

#define STOR_ARG(name, type, struct_type, member, flags)                                           \
    {                                                                                              \
        (name), (type), offsetof(struct_type, member), (flags)                                     \
    }
#define STOR_ARGS_MAX 48

/* prefix: "find", or "update.updates" for nested ones. top: generic arguments and the first field
 * (the command's name) are skipped. */
VD_MUST_CHECK int stor_args_parse(vd_bson_t body, const char *prefix, bool top,
                                  const stor_arg_t *args, size_t arg_count, void *ret_struct,
                                  vd_error_t *err);
/* True for $db, lsid, readConcern, ... */
bool stor_args_is_generic(vd_slice_t name);
