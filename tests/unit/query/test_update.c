/* tests/unit/query/test_update.c — operators on values, paths, conflicts, errors. */
#include "tests/unit/query/update_cases.h"

Test(update, set)
{
    static const update_case_t cases[] = {
        {"{'_id': 1}", "{'$set': {'a': 1}}", "{'_id': 1, 'a': 1}"},
        {"{'_id': 1, 'a': 1}", "{'$set': {'a': 2}}", "{'_id': 1, 'a': 2}"},
        {"{'_id': 1, 'a': 1}", "{'$set': {'a': 1}}", SAME},
        {"{'_id': 1, 'a': 1}", "{'$set': {'a': 1.0}}", "{'_id': 1, 'a': 1.0}"},
        {"{'_id': 1, 'a': 1}", "{'$set': {'a': {'$numberLong': '1'}}}",
         "{'_id': 1, 'a': {'$numberLong': '1'}}"},
        {"{'_id': 1, 'a': {'b': 1, 'c': 2}}", "{'$set': {'a.b': 'x'}}",
         "{'_id': 1, 'a': {'b': 'x', 'c': 2}}"},
        {"{'_id': 1}", "{'$set': {'a.b.c': 1}}", "{'_id': 1, 'a': {'b': {'c': 1}}}"},
        {"{'_id': 1, 'a': {}}", "{'$set': {'a.b.c': 1, 'a.b.d': 2}}",
         "{'_id': 1, 'a': {'b': {'c': 1, 'd': 2}}}"},
        {"{'_id': 1}", "{'$set': {'c': 1, 'a': 2, 'b': 3}}", "{'_id': 1, 'a': 2, 'b': 3, 'c': 1}"},
        {"{'_id': 1}", "{'$set': {'10': 1, '9': 2, 'B': 3, 'a': 4}}",
         "{'_id': 1, '9': 2, '10': 1, 'B': 3, 'a': 4}"},
        {"{'_id': 1, 'z': 0}", "{'$set': {'z': 1, 'a': 2}}", "{'_id': 1, 'z': 1, 'a': 2}"},
        {"{'_id': 1, 'a': {'b': 1}, 'k': 'v'}", "{'$set': {'a': 5}}",
         "{'_id': 1, 'a': 5, 'k': 'v'}"},
        {"{'_id': 1, 'a': [1, 2, 3]}", "{'$set': {'a.1': 9}}", "{'_id': 1, 'a': [1, 9, 3]}"},
        {"{'_id': 1, 'a': [1]}", "{'$set': {'a.3': 9}}", "{'_id': 1, 'a': [1, null, null, 9]}"},
        {"{'_id': 1, 'a': []}", "{'$set': {'a.3': 1, 'a.5': 2}}",
         "{'_id': 1, 'a': [null, null, null, 1, null, 2]}"},
        {"{'_id': 1, 'a': [{'b': 1}]}", "{'$set': {'a.0.b': 2, 'a.1.b': 3}}",
         "{'_id': 1, 'a': [{'b': 2}, {'b': 3}]}"},
        {"{'_id': 1, 'a': [1,2,3,4,5,6,7,8,9,10,11,12]}", "{'$set': {'a.10': 0, 'a.9': 0}}",
         "{'_id': 1, 'a': [1,2,3,4,5,6,7,8,9,0,0,12]}"},
        {"{'_id': 1, 'a': {'0': 1}}", "{'$set': {'a.0': 2}}", "{'_id': 1, 'a': {'0': 2}}"},
        {"{'_id': 1}", "{'$set': {'a.0': 2}}", "{'_id': 1, 'a': {'0': 2}}"},
        {"{'_id': 1, 'a': [1, 2]}", "{'$set': {'a.1': 2}}", SAME},
        {"{'_id': 1}", "{'$set': {}}", SAME},
        {"{'_id': 1}", "{'$set': {'_id': 1}}", SAME},
        {"{'_id': 1, 'a': {'$x': 1}}", "{'$set': {'a.$x': 2, 'a.$y': 1}}",
         "{'_id': 1, 'a': {'$x': 2, '$y': 1}}"},
        {"{'_id': 1}", "{'$set': {'a': {'$x': {'b.c': 2}}}}",
         "{'_id': 1, 'a': {'$x': {'b.c': 2}}}"},
        {"{'_id': 1, 'a': 1}", "{'$setOnInsert': {'a': 2, 'b': 3, 'c.d': 4}}", SAME},
        {"{'_id': 1, 'a': 1}", "{'$set': {'a': 2}, '$setOnInsert': {'b': 3}}",
         "{'_id': 1, 'a': 2}"},
        {"{'_id': 1, 'a1':1,'a2':1,'a3':1,'a4':1,'a5':1,'a6':1,'a7':1,'a8':1,'a9':1,'b':0}",
         "{'$set': {'a1':2,'a2':2,'a3':2,'a4':2,'a5':2,'a6':2,'a7':2,'a8':2,'a9':2,'c':3}}",
         "{'_id': 1, 'a1':2,'a2':2,'a3':2,'a4':2,'a5':2,'a6':2,'a7':2,'a8':2,'a9':2,'b':0,'c':3}"},
    };
    CASES_RUN(cases);
}

