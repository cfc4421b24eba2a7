/* veddb-storaged/engine/keys.c — sealing and opening of blocks.
 *
 * The hot path (seal, open) takes no lock and allocates nothing: each thread keeps a cipher context
 * whose key schedule is set up for the present boot id, and a small set of contexts for opening.
 * Everything else (the key table, derived keys) stands in one locked, non-dumpable mapping under a
 * mutex.
 *
 * Block counters are handed to threads in runs, so that the shared counter is touched once in
 * COUNTER_RUN blocks. */
#include "veddb-storaged/engine/keys.h"
#include "libcommon/base/buf.h"
#include "libcommon/base/mem.h"
#include "libcommon/base/rand.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define BLOCK_MAGIC   "VDB1"
#define BLOCK_VERSION 1
#define BOOT_ID_BYTES 16
#define TAG_BYTES     16
#define NONCE_BYTES   12
#define PREFIX_BYTES                                                                               \
    40 /* magic, version, zero, key id, boot id: the same for every block of a boot */
#define AAD_BYTES       (STOR_BLOCK_OVERHEAD_BYTES - TAG_BYTES)
#define NONCE_OFFSET    PREFIX_BYTES
#define BOOT_BLOCKS_MAX (1ULL << 31)
#define COUNTER_RUN     64
#define DERIVED_MAX     64
#define THREAD_CONTEXTS 8
#define COUNT_SHARDS    16

typedef struct {
    uint8_t id[STOR_KEY_ID_BYTES];
    uint8_t key[STOR_KEY_BYTES];
    stor_key_state_t state;
    uint32_t version;
    bool used;
    bool proven; /* has opened a block that another process, or an earlier start, had sealed */
} key_entry_t;

typedef struct {
    uint8_t name[STOR_KEY_ID_BYTES + BOOT_ID_BYTES];
    uint8_t key[STOR_KEY_BYTES];
    uint64_t touched; /* 0 = empty */
} derived_t;

/* What must never reach a swap device or a core dump. */
typedef struct {
    key_entry_t entries[STOR_KEYS_MAX];
    derived_t derived[DERIVED_MAX];
} secrets_t;

/* One boot id of one key; never changed once published, freed with the keys. */
typedef struct boot {
    struct boot *older;
    uint64_t serial; /* unique in the process */
    uint8_t prefix[PREFIX_BYTES];
    _Alignas(64) atomic_uint_fast64_t counter;
} boot_t;

typedef struct {
    _Alignas(64) atomic_uint_fast64_t sealed_blocks;
    atomic_uint_fast64_t sealed_bytes, opened_blocks, opened_bytes, failed;
} count_shard_t;

struct stor_keys {
    uint64_t serial;                    /* unique in the process */
    atomic_uint_fast64_t epoch;         /* grows with every stor_keys_put */
    atomic_uint_fast64_t sealed_before; /* blocks, before the active key was */
    atomic_uint_fast64_t generation;    /* grows with every change of the active key */
    _Atomic(boot_t *) boot;             /* what seals now; NULL without an active key */
    pthread_mutex_t lock;               /* secrets, boots, touch_clock */
    secrets_t *secrets;
    size_t secrets_bytes;
    bool memory_locked;
    uint64_t touch_clock;
    EVP_CIPHER *cipher;
    EVP_KDF *kdf;
    count_shard_t counts[COUNT_SHARDS];
};

typedef struct {
    EVP_CIPHER_CTX *ctx;
    uint64_t keys_serial, epoch, touched;
    uint8_t name[STOR_KEY_ID_BYTES + BOOT_ID_BYTES];
    uint32_t place; /* of the key in the table */
    bool old;       /* the key is not the active one */
    bool proven;    /* noted already that this key opens foreign blocks */
} open_context_t;

