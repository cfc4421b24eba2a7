/* proto/versions.h — the table of versions, in memory that storage writes and the gateway reads.
 * See versions.md.
 *
 * Duty:    the layout of the file <run_folder>/storage-gateway/versions, and how one word of it is
 *          read and changed. Who writes which word when is storage's (engine/versions.h); what may
 *          be done with what was read is the gateway's (cache.h).
 * A word:  how many changes are under way in its low bits, how many have ended above them. It never
 *          has the same value twice.
 * Threads: any; each word is atomic. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#define VDP_VERSIONS_FILE    "versions"
#define VDP_VERSIONS_MAGIC   0x3130535256445656ull /* "VVDVRS01" */
#define VDP_VERSIONS_SLOTS   (1u << 17)
#define VDP_VERSIONS_BITS    24 /* of a word: changes under way */
#define VDP_VERSIONS_ENDED   (1ull << VDP_VERSIONS_BITS)
#define VDP_VERSIONS_PENDING (VDP_VERSIONS_ENDED - 1)

typedef struct {
    _Atomic uint64_t magic;
    uint8_t boot_id[16]; /* of the storage whose words these are; set while `epoch` is pending */
    _Alignas(64) _Atomic uint64_t epoch; /* of everything; pending: nothing is to be trusted */
    _Atomic uint64_t auth_epoch;         /* as STATE tells it */
    _Alignas(64) _Atomic uint64_t slots[VDP_VERSIONS_SLOTS];
} vdp_versions_t;

static inline bool vdp_version_is_pending(uint64_t word)
{
    return (word & VDP_VERSIONS_PENDING) != 0;
}
static inline uint64_t vdp_version_read(const _Atomic uint64_t *word)
{
    return __atomic_load_n((const uint64_t *)word, __ATOMIC_SEQ_CST);
}
/* Before a change can be seen. */
static inline void vdp_version_begin(_Atomic uint64_t *word)
{
    __atomic_fetch_add((uint64_t *)word, 1, __ATOMIC_SEQ_CST);
}
/* When it can be seen, or never will be. */
static inline void vdp_version_end(_Atomic uint64_t *word)
{
    __atomic_fetch_add((uint64_t *)word, VDP_VERSIONS_ENDED - 1, __ATOMIC_SEQ_CST);
}
