/* tests/gateway/test_workers.c - events of one actor are handled in order and by one thread at a time, whoever posts. */
#include "coordinator/gateway/workers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>

#include <cmocka.h>

enum { ACTORS = 50, EVENTS = 400, POSTERS = 4 };

typedef struct counter {
    gateway_actor actor;
    _Atomic int inside;
    int next[POSTERS]; /* event expected from each poster */
    int n;
} counter;

typedef struct event {
    gateway_work work;
    int poster, number;
} event;

static counter *counters[ACTORS];
static event events[POSTERS][ACTORS][EVENTS];
static gateway_workers *pool;
static _Atomic int n_faults, n_gone;

static bool handle(void *arg, gateway_actor *a, gateway_work *w)
{
    counter *c = (counter *)a;
    event *e = (event *)w;
    (void)arg;
    if (atomic_fetch_add(&c->inside, 1) != 0)
        atomic_fetch_add(&n_faults, 1);
    if (e->number != c->next[e->poster]++)
        atomic_fetch_add(&n_faults, 1);
    c->n++;
    atomic_fetch_sub(&c->inside, 1);
    if (c->n < EVENTS * POSTERS)
        return false;
    gateway_actor_destroy(a);
    free(c);
    atomic_fetch_add(&n_gone, 1);
    return true;
}

static void *post_all(void *arg)
{
    int poster = (int)(size_t)arg;
    for (int i = 0; i < EVENTS; i++)
        for (int k = 0; k < ACTORS; k++) {
            events[poster][k][i] = (event){.poster = poster, .number = i};
            gateway_workers_post(pool, &counters[k]->actor, &events[poster][k][i].work);
        }
    return NULL;
}

static void every_event_once_in_order_alone(void **state)
{
    (void)state;
    pthread_t posters[POSTERS];
    for (int k = 0; k < ACTORS; k++) {
        counters[k] = calloc(1, sizeof(counter));
        gateway_actor_init(&counters[k]->actor);
    }
    assert_int_equal(gateway_workers_create(3, handle, NULL, &pool), ST_OK);
    for (size_t i = 0; i < POSTERS; i++)
        assert_int_equal(pthread_create(&posters[i], NULL, post_all, (void *)i), 0);
    for (int i = 0; i < POSTERS; i++)
        pthread_join(posters[i], NULL);
    gateway_workers_destroy(&pool); /* handles the rest */
    assert_int_equal(n_faults, 0);
    assert_int_equal(n_gone, ACTORS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_event_once_in_order_alone)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
