/* veddb-storaged/pipeline/granularity.c — see granularity.h. The series are those of the standards:
 * Renard numbers, E series, 1-2-5. */
#include "veddb-storaged/pipeline/granularity.h"

#include "libcommon/bson/decimal.h"

#include <math.h>

struct stor_granularity {
    const char *name;
    const uint16_t *series; /* NULL: powers of two */
    uint32_t count;
};

static const uint16_t r5[] = {10, 16, 25, 40, 63};
static const uint16_t r10[] = {100, 125, 160, 200, 250, 315, 400, 500, 630, 800};
static const uint16_t r20[] = {100, 112, 125, 140, 160, 180, 200, 224, 250, 280,
                               315, 355, 400, 450, 500, 560, 630, 710, 800, 900};
static const uint16_t r40[] = {100, 106, 112, 118, 125, 132, 140, 150, 160, 170, 180, 190, 200,
                               212, 224, 236, 250, 265, 280, 300, 315, 355, 375, 400, 425, 450,
                               475, 500, 530, 560, 600, 630, 670, 710, 750, 800, 850, 900, 950};
static const uint16_t r80[] = {103, 109, 115, 122, 128, 136, 145, 155, 165, 175, 185, 195, 206, 218,
                               230, 243, 258, 272, 290, 307, 325, 345, 365, 387, 412, 437, 462, 487,
                               515, 545, 575, 615, 650, 690, 730, 775, 825, 875, 925, 975};
static const uint16_t one_two_five[] = {10, 20, 50};
static const uint16_t e6[] = {10, 15, 22, 33, 47, 68};
static const uint16_t e12[] = {10, 12, 15, 18, 22, 27, 33, 39, 47, 56, 68, 82};
static const uint16_t e24[] = {10, 11, 12, 13, 15, 16, 18, 20, 22, 24, 27, 30,
                               33, 36, 39, 43, 47, 51, 56, 62, 68, 75, 82, 91};
static const uint16_t e48[] = {100, 105, 110, 115, 121, 127, 133, 140, 147, 154, 162, 169,
                               178, 187, 196, 205, 215, 226, 237, 249, 261, 274, 287, 301,
                               316, 332, 348, 365, 383, 402, 422, 442, 464, 487, 511, 536,
                               562, 590, 619, 649, 681, 715, 750, 787, 825, 866, 909, 953};
static const uint16_t e96[] = {100, 102, 105, 107, 110, 113, 115, 118, 121, 124, 127, 130, 133, 137,
                               140, 143, 147, 150, 154, 158, 162, 165, 169, 174, 178, 182, 187, 191,
                               196, 200, 205, 210, 215, 221, 226, 232, 237, 243, 249, 255, 261, 267,
                               274, 280, 287, 294, 301, 309, 316, 324, 332, 340, 348, 357, 365, 374,
                               383, 392, 402, 412, 422, 432, 442, 453, 464, 475, 487, 499, 511, 523,
                               536, 549, 562, 576, 590, 604, 619, 634, 649, 665, 681, 698, 715, 732,
                               750, 768, 787, 806, 825, 845, 866, 887, 909, 931, 953, 976};
static const uint16_t e192[] = {
    100, 101, 102, 104, 105, 106, 107, 109, 110, 111, 113, 114, 115, 117, 118, 120, 121, 123,
    124, 126, 127, 129, 130, 132, 133, 135, 137, 138, 140, 142, 143, 145, 147, 149, 150, 152,
    154, 156, 158, 160, 162, 164, 165, 167, 169, 172, 174, 176, 178, 180, 182, 184, 187, 189,
    191, 193, 196, 198, 200, 203, 205, 208, 210, 213, 215, 218, 221, 223, 226, 229, 232, 234,
    237, 240, 243, 246, 249, 252, 255, 258, 261, 264, 267, 271, 274, 277, 280, 284, 287, 291,
    294, 298, 301, 305, 309, 312, 316, 320, 324, 328, 332, 336, 340, 344, 348, 352, 357, 361,
    365, 370, 374, 379, 383, 388, 392, 397, 402, 407, 412, 417, 422, 427, 432, 437, 442, 448,
    453, 459, 464, 470, 475, 481, 487, 493, 499, 505, 511, 517, 523, 530, 536, 542, 549, 556,
    562, 569, 576, 583, 590, 597, 604, 612, 619, 626, 634, 642, 649, 657, 665, 673, 681, 690,
    698, 706, 715, 723, 732, 741, 750, 759, 768, 777, 787, 796, 806, 816, 825, 835, 845, 856,
    866, 876, 887, 898, 909, 920, 931, 942, 953, 965, 976, 988};