Test(update, unset)
{
    static const update_case_t cases[] = {
        {"{'_id': 1, 'a': 1, 'b': 2}", "{'$unset': {'a': 1}}", "{'_id': 1, 'b': 2}"},
        {"{'_id': 1, 'a': 1, 'b': 2}", "{'$unset': {'b': ''}}", "{'_id': 1, 'a': 1}"},
        {"{'_id': 1, 'a': 1}", "{'$unset': {'c': 1, 'd.e': 1, 'a.b': 1}}", SAME},
        {"{'_id': 1, 'a': {'b': 1, 'c': 1}}", "{'$unset': {'a.b': 1}}",
         "{'_id': 1, 'a': {'c': 1}}"},
        {"{'_id': 1, 'a': {'b': 1}}", "{'$unset': {'a.b': 1}}", "{'_id': 1, 'a': {}}"},
        {"{'_id': 1, 'a': [1, 2, 3]}", "{'$unset': {'a.1': 1}}", "{'_id': 1, 'a': [1, null, 3]}"},
        {"{'_id': 1, 'a': [1]}", "{'$unset': {'a.5': 1, 'a.x': 1}}", SAME},
        {"{'_id': 1, 'a': [{'b': 1, 'c': 2}]}", "{'$unset': {'a.0.b': 1}}",
         "{'_id': 1, 'a': [{'c': 2}]}"},
        {"{'_id': 1, 'a': 1, 'b': 1}", "{'$unset': {'a': 1}, '$set': {'c': 1}}",
         "{'_id': 1, 'b': 1, 'c': 1}"},
    };
    CASES_RUN(cases);
}

