/* tests/base/test_threads.c - the pool runs every region on every thread, and shares divide evenly. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/threads.h"

#define MAX_THREADS 7

typedef struct counters {
    int n;
    struct {
        _Alignas(64) long runs;
    } of[MAX_THREADS];
} counters;

static void count_run(void *arg, int thread, int n_threads)
{
    counters *c = arg;
    assert_int_equal(n_threads, c->n);
    c->of[thread].runs++; /* plain memory: a region's end must publish it (seen by TSan) */
}

static void every_thread_runs_every_region(void **state)
{
    (void)state;
    for (int n = 1; n <= MAX_THREADS; n++) {
        for (int spin = 0; spin < 2; spin++) {
            threads_pool *p;
            counters c = {.n = n};
            assert_int_equal(threads_create(&(threads_options){.n_threads = n, .spin = spin != 0, .first_core = spin != 0 ? 0 : -1}, &p), ST_OK);
            assert_int_equal(threads_count(p), n);
            for (int i = 0; i < 300; i++) {
                if (i % 100 == 20)
                    threads_step_begin(p, false);
                if (i % 100 == 80)
                    threads_step_end(p);
                if (i % 100 == 50)
                    usleep(2000); /* long enough for helpers to give up spinning */
                threads_run(p, count_run, &c);
            }
            for (int t = 0; t < n; t++)
                assert_int_equal(c.of[t].runs, 300);
            threads_destroy(&p);
            assert_null(p);
            threads_destroy(&p);
        }
    }
}

/* Steps with and without lent cores in turn: their threads take part in the one and in none of the other, also where they wake late. */
static void threads_on_lent_cores_join_their_steps_alone(void **state)
{
    (void)state;
    static const int cores[] = {0, 0, 0};
    for (int own = 1; own <= 3; own++) {
        threads_pool *p;
        counters c = {0};
        assert_int_equal(threads_create(&(threads_options){.n_threads = own, .spin = true, .first_core = -1, .lent_cores = cores, .n_lent = 3}, &p), ST_OK);
        for (int i = 0; i < 400; i++) {
            bool lent = i % 2 == 1;
            assert_int_equal(threads_count(p), own);
            threads_step_begin(p, lent);
            c.n = lent ? own + 3 : own;
            assert_int_equal(threads_count(p), c.n);
            for (int k = 0; k < i % 4; k++) /* none too */
                threads_run(p, count_run, &c);
            if (i % 50 == 1)
                usleep(2000);
            threads_step_end(p);
        }
        for (int t = 0; t < own + 3; t++)
            assert_int_equal(c.of[t].runs, t < own ? 600 : 400);
        threads_destroy(&p);
    }
}

typedef struct relay {
    threads_pool *pool;
    int n, rounds;
    int value[MAX_THREADS];
} relay;

/* Between two barriers each thread reads its neighbour's value and then writes its own. */
static void relay_round(void *arg, int thread, int n_threads)
{
    relay *r = arg;
    for (int i = 0; i < r->rounds; i++) {
        int next = r->value[(thread + 1) % n_threads];
        threads_barrier(r->pool);
        r->value[thread] = next;
        threads_barrier(r->pool);
    }
}

static void barrier_orders_reads_and_writes(void **state)
{
    (void)state;
    for (int n = 1; n <= MAX_THREADS; n += 2) {
        relay r = {.n = n, .rounds = 50};
        assert_int_equal(threads_create(&(threads_options){.n_threads = n, .spin = true, .first_core = -1}, &r.pool), ST_OK);
        for (int i = 0; i < n; i++)
            r.value[i] = i;
        threads_step_begin(r.pool, false);
        threads_run(r.pool, relay_round, &r);
        threads_step_end(r.pool);
        for (int i = 0; i < n; i++)
            assert_int_equal(r.value[i], (i + r.rounds) % n);
        threads_destroy(&r.pool);
    }
}

static void shares_cover_all_items_evenly(void **state)
{
    (void)state;
    static const size_t items[] = {0, 1, 5, 16, 17, 100, 1023}, units[] = {1, 4, 16};
    for (size_t a = 0; a < 7; a++) {
        for (size_t u = 0; u < 3; u++) {
            for (int n = 1; n <= 9; n++) {
                size_t at = 0, least = SIZE_MAX, most = 0;
                for (int i = 0; i < n; i++) {
                    size_t b, e;
                    threads_share(items[a], units[u], i, n, &b, &e);
                    assert_int_equal(b, at);
                    assert_true(e >= b && (b % units[u] == 0 || b == items[a]));
                    size_t len = (e - b + units[u] - 1) / units[u];
                    least = len < least ? len : least;
                    most = len > most ? len : most;
                    at = e;
                }
                assert_int_equal(at, items[a]);
                assert_true(most - least <= 1);
            }
        }
    }
}

static void cores_granted_is_within_the_machine(void **state)
{
    (void)state;
    int n = threads_cores_granted();
    assert_true(n >= 1 && n <= sysconf(_SC_NPROCESSORS_CONF));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_thread_runs_every_region),
        cmocka_unit_test(threads_on_lent_cores_join_their_steps_alone),
        cmocka_unit_test(barrier_orders_reads_and_writes),
        cmocka_unit_test(shares_cover_all_items_evenly),
        cmocka_unit_test(cores_granted_is_within_the_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
