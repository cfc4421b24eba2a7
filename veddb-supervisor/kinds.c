/* veddb-supervisor/kinds.c — see kinds.h. */
#include "veddb-supervisor/kinds.h"

#include <string.h>

const sup_kind_t sup_kinds[SUP_KIND_COUNT] = {
    [SUP_KIND_ROTATED] = {"rotated", "veddb-rotated", 'r', 0, NULL},
    [SUP_KIND_STORAGED] = {"storaged", "veddb-storaged", 't', 1u << SUP_KIND_ROTATED, NULL},
    [SUP_KIND_REPLICAD] = {"replicad", "veddb-replicad", 'p', 1u << SUP_KIND_STORAGED,
                           "replication.port"},
    [SUP_KIND_GATEWAYD] = {"gatewayd", "veddb-gatewayd", 'g', 1u << SUP_KIND_STORAGED, NULL},
};

const sup_listening_t sup_listenings[SUP_LISTENERS_MAX] = {
    {"MONGODB", SUP_KIND_GATEWAYD, "gateway.listen", "gateway.port", "mongodb"},
    {"HTTPS", SUP_KIND_GATEWAYD, "gateway.listen", "gateway.http_port", "https"},
    {"REPLICATION", SUP_KIND_REPLICAD, "replication.listen", "replication.port", "replication"},
};

const sup_pair_t sup_pairs[] = {
    {"storage-rotated", SUP_KIND_ROTATED, SUP_KIND_STORAGED},
    {"storage-replicad", SUP_KIND_STORAGED, SUP_KIND_REPLICAD},
    {"storage-gateway", SUP_KIND_STORAGED, SUP_KIND_GATEWAYD},
};
const size_t sup_pair_count = sizeof sup_pairs / sizeof sup_pairs[0];

bool sup_kind_joins(sup_kind_id_t id, const vd_config_t *config)
{
    return sup_kinds[id].option == NULL || vd_config_number(config, sup_kinds[id].option) != 0;
}

int sup_kind_by_name(const char *name)
{
    for (int i = 0; i < SUP_KIND_COUNT; i++)
        if (strcmp(name, sup_kinds[i].name) == 0 || strcmp(name, sup_kinds[i].program) == 0)
            return i;
    return -1;
}
