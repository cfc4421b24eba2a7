/* veddb-storaged/commands/index_spec.c — see index_spec.h. */
#include "veddb-storaged/commands/index_spec.h"

#include "veddb-storaged/args.h"
#include "veddb-storaged/index/index_private.h"
#include "veddb-storaged/query/collation.h"
#include "veddb-storaged/query/filter.h"

#include <math.h>

#define KEY_FIELDS_MAX 32
#define SPEC_TEXT_MAX  200 /* bytes of a specification inside a message */

typedef enum {
    FIELD_ANY,
    FIELD_FLAG, /* true, false or a number */
    FIELD_BOOL,
    FIELD_NUMBER,
    FIELD_STRING,
    FIELD_OBJECT,
} field_type_t;

typedef struct {
    const char *name;
    field_type_t type;
    bool of_id; /* the index on _id may have it */
} field_t;

static const field_t fields[] = {
    {"key", FIELD_OBJECT, true},
    {"name", FIELD_STRING, true},
    {"v", FIELD_NUMBER, true},
    {"ns", FIELD_ANY, true}, /* of old drivers; the namespace is the command's */
    {"background", FIELD_ANY, true},
    {"collation", FIELD_OBJECT, true},
    {"unique", FIELD_FLAG, false},
    {"sparse", FIELD_FLAG, false},
    {"dropDups", FIELD_FLAG, false},
    {"prepareUnique", FIELD_FLAG, false},
    {"clustered", FIELD_FLAG, false},
    {"hidden", FIELD_BOOL, false},
    {"partialFilterExpression", FIELD_OBJECT, false},
    {"expireAfterSeconds", FIELD_ANY, false}, /* has a check of its own */
    {"storageEngine", FIELD_OBJECT, false},
    {"weights", FIELD_ANY, false},
    {"default_language", FIELD_STRING, false},
    {"language_override", FIELD_STRING, false},
    {"textIndexVersion", FIELD_NUMBER, false},
    {"2dsphereIndexVersion", FIELD_NUMBER, false},
    {"bits", FIELD_NUMBER, false},
    {"min", FIELD_NUMBER, false},
    {"max", FIELD_NUMBER, false},
    {"wildcardProjection", FIELD_OBJECT, false},
};

static const field_t *field_find(vd_slice_t name)
{
    for (size_t i = 0; i < VD_COUNT_OF(fields); i++)
        if (vd_slice_is(name, fields[i].name))
            return &fields[i];
    return NULL;
}

static const char *text_of(stor_request_t *request, vd_bson_t spec)
{
    return vd_bson_to_json(request->arena, spec, SPEC_TEXT_MAX);
}

bool stor_index_is_id_key(vd_bson_t key)
{
    vd_value_t id = vd_bson_get(key, "_id");
    return vd_bson_count(key) == 1 && vd_value_is_number(id) && vd_value_as_double(id) == 1;
}

/* MongoDB takes {_id: -1} for an attempt at the index on _id too. */
static bool means_id_key(vd_bson_t key)
{
    vd_value_t id = vd_bson_get(key, "_id");
    return vd_bson_count(key) == 1 && vd_value_is_number(id) && fabs(vd_value_as_double(id)) == 1;
}

/* ---- key ---- */

static int no_key(vd_error_t *err, const char *why)
{
    return vd_error_set(err, VD_ERR_CANNOT_CREATE_INDEX, "%s", why);
}

/* Part by part: none empty, none with a $ except those of a DBRef and a wildcard at the end. */
static int path_check(vd_slice_t path, vd_error_t *err)
{
    if (path.len == 0)
        return no_key(err, "Index keys cannot be an empty field.");
    for (size_t at = 0, number = 0; at <= path.len; number++) {
        size_t end = at;
        while (end < path.len && path.data[end] != '.')
            end++;
        vd_slice_t part = vd_slice(path.data + at, end - at);
        bool wildcard = end == path.len && vd_slice_is(part, "$**");
        bool reference = number > 0 && (vd_slice_is(part, "$id") || vd_slice_is(part, "$ref") ||
                                        vd_slice_is(part, "$db"));
        if (part.len == 0)
            return no_key(err, "Index keys cannot contain an empty field.");
        if (part.data[0] == '$' && !wildcard && !reference)
            return no_key(err, "Index key contains an illegal field name: field name starts with "
                               "'$'.");
        at = end + 1;
    }
    return VD_OK;
}

