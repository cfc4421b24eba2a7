/* tests/fuzz/fuzz_decimal.c — text that may be a decimal; then 16 bytes that always are one. */
#include "libcommon/bson/decimal.h"
#include "tests/fuzz/fuzz.h"

static void check(vd_decimal_t d)
{
    char text[64];
    vd_decimal_t back;
    vd_decimal_to_string(d, text);
    bool ok = vd_decimal_from_string(vd_slice_str(text), &back);
    VD_ASSERT(ok && vd_decimal_compare(d, back) == 0);
    VD_ASSERT(vd_decimal_compare(d, vd_decimal_normalize(d)) == 0);
    double near = vd_decimal_to_double(d);
    int order = vd_decimal_compare_double(d, near);
    if (order == 0 && !vd_decimal_is_nan(d))
        VD_ASSERT(vd_decimal_compare(d, vd_decimal_from_double_exact(near)) == 0);
    if (!vd_decimal_is_nan(d) && !vd_decimal_is_infinite(d)) {
        VD_ASSERT(vd_decimal_compare(vd_decimal_round(d, 0, VD_DECIMAL_FLOOR), d) <= 0);
        VD_ASSERT(vd_decimal_compare(vd_decimal_round(d, 0, VD_DECIMAL_CEILING), d) >= 0);
    }
    int64_t whole;
    if (vd_decimal_to_int64(d, &whole))
        VD_ASSERT(vd_decimal_compare(d, vd_decimal_from_int64(whole)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    vd_decimal_t d;
    if (vd_decimal_from_string(vd_slice(data, size), &d))
        check(d);
    if (size < 16)
        return 0;
    d = vd_value_decimal((vd_value_t){data, 16, VD_BSON_DECIMAL128});
    check(d);
    if (size < 32)
        return 0;
    vd_decimal_t e = vd_value_decimal((vd_value_t){data + 16, 16, VD_BSON_DECIMAL128});
    VD_ASSERT(vd_decimal_compare(d, e) == -vd_decimal_compare(e, d));
    check(vd_decimal_add(d, e));
    check(vd_decimal_mul(d, e));
    check(vd_decimal_div(d, e));
    check(vd_decimal_mod(d, e));
    return 0;
}
