/* veddb-storaged/query/filter_print.c — a filter's tree as BSON, the form in which explain shows
 * parsedQuery. */
#include "libcommon/bson/build.h"
#include "veddb-storaged/query/filter_private.h"
#include "veddb-storaged/query/json_schema.h"
#include "veddb-storaged/query/regex.h"

/* A parsed query may be somewhat longer than the filter that it came from, never without bound. */
#define PARSED_QUERY_MAX_BYTES (4 * VD_BSON_DOCUMENT_MAX_BYTES)

static void print_node(vd_bb_t *bb, vd_arena_t *arena, const stor_filter_t *node);

static void print_regex_value(vd_bb_t *bb, vd_arena_t *arena, vd_slice_t name,
                              const stor_regex_t *regex)
{
    vd_slice_t pattern = stor_regex_pattern(regex), options = stor_regex_options(regex);
    uint8_t *payload = vd_arena_zalloc(arena, pattern.len + options.len + 2);
    if (pattern.len > 0)
        memcpy(payload, pattern.data, pattern.len);
    if (options.len > 0)
        memcpy(payload + pattern.len + 1, options.data, options.len);
    vd_bb_value(bb, name,
                (vd_value_t){payload, (uint32_t)(pattern.len + options.len + 2), VD_BSON_REGEX});
}

static void print_in(vd_bb_t *bb, vd_arena_t *arena, const stor_filter_t *node)
{
    char buf[12];
    vd_bb_begin_array(bb, "$in");
    for (uint32_t i = 0; i < node->value_count; i++)
        vd_bb_value(bb, vd_array_name(i, buf), node->values[i]);
    for (uint32_t i = 0; i < node->regex_count; i++)
        print_regex_value(bb, arena, vd_array_name(node->value_count + i, buf), node->regexes[i]);
    vd_bb_close(bb);
}

static void print_types(vd_bb_t *bb, const stor_filter_t *node)
{
    uint32_t position = 0;
    char buf[12];
    uint32_t mask = node->type_mask;
    vd_bb_begin_array(bb, "$type");
    if ((mask & STOR_TYPE_BITS_NUMBER) == STOR_TYPE_BITS_NUMBER) {
        vd_slice_t name = vd_array_name(position++, buf);
        vd_bb_value(bb, name, vd_value_from_string(bb->arena, VD_SLICE_LIT("number")));
        mask &= ~STOR_TYPE_BITS_NUMBER;
    }
    for (int type = 0; type < 256; type++) {
        uint32_t bit = stor_type_bit((uint8_t)type);
        if (bit == 0 || (mask & bit) == 0)
            continue;
        int32_t code = type == VD_BSON_MINKEY ? -1 : type;
        vd_bb_value(bb, vd_array_name(position++, buf), vd_value_from_int32(bb->arena, code));
    }
    vd_bb_close(bb);
}

static void print_bits(vd_bb_t *bb, const stor_filter_t *node)
{
    static const char *const names[] = {"$bitsAllSet", "$bitsAllClear", "$bitsAnySet",
                                        "$bitsAnyClear"};
    char buf[12];
    uint32_t position = 0;
    vd_bb_begin_array(bb, names[node->bits_kind]);
    for (uint32_t i = 0; i < node->bit_count; i++)
        vd_bb_value(bb, vd_array_name(position++, buf),
                    vd_value_from_int64(bb->arena, node->bit_positions[i]));
    for (size_t i = 0; i < node->bits_mask.len && vd_bb_len(bb) < PARSED_QUERY_MAX_BYTES; i++)
        for (uint32_t bit = 0; bit < 8; bit++)
            if ((node->bits_mask.data[i] >> bit & 1) != 0)
                vd_bb_value(bb, vd_array_name(position++, buf),
                            vd_value_from_int64(bb->arena, (int64_t)(i * 8 + bit)));
    vd_bb_close(bb);
}

/* Operators without a path, side by side in one document. Several $regex with $options would be
 * taken for one: they are written as $in. */
static void print_together(vd_bb_t *bb, vd_arena_t *arena, const stor_filter_t *node)
{
    for (uint32_t i = 0; i < node->child_count; i++) {
        if (node->children[i]->kind == STOR_FILTER_REGEX && node->child_count > 1)
            print_in(bb, arena, node->children[i]);
        else
            print_node(bb, arena, node->children[i]);
    }
}