static int plugin_check(vd_slice_t plugin, vd_slice_t *first, vd_error_t *err)
{
    static const char *const plugins[] = {"text", "2d", "2dsphere", "hashed"};
    bool known = false;
    for (size_t i = 0; i < VD_COUNT_OF(plugins); i++)
        known |= vd_slice_is(plugin, plugins[i]);
    if (!known)
        return vd_error_set(err, VD_ERR_CANNOT_CREATE_INDEX, "Unknown index plugin '%.*s'",
                            VD_SLICE_FMT(plugin));
    if (first->len > 0 && !vd_slice_equal(*first, plugin))
        return no_key(err, "Can't use more than one index plugin for a single index.");
    *first = plugin;
    return VD_OK;
}

static int direction_check(vd_value_t v, vd_slice_t *plugin, vd_error_t *err)
{
    if (v.type == VD_BSON_STRING)
        return plugin_check(vd_value_string(v), plugin, err);
    if (!vd_value_is_number(v))
        return vd_error_set(err, VD_ERR_CANNOT_CREATE_INDEX,
                            "Values in v:2 index key pattern cannot be of type %s. Only numbers > "
                            "0, numbers < 0, and strings are allowed.",
                            vd_bson_type_name(v.type));
    double direction = vd_value_as_double(v);
    if (isnan(direction))
        return no_key(err, "Values in the index key pattern cannot be NaN.");
    return direction == 0 ? no_key(err, "Values in the index key pattern cannot be 0.") : VD_OK;
}

static int key_check(stor_request_t *request, vd_bson_t key, vd_error_t *err)
{
    vd_bson_iter_t iter, before;
    vd_slice_t plugin = VD_SLICE_NULL;
    int rc = VD_OK;
    if (vd_bson_is_empty(key))
        return no_key(err, "Index keys cannot be an empty object.");
    if (key.len > 2048 || vd_bson_count(key) > KEY_FIELDS_MAX)
        return no_key(err, "Index key pattern too large.");
    vd_bson_iter_init(&iter, key);
    while (rc == VD_OK && vd_bson_iter_next(&iter)) {
        vd_bson_iter_init(&before, key);
        while (vd_bson_iter_next(&before) && before.name.data != iter.name.data)
            if (vd_slice_equal(before.name, iter.name))
                return vd_error_set(err, VD_ERR_BAD_VALUE,
                                    "The field '%.*s' appears multiple times in the index key "
                                    "pattern %s",
                                    VD_SLICE_FMT(iter.name), text_of(request, key));
        rc = direction_check(iter.value, &plugin, err);
        if (rc == VD_OK)
            rc = path_check(iter.name, err);
    }
    return rc;
}

/* ---- the other fields ---- */

static int type_check(const field_t *field, vd_value_t v, vd_error_t *err)
{
    const char *expected;
    switch (field->type) {
    case FIELD_FLAG:
        if (v.type == VD_BSON_BOOL || vd_value_is_number(v))
            return VD_OK;
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "The field '%s' has a value of type %s, which is not convertible to "
                            "bool",
                            field->name, vd_bson_type_name(v.type));
    case FIELD_BOOL:
        expected = v.type == VD_BSON_BOOL ? NULL : "a bool";
        break;
    case FIELD_NUMBER:
        expected = vd_value_is_number(v) ? NULL : "a number";
        break;
    case FIELD_STRING:
        expected = v.type == VD_BSON_STRING ? NULL : "a string";
        break;
    case FIELD_OBJECT:
        expected = v.type == VD_BSON_OBJECT ? NULL : "an object";
        break;
    default:
        expected = NULL;
    }
    return expected == NULL
               ? VD_OK
               : vd_error_set(err, VD_ERR_TYPE_MISMATCH, "The field '%s' must be %s, but got %s",
                              field->name, expected, vd_bson_type_name(v.type));
}

