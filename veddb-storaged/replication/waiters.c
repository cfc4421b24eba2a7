/* veddb-storaged/replication/waiters.c — see waiters.h. */
#include "veddb-storaged/replication/waiters.h"

#include "libcommon/base/mem.h"

#define CAPACITY_FIRST 64

void stor_waiters_done(stor_waiters_t *waiters)
{
    VD_ASSERT(waiters->count == 0);
    vd_free(waiters->items);
    waiters->items = NULL;
    waiters->capacity = 0;
}

static uint64_t key_at(const stor_waiters_t *waiters, uint32_t i)
{
    return waiters->items[i]->wait.key[waiters->order];
}

static void place(stor_waiters_t *waiters, uint32_t i, stor_request_t *request)
{
    waiters->items[i] = request;
    request->wait.at[waiters->order] = i;
}

static void rise(stor_waiters_t *waiters, uint32_t i)
{
    stor_request_t *request = waiters->items[i];
    uint64_t key = request->wait.key[waiters->order];
    while (i > 0 && key < key_at(waiters, (i - 1) / 2)) {
        place(waiters, i, waiters->items[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    place(waiters, i, request);
}

static void sink(stor_waiters_t *waiters, uint32_t i)
{
    stor_request_t *request = waiters->items[i];
    uint64_t key = request->wait.key[waiters->order];
    for (uint32_t child; (child = 2 * i + 1) < waiters->count; i = child) {
        if (child + 1 < waiters->count && key_at(waiters, child + 1) < key_at(waiters, child))
            child++;
        if (key <= key_at(waiters, child))
            break;
        place(waiters, i, waiters->items[child]);
    }
    place(waiters, i, request);
}

void stor_waiters_put(stor_waiters_t *waiters, stor_request_t *request)
{
    if (waiters->count == waiters->capacity) {
        waiters->capacity = waiters->capacity == 0 ? CAPACITY_FIRST : 2 * waiters->capacity;
        waiters->items = vd_xrealloc(waiters->items, waiters->capacity * sizeof(stor_request_t *));
    }
    waiters->items[waiters->count] = request;
    rise(waiters, waiters->count++);
}

void stor_waiters_remove(stor_waiters_t *waiters, stor_request_t *request)
{
    uint32_t i = request->wait.at[waiters->order];
    VD_ASSERT(i < waiters->count && waiters->items[i] == request);
    stor_request_t *last = waiters->items[--waiters->count];
    if (last == request)
        return;
    place(waiters, i, last);
    rise(waiters, i);
    sink(waiters, last->wait.at[waiters->order]);
}

void stor_waiters_hurry(stor_waiters_t *waiters, stor_request_t *request)
{
    rise(waiters, request->wait.at[waiters->order]);
}
