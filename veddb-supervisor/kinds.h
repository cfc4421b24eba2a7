/* veddb-supervisor/kinds.h — the table of programs: name, what must be ready before, what it is
 * given. Data only. */
#pragma once
#include "libcommon/runtime/config.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    SUP_KIND_ROTATED,
    SUP_KIND_STORAGED,
    SUP_KIND_REPLICAD,
    SUP_KIND_GATEWAYD,
    SUP_KIND_COUNT
} sup_kind_id_t;

typedef struct {
    const char *name;    /* as operators call it: "storaged" */
    const char *program; /* "veddb-storaged"; also its user where each has one */
    char letter;         /* in options.def */
    uint32_t needs;      /* bit per kind that must be ready before it is started */
    const char *option;  /* belongs to the node only when this number is set; NULL = always */
} sup_kind_t;

/* In order of start; stopped in reverse. */
extern const sup_kind_t sup_kinds[SUP_KIND_COUNT];

/* A socket folder between two programs: `binder` makes sockets in it, `connector` may reach them.
 */
typedef struct {
    const char *folder;
    sup_kind_id_t binder, connector;
} sup_pair_t;

/* A TCP socket that the supervisor opens for a kind: found by it as descriptor VEDDB_FD_<name>. */
typedef struct {
    const char *name; /* "MONGODB" */
    sup_kind_id_t kind;
    const char *address_option, *port_option;
    const char *shown; /* in the status: "<shown>_port" */
} sup_listening_t;

#define SUP_LISTENERS_MAX 3
extern const sup_listening_t sup_listenings[SUP_LISTENERS_MAX];

extern const sup_pair_t sup_pairs[];
extern const size_t sup_pair_count;

/* Whether a node with this configuration has such a worker. */
bool sup_kind_joins(sup_kind_id_t id, const vd_config_t *config);
/* -1 when there is none of that name ("storaged" or "veddb-storaged"). */
int sup_kind_by_name(const char *name);
