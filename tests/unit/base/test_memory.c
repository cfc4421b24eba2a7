/* tests/unit/base/test_memory.c — allocation, arenas, buffers. */
#include "libcommon/base/arena.h"
#include "libcommon/base/buf.h"
#include "libcommon/base/list.h"
#include "libcommon/base/mem.h"

#include <criterion/criterion.h>

Test(mem, zeroed_copied_wiped)
{
    unsigned char *p = vd_xalloc(100);
    for (int i = 0; i < 100; i++)
        cr_assert_eq(p[i], 0);
    memset(p, 7, 100);
    p = vd_xrealloc(p, 200);
    cr_assert_eq(p[99], 7);
    vd_wipe(p, 200);
    cr_assert_eq(p[0], 0);
    vd_free_secret(p, 200);
    vd_free_secret(NULL, 5);
    char *s = vd_xstrndup("abcdef", 3);
    cr_assert_str_eq(s, "abc");
    vd_free(s);
    s = vd_xstrdup("");
    cr_assert_str_eq(s, "");
    vd_free(s);
    cr_assert(vd_equal_constant_time("abc", "abd", 2));
    cr_assert_not(vd_equal_constant_time("abc", "abd", 3));
    cr_assert(vd_equal_constant_time(NULL, NULL, 0));
}

static int hooks_run[4], hooks_count;

static void note_hook(void *arg)
{
    hooks_run[hooks_count++] = *(int *)arg;
}

Test(arena, alignment_and_growth)
{
    vd_arena_t *arena = vd_arena_create();
    for (int round = 0; round < 3; round++) {
        size_t total = 0;
        for (size_t size = 0; size < 3000; size += 7) {
            unsigned char *p = vd_arena_alloc(arena, size);
            cr_assert_eq((uintptr_t)p % (size >= 16 ? 16 : 8), 0);
            memset(p, 0xAA, size);
            total += size;
        }
        memset(vd_arena_alloc(arena, 1 << 20), 1, 1 << 20);
        cr_assert_eq(vd_arena_used(arena), total + (1 << 20));
        vd_arena_reset(arena);
        cr_assert_eq(vd_arena_used(arena), 0);
    }
    const unsigned char *zero = vd_arena_zalloc(arena, 500);
    for (int i = 0; i < 500; i++)
        cr_assert_eq(zero[i], 0);
    cr_assert_str_eq(vd_arena_printf(arena, "%d-%s", 5, "x"), "5-x");
    cr_assert_str_eq(vd_arena_strdup(arena, "abc"), "abc");
    vd_arena_destroy(&arena);
    cr_assert_null(arena);
    vd_arena_destroy(&arena);
}

Test(arena, marks_and_hooks)
{
    static int one = 1, two = 2, three = 3;
    vd_arena_t *arena = vd_arena_create();
    char *kept = vd_arena_strdup(arena, "kept");
    vd_arena_on_reset(arena, note_hook, &one);
    vd_arena_mark_t mark = vd_arena_mark(arena);
    size_t used = vd_arena_used(arena);
    for (int round = 0; round < 3; round++) {
        hooks_count = 0;
        vd_arena_on_reset(arena, note_hook, &two);
        for (int i = 0; i < 100; i++)
            memset(vd_arena_alloc(arena, 3000), round, 3000);
        memset(vd_arena_alloc(arena, 200000), round, 200000);
        vd_arena_on_reset(arena, note_hook, &three);
        vd_arena_rewind(arena, mark);
        cr_assert_eq(vd_arena_used(arena), used);
        cr_assert_eq(hooks_count, 2);
        cr_assert_eq(hooks_run[0], 3); /* last added first */
        cr_assert_eq(hooks_run[1], 2);
    }
    cr_assert_str_eq(kept, "kept");
    hooks_count = 0;
    vd_arena_destroy(&arena);
    cr_assert_eq(hooks_count, 1);
    cr_assert_eq(hooks_run[0], 1);
}

