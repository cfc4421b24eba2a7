/* tests/unit/storaged/spill_support.h — the node's part of spilling over a folder of its own, with
 * budgets as small as a test needs them. */
#pragma once
#include "veddb-storaged/exec/spill.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct {
    char folder[64];
    stor_keys_t *keys;
    stor_spill_t *node;
} spill_t;

#define SPILL_SUPPORT __attribute__((unused)) static

SPILL_SUPPORT void spill_node(spill_t *spill, size_t query_max, uint64_t disk_max,
                              uint64_t memory_max)
{
    vd_error_t err = VD_ERROR_INIT;
    stor_spill_options_t options = {.folder = spill->folder,
                                    .keys = spill->keys,
                                    .query_max_bytes = query_max,
                                    .disk_max_bytes = disk_max,
                                    .memory_max_bytes = memory_max};
    cr_assert_eq(stor_spill_open(&options, &spill->node, &err), VD_OK, "%s", err.message);
}

SPILL_SUPPORT spill_t *spill_open(size_t query_max, uint64_t disk_max)
{
    uint8_t id[STOR_KEY_ID_BYTES] = {1}, key[STOR_KEY_BYTES] = {2};
    vd_error_t err = VD_ERROR_INIT;
    spill_t *spill = calloc(1, sizeof *spill);
    snprintf(spill->folder, sizeof spill->folder, "/tmp/veddb-spill-XXXXXX");
    cr_assert_not_null(mkdtemp(spill->folder));
    spill->keys = stor_keys_create();
    cr_assert_eq(stor_keys_put(spill->keys, id, key, STOR_KEY_ACTIVE, &err), VD_OK);
    spill_node(spill, query_max, disk_max, 0);
    return spill;
}

/* Nothing may be left: no memory charged, no byte on disk, no file. */
SPILL_SUPPORT void spill_close(spill_t *spill)
{
    char path[128];
    stor_spill_stats_t stats;
    stor_spill_stats(spill->node, &stats);
    cr_assert_eq(stats.memory_bytes, 0);
    cr_assert_eq(stats.disk_bytes, 0);
    stor_spill_close(&spill->node);
    snprintf(path, sizeof path, "%s/%s", spill->folder, STOR_SPILL_FOLDER);
    cr_assert_eq(rmdir(path), 0, "a file was left");
    cr_assert_eq(rmdir(spill->folder), 0);
    stor_keys_destroy(&spill->keys);
    free(spill);
}