Test(update, arithmetic)
{
    static const update_case_t cases[] = {
        {"{'_id': 1, 'a': 1}", "{'$inc': {'a': 2}}", "{'_id': 1, 'a': 3}"},
        {"{'_id': 1}", "{'$inc': {'a': 2, 'b.c': 2.5}}", "{'_id': 1, 'a': 2, 'b': {'c': 2.5}}"},
        {"{'_id': 1, 'a': 1}", "{'$inc': {'a': 0}}", SAME},
        {"{'_id': 1, 'a': 1}", "{'$inc': {'a': {'$numberLong': '0'}}}",
         "{'_id': 1, 'a': {'$numberLong': '1'}}"},
        {"{'_id': 1, 'a': 1}", "{'$inc': {'a': 0.0}}", "{'_id': 1, 'a': 1.0}"},
        {"{'_id': 1, 'a': 2147483647}", "{'$inc': {'a': 1}}",
         "{'_id': 1, 'a': {'$numberLong': '2147483648'}}"},
        {"{'_id': 1, 'a': -2147483648}", "{'$inc': {'a': -1}}",
         "{'_id': 1, 'a': {'$numberLong': '-2147483649'}}"},
        {"{'_id': 1, 'a': {'$numberLong': '2147483648'}}", "{'$inc': {'a': -1}}",
         "{'_id': 1, 'a': {'$numberLong': '2147483647'}}"},
        {"{'_id': 1, 'a': {'$numberLong': '9223372036854775807'}}", "{'$inc': {'a': 1}}", NULL, 2,
         "Failed to apply $inc operations to current value ((NumberLong)9223372036854775807) for "
         "document {_id: 1}"},
        {"{'_id': 1, 'a': {'$numberLong': '9223372036854775807'}}", "{'$inc': {'a': 1.0}}",
         "{'_id': 1, 'a': 9.2233720368547758e18}"},
        {"{'_id': 1, 'a': {'$numberDecimal': '1.10'}}", "{'$inc': {'a': 1}}",
         "{'_id': 1, 'a': {'$numberDecimal': '2.10'}}"},
        {"{'_id': 1, 'a': 1}", "{'$inc': {'a': {'$numberDecimal': '0.5'}}}",
         "{'_id': 1, 'a': {'$numberDecimal': '1.5'}}"},
        {"{'_id': 1, 'a': 3}", "{'$mul': {'a': 2, 'b': 5, 'c': 1.5}}",
         "{'_id': 1, 'a': 6, 'b': 0, 'c': 0.0}"},
        {"{'_id': 1}", "{'$mul': {'a': {'$numberLong': '5'}}}",
         "{'_id': 1, 'a': {'$numberLong': '0'}}"},
        {"{'_id': 1, 'a': 3}", "{'$mul': {'a': 1}}", SAME},
        {"{'_id': 1, 'a': 100000}", "{'$mul': {'a': 100000}}",
         "{'_id': 1, 'a': {'$numberLong': '10000000000'}}"},
        {"{'_id': 1, 'a': {'$numberLong': '4611686018427387904'}}", "{'$mul': {'a': 2}}", NULL, 2,
         "Failed to apply $mul operations to current value ((NumberLong)4611686018427387904) for "
         "document {_id: 1}"},
        {"{'_id': 1, 'a': 'x'}", "{'$inc': {'a': 1}}", NULL, 14,
         "Cannot apply $inc to a value of non-numeric type. {_id: 1} has the field 'a' of "
         "non-numeric type string"},
        {"{'_id': 'k', 'a': {'b': null}}", "{'$mul': {'a.b': 1}}", NULL, 14,
         "Cannot apply $mul to a value of non-numeric type. {_id: \"k\"} has the field 'b' of "
         "non-numeric type null"},
        {"{'_id': 1}", "{'$inc': {'a': 'x'}}", NULL, 14,
         "Cannot increment with non-numeric argument: {a: \"x\"}"},
        {"{'_id': 1}", "{'$mul': {'a.b': null}}", NULL, 14,
         "Cannot multiply with non-numeric argument: {a.b: null}"},
    };
    CASES_RUN(cases);
}

