/* tests/gateway/test_journal.c - what the journal does in single situations; sim_journal.c covers their mixtures. */
#include "coordinator/gateway/journal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const int32_t prompt[8] = {1, 2, 3, 4, 5, 6, 7, 8};

static gateway_journal *make(void)
{
    gateway_journal *j = NULL;
    gateway_journal_options o = {.max_attempts = 3, .wait_seconds = 10};
    assert_int_equal(gateway_journal_create(&o, &j), ST_OK);
    return j;
}

static gateway_entry *add_with(gateway_journal *j, int32_t priority, double now)
{
    gateway_entry *e = NULL;
    gateway_promise p = {.prompt = prompt, .n_prompt = 8, .priority = priority};
    assert_int_equal(gateway_journal_add(j, &p, now, &e), ST_OK);
    return e;
}

static gateway_entry *add(gateway_journal *j, double now)
{
    return add_with(j, 0, now);
}

static gateway_verdict token(gateway_journal *j, uint64_t peer, uint64_t id, int32_t index)
{
    gateway_verdict v = GATEWAY_UNKNOWN;
    gateway_entry *e = NULL;
    gateway_token t = {.id = id, .index = index, .token = 100 + index, .hash = 1000 + (uint64_t)index};
    assert_int_equal(gateway_journal_token(j, peer, &t, &v, &e), ST_OK);
    return v;
}

static void each_token_is_taken_once(void **state)
{
    (void)state;
    gateway_journal *j = make();
    gateway_entry *e = add(j, 0);
    assert_int_equal(gateway_journal_sent(j, e, 7, 1), ST_OK);
    assert_int_equal(token(j, 7, e->id, 0), GATEWAY_TAKE);
    assert_int_equal(token(j, 7, e->id, 0), GATEWAY_DUPLICATE);
    assert_int_equal(token(j, 7, e->id, 2), GATEWAY_GAP);
    assert_int_equal(token(j, 7, e->id, 1), GATEWAY_TAKE);
    assert_int_equal(token(j, 8, e->id, 2), GATEWAY_UNKNOWN); /* not the peer that has it */
    assert_int_equal(token(j, 7, e->id + 1, 0), GATEWAY_UNKNOWN);
    assert_int_equal(e->n_tokens, 2);
    assert_int_equal(e->tokens[1], 101);
    assert_int_equal(e->hash, 1001);
    gateway_journal_stats st;
    gateway_journal_stats_get(j, &st);
    assert_int_equal(st.tokens, 10);
    assert_int_equal(st.n_unstarted, 0);
    gateway_journal_end(j, &e);
    assert_null(e);
    gateway_journal_destroy(&j);
}

static void the_dead_ones_requests_go_first_and_in_order(void **state)
{
    (void)state;
    gateway_journal *j = make();
    gateway_entry *a = add(j, 0), *b = add(j, 0), *c = add(j, 0), *d = add(j, 0);
    gateway_journal_sent(j, a, 7, 1);
    gateway_journal_sent(j, b, 7, 1);
    gateway_journal_sent(j, c, 9, 1);
    token(j, 7, b->id, 0);
    assert_int_equal(gateway_journal_gone(j, 7, 5), 2);
    assert_int_equal(gateway_journal_gone(j, 7, 5), 0);
    assert_ptr_equal(gateway_journal_waiting(j), a);
    assert_ptr_equal(a->next, b);
    assert_ptr_equal(b->next, d);
    assert_null(d->next);
    assert_int_equal(a->numerics, 0); /* it has no token yet: any replica may begin it anew */
    assert_int_equal(b->numerics, 1);
    assert_int_equal(token(j, 7, b->id, 1), GATEWAY_UNKNOWN);
    assert_null(gateway_journal_check(j));
    gateway_journal_destroy(&j);
}

static void who_waits_in_vain_is_given_up(void **state)
{
    (void)state;
    gateway_journal *j = make();
    gateway_give_up why;
    gateway_entry *e = add(j, 100);
    assert_null(gateway_journal_expired(j, 109, &why));
    assert_ptr_equal(gateway_journal_expired(j, 110, &why), e);
    assert_int_equal(why, GATEWAY_WAITED);
    gateway_journal_sent(j, e, 7, 1);
    assert_null(gateway_journal_expired(j, 1000, &why)); /* being computed is no waiting */
    e->deadline = 1000;
    assert_ptr_equal(gateway_journal_expired(j, 1000, &why), e);
    assert_int_equal(why, GATEWAY_DEADLINE);
    gateway_journal_destroy(&j);
}

