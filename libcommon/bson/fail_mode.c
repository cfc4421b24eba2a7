/* libcommon/bson/fail_mode.c — see fail_mode.h. */
#include "libcommon/bson/fail_mode.h"

int vd_fail_mode_parse(vd_value_t value, vd_fail_mode_t *ret_mode, vd_error_t *err)
{
    *ret_mode = (vd_fail_mode_t){.armed = true, .times = -1};
    if (value.type == VD_BSON_STRING && vd_slice_is(vd_value_string(value), "off")) {
        ret_mode->armed = false;
        return VD_OK;
    }
    if (value.type == VD_BSON_STRING && vd_slice_is(vd_value_string(value), "alwaysOn"))
        return VD_OK;
    if (value.type == VD_BSON_OBJECT) {
        vd_bson_t document = vd_value_document(value);
        int64_t *times = &ret_mode->times, *skip = &ret_mode->skip;
        if (vd_value_as_int64(vd_bson_get(document, "times"), times) && *times >= 0)
            return VD_OK;
        *times = -1;
        if (vd_value_as_int64(vd_bson_get(document, "skip"), skip) && *skip >= 0)
            return VD_OK;
    }
    *ret_mode = (vd_fail_mode_t){0};
    return vd_error_set(err, VD_ERR_BAD_VALUE,
                        "mode must be \"off\", \"alwaysOn\", {times: n} or {skip: n}");
}

bool vd_fail_mode_hit(vd_fail_mode_t *mode)
{
    if (!mode->armed || mode->times == 0)
        return false;
    if (mode->skip > 0) {
        mode->skip--;
        return false;
    }
    if (mode->times > 0)
        mode->times--;
    mode->hits++;
    return true;
}
