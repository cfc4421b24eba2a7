/* veddb-storaged/request_queue.h — requests one after the other, linked by their `next`.
 *
 * Owner:   whoever has it; a request is in one at most. Threads: the owner locks. */
#pragma once
#include "veddb-storaged/request.h"

typedef struct {
    stor_request_t *first, **last;
    uint64_t count;
} stor_queue_t;

static inline void stor_queue_init(stor_queue_t *queue)
{
    queue->first = NULL;
    queue->last = &queue->first;
    queue->count = 0;
}

static inline void stor_queue_push(stor_queue_t *queue, stor_request_t *request)
{
    request->next = NULL;
    *queue->last = request;
    queue->last = &request->next;
    queue->count++;
}

static inline stor_request_t *stor_queue_pop(stor_queue_t *queue)
{
    stor_request_t *request = queue->first;
    if (request == NULL)
        return NULL;
    queue->first = request->next;
    if (queue->first == NULL)
        queue->last = &queue->first;
    queue->count--;
    return request;
}

/* Moves everything of `from` to the end of `to`. */
static inline void stor_queue_join(stor_queue_t *to, stor_queue_t *from)
{
    if (from->first == NULL)
        return;
    *to->last = from->first;
    to->last = from->last;
    to->count += from->count;
    stor_queue_init(from);
}
