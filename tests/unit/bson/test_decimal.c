/* tests/unit/bson/test_decimal.c — Decimal128: text, rounding, arithmetic, exact comparison. */
#include "libcommon/bson/decimal.h"

#include <criterion/criterion.h>
#include <float.h>
#include <math.h>

static vd_decimal_t dec(const char *s)
{
    vd_decimal_t d;
    cr_assert(vd_decimal_from_string(vd_slice_str(s), &d), "%s", s);
    return d;
}

static void check(vd_decimal_t d, const char *want)
{
    char text[64];
    vd_decimal_to_string(d, text);
    cr_assert_str_eq(text, want);
}

Test(decimal, text)
{
    static const char *const cases[][2] = {
        {"0", "0"},
        {"-0", "-0"},
        {"0.00", "0.00"},
        {"1.50", "1.50"},
        {"-12", "-12"},
        {"+7", "7"},
        {"1E3", "1E+3"},
        {"1.5e-7", "1.5E-7"},
        {"0.000001", "0.000001"},
        {"0.0000001", "1E-7"},
        {".5", "0.5"},
        {"5.", "5"},
        {"NaN", "NaN"},
        {"-nan", "NaN"},
        {"inf", "Infinity"},
        {"-INFINITY", "-Infinity"},
        {"1E+6144", "1.000000000000000000000000000000000E+6144"},
        {"1E+6145", "Infinity"},
        {"-1E+99999999999", "-Infinity"},
        {"1E-6176", "1E-6176"},
        {"4E-6177", "0E-6176"},
        {"6E-6177", "1E-6176"},
        {"5E-6177", "0E-6176"},
        {"15E-6177", "2E-6176"},
        {"1E-99999999999", "0E-6176"},
        {"0E+99999", "0E+6111"},
        {"1234567890123456789012345678901234", "1234567890123456789012345678901234"},
        {"12345678901234567890123456789012345", "1.234567890123456789012345678901234E+34"},
        {"12345678901234567890123456789012355", "1.234567890123456789012345678901236E+34"},
        {"123456789012345678901234567890123450000001", "1.234567890123456789012345678901235E+41"},
        {"99999999999999999999999999999999995", "1.000000000000000000000000000000000E+35"},
        {"000000000000000000000000000000000000000000000000001", "1"}};
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++)
        check(dec(cases[i][0]), cases[i][1]);
    static const char *const bad[] = {"",    "-",  ".",  "e5", "1e",   "1e+", "1.2.3",
                                      "0x1", " 1", "1 ", "in", "infx", "--1"};
    for (size_t i = 0; i < VD_COUNT_OF(bad); i++) {
        vd_decimal_t d = {7, 7};
        cr_assert_not(vd_decimal_from_string(vd_slice_str(bad[i]), &d), "%s", bad[i]);
        cr_assert(d.lo == 7 && d.hi == 7);
    }
}

Test(decimal, conversions)
{
    check(vd_decimal_from_int64(INT64_MIN), "-9223372036854775808");
    check(vd_decimal_from_double(0.1), "0.100000000000000");
    check(vd_decimal_from_double(2.5), "2.50000000000000");
    check(vd_decimal_from_double(0), "0");
    check(vd_decimal_from_double(-0.0), "-0");
    check(vd_decimal_from_double((double)NAN), "NaN");
    check(vd_decimal_from_double(-(double)INFINITY), "-Infinity");
    check(vd_decimal_from_double_exact(0.1), "0.1000000000000000055511151231257827");
    cr_assert_eq(vd_decimal_to_double(dec("0.1")), 0.1);
    cr_assert_eq(vd_decimal_to_double(dec("1E+400")), (double)INFINITY);
    cr_assert(isnan(vd_decimal_to_double(dec("NaN"))));
    int64_t n = 5;
    cr_assert(vd_decimal_to_int64(dec("9223372036854775807.00"), &n) && n == INT64_MAX);
    cr_assert(vd_decimal_to_int64(dec("-9.223372036854775808E+18"), &n) && n == INT64_MIN);
    cr_assert(vd_decimal_to_int64(dec("-0"), &n) && n == 0);
    cr_assert(vd_decimal_to_int64(dec("0E+6111"), &n) && n == 0);
    cr_assert_not(vd_decimal_to_int64(dec("9223372036854775808"), &n));
    cr_assert_not(vd_decimal_to_int64(dec("0.5"), &n));
    cr_assert_not(vd_decimal_to_int64(dec("1E+30"), &n));
    cr_assert_not(vd_decimal_to_int64(dec("NaN"), &n));
    cr_assert_not(vd_decimal_to_int64(dec("1E-6000"), &n));
}

