/* tests/gateway/test_router.c - sequences go where their prefix is, unless it is too busy there. */
#include "coordinator/gateway/router.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/status.h"

static void prefixes_are_hashed_by_blocks_and_salt(void **state)
{
    (void)state;
    int32_t a[64], b[64];
    uint64_t ha[8], hb[8];
    for (int i = 0; i < 64; i++)
        a[i] = b[i] = i;
    b[40] = 999;
    assert_int_equal(gateway_prefix_hash(a, 64, 16, "", 0, ha, 8), 3); /* the last token is always computed: 64 is no cached prefix */
    assert_int_equal(gateway_prefix_hash(b, 64, 16, "", 0, hb, 8), 3);
    assert_int_equal(ha[0], hb[0]);
    assert_int_equal(ha[1], hb[1]);
    assert_int_not_equal(ha[2], hb[2]);
    assert_int_equal(gateway_prefix_hash(a, 65, 16, "x", 1, hb, 8), 4);
    assert_int_not_equal(ha[0], hb[0]); /* another tenant's */
    assert_int_equal(gateway_prefix_hash(a, 16, 16, "", 0, ha, 8), 0);
    assert_int_equal(gateway_prefix_hash(a, 0, 16, "", 0, ha, 8), 0);
    assert_int_equal(gateway_prefix_hash(a, 64, 16, "", 0, ha, 2), 2);
}

static void the_least_recent_is_forgotten(void **state)
{
    (void)state;
    gateway_prefixes *p = NULL;
    assert_int_equal(gateway_prefixes_create(4, &p), ST_OK);
    const uint64_t a[3] = {11, 12, 13}, b[2] = {21, 22};
    gateway_prefixes_add(p, a, 3);
    assert_int_equal(gateway_prefixes_match(p, a, 3), 3);
    gateway_prefixes_add(p, b, 2); /* the longest prefix of a goes first: the shorter ones are worth something without it */
    assert_int_equal(gateway_prefixes_match(p, a, 3), 2);
    assert_int_equal(gateway_prefixes_match(p, b, 2), 2);
    gateway_prefixes_add(p, a, 2);
    gateway_prefixes_add(p, (uint64_t[]){31}, 1);
    assert_int_equal(gateway_prefixes_match(p, b, 2), 1);
    assert_int_equal(gateway_prefixes_match(p, a, 2), 2);
    assert_int_equal(gateway_prefixes_used(p), 4);
    for (uint64_t i = 100; i < 1000; i++)
        gateway_prefixes_add(p, &i, 1);
    assert_int_equal(gateway_prefixes_used(p), 4);
    assert_int_equal(gateway_prefixes_match(p, (uint64_t[]){996, 997, 998, 999}, 4), 4);
    gateway_prefixes_destroy(&p);
    assert_int_not_equal(gateway_prefixes_create(0, &p), ST_OK);
}

static void the_longest_prefix_then_the_least_load(void **state)
{
    (void)state;
    assert_int_equal(gateway_route(NULL, 0, 10), -1);
    gateway_candidate c[3] = {{.cached_tokens = 512, .n_requests = 3, .max_num_seqs = 16}, {.cached_tokens = 1024, .n_requests = 4, .max_num_seqs = 16}, {.max_num_seqs = 16}};
    assert_int_equal(gateway_route(c, 3, 1100), 1);
    c[0].cached_tokens = c[1].cached_tokens = 0;
    assert_int_equal(gateway_route(c, 3, 1100), 2);
    assert_int_equal(gateway_route(c, 2, 1100), 0);
    c[1].n_requests = 3;
    c[0].kv_used = 0.5;
    assert_int_equal(gateway_route(c, 2, 1100), 1); /* equal but for the KV in use */
}

static void a_prefix_is_not_worth_a_queue(void **state)
{
    (void)state;
    gateway_candidate c[2] = {{.cached_tokens = 256, .n_requests = 16, .max_num_seqs = 16}, {.n_requests = 8, .max_num_seqs = 16}};
    assert_int_equal(gateway_route(c, 2, 300), 1);
    c[0].n_requests = 8;
    assert_int_equal(gateway_route(c, 2, 300), 0);
    c[0].cached_tokens = 16; /* one shared block, a template's head say, does not gather everything on one replica */
    c[0].n_requests = 9;
    assert_int_equal(gateway_route(c, 2, 300), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prefixes_are_hashed_by_blocks_and_salt), cmocka_unit_test(the_least_recent_is_forgotten),
        cmocka_unit_test(the_longest_prefix_then_the_least_load), cmocka_unit_test(a_prefix_is_not_worth_a_queue),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
