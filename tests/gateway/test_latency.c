/* tests/gateway/test_latency.c - percentiles of known times come out within the buckets' width. */
#include "coordinator/gateway/latency.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static gateway_latency l;

static void check(double share, double want_ns)
{
    double got = gateway_latency_at(&l, share);
    if (got < want_ns || got > want_ns * 1.07 + 1000)
        fail_msg("at %g: %g ns, wanted %g", share, got, want_ns);
}

static void percentiles_are_near(void **state)
{
    (void)state;
    assert_true(gateway_latency_at(&l, 0.5) == 0);
    for (uint64_t us = 1; us <= 10000; us++)
        gateway_latency_add(&l, us * 1000);
    check(0.5, 5000e3);
    check(0.99, 9900e3);
    check(0.001, 10e3);
    assert_true(gateway_latency_at(&l, 1) == 10000e3); /* never beyond the longest */
    gateway_latency_add(&l, 0);
    gateway_latency_add(&l, UINT64_MAX); /* a clock gone mad */
    assert_true(l.n == 10002);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(percentiles_are_near)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
