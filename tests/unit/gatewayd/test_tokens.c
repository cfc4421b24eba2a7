/* tests/unit/gatewayd/test_tokens.c — our own tokens: made, checked, revoked; what the collection
 * may say. */
#include "libcommon/base/mem.h"
#include "libcommon/bson/build.h"
#include "veddb-gatewayd/auth/tokens.h"

#include <criterion/criterion.h>
#include <stdio.h>

#define NOW_S  1800000000
#define NOW_MS (NOW_S * 1000ll)

static gate_tokens_t *tokens;
static vd_arena_t *arena;
static gate_user_t *alice;
static uint8_t der[GATE_SIGNER_DER_MAX];
static uint32_t der_len;

static const char session[] = "00112233445566778899aabbccddeeff";

static vd_bson_t finish(vd_bb_t *bb)
{
    vd_bson_t document;
    cr_assert_eq(vd_bb_finish(bb, &document, NULL), VD_OK);
    return document;
}

static vd_bson_t key_document(void)
{
    vd_bb_t bb;
    vd_bb_init_arena(&bb, arena, 4096);
    vd_bb_cstr(&bb, "_id", "key");
    vd_bb_binary(&bb, "key", 0, vd_slice(der, der_len));
    vd_bb_date(&bb, "made", NOW_MS);
    return finish(&bb);
}

static vd_bson_t revocation(const char *id, int64_t epoch, int64_t until_ms)
{
    vd_bb_t bb;
    vd_bb_init_arena(&bb, arena, 4096);
    vd_bb_cstr(&bb, "_id", id);
    if (epoch != 0)
        vd_bb_int64(&bb, "epoch", epoch);
    vd_bb_date(&bb, "expiresAt", until_ms);
    return finish(&bb);
}

static gate_user_t *user_with(const char *name, uint8_t user_id)
{
    static const uint8_t secret[32] = {1};
    gate_role_set_t none = {0};
    gate_user_t *user = NULL;
    uint8_t id[16] = {user_id};
    vd_bb_t bb;
    vd_bb_init_arena(&bb, arena, 4096);
    vd_bb_cstr(&bb, "_id", name);
    vd_bb_binary(&bb, "userId", 4, vd_slice(id, sizeof id));
    cr_assert_eq(gate_user_make(vd_slice_str(name), VD_SLICE_LIT("admin"), finish(&bb), &none,
                                secret, &user, NULL),
                 VD_OK);
    return user;
}

static void take(uint64_t epoch, const vd_bson_t *more, uint32_t count)
{
    vd_bson_t all[8] = {key_document()};
    vd_error_t err = VD_ERROR_INIT;
    for (uint32_t i = 0; i < count; i++)
        all[i + 1] = more[i];
    cr_assert_eq(gate_tokens_set(tokens, epoch, all, count + 1, NOW_MS, &err), VD_OK, "%s",
                 err.message);
}

static void setup(void)
{
    gate_token_settings_t settings = {
        .issuer = "veddb", .audience = "set", .access_ms = 900000, .lease_ms = 1000};
    tokens = gate_tokens_create(&settings);
    arena = vd_arena_create();
    cr_assert_eq(gate_signer_make(der, &der_len, NULL), VD_OK);
    alice = user_with("alice", 1);
}

static void teardown(void)
{
    gate_user_drop(&alice);
    gate_tokens_destroy(&tokens);
    vd_arena_destroy(&arena);
}

TestSuite(tokens, .init = setup, .fini = teardown, .timeout = 300);

static vd_buf_t make(int64_t user_epoch)
{
    gate_token_claims_t claims = {.user = alice->name,
                                  .db = alice->db,
                                  .method = VD_SLICE_LIT("pwd"),
                                  .session = session,
                                  .user_epoch = user_epoch,
                                  .now_s = NOW_S};
    vd_buf_t out;
    vd_error_t err = VD_ERROR_INIT;
    vd_buf_init(&out, GATE_JWT_MAX);
    cr_assert_eq(gate_tokens_make(tokens, &claims, alice, &out, &err), VD_OK, "%s", err.message);
    return out;
}

