/* veddb-gatewayd/access.c — see access.h. gate_access_check is the only function that decides who
 * may what; gate_access_state what nobody may at present. The others answer parts of their
 * questions. */
#include "veddb-gatewayd/access.h"

#define STAGE_DEPTH_MAX 40 /* storage refuses more than 20, in its own words */

typedef struct {
    const gate_command_t *command;
    vd_slice_t db;
    const vdp_sections_t *sections;
    const gate_principal_t *who;
} question_t;

static bool on_collection(const question_t *q, gate_action_t action, vd_slice_t db,
                          vd_slice_t collection)
{
    return gate_privileges_allow(q->who->privileges, action, GATE_RESOURCE_COLLECTION, db,
                                 collection);
}

static bool on_database(const question_t *q, gate_action_t action, vd_slice_t db)
{
    return gate_privileges_allow(q->who->privileges, action, GATE_RESOURCE_DB, db, VD_SLICE_NULL);
}

static bool on_cluster(const question_t *q, gate_action_t action)
{
    return gate_privileges_allow(q->who->privileges, action, GATE_RESOURCE_CLUSTER, VD_SLICE_NULL,
                                 VD_SLICE_NULL);
}

/* The collection that the first field names; empty (then the database is meant) for 1 and the like.
 */
static vd_slice_t first_collection(vd_bson_t body)
{
    vd_slice_t name;
    vd_value_t value;
    if (!vd_bson_first(body, &name, &value) ||
        (value.type != VD_BSON_STRING && value.type != VD_BSON_SYMBOL))
        return VD_SLICE_NULL;
    return vd_value_string(value);
}

static bool namespace_split(vd_value_t v, vd_slice_t *ret_db, vd_slice_t *ret_collection)
{
    if (v.type != VD_BSON_STRING)
        return false;
    vd_slice_t text = vd_value_string(v);
    const uint8_t *dot = text.len == 0 ? NULL : memchr(text.data, '.', text.len);
    if (dot == NULL)
        return false;
    *ret_db = vd_slice(text.data, (size_t)(dot - text.data));
    *ret_collection = vd_slice(dot + 1, text.len - ret_db->len - 1);
    return true;
}

static bool is_false(vd_bson_t body, const char *name)
{
    vd_value_t v = vd_bson_get(body, name);
    return !vd_value_is_missing(v) && v.type != VD_BSON_NULL && !vd_value_as_flag(v);
}

static bool flag_of(vd_bson_t body, const char *name)
{
    return vd_value_as_flag(vd_bson_get(body, name));
}

/* ---- statements of writes ---- */

static bool any_upsert(const question_t *q)
{
    const vdp_sequence_t *sequence = vdp_sections_sequence(q->sections, "updates");
    if (sequence != NULL) {
        size_t position = 0;
        vd_bson_t statement;
        while (vdp_sequence_next(sequence, &position, &statement)) {
            if (flag_of(statement, "upsert"))
                return true;
        }
        return false;
    }
    vd_value_t list = vd_bson_get(q->sections->body, "updates");
    vd_bson_iter_t each;
    if (list.type != VD_BSON_ARRAY)
        return false;
    vd_bson_iter_init(&each, vd_value_document(list));
    while (vd_bson_iter_next(&each)) {
        if (each.value.type == VD_BSON_OBJECT && flag_of(vd_value_document(each.value), "upsert"))
            return true;
    }
    return false;
}

static bool may_bypass(const question_t *q, vd_slice_t collection)
{
    return !flag_of(q->sections->body, "bypassDocumentValidation") ||
           on_collection(q, GATE_ACTION_bypassDocumentValidation, q->db, collection);
}

static bool may_update(const question_t *q)
{
    vd_slice_t collection = first_collection(q->sections->body);
    if (!on_collection(q, GATE_ACTION_update, q->db, collection) || !may_bypass(q, collection))
        return false;
    /* The statements are looked at only by those who may not insert. */
    return on_collection(q, GATE_ACTION_insert, q->db, collection) || !any_upsert(q);
}

