/* tests/cross/cmocka.h - the part of cmocka that the tests of base and ops use, for cross builds where the library itself is not at hand
 * (preset aarch64).  A failed assertion prints where and ends its test; the program's exit code is the number of failed tests. */
#ifndef TESTS_CROSS_CMOCKA_H
#define TESTS_CROSS_CMOCKA_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct CMUnitTest {
    const char *name;
    void (*run)(void **state);
} CMUnitTest;
#define cmocka_unit_test(f) {#f, f}

static jmp_buf cross_failed;

static inline _Noreturn __attribute__((format(printf, 3, 4))) void cross_fail(const char *file, int line, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "%s:%d: ", file, line);
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    longjmp(cross_failed, 1);
}

static inline void cross_equal(int64_t got, int64_t want, const char *file, int line)
{
    if (got != want)
        cross_fail(file, line, "%lld != %lld", (long long)got, (long long)want);
}

static inline void cross_memory(const void *got, const void *want, size_t n, const char *file, int line)
{
    for (size_t i = 0; i < n; i++)
        if (((const uint8_t *)got)[i] != ((const uint8_t *)want)[i])
            cross_fail(file, line, "byte %zu of %zu: %02x != %02x", i, n, ((const uint8_t *)got)[i], ((const uint8_t *)want)[i]);
}

#define test_malloc malloc
#define test_calloc calloc
#define test_realloc realloc
#define test_free free
#define fail_msg(...) cross_fail(__FILE__, __LINE__, __VA_ARGS__)
#define assert_true(x) ((x) ? (void)0 : cross_fail(__FILE__, __LINE__, "not true: %s", #x))
#define assert_false(x) assert_true(!(x))
#define assert_null(x) assert_true((x) == NULL)
#define assert_non_null(x) assert_true((x) != NULL)
#define assert_int_equal(a, b) cross_equal((int64_t)(a), (int64_t)(b), __FILE__, __LINE__)
#define assert_string_equal(a, b) assert_true(strcmp((a), (b)) == 0)
#define assert_memory_equal(a, b, n) cross_memory((a), (b), (n), __FILE__, __LINE__)
#define cmocka_run_group_tests(tests, set_up, tear_down) cross_run((tests), sizeof(tests) / sizeof((tests)[0]), (set_up), (tear_down))

static inline int cross_run(const CMUnitTest *tests, size_t n, int (*set_up)(void **), int (*tear_down)(void **))
{
    void *state = NULL;
    volatile int failed = 0;
    if (set_up != NULL && set_up(&state) != 0)
        return 1;
    for (volatile size_t i = 0; i < n; i++) {
        if (setjmp(cross_failed) == 0) {
            tests[i].run(&state);
            printf("ok %s\n", tests[i].name);
        } else {
            printf("FAILED %s\n", tests[i].name);
            failed++;
        }
    }
    return failed + (tear_down != NULL && tear_down(&state) != 0);
}

#endif
