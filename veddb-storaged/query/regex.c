/* veddb-storaged/query/regex.c — regular expressions on PCRE2.
 *
 * Each thread keeps one block of match data and one JIT stack, sized for the largest pattern that
 * it has met; both go with the thread. Matching is bounded by VD_REGEX_MATCH_LIMIT steps: a pattern
 * that runs over it does not match. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "veddb-storaged/query/regex.h"

#include "libcommon/base/limits.h"
#include "libcommon/base/mem.h"

#include <pcre2.h>
#include <pthread.h>

#define JIT_STACK_START_BYTES  (32 * 1024)
#define JIT_STACK_MAX_BYTES    (1024 * 1024)
#define MATCH_HEAP_MAX_KIB     20000
#define LOCATION_INVALID_REGEX 51091
#define LOCATION_INVALID_FLAG  51108

struct stor_regex {
    pcre2_code *code;
    vd_slice_t pattern, options;
    uint32_t group_count;
};

typedef struct {
    pcre2_match_data *data;
    uint32_t pairs; /* room in data */
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
} scratch_t;

static pthread_key_t scratch_key;
static pthread_once_t scratch_once = PTHREAD_ONCE_INIT;
static _Thread_local scratch_t *scratch_of_thread;

static void scratch_destroy(void *arg)
{
    scratch_t *scratch = arg;
    pcre2_match_data_free(scratch->data);
    pcre2_match_context_free(scratch->context);
    pcre2_jit_stack_free(scratch->stack);
    vd_free(scratch);
    scratch_of_thread = NULL;
}

static void scratch_make_key(void)
{
    VD_ASSERT(pthread_key_create(&scratch_key, scratch_destroy) == 0);
}

static scratch_t *scratch_create(void)
{
    (void)pthread_once(&scratch_once, scratch_make_key);
    scratch_t *scratch = vd_xalloc(sizeof *scratch);
    scratch->context = pcre2_match_context_create(NULL);
    scratch->stack = pcre2_jit_stack_create(JIT_STACK_START_BYTES, JIT_STACK_MAX_BYTES, NULL);
    VD_ASSERT(scratch->context != NULL);
    pcre2_set_match_limit(scratch->context, VD_REGEX_MATCH_LIMIT);
    pcre2_set_heap_limit(scratch->context, MATCH_HEAP_MAX_KIB);
    if (scratch->stack != NULL)
        pcre2_jit_stack_assign(scratch->context, NULL, scratch->stack);
    VD_ASSERT(pthread_setspecific(scratch_key, scratch) == 0);
    scratch_of_thread = scratch;
    return scratch;
}

/* This thread's scratch with room for the groups of regex; NULL when memory is gone. */
static scratch_t *scratch_get(const stor_regex_t *regex)
{
    scratch_t *scratch = scratch_of_thread != NULL ? scratch_of_thread : scratch_create();
    uint32_t pairs = regex->group_count + 1;
    if (VD_UNLIKELY(scratch->pairs < pairs)) {
        if (pairs < 16)
            pairs = 16;
        pcre2_match_data *data = pcre2_match_data_create(pairs, NULL);
        if (data == NULL)
            return NULL;
        pcre2_match_data_free(scratch->data);
        scratch->data = data;
        scratch->pairs = pairs;
    }
    return scratch;
}

static void code_free(void *arg)
{
    pcre2_code_free(arg);
}

static int options_to_flags(vd_slice_t options, uint32_t *ret_flags, vd_error_t *err)
{
    uint32_t flags = 0;
    for (size_t i = 0; i < options.len; i++) {
        switch (options.data[i]) {
        case 'i':
            flags |= PCRE2_CASELESS;
            break;
        case 'm':
            flags |= PCRE2_MULTILINE;
            break;
        case 's':
            flags |= PCRE2_DOTALL;
            break;
        case 'x':
            flags |= PCRE2_EXTENDED;
            break;
        case 'u': /* UTF-8 is always on */
            break;
        case 0:
            return vd_error_set(
                err, VD_ERR_BAD_VALUE,
                "Regular expression options string cannot contain an embedded null byte");
        default:
            return vd_error_set(
                err, VD_ERR_LOCATION(LOCATION_INVALID_FLAG), " invalid flag in regex options: %c",
                options.data[i] < 0x80 && options.data[i] >= 0x20 ? options.data[i] : '?');
        }
    }
    *ret_flags = flags;
    return VD_OK;
}