static int expiry_check(vd_bson_t spec, vd_error_t *err)
{
    vd_value_t v = vd_bson_get(spec, "expireAfterSeconds");
    if (vd_value_is_missing(v))
        return VD_OK;
    if (!vd_value_is_number(v))
        return vd_error_set(err, VD_ERR_CANNOT_CREATE_INDEX,
                            "TTL index 'expireAfterSeconds' option must be numeric, but received a "
                            "type of '%s'",
                            vd_bson_type_name(v.type));
    double seconds = vd_value_as_double(v);
    if (!(seconds >= 0))
        return no_key(err, "TTL index 'expireAfterSeconds' option cannot be less than 0");
    if (seconds > INT32_MAX)
        return no_key(err, "TTL index 'expireAfterSeconds' option must be within an acceptable "
                           "range, try a different value");
    if (vd_bson_count(vd_value_document(vd_bson_get(spec, "key"))) != 1)
        return no_key(err, "TTL indexes are single-field indexes, compound indexes do not support "
                           "TTL");
    return VD_OK;
}

static int version_check(stor_request_t *request, vd_bson_t spec, vd_error_t *err)
{
    vd_value_t v = vd_bson_get(spec, "v");
    double version = vd_value_is_missing(v) ? 2 : vd_value_as_double(v);
    return version == 1 || version == 2
               ? VD_OK
               : vd_error_set(err, VD_ERR_CANNOT_CREATE_INDEX,
                              "Invalid index specification %s; cannot create an index with v=%s",
                              text_of(request, spec), vd_value_to_json(request->arena, v, 30));
}

/* Every field by itself. */
static int fields_check(stor_request_t *request, vd_bson_t spec, bool ignore_unknown,
                        vd_error_t *err)
{
    vd_bson_iter_t iter;
    int rc = VD_OK;
    vd_bson_iter_init(&iter, spec);
    while (rc == VD_OK && vd_bson_iter_next(&iter)) {
        const field_t *field = field_find(iter.name);
        if (field != NULL)
            rc = type_check(field, iter.value, err);
        else if (!ignore_unknown)
            rc = vd_error_set(err, VD_ERR_INVALID_INDEX_SPECIFICATION_OPTION,
                              "The field '%.*s' is not valid for an index specification. "
                              "Specification: %s",
                              VD_SLICE_FMT(iter.name), text_of(request, spec));
    }
    static const char *const required[] = {"key", "name"};
    for (size_t i = 0; rc == VD_OK && i < VD_COUNT_OF(required); i++)
        if (vd_value_is_missing(vd_bson_get(spec, required[i])))
            rc = vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                              "The '%s' field is a required property of an index specification",
                              required[i]);
    return rc;
}

/* What the fields mean together. */
static int whole_check(stor_request_t *request, vd_bson_t spec, vd_error_t *err)
{
    vd_value_t partial = vd_bson_get(spec, "partialFilterExpression");
    stor_filter_t *filter;
    int rc = key_check(request, vd_value_document(vd_bson_get(spec, "key")), err);
    if (rc == VD_OK)
        rc = version_check(request, spec, err);
    if (rc == VD_OK && vd_value_string(vd_bson_get(spec, "name")).len == 0)
        rc = no_key(err, "index name cannot be empty");
    if (rc == VD_OK)
        rc = expiry_check(spec, err);
    if (rc != VD_OK || partial.type != VD_BSON_OBJECT)
        return rc;
    if (vd_value_as_flag(vd_bson_get(spec, "sparse")))
        return no_key(err, "cannot mix \"partialFilterExpression\" and \"sparse\" options");
    rc = stor_filter_parse(request->arena, vd_value_document(partial), NULL, &filter, err);
    if (rc == VD_OK && stor_filter_version(filter) != 0)
        rc = vd_error_set(err, VD_ERR_CANNOT_CREATE_INDEX,
                          "$version is not allowed in a partial index");
    return rc;
}

/* ---- the index on _id ---- */