static void what_kills_every_replica_is_given_up(void **state)
{
    (void)state;
    gateway_journal *j = make();
    gateway_give_up why;
    gateway_entry *e = add(j, 0);
    for (uint64_t peer = 1; peer <= 3; peer++) {
        assert_null(gateway_journal_expired(j, 1, &why));
        gateway_journal_sent(j, e, peer, 1);
        gateway_journal_gone(j, peer, 1);
    }
    assert_ptr_equal(gateway_journal_expired(j, 1, &why), e);
    assert_int_equal(why, GATEWAY_ATTEMPTS);
    gateway_journal_sent(j, e, 4, 1); /* a token on the way starts the count anew */
    token(j, 4, e->id, 0);
    gateway_journal_retry(j, e, true, 1);
    assert_null(gateway_journal_expired(j, 1, &why));
    assert_int_equal(e->avoid_peer, 4);
    assert_int_equal(e->replays, 4);
    gateway_journal_destroy(&j);
}

static void no_room_is_no_fault_but_time_goes_on(void **state)
{
    (void)state;
    gateway_journal *j = make();
    gateway_give_up why;
    gateway_entry *e = add(j, 100);
    for (int i = 0; i < 9; i++) {
        gateway_journal_sent(j, e, 1, 1);
        gateway_journal_retry(j, e, false, 100 + i);
        assert_null(gateway_journal_expired(j, 100 + i, &why));
    }
    assert_ptr_equal(gateway_journal_expired(j, 110, &why), e); /* ten seconds without a token, however often it was sent */
    assert_int_equal(why, GATEWAY_WAITED);
    gateway_journal_sent(j, e, 1, 1);
    token(j, 1, e->id, 0);
    gateway_journal_retry(j, e, false, 120);
    assert_null(gateway_journal_expired(j, 129, &why));
    gateway_journal_destroy(&j);
}

static void those_sent_back_keep_their_order(void **state)
{
    (void)state;
    gateway_journal *j = make();
    gateway_entry *e[6];
    for (int i = 0; i < 6; i++)
        e[i] = add(j, 0);
    for (int round = 0; round < 3; round++) { /* the fourth is never sent; those sent back are not overtaken by one another */
        for (int i = 0; i < 3; i++)
            gateway_journal_sent(j, e[i], 1, 1);
        for (int i = 0; i < 3; i++)
            gateway_journal_retry(j, e[(i + round) % 3], false, 1);
        const gateway_entry *w = gateway_journal_waiting(j);
        for (int i = 0; i < 6; i++, w = w->next)
            assert_ptr_equal(w, e[i]);
        assert_null(w);
        assert_null(gateway_journal_check(j));
    }
    gateway_entry *urgent = add_with(j, -5, 1); /* what a peer has had goes first, whatever the priority of what is new */
    assert_ptr_equal(e[2]->next, urgent);
    gateway_journal_stats s;
    gateway_journal_stats_get(j, &s);
    assert_int_equal(s.n_replays, 0); /* nothing was computed twice */
    gateway_journal_destroy(&j);
}

static void many_are_found(void **state)
{
    (void)state;
    gateway_journal *j = make();
    static gateway_entry *all[3000];
    for (int i = 0; i < 3000; i++)
        all[i] = add(j, 0);
    for (int i = 0; i < 3000; i++)
        assert_ptr_equal(gateway_journal_find(j, all[i]->id), all[i]);
    for (int i = 0; i < 3000; i += 2)
        gateway_journal_end(j, &all[i]);
    assert_null(gateway_journal_check(j));
    gateway_journal_destroy(&j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_token_is_taken_once),        cmocka_unit_test(the_dead_ones_requests_go_first_and_in_order),
        cmocka_unit_test(who_waits_in_vain_is_given_up),   cmocka_unit_test(what_kills_every_replica_is_given_up),
        cmocka_unit_test(no_room_is_no_fault_but_time_goes_on), cmocka_unit_test(those_sent_back_keep_their_order),
        cmocka_unit_test(many_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