Test(tokens, one_is_made_and_taken)
{
    gate_token_t got;
    take(1, NULL, 0);
    vd_buf_t token = make(7);
    cr_assert(gate_tokens_claimed(tokens, vd_buf_slice(&token)));
    vd_error_t err = VD_ERROR_INIT;
    cr_assert_eq(gate_tokens_verify(tokens, vd_buf_slice(&token), NOW_S, &got, &err), VD_OK, "%s",
                 err.message);
    cr_expect_str_eq(got.principal, "admin.alice");
    cr_expect_str_eq(got.session, session);
    cr_expect_eq(got.user_epoch, 7);
    cr_expect_eq(got.left_s, 900);
    cr_expect(gate_tokens_holds(tokens, &got, alice));
    cr_expect_eq(gate_tokens_verify(tokens, vd_buf_slice(&token), NOW_S + 899, &got, NULL), VD_OK);
    cr_expect_neq(gate_tokens_verify(tokens, vd_buf_slice(&token), NOW_S + 900, &got, NULL), VD_OK);
    cr_expect_neq(gate_tokens_verify(tokens, vd_buf_slice(&token), NOW_S - 61, &got, NULL), VD_OK);
    vd_buf_done(&token);
}

Test(tokens, what_is_revoked)
{
    gate_token_t got, again;
    take(1, NULL, 0);
    vd_buf_t token = make(7);
    cr_assert_eq(gate_tokens_verify(tokens, vd_buf_slice(&token), NOW_S, &got, NULL), VD_OK);
    char jti[sizeof got.id + 8];
    (void)snprintf(jti, sizeof jti, "jti:%s", got.id);
    const struct {
        vd_bson_t document;
        bool revoked;
    } cases[] = {
        {revocation(jti, 0, NOW_MS + 1), true},
        {revocation(jti, 0, NOW_MS), false}, /* that was over anyway */
        {revocation("jti:other", 0, NOW_MS + 1), false},
        {revocation("session:00112233445566778899aabbccddeeff", 0, NOW_MS + 1), true},
        {revocation("session:00112233445566778899aabbccddeef0", 0, NOW_MS + 1), false},
        {revocation("user:admin.alice", 8, NOW_MS + 1), true},
        {revocation("user:admin.alice", 7, NOW_MS + 1), false}, /* it is of that epoch */
        {revocation("user:admin.alice", 8, NOW_MS - 1), false},
        {revocation("user:test.alice", 8, NOW_MS + 1), false},
        {revocation("user:admin.alice", -1, NOW_MS + 1), false},
    };
    for (uint32_t i = 0; i < VD_COUNT_OF(cases); i++) {
        take(i + 2, &cases[i].document, 1);
        cr_expect_eq(gate_tokens_holds(tokens, &got, alice), !cases[i].revoked, "case %u", i);
        cr_expect_eq(gate_tokens_verify(tokens, vd_buf_slice(&token), NOW_S, &again, NULL) == VD_OK,
                     !cases[i].revoked, "case %u", i);
    }
    vd_buf_done(&token);
}

Test(tokens, another_key_ends_all)
{
    gate_token_t got, again;
    take(1, NULL, 0);
    vd_buf_t token = make(0);
    cr_assert_eq(gate_tokens_verify(tokens, vd_buf_slice(&token), NOW_S, &got, NULL), VD_OK);
    cr_assert_eq(gate_signer_make(der, &der_len, NULL), VD_OK);
    take(2, NULL, 0);
    cr_expect_not(gate_tokens_holds(tokens, &got, alice));
    cr_expect_neq(gate_tokens_verify(tokens, vd_buf_slice(&token), NOW_S, &again, NULL), VD_OK);
    vd_buf_done(&token);
}

Test(tokens, a_user_who_is_another_now)
{
    gate_token_t got;
    take(1, NULL, 0);
    vd_buf_t token = make(0);
    cr_assert_eq(gate_tokens_verify(tokens, vd_buf_slice(&token), NOW_S, &got, NULL), VD_OK);
    gate_user_t *other = user_with("alice", 2);
    cr_expect_not(gate_tokens_holds(tokens, &got, other), "dropped and made anew");
    gate_user_drop(&other);
    other = user_with("alice", 1);
    cr_expect(gate_tokens_holds(tokens, &got, other));
    other->known = false;
    cr_expect_not(gate_tokens_holds(tokens, &got, other));
    gate_user_drop(&other);
    vd_buf_done(&token);
}

