/* veddb-storaged/query/collation.c — see collation.h. */
#include "veddb-storaged/query/collation.h"

#include "libcommon/base/arena.h"
#include "libcommon/base/mem.h"
#include "libcommon/bson/build.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unicode/ucol.h>
#include <unicode/uloc.h>
#include <unicode/ustring.h>
#include <unicode/uversion.h>

#define LOCALE_MAX_BYTES  64
#define UTF16_ON_STACK    512
#define SORT_KEY_ON_STACK 1024

typedef struct collation {
    vd_collation_t base;
    struct collation *next; /* of those that are kept; the one used last is first */
    UCollator *collator;
    vd_arena_t *arena;
    vd_bson_t asked, spec; /* as it was given; whole */
    uint32_t users;
    bool kept;
} collation_t;

static pthread_mutex_t kept_lock = PTHREAD_MUTEX_INITIALIZER;
static collation_t *kept;
static uint32_t kept_count;
static __thread collation_t *in_force;

/* ---- strings ---- */

static int compare(const vd_collation_t *collation, vd_slice_t a, vd_slice_t b)
{
    const collation_t *c = (const collation_t *)collation;
    UErrorCode status = U_ZERO_ERROR;
    UCollationResult order = ucol_strcollUTF8(c->collator, (const char *)a.data, (int32_t)a.len,
                                              (const char *)b.data, (int32_t)b.len, &status);
    if (U_FAILURE(status)) /* out of memory only: bytes are some order, too */
        return vd_slice_compare(a, b);
    return order == UCOL_LESS ? -1 : order == UCOL_GREATER ? 1 : 0;
}

/* ucol_getSortKey with the string as UTF-16, which never has more units than UTF-8 has bytes. The
 * key is NUL-terminated, without a NUL before. */
static int sort_key(const vd_collation_t *collation, vd_slice_t string,
                    void (*put)(void *context, const void *data, size_t len), void *context)
{
    const collation_t *c = (const collation_t *)collation;
    UChar text_on_stack[UTF16_ON_STACK], *text = text_on_stack;
    uint8_t key_on_stack[SORT_KEY_ON_STACK], *key = key_on_stack;
    int32_t len = 0, room = UTF16_ON_STACK;
    UErrorCode status = U_ZERO_ERROR;
    if (string.len > UTF16_ON_STACK) {
        text = malloc(sizeof *text * string.len);
        room = (int32_t)string.len; /* of a document: far below 2^31 */
    }
    if (text != NULL)
        (void)u_strFromUTF8WithSub(text, room, &len, (const char *)string.data, (int32_t)string.len,
                                   0xfffd, NULL, &status);
    int32_t size = text == NULL || U_FAILURE(status)
                       ? 0
                       : ucol_getSortKey(c->collator, text, len, key, SORT_KEY_ON_STACK);
    if (size > SORT_KEY_ON_STACK) {
        key = malloc((size_t)size);
        size = key == NULL ? 0 : ucol_getSortKey(c->collator, text, len, key, size);
    }
    if (size > 0)
        put(context, key, (size_t)size - 1);
    if (text != text_on_stack)
        free(text);
    if (key != key_on_stack)
        free(key);
    return size > 0 ? VD_OK : VD_ERR_NO_MEMORY;
}

static void hash_part(void *context, const void *data, size_t len)
{
    uint64_t *h = context;
    const uint8_t *bytes = data;
    for (size_t i = 0; i < len; i++)
        *h = (*h ^ bytes[i]) * 0x100000001b3u;
}

/* FNV-1a over the sort key, which is the same for strings that compare equal. */
static uint64_t hash(const vd_collation_t *collation, uint64_t seed, vd_slice_t string)
{
    uint64_t h = seed ^ 0xcbf29ce484222325u;
    (void)sort_key(collation, string, hash_part, &h); /* out of memory: they all hash alike */
    return h;
}

/* ---- the document ---- */

typedef struct {
    vd_slice_t locale, case_first, alternate, max_variable, version;
    int64_t strength;
    bool case_level, numeric_ordering, normalization, backwards;
    bool has_strength, has_case_level, has_numeric_ordering, has_normalization, has_backwards;
} fields_t;

static int wrong_type(vd_slice_t name, vd_value_t v, const char *expected, vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                        "BSON field 'collation.%.*s' is the wrong type '%s', expected type '%s'",
                        VD_SLICE_FMT(name), vd_bson_type_name(v.type), expected);
}

static int take_string(vd_slice_t name, vd_value_t v, vd_slice_t *ret, vd_error_t *err)
{
    if (v.type != VD_BSON_STRING)
        return wrong_type(name, v, "string", err);
    *ret = vd_value_string(v);
    return VD_OK;
}

