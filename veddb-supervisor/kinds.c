/* veddb-supervisor/kinds.c — see kinds.h. */
#include "veddb-supervisor/kinds.h"

#include <string.h>

const sup_kind_t sup_kinds[SUP_KIND_COUNT] = {
    [SUP_KIND_ROTATED] = {"rotated", "veddb-rotated", 'r', 0, false},
    [SUP_KIND_STORAGED] = {"storaged", "veddb-storaged", 't', 1u << SUP_KIND_ROTATED, false},
    [SUP_KIND_GATEWAYD] = {"gatewayd", "veddb-gatewayd", 'g', 1u << SUP_KIND_STORAGED, true},
};

const sup_pair_t sup_pairs[] = {
    {"storage-rotated", SUP_KIND_ROTATED, SUP_KIND_STORAGED},
    {"storage-gateway", SUP_KIND_STORAGED, SUP_KIND_GATEWAYD},
};
const size_t sup_pair_count = sizeof sup_pairs / sizeof sup_pairs[0];

int sup_kind_by_name(const char *name)
{
    for (int i = 0; i < SUP_KIND_COUNT; i++)
        if (strcmp(name, sup_kinds[i].name) == 0 || strcmp(name, sup_kinds[i].program) == 0)
            return i;
    return -1;
}