Test(update, min_max_date_bit)
{
    static const update_case_t cases[] = {
        {"{'_id': 1, 'a': 5}", "{'$min': {'a': 3}}", "{'_id': 1, 'a': 3}"},
        {"{'_id': 1, 'a': 5}", "{'$min': {'a': 5.0}}", SAME},
        {"{'_id': 1, 'a': 5}", "{'$min': {'a': 6}}", SAME},
        {"{'_id': 1, 'a': 5}", "{'$max': {'a': 6}}", "{'_id': 1, 'a': 6}"},
        {"{'_id': 1, 'a': 5}", "{'$max': {'a': 'x'}}", "{'_id': 1, 'a': 'x'}"},
        {"{'_id': 1, 'a': 5}", "{'$min': {'a': null}}", "{'_id': 1, 'a': null}"},
        {"{'_id': 1, 'a': 5}", "{'$max': {'a': 4, 'b.c': 1}}", "{'_id': 1, 'a': 5, 'b': {'c': 1}}"},
        {"{'_id': 1}", "{'$currentDate': {'a': true}}",
         "{'_id': 1, 'a': {'$date': {'$numberLong': '1700000000123'}}}"},
        {"{'_id': 1}", "{'$currentDate': {'a': false, 'b': {'~type': 'date'}}}",
         "{'_id': 1, 'a': {'$date': {'$numberLong': '1700000000123'}}, 'b': {'$date': "
         "{'$numberLong': '1700000000123'}}}"},
        {"{'_id': 1, 'a': 1}", "{'$currentDate': {'a': {'~type': 'timestamp'}}}",
         "{'_id': 1, 'a': {'$timestamp': {'t': 1700000000, 'i': 7}}}"},
        {"{'_id': 1}", "{'$currentDate': {'a': {'~type': 'time'}}}", NULL, 2,
         "The '$type' string field is required to be 'date' or 'timestamp': {$currentDate: {field "
         ": {$type: 'date'}}}"},
        {"{'_id': 1}", "{'$currentDate': {'a': {'type': 'date'}}}", NULL, 2,
         "Unrecognized $currentDate option: type"},
        {"{'_id': 1}", "{'$currentDate': {'a': 'now'}}", NULL, 2,
         "string is not valid type for $currentDate."},
        {"{'_id': 1, 'a': 13}", "{'$bit': {'a': {'and': 10}}}", "{'_id': 1, 'a': 8}"},
        {"{'_id': 1, 'a': 3}", "{'$bit': {'a': {'or': 4, 'xor': 1}}}", "{'_id': 1, 'a': 6}"},
        {"{'_id': 1, 'a': 3}", "{'$bit': {'a': {'or': 1}}}", SAME},
        {"{'_id': 1, 'a': 3}", "{'$bit': {'a': {'or': {'$numberLong': '4'}}}}",
         "{'_id': 1, 'a': {'$numberLong': '7'}}"},
        {"{'_id': 1}", "{'$bit': {'a': {'or': 5}, 'b': {'and': 5}}}", "{'_id': 1, 'a': 5, 'b': 0}"},
        {"{'_id': 1, 'a': 1.5}", "{'$bit': {'a': {'or': 1}}}", NULL, 2,
         "Cannot apply $bit to a value of non-integral type._id: 1 has the field a of non-integer "
         "type double"},
        {"{'_id': 1}", "{'$bit': {'a': {'nand': 1}}}", NULL, 2,
         "The $bit modifier only supports 'and', 'or', and 'xor', not 'nand' which is an unknown "
         "operator: {nand: 1}"},
        {"{'_id': 1}", "{'$bit': {'a': {'and': 1.0}}}", NULL, 2,
         "a 'double' is not supported here: {and: 1.0}"},
        {"{'_id': 1}", "{'$bit': {'a': {}}}", NULL, 2,
         "You must pass in at least one bitwise operation."},
        {"{'_id': 1}", "{'$bit': {'a': 1}}", NULL, 2,
         "The $bit modifier is not compatible with a int."},
    };
    CASES_RUN(cases);
}

Test(update, rename)
{
    static const update_case_t cases[] = {
        {"{'_id': 1, 'a': 1, 'b': 2}", "{'$rename': {'a': 'c'}}", "{'_id': 1, 'b': 2, 'c': 1}"},
        {"{'_id': 1, 'a': 1, 'b': 2}", "{'$rename': {'a': 'b'}}", "{'_id': 1, 'b': 1}"},
        {"{'_id': 1, 'b': 2}", "{'$rename': {'a': 'b'}}", SAME},
        {"{'_id': 1, 'b': 2}", "{'$rename': {'a.x': 'c.d'}}", SAME},
        {"{'_id': 1, 'a': {'b': [1]}}", "{'$rename': {'a.b': 'c.d'}}",
         "{'_id': 1, 'a': {}, 'c': {'d': [1]}}"},
        {"{'_id': 1, 'a': 1}", "{'$rename': {'a': 'b'}, '$set': {'c': 2}}",
         "{'_id': 1, 'b': 1, 'c': 2}"},
        {"{'_id': 1, 'a': 1, 'b': [1]}", "{'$rename': {'a': 'b.0'}}", NULL, 2,
         "The destination field cannot be an array element, 'b.0' in doc with _id: 1 has an array "
         "field called 'b'"},
        {"{'_id': 1, 'a': [{'x': 1}]}", "{'$rename': {'a.0.x': 'b'}}", NULL, 2,
         "The source field cannot be an array element, 'a.0.x' in doc with _id: 1 has an array "
         "field called 'a'"},
        {"{'_id': 1, 'a': 1}", "{'$rename': {'a.b': 'c'}}", NULL, 28,
         "cannot use the part (a of a.b) to traverse the element ({a: 1})"},
        {"{'_id': 1, 'a': 1, 'b': 2}", "{'$rename': {'a': 'b.c'}}", NULL, 28,
         "Cannot create field 'c' in element {b: 2}"},
        {"{'_id': 1}", "{'$rename': {'a': 'a'}}", NULL, 2,
         "The source and target field for $rename must differ: a: \"a\""},
        {"{'_id': 1}", "{'$rename': {'a': 'a.b'}}", NULL, 2,
         "The source and target field for $rename must not be on the same path: a: \"a.b\""},
        {"{'_id': 1}", "{'$rename': {'a.b': 'a'}}", NULL, 2, "must not be on the same path"},
        {"{'_id': 1}", "{'$rename': {'a': 1}}", NULL, 2,
         "The 'to' field for $rename must be a string: a: 1"},
        {"{'_id': 1}", "{'$rename': {'a.$': 'b'}}", NULL, 2,
         "The source field for $rename may not be dynamic: a.$"},
        {"{'_id': 1}", "{'$rename': {'a': 'b.$[]'}}", NULL, 2,
         "The destination field for $rename may not be dynamic: b.$[]"},
        {"{'_id': 1}", "{'$rename': {'a': ''}}", NULL, 56, "An empty update path is not valid."},
        {"{'_id': 1, 'a': 1}", "{'$rename': {'a': 'b'}, '$set': {'b': 1}}", NULL, 40,
         "Updating the path 'b' would create a conflict at 'b'"},
        {"{'_id': 1, 'a': 1}", "{'$rename': {'_id': 'b'}}", NULL, 66,
         "Performing an update on the path '_id' would modify the immutable field '_id'"},
        {"{'_id': 1, 'a': 1}", "{'$rename': {'a': '_id'}}", NULL, 66, "immutable field '_id'"},
    };
    CASES_RUN(cases);
}

