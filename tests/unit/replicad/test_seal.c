/* tests/unit/replicad/test_seal.c — signatures of manifests: keys of every kind, each bit flipped,
 * foreign keys, truncated, of another set, copy, place or manifest. */
#include "veddb-replicad/seal.h"

#include <criterion/criterion.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>

static uint8_t snapshot[16] = {1, 2, 3}, set_id[12] = {4, 5, 6};

typedef struct {
    const char *name;
    EVP_PKEY *(*make)(void);
} kind_t;

static EVP_PKEY *ec(void)
{
    return EVP_EC_gen("P-256");
}
static EVP_PKEY *ec384(void)
{
    return EVP_EC_gen("P-384");
}
static EVP_PKEY *rsa(void)
{
    return EVP_RSA_gen(2048);
}
static EVP_PKEY *ed25519(void)
{
    return EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
}
static const kind_t kinds[] = {{"P-256", ec}, {"P-384", ec384}, {"RSA", rsa}, {"Ed25519", ed25519}};

static vdp_snapshot_opened_t sample(void)
{
    return (vdp_snapshot_opened_t){.snapshot = vd_slice(snapshot, 16),
                                   .position = 0x0102030405060708ull,
                                   .term = 3,
                                   .bytes = 1000,
                                   .documents = 10};
}

static int check(EVP_PKEY *key, const vdp_snapshot_opened_t *opened, vd_slice_t set,
                 vd_slice_t manifest, vd_slice_t signature)
{
    uint8_t text[REPL_SEAL_BYTES];
    repl_seal_text(opened, set, manifest, text);
    return repl_seal_verify(key, vd_slice(text, sizeof text), signature, NULL);
}

Test(seal, only_the_very_text_under_the_very_key)
{
    for (size_t k = 0; k < VD_COUNT_OF(kinds); k++) {
        const char *name = kinds[k].name;
        EVP_PKEY *key = kinds[k].make(), *foreign = kinds[k].make();
        uint8_t text[REPL_SEAL_BYTES], manifest[] = "any bytes at all";
        vd_error_t err = VD_ERROR_INIT;
        vd_slice_t set = vd_slice(set_id, 12), body = vd_slice(manifest, sizeof manifest);
        vdp_snapshot_opened_t opened = sample();
        vd_buf_t out;
        vd_buf_init(&out, VDP_SIGNATURE_MAX);
        repl_seal_text(&opened, set, body, text);
        cr_assert_eq(repl_seal_sign(key, vd_slice(text, sizeof text), &out, &err), VD_OK, "%s: %s",
                     name, err.message);
        vd_slice_t signature = vd_buf_slice(&out);
        cr_assert_eq(check(key, &opened, set, body, signature), VD_OK, "%s", name);
        cr_assert_eq(check(foreign, &opened, set, body, signature), VD_ERR_SNAPSHOT_SIGNATURE);
        cr_assert_eq(check(NULL, &opened, set, body, signature), VD_ERR_SNAPSHOT_SIGNATURE);
        for (size_t len = 0; len < signature.len; len++)
            cr_assert_eq(check(key, &opened, set, body, vd_slice(signature.data, len)),
                         VD_ERR_SNAPSHOT_SIGNATURE, "%s: %zu bytes of it", name, len);
        for (size_t i = 0; i < signature.len; i++) {
            vd_buf_at(&out, i)[0] ^= 1 << (i % 8);
            cr_assert_eq(check(key, &opened, set, body, signature), VD_ERR_SNAPSHOT_SIGNATURE,
                         "%s: byte %zu", name, i);
            vd_buf_at(&out, i)[0] ^= 1 << (i % 8);
        }
        for (size_t i = 0; i < sizeof text; i++) { /* whatever is signed */
            text[i] ^= 1 << (i % 8);
            cr_assert_eq(repl_seal_verify(key, vd_slice(text, sizeof text), signature, NULL),
                         VD_ERR_SNAPSHOT_SIGNATURE, "%s: byte %zu of the text", name, i);
            text[i] ^= 1 << (i % 8);
        }
        vd_buf_done(&out);
        EVP_PKEY_free(key);
        EVP_PKEY_free(foreign);
    }
}

/* Each field is in the text: one that differs is another text. */
Test(seal, what_is_signed)
{
    uint8_t one[REPL_SEAL_BYTES], other[REPL_SEAL_BYTES], id[16] = {9}, set[12] = {9};
    vdp_snapshot_opened_t opened = sample();
    vd_slice_t body = VD_SLICE_LIT("manifest");
    repl_seal_text(&opened, vd_slice(set_id, 12), body, one);
    for (int field = 0; field < 7; field++) {
        opened = sample();
        opened.position += field == 0;
        opened.term += field == 1;
        opened.bytes += field == 2;
        opened.documents += field == 3;
        if (field == 4)
            opened.snapshot = vd_slice(id, 16);
        repl_seal_text(&opened, field == 5 ? vd_slice(set, 12) : vd_slice(set_id, 12),
                       field == 6 ? VD_SLICE_LIT("Manifest") : body, other);
        cr_assert_neq(memcmp(one, other, sizeof one), 0, "field %d", field);
    }
    repl_seal_text(&opened, vd_slice(set_id, 12), VD_SLICE_NULL, other); /* an empty one is one */
}

Test(seal, no_key_no_signature)
{
    vd_buf_t out;
    vd_error_t err = VD_ERROR_INIT;
    vd_buf_init(&out, VDP_SIGNATURE_MAX);
    cr_assert_eq(repl_seal_sign(NULL, VD_SLICE_LIT("text"), &out, &err), VD_ERR_INTERNAL);
    cr_assert_eq(vd_buf_len(&out), 0);
}
