/* tests/base/test_numbers.c */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/numbers.h"

static void middles_of_odd_and_even_lists(void **state)
{
    (void)state;
    double odd[] = {3, -1, 2}, even[] = {4, 1, 3, 2}, one[] = {7};
    assert_true(numbers_median(odd, ARRAY_LEN(odd)) == 2);
    assert_true(numbers_median(even, ARRAY_LEN(even)) == 2.5);
    assert_true(numbers_median(one, 1) == 7);
    assert_true(numbers_median(NULL, 0) == 0);
    for (size_t i = 1; i < ARRAY_LEN(even); i++)
        assert_true(even[i - 1] < even[i]);
}

static void fractions_lie_between_the_nearest_two(void **state)
{
    (void)state;
    const double v[] = {10, 20, 30, 40, 50};
    assert_true(numbers_at(v, 5, 0) == 10 && numbers_at(v, 5, 1) == 50 && numbers_at(v, 5, 0.25) == 20);
    assert_true(fabs(numbers_at(v, 5, 0.9) - 46) < 1e-12); /* as numpy.percentile has it */
    assert_true(fabs(numbers_at(v, 2, 0.99) - 19.9) < 1e-12);
    assert_true(numbers_at(v, 1, 0.99) == 10 && numbers_at(NULL, 0, 0.5) == 0);
}

static void means_and_deviations(void **state)
{
    (void)state;
    const double v[] = {2, 4, 4, 4, 5, 5, 7, 9}, far[] = {1e9 + 1, 1e9 + 2, 1e9 + 3};
    double sd = -1;
    assert_true(numbers_mean(v, ARRAY_LEN(v), &sd) == 5 && sd == 2);
    assert_true(numbers_mean(v, 1, NULL) == 2);
    assert_true(numbers_mean(far, 3, &sd) == 1e9 + 2 && fabs(sd - sqrt(2.0 / 3)) < 1e-9); /* squares of 1e9 would hide it */
    assert_true(numbers_mean(NULL, 0, &sd) == 0 && sd == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(middles_of_odd_and_even_lists),
        cmocka_unit_test(fractions_lie_between_the_nearest_two),
        cmocka_unit_test(means_and_deviations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