static bool may_find_and_modify(const question_t *q)
{
    vd_bson_t body = q->sections->body;
    vd_slice_t collection = first_collection(body);
    if (!on_collection(q, GATE_ACTION_find, q->db, collection) || !may_bypass(q, collection))
        return false;
    if (flag_of(body, "remove"))
        return on_collection(q, GATE_ACTION_remove, q->db, collection);
    return on_collection(q, GATE_ACTION_update, q->db, collection) &&
           (!flag_of(body, "upsert") || on_collection(q, GATE_ACTION_insert, q->db, collection));
}

/* ---- pipelines ---- */

static bool may_pipeline(const question_t *q, vd_value_t pipeline, vd_slice_t db,
                         vd_slice_t collection, unsigned depth);

/* A field is there more than once: which of them storage goes by is not for us to guess. */
static bool says_twice(vd_bson_t fields, const char *name)
{
    uint32_t count = 0;
    vd_bson_iter_t each;
    vd_bson_iter_init(&each, fields);
    while (vd_bson_iter_next(&each))
        count += vd_slice_is(each.name, name);
    return count > 1;
}

/* {from / coll, pipeline} of $lookup, $graphLookup, $unionWith; *spec may be the name alone. */
static bool may_join(const question_t *q, vd_value_t spec, const char *field, vd_slice_t db,
                     unsigned depth)
{
    if (spec.type == VD_BSON_STRING)
        return on_collection(q, GATE_ACTION_find, db, vd_value_string(spec));
    if (spec.type != VD_BSON_OBJECT)
        return true; /* storage refuses the form */
    vd_bson_t fields = vd_value_document(spec);
    if (says_twice(fields, field) || says_twice(fields, "pipeline"))
        return false;
    vd_value_t from = vd_bson_get(fields, field), pipeline = vd_bson_get(fields, "pipeline");
    vd_slice_t other = VD_SLICE_NULL, from_db = db;
    if (from.type == VD_BSON_STRING) {
        other = vd_value_string(from);
    } else if (from.type == VD_BSON_OBJECT) {
        vd_value_t name_db = vd_bson_get(vd_value_document(from), "db"),
                   name = vd_bson_get(vd_value_document(from), "coll");
        if (says_twice(vd_value_document(from), "db") ||
            says_twice(vd_value_document(from), "coll"))
            return false;
        if (name_db.type != VD_BSON_STRING || name.type != VD_BSON_STRING)
            return true;
        from_db = vd_value_string(name_db), other = vd_value_string(name);
    }
    if (other.len != 0 && !on_collection(q, GATE_ACTION_find, from_db, other))
        return false;
    return pipeline.type != VD_BSON_ARRAY || may_pipeline(q, pipeline, from_db, other, depth + 1);
}

static bool may_write_out(const question_t *q, vd_value_t spec, vd_slice_t db, bool merge)
{
    vd_slice_t out_db = db, out = VD_SLICE_NULL;
    bool insert = true, update = merge, remove = !merge;
    vd_value_t into = spec;
    if (merge && spec.type == VD_BSON_OBJECT) {
        vd_bson_t fields = vd_value_document(spec);
        vd_value_t matched = vd_bson_get(fields, "whenMatched"),
                   missed = vd_bson_get(fields, "whenNotMatched");
        if (says_twice(fields, "into") || says_twice(fields, "whenMatched") ||
            says_twice(fields, "whenNotMatched"))
            return false;
        into = vd_bson_get(fields, "into");
        if (matched.type == VD_BSON_STRING &&
            (vd_slice_is(vd_value_string(matched), "keepExisting") ||
             vd_slice_is(vd_value_string(matched), "fail")))
            update = false;
        if (missed.type == VD_BSON_STRING && !vd_slice_is(vd_value_string(missed), "insert"))
            insert = false;
    }
    if (into.type == VD_BSON_STRING) {
        out = vd_value_string(into);
    } else if (into.type == VD_BSON_OBJECT) {
        vd_value_t name_db = vd_bson_get(vd_value_document(into), "db"),
                   name = vd_bson_get(vd_value_document(into), "coll");
        if (says_twice(vd_value_document(into), "db") ||
            says_twice(vd_value_document(into), "coll"))
            return false;
        if (name_db.type == VD_BSON_STRING)
            out_db = vd_value_string(name_db);
        if (name.type == VD_BSON_STRING)
            out = vd_value_string(name);
    }
    if (flag_of(q->sections->body, "bypassDocumentValidation") &&
        !on_collection(q, GATE_ACTION_bypassDocumentValidation, out_db, out))
        return false;
    return (!insert || on_collection(q, GATE_ACTION_insert, out_db, out)) &&
           (!update || on_collection(q, GATE_ACTION_update, out_db, out)) &&
           (!remove || on_collection(q, GATE_ACTION_remove, out_db, out));
}

