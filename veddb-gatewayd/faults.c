/* veddb-gatewayd/faults.c — see faults.h. */
#include "veddb-gatewayd/faults.h"

#include "libcommon/base/mem.h"
#include "libcommon/bson/fail_mode.h"

#include <pthread.h>

#define BLOCK_MAX_MS (10 * 60 * 1000)

struct gate_faults {
    pthread_mutex_t lock;
    vd_fail_mode_t mode;
    bool get_more; /* failGetMoreAfterCursorCheckout: names no commands */
    uint8_t *data; /* a copy of the document "data" */
    uint32_t data_len;
};

gate_faults_t *gate_faults_create(void)
{
    gate_faults_t *faults = vd_xalloc(sizeof *faults);
    (void)pthread_mutex_init(&faults->lock, NULL); /* can't fail with default attributes */
    return faults;
}

void gate_faults_destroy(gate_faults_t **faults_p)
{
    gate_faults_t *faults = *faults_p;
    if (faults == NULL)
        return;
    vd_free(faults->data);
    (void)pthread_mutex_destroy(&faults->lock);
    vd_free(faults);
    *faults_p = NULL;
}

static int check_data(vd_bson_t data, bool get_more, vd_error_t *err)
{
    static const char *const known[] = {"failCommands",        "errorCode",   "closeConnection",
                                        "blockConnection",     "blockTimeMS", "errorLabels",
                                        "writeConcernError",   "appName",     "namespace",
                                        "failInternalCommands"};
    vd_bson_iter_t each;
    vd_bson_iter_init(&each, data);
    while (vd_bson_iter_next(&each)) {
        bool found = false;
        for (size_t i = 0; i < VD_COUNT_OF(known) && !found; i++)
            found = vd_slice_is(each.name, known[i]);
        if (!found)
            return vd_error_set(err, VD_ERR_BAD_VALUE, "failCommand does not know \"%.*s\"",
                                (int)(each.name.len < 64 ? each.name.len : 64), each.name.data);
    }
    if (!get_more && vd_bson_get(data, "failCommands").type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "failCommand needs an array failCommands");
    return VD_OK;
}

int gate_faults_configure(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    gate_faults_t *faults = request->thread->gate->faults;
    vd_bson_t body = gate_request_body(request), data = VD_BSON_NONE;
    vd_value_t given = vd_bson_get(body, "data");
    vd_fail_mode_t mode;
    vd_slice_t name =
        request->first.type == VD_BSON_STRING ? vd_value_string(request->first) : VD_SLICE_NULL;
    bool get_more = vd_slice_is(name, "failGetMoreAfterCursorCheckout");
    int rc =
        vd_bson_validate(vd_slice(body.data, body.len), VD_BSON_CHECK_UTF8, VD_BSON_DEPTH_MAX, err);
    if (rc == VD_OK && (vd_slice_is(name, "onPrimaryTransactionalWrite") ||
                        vd_slice_is(name, "maxTimeAlwaysTimeOut")))
        return gate_request_pass_on(request, err);
    if (rc == VD_OK && !get_more && !vd_slice_is(name, "failCommand"))
        rc = vd_error_set(err, VD_ERR_LOCATION(82),
                          "only the fail points failCommand, failGetMoreAfterCursorCheckout, "
                          "onPrimaryTransactionalWrite and maxTimeAlwaysTimeOut are offered");
    if (rc == VD_OK)
        rc = vd_fail_mode_parse(vd_bson_get(body, "mode"), &mode, err);
    if (rc == VD_OK && mode.armed) {
        data = given.type == VD_BSON_OBJECT ? vd_value_document(given) : VD_BSON_NONE;
        rc = check_data(data, get_more, err);
    }
    if (rc != VD_OK)
        return rc;
    (void)pthread_mutex_lock(&faults->lock);
    vd_bb_int32(reply, "count", (int32_t)faults->mode.hits);
    vd_free(faults->data);
    faults->data = NULL;
    faults->data_len = data.len;
    if (data.len != 0) {
        faults->data = vd_xalloc(data.len);
        memcpy(faults->data, data.data, data.len);
    }
    faults->mode = mode;
    faults->get_more = get_more;
    (void)pthread_mutex_unlock(&faults->lock);
    return VD_OK;
}

static bool lists(vd_value_t array, const gate_request_t *request)
{
    vd_bson_iter_t each;
    vd_bson_iter_init(&each, vd_value_document(array));
    while (vd_bson_iter_next(&each)) {
        if (each.value.type != VD_BSON_STRING)
            continue;
        vd_slice_t name = vd_value_string(each.value);
        if (vd_slice_equal(name, request->name) || vd_slice_is(name, request->command->name) ||
            (request->command->alias != NULL && vd_slice_is(name, request->command->alias)))
            return true;
    }
    return false;
}

static bool fits(const gate_faults_t *faults, const gate_request_t *request)
{
    vd_bson_t data = {faults->data, faults->data_len};
    vd_value_t app = vd_bson_get(data, "appName"), ns = vd_bson_get(data, "namespace");
    if (faults->get_more ? strcmp(request->command->name, "getMore") != 0
                         : !lists(vd_bson_get(data, "failCommands"), request))
        return false;
    if (app.type == VD_BSON_STRING && !vd_slice_is(vd_value_string(app), request->conn->app))
        return false;
    if (ns.type == VD_BSON_STRING) {
        vd_slice_t collection =
            request->first.type == VD_BSON_STRING ? vd_value_string(request->first) : VD_SLICE_NULL;
        char *full = vd_arena_printf(request->arena, "%.*s.%.*s", VD_SLICE_FMT(request->db),
                                     VD_SLICE_FMT(collection));
        if (!vd_slice_is(vd_value_string(ns), full))
            return false;
    }
    return true;
}

void gate_faults_match(gate_faults_t *faults, gate_request_t *request)
{
    gate_fault_t *out = &request->fault;
    int64_t ms = 0, code = 0;
    if (strcmp(request->command->name, "configureFailPoint") == 0)
        return;
    (void)pthread_mutex_lock(&faults->lock);
    vd_bson_t data = {faults->data, faults->data_len};
    bool active = faults->mode.armed && fits(faults, request) && vd_fail_mode_hit(&faults->mode);
    if (active)
        data.data = vd_arena_copy(request->arena, data.data, data.len);
    out->after_checkout = faults->get_more;
    (void)pthread_mutex_unlock(&faults->lock);
    if (!active)
        return;
    vd_value_t labels = vd_bson_get(data, "errorLabels"),
               concern = vd_bson_get(data, "writeConcernError");
    out->active = true;
    out->close = vd_value_as_flag(vd_bson_get(data, "closeConnection"));
    out->block = vd_value_as_flag(vd_bson_get(data, "blockConnection"));
    if (vd_value_as_int64(vd_bson_get(data, "blockTimeMS"), &ms) && ms > 0)
        out->block_ms = ms < BLOCK_MAX_MS ? (uint32_t)ms : BLOCK_MAX_MS;
    out->has_error =
        vd_value_as_int64(vd_bson_get(data, "errorCode"), &code) && code > 0 && code <= INT32_MAX;
    out->error_code = -(int)code;
    out->has_labels = labels.type == VD_BSON_ARRAY;
    if (out->has_labels)
        out->labels = vd_value_document(labels);
    if (concern.type == VD_BSON_OBJECT)
        out->write_concern_error = vd_value_document(concern);
}
