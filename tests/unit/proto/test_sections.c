/* tests/unit/proto/test_sections.c — sections of an OP_MSG as hostile clients send them. */
#include "proto/sections.h"

#include <criterion/criterion.h>
#include <stdlib.h>

/* {} and {a: 1}; the kind byte of a body. */
#define EMPTY 0x05, 0x00, 0x00, 0x00, 0x00
#define A_ONE 0x0c, 0x00, 0x00, 0x00, 0x10, 'a', 0x00, 0x01, 0x00, 0x00, 0x00, 0x00

static const struct {
    const char *what;
    uint8_t bytes[80];
    size_t len;
    bool good;
    uint32_t sequences, first_count;
} cases[] = {
    {"a body", {0, A_ONE}, 13, true, 0, 0},
    {"a body and an empty sequence", {0, A_ONE, 1, 6, 0, 0, 0, 'd', 0}, 20, true, 1, 0},
    {"a sequence of two", {0, A_ONE, 1, 16, 0, 0, 0, 'd', 0, EMPTY, EMPTY}, 30, true, 1, 2},
    {"the sequence first", {1, 11, 0, 0, 0, 'd', 0, EMPTY, 0, A_ONE}, 25, true, 1, 1},
    {"two sequences", {0, EMPTY, 1, 6, 0, 0, 0, 'd', 0, 1, 6, 0, 0, 0, 'e', 0}, 20, true, 2, 0},
    {"nothing", {0}, 0, false, 0, 0},
    {"only a kind", {0}, 1, false, 0, 0},
    {"no body", {1, 6, 0, 0, 0, 'd', 0}, 7, false, 0, 0},
    {"two bodies", {0, EMPTY, 0, EMPTY}, 12, false, 0, 0},
    {"kind 2", {0, EMPTY, 2, EMPTY}, 12, false, 0, 0},
    {"body longer than the bytes",
     {0, 0x0d, 0, 0, 0, 0x10, 'a', 0, 1, 0, 0, 0, 0},
     13,
     false,
     0,
     0},
    {"body of length 4", {0, 4, 0, 0, 0}, 5, false, 0, 0},
    {"body of negative length", {0, 0xff, 0xff, 0xff, 0xff, 0}, 6, false, 0, 0},
    {"body without its final NUL", {0, 5, 0, 0, 0, 1}, 6, false, 0, 0},
    {"trailing byte", {0, EMPTY, 9}, 7, false, 0, 0},
    {"sequence size 0", {0, EMPTY, 1, 0, 0, 0, 0, 'd', 0}, 13, false, 0, 0},
    {"sequence size 4", {0, EMPTY, 1, 4, 0, 0, 0, 'd', 0}, 13, false, 0, 0},
    {"sequence size of 4 GiB", {0, EMPTY, 1, 0xff, 0xff, 0xff, 0xff, 'd', 0}, 13, false, 0, 0},
    {"sequence size one too large", {0, EMPTY, 1, 7, 0, 0, 0, 'd', 0}, 13, false, 0, 0},
    {"sequence size cut", {0, EMPTY, 1, 7, 0}, 9, false, 0, 0},
    {"name without a NUL", {0, EMPTY, 1, 6, 0, 0, 0, 'd', 'd'}, 13, false, 0, 0},
    {"name without a letter", {0, EMPTY, 1, 5, 0, 0, 0, 0}, 12, false, 0, 0},
    {"half a document", {0, EMPTY, 1, 9, 0, 0, 0, 'd', 0, 5, 0, 0}, 15, false, 0, 0},
    {"a document over the sequence's end",
     {0, EMPTY, 1, 11, 0, 0, 0, 'd', 0, 6, 0, 0, 0, 0, 0},
     19,
     false,
     0,
     0},
    {"one name twice", {0, EMPTY, 1, 6, 0, 0, 0, 'd', 0, 1, 6, 0, 0, 0, 'd', 0}, 20, false, 0, 0},
    {"the name is a field of the body", {0, A_ONE, 1, 6, 0, 0, 0, 'a', 0}, 20, false, 0, 0},
    {"five sequences",
     {0, EMPTY, 1,   6, 0, 0, 0, 'a', 0, 1,   6, 0, 0, 0, 'b', 0, 1,   6, 0,
      0, 0,     'c', 0, 1, 6, 0, 0,   0, 'd', 0, 1, 6, 0, 0,   0, 'e', 0},
     41,
     false,
     0,
     0},
};

Test(sections, table)
{
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vdp_sections_t sections;
        vd_error_t err = VD_ERROR_INIT;
        uint8_t *copy = malloc(cases[i].len == 0 ? 1 : cases[i].len);
        memcpy(copy, cases[i].bytes, cases[i].len);
        int rc = vdp_sections_parse(vd_slice(copy, cases[i].len), &sections, &err);
        cr_assert_eq(rc == VD_OK, cases[i].good, "%s: %s", cases[i].what, err.message);
        if (rc == VD_OK) {
            cr_assert_eq(sections.sequence_count, cases[i].sequences, "%s", cases[i].what);
            if (cases[i].sequences > 0)
                cr_assert_eq(sections.sequences[0].count, cases[i].first_count, "%s",
                             cases[i].what);
        }
        free(copy);
    }
}

Test(sections, walk_and_find)
{
    static const uint8_t bytes[] = {0, A_ONE, 1, 23, 0, 0, 0, 'd', 0, A_ONE, EMPTY};
    vdp_sections_t sections;
    cr_assert_eq(vdp_sections_parse(vd_slice(bytes, sizeof bytes), &sections, NULL), VD_OK);
    cr_assert_null(vdp_sections_sequence(&sections, "documents"));
    const vdp_sequence_t *sequence = vdp_sections_sequence(&sections, "d");
    cr_assert_not_null(sequence);
    size_t position = 0;
    vd_bson_t document;
    cr_assert(vdp_sequence_next(sequence, &position, &document));
    cr_assert_eq(document.len, 12);
    cr_assert(vdp_sequence_next(sequence, &position, &document));
    cr_assert_eq(document.len, 5);
    cr_assert_not(vdp_sequence_next(sequence, &position, &document));
}

Test(sections, every_truncation_is_refused)
{
    static const uint8_t bytes[] = {0, A_ONE, 1, 16, 0, 0, 0, 'd', 0, EMPTY, EMPTY};
    for (size_t len = 0; len < sizeof bytes; len++) {
        vdp_sections_t sections;
        uint8_t *copy = malloc(len == 0 ? 1 : len);
        memcpy(copy, bytes, len);
        int rc = vdp_sections_parse(vd_slice(copy, len), &sections, NULL);
        cr_assert_eq(rc == VD_OK, len == 13, "cut at %zu", len); /* 13: the body alone */
        free(copy);
    }
}