static bool may_current_op(const question_t *q, vd_value_t spec)
{
    bool all = spec.type == VD_BSON_OBJECT && (flag_of(vd_value_document(spec), "allUsers") ||
                                               says_twice(vd_value_document(spec), "allUsers"));
    return !all || on_cluster(q, GATE_ACTION_inprog);
}

static bool may_facet(const question_t *q, vd_value_t spec, vd_slice_t db, vd_slice_t collection,
                      unsigned depth)
{
    if (spec.type != VD_BSON_OBJECT)
        return true;
    vd_bson_iter_t each;
    vd_bson_iter_init(&each, vd_value_document(spec));
    while (vd_bson_iter_next(&each)) {
        if (!may_pipeline(q, each.value, db, collection, depth + 1))
            return false;
    }
    return true;
}

/* One stage. *ret_reads: it reads the collection that the pipeline runs on (a first stage that
 * makes its own documents does not). */
static bool may_stage(const question_t *q, vd_slice_t stage, vd_value_t spec, vd_slice_t db,
                      vd_slice_t collection, unsigned depth, bool *ret_reads)
{
    *ret_reads = true;
    if (vd_slice_is(stage, "$lookup") || vd_slice_is(stage, "$graphLookup"))
        return may_join(q, spec, "from", db, depth);
    if (vd_slice_is(stage, "$unionWith"))
        return may_join(q, spec, "coll", db, depth);
    if (vd_slice_is(stage, "$facet"))
        return may_facet(q, spec, db, collection, depth);
    if (vd_slice_is(stage, "$out"))
        return may_write_out(q, spec, db, false);
    if (vd_slice_is(stage, "$merge"))
        return may_write_out(q, spec, db, true);
    if (vd_slice_is(stage, "$changeStream")) {
        bool all = spec.type == VD_BSON_OBJECT &&
                   (flag_of(vd_value_document(spec), "allChangesForCluster") ||
                    says_twice(vd_value_document(spec), "allChangesForCluster"));
        if (all)
            return gate_privileges_allow(q->who->privileges, GATE_ACTION_changeStream,
                                         GATE_RESOURCE_COLLECTION, VD_SLICE_NULL, VD_SLICE_NULL) &&
                   gate_privileges_allow(q->who->privileges, GATE_ACTION_find,
                                         GATE_RESOURCE_COLLECTION, VD_SLICE_NULL, VD_SLICE_NULL);
        return on_collection(q, GATE_ACTION_changeStream, db, collection);
    }
    *ret_reads = false;
    if (vd_slice_is(stage, "$collStats"))
        return on_collection(q, GATE_ACTION_collStats, db, collection);
    if (vd_slice_is(stage, "$indexStats"))
        return on_collection(q, GATE_ACTION_indexStats, db, collection);
    if (vd_slice_is(stage, "$planCacheStats"))
        return on_collection(q, GATE_ACTION_planCacheRead, db, collection);
    if (vd_slice_is(stage, "$currentOp"))
        return may_current_op(q, spec);
    if (vd_slice_is(stage, "$listLocalSessions") || vd_slice_is(stage, "$listSessions")) {
        bool others = spec.type == VD_BSON_OBJECT &&
                      (flag_of(vd_value_document(spec), "allUsers") ||
                       says_twice(vd_value_document(spec), "allUsers") ||
                       !vd_value_is_missing(vd_bson_get(vd_value_document(spec), "users")));
        return !others || on_cluster(q, GATE_ACTION_listSessions);
    }
    if (vd_slice_is(stage, "$documents") || vd_slice_is(stage, "$listSearchIndexes"))
        return true;
    if (vd_slice_is(stage, "$queryStats"))
        return on_cluster(q, GATE_ACTION_queryStatsRead);
    *ret_reads = true;
    return true;
}

