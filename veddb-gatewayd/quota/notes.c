/* veddb-gatewayd/quota/notes.c — see notes.h. */
#include "veddb-gatewayd/quota/notes.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/map.h"
#include "libcommon/base/mem.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

const char *const gate_refusal_names[GATE_REFUSALS] = {
    "operations",  "bytes_in", "bytes_out", "examined", "handshakes",
    "connections", "cursors",  "sessions",  "result",   "queue"};

typedef struct {
    gate_note_t note;
    uint64_t told_ms; /* monotonic; 0: not yet */
    uint8_t key[2 + GATE_LIMITED_USER_SIZE];
    size_t key_len;
} entry_t;

struct gate_notes {
    pthread_mutex_t lock;
    vd_map_t *map;
    _Atomic uint64_t refused[GATE_REFUSALS][GATE_SCOPES], delayed[GATE_REFUSALS][GATE_SCOPES];
};

gate_notes_t *gate_notes_create(void)
{
    gate_notes_t *notes = vd_xalloc(sizeof *notes);
    (void)pthread_mutex_init(&notes->lock, NULL); /* can't fail with default attributes */
    /* And one "(others)" for each kind and scope. */
    notes->map = vd_map_create(GATE_NOTES_MAX + GATE_REFUSALS * GATE_SCOPES);
    return notes;
}

void gate_notes_destroy(gate_notes_t **notes_p)
{
    gate_notes_t *notes = *notes_p;
    if (notes == NULL)
        return;
    size_t position = 0;
    void *entry;
    while (vd_map_next(notes->map, &position, &(vd_slice_t){0}, &entry))
        vd_free(entry);
    vd_map_destroy(&notes->map);
    (void)pthread_mutex_destroy(&notes->lock);
    vd_free(notes);
    *notes_p = NULL;
}

static entry_t *entry_get(gate_notes_t *notes, gate_refusal_t kind, gate_scope_t scope,
                          vd_slice_t who)
{
    uint8_t key[2 + GATE_LIMITED_USER_SIZE] = {(uint8_t)kind, (uint8_t)scope};
    if (who.len >= GATE_LIMITED_USER_SIZE)
        who.len = GATE_LIMITED_USER_SIZE - 1;
    if (who.len != 0)
        memcpy(key + 2, who.data, who.len);
    entry_t *entry = vd_map_get(notes->map, vd_slice(key, 2 + who.len));
    if (entry != NULL)
        return entry;
    if (vd_map_count(notes->map) >= GATE_NOTES_MAX && !vd_slice_is(who, "(others)"))
        return entry_get(notes, kind, scope, VD_SLICE_LIT("(others)"));
    entry = vd_xalloc(sizeof *entry);
    memcpy(entry->key, key, 2 + who.len);
    entry->key_len = 2 + who.len;
    entry->note.kind = kind, entry->note.scope = scope;
    if (who.len != 0)
        memcpy(entry->note.who, who.data, who.len);
    int rc = vd_map_put(notes->map, vd_slice(entry->key, entry->key_len), entry, NULL);
    VD_ASSERT(rc == VD_OK); /* counted above */
    return entry;
}

void gate_notes_add(gate_notes_t *notes, gate_refusal_t kind, gate_scope_t scope, vd_slice_t who)
{
    atomic_fetch_add_explicit(&notes->refused[kind][scope], 1, memory_order_relaxed);
    (void)pthread_mutex_lock(&notes->lock);
    entry_t *entry = entry_get(notes, kind, scope, who);
    if (entry->note.count++ == 0)
        entry->note.since_ms = vd_wall_ms();
    (void)pthread_mutex_unlock(&notes->lock);
}

void gate_notes_waited(gate_notes_t *notes, gate_refusal_t kind, gate_scope_t scope)
{
    atomic_fetch_add_explicit(&notes->delayed[kind][scope], 1, memory_order_relaxed);
}

uint32_t gate_notes_take(gate_notes_t *notes, bool all, gate_note_t *out, uint32_t max)
{
    uint64_t now = vd_monotonic_ms();
    uint32_t count = 0;
    size_t position = 0;
    vd_slice_t key;
    void *value;
    (void)pthread_mutex_lock(&notes->lock);
    while (count < max && vd_map_next(notes->map, &position, &key, &value)) {
        entry_t *entry = value;
        bool due = all || entry->told_ms == 0 || now >= entry->told_ms + GATE_NOTES_PERIOD_MS;
        if (!due)
            continue;
        if (entry->note.count == 0) { /* nothing more in its minute */
            if (now < entry->told_ms + GATE_NOTES_PERIOD_MS)
                continue;
            (void)vd_map_remove(notes->map, vd_slice(entry->key, entry->key_len));
            vd_free(entry);
            continue;
        }
        out[count++] = entry->note;
        entry->note.count = 0;
        entry->told_ms = now == 0 ? 1 : now;
    }
    (void)pthread_mutex_unlock(&notes->lock);
    return count;
}

uint64_t gate_notes_refused(const gate_notes_t *notes, gate_refusal_t kind, gate_scope_t scope)
{
    return atomic_load_explicit(&notes->refused[kind][scope], memory_order_relaxed);
}

uint64_t gate_notes_delayed(const gate_notes_t *notes, gate_refusal_t kind, gate_scope_t scope)
{
    return atomic_load_explicit(&notes->delayed[kind][scope], memory_order_relaxed);
}