#define SERIES(name_, numbers_)                                                                    \
    {                                                                                              \
        .name = (name_), .series = (numbers_), .count = VD_COUNT_OF(numbers_)                      \
    }
static const stor_granularity_t all[] = {
    SERIES("R5", r5),     SERIES("R10", r10), SERIES("R20", r20),
    SERIES("R40", r40),   SERIES("R80", r80), SERIES("1-2-5", one_two_five),
    SERIES("E6", e6),     SERIES("E12", e12), SERIES("E24", e24),
    SERIES("E48", e48),   SERIES("E96", e96), SERIES("E192", e192),
    {.name = "POWERSOF2"}};

const stor_granularity_t *stor_granularity_find(vd_slice_t name)
{
    for (size_t i = 0; i < VD_COUNT_OF(all); i++)
        if (vd_slice_is(name, all[i].name))
            return &all[i];
    return NULL;
}

static double preferred_up(const stor_granularity_t *g, double number)
{
    double first = g->series[0], last = g->series[g->count - 1], multiplier = 1;
    while (number >= last * multiplier)
        multiplier *= 10;
    while (number < first * multiplier) {
        double least = first * multiplier;
        multiplier /= 10;
        if (number >= last * multiplier || multiplier == 0)
            return least;
    }
    for (uint32_t i = 0; i < g->count; i++)
        if (number < g->series[i] * multiplier)
            return g->series[i] * multiplier;
    return last * multiplier;
}

static double preferred_down(const stor_granularity_t *g, double number)
{
    double first = g->series[0], last = g->series[g->count - 1], multiplier = 1;
    while (number <= first * multiplier && multiplier > 0)
        multiplier /= 10;
    while (number > last * multiplier) {
        double most = last * multiplier;
        multiplier *= 10;
        if (number <= first * multiplier)
            return most;
    }
    for (uint32_t i = g->count; i-- > 0;)
        if (g->series[i] * multiplier < number)
            return g->series[i] * multiplier;
    return first * multiplier;
}

static vd_value_t power_of_two(vd_arena_t *arena, vd_value_t v, bool up)
{
    int exponent;
    int64_t whole;
    if (v.type != VD_BSON_DOUBLE && v.type != VD_BSON_DECIMAL128 && vd_value_as_int64(v, &whole)) {
        int top = 63 - __builtin_clzll((uint64_t)whole);
        bool power = (whole & (whole - 1)) == 0;
        exponent = up ? top + 1 : top - power;
    } else {
        double log = log2(vd_value_as_double(v));
        exponent = (int)(up ? floor(log) + 1 : ceil(log) - 1);
    }
    if (v.type == VD_BSON_DECIMAL128)
        return vd_value_from_decimal(arena, vd_decimal_from_double_exact(ldexp(1, exponent)));
    if (exponent < 0 || exponent > 62)
        return vd_value_from_double(arena, ldexp(1, exponent));
    return exponent < 31 ? vd_value_from_int32(arena, 1 << exponent)
                         : vd_value_from_int64(arena, INT64_C(1) << exponent);
}

vd_value_t stor_granularity_round(const stor_granularity_t *series, vd_arena_t *arena, vd_value_t v,
                                  bool up)
{
    double number = vd_value_as_double(v);
    if (number == 0 || isinf(number))
        return v;
    if (series->series == NULL)
        return power_of_two(arena, v, up);
    double rounded = up ? preferred_up(series, number) : preferred_down(series, number);
    return v.type == VD_BSON_DECIMAL128
               ? vd_value_from_decimal(arena, vd_decimal_from_double(rounded))
               : vd_value_from_double(arena, rounded);
}
