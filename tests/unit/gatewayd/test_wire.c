/* tests/unit/gatewayd/test_wire.c — bytes of the wire protocol: whole, cut at every place, and
 * hostile. */
#include "veddb-gatewayd/compress.h"
#include "veddb-gatewayd/wire.h"

#include "libcommon/base/rand.h"
#include "libcommon/bson/build.h"

#include <criterion/criterion.h>
#include <stdlib.h>

static uint8_t document_bytes[200];
static vd_slice_t document;

static void setup(void)
{
    vd_bb_t bb;
    vd_bson_t made;
    vd_bb_init(&bb, sizeof document_bytes);
    vd_bb_int32(&bb, "ping", 1);
    vd_bb_cstr(&bb, "$db", "admin");
    cr_assert_eq(vd_bb_finish(&bb, &made, NULL), VD_OK);
    memcpy(document_bytes, made.data, made.len);
    document = vd_slice(document_bytes, made.len);
    vd_bb_done(&bb);
}

TestSuite(wire, .init = setup);

static int parse(vd_slice_t bytes, gate_wire_message_t *message)
{
    gate_wire_header_t header;
    int rc = gate_wire_header(bytes, VD_WIRE_MESSAGE_MAX_BYTES, &header, NULL);
    if (rc != VD_OK)
        return rc;
    if (header.length != bytes.len)
        return VD_ERR_PROTOCOL;
    return gate_wire_parse(&header, vd_slice(bytes.data + 16, bytes.len - 16), message, NULL);
}

Test(wire, crc32c_known_values)
{
    static const uint8_t zeroes[32];
    cr_expect_eq(gate_wire_crc32c(0, VD_SLICE_LIT("123456789")), 0xE3069283u);
    cr_expect_eq(gate_wire_crc32c(0, vd_slice(zeroes, 32)), 0x8A9136AAu);
    cr_expect_eq(gate_wire_crc32c(gate_wire_crc32c(0, VD_SLICE_LIT("12345")), VD_SLICE_LIT("6789")),
                 0xE3069283u);
}

Test(wire, message_written_is_read)
{
    vd_buf_t out;
    gate_wire_message_t message;
    vd_buf_init(&out, 10000);
    cr_assert_eq(gate_wire_write_msg(&out, 7, 8, GATE_MSG_MORE_TO_COME, document), VD_OK);
    cr_assert_eq(parse(vd_buf_slice(&out), &message), VD_OK);
    cr_expect_eq(message.flags, GATE_MSG_MORE_TO_COME);
    cr_expect_eq(message.sections.body.len, document.len);
    /* Cut anywhere it is refused; so is anything behind it. */
    vd_slice_t whole = vd_buf_slice(&out);
    for (size_t len = 0; len < whole.len; len++) {
        uint8_t *copy = malloc(len + 1);
        memcpy(copy, whole.data, len);
        if (len >= 4)
            vd_put_u32(copy, (uint32_t)len);
        cr_expect_neq(parse(vd_slice(copy, len), &message), VD_OK, "cut at %zu", len);
        free(copy);
    }
    vd_buf_done(&out);
}

Test(wire, flags_known_and_unknown)
{
    for (unsigned bit = 0; bit < 32; bit++) {
        vd_buf_t out;
        gate_wire_message_t message;
        vd_buf_init(&out, 10000);
        cr_assert_eq(gate_wire_write_msg(&out, 1, 0, 1u << bit, document), VD_OK);
        int rc = parse(vd_buf_slice(&out), &message);
        /* 0 promises a checksum that isn't there, 1 is known, 2 to 15 are required and unknown, the
         * rest is optional. */
        cr_expect_eq(rc, bit == 1 || bit >= 16 ? VD_OK : VD_ERR_PROTOCOL, "bit %u", bit);
        vd_buf_done(&out);
    }
}

Test(wire, checksum_is_verified)
{
    vd_buf_t out;
    gate_wire_message_t message;
    vd_buf_init(&out, 10000);
    cr_assert_eq(gate_wire_write_msg(&out, 1, 0, GATE_MSG_CHECKSUM_PRESENT, document), VD_OK);
    vd_put_u32(vd_buf_at(&out, 0), (uint32_t)vd_buf_len(&out) + 4);
    uint32_t crc = gate_wire_crc32c(0, vd_buf_slice(&out));
    cr_assert_eq(vd_buf_append_u32(&out, crc), VD_OK);
    cr_expect_eq(parse(vd_buf_slice(&out), &message), VD_OK);
    cr_expect_eq(message.section_bytes.len, document.len + 1, "the checksum does not travel on");
    for (size_t i = 4; i < vd_buf_len(&out); i++) {
        *vd_buf_at(&out, i) ^= 0x40;
        cr_expect_neq(parse(vd_buf_slice(&out), &message), VD_OK, "byte %zu", i);
        *vd_buf_at(&out, i) ^= 0x40;
    }
    vd_buf_done(&out);
}