static bool may_pipeline(const question_t *q, vd_value_t pipeline, vd_slice_t db,
                         vd_slice_t collection, unsigned depth)
{
    if (pipeline.type != VD_BSON_ARRAY)
        return true; /* storage refuses the form */
    if (depth > STAGE_DEPTH_MAX)
        return false;
    bool first = true, reads_here = true;
    vd_bson_iter_t each;
    vd_bson_iter_init(&each, vd_value_document(pipeline));
    while (vd_bson_iter_next(&each)) {
        vd_slice_t stage;
        vd_value_t spec;
        bool reads;
        if (each.value.type != VD_BSON_OBJECT ||
            !vd_bson_first(vd_value_document(each.value), &stage, &spec))
            continue;
        if (!may_stage(q, stage, spec, db, collection, depth, &reads))
            return false;
        if (first)
            reads_here = reads;
        first = false;
    }
    if (depth > 0)
        return true; /* what it runs on was checked by the stage around it */
    return !reads_here || on_collection(q, GATE_ACTION_find, db, collection);
}

static bool writes_out(vd_bson_t body)
{
    vd_value_t pipeline = vd_bson_get(body, "pipeline");
    vd_bson_iter_t each;
    if (pipeline.type != VD_BSON_ARRAY)
        return false;
    vd_bson_iter_init(&each, vd_value_document(pipeline));
    while (vd_bson_iter_next(&each)) {
        vd_slice_t stage;
        vd_value_t spec;
        if (each.value.type == VD_BSON_OBJECT &&
            vd_bson_first(vd_value_document(each.value), &stage, &spec) &&
            (vd_slice_is(stage, "$out") || vd_slice_is(stage, "$merge")))
            return true;
    }
    return false;
}

static bool may_aggregate(const question_t *q, vd_bson_t body)
{
    vd_slice_t collection = first_collection(body);
    if (flag_of(body, "bypassDocumentValidation") &&
        !on_collection(q, GATE_ACTION_bypassDocumentValidation, q->db, collection))
        return false;
    return may_pipeline(q, vd_bson_get(body, "pipeline"), q->db, collection, 0);
}

static bool allowed(const question_t *q, gate_access_grant_t *grant);

static bool may_explain(const question_t *q)
{
    vd_slice_t name;
    vd_value_t inner;
    if (!vd_bson_first(q->sections->body, &name, &inner) || inner.type != VD_BSON_OBJECT)
        return true; /* storage refuses the form */
    vd_bson_t body = vd_value_document(inner);
    vd_value_t ignored;
    if (!vd_bson_first(body, &name, &ignored))
        return true;
    const gate_command_t *command = gate_command_find(name);
    if (command == NULL || command->check == GATE_CHECK_EXPLAIN)
        return true;
    vdp_sections_t sections = {.body = body};
    gate_access_grant_t grant;
    question_t about = {command, q->db, &sections, q->who};
    return allowed(&about, &grant);
}

/* ---- collections ---- */

static bool may_create(const question_t *q)
{
    vd_bson_t body = q->sections->body;
    vd_slice_t collection = first_collection(body);
    vd_value_t source = vd_bson_get(body, "viewOn");
    if (!on_collection(q, GATE_ACTION_createCollection, q->db, collection) &&
        !on_collection(q, GATE_ACTION_insert, q->db, collection))
        return false;
    if (flag_of(body, "capped") &&
        !on_collection(q, GATE_ACTION_convertToCapped, q->db, collection) &&
        !on_collection(q, GATE_ACTION_createCollection, q->db, collection))
        return false;
    if (source.type != VD_BSON_STRING)
        return true;
    /* Who makes a view must be able to read what it shows. */
    return on_collection(q, GATE_ACTION_find, q->db, vd_value_string(source)) &&
           may_pipeline(q, vd_bson_get(body, "pipeline"), q->db, vd_value_string(source), 1);
}

