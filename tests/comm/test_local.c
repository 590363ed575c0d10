/* tests/comm/test_local.c - ranks as threads: every collective, on one host and on pretended ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "tests/comm/cases.h"

static const char *const layouts[] = {NULL, "2", "0,1,0,1,1", "0,1,2", "0,1,1,1,1,1,1,1"};

static void on_layout(const char *hosts, const int *counts, int n_counts, rank_case run)
{
    if (hosts != NULL)
        setenv("TRIREME_TEST_HOSTS", hosts, 1);
    for (int i = 0; i < n_counts; i++)
        if (ranks_run_threads(counts[i], run) != 0)
            fail_msg("%d ranks, hosts %s", counts[i], hosts == NULL ? "one" : hosts);
    unsetenv("TRIREME_TEST_HOSTS");
}

static void on_all(rank_case run)
{
    static const int counts[] = {1, 2, 3, 4, 5, 6, 7, 8}, fewer[] = {1, 2, 3, 4, 5, 8};
    for (size_t l = 0; l < ARRAY_LEN(layouts); l++)
        on_layout(layouts[l], l == 0 ? counts : fewer, l == 0 ? ARRAY_LEN(counts) : ARRAY_LEN(fewer), run);
}

/* Cases that move megabytes: the thread sanitizer keeps four bytes for each of them, so there they meet fewer numbers
 * of ranks. */
static void on_all_large(rank_case run)
{
#ifdef __SANITIZE_THREAD__
    static const int counts[] = {1, 2, 3, 8}, fewer[] = {3, 5};
    for (size_t l = 0; l < ARRAY_LEN(layouts); l++)
        on_layout(layouts[l], l == 0 ? counts : fewer, l == 0 ? ARRAY_LEN(counts) : ARRAY_LEN(fewer), run);
#else
    on_all(run);
#endif
}

static void exchange_adds_in_order(void **state)
{
    (void)state;
    on_all(case_exchange);
}
static void all_reduce_adds_in_order(void **state)
{
    (void)state;
    on_all(case_all_reduce);
}
static void gather_and_broadcast_are_whole(void **state)
{
    (void)state;
    on_all(case_gather_broadcast);
}
static void subgroups_do_not_disturb_each_other(void **state)
{
    (void)state;
    on_all(case_subgroups);
}
static void messages_keep_order_and_size(void **state)
{
    (void)state;
    on_all_large(case_messages);
}
static void messages_move_while_their_sender_exchanges(void **state)
{
    (void)state;
    on_all_large(case_messages_while_exchanging);
}
static void all_agree_on_the_first_failure(void **state)
{
    (void)state;
    on_all(case_agree);
}
static void common_memory_is_seen_by_all(void **state)
{
    (void)state;
    on_all(case_common);
}
static void wrong_calls_are_refused(void **state)
{
    (void)state;
    on_all(case_refusals);
}

/* Rank 1 never comes. */
static int deadline(comm_world *w)
{
    int ranks[3] = {0, 1, 2};
    comm_group *g;
    float x[4] = {0};
    CHECK_OK(comm_group_create(w, ranks, 3, 0, 300, &g));
    if (comm_world_rank(w) == 1) {
        nap_us(600000);
        CHECK(comm_all_reduce(g, x, 4) == ST_ABORTED);
    } else {
        status st = comm_all_reduce(g, x, 4);
        CHECK(st == ST_TIMEOUT || st == ST_ABORTED);
    }
    CHECK(strstr(status_message(), "rank 1 ") != NULL && strstr(status_message(), "all-reduce") != NULL);
    comm_group_destroy(&g);
    return 0;
}

static void a_deadline_names_who_did_not_come(void **state)
{
    (void)state;
    assert_int_equal(ranks_run_threads(3, deadline), 0);
    setenv("TRIREME_TEST_HOSTS", "0,1,1", 1);
    assert_int_equal(ranks_run_threads(3, deadline), 0);
    unsetenv("TRIREME_TEST_HOSTS");
}

/* One waits in a collective, one for a message, one aborts. */
static int aborted(comm_world *w)
{
    int pair[2] = {0, 3};
    comm_group *g = NULL;
    comm_request *r = NULL;
    char byte;
    if (comm_world_rank(w) == 0 || comm_world_rank(w) == 3)
        CHECK_OK(comm_group_create(w, pair, 2, 0, 60000, &g));
    switch (comm_world_rank(w)) {
    case 0:
        CHECK(comm_barrier(g) == ST_ABORTED);
        CHECK(comm_barrier(g) == ST_ABORTED);
        break;
    case 1:
        CHECK_OK(comm_recv(w, 3, 0, &byte, 1, &r));
        CHECK(comm_wait(w, &r, -1, NULL) == ST_ABORTED && r == NULL);
        CHECK(comm_send(w, 0, 0, &byte, 1, &r) == ST_ABORTED);
        break;
    case 2:
        CHECK(comm_agree(w, ST_OK, 60000, NULL) == ST_ABORTED);
        break;
    default:
        nap_us(100000);
        comm_abort(w, "the disk is full");
    }
    if (comm_world_rank(w) != 3)
        CHECK(strcmp(status_message(), "the disk is full") == 0);
    comm_group_destroy(&g);
    return 0;
}

