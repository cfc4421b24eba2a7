/* veddb-rotated/audit/format.c — see format.h and docs/audit-format.md. */
#include "veddb-rotated/audit/format.h"

#include "libcommon/base/mem.h"
#include "libcommon/base/rand.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <pthread.h>

#define FORMAT 1

/* ---- hashes ---- */

/* One context a thread: making one costs more than a short hash. */
static pthread_key_t context_key;
static pthread_once_t context_once = PTHREAD_ONCE_INIT;

static void context_free(void *context)
{
    EVP_MD_CTX_free(context);
}

static void context_key_make(void)
{
    VD_ASSERT(pthread_key_create(&context_key, context_free) == 0);
}

static EVP_MD_CTX *context_get(void)
{
    (void)pthread_once(&context_once, context_key_make);
    EVP_MD_CTX *context = pthread_getspecific(context_key);
    if (context == NULL) {
        context = EVP_MD_CTX_new();
        VD_ASSERT(context != NULL && EVP_DigestInit_ex(context, EVP_sha256(), NULL) == 1 &&
                  pthread_setspecific(context_key, context) == 0);
    }
    return context;
}

static void hash3(rot_hash_t *ret_hash, vd_slice_t a, vd_slice_t b, vd_slice_t c)
{
    EVP_MD_CTX *context = context_get();
    VD_ASSERT(EVP_DigestInit_ex(context, NULL, NULL) == 1 &&
              (a.len == 0 || EVP_DigestUpdate(context, a.data, a.len) == 1) &&
              (b.len == 0 || EVP_DigestUpdate(context, b.data, b.len) == 1) &&
              (c.len == 0 || EVP_DigestUpdate(context, c.data, c.len) == 1) &&
              EVP_DigestFinal_ex(context, ret_hash->bytes, NULL) == 1);
}

void rot_hash(rot_hash_t *ret_hash, vd_slice_t a, vd_slice_t b)
{
    hash3(ret_hash, a, b, VD_SLICE_NULL);
}

void rot_tree_leaf(vd_slice_t record, rot_hash_t *ret_hash)
{
    hash3(ret_hash, vd_slice("\0", 1), record, VD_SLICE_NULL);
}

void rot_tree_node(const rot_hash_t *left, const rot_hash_t *right, rot_hash_t *ret_hash)
{
    hash3(ret_hash, vd_slice("\1", 1), vd_slice(left, sizeof *left),
          vd_slice(right, sizeof *right));
}

static unsigned peak_count(uint64_t count)
{
    return (unsigned)__builtin_popcountll(count);
}

void rot_tree_add(rot_tree_t *tree, const rot_hash_t *leaf)
{
    unsigned n = peak_count(tree->count);
    rot_hash_t hash = *leaf;
    for (uint64_t bits = tree->count; (bits & 1) != 0; bits >>= 1)
        rot_tree_node(&tree->peaks[--n], &hash, &hash);
    tree->peaks[n] = hash;
    tree->count++;
}

void rot_tree_root(const rot_tree_t *tree, rot_hash_t *ret_root)
{
    unsigned n = peak_count(tree->count);
    if (n == 0) {
        rot_hash(ret_root, VD_SLICE_NULL, VD_SLICE_NULL);
        return;
    }
    rot_hash_t hash = tree->peaks[--n];
    while (n > 0)
        rot_tree_node(&tree->peaks[--n], &hash, &hash);
    *ret_root = hash;
}

/* ---- packing: one walk for both directions ---- */

typedef struct {
    uint8_t *out; /* NULL: read from in */
    const uint8_t *in;
    bool good;
} walk_t;

static void walk_bytes(walk_t *walk, void *bytes, size_t len)
{
    if (walk->out != NULL)
        memcpy(walk->out, bytes, len), walk->out += len;
    else
        memcpy(bytes, walk->in, len), walk->in += len;
}

static void walk_u32(walk_t *walk, uint32_t *v)
{
    uint8_t bytes[4];
    vd_put_u32(bytes, *v);
    walk_bytes(walk, bytes, sizeof bytes);
    *v = vd_get_u32(bytes);
}