static int take_bool(vd_slice_t name, vd_value_t v, bool *ret, bool *ret_has, vd_error_t *err)
{
    if (v.type != VD_BSON_BOOL && !vd_value_is_number(v))
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field 'collation.%.*s' is the wrong type '%s', expected types "
                            "'[bool, long, int, decimal, double]'",
                            VD_SLICE_FMT(name), vd_bson_type_name(v.type));
    *ret = vd_value_as_flag(v);
    *ret_has = true;
    return VD_OK;
}

static int take_field(fields_t *fields, vd_slice_t name, vd_value_t v, vd_error_t *err)
{
    if (vd_slice_is(name, "locale"))
        return take_string(name, v, &fields->locale, err);
    if (vd_slice_is(name, "caseFirst"))
        return take_string(name, v, &fields->case_first, err);
    if (vd_slice_is(name, "alternate"))
        return take_string(name, v, &fields->alternate, err);
    if (vd_slice_is(name, "maxVariable"))
        return take_string(name, v, &fields->max_variable, err);
    if (vd_slice_is(name, "version")) /* what listIndexes shows is given back */
        return take_string(name, v, &fields->version, err);
    if (vd_slice_is(name, "caseLevel"))
        return take_bool(name, v, &fields->case_level, &fields->has_case_level, err);
    if (vd_slice_is(name, "numericOrdering"))
        return take_bool(name, v, &fields->numeric_ordering, &fields->has_numeric_ordering, err);
    if (vd_slice_is(name, "normalization"))
        return take_bool(name, v, &fields->normalization, &fields->has_normalization, err);
    if (vd_slice_is(name, "backwards"))
        return take_bool(name, v, &fields->backwards, &fields->has_backwards, err);
    if (vd_slice_is(name, "strength")) {
        if (!vd_value_is_number(v))
            return wrong_type(name, v, "int", err);
        if (!vd_value_as_int64(v, &fields->strength) || fields->strength < 1 ||
            fields->strength > 5)
            return vd_error_set(err, VD_ERR_BAD_VALUE,
                                "Enumeration value for field 'collation.strength' is not a valid "
                                "value: it is a whole number from 1 to 5");
        fields->has_strength = true;
        return VD_OK;
    }
    return vd_error_set(err, VD_ERR_LOCATION(40415),
                        "BSON field 'collation.%.*s' is an unknown field.", VD_SLICE_FMT(name));
}

static int fields_read(vd_bson_t spec, fields_t *fields, vd_error_t *err)
{
    vd_bson_iter_t iter;
    int rc = VD_OK;
    vd_bson_iter_init(&iter, spec);
    while (rc == VD_OK && vd_bson_iter_next(&iter))
        rc = take_field(fields, iter.name, iter.value, err);
    if (rc == VD_OK && fields->locale.data == NULL)
        rc = vd_error_set(err, VD_ERR_LOCATION(40414),
                          "BSON field 'collation.locale' is missing but a required field");
    return rc;
}

/* ---- the collator ---- */

static int bad_word(const char *field, vd_slice_t word, vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_BAD_VALUE,
                        "Enumeration value '%.*s' for field 'collation.%s' is not a valid value.",
                        VD_SLICE_FMT(word), field);
}

/* ICU makes something of any name; MongoDB takes only names that ICU has, in their own form. */
static bool locale_known(const char *locale)
{
    UErrorCode status = U_ZERO_ERROR;
    char canonical[LOCALE_MAX_BYTES], base[LOCALE_MAX_BYTES];
    (void)uloc_canonicalize(locale, canonical, sizeof canonical, &status);
    if (U_FAILURE(status) || status == U_STRING_NOT_TERMINATED_WARNING ||
        strcmp(canonical, locale) != 0)
        return false;
    (void)uloc_getBaseName(locale, base, sizeof base, &status);
    for (int32_t i = 0; U_SUCCESS(status) && i < uloc_countAvailable(); i++)
        if (strcmp(uloc_getAvailable(i), base) == 0)
            return true;
    return false;
}

