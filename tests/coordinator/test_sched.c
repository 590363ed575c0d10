/* tests/coordinator/test_sched.c - what the scheduler does in single situations; sim_sched.c covers their mixtures. */
#include "coordinator/sched.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static coord_sched *make(coord_sched_options o)
{
    coord_sched *s = NULL;
    o.block_tokens = o.block_tokens != 0 ? o.block_tokens : 16;
    o.n_kv_groups = o.n_kv_groups != 0 ? o.n_kv_groups : 1;
    o.max_context = o.max_context != 0 ? o.max_context : 1000;
    o.depth = o.depth != 0 ? o.depth : 1;
    for (int g = 0; g < o.n_kv_groups; g++)
        o.n_blocks[g] = o.n_blocks[g] != 0 ? o.n_blocks[g] : 1000;
    assert_int_equal(coord_sched_create(&o, &s), ST_OK);
    return s;
}

static int32_t prompt[4096];

static status submit_as(coord_sched *s, uint64_t id, int32_t n_prompt, int32_t max_tokens, int32_t priority)
{
    for (int32_t i = 0; i < 4096; i++)
        prompt[i] = i + 100;
    coord_request r = {.id = id, .tokens = prompt, .n_tokens = n_prompt, .n_prompt = n_prompt, .priority = priority,
                       .sampling = {.max_tokens = max_tokens, .n_prompt_logprobs = -1, .seed = id}};
    return coord_sched_submit(s, &r);
}

static void submit(coord_sched *s, uint64_t id, int32_t n_prompt, int32_t max_tokens)
{
    assert_int_equal(submit_as(s, id, n_prompt, max_tokens, 0), ST_OK);
}

static coord_event events[64];
static int n_events;

static void on_event(void *arg, const coord_event *e)
{
    (void)arg;
    if (n_events < 64)
        events[n_events++] = *e;
}

/* Answers a step: each sampling span gets token 7; `finish` ends them all. */
static void answer(coord_sched *s, const step *st, uint8_t finish)
{
    step_result_row rows[64];
    int32_t n = 0;
    n_events = 0;
    for (int32_t i = 0; i < st->n_spans; i++) {
        const step_span *sp = &st->spans[i];
        if ((sp->flags & STEP_SPAN_SAMPLE) != 0)
            rows[n++] = (step_result_row){.slot = sp->slot, .position = sp->position + sp->n_tokens - 1, .token = 7, .finish = finish};
    }
    step_result r = {.number = st->number, .n_rows = n, .rows = rows};
    assert_int_equal(coord_sched_apply(s, &r, on_event, NULL), ST_OK);
    assert_null(coord_sched_check_whole(s));
}

static void next(coord_sched *s, step *st)
{
    assert_true(coord_sched_next(s, st));
    assert_null(coord_sched_check_whole(s));
}

static int64_t free_blocks(const coord_sched *s)
{
    coord_sched_stats st;
    coord_sched_stats_get(s, &st);
    return st.free_blocks[0];
}

static void a_prompt_is_computed_in_chunks_then_decoded(void **state)
{
    (void)state;
    step st;
    coord_sched *s = make((coord_sched_options){.max_seqs = 4, .max_batched_tokens = 32});
    submit(s, 1, 70, 2);
    const int32_t chunks[] = {32, 32, 6};
    for (int i = 0; i < 3; i++) {
        next(s, &st);
        assert_true(st.n_spans == 1 && st.spans[0].n_tokens == chunks[i] && st.spans[0].position == 32 * i);
        assert_int_equal(st.n_admit, i == 0);
        assert_int_equal((st.spans[0].flags & STEP_SPAN_SAMPLE) != 0, i == 2);
        answer(s, &st, 0);
    }
    assert_true(n_events == 1 && events[0].index == 0 && events[0].token == 7);
    next(s, &st);
    assert_true(st.spans[0].position == 70 && st.spans[0].n_tokens == 1 && st.spans[0].tokens[0] == 7);
    answer(s, &st, 2);
    assert_true(events[0].finish == 2 && free_blocks(s) == 1000);
    assert_false(coord_sched_next(s, &st));
    coord_sched_destroy(&s);
}