typedef struct {
    EVP_CIPHER_CTX *seal_ctx;
    uint64_t seal_serial; /* of the boot that seal_ctx holds */
    uint64_t counter_next, counter_end;
    uint8_t nonce_tail[4];
    open_context_t contexts[THREAD_CONTEXTS];
    uint64_t touch_clock, old_blocks, old_bytes;
    uint64_t *old_by_key; /* NULL: nobody has asked in this thread */
    uint64_t epoch_seen;  /* of the keys that were used last */
    unsigned shard;
} thread_state_t;

static atomic_uint_fast64_t serials = 1;
static atomic_uint thread_numbers;
static pthread_once_t thread_once = PTHREAD_ONCE_INIT;
static pthread_key_t thread_key;
static _Thread_local thread_state_t *thread_state;

static void thread_state_free(void *arg)
{
    thread_state_t *state = arg;
    EVP_CIPHER_CTX_free(state->seal_ctx);
    for (int i = 0; i < THREAD_CONTEXTS; i++)
        EVP_CIPHER_CTX_free(state->contexts[i].ctx);
    thread_state = NULL;
    vd_free(state->old_by_key);
    vd_free(state);
}

/* The main thread ends by exit(), which runs no thread destructors. */
static void thread_state_free_at_exit(void)
{
    if (thread_state != NULL)
        thread_state_free(thread_state);
}

static void thread_key_create(void)
{
    VD_ASSERT(pthread_key_create(&thread_key, thread_state_free) == 0);
    (void)atexit(thread_state_free_at_exit); /* only keeps leak checkers quiet */
}

static thread_state_t *thread_state_get(void)
{
    if (VD_LIKELY(thread_state != NULL))
        return thread_state;
    (void)pthread_once(&thread_once, thread_key_create); /* can't fail with these arguments */
    thread_state_t *state = vd_xalloc(sizeof *state);
    state->seal_ctx = EVP_CIPHER_CTX_new();
    VD_ASSERT(state->seal_ctx != NULL);
    state->shard = atomic_fetch_add(&thread_numbers, 1) % COUNT_SHARDS;
    VD_ASSERT(pthread_setspecific(thread_key, state) == 0);
    thread_state = state;
    return state;
}

/* Cache-line aligned; given back with free(). */
static void *aligned_zeroed(size_t size)
{
    void *p = NULL;
    VD_ASSERT(posix_memalign(&p, 64, size) == 0);
    memset(p, 0, size);
    return p;
}

