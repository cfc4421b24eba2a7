/* libcommon/runtime/config.h — YAML file + VEDDB_* environment + flags -> checked values, from the
 * one table options.def.
 *
 * Duty:    "gateway.port: 27017" in YAML (nested maps), VEDDB_GATEWAY_PORT in the environment,
 *          --gateway.port=27017 on the command line; later wins: default < file < environment <
 *          flag. An unknown key or a bad value is fatal, naming file and line.
 *          The supervisor reads and checks the file and hands each child its part as a blob over a
 *          descriptor; a worker alone reads the same file with the same checker.
 * Units:   "512MB", "10s", "5min" are understood for bytes and durations.
 * Owner:   create/destroy; immutable afterwards.
 * Threads: any. */
#pragma once
#include "libcommon/base/buf.h"
#include "libcommon/base/error.h"

typedef struct vd_config vd_config_t;

typedef enum {
    VD_OPTION_BOOL,
    VD_OPTION_NUMBER,
    VD_OPTION_BYTES,
    VD_OPTION_DURATION_MS,
    VD_OPTION_STRING,
    VD_OPTION_PATH,
    VD_OPTION_CHOICE
} vd_option_type_t;

typedef struct {
    const char *name; /* "gateway.port" */
    vd_option_type_t type;
    const char *default_value; /* as text */
    int64_t min, max;          /* numbers, bytes, durations; for strings the longest */
    const char *choices;       /* "a|b|c" */
    /* who gets it: s supervisor, r rotated, t storaged, g gatewayd, p replicad */
    const char *programs;
    bool secret; /* never printed */
    const char *help;
} vd_option_t;

extern const vd_option_t vd_options[];
extern const size_t vd_option_count;

/* Reads everything. file NULL: no file (defaults + environment + flags). argv: the --name=value
 * flags (argv[0] may be the program's name); anything else is refused. */
VD_MUST_CHECK int vd_config_load(const char *file, char *const *argv, int argc,
                                 vd_config_t **ret_config, vd_error_t *err);
void vd_config_destroy(vd_config_t **config_p);
/* The part for one program as a blob, and back. */
VD_MUST_CHECK int vd_config_pack(const vd_config_t *config, char program_letter, vd_buf_t *out,
                                 vd_error_t *err);
VD_MUST_CHECK int vd_config_unpack(vd_slice_t blob, vd_config_t **ret_config, vd_error_t *err);

/* Asserted: the option exists, has that type and is among what this program is given. */
bool vd_config_bool(const vd_config_t *config, const char *name);
/* NUMBER, BYTES, DURATION_MS */
int64_t vd_config_number(const vd_config_t *config, const char *name);
/* STRING, PATH, CHOICE; "" when unset */
const char *vd_config_string(const vd_config_t *config, const char *name);
/* What was given of option vd_options[i], as text, "***" of a secret; NULL: its default holds. */
const char *vd_config_given(const vd_config_t *config, size_t i);
/* The effective configuration as YAML text with help lines (`vedctl config show`, the sample file);
 * secrets masked. */
VD_MUST_CHECK int vd_config_print(const vd_config_t *config, vd_buf_t *out, bool with_help,
                                  vd_error_t *err);