Test(wire, lengths_at_the_limits)
{
    static const struct {
        uint32_t length, max;
        int rc;
    } cases[] = {{0, 100, VD_ERR_PROTOCOL},
                 {15, 100, VD_ERR_PROTOCOL},
                 {16, 100, VD_OK},
                 {100, 100, VD_OK},
                 {101, 100, VD_ERR_PROTOCOL},
                 {48000000, VD_WIRE_MESSAGE_MAX_BYTES, VD_OK},
                 {48000001, VD_WIRE_MESSAGE_MAX_BYTES, VD_ERR_PROTOCOL},
                 {UINT32_MAX, VD_WIRE_MESSAGE_MAX_BYTES, VD_ERR_PROTOCOL},
                 {0x80000010u, VD_WIRE_MESSAGE_MAX_BYTES, VD_ERR_PROTOCOL}};
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        uint8_t bytes[16] = {0};
        gate_wire_header_t header;
        vd_put_u32(bytes, cases[i].length);
        cr_expect_eq(gate_wire_header(vd_slice(bytes, 16), cases[i].max, &header, NULL),
                     cases[i].rc, "case %zu", i);
    }
    cr_expect_eq(gate_wire_header(VD_SLICE_LIT("123"), 100, &(gate_wire_header_t){0}, NULL),
                 VD_ERR_PROTOCOL);
}

static int query(const char *ns, size_t ns_len, vd_slice_t first, vd_slice_t second,
                 gate_wire_message_t *message)
{
    vd_buf_t out;
    vd_buf_init(&out, 10000);
    cr_assert_eq(vd_buf_append_u32(&out, 0), VD_OK);
    cr_assert_eq(vd_buf_append(&out, ns, ns_len), VD_OK);
    cr_assert_eq(vd_buf_append_u64(&out, 0), VD_OK);
    cr_assert_eq(vd_buf_append_slice(&out, first), VD_OK);
    cr_assert_eq(vd_buf_append_slice(&out, second), VD_OK);
    gate_wire_header_t header = {.op = GATE_OP_QUERY};
    static uint8_t kept[20000];
    memcpy(kept, vd_buf_slice(&out).data, vd_buf_len(&out));
    int rc = gate_wire_parse(&header, vd_slice(kept, vd_buf_len(&out)), message, NULL);
    vd_buf_done(&out);
    return rc;
}

Test(wire, legacy_queries)
{
    gate_wire_message_t message;
    char long_name[400];
    memset(long_name, 'a', sizeof long_name);
    cr_expect_eq(query("admin.$cmd", 11, document, VD_SLICE_NULL, &message), VD_OK);
    cr_expect(vd_slice_is(message.db, "admin"));
    cr_expect_eq(query("a.b.$cmd", 9, document, document, &message), VD_OK);
    cr_expect(vd_slice_is(message.db, "a.b"));
    cr_expect_eq(query(".$cmd", 6, document, VD_SLICE_NULL, &message), VD_ERR_PROTOCOL);
    cr_expect_eq(query("admin.x", 8, document, VD_SLICE_NULL, &message), VD_ERR_PROTOCOL);
    cr_expect_eq(query("admin.$cmd", 10, VD_SLICE_NULL, VD_SLICE_NULL, &message), VD_ERR_PROTOCOL);
    cr_expect_eq(query("admin.$cmd", 11, document, VD_SLICE_LIT("abc"), &message), VD_ERR_PROTOCOL);
    cr_expect_eq(
        query("admin.$cmd", 11, VD_SLICE_LIT("\x04\x00\x00\x00\x00"), VD_SLICE_NULL, &message),
        VD_ERR_PROTOCOL);
    cr_expect_eq(query(long_name, sizeof long_name, document, VD_SLICE_NULL, &message),
                 VD_ERR_PROTOCOL);
}

Test(wire, other_operations_are_refused)
{
    static const int32_t ops[] = {0,    1,    1000, 2001, 2002, 2003, 2005,
                                  2006, 2007, 2010, 2011, 2012, 2014, -1};
    gate_wire_message_t message;
    for (size_t i = 0; i < VD_COUNT_OF(ops); i++) {
        gate_wire_header_t header = {.op = ops[i]};
        cr_expect_eq(gate_wire_parse(&header, document, &message, NULL), VD_ERR_PROTOCOL, "%d",
                     ops[i]);
    }
}