static int collator_open(const fields_t *fields, UCollator **ret_collator, vd_error_t *err)
{
    char locale[LOCALE_MAX_BYTES];
    UErrorCode status = U_ZERO_ERROR;
    int n = snprintf(locale, sizeof locale, "%.*s", VD_SLICE_FMT(fields->locale));
    if (n < 0 || (size_t)n >= sizeof locale || strlen(locale) != fields->locale.len ||
        !locale_known(locale))
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "Field 'locale' is invalid in: { locale: \"%.*s\" }",
                            (int)(fields->locale.len < 60 ? fields->locale.len : 60),
                            (const char *)fields->locale.data);
    UCollator *collator = ucol_open(locale, &status);
    if (U_FAILURE(status))
        return vd_error_set(err, VD_ERR_BAD_VALUE, "no collator for the locale %s: %s", locale,
                            u_errorName(status));
    *ret_collator = collator;
    return VD_OK;
}

static int attributes_set(UCollator *collator, const fields_t *fields, vd_error_t *err)
{
    static const UColAttributeValue strengths[] = {UCOL_PRIMARY, UCOL_SECONDARY, UCOL_TERTIARY,
                                                   UCOL_QUATERNARY, UCOL_IDENTICAL};
    UErrorCode status = U_ZERO_ERROR;
    if (fields->has_strength)
        ucol_setAttribute(collator, UCOL_STRENGTH, strengths[fields->strength - 1], &status);
    if (fields->has_case_level)
        ucol_setAttribute(collator, UCOL_CASE_LEVEL, fields->case_level ? UCOL_ON : UCOL_OFF,
                          &status);
    if (fields->has_numeric_ordering)
        ucol_setAttribute(collator, UCOL_NUMERIC_COLLATION,
                          fields->numeric_ordering ? UCOL_ON : UCOL_OFF, &status);
    if (fields->has_normalization)
        ucol_setAttribute(collator, UCOL_NORMALIZATION_MODE,
                          fields->normalization ? UCOL_ON : UCOL_OFF, &status);
    if (fields->has_backwards)
        ucol_setAttribute(collator, UCOL_FRENCH_COLLATION, fields->backwards ? UCOL_ON : UCOL_OFF,
                          &status);
    if (fields->case_first.data != NULL) {
        UColAttributeValue value;
        if (vd_slice_is(fields->case_first, "upper"))
            value = UCOL_UPPER_FIRST;
        else if (vd_slice_is(fields->case_first, "lower"))
            value = UCOL_LOWER_FIRST;
        else if (vd_slice_is(fields->case_first, "off"))
            value = UCOL_OFF;
        else
            return bad_word("caseFirst", fields->case_first, err);
        ucol_setAttribute(collator, UCOL_CASE_FIRST, value, &status);
    }
    if (fields->alternate.data != NULL) {
        bool shifted = vd_slice_is(fields->alternate, "shifted");
        if (!shifted && !vd_slice_is(fields->alternate, "non-ignorable"))
            return bad_word("alternate", fields->alternate, err);
        ucol_setAttribute(collator, UCOL_ALTERNATE_HANDLING,
                          shifted ? UCOL_SHIFTED : UCOL_NON_IGNORABLE, &status);
    }
    if (fields->max_variable.data != NULL) {
        bool punct = vd_slice_is(fields->max_variable, "punct");
        if (!punct && !vd_slice_is(fields->max_variable, "space"))
            return bad_word("maxVariable", fields->max_variable, err);
        ucol_setMaxVariable(
            collator, punct ? UCOL_REORDER_CODE_PUNCTUATION : UCOL_REORDER_CODE_SPACE, &status);
    }
    return U_SUCCESS(status) ? VD_OK
                             : vd_error_set(err, VD_ERR_BAD_VALUE, "the collation can't be had: %s",
                                            u_errorName(status));
}

/* MongoDB: backwards is of secondary differences, which strength 1 does not look at; caseFirst
 * needs a level on which case counts. */
static int combination_check(const UCollator *collator, const fields_t *fields, vd_error_t *err)
{
    UErrorCode status = U_ZERO_ERROR;
    UColAttributeValue strength = ucol_getAttribute(collator, UCOL_STRENGTH, &status);
    if (fields->backwards && strength == UCOL_PRIMARY)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "'backwards' is invalid with 'strength' of 1");
    if (fields->case_first.data != NULL && !vd_slice_is(fields->case_first, "off") &&
        !fields->case_level && (strength == UCOL_PRIMARY || strength == UCOL_SECONDARY))
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "'caseFirst' is invalid unless 'caseLevel' is on or 'strength' is "
                            "greater than 2");
    return VD_OK;
}