stor_keys_t *stor_keys_create(void)
{
    stor_keys_t *keys = aligned_zeroed(sizeof *keys);
    keys->serial = atomic_fetch_add(&serials, 1);
    VD_ASSERT(pthread_mutex_init(&keys->lock, NULL) == 0);
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    keys->secrets_bytes = (sizeof(secrets_t) + page - 1) / page * page;
    void *mapping =
        mmap(NULL, keys->secrets_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    VD_ASSERT(mapping != MAP_FAILED);
    keys->secrets = mapping;
    keys->memory_locked = mlock(mapping, keys->secrets_bytes) == 0;
    (void)madvise(mapping, keys->secrets_bytes, MADV_DONTDUMP); /* core dumps are off anyway */
    (void)madvise(mapping, keys->secrets_bytes, MADV_WIPEONFORK);
    keys->cipher = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    keys->kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    VD_ASSERT(keys->cipher != NULL);
    VD_ASSERT(keys->kdf != NULL);
    return keys;
}

void stor_keys_destroy(stor_keys_t **keys_p)
{
    stor_keys_t *keys = *keys_p;
    if (keys == NULL)
        return;
    boot_t *boot = atomic_load(&keys->boot);
    while (boot != NULL) {
        boot_t *older = boot->older;
        free(boot);
        boot = older;
    }
    vd_wipe(keys->secrets, keys->secrets_bytes);
    (void)munmap(keys->secrets, keys->secrets_bytes); /* nothing to be done if it fails */
    EVP_CIPHER_free(keys->cipher);
    EVP_KDF_free(keys->kdf);
    (void)pthread_mutex_destroy(&keys->lock);
    free(keys);
    *keys_p = NULL;
}

bool stor_keys_memory_locked(const stor_keys_t *keys)
{
    return keys->memory_locked;
}

const char *stor_keys_id_print(const uint8_t id[STOR_KEY_ID_BYTES], char buf[STOR_KEY_ID_TEXT_SIZE])
{
    for (int i = 0; i < STOR_KEY_ID_BYTES; i++)
        (void)snprintf(buf + 2 * i, 3, "%02x", id[i]);
    return buf;
}

static key_entry_t *entry_find(const stor_keys_t *keys, const uint8_t *id)
{
    for (int i = 0; i < STOR_KEYS_MAX; i++) {
        key_entry_t *entry = &keys->secrets->entries[i];
        if (entry->used && memcmp(entry->id, id, STOR_KEY_ID_BYTES) == 0)
            return entry;
    }
    return NULL;
}

/* Under the lock. */
static void boot_renew(stor_keys_t *keys, const uint8_t *key_id)
{
    boot_t *boot = aligned_zeroed(sizeof *boot);
    boot->serial = atomic_fetch_add(&serials, 1);
    memcpy(boot->prefix, BLOCK_MAGIC, 4);
    boot->prefix[4] = BLOCK_VERSION;
    memcpy(boot->prefix + 8, key_id, STOR_KEY_ID_BYTES);
    vd_rand_secret(boot->prefix + 8 + STOR_KEY_ID_BYTES, BOOT_ID_BYTES);
    atomic_init(&boot->counter, 0);
    boot->older = atomic_load(&keys->boot);
    atomic_store(&keys->boot, boot);
}

static void derived_forget(stor_keys_t *keys, const uint8_t *key_id)
{
    for (int i = 0; i < DERIVED_MAX; i++)
        if (memcmp(keys->secrets->derived[i].name, key_id, STOR_KEY_ID_BYTES) == 0)
            vd_wipe(&keys->secrets->derived[i], sizeof(derived_t));
}

static int entry_add(stor_keys_t *keys, const uint8_t *id, key_entry_t **ret_entry, vd_error_t *err)
{
    for (int i = 0; i < STOR_KEYS_MAX; i++) {
        key_entry_t *entry = &keys->secrets->entries[i];
        if (entry->used)
            continue;
        entry->used = true;
        memcpy(entry->id, id, STOR_KEY_ID_BYTES);
        *ret_entry = entry;
        return VD_OK;
    }
    return vd_error_set(err, VD_ERR_FULL, "more than %d data keys", STOR_KEYS_MAX);
}

/* Under the lock. */
static void entry_wipe(stor_keys_t *keys, key_entry_t *entry)
{
    vd_wipe(entry->key, STOR_KEY_BYTES);
    derived_forget(keys, entry->id);
    entry->state = STOR_KEY_DESTROYED;
}

static int put(stor_keys_t *keys, const uint8_t *id, const uint8_t *key, stor_key_state_t state,
               const uint32_t *version, vd_error_t *err)
{
    VD_ASSERT(keys != NULL);
    VD_ASSERT(id != NULL);
    VD_ASSERT(key != NULL || state == STOR_KEY_DESTROYED);
    pthread_mutex_lock(&keys->lock);
    int rc = VD_OK;
    key_entry_t *entry = entry_find(keys, id);
    if (entry != NULL && version != NULL && entry->state == STOR_KEY_DESTROYED)
        goto cleanup;
    if (entry == NULL)
        rc = entry_add(keys, id, &entry, err);
    if (rc != VD_OK)
        goto cleanup;
    bool was_active = entry->state == STOR_KEY_ACTIVE && atomic_load(&keys->boot) != NULL;
    if (version != NULL)
        entry->version = *version;
    if (state == STOR_KEY_DESTROYED) {
        entry_wipe(keys, entry);
    } else if (memcmp(entry->key, key, STOR_KEY_BYTES) != 0) {
        memcpy(entry->key, key, STOR_KEY_BYTES);
        entry->proven = was_active = false;
    }
    derived_forget(keys, id);
    if (state == STOR_KEY_ACTIVE)
        for (int i = 0; i < STOR_KEYS_MAX; i++)
            if (keys->secrets->entries[i].used &&
                keys->secrets->entries[i].state == STOR_KEY_ACTIVE)
                keys->secrets->entries[i].state = STOR_KEY_DECRYPT_ONLY;
    entry->state = state;
    if (state == STOR_KEY_ACTIVE && !was_active) {
        stor_keys_counts_t counts;
        stor_keys_counts(keys, &counts);
        atomic_store(&keys->sealed_before, counts.sealed_blocks);
        boot_renew(keys, id);
        atomic_fetch_add(&keys->generation, 1);
    }
    atomic_fetch_add(&keys->epoch, 1);
cleanup:
    pthread_mutex_unlock(&keys->lock);
    return rc;
}

int stor_keys_put(stor_keys_t *keys, const uint8_t id[STOR_KEY_ID_BYTES],
                  const uint8_t key[STOR_KEY_BYTES], stor_key_state_t state, vd_error_t *err)
{
    return put(keys, id, key, state, NULL, err);
}

int stor_keys_put_version(stor_keys_t *keys, const uint8_t id[STOR_KEY_ID_BYTES],
                          const uint8_t key[STOR_KEY_BYTES], stor_key_state_t state,
                          uint32_t version, vd_error_t *err)
{
    return put(keys, id, key, state, &version, err);
}

uint32_t stor_keys_list(const stor_keys_t *keys, stor_key_info_t ret_infos[STOR_KEYS_MAX])
{
    uint32_t count = 0;
    pthread_mutex_lock((pthread_mutex_t *)&keys->lock);
    for (; count < STOR_KEYS_MAX && keys->secrets->entries[count].used; count++) {
        const key_entry_t *entry = &keys->secrets->entries[count];
        ret_infos[count] = (stor_key_info_t){.version = entry->version, .state = entry->state};
        memcpy(ret_infos[count].id, entry->id, STOR_KEY_ID_BYTES);
    }
    pthread_mutex_unlock((pthread_mutex_t *)&keys->lock);
    return count;
}

int stor_keys_retire(stor_keys_t *keys, const uint8_t id[STOR_KEY_ID_BYTES], vd_error_t *err)
{
    char text[STOR_KEY_ID_TEXT_SIZE];
    int rc = VD_OK;
    pthread_mutex_lock(&keys->lock);
    key_entry_t *entry = entry_find(keys, id);
    if (entry == NULL)
        rc = vd_error_set(err, VD_ERR_KEY_MISSING, "no data key with id %s",
                          stor_keys_id_print(id, text));
    else if (entry->state == STOR_KEY_ACTIVE)
        rc = vd_error_set(err, VD_ERR_ILLEGAL_OPERATION, "the active data key can't be destroyed");
    if (rc == VD_OK) {
        entry_wipe(keys, entry);
        atomic_fetch_add(&keys->epoch, 1);
    }
    pthread_mutex_unlock(&keys->lock);
    return rc;
}

uint64_t stor_keys_generation(const stor_keys_t *keys)
{
    return atomic_load(&keys->generation);
}

int stor_keys_active(const stor_keys_t *keys, uint8_t ret_id[STOR_KEY_ID_BYTES], vd_error_t *err)
{
    pthread_mutex_lock((pthread_mutex_t *)&keys->lock);
    const key_entry_t *active = NULL;
    for (int i = 0; i < STOR_KEYS_MAX && active == NULL; i++)
        if (keys->secrets->entries[i].used && keys->secrets->entries[i].state == STOR_KEY_ACTIVE)
            active = &keys->secrets->entries[i];
    if (active != NULL)
        memcpy(ret_id, active->id, STOR_KEY_ID_BYTES);
    pthread_mutex_unlock((pthread_mutex_t *)&keys->lock);
    if (active == NULL)
        return vd_error_set(err, VD_ERR_KEY_MISSING, "no active data key");
    return VD_OK;
}

static bool derive(stor_keys_t *keys, const uint8_t *key, const uint8_t *boot_id, uint8_t *out)
{
    EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(keys->kdf);
    char digest[] = "SHA256", info[] = "veddb block";
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)key, STOR_KEY_BYTES),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, (void *)boot_id, BOOT_ID_BYTES),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info, sizeof info - 1),
        OSSL_PARAM_construct_end(),
    };
    bool ok = ctx != NULL && EVP_KDF_derive(ctx, out, STOR_KEY_BYTES, params) == 1;
    EVP_KDF_CTX_free(ctx);
    return ok;
}