static bool may_clone_capped(const question_t *q)
{
    vd_bson_t body = q->sections->body;
    vd_value_t to = vd_bson_get(body, "toCollection");
    vd_slice_t target = to.type == VD_BSON_STRING ? vd_value_string(to) : VD_SLICE_NULL;
    return on_collection(q, GATE_ACTION_find, q->db, first_collection(body)) &&
           on_collection(q, GATE_ACTION_insert, q->db, target) &&
           on_collection(q, GATE_ACTION_createIndex, q->db, target) &&
           on_collection(q, GATE_ACTION_convertToCapped, q->db, target);
}

static bool may_coll_mod(const question_t *q)
{
    vd_bson_t body = q->sections->body;
    vd_value_t source = vd_bson_get(body, "viewOn");
    if (!on_collection(q, GATE_ACTION_collMod, q->db, first_collection(body)))
        return false;
    return source.type != VD_BSON_STRING ||
           (on_collection(q, GATE_ACTION_find, q->db, vd_value_string(source)) &&
            may_pipeline(q, vd_bson_get(body, "pipeline"), q->db, vd_value_string(source), 1));
}

static bool may_rename(const question_t *q)
{
    vd_slice_t from_db, from, to_db, to;
    vd_slice_t name;
    vd_value_t source;
    vd_bson_t body = q->sections->body;
    if (!vd_bson_first(body, &name, &source) || !namespace_split(source, &from_db, &from) ||
        !namespace_split(vd_bson_get(body, "to"), &to_db, &to))
        return true; /* storage refuses the form */
    bool drop = flag_of(body, "dropTarget");
    if (vd_slice_equal(from_db, to_db) &&
        on_collection(q, GATE_ACTION_renameCollectionSameDB, from_db, from) &&
        on_collection(q, GATE_ACTION_renameCollectionSameDB, to_db, to) &&
        (!drop || on_collection(q, GATE_ACTION_dropCollection, to_db, to)))
        return true;
    return on_collection(q, GATE_ACTION_find, from_db, from) &&
           on_collection(q, GATE_ACTION_dropCollection, from_db, from) &&
           on_collection(q, GATE_ACTION_insert, to_db, to) &&
           on_collection(q, GATE_ACTION_createIndex, to_db, to) &&
           (!drop || on_collection(q, GATE_ACTION_dropCollection, to_db, to));
}

/* ---- users and roles ---- */

/* `action` on the database of every role in the list. */
static bool on_role_databases(const question_t *q, vd_value_t list, gate_action_t action)
{
    if (list.type != VD_BSON_ARRAY)
        return true; /* the handler refuses the form */
    vd_bson_iter_t each;
    vd_bson_iter_init(&each, vd_value_document(list));
    while (vd_bson_iter_next(&each)) {
        vd_slice_t db = q->db;
        if (each.value.type == VD_BSON_OBJECT) {
            vd_value_t named = vd_bson_get(vd_value_document(each.value), "db");
            if (named.type == VD_BSON_STRING)
                db = vd_value_string(named);
        }
        if (!on_database(q, action, db))
            return false;
    }
    return true;
}

/* To hand out a privilege one needs `action` where the privilege is: its database, or admin for
 * what is wider. */
static bool on_privilege_databases(const question_t *q, vd_value_t list, gate_action_t action)
{
    if (list.type != VD_BSON_ARRAY)
        return true;
    vd_bson_iter_t each;
    vd_bson_iter_init(&each, vd_value_document(list));
    while (vd_bson_iter_next(&each)) {
        vd_value_t resource = each.value.type == VD_BSON_OBJECT
                                  ? vd_bson_get(vd_value_document(each.value), "resource")
                                  : VD_VALUE_MISSING;
        vd_value_t db = resource.type == VD_BSON_OBJECT
                            ? vd_bson_get(vd_value_document(resource), "db")
                            : VD_VALUE_MISSING;
        vd_slice_t name = db.type == VD_BSON_STRING && vd_value_string(db).len != 0
                              ? vd_value_string(db)
                              : VD_SLICE_LIT("admin");
        if (!on_database(q, action, name))
            return false;
    }
    return true;
}

static bool is_own_name(const question_t *q, vd_value_t v)
{
    return v.type == VD_BSON_STRING && vd_slice_equal(vd_value_string(v), q->who->user) &&
           vd_slice_equal(q->db, q->who->db);
}

