/* libcommon/bson/decimal.c — Decimal128 in BID encoding; see decimal.h.
 *
 * +, -, *, / and the conversion to double are libgcc's. Its functions take _Decimal128, which clang
 * 14 does not know; __float128 travels in the same registers, so they are declared with it and the
 * bits are copied. All else works on sign, coefficient and exponent, exactly. */
#include "libcommon/bson/decimal.h"

#include <math.h>
#include <stdio.h>

typedef unsigned __int128 u128_t;

__float128 __bid_addtd3(__float128 a, __float128 b);
__float128 __bid_subtd3(__float128 a, __float128 b);
__float128 __bid_multd3(__float128 a, __float128 b);
__float128 __bid_divtd3(__float128 a, __float128 b);
double __bid_trunctddf(__float128 a);

#define DIGITS_MAX   34
#define EXPONENT_MIN (-6176)
#define EXPONENT_MAX 6111

typedef enum { KIND_FINITE, KIND_INFINITE, KIND_NAN } kind_t;

/* (-1)^negative * coefficient * 10^exponent */
typedef struct {
    kind_t kind;
    bool negative;
    u128_t coefficient;
    int exponent;
} parts_t;

static const u128_t *powers(void)
{
    /* 10^0 .. 10^38 */
#define E8(x)                                                                                      \
    (x), (x)*10u, (x)*100u, (x)*1000u, (x)*10000u, (x)*100000u, (x)*1000000u, (x)*10000000u
#define P8 ((u128_t)100000000u)
    static const u128_t table[] = {
        E8((u128_t)1),
        E8(P8),
        E8(P8 * P8),
        E8(P8 * P8 * P8),
        P8 * P8 * P8 * P8,
        P8 * P8 * P8 * P8 * 10u,
        P8 * P8 * P8 * P8 * 100u,
        P8 * P8 * P8 * P8 * 1000u,
        P8 * P8 * P8 * P8 * 10000u,
        P8 * P8 * P8 * P8 * 100000u,
        P8 * P8 * P8 * P8 * 1000000u,
    };
#undef E8
#undef P8
    return table;
}

static u128_t power(int n)
{
    VD_ASSERT_SLOW(n >= 0 && n <= 38);
    return powers()[n];
}

static int digits_of(u128_t c)
{
    int low = 0, high = 39; /* 10^low <= c < 10^high, for c > 0 */
    if (c == 0)
        return 0;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (c >= power(middle))
            low = middle;
        else
            high = middle;
    }
    return high;
}

static parts_t unpack(vd_decimal_t d)
{
    parts_t p = {KIND_FINITE, d.hi >> 63 != 0, 0, 0};
    if ((d.hi >> 61 & 3) == 3) {
        unsigned top = (unsigned)(d.hi >> 58) & 0x1F;
        if (top == 0x1E)
            p.kind = KIND_INFINITE;
        else if (top == 0x1F)
            p.kind = KIND_NAN;
        else /* the coefficient would be over 10^34: by the standard, zero */
            p.exponent = (int)(d.hi >> 47 & 0x3FFF) + EXPONENT_MIN;
        return p;
    }
    p.exponent = (int)(d.hi >> 49 & 0x3FFF) + EXPONENT_MIN;
    p.coefficient = (u128_t)(d.hi & 0x1FFFFFFFFFFFFULL) << 64 | d.lo;
    if (p.coefficient >= power(DIGITS_MAX))
        p.coefficient = 0;
    return p;
}

static vd_decimal_t special(kind_t kind, bool negative)
{
    uint64_t hi = kind == KIND_NAN ? 0x7C00000000000000ULL : 0x7800000000000000ULL;
    return (vd_decimal_t){0, hi | (uint64_t)negative << 63};
}

/* Rounds to nearest, ties to even; `more` says that non-zero digits follow the coefficient's last.
 */
static vd_decimal_t pack(bool negative, u128_t c, int64_t e, bool more)
{
    int64_t drop = digits_of(c) - DIGITS_MAX;
    if (drop < EXPONENT_MIN - e)
        drop = EXPONENT_MIN - e;
    if (drop > 0) {
        u128_t q = 0;
        int order = -1; /* of the part dropped against one half */
        if (drop <= 38) {
            u128_t r = c % power((int)drop), half = power((int)drop) / 2;
            q = c / power((int)drop);
            order = r > half || (r == half && more) ? 1 : r == half ? 0 : -1;
        }
        if (order > 0 || (order == 0 && (q & 1) != 0))
            q++;
        c = q;
        e += drop;
        if (c == power(DIGITS_MAX)) {
            c /= 10;
            e++;
        }
    }
    if (c == 0 && e > EXPONENT_MAX)
        e = EXPONENT_MAX;
    while (e > EXPONENT_MAX && c < power(DIGITS_MAX - 1)) {
        c *= 10;
        e--;
    }
    if (e > EXPONENT_MAX)
        return special(KIND_INFINITE, negative);
    return (vd_decimal_t){(uint64_t)c, (uint64_t)negative << 63 |
                                           (uint64_t)(e - EXPONENT_MIN) << 49 |
                                           (uint64_t)(c >> 64)};
}

