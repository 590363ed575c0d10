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

/* A prompt that begins like no other. */
static void submit_own(coord_sched *s, uint64_t id, int32_t n_prompt, int32_t max_tokens)
{
    for (int32_t i = 0; i < 4096; i++)
        prompt[i] = i + 100;
    prompt[0] = 10000 + (int32_t)id;
    coord_request r = {.id = id, .tokens = prompt, .n_tokens = n_prompt, .n_prompt = n_prompt,
                       .sampling = {.max_tokens = max_tokens, .n_prompt_logprobs = -1, .seed = id}};
    assert_int_equal(coord_sched_submit(s, &r), ST_OK);
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

static void decodes_leave_an_eighth_to_prefills(void **state)
{
    (void)state;
    step st;
    coord_sched *s = make((coord_sched_options){.max_seqs = 17, .max_batched_tokens = 16});
    for (uint64_t id = 1; id <= 16; id++)
        submit(s, id, 1, 50);
    next(s, &st);
    assert_int_equal(st.n_spans, 16);
    answer(s, &st, 0);
    submit(s, 20, 10, 50);
    for (int i = 0; i < 5; i++) {
        next(s, &st);
        assert_true(st.n_spans == 15 && st.spans[14].n_tokens == 2 && st.spans[14].position == 2 * i);
        answer(s, &st, 0);
    }
    next(s, &st);
    assert_int_equal(st.n_spans, 16);
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

/* A step whose spans outlive the next one. */
static void next_kept(coord_sched *s, step *st, step_span *spans)
{
    next(s, st);
    memcpy(spans, st->spans, (size_t)st->n_spans * sizeof(*spans));
    st->spans = spans;
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
        next_kept(s, &a, spans[0]);
        next_kept(s, &b, spans[1]);
        assert_true(a.n_spans == 3 && b.n_spans == 3);
        assert_false(coord_sched_next(s, &(step){0}));
        answer(s, &a, 0);
        answer(s, &b, 0);
    }
    /* Divided among one: no other goes out while it is under way, and it takes all when all are back. */
    next_kept(s, &a, spans[0]);
    next_kept(s, &b, spans[1]);
    coord_sched_divide(s, 1);
    answer(s, &a, 0);
    assert_false(coord_sched_next(s, &(step){0}));
    answer(s, &b, 0);
    for (int i = 0; i < 3; i++) {
        next(s, &a);
        assert_int_equal(a.n_spans, 6);
        assert_false(coord_sched_next(s, &(step){0}));
        answer(s, &a, 0);
    }
    next_kept(s, &a, spans[0]);
    submit(s, 7, 3, 1); /* a prompt need not wait for it */
    next_kept(s, &b, spans[1]);
    assert_true(b.n_spans == 1 && b.spans[0].n_tokens == 3);
    answer(s, &a, 0);
    answer(s, &b, 1);
    coord_sched_divide(s, 2);
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

static void cores_are_lent_to_a_step_that_is_alone(void **state)
{
    (void)state;
    step a, b;
    static step_span spans[2][8];
    coord_sched *s = make((coord_sched_options){.max_seqs = 4, .max_batched_tokens = 10, .depth = 2, .lend = true});
    /* A prompt of one step; what comes while it is under way waits for it. */
    submit(s, 1, 5, 50);
    next_kept(s, &a, spans[0]);
    assert_true(a.lent);
    submit(s, 2, 25, 50);
    assert_false(coord_sched_next(s, &(step){0}));
    answer(s, &a, 0);
    /* Of a prompt of several steps the next can be under way beside the first. */
    next_kept(s, &a, spans[0]);
    next_kept(s, &b, spans[1]);
    assert_false(a.lent || b.lent);
    answer(s, &a, 0);
    answer(s, &b, 0);
    next(s, &a); /* the rest of it */
    assert_true(a.n_spans == 2 && a.lent);
    answer(s, &a, 0);
    /* Both decode: one step with both alone, or each in one of its own. */
    coord_sched_divide(s, 1);
    for (int i = 0; i < 3; i++) {
        next(s, &a);
        assert_true(a.n_spans == 2 && a.lent);
        assert_false(coord_sched_next(s, &(step){0}));
        answer(s, &a, 0);
    }
    coord_sched_divide(s, 2);
    next_kept(s, &a, spans[0]);
    next_kept(s, &b, spans[1]);
    assert_true(a.n_spans == 1 && b.n_spans == 1 && !a.lent && !b.lent);
    coord_sched_destroy(&s);
    /* Nobody else could be let in: there is no slot for him. */
    s = make((coord_sched_options){.max_seqs = 1, .max_batched_tokens = 10, .depth = 2, .lend = true});
    submit(s, 1, 5, 50);
    submit(s, 2, 5, 50);
    next(s, &a);
    assert_true(a.lent);
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

/* One that every stage is busy with is gone, and its blocks are free, when those steps have retired. */
static void cancelling_frees_when_the_steps_in_flight_have_retired(void **state)
{
    (void)state;
    step st[3];
    coord_sched *s = make((coord_sched_options){.max_seqs = 2, .max_batched_tokens = 50, .depth = 3});
    submit(s, 1, 400, 9);
    for (int i = 0; i < 3; i++)
        next(s, &st[i]); /* chunks of one prefill, step by step */
    assert_true(coord_sched_cancel(s, 1));
    for (int i = 0; i < 3; i++) {
        assert_true(free_blocks(s) < 1000);
        answer(s, &(step){.number = st[i].number, .n_spans = 0}, 0);
    }
    assert_int_equal(free_blocks(s), 1000);
    assert_false(coord_sched_next(s, &st[0]));
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
    next(s, &st);
    assert_true(st.n_admit == 1 && st.admit[0].sampling.seed == 1);
    answer(s, &st, 0);
    submit_own(s, 2, 80, 20); /* does not fit beside it */
    submit_own(s, 3, 5, 5);   /* would */
    next(s, &st);
    assert_int_equal(st.n_admit, 0);
    answer(s, &st, 2);
    next(s, &st);
    assert_int_equal(st.n_admit, 2);
    coord_sched_destroy(&s);
}

/* ---- the prefix cache ---- */

/* Runs one request to its end, `steps` at most; what its admission said. */
static step_admit serve(coord_sched *s, const coord_request *r)
{
    step st;
    step_admit a = {.n_prefix = -1};
    assert_int_equal(coord_sched_submit(s, r), ST_OK);
    while (coord_sched_next(s, &st)) {
        if (st.n_admit > 0)
            a = st.admit[0];
        const step_span *sp = &st.spans[0];
        answer(s, &st, sp->position + sp->n_tokens >= r->n_prompt + r->sampling.max_tokens - 1 ? 2 : 0);
    }
    return a;
}

static coord_request request(uint64_t id, const int32_t *tokens, int32_t n)
{
    return (coord_request){.id = id, .tokens = tokens, .n_tokens = n, .n_prompt = n, .sampling = {.max_tokens = 1, .n_prompt_logprobs = -1}};
}

static int32_t prefix_of(coord_sched *s, uint64_t id, const int32_t *tokens, int32_t n)
{
    coord_request r = request(id, tokens, n);
    return serve(s, &r).n_prefix;
}

static void numbers(int32_t *tokens, int32_t n, int32_t first)
{
    for (int32_t i = 0; i < n; i++)
        tokens[i] = first + i;
}

static void what_begins_alike_is_taken_from_the_cache_in_whole_blocks(void **state)
{
    (void)state;
    int32_t a[100], b[100];
    coord_sched_stats st;
    coord_sched *s = make((coord_sched_options){.max_seqs = 2, .max_batched_tokens = 100});
    numbers(a, 100, 0);
    numbers(b, 100, 0);
    b[40] = 7777;
    assert_int_equal(prefix_of(s, 1, a, 100), 0);
    assert_true(n_events == 1 && events[0].cached_tokens == 0);
    assert_int_equal(prefix_of(s, 2, b, 100), 32);
    assert_true(n_events == 1 && events[0].cached_tokens == 32);
    assert_int_equal(prefix_of(s, 3, a, 100), 96);
    assert_int_equal(prefix_of(s, 4, a, 97), 96);
    assert_int_equal(prefix_of(s, 5, a, 96), 80); /* the last token is computed, and blocks are shared whole */
    assert_int_equal(prefix_of(s, 6, a, 16), 0);
    assert_int_equal(prefix_of(s, 7, a + 16, 84), 0); /* the same tokens at another place */
    coord_sched_stats_get(s, &st);
    assert_true(st.prefix_queries == 100 + 100 + 100 + 97 + 96 + 16 + 84 && st.prefix_hits == 32 + 96 + 96 + 80);
    assert_true(st.n_prompt_tokens == st.prefix_queries && st.n_generated_tokens == 7);
    assert_true(st.n_tokens_computed == st.prefix_queries - st.prefix_hits && st.free_blocks[0] == 1000);
    assert_int_equal(st.cached_blocks[0], 6 + 4 + 5);
    coord_sched_destroy(&s);
}

static void a_shared_block_is_told_to_the_ranks_with_its_tokens(void **state)
{
    (void)state;
    int32_t a[50];
    step first, second;
    int32_t blocks[4];
    coord_sched *s = make((coord_sched_options){.max_seqs = 2, .max_batched_tokens = 100, .depth = 2});
    numbers(a, 50, 500);
    coord_request r = request(1, a, 50);
    assert_int_equal(coord_sched_submit(s, &r), ST_OK);
    next(s, &first);
    memcpy(blocks, first.spans[0].new_blocks[0], sizeof(blocks));
    r.id = 2;
    assert_int_equal(coord_sched_submit(s, &r), ST_OK);
    next(s, &second); /* the step that computes them has not retired: ranks apply it before */
    assert_true(second.admit[0].n_prefix == 48 && step_prefix_told(&second.admit[0]) == 48);
    assert_memory_equal(second.admit[0].prefix, a, 48 * sizeof(int32_t));
    assert_true(second.spans[0].position == 48 && second.spans[0].n_tokens == 2 && second.spans[0].n_new_blocks[0] == 4);
    assert_memory_equal(second.spans[0].new_blocks[0], blocks, 3 * sizeof(int32_t));
    assert_int_not_equal(second.spans[0].new_blocks[0][3], blocks[3]);
    assert_int_equal(free_blocks(s), 1000 - 5);
    assert_true(coord_sched_cancel(s, 1)); /* the other one's blocks stay */
    answer(s, &(step){.number = 1, .n_spans = 0}, 0);
    assert_int_equal(free_blocks(s), 1000 - 4);
    coord_sched_destroy(&s);
}

static void only_tokens_that_somebody_looks_at_are_told(void **state)
{
    (void)state;
    int32_t a[64];
    step st;
    coord_sched *s = make((coord_sched_options){.max_seqs = 1, .max_batched_tokens = 100});
    numbers(a, 64, 0);
    assert_int_equal(prefix_of(s, 1, a, 64), 0);
    coord_request r = request(2, a, 64);
    r.n_prompt = 30; /* the others were generated */
    r.sampling.max_tokens = 40;
    r.sampling.repetition_penalty = 1;
    assert_int_equal(coord_sched_submit(s, &r), ST_OK);
    next(s, &st);
    assert_true(st.admit[0].n_prefix == 48 && step_prefix_told(&st.admit[0]) == 18);
    assert_memory_equal(st.admit[0].prefix, a + 30, 18 * sizeof(int32_t));
    answer(s, &st, 2);
    coord_sched_destroy(&s);
}

static void prompts_of_one_step_share(void **state)
{
    (void)state;
    step st;
    coord_sched *s = make((coord_sched_options){.max_seqs = 4, .max_batched_tokens = 200});
    for (uint64_t id = 1; id <= 4; id++)
        submit(s, id, 100, 5);
    next(s, &st);
    assert_true(st.n_spans == 4 && st.spans[0].n_tokens == 100);
    for (int i = 1; i < 4; i++)
        assert_true(st.admit[i].n_prefix == 96 && st.spans[i].position == 96 && st.spans[i].n_tokens == 4);
    coord_sched_destroy(&s);
}

static void nobody_shares_across_salts_rope_sets_or_an_off_switch(void **state)
{
    (void)state;
    int32_t a[64];
    coord_sched *s = make((coord_sched_options){.max_seqs = 1, .max_batched_tokens = 100});
    numbers(a, 64, 0);
    coord_request r = request(1, a, 64), other;
    assert_int_equal(serve(s, &r).n_prefix, 0);
    assert_int_equal(serve(s, &r).n_prefix, 48);
    other = r;
    other.cache_salt = (const uint8_t *)"tenant";
    other.n_cache_salt = 6;
    assert_int_equal(serve(s, &other).n_prefix, 0);
    assert_int_equal(serve(s, &other).n_prefix, 48);
    other.n_cache_salt = 5;
    assert_int_equal(serve(s, &other).n_prefix, 0);
    other = r;
    other.rope_set = 1;
    assert_int_equal(serve(s, &other).n_prefix, 0);
    other = r;
    other.no_prefix_cache = true;
    assert_int_equal(serve(s, &other).n_prefix, 0);
    other = r;
    other.pooling = STEP_POOL_MEAN;
    assert_int_equal(serve(s, &other).n_prefix, 0);
    assert_int_equal(serve(s, &r).n_prefix, 48);
    coord_sched_destroy(&s);

    s = make((coord_sched_options){.max_seqs = 1, .max_batched_tokens = 100});
    other.no_prefix_cache = true; /* leaves nothing behind */
    assert_int_equal(serve(s, &other).n_prefix, 0);
    assert_int_equal(serve(s, &r).n_prefix, 0);
    coord_sched_destroy(&s);
    s = make((coord_sched_options){.max_seqs = 1, .max_batched_tokens = 100});
    other = r;
    other.pooling = STEP_POOL_MEAN; /* does */
    assert_int_equal(serve(s, &other).n_prefix, 0);
    assert_int_equal(serve(s, &r).n_prefix, 48);
    coord_sched_destroy(&s);
    s = make((coord_sched_options){.max_seqs = 1, .max_batched_tokens = 100, .no_prefix_cache = true});
    assert_int_equal(serve(s, &r).n_prefix, 0);
    assert_int_equal(serve(s, &r).n_prefix, 0);
    coord_sched_destroy(&s);
}

static void generated_tokens_are_found_too_unless_kernels_differ(void **state)
{
    (void)state;
    for (int classes = 0; classes < 2; classes++) {
        int32_t a[64];
        coord_sched *s = make((coord_sched_options){.max_seqs = 1, .max_batched_tokens = 100, .token_classes = classes});
        numbers(a, 20, 0);
        for (int32_t i = 20; i < 64; i++)
            a[i] = 7; /* as `answer` generates */
        coord_request r = request(1, a, 20);
        r.sampling.max_tokens = 30; /* 49 tokens are computed: three blocks */
        assert_int_equal(serve(s, &r).n_prefix, 0);
        assert_int_equal(prefix_of(s, 2, a, 60), classes ? 16 : 48);
        r = request(3, a, 60);
        r.n_prompt = 20; /* a replay */
        r.sampling.max_tokens = 41;
        assert_int_equal(serve(s, &r).n_prefix, 48);
        coord_sched_destroy(&s);
    }
}

static void a_window_needs_only_the_blocks_it_still_sees(void **state)
{
    (void)state;
    int32_t a[200];
    step st;
    coord_sched *s = make((coord_sched_options){.max_seqs = 2, .max_batched_tokens = 200, .n_kv_groups = 2, .window = {0, 40}, .n_blocks = {100, 8}});
    numbers(a, 200, 0);
    coord_request r = request(1, a, 100);
    assert_int_equal(serve(s, &r).n_prefix, 0);
    r.n_tokens = r.n_prompt = 99;
    assert_int_equal(coord_sched_submit(s, &r), ST_OK);
    next(s, &st);
    assert_int_equal(st.admit[0].n_prefix, 96); /* position 96 sees from 57 on: blocks 3, 4, 5 */
    assert_true(st.spans[0].n_new_blocks[0] == 7 && st.spans[0].n_new_blocks[1] == 7);
    answer(s, &st, 2);
    /* What the window has left behind goes first, then what it sees; the full group still has all. */
    int32_t b[200];
    coord_sched_stats stats;
    numbers(b, 200, 1000);
    assert_int_equal(prefix_of(s, 2, b, 50), 0);
    assert_int_equal(prefix_of(s, 3, a, 100), 96);
    assert_int_equal(prefix_of(s, 4, b + 100, 100), 0);
    coord_sched_stats_get(s, &stats);
    assert_true(stats.cached_blocks[0] == 6 + 3 + 6 && stats.cached_blocks[1] < 8);
    assert_int_equal(prefix_of(s, 5, a, 100), 0);
    coord_sched_destroy(&s);
}

static void windows_alone_are_served_as_far_as_they_reach(void **state)
{
    (void)state;
    int32_t a[400], b[400];
    coord_sched *s = make((coord_sched_options){.max_seqs = 1, .max_batched_tokens = 400, .window = {32}, .n_blocks = {30}});
    numbers(a, 400, 0);
    numbers(b, 400, 1000);
    assert_int_equal(prefix_of(s, 1, a, 400), 0); /* 25 blocks, the last written given back first */
    assert_int_equal(prefix_of(s, 2, b, 161), 0); /* 5 free ones, then 6 that were unused the longest */
    assert_int_equal(prefix_of(s, 3, b, 161), 160);
    int32_t left = prefix_of(s, 4, a, 400);
    assert_true(left > 0 && left < 384 && left % 16 == 0);
    coord_sched_destroy(&s);
}

static void the_longest_unused_go_first_and_of_a_prefix_its_end(void **state)
{
    (void)state;
    int32_t a[64], b[64], c[64];
    coord_sched *s = make((coord_sched_options){.max_seqs = 1, .max_batched_tokens = 100, .n_blocks = {10}});
    numbers(a, 64, 0);
    numbers(b, 64, 1000);
    numbers(c, 64, 2000);
    assert_int_equal(prefix_of(s, 1, a, 64), 0); /* four blocks each */
    assert_int_equal(prefix_of(s, 2, b, 64), 0);
    assert_int_equal(prefix_of(s, 3, a, 64), 48); /* younger than b now */
    assert_int_equal(prefix_of(s, 4, c, 64), 0);  /* two free ones, and the end of b */
    assert_int_equal(prefix_of(s, 5, b, 33), 32);
    assert_int_equal(prefix_of(s, 6, a, 64), 48);
    coord_sched_destroy(&s);
}

static void lost_ranks_have_no_prefix(void **state)
{
    (void)state;
    int32_t a[64];
    coord_sched_stats st;
    coord_sched *s = make((coord_sched_options){.max_seqs = 1, .max_batched_tokens = 100});
    numbers(a, 64, 0);
    assert_int_equal(prefix_of(s, 1, a, 64), 0);
    coord_sched_lost(s);
    coord_sched_stats_get(s, &st);
    assert_int_equal(st.cached_blocks[0], 0);
    assert_int_equal(prefix_of(s, 2, a, 64), 0);
    assert_int_equal(prefix_of(s, 3, a, 64), 48);
    coord_sched_destroy(&s);
}

static void prompt_logprobs_are_computed_though_the_prefix_is_there(void **state)
{
    (void)state;
    int32_t a[64];
    coord_sched *s = make((coord_sched_options){.max_seqs = 1, .max_batched_tokens = 100});
    numbers(a, 64, 0);
    assert_int_equal(prefix_of(s, 1, a, 64), 0);
    coord_request r = request(2, a, 64);
    r.sampling.n_prompt_logprobs = 0;
    assert_int_equal(serve(s, &r).n_prefix, 0);
    coord_sched_destroy(&s);
}

static void a_preempted_sequence_finds_its_own_blocks(void **state)
{
    (void)state;
    step st;
    coord_sched_stats stats;
    coord_sched *s = make((coord_sched_options){.max_seqs = 2, .max_batched_tokens = 200, .n_blocks = {9}});
    submit_own(s, 1, 60, 60);
    next(s, &st);
    answer(s, &st, 0);
    submit_own(s, 2, 50, 60);
    do {
        next(s, &st);
        answer(s, &st, 0);
        coord_sched_stats_get(s, &stats);
    } while (stats.n_preemptions == 0);
    do {
        next(s, &st);
        if (st.n_admit > 0)
            break;
        answer(s, &st, 2);
    } while (true);
    assert_true(st.admit[0].n_prompt == 50 && st.admit[0].n_generated > 0 && st.admit[0].n_prefix >= 48);
    coord_sched_destroy(&s);
}

/* ---- fairness ---- */

static void a_short_prompt_does_not_wait_for_a_long_one(void **state)
{
    (void)state;
    step st;
    coord_sched *s = make((coord_sched_options){.max_seqs = 4, .max_batched_tokens = 100, .max_context = 4000});
    submit_own(s, 1, 2000, 5);
    next(s, &st);
    assert_int_equal(st.spans[0].n_tokens, 100);
    answer(s, &st, 0);
    submit_own(s, 2, 30, 5);
    next(s, &st);
    assert_true(st.n_spans == 2 && st.spans[0].n_tokens == 70 && st.spans[1].n_tokens == 30); /* the rest is the long one's */
    answer(s, &st, 2);
    coord_sched_destroy(&s);
}

static void a_long_prompt_gets_half_whatever_comes(void **state)
{
    (void)state;
    step st;
    int32_t done = 0, slot = -1, steps = 0;
    coord_sched *s = make((coord_sched_options){.max_seqs = 8, .max_batched_tokens = 100, .max_context = 4000});
    submit_own(s, 1, 1000, 5);
    for (uint64_t id = 2; done < 1000; steps++) {
        for (int i = 0; i < 3; i++)
            submit_own(s, id++, 45, 1);
        next(s, &st);
        for (int32_t i = 0; i < st.n_admit; i++)
            slot = st.admit[i].n_prompt == 1000 ? st.admit[i].slot : slot;
        for (int32_t i = 0; i < st.n_spans; i++)
            done += st.spans[i].slot == slot ? st.spans[i].n_tokens : 0;
        answer(s, &st, 2);
        assert_true(steps < 22);
    }
    coord_sched_destroy(&s);
}

static void equal_prompts_come_one_after_the_other(void **state)
{
    (void)state;
    step st;
    coord_sched *s = make((coord_sched_options){.max_seqs = 8, .max_batched_tokens = 100});
    for (uint64_t id = 1; id <= 3; id++)
        submit_own(s, id, 150, 1);
    next(s, &st);
    assert_true(st.n_spans == 1 && st.spans[0].n_tokens == 100);
    answer(s, &st, 0);
    next(s, &st);
    assert_true(st.n_spans == 2 && st.spans[0].n_tokens == 50 && st.spans[1].n_tokens == 50);
    coord_sched_destroy(&s);
}

static void only_so_many_prefills_are_begun(void **state)
{
    (void)state;
    step st;
    coord_sched *s = make((coord_sched_options){.max_seqs = 8, .max_batched_tokens = 100, .max_prefill_chunk = 10, .max_partial_prefills = 2});
    for (uint64_t id = 1; id <= 5; id++)
        submit_own(s, id, 150, 5);
    next(s, &st);
    assert_int_equal(st.n_spans, 2);
    answer(s, &st, 0);
    submit_own(s, 6, 9, 5); /* ends in the step in which it begins */
    next(s, &st);
    assert_true(st.n_admit == 1 && st.n_spans == 3 && st.spans[2].n_tokens == 9);
    coord_sched_destroy(&s);
}

static void priorities_go_first_until_the_others_have_waited_long(void **state)
{
    (void)state;
    step st;
    uint64_t id = 10;
    int32_t steps = 0;
    coord_sched *s = make((coord_sched_options){.max_seqs = 1, .max_batched_tokens = 100});
    assert_int_equal(submit_as(s, 1, 20, 1, 1), ST_OK);
    for (bool served = false; !served; steps++) {
        assert_int_equal(submit_as(s, id++, 20, 1, 0), ST_OK);
        next(s, &st);
        served = st.admit[0].sampling.seed == 1;
        answer(s, &st, 2);
        assert_true(steps < 2 * COORD_PRIORITY_STEPS);
    }
    assert_in_range(steps, COORD_PRIORITY_STEPS, COORD_PRIORITY_STEPS + 2);
    coord_sched_destroy(&s);
}

/* A prompt of 4,000 tokens comes to 31 that decode: each of those has its token in every step, no step exceeds the budget, and the prompt takes
 * no more steps than the rest of the budget makes necessary. */
static void a_long_prompt_among_31_decodes(void **state)
{
    (void)state;
    static int32_t tokens[4000];
    step st;
    coord_sched *s = make((coord_sched_options){.max_seqs = 32, .max_batched_tokens = 512, .max_context = 8000, .n_blocks = {2000}});
    for (uint64_t id = 1; id <= 31; id++)
        submit_own(s, id, 10, 900);
    next(s, &st);
    answer(s, &st, 0);
    numbers(tokens, 4000, 0);
    coord_request r = request(99, tokens, 4000);
    r.sampling.max_tokens = 50;
    assert_int_equal(coord_sched_submit(s, &r), ST_OK);
    int32_t steps = 0, left = 4000;
    for (; left > 0; steps++) {
        next(s, &st);
        assert_int_equal(st.n_spans, 32);
        int32_t decodes = 0, sum = 0;
        for (int32_t i = 0; i < 32; i++) {
            decodes += st.spans[i].n_tokens == 1;
            sum += st.spans[i].n_tokens;
        }
        assert_true(decodes >= 31 && sum <= 512);
        left -= sum - 31;
        answer(s, &st, 0);
    }
    assert_int_equal(steps, (4000 + 480) / 481);
    coord_sched_destroy(&s);
}

static void steps_are_counted_by_their_tokens(void **state)
{
    (void)state;
    coord_sched_stats st;
    coord_sched *s = make((coord_sched_options){.max_seqs = 1, .max_batched_tokens = 100});
    coord_request r = request(1, prompt, 65);
    numbers(prompt, 65, 0);
    r.sampling.max_tokens = 3;
    (void)serve(s, &r);
    coord_sched_stats_get(s, &st);
    assert_true(st.steps_by_tokens[0] == 2 && st.steps_by_tokens[7] == 1 && st.n_steps == 3);
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
        cmocka_unit_test(decodes_leave_an_eighth_to_prefills),
        cmocka_unit_test(one_slot_serves_one_after_the_other),
        cmocka_unit_test(steps_in_flight_share_the_decoding_sequences),
        cmocka_unit_test(cores_are_lent_to_a_step_that_is_alone),
        cmocka_unit_test(the_youngest_of_the_lowest_priority_gives_way),
        cmocka_unit_test(a_step_names_blocks_that_fall_out_of_the_window_at_once),
        cmocka_unit_test(a_window_lets_a_long_sequence_through_few_blocks),
        cmocka_unit_test(cancelling_is_silent_and_frees),
        cmocka_unit_test(cancelling_frees_when_the_steps_in_flight_have_retired),
        cmocka_unit_test(lost_ranks_start_again_from_the_tokens_there_were),
        cmocka_unit_test(prompt_logprobs_come_for_every_token_in_any_chunk),
        cmocka_unit_test(nobody_overtakes_who_waits_for_room),
        cmocka_unit_test(what_begins_alike_is_taken_from_the_cache_in_whole_blocks),
        cmocka_unit_test(a_shared_block_is_told_to_the_ranks_with_its_tokens),
        cmocka_unit_test(only_tokens_that_somebody_looks_at_are_told),
        cmocka_unit_test(prompts_of_one_step_share),
        cmocka_unit_test(nobody_shares_across_salts_rope_sets_or_an_off_switch),
        cmocka_unit_test(generated_tokens_are_found_too_unless_kernels_differ),
        cmocka_unit_test(a_window_needs_only_the_blocks_it_still_sees),
        cmocka_unit_test(windows_alone_are_served_as_far_as_they_reach),
        cmocka_unit_test(the_longest_unused_go_first_and_of_a_prefix_its_end),
        cmocka_unit_test(lost_ranks_have_no_prefix),
        cmocka_unit_test(prompt_logprobs_are_computed_though_the_prefix_is_there),
        cmocka_unit_test(a_preempted_sequence_finds_its_own_blocks),
        cmocka_unit_test(a_short_prompt_does_not_wait_for_a_long_one),
        cmocka_unit_test(a_long_prompt_gets_half_whatever_comes),
        cmocka_unit_test(equal_prompts_come_one_after_the_other),
        cmocka_unit_test(only_so_many_prefills_are_begun),
        cmocka_unit_test(priorities_go_first_until_the_others_have_waited_long),
        cmocka_unit_test(a_long_prompt_among_31_decodes),
        cmocka_unit_test(steps_are_counted_by_their_tokens),
        cmocka_unit_test(what_cannot_be_served_is_refused),
        cmocka_unit_test(wrong_results_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