static bool same_document(vd_bson_t a, vd_bson_t b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

/* of: the collection's. */
static int id_check(stor_request_t *request, vd_bson_t spec, vd_bson_t of, vd_error_t *err)
{
    vd_bson_t key = vd_value_document(vd_bson_get(spec, "key")), whole;
    vd_value_t collation = vd_bson_get(spec, "collation");
    vd_bson_iter_t iter;
    if (!stor_index_is_id_key(key))
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "The field 'key' for an _id index must be {_id: 1}, but got %s",
                            text_of(request, key));
    vd_bson_iter_init(&iter, spec);
    while (vd_bson_iter_next(&iter)) {
        const field_t *field = field_find(iter.name);
        if (field != NULL && !field->of_id)
            return vd_error_set(err, VD_ERR_INVALID_INDEX_SPECIFICATION_OPTION,
                                "The field '%s' is not valid for an _id index specification. "
                                "Specification: %s",
                                field->name, text_of(request, spec));
    }
    if (collation.type != VD_BSON_OBJECT)
        return VD_OK;
    int rc = stor_collation_whole(request->arena, vd_value_document(collation), &whole, err);
    return rc != VD_OK || same_document(whole, of)
               ? rc
               : vd_error_set(err, VD_ERR_BAD_VALUE,
                              "The _id index must have the same collation as the collection. Index "
                              "collation: %s, collection collation: %s",
                              text_of(request, whole), text_of(request, of));
}

/* ---- the others ---- */

static int not_built(stor_request_t *request, vd_slice_t name, const char *what, vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED, "index %.*s on %.*s: %s are not built yet",
                        VD_SLICE_FMT(name), VD_SLICE_FMT(request->ns), what);
}

/* Kinds of indexes, and what goes with each. */
static int kind_check(stor_request_t *request, vd_bson_t spec, vd_error_t *err)
{
    vd_bson_t key = vd_value_document(vd_bson_get(spec, "key"));
    vd_slice_t name = vd_value_string(vd_bson_get(spec, "name"));
    bool unique = vd_value_as_flag(vd_bson_get(spec, "unique")), hashed = false, wildcard = false;
    vd_value_t expire = vd_bson_get(spec, "expireAfterSeconds"),
               projection = vd_bson_get(spec, "wildcardProjection"),
               collation = vd_bson_get(spec, "collation"),
               engine = vd_bson_get(spec, "storageEngine");
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, key);
    while (vd_bson_iter_next(&iter)) {
        bool is_wildcard =
            vd_slice_is(iter.name, "$**") ||
            (iter.name.len > 4 && memcmp(iter.name.data + iter.name.len - 4, ".$**", 4) == 0);
        if (iter.value.type == VD_BSON_STRING) {
            vd_slice_t plugin = vd_value_string(iter.value);
            if (!vd_slice_is(plugin, "hashed"))
                return not_built(
                    request, name,
                    vd_arena_printf(request->arena, "'%.*s' indexes", VD_SLICE_FMT(plugin)), err);
            if (is_wildcard)
                return no_key(err, "Index plugin 'hashed' cannot be used with a wildcard index");
            if (hashed)
                return vd_error_set(err, VD_ERR_LOCATION(31303),
                                    "A maximum of one index field is allowed to be hashed");
            hashed = true;
        } else if (is_wildcard) {
            if (wildcard)
                return no_key(err, "An index may have one wildcard field at most");
            wildcard = true;
        }
    }
    if (collation.type == VD_BSON_OBJECT) {
        vd_bson_t whole;
        int rc = stor_collation_whole(request->arena, vd_value_document(collation), &whole, err);
        if (rc != VD_OK)
            return rc;
    }
    if (engine.type == VD_BSON_OBJECT && !vd_bson_is_empty(vd_value_document(engine)))
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "storageEngine: this engine has no options of an index");
    if (vd_value_as_flag(vd_bson_get(spec, "clustered")))
        return not_built(request, name, "clustered indexes beside the one on _id", err);
    if (hashed && unique)
        return vd_error_set(err, VD_ERR_LOCATION(16764),
                            "Currently hashed indexes cannot guarantee uniqueness. Use a regular "
                            "index.");
    if (wildcard && unique)
        return no_key(err, "Index type 'wildcard' does not support the unique option");
    if (wildcard && vd_value_as_flag(vd_bson_get(spec, "sparse")))
        return no_key(err, "Index type 'wildcard' does not support the sparse option");
    if (wildcard && !vd_value_is_missing(expire))
        return no_key(err, "Index type 'wildcard' cannot make a TTL index");
    if (projection.type == VD_BSON_OBJECT) {
        if (!wildcard || vd_value_is_missing(vd_bson_get(key, "$**")))
            return vd_error_set(err, VD_ERR_BAD_VALUE,
                                "The field 'wildcardProjection' is only allowed when 'key' is "
                                "{'$**': 1}");
        if (vd_bson_is_empty(vd_value_document(projection)))
            return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                                "The 'wildcardProjection' field can't be an empty object");
    }
    return VD_OK;
}