vd_decimal_t vd_value_decimal(vd_value_t v)
{
    VD_ASSERT(v.type == VD_BSON_DECIMAL128);
    return (vd_decimal_t){vd_get_u64(v.data), vd_get_u64(v.data + 8)};
}

vd_decimal_t vd_value_as_decimal(vd_value_t v)
{
    switch (v.type) {
    case VD_BSON_INT32:
        return vd_decimal_from_int64(vd_value_int32(v));
    case VD_BSON_INT64:
        return vd_decimal_from_int64(vd_value_int64(v));
    case VD_BSON_DOUBLE:
        return vd_decimal_from_double(vd_value_double(v));
    default:
        return vd_value_decimal(v);
    }
}

vd_value_t vd_value_from_decimal(vd_arena_t *arena, vd_decimal_t d)
{
    uint8_t *p = vd_arena_alloc(arena, 16);
    vd_put_u64(p, d.lo);
    vd_put_u64(p + 8, d.hi);
    return (vd_value_t){p, 16, VD_BSON_DECIMAL128};
}

vd_decimal_t vd_decimal_from_int64(int64_t v)
{
    return pack(v < 0, v < 0 ? -(u128_t)v : (u128_t)v, 0, false);
}

static vd_decimal_t from_double(double v, int digits)
{
    if (isnan(v) || isinf(v))
        return special(isnan(v) ? KIND_NAN : KIND_INFINITE, !isnan(v) && v < 0);
    if (v == 0)
        return pack(signbit(v) != 0, 0, 0, false);
    char text[64]; /* printf is exact to any number of digits */
    (void)snprintf(text, sizeof text, "%.*e", digits - 1, v);
    vd_decimal_t d;
    bool ok = vd_decimal_from_string(vd_slice_str(text), &d);
    VD_ASSERT(ok);
    return d;
}

vd_decimal_t vd_decimal_from_double(double v)
{
    return from_double(v, 15);
}

vd_decimal_t vd_decimal_from_double_exact(double v)
{
    return from_double(v, DIGITS_MAX);
}

static __float128 to_gcc(vd_decimal_t d)
{
    uint64_t words[2] = {d.lo, d.hi};
    __float128 f;
    memcpy(&f, words, sizeof f);
    return f;
}

static vd_decimal_t from_gcc(__float128 f)
{
    uint64_t words[2];
    memcpy(words, &f, sizeof words);
    vd_decimal_t d = {words[0], words[1]};
    return vd_decimal_is_nan(d) ? special(KIND_NAN, false) : d;
}

double vd_decimal_to_double(vd_decimal_t d)
{
    return vd_decimal_is_nan(d) ? (double)NAN : __bid_trunctddf(to_gcc(d));
}

bool vd_decimal_to_int64(vd_decimal_t d, int64_t *ret)
{
    parts_t p = unpack(d);
    if (p.kind != KIND_FINITE)
        return false;
    u128_t c = p.coefficient;
    if (c != 0 && p.exponent > 0) {
        if (p.exponent > 19 || c > power(19))
            return false;
        c *= power(p.exponent); /* < 10^38 */
    } else if (c != 0 && p.exponent < 0) {
        if (p.exponent < -DIGITS_MAX || c % power(-p.exponent) != 0)
            return false;
        c /= power(-p.exponent);
    }
    u128_t limit = (u128_t)INT64_MAX + (p.negative ? 1 : 0);
    if (c > limit)
        return false;
    *ret = (int64_t)(p.negative ? -(uint64_t)c : (uint64_t)c);
    return true;
}

vd_decimal_t vd_decimal_add(vd_decimal_t a, vd_decimal_t b)
{
    return from_gcc(__bid_addtd3(to_gcc(a), to_gcc(b)));
}

vd_decimal_t vd_decimal_sub(vd_decimal_t a, vd_decimal_t b)
{
    return from_gcc(__bid_subtd3(to_gcc(a), to_gcc(b)));
}

vd_decimal_t vd_decimal_mul(vd_decimal_t a, vd_decimal_t b)
{
    return from_gcc(__bid_multd3(to_gcc(a), to_gcc(b)));
}