/* Under the lock: the derived key of {key id, boot id}; valid while the lock is held. */
static const uint8_t *derived_get(stor_keys_t *keys, const key_entry_t *entry, const uint8_t *name)
{
    derived_t *oldest = &keys->secrets->derived[0];
    for (int i = 0; i < DERIVED_MAX; i++) {
        derived_t *derived = &keys->secrets->derived[i];
        if (derived->touched != 0 && memcmp(derived->name, name, sizeof derived->name) == 0) {
            derived->touched = ++keys->touch_clock;
            return derived->key;
        }
        if (derived->touched < oldest->touched)
            oldest = derived;
    }
    memcpy(oldest->name, name, sizeof oldest->name);
    oldest->touched = ++keys->touch_clock;
    VD_ASSERT(derive(keys, entry->key, name + STOR_KEY_ID_BYTES, oldest->key));
    return oldest->key;
}

/* Sets up this thread's sealing context for a boot. */
static void seal_prepare(stor_keys_t *keys, thread_state_t *state, const boot_t *boot)
{
    pthread_mutex_lock(&keys->lock);
    const uint8_t *name = boot->prefix + 8;
    const key_entry_t *entry = entry_find(keys, name);
    VD_ASSERT(entry != NULL);
    const uint8_t *key = derived_get(keys, entry, name);
    VD_ASSERT(EVP_EncryptInit_ex2(state->seal_ctx, keys->cipher, key, NULL, NULL) == 1);
    pthread_mutex_unlock(&keys->lock);
    vd_rand_secret(state->nonce_tail, sizeof state->nonce_tail);
    state->counter_next = state->counter_end = 0;
    state->seal_serial = boot->serial;
}