Test(decimal, arithmetic)
{
    check(vd_decimal_add(dec("1.10"), dec("2.2")), "3.30");
    check(vd_decimal_sub(dec("1"), dec("0.9")), "0.1");
    check(vd_decimal_mul(dec("1.5"), dec("-2")), "-3.0");
    check(vd_decimal_div(dec("1"), dec("3")), "0.3333333333333333333333333333333333");
    check(vd_decimal_div(dec("1"), dec("0")), "Infinity");
    check(vd_decimal_div(dec("0"), dec("0")), "NaN");
    check(vd_decimal_add(dec("inf"), dec("-inf")), "NaN");
    check(vd_decimal_mod(dec("7"), dec("3")), "1");
    check(vd_decimal_mod(dec("-7.5"), dec("2")), "-1.5");
    check(vd_decimal_mod(dec("1E+100"), dec("7")), "4");
    check(vd_decimal_mod(dec("0.3"), dec("1E+10")), "0.3");
    check(vd_decimal_mod(dec("5"), dec("0")), "NaN");
    check(vd_decimal_mod(dec("5"), dec("inf")), "5");
    check(vd_decimal_mod(dec("10.5"), dec("1E+1")), "0.5");
}

Test(decimal, rounding)
{
    static const struct {
        const char *d;
        int places;
        const char *truncate, *floor, *ceiling, *half_even;
    } cases[] = {{"2.5", 0, "2", "2", "3", "2"},
                 {"3.5", 0, "3", "3", "4", "4"},
                 {"-2.5", 0, "-2", "-3", "-2", "-2"},
                 {"-2.51", 0, "-2", "-3", "-2", "-3"},
                 {"1.005", 2, "1.00", "1.00", "1.01", "1.00"},
                 {"12345", -2, "1.23E+4", "1.23E+4", "1.24E+4", "1.23E+4"},
                 {"5", 2, "5.00", "5.00", "5.00", "5.00"},
                 {"1E-40", 0, "0", "0", "1", "0"},
                 {"-1E-40", 0, "-0", "-1", "-0", "-0"},
                 {"NaN", 0, "NaN", "NaN", "NaN", "NaN"},
                 {"1E+3", 0, "1000", "1000", "1000", "1000"},
                 {"1E+300", 0, "1E+300", "1E+300", "1E+300", "1E+300"},
                 {"5", -1, "0E+1", "0E+1", "1E+1", "0E+1"}};
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        check(vd_decimal_round(dec(cases[i].d), cases[i].places, VD_DECIMAL_TRUNCATE),
              cases[i].truncate);
        check(vd_decimal_round(dec(cases[i].d), cases[i].places, VD_DECIMAL_FLOOR), cases[i].floor);
        check(vd_decimal_round(dec(cases[i].d), cases[i].places, VD_DECIMAL_CEILING),
              cases[i].ceiling);
        check(vd_decimal_round(dec(cases[i].d), cases[i].places, VD_DECIMAL_HALF_EVEN),
              cases[i].half_even);
    }
}

Test(decimal, exact_comparison_with_doubles)
{
    static const struct {
        const char *d;
        double b;
        int want;
    } cases[] = {{"0.1", 0.1, -1},
                 {"0.5", 0.5, 0},
                 {"0.1000000000000000055511151231257828", 0.1, 1},
                 {"0.1000000000000000055511151231257827", 0.1, -1},
                 {"1.8E+308", DBL_MAX, 1},
                 {"1.797693134862315708145274237317043E+308", DBL_MAX, -1},
                 {"1.797693134862315708145274237317044E+308", DBL_MAX, 1},
                 {"1E-400", 0, 1},
                 {"-1E-400", 0, -1},
                 {"4.940656458412465441765687928682213E-324", 5e-324, -1},
                 {"4.940656458412465441765687928682214E-324", 5e-324, 1},
                 {"-0", 0.0, 0},
                 {"1E+22", 1e22, 0},
                 {"1E+23", 1e23, 1},
                 {"-1E+23", -1e23, -1},
                 {"5", -5, 1},
                 {"-1", 1, -1}};
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++)
        cr_assert_eq(vd_decimal_compare_double(dec(cases[i].d), cases[i].b), cases[i].want, "%s",
                     cases[i].d);
    cr_assert_eq(vd_decimal_compare_double(dec("NaN"), (double)NAN), 0);
    cr_assert_lt(vd_decimal_compare_double(dec("NaN"), -(double)INFINITY), 0);
    cr_assert_gt(vd_decimal_compare_double(dec("-inf"), (double)NAN), 0);
    cr_assert_eq(vd_decimal_compare_double(dec("inf"), (double)INFINITY), 0);
}

Test(decimal, odd_encodings)
{
    /* a coefficient over 10^34 - 1 is zero, in both forms */
    vd_decimal_t big = {UINT64_MAX, 0x3041FFFFFFFFFFFFULL}, form2 = {1, 0x6C10000000000000ULL};
    cr_assert(vd_decimal_is_zero(big) && vd_decimal_is_zero(form2));
    cr_assert_eq(vd_decimal_compare(big, dec("0")), 0);
    check(vd_decimal_normalize(dec("100")), "1E+2");
    check(vd_decimal_normalize(dec("-0.00")), "0");
    vd_decimal_t d;
    cr_assert(vd_decimal_with_exponent(dec("1.5"), -3, &d));
    check(d, "1.500");
    cr_assert_not(vd_decimal_with_exponent(dec("1.5"), 0, &d));
    cr_assert_not(vd_decimal_with_exponent(dec("1.5"), -6177, &d));
    cr_assert_not(vd_decimal_with_exponent(dec("1"), -34, &d));
}