static void decodes_come_before_prefills(void **state)
{
    (void)state;
    step st;
    coord_sched *s = make((coord_sched_options){.max_seqs = 4, .max_batched_tokens = 10});
    submit(s, 1, 5, 10);
    next(s, &st);
    answer(s, &st, 0);
    submit(s, 2, 100, 10);
    next(s, &st);
    assert_true(st.n_spans == 2 && st.spans[0].n_tokens == 1 && st.spans[1].n_tokens == 9);
    coord_sched_destroy(&s);
}

static void one_slot_serves_one_after_the_other(void **state)
{
    (void)state;
    step st;
    coord_sched *s = make((coord_sched_options){.max_seqs = 1, .max_batched_tokens = 32});
    submit(s, 1, 5, 1);
    submit(s, 2, 5, 1);
    next(s, &st);
    assert_false(coord_sched_next(s, &st));
    answer(s, &(step){.number = 1, .n_spans = 1, .spans = &(step_span){.slot = 0, .n_tokens = 5, .flags = STEP_SPAN_SAMPLE}}, 2);
    next(s, &st); /* the slot retires and is admitted again in one step */
    assert_true(st.n_retire == 1 && st.n_admit == 1 && st.admit[0].slot == st.retire[0]);
    coord_sched_destroy(&s);
}

static void steps_in_flight_share_the_decoding_sequences(void **state)
{
    (void)state;
    step a, b;
    static step_span spans[2][8];
    coord_sched *s = make((coord_sched_options){.max_seqs = 8, .max_batched_tokens = 100, .depth = 2});
    for (uint64_t id = 1; id <= 6; id++)
        submit(s, id, 3, 50);
    next(s, &a);
    assert_int_equal(a.n_spans, 6);
    answer(s, &a, 0);
    for (int i = 0; i < 5; i++) {
        next(s, &a);
        memcpy(spans[0], a.spans, (size_t)a.n_spans * sizeof(step_span));
        a.spans = spans[0];
        next(s, &b);
        memcpy(spans[1], b.spans, (size_t)b.n_spans * sizeof(step_span));
        b.spans = spans[1];
        assert_true(a.n_spans == 3 && b.n_spans == 3);
        assert_false(coord_sched_next(s, &(step){0}));
        answer(s, &a, 0);
        answer(s, &b, 0);
    }
    /* With a driver that keeps one step in flight, nobody is forgotten either. */
    int served[8] = {0};
    for (int i = 0; i < 10; i++) {
        next(s, &a);
        for (int32_t k = 0; k < a.n_spans; k++)
            served[a.spans[k].slot]++;
        answer(s, &a, 0);
    }
    for (int i = 0; i < 8; i++)
        assert_true(served[i] == 0 || served[i] == 5);
    coord_sched_destroy(&s);
}

static void the_youngest_of_the_lowest_priority_gives_way(void **state)
{
    (void)state;
    step st;
    coord_sched_stats stats;
    coord_sched *s = make((coord_sched_options){.max_seqs = 4, .max_batched_tokens = 100, .n_blocks = {9}});
    assert_int_equal(submit_as(s, 1, 31, 60, 0), ST_OK); /* 2 blocks now, 6 in the end */
    assert_int_equal(submit_as(s, 2, 31, 60, 5), ST_OK);
    assert_int_equal(submit_as(s, 3, 31, 60, 1), ST_OK);
    do {
        next(s, &st);
        answer(s, &st, 0);
        coord_sched_stats_get(s, &stats);
    } while (stats.n_preemptions == 0);
    assert_true(stats.n_waiting == 1 && stats.n_running == 2);
    for (;;) { /* request 2 comes back when the others have ended, from where it was */
        next(s, &st);
        if (st.n_admit > 0)
            break;
        answer(s, &st, events[0].index >= 40 ? 2 : 0);
    }
    assert_true(st.n_admit == 1 && st.admit[0].sampling.seed == 2 && st.admit[0].n_generated > 0);
    coord_sched_destroy(&s);
}

static void a_step_names_blocks_that_fall_out_of_the_window_at_once(void **state)
{
    (void)state;
    step st;
    coord_sched *s = make((coord_sched_options){.max_seqs = 1, .max_batched_tokens = 100, .window = {16}, .n_blocks = {10}});
    submit(s, 1, 100, 10);
    next(s, &st);
    assert_int_equal(st.spans[0].n_new_blocks[0], 7);
    for (int i = 0; i < 7; i++)
        assert_in_range(st.spans[0].new_blocks[0][i], 0, 9);
    assert_int_equal(free_blocks(s), 3); /* the step in flight still writes the first five */
    answer(s, &st, 0);
    assert_int_equal(free_blocks(s), 8);
    coord_sched_destroy(&s);
}