/* As MongoDB allows in a partial index. */
static int partial_check(const stor_filter_t *filter, unsigned depth, vd_error_t *err)
{
    int rc = VD_OK;
    switch (filter->kind) {
    case STOR_FILTER_AND:
    case STOR_FILTER_OR:
        if (depth > 4)
            return no_key(err, "partialFilterExpression depth may not exceed 4");
        for (uint32_t i = 0; rc == VD_OK && i < filter->child_count; i++)
            rc = partial_check(filter->children[i], depth + 1, err);
        return rc;
    case STOR_FILTER_EQ:
    case STOR_FILTER_LT:
    case STOR_FILTER_LTE:
    case STOR_FILTER_GT:
    case STOR_FILTER_GTE:
    case STOR_FILTER_EXISTS:
    case STOR_FILTER_TYPE:
    case STOR_FILTER_TRUE:
    case STOR_FILTER_FALSE:
        return VD_OK;
    case STOR_FILTER_IN:
        return filter->regex_count == 0
                   ? VD_OK
                   : no_key(err, "Expression not supported in partial index: $in with a regular "
                                 "expression");
    default:
        return no_key(err, "Expression not supported in partial index");
    }
}

static int definition_check(stor_request_t *request, vd_bson_t spec, vd_error_t *err)
{
    const stor_index_def_t *def;
    int rc = kind_check(request, spec, err);
    if (rc == VD_OK)
        rc = stor_index_def_parse(request->arena, spec, &def, err);
    return rc == VD_OK && def->partial != NULL ? partial_check(def->partial, 0, err) : rc;
}

int stor_index_spec_check(stor_request_t *request, vd_bson_t spec, bool ignore_unknown,
                          vd_bson_t collation, bool *ret_is_id, vd_error_t *err)
{
    vd_error_t step = VD_ERROR_INIT;
    int rc = fields_check(request, spec, ignore_unknown, &step);
    if (rc == VD_OK)
        rc = whole_check(request, spec, &step);
    if (rc != VD_OK)
        return vd_error_set(err, rc, "Error in specification %s :: caused by :: %s",
                            text_of(request, spec), step.message);
    vd_bson_t key = vd_value_document(vd_bson_get(spec, "key"));
    vd_slice_t name = vd_value_string(vd_bson_get(spec, "name"));
    *ret_is_id = means_id_key(key);
    if (*ret_is_id)
        return id_check(request, spec, collation, err);
    if (vd_slice_is(name, "*"))
        return vd_error_set(err, VD_ERR_BAD_VALUE, "The index name '*' is not valid.");
    if (vd_slice_is(name, "_id_"))
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "The index name '_id_' is reserved for the _id index, which must have "
                            "key pattern {_id: 1}, found %s",
                            text_of(request, key));
    return definition_check(request, spec, err);
}