static void walk_u64(walk_t *walk, uint64_t *v)
{
    uint8_t bytes[8];
    vd_put_u64(bytes, *v);
    walk_bytes(walk, bytes, sizeof bytes);
    *v = vd_get_u64(bytes);
}

static void walk_i64(walk_t *walk, int64_t *v)
{
    uint64_t u = (uint64_t)*v;
    walk_u64(walk, &u);
    *v = (int64_t)u;
}

static void walk_hash(walk_t *walk, rot_hash_t *hash)
{
    walk_bytes(walk, hash, sizeof *hash);
}

/* What must stand there. */
static void walk_fixed32(walk_t *walk, uint32_t fixed)
{
    uint32_t v = fixed;
    walk_u32(walk, &v);
    walk->good = walk->good && v == fixed;
}

static void walk_magic(walk_t *walk, const char *magic, uint8_t *log_id)
{
    uint8_t bytes[4];
    memcpy(bytes, magic, 4);
    walk_bytes(walk, bytes, 4);
    walk->good = walk->good && memcmp(bytes, magic, 4) == 0;
    walk_fixed32(walk, FORMAT);
    walk_bytes(walk, log_id, ROT_LOG_ID_BYTES);
}

static bool walk_head(walk_t *walk, rot_head_t *head)
{
    walk_magic(walk, "VDAH", head->log_id);
    walk_u64(walk, &head->number);
    walk_u64(walk, &head->segment);
    walk_u64(walk, &head->offset);
    walk_u64(walk, &head->records);
    walk_u64(walk, &head->segment_records);
    walk_hash(walk, &head->chain);
    walk_hash(walk, &head->last_record);
    walk_hash(walk, &head->root);
    walk_hash(walk, &head->before);
    walk_i64(walk, &head->time_ms);
    walk_u32(walk, &head->epoch);
    walk_u32(walk, &head->flags);
    walk_u64(walk, &head->journal);
    walk_u32(walk, &head->journal_part);
    walk_fixed32(walk, 0);
    walk_u64(walk, &head->events);
    walk_fixed32(walk, 0);
    walk_fixed32(walk, 0);
    return walk->good && head->flags <= ROT_HEAD_CLOSES;
}

static bool walk_public(walk_t *walk, rot_public_t *entry)
{
    walk_magic(walk, "VDAK", entry->log_id);
    walk_u32(walk, &entry->epoch);
    walk_fixed32(walk, 0);
    walk_i64(walk, &entry->time_ms);
    walk_u64(walk, &entry->first_head);
    walk_bytes(walk, entry->key, sizeof entry->key);
    walk_hash(walk, &entry->before);
    return walk->good;
}

static bool walk_tombstone(walk_t *walk, rot_tombstone_t *tombstone)
{
    walk_magic(walk, "VDAT", tombstone->log_id);
    walk_u64(walk, &tombstone->segment);
    walk_u64(walk, &tombstone->record);
    walk_hash(walk, &tombstone->chain);
    walk_u64(walk, &tombstone->head);
    walk_i64(walk, &tombstone->time_ms);
    walk_u32(walk, &tombstone->epoch);
    walk_fixed32(walk, 0);
    return walk->good;
}

static bool walk_start(walk_t *walk, rot_start_t *start)
{
    walk_magic(walk, "VDAS", start->log_id);
    walk_u64(walk, &start->segment);
    walk_u64(walk, &start->records);
    walk_hash(walk, &start->chain);
    walk_hash(walk, &start->last_record);
    walk_i64(walk, &start->time_ms);
    walk_u64(walk, &start->head);
    walk_hash(walk, &start->head_hash);
    walk_bytes(walk, start->key_id, sizeof start->key_id);
    return walk->good;
}