vd_decimal_t vd_decimal_div(vd_decimal_t a, vd_decimal_t b)
{
    return from_gcc(__bid_divtd3(to_gcc(a), to_gcc(b)));
}

vd_decimal_t vd_decimal_mod(vd_decimal_t a, vd_decimal_t b)
{
    parts_t x = unpack(a), y = unpack(b);
    if (x.kind != KIND_FINITE || y.kind == KIND_NAN ||
        (y.kind == KIND_FINITE && y.coefficient == 0))
        return special(KIND_NAN, false);
    if (y.kind == KIND_INFINITE)
        return a;
    u128_t r = x.coefficient, divisor = y.coefficient;
    int e = x.exponent;
    if (x.exponent >= y.exponent) {
        /* the remainder of c * 10^n, digit by digit: at most some 12,000 steps */
        r %= divisor;
        for (int i = 0; i < x.exponent - y.exponent && r != 0; i++)
            r = r * 10 % divisor;
        e = y.exponent;
    } else {
        int shift = y.exponent - x.exponent;
        if (shift > DIGITS_MAX || divisor > r / power(shift))
            return a; /* |a| < |b| */
        r %= divisor * power(shift);
    }
    return pack(x.negative, r, e, false);
}

vd_decimal_t vd_decimal_round(vd_decimal_t d, int places, vd_decimal_rounding_t rounding)
{
    parts_t p = unpack(d);
    if (p.kind != KIND_FINITE)
        return d;
    VD_ASSERT(places >= -100000 && places <= 100000);
    int drop = -places - p.exponent;
    if (drop <= 0) {
        /* already that coarse: pad with zeros, as quantizing does, where they fit */
        if (-places < EXPONENT_MIN || digits_of(p.coefficient) - drop > DIGITS_MAX)
            return p.coefficient == 0 ? pack(p.negative, 0, -places, false) : d;
        return pack(p.negative, p.coefficient * power(-drop <= 38 ? -drop : 0), -places, false);
    }
    u128_t q = 0, r = p.coefficient;
    int order = r == 0 ? -2 : -1; /* of the part dropped: -2 none, -1 below half, 0 half, 1 above */
    if (drop <= 38) {
        u128_t half = power(drop) / 2;
        q = p.coefficient / power(drop);
        r = p.coefficient % power(drop);
        order = r == 0 ? -2 : r < half ? -1 : r > half;
    }
    bool up = (rounding == VD_DECIMAL_FLOOR && p.negative && order != -2) ||
              (rounding == VD_DECIMAL_CEILING && !p.negative && order != -2) ||
              (rounding == VD_DECIMAL_HALF_EVEN && (order == 1 || (order == 0 && (q & 1) != 0)));
    return pack(p.negative, q + up, -places, false);
}

bool vd_decimal_is_nan(vd_decimal_t d)
{
    return (d.hi >> 58 & 0x1F) == 0x1F;
}

bool vd_decimal_is_infinite(vd_decimal_t d)
{
    return (d.hi >> 58 & 0x1F) == 0x1E;
}

bool vd_decimal_is_negative(vd_decimal_t d)
{
    return d.hi >> 63 != 0;
}

bool vd_decimal_is_zero(vd_decimal_t d)
{
    parts_t p = unpack(d);
    return p.kind == KIND_FINITE && p.coefficient == 0;
}

#define ORDER(a, b) (((a) > (b)) - ((a) < (b)))

/* NaN and infinities: true when these alone decide. */
static bool compare_kinds(const parts_t *a, const parts_t *b, int *ret)
{
    if (a->kind == KIND_FINITE && b->kind == KIND_FINITE)
        return false;
    int x = a->kind == KIND_NAN ? -2 : a->kind == KIND_FINITE ? 0 : a->negative ? -1 : 1;
    int y = b->kind == KIND_NAN ? -2 : b->kind == KIND_FINITE ? 0 : b->negative ? -1 : 1;
    *ret = ORDER(x, y);
    return true;
}

int vd_decimal_compare(vd_decimal_t a, vd_decimal_t b)
{
    parts_t x = unpack(a), y = unpack(b);
    int c;
    if (compare_kinds(&x, &y, &c))
        return c;
    int sign_x = x.coefficient == 0 ? 0 : x.negative ? -1 : 1;
    int sign_y = y.coefficient == 0 ? 0 : y.negative ? -1 : 1;
    if (sign_x != sign_y || sign_x == 0)
        return ORDER(sign_x, sign_y);
    /* Coefficients brought to 34 digits compare as their values do when the first digits weigh the
     * same. */
    int digits_x = digits_of(x.coefficient), digits_y = digits_of(y.coefficient);
    int weight_x = digits_x + x.exponent, weight_y = digits_y + y.exponent;
    if (weight_x != weight_y)
        return sign_x * ORDER(weight_x, weight_y);
    u128_t full_x = x.coefficient * power(DIGITS_MAX - digits_x);
    u128_t full_y = y.coefficient * power(DIGITS_MAX - digits_y);
    return sign_x * ORDER(full_x, full_y);
}

