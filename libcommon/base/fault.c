/* libcommon/base/fault.c — named fault points; see fault.h. */
#include "libcommon/base/fault.h"

#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define FAULTS_MAX     64
#define FAULT_NAME_MAX 64

typedef enum { ACTION_ERROR, ACTION_KILL, ACTION_WAIT, ACTION_SLEEP } action_t;

typedef struct {
    char name[FAULT_NAME_MAX]; /* kept after disarming, for the count */
    action_t action;
    bool armed;
    bool endless;
    uint64_t times, skip, sleep_ms;
    uint64_t count;
    uint64_t release; /* grows when the point is armed or disarmed: waiters leave */
} fault_t;

int vd_fault_armed_count;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t released = PTHREAD_COND_INITIALIZER;
static fault_t faults[FAULTS_MAX];
static size_t faults_count;

static fault_t *find(vd_slice_t name)
{
    for (size_t i = 0; i < faults_count; i++)
        if (vd_slice_is(name, faults[i].name))
            return &faults[i];
    return NULL;
}

static void set_armed(fault_t *fault, bool armed)
{
    int change = (int)armed - (int)fault->armed;
    fault->armed = armed;
    fault->release++;
    __atomic_add_fetch(&vd_fault_armed_count, change, __ATOMIC_RELAXED);
    (void)pthread_cond_broadcast(&released);
}

static vd_slice_t cut(vd_slice_t *rest, char separator)
{
    const uint8_t *at = rest->len == 0 ? NULL : memchr(rest->data, separator, rest->len);
    vd_slice_t part = *rest;
    if (at == NULL) {
        *rest = VD_SLICE_NULL;
    } else {
        part.len = (size_t)(at - rest->data);
        *rest = vd_slice(at + 1, rest->len - part.len - 1);
    }
    return part;
}

static bool parse_number(vd_slice_t s, uint64_t *ret)
{
    if (s.len == 0 || s.len > 18)
        return false;
    uint64_t v = 0;
    for (size_t i = 0; i < s.len; i++) {
        if (s.data[i] < '0' || s.data[i] > '9')
            return false;
        v = v * 10 + (uint64_t)(s.data[i] - '0');
    }
    *ret = v;
    return true;
}

static bool parse_one(vd_slice_t item, fault_t *out)
{
    vd_slice_t name = cut(&item, '=');
    if (name.len == 0 || name.len >= FAULT_NAME_MAX)
        return false;
    memcpy(out->name, name.data, name.len);
    vd_slice_t action = cut(&item, ':');
    out->endless = true;
    if (vd_slice_is(action, "error"))
        out->action = ACTION_ERROR;
    else if (vd_slice_is(action, "kill"))
        out->action = ACTION_KILL;
    else if (vd_slice_is(action, "wait"))
        out->action = ACTION_WAIT;
    else if (vd_slice_is(cut(&action, '='), "sleep_ms") && parse_number(action, &out->sleep_ms))
        out->action = ACTION_SLEEP;
    else
        return false;
    while (item.len != 0) {
        vd_slice_t value = cut(&item, ':');
        vd_slice_t key = cut(&value, '=');
        if (vd_slice_is(key, "times") && parse_number(value, &out->times))
            out->endless = false;
        else if (!vd_slice_is(key, "skip") || !parse_number(value, &out->skip))
            return false;
    }
    return true;
}

int vd_fault_arm(const char *spec, vd_error_t *err)
{
    VD_ASSERT(spec != NULL);
    vd_slice_t rest = vd_slice_str(spec);
    if (rest.len == 0)
        return vd_error_set(err, VD_ERR_CONFIG, "fault specification is empty");
    while (rest.len != 0) {
        vd_slice_t item = cut(&rest, ',');
        fault_t parsed = {0};
        if (!parse_one(item, &parsed))
            return vd_error_set(err, VD_ERR_CONFIG, "fault specification '%.*s' is malformed",
                                VD_SLICE_FMT(item));
        (void)pthread_mutex_lock(&lock);
        fault_t *fault = find(vd_slice_str(parsed.name));
        if (fault == NULL && faults_count < FAULTS_MAX)
            fault = &faults[faults_count++];
        if (fault != NULL) {
            parsed.armed = fault->armed;
            parsed.release = fault->release;
            *fault = parsed;
            set_armed(fault, true);
        }
        (void)pthread_mutex_unlock(&lock);
        if (fault == NULL)
            return vd_error_set(err, VD_ERR_FULL, "at most %d fault points can be armed",
                                FAULTS_MAX);
    }
    return VD_OK;
}

void vd_fault_disarm(const char *name)
{
    (void)pthread_mutex_lock(&lock);
    for (size_t i = 0; i < faults_count; i++)
        if (name == NULL || strcmp(faults[i].name, name) == 0)
            set_armed(&faults[i], false);
    (void)pthread_mutex_unlock(&lock);
}

static void sleep_ms(uint64_t ms)
{
    struct timespec left = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
    while (nanosleep(&left, &left) != 0)
        continue;
}

int vd_fault_hit(const char *name, vd_error_t *err)
{
    (void)pthread_mutex_lock(&lock);
    fault_t *fault = find(vd_slice_str(name));
    if (fault == NULL || !fault->armed) {
        (void)pthread_mutex_unlock(&lock);
        return VD_OK;
    }
    fault->count++;
    bool fires = fault->skip == 0 && (fault->endless || fault->times != 0);
    if (fault->skip != 0)
        fault->skip--;
    else if (!fault->endless && fault->times != 0)
        fault->times--;
    action_t action = fault->action;
    uint64_t ms = fault->sleep_ms, release = fault->release;
    (void)pthread_mutex_unlock(&lock);
    if (!fires)
        return VD_OK;
    vd_log(VD_LOG_INFO, "fault point reached", "name=%s", name);
    if (action == ACTION_WAIT) {
        (void)pthread_mutex_lock(&lock);
        while (fault->release == release)
            (void)pthread_cond_wait(&released, &lock);
        (void)pthread_mutex_unlock(&lock);
    }
    if (action == ACTION_KILL) {
        (void)kill(getpid(), SIGKILL);
        for (;;)
            (void)pause();
    }
    if (action == ACTION_SLEEP)
        sleep_ms(ms);
    if (action == ACTION_ERROR)
        return vd_error_set(err, VD_ERR_FAULT_INJECTED, "fault point %s is armed", name);
    return VD_OK;
}

uint64_t vd_fault_count(const char *name)
{
    (void)pthread_mutex_lock(&lock);
    const fault_t *fault = find(vd_slice_str(name));
    uint64_t count = fault == NULL ? 0 : fault->count;
    (void)pthread_mutex_unlock(&lock);
    return count;
}