int stor_index_spec_normalise(stor_request_t *request, vd_bson_t spec, vd_bson_t collation,
                              vd_bson_t *ret_spec, vd_error_t *err)
{
    vd_value_t own = vd_bson_get(spec, "collation");
    static const char *const gone[] = {"v",        "key",       "name",      "ns",
                                       "dropDups", "collation", "clustered", "storageEngine"};
    static const char *const flags[] = {"unique", "sparse", "hidden", "prepareUnique"};
    vd_bb_t *bb = vd_arena_alloc(request->arena, sizeof *bb);
    vd_bson_iter_t iter;
    vd_bb_init_arena(bb, request->arena, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_int32(bb, "v", 2);
    vd_bb_value(bb, VD_SLICE_LIT("key"), vd_bson_get(spec, "key"));
    vd_bb_value(bb, VD_SLICE_LIT("name"), vd_bson_get(spec, "name"));
    vd_bson_iter_init(&iter, spec);
    while (vd_bson_iter_next(&iter)) {
        bool skip = field_find(iter.name) == NULL, flag = false;
        for (size_t i = 0; i < VD_COUNT_OF(gone); i++)
            skip |= vd_slice_is(iter.name, gone[i]);
        for (size_t i = 0; i < VD_COUNT_OF(flags); i++)
            flag |= vd_slice_is(iter.name, flags[i]);
        if (skip || (flag && !vd_value_as_flag(iter.value)))
            continue;
        vd_value_t value = flag ? vd_value_from_bool(true) : iter.value;
        if (vd_slice_is(iter.name, "background")) /* all are; shown as it was said */
            value = vd_value_from_bool(vd_value_as_flag(iter.value));
        if (vd_slice_is(iter.name, "expireAfterSeconds"))
            value = vd_value_from_int32(request->arena, (int32_t)vd_value_as_double(iter.value));
        vd_bb_value(bb, iter.name, value);
    }
    if (own.type == VD_BSON_OBJECT) {
        int rc = stor_collation_whole(request->arena, vd_value_document(own), &collation, err);
        if (rc != VD_OK)
            return rc;
    }
    if (collation.len > 0)
        vd_bb_document(bb, "collation", collation);
    return vd_bb_finish(bb, ret_spec, err);
}

static bool same_field(vd_bson_t a, vd_bson_t b, const char *name)
{
    vd_value_t x = vd_bson_get(a, name), y = vd_bson_get(b, name);
    return x.type == y.type && x.len == y.len && (x.len == 0 || memcmp(x.data, y.data, x.len) == 0);
}

/* What makes it another index. */
static bool same_signature(vd_bson_t a, vd_bson_t b)
{
    return stor_index_same_key(vd_value_document(vd_bson_get(a, "key")),
                               vd_value_document(vd_bson_get(b, "key"))) &&
           same_field(a, b, "unique") && same_field(a, b, "sparse") &&
           same_field(a, b, "partialFilterExpression") && same_field(a, b, "wildcardProjection") &&
           same_field(a, b, "collation");
}

int stor_index_spec_conflict(stor_request_t *request, vd_bson_t wanted, vd_bson_t existing,
                             bool *ret_same, vd_error_t *err)
{
    bool same_name = same_field(wanted, existing, "name");
    bool signature = same_signature(wanted, existing);
    bool options = same_field(wanted, existing, "expireAfterSeconds") &&
                   same_field(wanted, existing, "hidden");
    *ret_same = same_name && signature && options;
    if (*ret_same || (!same_name && !signature))
        return VD_OK;
    if (same_name && !signature)
        return vd_error_set(err, VD_ERR_INDEX_KEY_SPECS_CONFLICT,
                            "An existing index has the same name as the requested index. When "
                            "index names are not specified, they are auto generated and can cause "
                            "conflicts. Please refer to our documentation. Requested index: %s, "
                            "existing index: %s",
                            text_of(request, wanted), text_of(request, existing));
    if (same_name)
        return vd_error_set(err, VD_ERR_INDEX_OPTIONS_CONFLICT,
                            "An equivalent index already exists with the same name but different "
                            "options. Requested index: %s, existing index: %s",
                            text_of(request, wanted), text_of(request, existing));
    return vd_error_set(err, VD_ERR_INDEX_OPTIONS_CONFLICT,
                        "Index already exists with a different name: %.*s",
                        VD_SLICE_FMT(vd_value_string(vd_bson_get(existing, "name"))));
}