/* From where somebody may log in: a right of its own. */
static bool may_restrict(const question_t *q, vd_bson_t body)
{
    return vd_value_is_missing(vd_bson_get(body, "authenticationRestrictions")) ||
           on_database(q, GATE_ACTION_setAuthenticationRestriction, q->db);
}

static bool may_update_user(const question_t *q)
{
    vd_bson_t body = q->sections->body;
    vd_slice_t name;
    vd_value_t user;
    bool own = vd_bson_first(body, &name, &user) && is_own_name(q, user);
    vd_value_t roles = vd_bson_get(body, "roles");
    if (!vd_value_is_missing(vd_bson_get(body, "pwd")) &&
        !on_database(q, GATE_ACTION_changePassword, q->db) &&
        !(own && on_database(q, GATE_ACTION_changeOwnPassword, q->db)))
        return false;
    if (!vd_value_is_missing(vd_bson_get(body, "customData")) &&
        !on_database(q, GATE_ACTION_changeCustomData, q->db) &&
        !(own && on_database(q, GATE_ACTION_changeOwnCustomData, q->db)))
        return false;
    if (!may_restrict(q, body))
        return false;
    /* Setting the list may take roles away, too. */
    return vd_value_is_missing(roles) || (on_database(q, GATE_ACTION_revokeRole, q->db) &&
                                          on_role_databases(q, roles, GATE_ACTION_grantRole));
}

static bool may_see_user(const question_t *q, vd_value_t v)
{
    vd_slice_t name = VD_SLICE_NULL, db = q->db;
    if (v.type == VD_BSON_STRING) {
        name = vd_value_string(v);
    } else if (v.type == VD_BSON_OBJECT) {
        vd_value_t user = vd_bson_get(vd_value_document(v), "user"),
                   user_db = vd_bson_get(vd_value_document(v), "db");
        if (!vd_value_is_missing(vd_bson_get(vd_value_document(v), "forAllDBs")))
            return gate_privileges_allow(q->who->privileges, GATE_ACTION_viewUser, GATE_RESOURCE_DB,
                                         VD_SLICE_NULL, VD_SLICE_NULL);
        if (user.type == VD_BSON_STRING)
            name = vd_value_string(user);
        if (user_db.type == VD_BSON_STRING)
            db = vd_value_string(user_db);
    } else {
        return on_database(q, GATE_ACTION_viewUser, q->db); /* all of this database */
    }
    bool own = vd_slice_equal(name, q->who->user) && vd_slice_equal(db, q->who->db);
    return own || on_database(q, GATE_ACTION_viewUser, db);
}

static bool has_role(const question_t *q, vd_slice_t role, vd_slice_t db)
{
    for (uint32_t i = 0; i < q->who->role_count; i++) {
        if (gate_role_ref_equal(q->who->roles[i], (gate_role_ref_t){role, db}))
            return true;
    }
    return false;
}

static bool may_see_role(const question_t *q, vd_value_t v)
{
    vd_slice_t name, db = q->db;
    if (v.type == VD_BSON_STRING) {
        name = vd_value_string(v);
    } else if (v.type == VD_BSON_OBJECT) {
        vd_value_t role = vd_bson_get(vd_value_document(v), "role"),
                   role_db = vd_bson_get(vd_value_document(v), "db");
        name = role.type == VD_BSON_STRING ? vd_value_string(role) : VD_SLICE_NULL;
        if (role_db.type == VD_BSON_STRING)
            db = vd_value_string(role_db);
    } else {
        return on_database(q, GATE_ACTION_viewRole, q->db);
    }
    return has_role(q, name, db) || on_database(q, GATE_ACTION_viewRole, db);
}

static bool may_see(const question_t *q, bool (*one)(const question_t *, vd_value_t))
{
    vd_slice_t name;
    vd_value_t what;
    if (!vd_bson_first(q->sections->body, &name, &what))
        return false;
    if (what.type != VD_BSON_ARRAY)
        return one(q, what);
    vd_bson_iter_t each;
    vd_bson_iter_init(&each, vd_value_document(what));
    while (vd_bson_iter_next(&each)) {
        if (!one(q, each.value))
            return false;
    }
    return true;
}