vd_decimal_t vd_decimal_normalize(vd_decimal_t d)
{
    parts_t p = unpack(d);
    if (p.kind != KIND_FINITE)
        return special(p.kind, p.kind == KIND_INFINITE && p.negative);
    if (p.coefficient == 0)
        return pack(false, 0, 0, false);
    while (p.coefficient % 10 == 0 && p.exponent < EXPONENT_MAX) {
        p.coefficient /= 10;
        p.exponent++;
    }
    return pack(p.negative, p.coefficient, p.exponent, false);
}

/* ---- whole numbers of up to WORDS * 32 bits, for the comparison with doubles ---- */

#define WORDS 96

typedef struct {
    uint32_t word[WORDS]; /* least first */
    int count;
} big_t;

static void big_set(big_t *big, u128_t v)
{
    for (big->count = 0; v != 0; v >>= 32)
        big->word[big->count++] = (uint32_t)v;
}

static void big_multiply(big_t *big, uint32_t factor)
{
    uint64_t carry = 0;
    for (int i = 0; i < big->count; i++) {
        carry += (uint64_t)big->word[i] * factor;
        big->word[i] = (uint32_t)carry;
        carry >>= 32;
    }
    if (carry != 0) {
        VD_ASSERT(big->count < WORDS);
        big->word[big->count++] = (uint32_t)carry;
    }
}

static void big_scale10(big_t *big, int n)
{
    for (; n >= 9; n -= 9)
        big_multiply(big, 1000000000u);
    for (; n > 0; n--)
        big_multiply(big, 10);
}

static void big_scale2(big_t *big, int n)
{
    for (; n >= 31; n -= 31)
        big_multiply(big, 1u << 31);
    if (n > 0)
        big_multiply(big, 1u << n);
}

static int big_compare(const big_t *a, const big_t *b)
{
    if (a->count != b->count)
        return ORDER(a->count, b->count);
    for (int i = a->count - 1; i >= 0; i--)
        if (a->word[i] != b->word[i])
            return ORDER(a->word[i], b->word[i]);
    return 0;
}

/* |a| against |b|, both finite and not zero, equal but for less than one unit in b's last place. */
static int compare_magnitudes(const parts_t *a, double b)
{
    int shift;
    double fraction = frexp(fabs(b), &shift);
    uint64_t mantissa = (uint64_t)ldexp(fraction, 53); /* exact */
    shift -= 53;
    big_t x, y;
    big_set(&x, a->coefficient);
    big_set(&y, mantissa);
    big_scale10(a->exponent >= 0 ? &x : &y, a->exponent >= 0 ? a->exponent : -a->exponent);
    big_scale2(shift >= 0 ? &y : &x, shift >= 0 ? shift : -shift);
    return big_compare(&x, &y);
}

int vd_decimal_compare_double(vd_decimal_t a, double b)
{
    parts_t x = unpack(a);
    parts_t y = {isnan(b) ? KIND_NAN : isinf(b) ? KIND_INFINITE : KIND_FINITE, b < 0, 0, 0};
    int c;
    if (compare_kinds(&x, &y, &c))
        return c;
    int sign = x.coefficient == 0 ? 0 : x.negative ? -1 : 1;
    if (b == 0 || sign != ORDER(b, 0.0))
        return ORDER(sign, ORDER(b, 0.0));
    /* Rounding keeps order: only where it falls on b itself do the exact values decide. */
    double near = vd_decimal_to_double(a);
    if (near != b)
        return ORDER(near, b);
    return sign * compare_magnitudes(&x, b);
}

bool vd_decimal_unpack(vd_decimal_t d, vd_decimal_parts_t *ret)
{
    parts_t p = unpack(d);
    if (p.kind != KIND_FINITE)
        return false;
    *ret = (vd_decimal_parts_t){p.negative, p.exponent, digits_of(p.coefficient), p.coefficient};
    return true;
}

bool vd_decimal_pack(const vd_decimal_parts_t *parts, vd_decimal_t *ret)
{
    if (parts->coefficient >= power(DIGITS_MAX) || parts->exponent < EXPONENT_MIN ||
        parts->exponent > EXPONENT_MAX)
        return false;
    *ret = pack(parts->negative, parts->coefficient, parts->exponent, false);
    return true;
}