static int sign(uint8_t *bytes, size_t len, const uint8_t *private_key, vd_error_t *err)
{
    size_t size = ROT_SIGNATURE_BYTES;
    EVP_PKEY *key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, private_key, 32);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool good =
        key != NULL && context != NULL && EVP_DigestSignInit(context, NULL, NULL, NULL, key) == 1 &&
        EVP_DigestSign(context, bytes + len, &size, bytes, len) == 1 && size == ROT_SIGNATURE_BYTES;
    EVP_MD_CTX_free(context);
    EVP_PKEY_free(key);
    return good ? VD_OK : vd_error_set(err, VD_ERR_ENCRYPTION, "the cipher library does not sign");
}

bool rot_signed(const uint8_t *bytes, size_t len, const uint8_t public_key[32])
{
    EVP_PKEY *key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, public_key, 32);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool good = len > ROT_SIGNATURE_BYTES && key != NULL && context != NULL &&
                EVP_DigestVerifyInit(context, NULL, NULL, NULL, key) == 1 &&
                EVP_DigestVerify(context, bytes + len - ROT_SIGNATURE_BYTES, ROT_SIGNATURE_BYTES,
                                 bytes, len - ROT_SIGNATURE_BYTES) == 1;
    EVP_MD_CTX_free(context);
    EVP_PKEY_free(key);
    return good;
}

int rot_keypair(uint8_t ret_private[32], uint8_t ret_public[32], vd_error_t *err)
{
    size_t size = 32;
    vd_rand_secret(ret_private, 32);
    EVP_PKEY *key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, ret_private, 32);
    bool good = key != NULL && EVP_PKEY_get_raw_public_key(key, ret_public, &size) == 1;
    EVP_PKEY_free(key);
    return good ? VD_OK : vd_error_set(err, VD_ERR_ENCRYPTION, "no sealing key can be made");
}

int rot_head_pack(const rot_head_t *head, const uint8_t *private_key, uint8_t *out, vd_error_t *err)
{
    rot_head_t copy = *head;
    walk_t walk = {.out = out, .good = true};
    VD_ASSERT(walk_head(&walk, &copy));
    return sign(out, ROT_HEAD_BYTES - ROT_SIGNATURE_BYTES, private_key, err);
}

bool rot_head_unpack(const uint8_t *in, rot_head_t *ret_head)
{
    walk_t walk = {.in = in, .good = true};
    return walk_head(&walk, ret_head);
}

int rot_public_pack(const rot_public_t *entry, const uint8_t *private_key, uint8_t *out,
                    vd_error_t *err)
{
    rot_public_t copy = *entry;
    walk_t walk = {.out = out, .good = true};
    VD_ASSERT(walk_public(&walk, &copy));
    return sign(out, ROT_PUBLIC_BYTES - ROT_SIGNATURE_BYTES, private_key, err);
}

bool rot_public_unpack(const uint8_t *in, rot_public_t *ret_entry)
{
    walk_t walk = {.in = in, .good = true};
    return walk_public(&walk, ret_entry);
}

int rot_tombstone_pack(const rot_tombstone_t *tombstone, const uint8_t *private_key, uint8_t *out,
                       vd_error_t *err)
{
    rot_tombstone_t copy = *tombstone;
    walk_t walk = {.out = out, .good = true};
    VD_ASSERT(walk_tombstone(&walk, &copy));
    return sign(out, ROT_TOMBSTONE_BYTES - ROT_SIGNATURE_BYTES, private_key, err);
}

bool rot_tombstone_unpack(const uint8_t *in, rot_tombstone_t *ret_tombstone)
{
    walk_t walk = {.in = in, .good = true};
    return walk_tombstone(&walk, ret_tombstone);
}

void rot_start_pack(const rot_start_t *start, uint8_t *out)
{
    rot_start_t copy = *start;
    walk_t walk = {.out = out, .good = true};
    VD_ASSERT(walk_start(&walk, &copy));
}

bool rot_start_unpack(const uint8_t *in, rot_start_t *ret_start)
{
    walk_t walk = {.in = in, .good = true};
    return walk_start(&walk, ret_start);
}

/* ---- blocks ---- */

#define BLOCK_AAD 52