Test(update, paths)
{
    static const update_case_t cases[] = {
        {"{'_id': 1, 'a': 1}", "{'$set': {'a.b': 1}}", NULL, 28,
         "Cannot create field 'b' in element {a: 1}"},
        {"{'_id': 1, 'a': null}", "{'$inc': {'a.b.c': 1}}", NULL, 28,
         "Cannot create field 'b' in element {a: null}"},
        {"{'_id': 1, 'a': [1]}", "{'$set': {'a.b': 1}}", NULL, 28,
         "Cannot create field 'b' in element {a: [ 1 ]}"},
        {"{'_id': 1, 'a': [1]}", "{'$set': {'a.0.c': 1}}", NULL, 28,
         "Cannot create field 'c' in element {0: 1}"},
        {"{'_id': 1, 'a': 'foo'}", "{'$pop': {'a.b': 1}}", NULL, 28,
         "Cannot use the part (b) of (a.b) to traverse the element ({a: \"foo\"})"},
        {"{'_id': 1, 'a': [1]}", "{'$set': {'a.1500002': 1}}", NULL, 34,
         "can't backfill more than 1500000 elements"},
        {"{'_id': 1}", "{'$set': {'': 1}}", NULL, 56, "An empty update path is not valid."},
        {"{'_id': 1}", "{'$set': {'a.': 1}}", NULL, 56,
         "The update path 'a.' contains an empty field name, which is not allowed."},
        {"{'_id': 1}", "{'$set': {'.a': 1}}", NULL, 56, "'.a'"},
        {"{'_id': 1}", "{'$unset': {'a..b': 1}}", NULL, 56, "'a..b'"},
        {"{'_id': 1}", "{'$set': {'$x': 1}}", NULL, 52,
         "The dollar ($) prefixed field '$x' in '$x' is not allowed in the context of an update's "
         "replacement document."},
        {"{'_id': 1}", "{'$set': {'$x.y': 1}}", NULL, 52, "'$x' in '$x'"},
        {"{'_id': 1}", "{'$push': {'$each': [1]}}", NULL, 52, "'$each' in '$each'"},
        {"{'_id': 1}", "{'$set': {'$': 1}}", NULL, 2,
         "Cannot have positional (i.e. '$') element in the first position in path '$'"},
        {"{'_id': 1}", "{'$set': {'a.$.b.$': 1}}", NULL, 2,
         "Too many positional (i.e. '$') elements found in path 'a.$.b.$'"},
        {"{'_id': 1}", "{'$set': {'$[]': 1}}", NULL, 2,
         "Cannot have array filter identifier (i.e. '$[<id>]') element in the first position in "
         "path '$[]'"},
        {"{'_id': 1}", "{'$set': {'_id': 2}}", NULL, 66,
         "Performing an update on the path '_id' would modify the immutable field '_id'"},
        {"{'_id': 1}", "{'$set': {'_id': 1.0}}", NULL, 66, NULL},
        {"{'_id': 1}", "{'$unset': {'_id': 1}}", NULL, 66, NULL},
        {"{'_id': 1}", "{'$inc': {'_id': 1}}", NULL, 66, NULL},
        {"{'_id': {'a': 1}}", "{'$set': {'_id.a': 2}}", NULL, 66,
         "Performing an update on the path '_id.a' would modify the immutable field '_id'"},
        {"{'_id': {'a': 1}}", "{'$set': {'_id.b': 2}}", NULL, 66, NULL},
        {"{'_id': {'a': 1}}", "{'$set': {'_id.a': 1, 'b': 1}}", "{'_id': {'a': 1}, 'b': 1}"},
    };
    CASES_RUN(cases);
}

