/* veddb-storaged/query/json_schema.h — $jsonSchema (draft 4 with bsonType), as MongoDB 7.0 accepts
 * it.
 *
 * Pure.
 * Owner:   parse arena.
 * Threads: immutable after parse.
 * Errors:  unknown keywords are refused (9), `$ref`, `$schema`, `default`, `definitions`, `format`,
 *          `id` by name. */
#pragma once
#include "veddb-storaged/query/filter.h"

VD_MUST_CHECK int stor_json_schema_parse(vd_arena_t *arena, vd_bson_t schema,
                                         stor_json_schema_t **ret_schema, vd_error_t *err);
bool stor_json_schema_matches(const stor_json_schema_t *schema, vd_value_t value);
/* MongoDB's errInfo.details.schemaRulesNotSatisfied for a document that fails, as an array in
 * arena. */
vd_bson_t stor_json_schema_explain_failure(const stor_json_schema_t *schema, vd_arena_t *arena,
                                           vd_value_t value);