/* Keys have come, changed or gone since this thread last used one: what was derived from those
 * before goes, but what seals now. */
static void contexts_sweep(stor_keys_t *keys, thread_state_t *state, uint64_t epoch)
{
    const boot_t *boot = atomic_load(&keys->boot);
    for (int i = 0; i < THREAD_CONTEXTS; i++) {
        open_context_t *context = &state->contexts[i];
        if (context->keys_serial != keys->serial || context->epoch == epoch)
            continue;
        (void)EVP_CIPHER_CTX_reset(context->ctx); /* wipes it */
        context->keys_serial = 0;
    }
    if (state->seal_serial != 0 && boot != NULL && state->seal_serial != boot->serial) {
        (void)EVP_CIPHER_CTX_reset(state->seal_ctx);
        state->seal_serial = 0;
    }
    state->epoch_seen = epoch;
}

/* A boot with room for another run of counters, set up in this thread; NULL without an active key.
 */
static const boot_t *seal_boot(stor_keys_t *keys, thread_state_t *state)
{
    for (;;) {
        boot_t *boot = atomic_load_explicit(&keys->boot, memory_order_acquire);
        if (boot == NULL)
            return NULL;
        if (state->seal_serial != boot->serial) {
            contexts_sweep(keys, state, atomic_load(&keys->epoch));
            seal_prepare(keys, state, boot);
        }
        if (VD_LIKELY(state->counter_next != state->counter_end))
            return boot;
        uint64_t base = atomic_fetch_add(&boot->counter, COUNTER_RUN);
        if (VD_LIKELY(base + COUNTER_RUN <= BOOT_BLOCKS_MAX)) {
            state->counter_next = base;
            state->counter_end = base + COUNTER_RUN;
            return boot;
        }
        pthread_mutex_lock(&keys->lock);
        if (atomic_load(&keys->boot) == boot)
            boot_renew(keys, boot->prefix + 8);
        pthread_mutex_unlock(&keys->lock);
    }
}