Test(tokens, an_older_look_does_not_come_back)
{
    vd_bson_t more = revocation("jti:x", 0, NOW_MS + 1);
    take(5, &more, 1);
    cr_expect_eq(gate_tokens_revoked(tokens), 1);
    take(4, NULL, 0);
    cr_expect_eq(gate_tokens_revoked(tokens), 1);
    cr_expect_eq(gate_tokens_epoch(tokens), 5);
}

Test(tokens, other_forms_of_the_collection)
{
    vd_bb_t bb;
    vd_error_t err = VD_ERROR_INIT;
    take(1, NULL, 0);
    vd_bb_init_arena(&bb, arena, 4096);
    vd_bb_cstr(&bb, "_id", "key");
    vd_bb_binary(&bb, "key", 0, VD_SLICE_LIT("no key"));
    vd_bb_date(&bb, "made", 1);
    vd_bson_t broken = finish(&bb);
    cr_expect_eq(gate_tokens_set(tokens, 2, &broken, 1, NOW_MS, &err), VD_ERR_CORRUPT);
    cr_expect_eq(gate_tokens_epoch(tokens), 1, "what was known stays");
    vd_bb_init_arena(&bb, arena, 4096);
    vd_bb_int32(&bb, "_id", 5);
    vd_bson_t strange = finish(&bb);
    take(3, &strange, 1);
    cr_expect_eq(gate_tokens_revoked(tokens), 0);
}

Test(tokens, freshness)
{
    static const struct {
        uint64_t fresh_ms, now_ms;
        bool is;
    } cases[] = {
        {UINT64_MAX, 5, true}, {0, 5, false},       {0, 100000, false}, {1000, 1000, true},
        {1000, 2000, true},    {1000, 2001, false}, {3000, 2001, true},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++)
        cr_expect_eq(gate_tokens_fresh(tokens, cases[i].fresh_ms, cases[i].now_ms), cases[i].is,
                     "case %zu", i);
}

Test(tokens, without_a_key)
{
    gate_token_t got;
    uint8_t mac[GATE_SIGNER_MAC_BYTES];
    vd_buf_t out;
    gate_token_claims_t claims = {.user = alice->name, .db = alice->db, .session = session};
    vd_buf_init(&out, 1024);
    cr_expect_eq(gate_tokens_make(tokens, &claims, alice, &out, NULL), VD_ERR_NOT_FOUND);
    cr_expect_not(gate_tokens_mac(tokens, "x", VD_SLICE_LIT("y"), mac));
    cr_expect_eq(gate_tokens_verify(tokens, VD_SLICE_LIT("a.b.c"), NOW_S, &got, NULL),
                 VD_ERR_AUTHENTICATION_FAILED);
    cr_expect_eq(gate_tokens_jwks(tokens, &out), VD_OK);
    cr_expect(vd_slice_is(vd_buf_slice(&out), "{\"keys\":[]}"));
    vd_buf_done(&out);
}

Test(tokens, the_public_key_has_no_private_part)
{
    vd_buf_t out;
    take(1, NULL, 0);
    vd_buf_init(&out, 1024);
    cr_assert_eq(gate_tokens_jwks(tokens, &out), VD_OK);
    cr_assert_eq(vd_buf_append(&out, "", 1), VD_OK);
    cr_expect_null(strstr((const char *)vd_buf_at(&out, 0), "\"d\""));
    gate_jwks_t *keys = NULL;
    cr_expect_eq(gate_jwks_parse(vd_slice(vd_buf_at(&out, 0), vd_buf_len(&out) - 1), &keys, NULL),
                 VD_OK);
    gate_jwks_destroy(&keys);
    vd_buf_done(&out);
}

Test(tokens, names_are_quoted)
{
    gate_token_t got;
    take(1, NULL, 0);
    gate_user_t *odd = user_with("a\"b\\c\n.d@e", 3), *was = alice;
    alice = odd;
    vd_buf_t token = make(0);
    alice = was;
    cr_assert_eq(gate_tokens_verify(tokens, vd_buf_slice(&token), NOW_S, &got, NULL), VD_OK);
    cr_expect_str_eq(got.principal, "admin.a\"b\\c\n.d@e");
    gate_user_drop(&odd);
    vd_buf_done(&token);
}
