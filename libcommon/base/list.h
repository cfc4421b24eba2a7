/* libcommon/base/list.h — intrusive doubly linked list.
 *
 * Owner:   the one who owns the items.
 * Threads: one. */
#pragma once
#include "libcommon/base/assert.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct vd_link_node {
    struct vd_link_node *next, *prev;
} vd_node_t;

typedef struct {
    vd_node_t head; /* circular; head.next == &head when empty */
} vd_list_t;

static inline void vd_list_init(vd_list_t *list)
{
    list->head.next = list->head.prev = &list->head;
}
static inline bool vd_list_empty(const vd_list_t *list)
{
    return list->head.next == &list->head;
}
static inline bool vd_node_linked(const vd_node_t *node)
{
    return node->next != NULL;
}
static inline void vd_list_insert_before(vd_node_t *at, vd_node_t *node)
{
    node->prev = at->prev, node->next = at;
    at->prev->next = node, at->prev = node;
}
static inline void vd_list_push_back(vd_list_t *list, vd_node_t *node)
{
    vd_list_insert_before(&list->head, node);
}
static inline void vd_list_push_front(vd_list_t *list, vd_node_t *node)
{
    vd_list_insert_before(list->head.next, node);
}
/* Unlinks; a node that is in no list is left alone. */
static inline void vd_list_remove(vd_node_t *node)
{
    if (node->next == NULL)
        return;
    node->prev->next = node->next, node->next->prev = node->prev;
    node->next = node->prev = NULL;
}
static inline vd_node_t *vd_list_first(vd_list_t *list)
{
    return vd_list_empty(list) ? NULL : list->head.next;
}
static inline vd_node_t *vd_list_pop_front(vd_list_t *list)
{
    vd_node_t *node = vd_list_first(list);
    if (node != NULL)
        vd_list_remove(node);
    return node;
}
/* Safe against removal of `node` inside the loop. */
#define VD_LIST_EACH(list, node)                                                                   \
    for (vd_node_t *node = (list)->head.next, *node##_next = node->next; node != &(list)->head;    \
         node = node##_next, node##_next = node->next)