static count_shard_t *count_shard(stor_keys_t *keys, const thread_state_t *state)
{
    return &keys->counts[state->shard];
}

static void count_add(atomic_uint_fast64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

int stor_keys_seal(stor_keys_t *keys, vd_slice_t plain, uint8_t *out, size_t *ret_len,
                   vd_error_t *err)
{
    if (plain.len > INT32_MAX - STOR_BLOCK_OVERHEAD_BYTES)
        return vd_error_set(err, VD_ERR_INVALID, "block of %zu bytes", plain.len);
    thread_state_t *state = thread_state_get();
    const boot_t *boot = seal_boot(keys, state);
    if (VD_UNLIKELY(boot == NULL))
        return vd_error_set(err, VD_ERR_KEY_MISSING, "no active data key");

    memcpy(out, boot->prefix, PREFIX_BYTES);
    vd_put_u64(out + NONCE_OFFSET, state->counter_next++);
    memcpy(out + NONCE_OFFSET + 8, state->nonce_tail, 4);
    int len = 0, ignored = 0;
    EVP_CIPHER_CTX *ctx = state->seal_ctx;
    bool ok = EVP_EncryptInit_ex2(ctx, NULL, NULL, out + NONCE_OFFSET, NULL) == 1 &&
              EVP_EncryptUpdate(ctx, NULL, &ignored, out, AAD_BYTES) == 1 &&
              (plain.len == 0 || EVP_EncryptUpdate(ctx, out + STOR_BLOCK_OVERHEAD_BYTES, &len,
                                                   plain.data, (int)plain.len) == 1) &&
              EVP_EncryptFinal_ex(ctx, out + STOR_BLOCK_OVERHEAD_BYTES + len, &ignored) == 1 &&
              EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG_BYTES, out + AAD_BYTES) == 1;
    if (VD_UNLIKELY(!ok))
        return vd_error_set(err, VD_ERR_ENCRYPTION, "the cipher library refuses to encrypt");
    VD_ASSERT((size_t)len == plain.len);
    count_shard_t *shard = count_shard(keys, state);
    count_add(&shard->sealed_blocks, 1);
    count_add(&shard->sealed_bytes, plain.len);
    *ret_len = plain.len + STOR_BLOCK_OVERHEAD_BYTES;
    return VD_OK;
}

static int open_context_set_up(stor_keys_t *keys, open_context_t *context, const uint8_t *name,
                               uint64_t epoch, vd_error_t *err)
{
    char text[STOR_KEY_ID_TEXT_SIZE];
    int rc = VD_OK;
    pthread_mutex_lock(&keys->lock);
    const key_entry_t *entry = entry_find(keys, name);
    if (entry == NULL) {
        rc = vd_error_set(err, VD_ERR_KEY_MISSING, "no data key with id %s is in the keyring",
                          stor_keys_id_print(name, text));
        goto cleanup;
    }
    if (entry->state == STOR_KEY_DESTROYED) {
        rc = vd_error_set(err, VD_ERR_KEY_DESTROYED, "the data key with id %s was destroyed",
                          stor_keys_id_print(name, text));
        goto cleanup;
    }
    if (context->ctx == NULL)
        context->ctx = EVP_CIPHER_CTX_new();
    VD_ASSERT(context->ctx != NULL);
    const uint8_t *key = derived_get(keys, entry, name);
    VD_ASSERT(EVP_DecryptInit_ex2(context->ctx, keys->cipher, key, NULL, NULL) == 1);
    memcpy(context->name, name, sizeof context->name);
    context->keys_serial = keys->serial;
    context->epoch = epoch;
    context->old = entry->state != STOR_KEY_ACTIVE;
    context->place = (uint32_t)(entry - keys->secrets->entries);
    context->proven = false;
cleanup:
    pthread_mutex_unlock(&keys->lock);
    return rc;
}

