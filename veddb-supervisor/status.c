/* veddb-supervisor/status.c — see status.h. */
#include "veddb-supervisor/status.h"

#include "libcommon/base/clock.h"

#include <unistd.h>

/* Appends text as a JSON string. */
static int print_string(vd_buf_t *out, const char *text)
{
    int rc = vd_buf_append(out, "\"", 1);
    for (const unsigned char *p = (const unsigned char *)text; rc == VD_OK && *p != '\0'; p++) {
        if (*p == '"' || *p == '\\')
            rc = vd_buf_printf(out, "\\%c", *p);
        else if (*p < 0x20)
            rc = vd_buf_printf(out, "\\u%04x", *p);
        else
            rc = vd_buf_append(out, p, 1);
    }
    return rc == VD_OK ? vd_buf_append(out, "\"", 1) : rc;
}

static int print_worker(const sup_worker_t *worker, uint64_t now, vd_buf_t *out)
{
    int rc = vd_buf_printf(
        out,
        "{\"name\":\"%s\",\"state\":\"%s\",\"pid\":%d,\"generation\":%llu,\"starts\":%llu,\"ready_"
        "ms\":%llu,"
        "\"heartbeat_age_ms\":%llu,\"busy_ms_max\":%llu,\"detail\":",
        worker->kind->name, sup_child_state_name(worker->state), (int)worker->pid,
        (unsigned long long)worker->generation, (unsigned long long)worker->starts,
        (unsigned long long)(worker->ready_since_ms == 0 ? 0 : now - worker->ready_since_ms),
        (unsigned long long)(worker->beat_ms == 0 ? 0 : now - worker->beat_ms),
        (unsigned long long)worker->busy_ms_max);
    if (rc == VD_OK)
        rc = print_string(out, worker->detail);
    if (rc == VD_OK)
        rc = vd_buf_append_slice(out, VD_SLICE_LIT(",\"last_end\":"));
    if (rc == VD_OK)
        rc = print_string(out, worker->last_death);
    if (rc == VD_OK && vd_buf_len(&worker->status) > 0) {
        rc = vd_buf_append_slice(out, VD_SLICE_LIT(",\"status\":"));
        if (rc == VD_OK)
            rc = vd_buf_append_slice(out, vd_buf_slice(&worker->status));
    } else if (rc == VD_OK && worker->status_error[0] != '\0') {
        rc = vd_buf_append_slice(out, VD_SLICE_LIT(",\"status_error\":"));
        if (rc == VD_OK)
            rc = print_string(out, worker->status_error);
    }
    return rc == VD_OK ? vd_buf_append(out, "}", 1) : rc;
}

int sup_status_print(const sup_system_t *system, vd_buf_t *out)
{
    uint64_t now = vd_monotonic_ms();
    int rc = vd_buf_printf(out,
                           "{\"node\":\"%s\",\"version\":\"%s\",\"state\":\"%s\",\"mode\":\"%s\","
                           "\"pid\":%d,\"uptime_ms\":%llu",
                           vd_config_string(system->config, "node.name"), VEDDB_VERSION,
                           sup_phase_name(system->phase), system->watch ? "watch" : "fork",
                           (int)getpid(), (unsigned long long)(now - system->started_ms));
    for (size_t i = 0; rc == VD_OK && i < system->listener_count; i++)
        rc = vd_buf_printf(out, ",\"%s_port\":%u", system->listeners[i].what->shown,
                           system->listeners[i].port);
    if (rc == VD_OK)
        rc = vd_buf_append_slice(out, VD_SLICE_LIT(",\"workers\":["));
    for (int i = 0; rc == VD_OK && i < SUP_KIND_COUNT; i++) {
        if (!system->workers[i].joins)
            continue;
        rc = i == 0 ? VD_OK : vd_buf_append(out, ",", 1);
        if (rc == VD_OK)
            rc = print_worker(&system->workers[i], now, out);
    }
    return rc == VD_OK ? vd_buf_append_slice(out, VD_SLICE_LIT("]}")) : rc;
}
