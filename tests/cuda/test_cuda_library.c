/* tests/cuda/test_cuda_library.c - functions of a library found at run time, and what is said of one that is missing or too old.  The library is the C library's mathematics. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "ops/cuda/cuda_library.h"

typedef struct api {
    double (*floor)(double), (*ceil)(double), (*sqrt)(double), (*fabs)(double);
} api;
#define SYMBOL(f) {#f, offsetof(api, f)}

static const cuda_symbol symbols[] = {SYMBOL(floor), SYMBOL(ceil), SYMBOL(sqrt), SYMBOL(fabs)};

static void each_function_gets_its_place(void **state)
{
    (void)state;
    struct {
        api api;
        void *behind;
    } a = {{0}, &a};
    char why[200] = "";
    assert_true(cuda_library_load("libm.so.6", "6", symbols, ARRAY_LEN(symbols), &a.api, why, sizeof(why)));
    assert_string_equal(why, "");
    assert_true(a.api.floor(-2.25) == -3.0);
    assert_true(a.api.ceil(-2.25) == -2.0);
    assert_true(a.api.sqrt(2.25) == 1.5);
    assert_true(a.api.fabs(-2.25) == 2.25);
    assert_ptr_equal(a.behind, &a);
}

static void what_is_missing_is_named(void **state)
{
    (void)state;
    static const cuda_symbol newer[] = {SYMBOL(floor), {"of_next_year", 0}, SYMBOL(sqrt)};
    api a;
    char why[200] = "";
    assert_false(cuda_library_load("libm.so.6", "7.5", newer, ARRAY_LEN(newer), &a, why, sizeof(why)));
    assert_string_equal(why, "libm.so.6 has no of_next_year: 7.5 is the oldest that serves");
    assert_false(cuda_library_load("libnowhere.so.1", "1.0", symbols, ARRAY_LEN(symbols), &a, why, sizeof(why)));
    assert_non_null(strstr(why, "libnowhere.so.1 is not installed ("));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_function_gets_its_place), cmocka_unit_test(what_is_missing_is_named)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