static int open_context_get(stor_keys_t *keys, thread_state_t *state, const uint8_t *name,
                            open_context_t **ret_context, vd_error_t *err)
{
    uint64_t epoch = atomic_load_explicit(&keys->epoch, memory_order_acquire);
    open_context_t *oldest = &state->contexts[0];
    if (VD_UNLIKELY(state->epoch_seen != epoch))
        contexts_sweep(keys, state, epoch);
    for (int i = 0; i < THREAD_CONTEXTS; i++) {
        open_context_t *context = &state->contexts[i];
        if (context->keys_serial == keys->serial && context->epoch == epoch &&
            memcmp(context->name, name, sizeof context->name) == 0) {
            context->touched = ++state->touch_clock;
            *ret_context = context;
            return VD_OK;
        }
        if (context->touched < oldest->touched)
            oldest = context;
    }
    oldest->keys_serial = 0;
    int rc = open_context_set_up(keys, oldest, name, epoch, err);
    if (rc != VD_OK)
        return rc;
    oldest->touched = ++state->touch_clock;
    *ret_context = oldest;
    return VD_OK;
}

/* The tag did not fit: the block is damaged, unless no block of an earlier start has ever opened
 * with this key. */
static int open_failed(stor_keys_t *keys, thread_state_t *state, const uint8_t *name,
                       vd_error_t *err)
{
    char text[STOR_KEY_ID_TEXT_SIZE];
    count_add(&count_shard(keys, state)->failed, 1);
    pthread_mutex_lock(&keys->lock);
    const key_entry_t *entry = entry_find(keys, name);
    bool proven = entry != NULL && entry->proven;
    for (const boot_t *boot = atomic_load(&keys->boot); boot != NULL; boot = boot->older)
        proven = proven || memcmp(boot->prefix + 8, name, 32) == 0;
    pthread_mutex_unlock(&keys->lock);
    (void)stor_keys_id_print(name, text);
    if (proven)
        return vd_error_set(err, VD_ERR_CORRUPT, "a block encrypted with data key %s is damaged",
                            text);
    return vd_error_set(err, VD_ERR_KEY_WRONG,
                        "the data key with id %s is not the one the block was encrypted with",
                        text);
}

/* Notes that the key opens blocks it did not seal since the start. */
static void key_prove(stor_keys_t *keys, open_context_t *context)
{
    context->proven = true;
    pthread_mutex_lock(&keys->lock);
    bool own = false;
    for (const boot_t *boot = atomic_load(&keys->boot); boot != NULL; boot = boot->older)
        own = own || memcmp(boot->prefix + 8, context->name, sizeof context->name) == 0;
    key_entry_t *entry = entry_find(keys, context->name);
    if (entry != NULL && !own)
        entry->proven = true;
    pthread_mutex_unlock(&keys->lock);
}

static int open_check(vd_slice_t block, vd_error_t *err)
{
    if (block.len < 8 || memcmp(block.data, BLOCK_MAGIC, 4) != 0)
        return vd_error_set(err, VD_ERR_NOT_ENCRYPTED,
                            "bytes that should be an encrypted block are not");
    if (block.data[4] != BLOCK_VERSION)
        return vd_error_set(err, VD_ERR_UNSUPPORTED_FORMAT,
                            "an encrypted block has version %u; this program reads version %d",
                            block.data[4], BLOCK_VERSION);
    if (block.len < STOR_BLOCK_OVERHEAD_BYTES || block.len > INT32_MAX)
        return vd_error_set(err, VD_ERR_CORRUPT, "an encrypted block of %zu bytes", block.len);
    return VD_OK;
}