static void an_abort_reaches_every_wait(void **state)
{
    (void)state;
    assert_int_equal(ranks_run_threads(4, aborted), 0);
    setenv("TRIREME_TEST_HOSTS", "0,0,1,1", 1);
    assert_int_equal(ranks_run_threads(4, aborted), 0);
    setenv("TRIREME_TEST_HOSTS", "0,1,2,3", 1);
    assert_int_equal(ranks_run_threads(4, aborted), 0);
    unsetenv("TRIREME_TEST_HOSTS");
}

/* Rank 2 does not come to the first agreement; its late word does not spoil the second. */
static int absent(comm_world *w)
{
    int failed;
    if (comm_world_rank(w) == 2) {
        nap_us(400000);
        CHECK(comm_agree(w, ST_OK, 200, &failed) == ST_TIMEOUT);
    } else {
        CHECK(comm_agree(w, ST_OK, 200, &failed) == ST_TIMEOUT);
    }
    CHECK(failed == 2 && strstr(status_message(), "rank 2 did not come") != NULL);
    CHECK_OK(comm_agree(w, ST_OK, 5000, &failed));
    return 0;
}

static void an_agreement_names_who_is_missing(void **state)
{
    (void)state;
    assert_int_equal(ranks_run_threads(3, absent), 0);
    setenv("TRIREME_TEST_HOSTS", "3", 1);
    assert_int_equal(ranks_run_threads(3, absent), 0);
    unsetenv("TRIREME_TEST_HOSTS");
}

/* A rank that leaves is not waited for until the deadline. */
static int leaves(comm_world *w)
{
    int ranks[2] = {0, 1};
    comm_group *g;
    CHECK_OK(comm_group_create(w, ranks, 2, 0, 60000, &g));
    if (comm_world_rank(w) == 0) {
        CHECK(comm_barrier(g) == ST_PEER);
        CHECK(strstr(status_message(), "rank 1 left the job") != NULL);
    }
    comm_group_destroy(&g);
    return 0;
}

static void leaving_ends_the_others_wait(void **state)
{
    (void)state;
    assert_int_equal(ranks_run_threads(2, leaves), 0);
}

static void pretended_hosts_are_checked(void **state)
{
    (void)state;
    comm_world *worlds[2];
    setenv("TRIREME_TEST_HOSTS", "0,x", 1);
    status_mute();
    assert_int_equal(comm_world_threads(2, worlds), ST_INVALID);
    status_unmute();
    assert_null(worlds[0]);
    unsetenv("TRIREME_TEST_HOSTS");
}

static void the_launcher_is_seen_in_the_environment(void **state)
{
    (void)state;
    int n, rank;
    assert_false(comm_launched(&n, &rank));
    assert_int_equal(n, 1);
    setenv("OMPI_COMM_WORLD_SIZE", "4", 1);
    setenv("OMPI_COMM_WORLD_RANK", "3", 1);
    assert_true(comm_launched(&n, &rank));
    assert_int_equal(n, 4);
    assert_int_equal(rank, 3);
    unsetenv("OMPI_COMM_WORLD_SIZE");
    setenv("SLURM_STEP_NUM_TASKS", "2", 1);
    setenv("SLURM_PROCID", "1", 1);
    assert_false(comm_launched(&n, &rank)); /* an allocation's shell has no step id */
    setenv("SLURM_STEP_ID", "0", 1);
    assert_true(comm_launched(&n, &rank));
    assert_int_equal(rank, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exchange_adds_in_order),
        cmocka_unit_test(all_reduce_adds_in_order),
        cmocka_unit_test(gather_and_broadcast_are_whole),
        cmocka_unit_test(subgroups_do_not_disturb_each_other),
        cmocka_unit_test(messages_keep_order_and_size),
        cmocka_unit_test(messages_move_while_their_sender_exchanges),
        cmocka_unit_test(all_agree_on_the_first_failure),
        cmocka_unit_test(common_memory_is_seen_by_all),
        cmocka_unit_test(wrong_calls_are_refused),
        cmocka_unit_test(a_deadline_names_who_did_not_come),
        cmocka_unit_test(an_abort_reaches_every_wait),
        cmocka_unit_test(an_agreement_names_who_is_missing),
        cmocka_unit_test(leaving_ends_the_others_wait),
        cmocka_unit_test(pretended_hosts_are_checked),
        cmocka_unit_test(the_launcher_is_seen_in_the_environment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