/* Every slice that goes to PCRE2 has an address, also the empty one. */
static PCRE2_SPTR slice_start(vd_slice_t s)
{
    return s.data != NULL ? s.data : (PCRE2_SPTR) "";
}

int stor_regex_compile(vd_arena_t *arena, vd_slice_t pattern, vd_slice_t options,
                       stor_regex_t **ret_regex, vd_error_t *err)
{
    VD_ASSERT(arena != NULL);
    VD_ASSERT(ret_regex != NULL);

    if (pattern.len > VD_REGEX_PATTERN_MAX_BYTES)
        return vd_error_set(err, VD_ERR_LOCATION(LOCATION_INVALID_REGEX),
                            "Regular expression is invalid: pattern is longer than %d bytes",
                            VD_REGEX_PATTERN_MAX_BYTES);
    if (pattern.len > 0 && memchr(pattern.data, 0, pattern.len) != NULL)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "Regular expression cannot contain an embedded null byte");
    uint32_t flags = 0;
    int rc = options_to_flags(options, &flags, err);
    if (rc != VD_OK)
        return rc;

    /* Subjects are what clients have stored, so they may be broken UTF-8: those parts just do not
     * match. */
    flags |= PCRE2_UTF | PCRE2_MATCH_INVALID_UTF | PCRE2_NEVER_BACKSLASH_C;
    int code_error = 0;
    PCRE2_SIZE offset = 0;
    pcre2_code *code =
        pcre2_compile(slice_start(pattern), pattern.len, flags, &code_error, &offset, NULL);
    if (code == NULL) {
        PCRE2_UCHAR reason[160];
        if (pcre2_get_error_message(code_error, reason, sizeof reason) < 0)
            reason[0] = 0;
        return vd_error_set(err, VD_ERR_LOCATION(LOCATION_INVALID_REGEX),
                            "Regular expression is invalid: %s", (const char *)reason);
    }
    /* Without JIT (a system that forbids it) the interpreter does the same, slower. */
    (void)pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
    vd_arena_on_reset(arena, code_free, code);

    stor_regex_t *regex = VD_ARENA_NEW(arena, stor_regex_t);
    regex->code = code;
    regex->pattern = vd_arena_copy_slice(arena, pattern);
    regex->options = vd_arena_copy_slice(arena, options);
    (void)pcre2_pattern_info(code, PCRE2_INFO_CAPTURECOUNT, &regex->group_count);
    *ret_regex = regex;
    return VD_OK;
}

bool stor_regex_matches(const stor_regex_t *regex, vd_slice_t subject)
{
    scratch_t *scratch = scratch_get(regex);
    return scratch != NULL && pcre2_match(regex->code, slice_start(subject), subject.len, 0, 0,
                                          scratch->data, scratch->context) >= 0;
}

uint32_t stor_regex_find(const stor_regex_t *regex, vd_slice_t subject, size_t start,
                         size_t *ret_offsets, uint32_t max)
{
    scratch_t *scratch = scratch_get(regex);
    if (scratch == NULL || start > subject.len)
        return 0;
    int rc = pcre2_match(regex->code, slice_start(subject), subject.len, start, 0, scratch->data,
                         scratch->context);
    if (rc < 0)
        return 0;
    const PCRE2_SIZE *found = pcre2_get_ovector_pointer(scratch->data);
    uint32_t count = regex->group_count + 1 < max ? regex->group_count + 1 : max;
    for (uint32_t i = 0; i < count; i++) {
        /* Groups behind the last one that took part are left as they were by PCRE2 only above rc.
         */
        bool set = (int)i < rc && found[2 * i] != PCRE2_UNSET;
        ret_offsets[2 * i] = set ? found[2 * i] : SIZE_MAX;
        ret_offsets[2 * i + 1] = set ? found[2 * i + 1] : SIZE_MAX;
    }
    return count;
}

uint32_t stor_regex_group_count(const stor_regex_t *regex)
{
    return regex->group_count;
}

vd_slice_t stor_regex_pattern(const stor_regex_t *regex)
{
    return regex->pattern;
}

vd_slice_t stor_regex_options(const stor_regex_t *regex)
{
    return regex->options;
}
