/* veddb-storaged/commands/point.c — which requests answer from a document or two, told by a look at
 * their bytes: the fast lane's door.
 *
 * A wrong guess costs only time, so nothing is parsed: `_id` with a plain value, or {$eq: value}.
 */
#include "veddb-storaged/commands/table.h"

#define QUICK_INSERT_MAX_BYTES (64 * 1024)

static bool pins_id(vd_bson_t filter)
{
    vd_value_t id = vd_bson_get(filter, "_id");
    vd_slice_t name;
    vd_value_t first;
    if (vd_value_is_missing(id) || id.type == VD_BSON_REGEX)
        return false;
    if (id.type != VD_BSON_OBJECT || !vd_bson_first(vd_value_document(id), &name, &first))
        return true;
    return name.len == 0 || name.data[0] != '$' || vd_slice_is(name, "$eq");
}

bool stor_point_filter(vd_bson_t statement, const char *field)
{
    vd_value_t filter = vd_bson_get(statement, field);
    return filter.type == VD_BSON_OBJECT && pins_id(vd_value_document(filter));
}

bool stor_point_by_filter(const stor_request_t *request, const char *field)
{
    return stor_point_filter(request->sections.body, field);
}

bool stor_point_insert(const stor_request_t *request)
{
    return request->item.len <= QUICK_INSERT_MAX_BYTES;
}

bool stor_point_find(const stor_request_t *request)
{
    return stor_point_by_filter(request, "filter");
}

bool stor_point_count(const stor_request_t *request)
{
    vd_value_t query = vd_bson_get(request->sections.body, "query");
    return query.type != VD_BSON_OBJECT || vd_value_document(query).len <= 5 ||
           pins_id(vd_value_document(query));
}

/* One stage, of a database and not of a collection: $currentOp and its like. More stages may join
 * with anything. */
bool stor_point_aggregate(const stor_request_t *request)
{
    vd_slice_t name;
    vd_value_t first, pipeline = vd_bson_get(request->sections.body, "pipeline");
    return vd_bson_first(request->sections.body, &name, &first) && first.type != VD_BSON_STRING &&
           pipeline.type == VD_BSON_ARRAY && vd_bson_count(vd_value_document(pipeline)) == 1;
}