Test(wire, compression_there_and_back)
{
    static const size_t sizes[] = {0, 1, 100, 65536, 1000000};
    for (uint8_t id = 0; id < GATE_COMPRESSOR_COUNT; id++) {
        for (size_t s = 0; s < VD_COUNT_OF(sizes); s++) {
            uint8_t *plain = calloc(1, sizes[s] + 1), *back = calloc(1, sizes[s] + 1);
            vd_buf_t out;
            for (size_t i = 0; i < sizes[s]; i++)
                plain[i] = (uint8_t)(i * i >> 7);
            vd_buf_init(&out, 4000000);
            cr_assert_eq(gate_compress(id, vd_slice(plain, sizes[s]), &out, NULL), VD_OK);
            cr_expect_eq(gate_decompress(id, vd_buf_slice(&out), back, sizes[s], NULL), VD_OK,
                         "%u %zu", id, sizes[s]);
            cr_expect_eq(memcmp(plain, back, sizes[s]), 0);
            /* The announced size must be exact. */
            if (sizes[s] > 0)
                cr_expect_eq(gate_decompress(id, vd_buf_slice(&out), back, sizes[s] - 1, NULL),
                             VD_ERR_PROTOCOL, "%u %zu", id, sizes[s]);
            uint8_t *wide = calloc(1, sizes[s] + 2);
            cr_expect_eq(gate_decompress(id, vd_buf_slice(&out), wide, sizes[s] + 1, NULL),
                         VD_ERR_PROTOCOL, "%u %zu", id, sizes[s]);
            free(wide);
            vd_buf_done(&out);
            free(plain);
            free(back);
        }
    }
    cr_expect_eq(gate_decompress(4, document, document_bytes, 10, NULL), VD_ERR_PROTOCOL);
}

/* A small message that unpacks to far more than it says, or says more than it may. */
Test(wire, compression_bombs)
{
    uint8_t *zeroes = calloc(1, 30000000), small[1000];
    for (uint8_t id = 1; id < GATE_COMPRESSOR_COUNT; id++) {
        vd_buf_t out;
        vd_buf_init(&out, 64000000);
        cr_assert_eq(gate_compress(id, vd_slice(zeroes, 30000000), &out, NULL), VD_OK);
        cr_expect_eq(gate_decompress(id, vd_buf_slice(&out), small, sizeof small, NULL),
                     VD_ERR_PROTOCOL);
        vd_buf_done(&out);
    }
    free(zeroes);
    uint8_t head[20] = {0};
    gate_wire_compressed_t packed;
    vd_put_u32(head, GATE_OP_MSG);
    head[8] = GATE_COMPRESSOR_ZLIB;
    static const struct {
        uint32_t size, max;
        int rc;
    } cases[] = {{64 * 1024 - 16, 64 * 1024, VD_OK},
                 {64 * 1024 - 15, 64 * 1024, VD_ERR_PROTOCOL},
                 {UINT32_MAX, 48000000, VD_ERR_PROTOCOL},
                 {0x7FFFFFFF, 48000000, VD_ERR_PROTOCOL}};
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_put_u32(head + 4, cases[i].size);
        cr_expect_eq(gate_wire_compressed(vd_slice(head, sizeof head), cases[i].max, &packed, NULL),
                     cases[i].rc, "case %zu", i);
    }
    cr_expect_eq(gate_wire_compressed(vd_slice(head, 8), 48000000, &packed, NULL), VD_ERR_PROTOCOL);
    vd_put_u32(head, GATE_OP_COMPRESSED);
    vd_put_u32(head + 4, 5);
    cr_expect_eq(gate_wire_compressed(vd_slice(head, sizeof head), 48000000, &packed, NULL),
                 VD_ERR_PROTOCOL);
}

Test(wire, random_bytes_are_never_trusted)
{
    vd_rand_t rand;
    gate_wire_message_t message;
    vd_rand_seed(&rand, 42);
    for (int round = 0; round < 200000; round++) {
        size_t len = 16 + vd_rand_below(&rand, 80);
        uint8_t *bytes = malloc(len); /* exact, so that a read outside is seen */
        for (size_t i = 0; i < len; i++)
            bytes[i] = (uint8_t)(vd_rand_below(&rand, 3) == 0 ? vd_rand_u64(&rand) : 0);
        vd_put_u32(bytes, (uint32_t)len);
        vd_put_u32(bytes + 12, vd_rand_below(&rand, 2) == 0 ? GATE_OP_MSG : GATE_OP_QUERY);
        if (len > 30 && vd_rand_below(&rand, 2) == 0)
            vd_put_u32(bytes + 21, (uint32_t)(len - 21));
        if (parse(vd_slice(bytes, len), &message) == VD_OK)
            cr_assert_leq(message.sections.body.len, len);
        uint8_t out[100];
        (void)!gate_decompress((uint8_t)vd_rand_below(&rand, 5), vd_slice(bytes, len), out,
                               vd_rand_below(&rand, sizeof out), NULL);
        free(bytes);
    }
}

Test(wire, names_of_compressors)
{
    uint8_t id;
    cr_expect(gate_compressor_by_name(VD_SLICE_LIT("snappy"), &id) && id == GATE_COMPRESSOR_SNAPPY);
    cr_expect_not(gate_compressor_by_name(VD_SLICE_LIT("Snappy"), &id));
}