Test(update, conflicts_and_shape)
{
    static const update_case_t cases[] = {
        {"{'_id': 1}", "{'$set': {'a': 1, 'a.b': 2}}", NULL, 40,
         "Updating the path 'a.b' would create a conflict at 'a'"},
        {"{'_id': 1}", "{'$set': {'a.b': 1}, '$inc': {'a': 2}}", NULL, 40,
         "Updating the path 'a' would create a conflict at 'a'"},
        {"{'_id': 1}", "{'$set': {'a': 1}, '$inc': {'a': 2}}", NULL, 40,
         "Updating the path 'a' would create a conflict at 'a'"},
        {"{'_id': 1}", "{'$set': {'a.b.c': 1}, '$unset': {'a.b': 2}}", NULL, 40,
         "Updating the path 'a.b' would create a conflict at 'a.b'"},
        {"{'_id': 1}", "{'$set': {'a.b': 1, 'a.$[]': 1}}", NULL, 40,
         "Updating the path 'a.$[]' would create a conflict at 'a'"},
        {"{'_id': 1}", "{'$set': {'a.b': 1, 'ab': 1, 'a-b': 2}}",
         "{'_id': 1, 'a': {'b': 1}, 'a-b': 2, 'ab': 1}"},
        {"{'_id': 1}", "{'$foo': {'a': 1}}", NULL, 9,
         "Unknown modifier: $foo. Expected a valid update modifier or pipeline-style update "
         "specified as an array"},
        {"{'_id': 1}", "{'$set': {'a': 1}, 'b': 1}", NULL, 9, "Unknown modifier: b."},
        {"{'_id': 1}", "{'$set': 'x'}", NULL, 9,
         "Modifiers operate on fields but we found type string instead. For example: {$mod: "
         "{<field>: ...}} not {$set: \"x\"}"},
        {"{'_id': 1}", "{'$set': [1]}", NULL, 9, "we found type array instead"},
        {"{'_id': 1}", "{'$set': {'a': 1}, '$set': {'b': 2}}", "{'_id': 1, 'a': 1, 'b': 2}"},
    };
    CASES_RUN(cases);
}

Test(update, wrong_argument)
{
    vd_arena_t *arena = vd_arena_create();
    vd_error_t err = VD_ERROR_INIT;
    stor_update_t *update = NULL;
    stor_update_options_t options = {.update = vd_value_from_int32(arena, 1),
                                     .variables = &case_variables};
    cr_expect_eq(stor_update_parse(arena, &options, &update, &err), VD_ERR_FAILED_TO_PARSE);
    cr_expect_str_eq(err.message, "Update argument must be either an object or an array");
    options.update = case_update(arena, "{'a': 1}");
    options.multi = true;
    vd_error_clear(&err);
    cr_expect_eq(stor_update_parse(arena, &options, &update, &err), VD_ERR_FAILED_TO_PARSE);
    cr_expect_str_eq(err.message, "multi update is not supported for replacement-style update");
    options.update = case_update(arena, "{'$set': {'a': 1}}");
    cr_expect_eq(stor_update_parse(arena, &options, &update, NULL), VD_OK);
    cr_expect_eq(stor_update_kind(update), STOR_UPDATE_OPERATORS);
    vd_arena_destroy(&arena);
}