int stor_keys_open(stor_keys_t *keys, vd_slice_t block, uint8_t *out, size_t *ret_len,
                   vd_error_t *err)
{
    thread_state_t *state = thread_state_get();
    open_context_t *context = NULL;
    int rc = open_check(block, err);
    if (rc == VD_OK)
        rc = open_context_get(keys, state, block.data + 8, &context, err);
    if (VD_UNLIKELY(rc != VD_OK)) {
        count_add(&count_shard(keys, state)->failed, 1);
        return rc;
    }
    size_t plain_len = block.len - STOR_BLOCK_OVERHEAD_BYTES;
    int len = 0, ignored = 0;
    uint8_t tag[TAG_BYTES];
    memcpy(tag, block.data + AAD_BYTES, TAG_BYTES);
    EVP_CIPHER_CTX *ctx = context->ctx;
    bool ok =
        EVP_DecryptInit_ex2(ctx, NULL, NULL, block.data + NONCE_OFFSET, NULL) == 1 &&
        EVP_DecryptUpdate(ctx, NULL, &ignored, block.data, AAD_BYTES) == 1 &&
        (plain_len == 0 || EVP_DecryptUpdate(ctx, out, &len, block.data + STOR_BLOCK_OVERHEAD_BYTES,
                                             (int)plain_len) == 1) &&
        EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, TAG_BYTES, tag) == 1 &&
        EVP_DecryptFinal_ex(ctx, tag, &ignored) == 1;
    if (VD_UNLIKELY(!ok)) {
        vd_wipe(out, plain_len); /* what is not authentic is not handed on */
        return open_failed(keys, state, block.data + 8, err);
    }
    if (VD_UNLIKELY(!context->proven))
        key_prove(keys, context);
    if (VD_UNLIKELY(context->old)) {
        state->old_blocks++;
        state->old_bytes += plain_len;
        if (state->old_by_key != NULL)
            state->old_by_key[context->place]++;
    }
    count_shard_t *shard = count_shard(keys, state);
    count_add(&shard->opened_blocks, 1);
    count_add(&shard->opened_bytes, plain_len);
    *ret_len = plain_len;
    return VD_OK;
}

int stor_keys_block_key(vd_slice_t block, uint8_t ret_id[STOR_KEY_ID_BYTES], vd_error_t *err)
{
    int rc = open_check(block, err);
    if (rc == VD_OK)
        memcpy(ret_id, block.data + 8, STOR_KEY_ID_BYTES);
    return rc;
}

uint64_t stor_keys_thread_old_blocks(void)
{
    thread_state_t *state = thread_state_get();
    uint64_t n = state->old_blocks;
    state->old_blocks = 0;
    return n;
}

uint64_t stor_keys_thread_old_bytes(void)
{
    thread_state_t *state = thread_state_get();
    uint64_t n = state->old_bytes;
    state->old_bytes = 0;
    return n;
}

void stor_keys_thread_old_by_key(uint64_t counts[STOR_KEYS_MAX])
{
    thread_state_t *state = thread_state_get();
    if (state->old_by_key == NULL)
        state->old_by_key = vd_xalloc(STOR_KEYS_MAX * sizeof *state->old_by_key);
    for (int i = 0; i < STOR_KEYS_MAX; i++)
        counts[i] += state->old_by_key[i];
    memset(state->old_by_key, 0, STOR_KEYS_MAX * sizeof *state->old_by_key);
}

void stor_keys_counter_skip(stor_keys_t *keys, uint64_t blocks)
{
    boot_t *boot = atomic_load(&keys->boot);
    VD_ASSERT(boot != NULL);
    atomic_fetch_add(&boot->counter, blocks);
}

void stor_keys_counts(const stor_keys_t *keys, stor_keys_counts_t *ret_counts)
{
    stor_keys_counts_t sum = {0};
    /* first: what was counted by then is in the sum, whichever key becomes active meanwhile */
    uint64_t before = atomic_load(&keys->sealed_before);
    for (int i = 0; i < COUNT_SHARDS; i++) {
        const count_shard_t *shard = &keys->counts[i];
        sum.sealed_blocks += atomic_load(&shard->sealed_blocks);
        sum.sealed_bytes += atomic_load(&shard->sealed_bytes);
        sum.opened_blocks += atomic_load(&shard->opened_blocks);
        sum.opened_bytes += atomic_load(&shard->opened_bytes);
        sum.failed += atomic_load(&shard->failed);
    }
    sum.sealed_active = sum.sealed_blocks - before;
    *ret_counts = sum;
}