bool vd_decimal_with_exponent(vd_decimal_t d, int exponent, vd_decimal_t *ret)
{
    vd_decimal_parts_t p;
    if (!vd_decimal_unpack(d, &p))
        return false;
    int shift = p.exponent - exponent;
    if (p.coefficient != 0 && (shift > DIGITS_MAX - p.digits || shift < -p.digits))
        return false;
    if (p.coefficient != 0 && shift > 0)
        p.coefficient *= power(shift);
    if (p.coefficient != 0 && shift < 0) {
        if (p.coefficient % power(-shift) != 0)
            return false;
        p.coefficient /= power(-shift);
    }
    p.exponent = exponent;
    return vd_decimal_pack(&p, ret);
}

vd_decimal_t vd_decimal_infinity(bool negative)
{
    return special(KIND_INFINITE, negative);
}

vd_decimal_t vd_decimal_nan(void)
{
    return special(KIND_NAN, false);
}

void vd_decimal_to_string(vd_decimal_t d, char buf[64])
{
    parts_t p = unpack(d);
    if (p.kind != KIND_FINITE) {
        (void)snprintf(buf, 64, "%s",
                       p.kind == KIND_NAN ? "NaN"
                       : p.negative       ? "-Infinity"
                                          : "Infinity");
        return;
    }
    char digits[40];
    int count = p.coefficient == 0 ? 1 : digits_of(p.coefficient);
    u128_t c = p.coefficient;
    for (int i = count - 1; i >= 0; i--, c /= 10)
        digits[i] = (char)('0' + (int)(c % 10));
    char *out = buf;
    if (p.negative)
        *out++ = '-';
    int scientific = p.exponent + count - 1;
    if (p.exponent > 0 || scientific < -6) {
        *out++ = digits[0];
        if (count > 1) {
            *out++ = '.';
            memcpy(out, digits + 1, (size_t)count - 1);
            out += count - 1;
        }
        (void)snprintf(out, 16, "E%+d", scientific);
        return;
    }
    int whole = count + p.exponent; /* digits before the point */
    if (whole <= 0) {
        *out++ = '0';
        *out++ = '.';
        for (int i = whole; i < 0; i++)
            *out++ = '0';
        whole = 0;
    } else {
        memcpy(out, digits, (size_t)whole);
        out += whole;
        if (whole < count)
            *out++ = '.';
    }
    memcpy(out, digits + whole, (size_t)(count - whole));
    out[count - whole] = '\0';
}

static bool is_word(vd_slice_t s, const char *word)
{
    size_t len = strlen(word);
    if (s.len != len)
        return false;
    for (size_t i = 0; i < len; i++)
        if ((s.data[i] | 0x20) != word[i])
            return false;
    return true;
}

static bool is_digit(const uint8_t *p, const uint8_t *end)
{
    return p < end && *p >= '0' && *p <= '9';
}

bool vd_decimal_from_string(vd_slice_t s, vd_decimal_t *ret)
{
    if (s.len == 0)
        return false;
    const uint8_t *p = s.data, *end = s.data + s.len;
    bool negative = *p == '-';
    if (*p == '-' || *p == '+')
        p++;
    vd_slice_t word = vd_slice(p, (size_t)(end - p));
    if (is_word(word, "inf") || is_word(word, "infinity") || is_word(word, "nan")) {
        bool nan = (word.data[0] | 0x20) == 'n';
        *ret = special(nan ? KIND_NAN : KIND_INFINITE, negative && !nan);
        return true;
    }
    u128_t c = 0;
    int64_t e = 0;
    bool more = false, any = false, point = false;
    for (; is_digit(p, end) || (p < end && *p == '.' && !point); p++) {
        if (*p == '.') {
            point = true;
            continue;
        }
        any = true;
        if (c < power(36)) { /* two digits more than fit: enough to round with `more` */
            c = c * 10 + (u128_t)(*p - '0');
            e -= point;
        } else {
            more |= *p != '0';
            e += !point;
        }
    }
    if (!any)
        return false;
    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;
        bool minus = p < end && *p == '-';
        if (p < end && (*p == '-' || *p == '+'))
            p++;
        if (!is_digit(p, end))
            return false;
        int64_t n = 0;
        for (; is_digit(p, end); p++)
            n = n > 1000000000 ? n : n * 10 + (*p - '0');
        e += minus ? -n : n;
    }
    if (p != end)
        return false;
    *ret = pack(negative, c, e, more);
    return true;
}