/* ---- the decision ---- */

static bool data_size_or_login(const question_t *q)
{
    /* dataSize names its collection as "db.collection". */
    vd_slice_t name, db, collection;
    vd_value_t value;
    if (strcmp(q->command->name, "dataSize") != 0)
        return true;
    return vd_bson_first(q->sections->body, &name, &value) &&
           namespace_split(value, &db, &collection) &&
           on_collection(q, GATE_ACTION_find, db, collection);
}

/* -1 only reads the level. */
static bool may_profile(const question_t *q, vd_bson_t body)
{
    vd_slice_t name;
    vd_value_t level;
    int64_t value = 0;
    bool reads = vd_bson_first(body, &name, &level) && vd_value_as_int64(level, &value) &&
                 value == -1 && vd_value_is_missing(vd_bson_get(body, "slowms")) &&
                 vd_value_is_missing(vd_bson_get(body, "sampleRate"));
    return on_database(q, q->command->action, q->db) ||
           (reads && on_collection(q, GATE_ACTION_find, q->db, VD_SLICE_LIT("system.profile")));
}

static bool may_set_role(const question_t *q, vd_bson_t body, gate_action_t action)
{
    return on_database(q, action, q->db) && may_restrict(q, body) &&
           on_role_databases(q, vd_bson_get(body, "roles"), GATE_ACTION_grantRole) &&
           on_privilege_databases(q, vd_bson_get(body, "privileges"), GATE_ACTION_grantRole);
}

static bool allowed(const question_t *q, gate_access_grant_t *grant)
{
    vd_bson_t body = q->sections->body;
    vd_slice_t collection = first_collection(body);
    gate_action_t action = q->command->action;
    *grant = (gate_access_grant_t){0};
    switch (q->command->check) {
    case GATE_CHECK_OPEN:
        return true;
    case GATE_CHECK_LOGIN:
        return data_size_or_login(q);
    case GATE_CHECK_COLLECTION:
        return on_collection(q, action, q->db, collection);
    case GATE_CHECK_DATABASE:
        return on_database(q, action, q->db);
    case GATE_CHECK_CLUSTER:
        return on_cluster(q, action);
    case GATE_CHECK_AGGREGATE:
        grant->all_users = on_cluster(q, GATE_ACTION_inprog);
        grant->writes = writes_out(body);
        return may_aggregate(q, body);
    case GATE_CHECK_INSERT:
        return on_collection(q, action, q->db, collection) && may_bypass(q, collection);
    case GATE_CHECK_UPDATE:
        return may_update(q);
    case GATE_CHECK_FIND_AND_MODIFY:
        return may_find_and_modify(q);
    case GATE_CHECK_EXPLAIN:
        return may_explain(q);
    case GATE_CHECK_CREATE:
        return may_create(q);
    case GATE_CHECK_CLONE_CAPPED:
        return may_clone_capped(q);
    case GATE_CHECK_COLLMOD:
        return may_coll_mod(q);
    case GATE_CHECK_RENAME:
        return may_rename(q);
    case GATE_CHECK_LIST_DATABASES:
        grant->all_visible = on_cluster(q, action);
        /* Without it one sees the databases that one has privileges on, unless one insists on all.
         */
        return grant->all_visible || !is_false(body, "authorizedDatabases");
    case GATE_CHECK_LIST_COLLECTIONS:
        grant->all_visible = on_database(q, action, q->db);
        return grant->all_visible ||
               (flag_of(body, "authorizedCollections") && flag_of(body, "nameOnly"));
    case GATE_CHECK_CURSORS: /* storage compares the cursor's user with the asking one */
        grant->all_users =
            on_cluster(q, GATE_ACTION_killAnyCursor) && action == GATE_ACTION_killCursors;
        return true;
    case GATE_CHECK_CURRENT_OP:
        grant->all_users = on_cluster(q, action);
        return grant->all_users || flag_of(body, "$ownOps");
    case GATE_CHECK_KILL_OP: /* everybody may end their own */
        grant->all_users = on_cluster(q, action);
        return true;
    case GATE_CHECK_KILL_ALL_SESSIONS:
        grant->all_users = on_cluster(q, action);
        return grant->all_users;
    case GATE_CHECK_PROFILE:
        return may_profile(q, body);
    case GATE_CHECK_CREATE_USER:
        return on_database(q, action, q->db) && may_restrict(q, body) &&
               on_role_databases(q, vd_bson_get(body, "roles"), GATE_ACTION_grantRole);
    case GATE_CHECK_UPDATE_USER:
        return may_update_user(q);
    case GATE_CHECK_GRANT_ROLES:
    case GATE_CHECK_REVOKE_ROLES:
        return on_role_databases(q, vd_bson_get(body, "roles"), action);
    case GATE_CHECK_CREATE_ROLE:
        return may_set_role(q, body, action);
    case GATE_CHECK_UPDATE_ROLE:
        return may_set_role(q, body, GATE_ACTION_revokeRole);
    case GATE_CHECK_GRANT_PRIVILEGES:
    case GATE_CHECK_REVOKE_PRIVILEGES:
        return on_privilege_databases(q, vd_bson_get(body, "privileges"), action);
    case GATE_CHECK_USERS_INFO:
        return may_see(q, may_see_user);
    case GATE_CHECK_ROLES_INFO:
        return may_see(q, may_see_role);
    }
    return false;
}