/* The operator of one field: what stands inside {field: {...}}. False for what has no such form. */
static bool print_operator(vd_bb_t *bb, vd_arena_t *arena, const stor_filter_t *node)
{
    switch (node->kind) {
    case STOR_FILTER_EQ:
        vd_bb_value(bb, VD_SLICE_LIT("$eq"), node->value);
        return true;
    case STOR_FILTER_LT:
        vd_bb_value(bb, VD_SLICE_LIT("$lt"), node->value);
        return true;
    case STOR_FILTER_LTE:
        vd_bb_value(bb, VD_SLICE_LIT("$lte"), node->value);
        return true;
    case STOR_FILTER_GT:
        vd_bb_value(bb, VD_SLICE_LIT("$gt"), node->value);
        return true;
    case STOR_FILTER_GTE:
        vd_bb_value(bb, VD_SLICE_LIT("$gte"), node->value);
        return true;
    case STOR_FILTER_IN:
        print_in(bb, arena, node);
        return true;
    case STOR_FILTER_REGEX:
        vd_bb_string(bb, "$regex", stor_regex_pattern(node->regexes[0]));
        if (stor_regex_options(node->regexes[0]).len > 0)
            vd_bb_string(bb, "$options", stor_regex_options(node->regexes[0]));
        return true;
    case STOR_FILTER_EXISTS:
        vd_bb_bool(bb, "$exists", true);
        return true;
    case STOR_FILTER_TYPE:
        print_types(bb, node);
        return true;
    case STOR_FILTER_SIZE:
        vd_bb_int32(bb, "$size", (int32_t)node->number);
        return true;
    case STOR_FILTER_MOD:
        vd_bb_begin_array(bb, "$mod");
        vd_bb_int64(bb, "0", node->divisor);
        vd_bb_int64(bb, "1", node->remainder);
        vd_bb_close(bb);
        return true;
    case STOR_FILTER_BITS:
        print_bits(bb, node);
        return true;
    case STOR_FILTER_ELEM_MATCH_OBJECT:
        vd_bb_begin_document(bb, "$elemMatch");
        print_node(bb, arena, node->children[0]);
        vd_bb_close(bb);
        return true;
    case STOR_FILTER_ELEM_MATCH_VALUE:
        vd_bb_begin_document(bb, "$elemMatch");
        print_together(bb, arena, node);
        vd_bb_close(bb);
        return true;
    default:
        return false;
    }
}

static bool is_operator(const stor_filter_t *node)
{
    return node->kind >= STOR_FILTER_EQ && node->kind <= STOR_FILTER_ELEM_MATCH_VALUE;
}

static void print_list(vd_bb_t *bb, vd_arena_t *arena, const char *name, const stor_filter_t *node)
{
    char buf[12];
    vd_bb_begin_array(bb, name);
    for (uint32_t i = 0; i < node->child_count; i++) {
        vd_bb_open_document(bb, vd_array_name(i, buf));
        print_node(bb, arena, node->children[i]);
        vd_bb_close(bb);
    }
    vd_bb_close(bb);
}

/* A predicate on one value, as it stands under $elemMatch. */
static bool is_pathless(const stor_filter_t *node)
{
    while (node->kind == STOR_FILTER_AND || node->kind == STOR_FILTER_NOT)
        node = node->children[0];
    return is_operator(node) && node->path.count == 0;
}

/* {a: {$not: {$eq: 1}}}; what is no operator of one field can only stand under $nor. */
static void print_not(vd_bb_t *bb, vd_arena_t *arena, const stor_filter_t *node)
{
    const stor_filter_t *child = node->children[0];
    if (is_pathless(child)) {
        vd_bb_begin_document(bb, "$not");
        print_together(bb, arena, child->kind == STOR_FILTER_AND ? child : node);
        vd_bb_close(bb);
    } else if (is_operator(child)) {
        vd_bb_open_document(bb, child->path.text);
        vd_bb_begin_document(bb, "$not");
        (void)print_operator(bb, arena, child);
        vd_bb_close(bb);
        vd_bb_close(bb);
    } else {
        print_list(bb, arena, "$nor", node);
    }
}

/* Appends the node's fields to the open document. */
static void print_node(vd_bb_t *bb, vd_arena_t *arena, const stor_filter_t *node)
{
    switch (node->kind) {
    case STOR_FILTER_AND:
        print_list(bb, arena, "$and", node);
        return;
    case STOR_FILTER_OR:
        print_list(bb, arena, "$or", node);
        return;
    case STOR_FILTER_NOR:
        print_list(bb, arena, "$nor", node);
        return;
    case STOR_FILTER_NOT:
        print_not(bb, arena, node);
        return;
    case STOR_FILTER_EXPR:
        vd_bb_value(bb, VD_SLICE_LIT("$expr"), node->value);
        return;
    case STOR_FILTER_JSON_SCHEMA:
        vd_bb_value(bb, VD_SLICE_LIT("$jsonSchema"), node->value);
        return;
    case STOR_FILTER_VERSION:
        vd_bb_value(bb, VD_SLICE_LIT("$version"), node->value);
        return;
    case STOR_FILTER_TRUE:
        vd_bb_int32(bb, "$alwaysTrue", 1);
        return;
    case STOR_FILTER_FALSE:
        vd_bb_int32(bb, "$alwaysFalse", 1);
        return;
    default:
        break;
    }
    if (node->path.count == 0) {
        (void)print_operator(bb, arena, node);
        return;
    }
    if (node->path.text.len > 0 && node->path.text.data[0] == '$') {
        vd_bb_value(bb, node->path.text,
                    node->value); /* $ref, $id, $db: fields that take no operators */
        return;
    }
    vd_bb_open_document(bb, node->path.text);
    (void)print_operator(bb, arena, node);
    vd_bb_close(bb);
}

vd_bson_t stor_filter_to_bson(vd_arena_t *arena, const stor_filter_t *filter)
{
    vd_bb_t bb;
    vd_bb_init_arena(&bb, arena, PARSED_QUERY_MAX_BYTES);
    if (filter->kind != STOR_FILTER_TRUE)
        print_node(&bb, arena, filter);
    vd_bson_t document;
    vd_error_t err = VD_ERROR_INIT;
    if (vd_bb_finish(&bb, &document, &err) == VD_OK)
        return document;
    /* Too long or too deep to show: say so instead of nothing. */
    vd_bb_init_arena(&bb, arena, 256);
    vd_bb_cstr(&bb, "$comment", "the parsed query is too large or too deep to show");
    return vd_bb_finish(&bb, &document, &err) == VD_OK ? document : VD_BSON_NONE;
}
