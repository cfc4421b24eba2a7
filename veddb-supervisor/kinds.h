/* veddb-supervisor/kinds.h — the table of programs: name, what must be ready before, what it is
 * given. Data only. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    SUP_KIND_ROTATED,
    SUP_KIND_STORAGED,
    SUP_KIND_GATEWAYD,
    SUP_KIND_COUNT
} sup_kind_id_t;

typedef struct {
    const char *name;    /* as operators call it: "storaged" */
    const char *program; /* "veddb-storaged"; also its user where each has one */
    char letter;         /* in options.def */
    uint32_t needs;      /* bit per kind that must be ready before it is started */
    bool listeners;      /* gets the listening sockets */
} sup_kind_t;

/* In order of start; stopped in reverse. */
extern const sup_kind_t sup_kinds[SUP_KIND_COUNT];

/* A socket folder between two programs: `binder` makes sockets in it, `connector` may reach them.
 */
typedef struct {
    const char *folder;
    sup_kind_id_t binder, connector;
} sup_pair_t;

extern const sup_pair_t sup_pairs[];
extern const size_t sup_pair_count;

/* -1 when there is none of that name ("storaged" or "veddb-storaged"). */
int sup_kind_by_name(const char *name);