static void a_window_lets_a_long_sequence_through_few_blocks(void **state)
{
    (void)state;
    step st;
    coord_sched *s = make((coord_sched_options){.max_seqs = 2, .max_batched_tokens = 64, .window = {32}, .n_blocks = {4}});
    submit(s, 1, 500, 3);
    int steps = 0;
    for (; coord_sched_next(s, &st); steps++)
        answer(s, &st, st.spans[0].position + st.spans[0].n_tokens >= 502 ? 2 : 0);
    assert_true(steps > 8 && n_events == 1 && events[0].finish == 2 && free_blocks(s) == 4);
    coord_sched_destroy(&s);
}

static void cancelling_is_silent_and_frees(void **state)
{
    (void)state;
    step st;
    coord_sched *s = make((coord_sched_options){.max_seqs = 2, .max_batched_tokens = 100});
    submit(s, 1, 20, 9);
    submit(s, 2, 20, 9);
    submit(s, 3, 20, 9);
    assert_true(coord_sched_cancel(s, 3)); /* waiting */
    assert_false(coord_sched_cancel(s, 3));
    next(s, &st);
    assert_true(coord_sched_cancel(s, 1)); /* in flight */
    assert_false(coord_sched_cancel(s, 1));
    assert_true(free_blocks(s) < 1000);
    answer(s, &st, 0);
    assert_true(n_events == 1 && events[0].id == 2);
    assert_true(coord_sched_cancel(s, 2)); /* between steps */
    assert_int_equal(free_blocks(s), 1000);
    assert_false(coord_sched_next(s, &st));
    assert_false(coord_sched_cancel(s, 99));
    coord_sched_destroy(&s);
}

static void lost_ranks_start_again_from_the_tokens_there_were(void **state)
{
    (void)state;
    step st;
    coord_sched *s = make((coord_sched_options){.max_seqs = 2, .max_batched_tokens = 100, .depth = 3});
    submit(s, 1, 20, 9);
    next(s, &st);
    answer(s, &st, 0);
    next(s, &st);
    coord_sched_lost(s);
    assert_null(coord_sched_check_whole(s));
    assert_int_equal(free_blocks(s), 1000);
    next(s, &st);
    assert_true(st.number == 1 && st.n_retire == 0 && st.n_admit == 1 && st.admit[0].n_prompt == 20 && st.admit[0].n_generated == 1);
    assert_true(st.spans[0].position == 0 && st.spans[0].n_tokens == 21 && st.spans[0].tokens[20] == 7);
    answer(s, &st, 0);
    assert_int_equal(events[0].index, 1);
    coord_sched_destroy(&s);
}

static void prompt_logprobs_come_for_every_token_in_any_chunk(void **state)
{
    (void)state;
    for (int32_t chunk = 1; chunk <= 7; chunk++) {
        step st;
        coord_sched *s = make((coord_sched_options){.max_seqs = 2, .max_batched_tokens = chunk});
        coord_request r = {.id = 1, .tokens = prompt, .n_tokens = 7, .n_prompt = 7, .sampling = {.max_tokens = 1, .n_prompt_logprobs = 0}};
        for (int32_t i = 0; i < 7; i++)
            prompt[i] = i + 100;
        assert_int_equal(coord_sched_submit(s, &r), ST_OK);
        int32_t told = 0;
        while (coord_sched_next(s, &st)) {
            const step_span *sp = &st.spans[0];
            step_result_row rows[8];
            int32_t n = 0, end = sp->position + sp->n_tokens;
            for (int32_t p = sp->position; (sp->flags & STEP_SPAN_PROMPT_LOGPROBS) != 0 && p + 1 < 7 && p < end; p++) {
                if (p + 1 == end)
                    assert_int_equal(sp->next_token, 100 + end);
                rows[n++] = (step_result_row){.slot = sp->slot, .position = p, .token = -1};
            }
            if ((sp->flags & STEP_SPAN_SAMPLE) != 0)
                rows[n++] = (step_result_row){.slot = sp->slot, .position = end - 1, .token = 7, .finish = 2};
            n_events = 0;
            step_result res = {.number = st.number, .n_rows = n, .rows = rows};
            assert_int_equal(coord_sched_apply(s, &res, on_event, NULL), ST_OK);
            for (int i = 0; i < n_events && events[i].prompt; i++)
                assert_true(events[i].index == ++told && events[i].token == 100 + told);
        }
        assert_int_equal(told, 6);
        coord_sched_destroy(&s);
    }
}

