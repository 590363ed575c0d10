/* tests/base/test_mem.c - arrays that grow: what they hold stays, room at least doubles, and nothing changes when memory is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"

static void an_array_keeps_what_it_holds(void **state)
{
    (void)state;
    uint32_t *a = NULL;
    size_t cap = 0, grown = 0;
    for (uint32_t i = 0; i < 100000; i++) {
        size_t before = cap;
        assert_int_equal(mem_grow(&a, &cap, i + 1, sizeof(*a), "numbers"), ST_OK);
        assert_true(cap > i && (cap == before || cap >= 2 * before));
        grown += cap != before;
        a[i] = i;
    }
    assert_true(grown < 20);
    for (uint32_t i = 0; i < 100000; i++)
        assert_int_equal(a[i], i);
    free(a);
}

static void room_is_there_for_all_that_is_needed_at_once(void **state)
{
    (void)state;
    for (size_t first = 0; first < 40; first++) {
        for (size_t need = 0; need < 90; need++) {
            char *a = NULL;
            size_t cap = 0;
            assert_int_equal(mem_grow(&a, &cap, first, 3, "triples"), ST_OK);
            assert_int_equal(mem_grow(&a, &cap, need, 3, "triples"), ST_OK);
            assert_true(cap >= first && cap >= need);
            if (cap > 0) /* the sanitizers watch the ends */
                memset(a, 1, cap * 3);
            free(a);
        }
    }
}

static void nothing_changes_when_memory_is_refused(void **state)
{
    (void)state;
    const size_t most = SIZE_MAX / sizeof(uint64_t);
    uint64_t *a = NULL, *same;
    size_t cap = 0, room;
    assert_int_equal(mem_grow(&a, &cap, 5, sizeof(*a), "numbers"), ST_OK);
    a[4] = 7;
    same = a;
    room = cap;
    /* Bytes that do not fit into a size_t.  (To ask for fewer, yet too many, ends a program that a sanitizer watches.) */
    assert_int_equal(mem_grow(&a, &cap, most + 2, sizeof(*a), "numbers"), ST_NO_MEMORY);
    assert_non_null(strstr(status_message(), "numbers"));
    assert_int_equal(mem_grow(&a, &cap, SIZE_MAX, sizeof(*a), "numbers"), ST_NO_MEMORY);
    assert_true(a == same && cap == room && a[4] == 7);
    free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_array_keeps_what_it_holds),
        cmocka_unit_test(room_is_there_for_all_that_is_needed_at_once),
        cmocka_unit_test(nothing_changes_when_memory_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
