/* tests/coordinator/test_waves.c - how many steps in flight the decoding sequences are divided among, with machines whose speeds are given. */
#include "coordinator/waves.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/status.h"

/* Seconds of one round of all sequences, divided among so many steps. */
typedef double (*machine)(int32_t running, int32_t waves);

/* All wait for one memory: a step reads the weights, 10 ms of it alone. */
static double memory(int32_t running, int32_t waves)
{
    (void)running;
    return 0.010 * waves;
}

/* Every stage computes on its own: whoever divides by less than the four stages leaves some idle. */
static double arithmetic(int32_t running, int32_t waves)
{
    return 0.001 * running / (waves < 4 ? waves : 4);
}

/* Memory with few sequences, arithmetic with many. */
static double both(int32_t running, int32_t waves)
{
    double a = memory(running, waves), b = arithmetic(running, waves);
    return a > b ? a : b;
}

typedef struct run {
    coord_waves w;
    double clock;
    uint64_t noise;
} run;

/* Decodes for so many seconds: how many rounds went by with what coord_waves_now says. */
static void decode(run *r, machine m, int32_t running, double seconds, double *best_share, int32_t best)
{
    double end = r->clock + seconds, at_best = 0, start = r->clock;
    while (r->clock < end) {
        int32_t waves = coord_waves_now(&r->w);
        double round = m(running, waves), each = round / waves;
        for (int32_t i = 0; i < waves; i++) {
            r->noise = r->noise * 6364136223846793005u + 1442695040888963407u;
            r->clock += each * (0.97 + 0.06 * (double)(r->noise >> 40) / (double)(1 << 24));
            coord_waves_step(&r->w, r->clock, (running + waves - 1 - i) / waves, running, false);
            if (coord_waves_now(&r->w) != waves)
                break;
        }
        at_best += waves == best ? round : 0;
    }
    *best_share = at_best / (r->clock - start);
}

static void the_faster_division_is_found(void **state)
{
    (void)state;
    static const struct { machine m; int32_t stages, running, best; } cases[] = {
        {memory, 2, 4, 1}, {memory, 4, 9, 1}, {memory, 7, 100, 1}, {arithmetic, 2, 32, 2}, {arithmetic, 4, 40, 4},
        {both, 4, 8, 1}, {both, 4, 200, 4}, {both, 2, 200, 2}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        run r = {.noise = i};
        double share;
        coord_waves_init(&r.w, cases[i].stages, cases[i].stages);
        assert_int_equal(coord_waves_now(&r.w), cases[i].stages); /* where nothing is known yet */
        decode(&r, cases[i].m, cases[i].running, 5, &share, cases[i].best);
        decode(&r, cases[i].m, cases[i].running, 60, &share, cases[i].best);
        if (share < 0.95)
            fail_msg("case %zu: only %.0f %% of the time with %d", i, 100 * share, cases[i].best);
    }
}

/* Where few are said to be better they are begun with, and more are tried later. */
static void it_begins_as_it_is_told(void **state)
{
    (void)state;
    run r = {.noise = 5};
    double share;
    coord_waves_init(&r.w, 4, 1);
    assert_int_equal(coord_waves_now(&r.w), 1);
    decode(&r, arithmetic, 40, 1, &share, 1);
    assert_true(share > 0.95);
    decode(&r, arithmetic, 40, 60, &share, 4);
    decode(&r, arithmetic, 40, 10, &share, 4);
    assert_true(share > 0.9);
}

/* Each number of sequences has its own, and keeps it. */
static void few_and_many_sequences_are_told_apart(void **state)
{
    (void)state;
    run r = {.noise = 7};
    double share;
    coord_waves_init(&r.w, 4, 4);
    decode(&r, both, 8, 10, &share, 1);
    decode(&r, both, 200, 10, &share, 4);
    for (int i = 0; i < 3; i++) {
        decode(&r, both, 8, 5, &share, 1);
        assert_true(share > 0.8);
        decode(&r, both, 200, 5, &share, 4);
        assert_true(share > 0.8);
    }
}

/* The machine changes under it. */
static void it_follows_the_machine(void **state)
{
    (void)state;
    run r = {.noise = 9};
    double share;
    coord_waves_init(&r.w, 2, 2);
    decode(&r, memory, 8, 10, &share, 1);
    decode(&r, arithmetic, 8, 300, &share, 2);
    decode(&r, arithmetic, 8, 10, &share, 2);
    assert_true(share > 0.9);
}

/* While prompts are computed nothing is measured, and nothing tried. */
static void prompts_stop_trials(void **state)
{
    (void)state;
    run r = {.noise = 11};
    double share;
    coord_waves_init(&r.w, 2, 2);
    decode(&r, arithmetic, 8, 0.2, &share, 2);
    for (int i = 0; i < 1000; i++) {
        coord_waves_step(&r.w, r.clock += 0.01, 4, 8, i % 3 == 0);
        if (i > 0)
            assert_int_equal(coord_waves_now(&r.w), 2);
    }
}

static void one_stage_has_nothing_to_choose(void **state)
{
    (void)state;
    coord_waves w;
    coord_waves_init(&w, 1, 1);
    for (int i = 0; i < 1000; i++) {
        coord_waves_step(&w, 0.01 * i, 3, 3, false);
        assert_int_equal(coord_waves_now(&w), 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_faster_division_is_found),
        cmocka_unit_test(it_begins_as_it_is_told),
        cmocka_unit_test(few_and_many_sequences_are_told_apart),
        cmocka_unit_test(it_follows_the_machine),
        cmocka_unit_test(prompts_stop_trials),
        cmocka_unit_test(one_stage_has_nothing_to_choose),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