static void nobody_overtakes_who_waits_for_room(void **state)
{
    (void)state;
    step st;
    coord_sched *s = make((coord_sched_options){.max_seqs = 4, .max_batched_tokens = 200, .n_blocks = {8}});
    submit(s, 1, 70, 20); /* five blocks */
    submit(s, 2, 80, 20); /* does not fit beside it */
    submit(s, 3, 5, 5);   /* would */
    next(s, &st);
    assert_true(st.n_admit == 1 && st.admit[0].sampling.seed == 1);
    answer(s, &st, 2);
    next(s, &st);
    assert_true(st.n_admit == 2 && st.admit[0].sampling.seed == 2);
    coord_sched_destroy(&s);
}

static void what_cannot_be_served_is_refused(void **state)
{
    (void)state;
    coord_sched *s = make((coord_sched_options){.max_seqs = 2, .max_batched_tokens = 10, .n_blocks = {4}, .max_context = 100});
    status_mute();
    assert_int_equal(submit_as(s, 1, 0, 5, 0), ST_INVALID);
    assert_int_equal(submit_as(s, 1, 100, 5, 0), ST_INVALID);
    assert_non_null(strstr(status_message(), "context"));
    assert_int_equal(submit_as(s, 1, 60, 30, 0), ST_INVALID);
    assert_non_null(strstr(status_message(), "KV blocks"));
    assert_int_equal(submit_as(s, 1, 5, 0, 0), ST_INVALID);
    assert_int_equal(submit_as(s, 1, 5, 5, 0), ST_OK);
    assert_int_equal(submit_as(s, 1, 5, 5, 0), ST_INVALID);
    assert_non_null(strstr(status_message(), "in use"));
    coord_sched_destroy(&s);
    assert_int_equal(coord_sched_create(&(coord_sched_options){.max_seqs = 0}, &s), ST_INVALID);
    assert_int_equal(coord_sched_create(&(coord_sched_options){.max_seqs = 1, .max_batched_tokens = 1, .depth = 1, .block_tokens = 16, .n_kv_groups = 1,
                                                               .max_context = 10, .n_blocks = {0}}, &s), ST_INVALID);
    assert_null(s);
    status_unmute();
}

static void wrong_results_are_refused(void **state)
{
    (void)state;
    step st;
    status_mute();
    for (int i = 0; i < 4; i++) {
        coord_sched *s = make((coord_sched_options){.max_seqs = 2, .max_batched_tokens = 10});
        submit(s, 1, 5, 1);
        next(s, &st);
        step_result_row row = {.slot = st.spans[0].slot, .position = 4, .token = 7, .finish = 2};
        step_result r = {.number = st.number, .n_rows = 1, .rows = &row};
        if (i == 0)
            r.number++;
        else if (i == 1)
            row.slot ^= 1;
        else if (i == 2)
            row.position = 3;
        else
            row.finish = 0; /* beyond max_tokens */
        assert_int_equal(coord_sched_apply(s, &r, on_event, NULL), ST_FORMAT);
        coord_sched_destroy(&s);
    }
    status_unmute();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prompt_is_computed_in_chunks_then_decoded),
        cmocka_unit_test(decodes_come_before_prefills),
        cmocka_unit_test(one_slot_serves_one_after_the_other),
        cmocka_unit_test(steps_in_flight_share_the_decoding_sequences),
        cmocka_unit_test(the_youngest_of_the_lowest_priority_gives_way),
        cmocka_unit_test(a_step_names_blocks_that_fall_out_of_the_window_at_once),
        cmocka_unit_test(a_window_lets_a_long_sequence_through_few_blocks),
        cmocka_unit_test(cancelling_is_silent_and_frees),
        cmocka_unit_test(lost_ranks_start_again_from_the_tokens_there_were),
        cmocka_unit_test(prompt_logprobs_come_for_every_token_in_any_chunk),
        cmocka_unit_test(nobody_overtakes_who_waits_for_room),
        cmocka_unit_test(what_cannot_be_served_is_refused),
        cmocka_unit_test(wrong_results_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