static int spec_make(vd_arena_t *arena, const UCollator *collator, vd_slice_t locale,
                     vd_bson_t *ret_spec, vd_error_t *err)
{
    UErrorCode status = U_ZERO_ERROR;
    vd_bb_t *bb = vd_arena_alloc(arena, sizeof *bb);
    UColAttributeValue strength = ucol_getAttribute(collator, UCOL_STRENGTH, &status);
    UColAttributeValue first = ucol_getAttribute(collator, UCOL_CASE_FIRST, &status);
    UVersionInfo version;
    char text[U_MAX_VERSION_STRING_LENGTH];
    ucol_getVersion(collator, version);
    u_versionToString(version, text);
    vd_bb_init_arena(bb, arena, 1024);
    vd_bb_string(bb, "locale", locale);
    vd_bb_bool(bb, "caseLevel", ucol_getAttribute(collator, UCOL_CASE_LEVEL, &status) == UCOL_ON);
    vd_bb_cstr(bb, "caseFirst",
               first == UCOL_UPPER_FIRST   ? "upper"
               : first == UCOL_LOWER_FIRST ? "lower"
                                           : "off");
    vd_bb_int32(bb, "strength", strength == UCOL_IDENTICAL ? 5 : (int32_t)strength + 1);
    vd_bb_bool(bb, "numericOrdering",
               ucol_getAttribute(collator, UCOL_NUMERIC_COLLATION, &status) == UCOL_ON);
    vd_bb_cstr(bb, "alternate",
               ucol_getAttribute(collator, UCOL_ALTERNATE_HANDLING, &status) == UCOL_SHIFTED
                   ? "shifted"
                   : "non-ignorable");
    vd_bb_cstr(bb, "maxVariable",
               ucol_getMaxVariable(collator) == UCOL_REORDER_CODE_SPACE ? "space" : "punct");
    vd_bb_bool(bb, "normalization",
               ucol_getAttribute(collator, UCOL_NORMALIZATION_MODE, &status) == UCOL_ON);
    vd_bb_bool(bb, "backwards",
               ucol_getAttribute(collator, UCOL_FRENCH_COLLATION, &status) == UCOL_ON);
    vd_bb_cstr(bb, "version", text);
    return vd_bb_finish(bb, ret_spec, err);
}

static void collation_free(collation_t *collation)
{
    if (collation->collator != NULL)
        ucol_close(collation->collator);
    vd_arena_destroy(&collation->arena);
    vd_free(collation);
}

static int collation_make(vd_bson_t asked, const fields_t *fields, collation_t **ret_collation,
                          vd_error_t *err)
{
    collation_t *collation = vd_xalloc(sizeof *collation);
    collation->base = (vd_collation_t){compare, hash, sort_key};
    collation->arena = vd_arena_create();
    collation->asked =
        (vd_bson_t){vd_arena_copy(collation->arena, asked.data, asked.len), asked.len};
    collation->users = 1;
    int rc = collator_open(fields, &collation->collator, err);
    if (rc == VD_OK)
        rc = attributes_set(collation->collator, fields, err);
    if (rc == VD_OK)
        rc = combination_check(collation->collator, fields, err);
    if (rc == VD_OK)
        rc =
            spec_make(collation->arena, collation->collator, fields->locale, &collation->spec, err);
    if (rc == VD_OK)
        *ret_collation = collation;
    else
        collation_free(collation);
    return rc;
}

/* ---- those that are kept ---- */

static bool same(vd_bson_t a, vd_bson_t b)
{
    return a.len == b.len && memcmp(a.data, b.data, a.len) == 0;
}

/* Taken by one more user, and put first. */
static collation_t *kept_find(vd_bson_t asked)
{
    collation_t *found = NULL;
    pthread_mutex_lock(&kept_lock);
    for (collation_t **at = &kept; *at != NULL && found == NULL; at = &(*at)->next)
        if (same((*at)->asked, asked) || same((*at)->spec, asked)) {
            found = *at;
            *at = found->next;
            found->next = kept;
            kept = found;
            found->users++;
            break;
        }
    pthread_mutex_unlock(&kept_lock);
    return found;
}

/* Takes the place of the one that nobody has used for longest. */
static void kept_add(collation_t *collation)
{
    collation_t **oldest = NULL, *gone = NULL;
    pthread_mutex_lock(&kept_lock);
    if (kept_count == STOR_COLLATIONS_KEPT) {
        for (collation_t **at = &kept; *at != NULL; at = &(*at)->next)
            if ((*at)->users == 0)
                oldest = at;
        if (oldest != NULL) {
            gone = *oldest;
            *oldest = gone->next;
            kept_count--;
        }
    }
    if (kept_count < STOR_COLLATIONS_KEPT) {
        collation->kept = true;
        collation->next = kept;
        kept = collation;
        kept_count++;
    }
    pthread_mutex_unlock(&kept_lock);
    if (gone != NULL)
        collation_free(gone);
}