/* A path or a value one level too deep, one that just fits. */
Test(update, depth)
{
    vd_arena_t *arena = vd_arena_create();
    for (int levels = VD_BSON_DEPTH_MAX - 2; levels <= VD_BSON_DEPTH_MAX + 25; levels++) {
        /* levels objects below the document's own */
        char *path = vd_arena_alloc(arena, (size_t)levels * 2 + 2);
        memset(path, 'a', (size_t)levels * 2 + 1);
        for (int i = 1; i < levels * 2; i += 2)
            path[i] = '.';
        path[levels * 2 + 1] = '\0';
        vd_bb_t bb;
        vd_bb_init_arena(&bb, arena, VD_BSON_DOCUMENT_MAX_BYTES);
        vd_bb_begin_document(&bb, "$set");
        vd_bb_int32(&bb, path, 1);
        vd_bb_close(&bb);
        vd_bson_t spec, result;
        cr_assert_eq(vd_bb_finish(&bb, &spec, NULL), VD_OK);
        stor_update_options_t options = {.update = vd_value_from_document(spec),
                                         .variables = &case_variables};
        stor_update_t *update = NULL;
        bool changed;
        int rc = stor_update_parse(arena, &options, &update, NULL);
        if (rc == VD_OK)
            rc = stor_update_apply(update, arena, case_json(arena, "{'_id': 1}"), NULL, &result,
                                   &changed, NULL);
        cr_expect_eq(rc, levels < VD_BSON_DEPTH_MAX ? VD_OK : VD_ERR_OVERFLOW, "%d levels: %d",
                     levels, rc);
    }
    vd_arena_destroy(&arena);
}

Test(update, size)
{
    vd_arena_t *arena = vd_arena_create();
    /* _id (4+1+3+4... ) and a string that fills the rest exactly: 5 + 9 ("_id" int32) + 1+2+4+n+1
     */
    static const size_t fixed = 5 + 9 + 8;
    for (size_t extra = 0; extra < 2; extra++) {
        size_t len = VD_BSON_DOCUMENT_MAX_BYTES - fixed + extra;
        char *text = vd_arena_alloc(arena, len);
        memset(text, 'x', len);
        vd_bb_t bb;
        vd_bb_init_arena(&bb, arena, VD_BSON_INTERNAL_MAX_BYTES);
        vd_bb_begin_document(&bb, "$set");
        vd_bb_string(&bb, "s", vd_slice(text, len));
        vd_bb_close(&bb);
        vd_bson_t spec, result;
        cr_assert_eq(vd_bb_finish(&bb, &spec, NULL), VD_OK);
        stor_update_options_t options = {.update = vd_value_from_document(spec),
                                         .variables = &case_variables};
        stor_update_t *update = NULL;
        bool changed;
        vd_error_t err = VD_ERROR_INIT;
        cr_assert_eq(stor_update_parse(arena, &options, &update, &err), VD_OK);
        int rc = stor_update_apply(update, arena, case_json(arena, "{'_id': 1}"), NULL, &result,
                                   &changed, &err);
        if (extra == 0) {
            cr_expect_eq(rc, VD_OK, "%s", err.message);
            cr_expect_eq(result.len, VD_BSON_DOCUMENT_MAX_BYTES);
        } else {
            cr_expect_eq(rc, VD_ERR_LOCATION(17419));
            cr_expect_str_eq(err.message,
                             "Resulting document after update is larger than 16777216");
        }
    }
    vd_arena_destroy(&arena);
}

