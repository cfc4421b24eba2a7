/* proto/keys.h — storage <-> rotated, over a local socket that checks who is at the other end. See
 * keys.md.
 *
 * The answer to KEYS_OPEN carries key bytes: both sides wipe their buffers. */
#pragma once
#include "proto/codec.h"

typedef struct {
    bool bootstrap; /* storage has no data yet: make the first data key if the keyring is empty */
    uint32_t highest_version; /* of the keys that the data was written with; 0: not known */
} vdp_keys_open_t;
/* Body of KEYS_OPENED: per key 16 B id, 32 B key, u8 state (0 active, 1 decrypt-only, 2
 * retiring), then u32 version: 53 B each. */
typedef struct {
    uint32_t count;
} vdp_keys_opened_t;
typedef struct {
    uint32_t unused;
} vdp_keys_status_t;
extern const vdp_message_t vdp_keys_open, vdp_keys_opened, vdp_keys_status,
    vdp_keys_status_reply /* body: JSON */;