static bool derive(const uint8_t *key, const uint8_t *boot_id, uint8_t *out)
{
    char digest[] = "SHA256", info[] = "veddb block";
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    EVP_KDF_CTX *ctx = kdf == NULL ? NULL : EVP_KDF_CTX_new(kdf);
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)key, 32),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, (void *)boot_id, 16),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info, sizeof info - 1),
        OSSL_PARAM_construct_end(),
    };
    bool good = ctx != NULL && EVP_KDF_derive(ctx, out, 32, params) == 1;
    EVP_KDF_CTX_free(ctx);
    EVP_KDF_free(kdf);
    return good;
}

/* Everything but the tag and the ciphertext stands in the block; tag is written or compared. */
static bool gcm(bool encrypt, const uint8_t *key, const uint8_t *head, const uint8_t *in,
                size_t len, uint8_t *out, uint8_t *tag)
{
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int n = 0, done = 0;
    bool good = ctx != NULL &&
                EVP_CipherInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, head + 40, encrypt) == 1 &&
                EVP_CipherUpdate(ctx, NULL, &n, head, BLOCK_AAD) == 1 &&
                (len == 0 || EVP_CipherUpdate(ctx, out, &done, in, (int)len) == 1) &&
                (encrypt || EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, 16, tag) == 1) &&
                EVP_CipherFinal_ex(ctx, out + done, &n) == 1 &&
                (!encrypt || EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, 16, tag) == 1);
    EVP_CIPHER_CTX_free(ctx);
    return good;
}

int rot_sealer_init(rot_sealer_t *sealer, const rot_data_key_t *key, vd_error_t *err)
{
    memcpy(sealer->key_id, key->id, sizeof sealer->key_id);
    vd_rand_secret(sealer->boot_id, sizeof sealer->boot_id);
    sealer->counter = 0;
    return derive(key->key, sealer->boot_id, sealer->derived)
               ? VD_OK
               : vd_error_set(err, VD_ERR_ENCRYPTION, "key derivation failed");
}

int rot_seal(rot_sealer_t *sealer, vd_slice_t plain, uint8_t *out, vd_error_t *err)
{
    memcpy(out, "VDB1\1\0\0\0", 8);
    memcpy(out + 8, sealer->key_id, 16);
    memcpy(out + 24, sealer->boot_id, 16);
    vd_put_u64(out + 40, sealer->counter++);
    vd_rand_secret(out + 48, 4);
    if (!gcm(true, sealer->derived, out, plain.data, plain.len, out + ROT_BLOCK_EXTRA_BYTES,
             out + BLOCK_AAD))
        return vd_error_set(err, VD_ERR_ENCRYPTION, "the cipher library refuses to encrypt");
    return VD_OK;
}

const uint8_t *rot_block_key_id(vd_slice_t block)
{
    bool good = block.len >= ROT_BLOCK_EXTRA_BYTES && memcmp(block.data, "VDB1\1\0\0\0", 8) == 0;
    return good ? block.data + 8 : NULL;
}

int rot_unseal(const rot_data_key_t *key, vd_slice_t block, uint8_t *out, vd_error_t *err)
{
    uint8_t derived[32], tag[16];
    const uint8_t *id = rot_block_key_id(block);
    if (id == NULL)
        return vd_error_set(err, VD_ERR_CORRUPT, "not an encrypted block");
    if (memcmp(id, key->id, sizeof key->id) != 0)
        return vd_error_set(err, VD_ERR_KEY_MISSING, "the block is of another data key");
    memcpy(tag, block.data + BLOCK_AAD, sizeof tag);
    bool good = derive(key->key, block.data + 24, derived) &&
                gcm(false, derived, block.data, block.data + ROT_BLOCK_EXTRA_BYTES,
                    block.len - ROT_BLOCK_EXTRA_BYTES, out, tag);
    vd_wipe(derived, sizeof derived);
    return good ? VD_OK : vd_error_set(err, VD_ERR_CORRUPT, "an encrypted block fails its tag");
}