Test(buf, append_consume_at_the_limit)
{
    vd_buf_t buf;
    vd_buf_init(&buf, 1000);
    cr_assert_eq(vd_buf_slice(&buf).len, 0);
    for (int i = 0; i < 250; i++)
        cr_assert_eq(vd_buf_append_u32(&buf, (uint32_t)i), VD_OK);
    cr_assert_eq(vd_buf_append_u8(&buf, 1), VD_ERR_FULL);
    cr_assert_eq(vd_buf_printf(&buf, "x"), VD_ERR_FULL);
    cr_assert_eq(vd_buf_len(&buf), 1000);
    vd_buf_consume(&buf, 996);
    cr_assert_eq(vd_get_u32(vd_buf_slice(&buf).data), 249);
    cr_assert_eq(vd_buf_append_u64(&buf, 0x1122334455667788), VD_OK);
    cr_assert_eq(vd_get_u64(vd_buf_at(&buf, 4)), 0x1122334455667788);
    vd_buf_truncate(&buf, 4);
    cr_assert_eq(vd_buf_len(&buf), 4);
    vd_buf_consume(&buf, 4);
    vd_buf_shrink(&buf, 10);
    cr_assert_eq(buf.cap, 0);
    cr_assert_eq(vd_buf_printf(&buf, "%s-%d", "abc", 7), VD_OK);
    cr_assert(vd_slice_is(vd_buf_slice(&buf), "abc-7"));
    vd_buf_clear(&buf);
    uint8_t *space;
    cr_assert_eq(vd_buf_reserve(&buf, 1001, &space), VD_ERR_FULL);
    cr_assert_eq(vd_buf_reserve(&buf, SIZE_MAX, &space), VD_ERR_FULL);
    cr_assert_eq(vd_buf_reserve(&buf, 1000, &space), VD_OK);
    memset(space, 1, 1000);
    vd_buf_commit(&buf, 1000);
    cr_assert_eq(vd_buf_append(&buf, NULL, 0), VD_OK);
    vd_buf_done(&buf);
    vd_buf_done(&buf);
}

Test(buf, printf_to_the_last_byte)
{
    vd_buf_t buf;
    vd_buf_init(&buf, 5);
    cr_assert_eq(vd_buf_printf(&buf, "12345"), VD_OK);
    cr_assert(vd_slice_is(vd_buf_slice(&buf), "12345"));
    cr_assert_eq(vd_buf_printf(&buf, "%s", ""), VD_OK);
    vd_buf_done(&buf);
}

Test(buf, queue_of_bytes_keeps_order)
{
    vd_buf_t buf;
    vd_buf_init(&buf, 4096);
    uint32_t in = 0, out = 0;
    for (int round = 0; round < 2000; round++) {
        for (int i = 0; i < round % 7 + 1; i++)
            if (vd_buf_append_u32(&buf, in) == VD_OK)
                in++;
        for (int i = 0; i < round % 5 + 1 && vd_buf_len(&buf) != 0; i++) {
            cr_assert_eq(vd_get_u32(vd_buf_slice(&buf).data), out++);
            vd_buf_consume(&buf, 4);
        }
    }
    vd_buf_done(&buf);
}

Test(buf, big_endian)
{
    uint8_t bytes[8];
    vd_put_u64_be(bytes, 0x0102030405060708);
    cr_assert_eq(memcmp(bytes, "\1\2\3\4\5\6\7\10", 8), 0);
    cr_assert_eq(vd_get_u64_be(bytes), 0x0102030405060708);
}

Test(list, order_and_removal_in_the_loop)
{
    vd_list_t list;
    vd_node_t nodes[5] = {{0}};
    vd_list_init(&list);
    cr_assert_null(vd_list_pop_front(&list));
    for (int i = 1; i < 5; i++)
        vd_list_push_back(&list, &nodes[i]);
    vd_list_push_front(&list, &nodes[0]);
    int at = 0;
    VD_LIST_EACH(&list, node)
    {
        cr_assert_eq(node, &nodes[at]);
        if (at++ % 2 == 0)
            vd_list_remove(node);
    }
    cr_assert_eq(vd_list_pop_front(&list), &nodes[1]);
    cr_assert_eq(vd_list_pop_front(&list), &nodes[3]);
    cr_assert(vd_list_empty(&list));
    vd_list_remove(&nodes[3]); /* in no list: left alone */
    cr_assert_not(vd_node_linked(&nodes[3]));
}