/* Thousands of fields in one update: found by hash, written in order. */
Test(update, many_fields)
{
    enum { FIELDS = 5000 };
    vd_arena_t *arena = vd_arena_create();
    vd_bb_t old, spec, expected;
    vd_bb_init_arena(&old, arena, VD_BSON_DOCUMENT_MAX_BYTES);
    vd_bb_init_arena(&spec, arena, VD_BSON_DOCUMENT_MAX_BYTES);
    vd_bb_init_arena(&expected, arena, VD_BSON_DOCUMENT_MAX_BYTES);
    vd_bb_begin_document(&spec, "$inc");
    for (int i = 0; i < FIELDS; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "f%05d", i);
        if (i < FIELDS / 2)
            vd_bb_int32(&old, name, i);
        vd_bb_int32(&expected, name, i < FIELDS / 2 ? i + 1 : 1);
        (void)snprintf(name, sizeof name, "f%05d", FIELDS - 1 - i);
        vd_bb_int32(&spec, name, 1);
    }
    vd_bb_close(&spec);
    vd_bson_t document, update_spec, wanted, result;
    cr_assert_eq(vd_bb_finish(&old, &document, NULL), VD_OK);
    cr_assert_eq(vd_bb_finish(&spec, &update_spec, NULL), VD_OK);
    cr_assert_eq(vd_bb_finish(&expected, &wanted, NULL), VD_OK);
    stor_update_options_t options = {.update = vd_value_from_document(update_spec),
                                     .variables = &case_variables};
    stor_update_t *update = NULL;
    bool changed = false;
    cr_assert_eq(stor_update_parse(arena, &options, &update, NULL), VD_OK);
    cr_assert_eq(stor_update_apply(update, arena, document, NULL, &result, &changed, NULL), VD_OK);
    cr_expect(changed && case_bytes_equal(result, wanted));
    vd_arena_destroy(&arena);
}

/* The bounds that are not about size: parts of a path, nulls that pad an array, array filters,
 * stages. */
Test(update, limits)
{
    static const update_case_t padding[] = {
        {"{'_id': 1, 'a': [1]}", "{'$set': {'a.1500002': 1}}", NULL, 34,
         "can't backfill more than 1500000 elements"},
        {"{'_id': 1, 'a': [1]}", "{'$unset': {'a.1500002': 1}}", SAME},
        {"{'_id': 1, 'a': [1]}", "{'$set': {'a.4294967296': 1}}", NULL, 28,
         "Cannot create field '4294967296' in element"},
    };
    CASES_RUN(padding);

    vd_arena_t *arena = vd_arena_create();
    vd_bson_t result = VD_BSON_NONE;
    stor_update_t *update = NULL;
    bool changed = false;
    stor_update_options_t options = {.variables = &case_variables};
    options.update = case_update(arena, "{'$set': {'a.1500001': 1}}");
    cr_expect_eq(stor_update_parse(arena, &options, &update, NULL), VD_OK);
    cr_expect_eq(stor_update_apply(update, arena, case_json(arena, "{'_id': 1, 'a': [1]}"), NULL,
                                   &result, &changed, NULL),
                 VD_OK);
    cr_expect_eq(vd_bson_count(vd_value_document(vd_bson_get(result, "a"))), 1500002);

    static const struct {
        const char *update; /* NULL: the array is the update, else its array filters */
        int max, code_over;
    } cases[] = {
        {"{'$set': {'a': 1}}", VD_ARRAY_FILTERS_MAX, 2},
        {NULL, 1000, 7749501},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        for (int count = cases[i].max; count <= cases[i].max + 1; count++) {
            char *text = vd_arena_strdup(arena, "[");
            for (int k = 0; k < count; k++) {
                const char *one = i == 0 ? vd_arena_printf(arena, "{'i%d': 1}", k)
                                         : vd_arena_printf(arena, "{'$unset': 'a%d'}", k);
                text = vd_arena_printf(arena, "%s%s%s", text, k > 0 ? "," : "", one);
            }
            text = vd_arena_printf(arena, "%s]", text);
            stor_update_options_t many = {.variables = &case_variables};
            many.update = case_update(arena, cases[i].update != NULL ? cases[i].update : text);
            if (cases[i].update != NULL)
                many.array_filters = case_array(arena, text);
            vd_error_t err = VD_ERROR_INIT;
            int rc = stor_update_parse(arena, &many, &update, &err);
            /* at the limit the filters are read, and found to be unused */
            int expected = count > cases[i].max ? -cases[i].code_over
                           : i == 0             ? VD_ERR_FAILED_TO_PARSE
                                                : VD_OK;
            cr_expect_eq(rc, expected, "%d: %d %s", count, rc, err.message);
        }
    }
    vd_arena_destroy(&arena);
}