static int refuse(const question_t *q, vd_error_t *err)
{
    vd_slice_t name = VD_SLICE_NULL, collection = first_collection(q->sections->body);
    vd_value_t first;
    (void)vd_bson_first(q->sections->body, &name, &first); /* an empty command is refused before */
    if ((q->command->flags & GATE_COLLECTION_ARGUMENT) != 0 ||
        q->command->check == GATE_CHECK_AGGREGATE)
        return vd_error_set(
            err, VD_ERR_UNAUTHORIZED,
            "not authorized on %.*s to execute command { %.*s: \"%.*s\", ..., $db: \"%.*s\" }",
            VD_SLICE_FMT(q->db), VD_SLICE_FMT(name), VD_SLICE_FMT(collection), VD_SLICE_FMT(q->db));
    return vd_error_set(err, VD_ERR_UNAUTHORIZED,
                        "not authorized on %.*s to execute command { %.*s: ..., $db: \"%.*s\" }",
                        VD_SLICE_FMT(q->db), VD_SLICE_FMT(name), VD_SLICE_FMT(q->db));
}

bool gate_access_is_leased(const gate_command_t *command)
{
    return command->check != GATE_CHECK_OPEN && (command->flags & (GATE_ENDS | GATE_WRITES)) == 0 &&
           (command->where == GATE_RUN_STORAGE || command->where == GATE_RUN_WORKER);
}

int gate_access_state(const gate_command_t *command, gate_login_state_t login, bool in_transaction,
                      vd_error_t *err)
{
    bool ours = command->where == GATE_RUN_HERE || command->where == GATE_RUN_WORKER;
    if (login != GATE_LOGIN_HOLDS && command->check != GATE_CHECK_OPEN)
        return vd_error_set(err, VD_ERR_REAUTHENTICATION_REQUIRED,
                            "The token of this connection's login %s",
                            login == GATE_LOGIN_REVOKED ? "was revoked" : "has expired");
    if (in_transaction && ours)
        return vd_error_set(err, VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION,
                            "Cannot run '%s' in a multi-document transaction.", command->name);
    return VD_OK;
}

int gate_access_check(const gate_command_t *command, vd_slice_t db, const vdp_sections_t *sections,
                      const gate_principal_t *principal, gate_access_grant_t *ret_grant,
                      vd_error_t *err)
{
    VD_ASSERT(command != NULL && sections != NULL && ret_grant != NULL);
    *ret_grant = (gate_access_grant_t){0};
    if (command->check == GATE_CHECK_OPEN)
        return VD_OK;
    if (principal == NULL)
        return vd_error_set(err, VD_ERR_UNAUTHORIZED, "Command %s requires authentication",
                            command->name);
    question_t q = {command, db, sections, principal};
    return allowed(&q, ret_grant) ? VD_OK : refuse(&q, err);
}