static void give_back(void *taken)
{
    collation_t *collation = taken;
    pthread_mutex_lock(&kept_lock);
    bool last = --collation->users == 0 && !collation->kept;
    pthread_mutex_unlock(&kept_lock);
    if (last)
        collation_free(collation);
}

/* One more user of it; NULL for the simple one. of_version: another version of ICU's is refused. */
static int take(vd_bson_t spec, bool of_version, collation_t **ret_collation, vd_error_t *err)
{
    fields_t fields = {0};
    *ret_collation = NULL;
    if (vd_bson_is_empty(spec))
        return VD_OK;
    collation_t *collation = kept_find(spec);
    if (collation == NULL) {
        int rc = fields_read(spec, &fields, err);
        if (rc != VD_OK)
            return rc;
        if (vd_slice_is(fields.locale, "simple"))
            return vd_bson_count(spec) == 1
                       ? VD_OK
                       : vd_error_set(err, VD_ERR_BAD_VALUE,
                                      "Options can not be used with the locale 'simple'");
        rc = collation_make(spec, &fields, &collation, err);
        if (rc != VD_OK)
            return rc;
        kept_add(collation);
    }
    vd_value_t asked = vd_bson_get(spec, "version"), has = vd_bson_get(collation->spec, "version");
    if (of_version && asked.type == VD_BSON_STRING && !vd_value_identical(asked, has)) {
        int rc =
            vd_error_set(err, VD_ERR_INCOMPATIBLE_COLLATION_VERSION,
                         "Requested collation version %.*s but the only available collator "
                         "version was %.*s",
                         VD_SLICE_FMT(vd_value_string(asked)), VD_SLICE_FMT(vd_value_string(has)));
        give_back(collation);
        return rc;
    }
    *ret_collation = collation;
    return VD_OK;
}

void stor_collation_end(void)
{
    collation_t *collation = in_force;
    if (collation == NULL)
        return;
    in_force = NULL;
    (void)vd_collation_set(NULL);
    give_back(collation);
}

int stor_collation_use(vd_bson_t spec, vd_error_t *err)
{
    collation_t *collation;
    stor_collation_end();
    int rc = take(spec, true, &collation, err);
    if (rc != VD_OK || collation == NULL)
        return rc;
    in_force = collation;
    (void)vd_collation_set(&collation->base);
    return VD_OK;
}

vd_bson_t stor_collation_spec(void)
{
    return in_force == NULL ? VD_BSON_NONE : in_force->spec;
}

bool stor_collation_is(vd_bson_t whole)
{
    return in_force == NULL || whole.len == 0 ? in_force == NULL && whole.len == 0
                                              : same(in_force->spec, whole);
}

/* ---- those that collections and indexes have ---- */

int stor_collation_hold(vd_arena_t *arena, vd_bson_t spec, const vd_collation_t **ret_collation,
                        vd_error_t *err)
{
    collation_t *collation;
    *ret_collation = NULL;
    int rc = take(spec, false, &collation, err);
    if (rc != VD_OK || collation == NULL)
        return rc;
    vd_arena_on_reset(arena, give_back, collation);
    *ret_collation = &collation->base;
    return VD_OK;
}

vd_bson_t stor_collation_of(const vd_collation_t *collation)
{
    return collation == NULL ? VD_BSON_NONE : ((const collation_t *)collation)->spec;
}

bool stor_collation_version(vd_bson_t spec, char ret_version[STOR_COLLATION_VERSION_SIZE])
{
    collation_t *collation;
    vd_error_t err = VD_ERROR_INIT;
    if (take(spec, false, &collation, &err) != VD_OK || collation == NULL)
        return false;
    vd_slice_t version = vd_value_string(vd_bson_get(collation->spec, "version"));
    (void)snprintf(ret_version, STOR_COLLATION_VERSION_SIZE, "%.*s", VD_SLICE_FMT(version));
    give_back(collation);
    return true;
}

bool stor_collation_same(const vd_collation_t *a, const vd_collation_t *b)
{
    return a == b || (a != NULL && b != NULL && same(stor_collation_of(a), stor_collation_of(b)));
}

int stor_collation_whole(vd_arena_t *arena, vd_bson_t spec, vd_bson_t *ret_spec, vd_error_t *err)
{
    collation_t *collation;
    *ret_spec = VD_BSON_NONE;
    int rc = take(spec, true, &collation, err);
    if (rc != VD_OK || collation == NULL)
        return rc;
    *ret_spec = (vd_bson_t){vd_arena_copy(arena, collation->spec.data, collation->spec.len),
                            collation->spec.len};
    give_back(collation);
    return VD_OK;
}
