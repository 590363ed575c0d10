/* tests/shard_plan/test_predict.c - predictions: weights counted right, the limits of the formulas, splits, sweeps, memory as the plan counts it. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "shard/arch.h"
#include "shard/plan/predict.h"

static shard_arch arch;
static shard_machine machine;
static shard_serving serving;

static void config(const char *name)
{
    char path[512];
    json_t *v;
    snprintf(path, sizeof(path), "%s/coordinator/configs/%s.json", TEST_SOURCE_DIR, name);
    assert_int_equal(json_parse_file(path, 1 << 20, &v), ST_OK);
    if (shard_arch_to_plan(path, v, &arch) != ST_OK)
        fail_msg("%s", status_message());
    json_decref(v);
}

static void near(double got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance * fabs(want)))
        fail_msg("got %.9g, wanted %.9g within %g", got, want, tolerance);
}

/* A machine on which nothing takes time but reading memory and multiplying. */
static void ideal(double bytes_per_second, double macs_per_second)
{
    machine = *shard_machine_find("h100");
    shard_device *d = &machine.device;
    for (int t = 0; t < PACKED_TYPES; t++) {
        packed_shape panel = {(packed_type)t, PACKED_ROWS, 4096, 0};
        d->weights_per_second[t] = bytes_per_second / ((double)packed_bytes(panel) / (4096.0 * PACKED_ROWS));
        d->macs_per_second[t] = macs_per_second;
    }
    d->bytes_per_second = bytes_per_second;
    d->attention_macs_per_second = macs_per_second;
    d->elements_per_second = d->rotated_per_second = d->exchange_bytes_per_second = d->network_bytes_per_second = 1e30;
    d->phase_seconds = d->matrix_seconds = d->step_seconds = d->attention_head_seconds = d->exchange_seconds = d->network_seconds = 0;
    serving = (shard_serving){.machine = &machine, .types = {PACKED_BF16, NULL}, .kv_type = SHARD_KV_F16};
}

static void weights_are_what_the_names_say(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        double total, active;
    } known[] = {
        /* As published: Llama 3.1 (405,853,388,800 and 70,553,706,496 on the hub), DeepSeek-V3's report (671 B, 37 B of them active; without the module that predicts a second token),
         * Qwen 3's (235 B, 22 B). */
        {"llama-3.1-405b", 405853388800.0, 0},
        {"llama-3.1-70b", 70553706496.0, 0},
        {"deepseek-v3", 671e9, 37e9},
        {"qwen3-235b-a22b", 235e9, 22e9},
    };
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        double total, active;
        config(known[i].name);
        shard_arch_weights(&arch, &total, &active);
        print_message("%s: %.4g weights, %.4g active\n", known[i].name, total, active);
        near(total, known[i].total, known[i].active == 0 ? 1e-12 : 1e-3);
        near(active, known[i].active == 0 ? total - (double)arch.vocab * arch.hidden : known[i].active, known[i].active == 0 ? 1e-6 : 0.025);
    }
}

/* One sequence on one device whose products cost nothing: the bytes of the weights and of the cache, over the bandwidth. */
static void bandwidth_bounds_decode(void **state)
{
    (void)state;
    double total, active;
    shard_prediction p;
    config("llama-3.1-70b");
    ideal(2e12, 1e30);
    shard_arch_weights(&arch, &total, &active);
    shard_predict(&arch, &serving, &(shard_split){1, 1, 1, 1}, &(shard_load){1000, 500, 1}, &p);
    double cache = 1250.0 * arch.n_layers * 2 * arch.n_kv_heads * arch.head_dim * 2;
    near(p.decode_step, (2 * active + cache) / 2e12, 1e-4);
    near(p.decode_step, shard_predict_decode(&arch, &serving, &(shard_split){1, 1, 1, 1}, 1, 1250, 0), 1e-12);
    /* Eight devices read an eighth each; a hundred sequences read the weights once and their own cache each. */
    shard_predict(&arch, &serving, &(shard_split){8, 1, 1, 1}, &(shard_load){1000, 500, 100}, &p);
    near(p.decode_step, (2 * active + 100 * cache) / 8 / 2e12, 1e-4);
    assert_true(p.exchange < 1e-12);
}

/* The same where multiplying is all there is: twice the weights that a token meets, and the scores. */
static void products_bound_prompts(void **state)
{
    (void)state;
    double total, active;
    config("llama-3.1-70b");
    ideal(1e30, 5e14);
    shard_arch_weights(&arch, &total, &active);
    double head = (double)arch.vocab * arch.hidden, scores = 2.0 * 2048 * (2049 / 2.0) * arch.n_heads * arch.head_dim * arch.n_layers;
    double seconds = shard_predict_prompts(&arch, &serving, &(shard_split){1, 1, 1, 1}, 1, 2048);
    near(seconds, ((active - head) * 2048 + head + scores) / 5e14, 1e-4);
    near(shard_predict_prompts(&arch, &serving, &(shard_split){4, 1, 1, 1}, 1, 2048), seconds / 4, 1e-3);
}

/* Of experts those count that some token is given: all of them once there are many tokens, n_experts_used for one. */
static void experts_are_read_as_tokens_meet_them(void **state)
{
    (void)state;
    double total, active, embedding;
    config("qwen3-235b-a22b");
    ideal(1e12, 1e30);
    shard_arch_weights(&arch, &total, &active);
    embedding = (double)arch.vocab * arch.hidden;
    const shard_split one = {1, 1, 1, 1};
    near(shard_predict_decode(&arch, &serving, &one, 1, 1, 0), 2 * active / 1e12, 1e-3);
    near(shard_predict_decode(&arch, &serving, &one, 4096, 1, 0), 2 * (total - embedding) / 1e12, 2e-2);
    /* Sliced over 8 ranks, or whole over 8 groups with an eighth of the sequences each: experts are read once all the same; attention once in all, or by each group. */
    double sliced = shard_predict_decode(&arch, &serving, &(shard_split){8, 1, 1, 1}, 4096, 1, 0), whole = shard_predict_decode(&arch, &serving, &(shard_split){1, 1, 8, 1}, 4096, 1, 0);
    assert_true(whole > sliced);
    near(sliced, 2 * (total - embedding) / 8 / 1e12, 3e-2);
}

/* A token's cache is one latent vector and the rotated dimensions, whatever the heads; and shared out over ranks it is on all of them. */
static void latent_vectors_are_cached(void **state)
{
    (void)state;
    shard_prediction p, q;
    config("deepseek-v3");
    ideal(1e12, 1e30);
    shard_predict(&arch, &serving, &(shard_split){8, 1, 1, 1}, &(shard_load){4000, 96, 1}, &p);
    assert_int_equal(p.kv_bytes, 4096ull * (512 + 64) * 2 * 61);
    shard_predict(&arch, &serving, &(shard_split){8, 1, 8, 1}, &(shard_load){4000, 96, 16}, &q);
    assert_int_equal(q.kv_bytes, 2 * p.kv_bytes); /* two of the sixteen sequences in each group */
    assert_true(q.weight_bytes < p.weight_bytes);
}

static void sums_by_size(void **state)
{
    (void)state;
    const shard_device d = {.exchange_seconds = 1e-5, .exchange_bytes_per_second = 1e11, .network_seconds = 1e-4, .network_bytes_per_second = 1e10};
    for (int a = 0; a < SHARD_ALGORITHMS; a++)
        assert_true(shard_sum_seconds_by(&d, (shard_algorithm)a, 1, 1e9) == 0);
    assert_true(shard_sum_seconds(&d, 1, 1, 1e9) == 0 && shard_gather_seconds(&d, 1, 1, 1e9) == 0);
    near(shard_sum_seconds(&d, 8, 1, 0), 1e-5, 1e-12);                        /* nothing but the start */
    near(shard_sum_seconds(&d, 2, 1, 1e6), 1e-5 + 1e-5, 1e-12);               /* two ranks: one shot always */
    near(shard_sum_seconds(&d, 8, 1, 1e9), 2e-5 + 2 * 7 / 8.0 * 1e-2, 1e-12); /* large: two shots */
    near(shard_sum_seconds_by(&d, SHARD_ONE_SHOT, 8, 1e9), 1e-5 + 7e-2, 1e-12);
    near(shard_sum_seconds_by(&d, SHARD_RING, 8, 1e9), 14e-5 + 2 * 7 / 8.0 * 1e-2, 1e-12);
    near(shard_gather_seconds(&d, 4, 1, 1e9), 1e-5 + 0.75e-2, 1e-12);
    near(shard_send_seconds(&d, true, 1e6), 2e-4, 1e-12);
    near(shard_exchange_seconds(&d, 1e6, 0), 2e-5, 1e-12);
    near(shard_exchange_seconds(&d, 1e6, 1e6), 2e-4, 1e-12);
    /* Between hosts: slices added inside, one message each way or two, gathered inside. */
    near(shard_sum_seconds(&d, 2, 2, 0), 1e-4, 1e-12);
    near(shard_sum_seconds(&d, 16, 2, 8e8), 2 * (1e-5 + 7 / 8.0 * 8e-3) + 1e-4 + 1e-2, 1e-9);
    near(shard_sum_seconds(&d, 32, 4, 8e8), 2 * (1e-5 + 7 / 8.0 * 8e-3 + 1e-4 + 0.75e-2), 1e-9);
    for (int32_t p = 2; p <= 64; p *= 2) {
        for (double bytes = 1; bytes < 1e10; bytes *= 10) {
            double best = shard_sum_seconds(&d, p, 1, bytes);
            for (int a = 0; a < SHARD_ALGORITHMS; a++)
                assert_true(best <= shard_sum_seconds_by(&d, (shard_algorithm)a, p, bytes));
            assert_true(best <= shard_sum_seconds(&d, p, 1, bytes * 2) && best <= shard_sum_seconds(&d, p, p > 8 ? p / 8 : 2, bytes) * (1 + 1e-12));
        }
    }
}

/* Where sums were measured they are taken: between two sizes, and beyond the largest as it goes on; others are reckoned. */
static void measured_sums_go_before_reckoned_ones(void **state)
{
    (void)state;
    ideal(1e12, 1e12);
    shard_device d = machine.device, reckoned = d;
    const shard_sum sums[] = {{2, 1, 1e3, 5e-6}, {2, 2, 1e3, 1e-3}, {2, 2, 1e4, 4e-3}, {2, 2, 1e6, 103e-3}, {4, 2, 1e3, 7e-3}, {4, 2, 1e6, 8e-3}};
    memcpy(d.sums, sums, sizeof(sums));
    d.n_sums = ARRAY_LEN(sums);
    near(shard_sum_seconds(&d, 2, 2, 10), 1e-3, 1e-12);
    near(shard_sum_seconds(&d, 2, 2, 1e3), 1e-3, 1e-12);
    near(shard_sum_seconds(&d, 2, 2, 4e3), 2e-3, 1e-12);
    near(shard_sum_seconds(&d, 2, 2, 1e4), 4e-3, 1e-12);
    near(shard_sum_seconds(&d, 2, 2, 5.05e5), 53.5e-3, 1e-12);
    near(shard_sum_seconds(&d, 2, 2, 2e6), 203e-3, 1e-12);
    near(shard_sum_seconds(&d, 4, 2, 1e6), 8e-3, 1e-12);
    near(shard_sum_seconds(&d, 2, 1, 1e3), 5e-6, 1e-12);
    near(shard_sum_seconds(&d, 2, 1, 1e6), shard_sum_seconds(&reckoned, 2, 1, 1e6), 1e-12); /* one size says nothing of a larger one */
    near(shard_sum_seconds(&d, 4, 4, 1e6), shard_sum_seconds(&reckoned, 4, 4, 1e6), 1e-12);
    assert_true(shard_sum_seconds(&d, 1, 1, 1e6) == 0);
}

/* With one sequence stages wait for each other; with many each is busy, and as many tokens come as the slowest allows. */
static void stages_overlap_when_there_is_work(void **state)
{
    (void)state;
    shard_prediction one, two;
    config("llama-3.1-70b");
    ideal(1e12, 1e30);
    shard_predict(&arch, &serving, &(shard_split){1, 1, 1, 1}, &(shard_load){1, 1000, 1}, &one);
    shard_predict(&arch, &serving, &(shard_split){1, 4, 1, 1}, &(shard_load){1, 1000, 1}, &two);
    near(two.decode_step, one.decode_step, 1e-6);
    assert_true(two.bubble > 0.7 * two.decode_step);
    shard_predict(&arch, &serving, &(shard_split){1, 1, 1, 1}, &(shard_load){1, 1000, 64}, &one);
    shard_predict(&arch, &serving, &(shard_split){1, 4, 1, 1}, &(shard_load){1, 1000, 64}, &two);
    assert_true(two.decode_rate < 4 * one.decode_rate && two.decode_step > one.decode_step * 0.9);
    assert_true(two.bubble < 0.1 * two.decode_step);
    /* Chunks follow each other: three stages more take three chunks' time more. */
    ideal(1e30, 1e14);
    serving.chunk = 256;
    double alone = shard_predict_prompts(&arch, &serving, &(shard_split){1, 1, 1, 1}, 1, 4096), piped = shard_predict_prompts(&arch, &serving, &(shard_split){1, 4, 1, 1}, 1, 4096);
    near(piped, alone / 4 * (16 + 3) / 16, 0.06); /* the stages are cut for decode steps, where the head counts */
}

/* One step of all sequences goes through the stages alone: as long as two of half of them where weights are read, twice as long where rows are computed. */
static void sequences_divided_among_fewer_steps(void **state)
{
    (void)state;
    config("llama-3.1-70b");
    const shard_split two = {1, 2, 1, 1};
    ideal(1e12, 1e30);
    near(shard_predict_decode(&arch, &serving, &two, 64, 1, 1), shard_predict_decode(&arch, &serving, &two, 64, 1, 0), 0.02);
    ideal(1e30, 1e12);
    near(shard_predict_decode(&arch, &serving, &two, 64, 1, 1), 2 * shard_predict_decode(&arch, &serving, &two, 64, 1, 2), 0.02);
    near(shard_predict_decode(&arch, &serving, &two, 64, 1, 3), shard_predict_decode(&arch, &serving, &two, 64, 1, 2), 0); /* no more than stages */
}

/* Where both parts are there they add up on a CPU, and the longer counts where they overlap. */
static void reading_and_computing(void **state)
{
    (void)state;
    config("llama-3.1-70b");
    const shard_split one = {1, 1, 1, 1};
    ideal(1e12, 1e30);
    double reading = shard_predict_decode(&arch, &serving, &one, 8, 1, 0);
    ideal(1e30, 1e12);
    double computing = shard_predict_decode(&arch, &serving, &one, 8, 1, 0);
    ideal(1e12, 1e12);
    near(shard_predict_decode(&arch, &serving, &one, 8, 1, 0), fmax(reading, computing), 1e-3);
    machine.device.overlaps = false;
    near(shard_predict_decode(&arch, &serving, &one, 8, 1, 0), reading + computing, 1e-9);
}

static void exchanges_hide_behind_the_other_piece(void **state)
{
    (void)state;
    config("llama-3.1-70b");
    ideal(1e30, 5e14);
    machine.device.exchange_bytes_per_second = 4.5e11;
    const shard_split eight = {8, 1, 1, 1};
    double plain = shard_predict_prompts(&arch, &serving, &eight, 1, 4096);
    serving.overlap_rows = 512;
    double hidden = shard_predict_prompts(&arch, &serving, &eight, 1, 4096);
    assert_true(hidden < 0.8 * plain);
    near(shard_predict_prompts(&arch, &serving, &eight, 1, 511), (serving.overlap_rows = 0, shard_predict_prompts(&arch, &serving, &eight, 1, 511)), 1e-12);
}

static void memory_is_the_plans(void **state)
{
    (void)state;
    static const shard_split splits[] = {{1, 1, 1, 1}, {8, 1, 1, 1}, {8, 2, 1, 1}, {4, 5, 1, 1}, {16, 1, 1, 1}};
    static const packed_type types[] = {PACKED_BF16, PACKED_F8, PACKED_Q4_K};
    config("llama-3.1-70b");
    for (size_t t = 0; t < ARRAY_LEN(types); t++) {
        ideal(1e12, 1e12);
        serving.types.dflt = types[t];
        for (size_t i = 0; i < ARRAY_LEN(splits); i++) {
            shard_prediction p;
            shard_plan *plan;
            shard_plan_options o = {.tp = splits[i].tp, .pp = splits[i].pp, .types = serving.types, .kv_type = SHARD_KV_F16, .max_seqs = 32, .max_context = 4096,
                                      .max_batched_tokens = 512, .may_not_fit = true, .device = &machine.device, .cost_seqs = 16};
            serving.chunk = 512;
            shard_predict(&arch, &serving, &splits[i], &(shard_load){4000, 96, 32}, &p);
            assert_int_equal(shard_plan_create(&arch, &o, &plan), ST_OK);
            double predicted = (double)(p.weight_bytes + p.kv_bytes), most = 0;
            for (int32_t r = 0; r < plan->n_ranks; r++)
                most = fmax(most, (double)(plan->ranks[r].weight_bytes + plan->ranks[r].kv_bytes));
            near(predicted, most, 0.02);
            shard_plan_destroy(&plan);
        }
    }
}

/* Without exchanges that differ, a decode step is what `trireme plan` says of the same split: one cost model. */
static void a_decode_step_is_the_plans(void **state)
{
    (void)state;
    static const struct {
        const char *machine;
        shard_split split;
        int32_t seqs;
        double tolerance;
    } cases[] = {{"cpu", {1, 1, 1, 1}, 1, 1e-9}, {"cpu", {1, 1, 1, 1}, 8, 1e-9}, {"h100", {1, 1, 1, 1}, 32, 1e-9}, {"cpu", {8, 1, 1, 1}, 4, 0.01}, {"h100", {8, 1, 1, 1}, 4, 0.03}, {"cpu", {2, 4, 1, 1}, 1, 0.01}};
    config("llama-3.1-70b");
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        machine = *shard_machine_find(cases[i].machine);
        machine.devices_per_host = 8;
        serving = (shard_serving){.machine = &machine, .types = {PACKED_Q4_K, NULL}, .kv_type = SHARD_KV_F16};
        shard_plan *plan;
        shard_plan_options o = {.tp = cases[i].split.tp, .pp = cases[i].split.pp, .types = serving.types, .kv_type = SHARD_KV_F16, .may_not_fit = true, .device = &machine.device,
                                .cost_seqs = cases[i].seqs, .cost_context = 1000};
        assert_int_equal(shard_plan_create(&arch, &o, &plan), ST_OK);
        near(shard_predict_decode(&arch, &serving, &cases[i].split, cases[i].seqs, 1000, 0), plan->step_seconds + machine.device.step_seconds, cases[i].tolerance);
        shard_plan_destroy(&plan);
    }
}

/* So is a step of a prompt with nothing before it: what `trireme plan` measures here is scaled to the one, and predicts the other. */
static void a_prompts_step_is_the_plans(void **state)
{
    (void)state;
    static const char *const machines[] = {"cpu", "h100"};
    config("llama-3.1-70b");
    for (size_t i = 0; i < ARRAY_LEN(machines); i++) {
        machine = *shard_machine_find(machines[i]);
        serving = (shard_serving){.machine = &machine, .types = {PACKED_Q4_K, NULL}, .kv_type = SHARD_KV_F16, .chunk = 512};
        shard_plan *plan;
        shard_plan_options o = {.tp = 1, .pp = 1, .types = serving.types, .kv_type = SHARD_KV_F16, .may_not_fit = true, .device = &machine.device, .cost_seqs = 1, .cost_rows = 512};
        assert_int_equal(shard_plan_create(&arch, &o, &plan), ST_OK);
        near(shard_predict_prompts(&arch, &serving, &(shard_split){1, 1, 1, 1}, 1, 512), plan->step_seconds + machine.device.step_seconds, 1e-9);
        shard_plan_destroy(&plan);
    }
}

/* Nine query heads and three KV heads on two ranks: neither has more than two of the three, whatever the context. */
static void kv_heads_lie_where_their_query_heads_are(void **state)
{
    (void)state;
    static const struct {
        int32_t heads, kv_heads, tp, most;
    } cases[] = {{9, 3, 2, 2}, {64, 8, 8, 1}, {64, 8, 4, 2}, {64, 8, 16, 1}, {5, 1, 2, 1}, {12, 4, 3, 2}, {9, 3, 9, 1}};
    config("llama-3.1-70b");
    ideal(1e12, 1e30);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const shard_split split = {cases[i].tp, 1, 1, 1};
        arch.n_heads = cases[i].heads;
        arch.n_kv_heads = cases[i].kv_heads;
        double more = shard_predict_decode(&arch, &serving, &split, 1, 3000, 0) - shard_predict_decode(&arch, &serving, &split, 1, 1000, 0);
        near(more, 2000.0 * arch.n_layers * 2 * cases[i].most * arch.head_dim * 2 / 1e12, 1e-6);
    }
}

/* The front against every point there is, for few devices. */
static void fronts_are_not_dominated(void **state)
{
    (void)state;
    config("qwen3-235b-a22b");
    serving = (shard_serving){.machine = shard_machine_find("h200"), .types = {PACKED_F8, NULL}, .kv_type = SHARD_KV_F8, .sum_bytes = 2};
    shard_sweep *s, *t;
    shard_sweep_options o = {.n_devices = 16, .prompt = 1000, .output = 500};
    assert_int_equal(shard_sweep_create(&arch, &serving, &o, true, &s), ST_OK);
    assert_true(s->n_front > 3 && s->n_splits > s->n_fit && s->n_fit > 20 && s->n_points_kept == s->n_fit);
    for (int32_t i = 1; i < s->n_front; i++)
        assert_true(s->front[i].p.per_user < s->front[i - 1].p.per_user && s->front[i].p.per_device > s->front[i - 1].p.per_device);
    for (int32_t i = 0; i < s->n_points_kept; i++) {
        const shard_point *p = &s->splits[i];
        int32_t used = p->split.tp * p->split.pp * p->split.ep * p->split.replicas;
        bool matched = false;
        assert_true(used <= 16 && p->p.fits);
        near(p->p.per_device * 16, p->p.tokens_per_second, 1e-9);
        for (int32_t k = 0; k < s->n_front; k++) {
            assert_false(p->p.per_user > s->front[k].p.per_user && p->p.per_device > s->front[k].p.per_device);
            matched |= s->front[k].p.per_user >= p->p.per_user && s->front[k].p.per_device >= p->p.per_device;
        }
        assert_true(matched);
    }
    assert_true(s->found && s->best.p.per_device == s->front[s->n_front - 1].p.per_device); /* no SLO: the most a device */
    /* An SLO keeps the best within it; one that nothing keeps says what comes nearest. */
    o.tpot = 0.02;
    o.ttft = 1;
    assert_int_equal(shard_sweep_create(&arch, &serving, &o, false, &t), ST_OK);
    assert_true(t->found && t->best.p.tpot <= 0.02 && t->best.p.ttft <= 1 && t->best.p.per_device <= s->best.p.per_device && t->splits == NULL);
    shard_sweep_destroy(&t);
    o.tpot = 1e-9;
    assert_int_equal(shard_sweep_create(&arch, &serving, &o, false, &t), ST_OK);
    assert_true(!t->found && t->best.batch > 0);
    shard_sweep_destroy(&t);
    /* What is fixed stays. */
    o = (shard_sweep_options){.n_devices = 16, .fixed = {.tp = 4, .ep = 2}, .prompt = 1000, .output = 500, .batch = 12};
    assert_int_equal(shard_sweep_create(&arch, &serving, &o, true, &t), ST_OK);
    assert_int_equal(t->n_splits, 2); /* pp 1 and 2 */
    for (int32_t i = 0; i < t->n_points_kept; i++)
        assert_true(t->splits[i].split.tp == 4 && t->splits[i].split.ep == 2 && t->splits[i].batch == 12);
    shard_sweep_destroy(&t);
    shard_sweep_destroy(&s);
    shard_sweep_destroy(&s);
}

static void a_checkpoint_that_fits_nowhere(void **state)
{
    (void)state;
    config("deepseek-v3");
    serving = (shard_serving){.machine = shard_machine_find("h100"), .types = {PACKED_F8, NULL}, .kv_type = SHARD_KV_BF16};
    shard_sweep *s;
    assert_int_equal(shard_sweep_create(&arch, &serving, &(shard_sweep_options){.n_devices = 4, .prompt = 1000, .output = 100}, true, &s), ST_OK);
    assert_true(s->n_splits > 0 && s->n_fit == 0 && s->n_front == 0 && !s->found && s->best.batch == 0);
    shard_sweep_destroy(&s);
}

static void refuse(shard_split split, const char *says)
{
    status_mute();
    status st = shard_split_check(&arch, &serving, &split);
    status_unmute();
    if (st != ST_INVALID || strstr(status_message(), says) == NULL)
        fail_msg("tp %d pp %d ep %d: %s: %s", split.tp, split.pp, split.ep, status_text(st), status_message());
}

static void what_cannot_be_split_is_refused(void **state)
{
    (void)state;
    config("deepseek-v3");
    ideal(1e12, 1e12);
    assert_int_equal(shard_split_check(&arch, &serving, &(shard_split){8, 61, 32, 7}), ST_OK);
    refuse((shard_split){0, 1, 1, 1}, "positive");
    refuse((shard_split){129, 1, 1, 1}, "query heads");
    refuse((shard_split){1, 62, 1, 1}, "61 layers");
    refuse((shard_split){8, 1, 33, 1}, "256 experts");
    machine.device.macs_per_second[PACKED_BF16] = 0;
    refuse((shard_split){1, 1, 1, 1}, "bf16");
    config("llama-3.1-70b");
    ideal(1e12, 1e12);
    refuse((shard_split){1, 1, 2, 1}, "no experts");
    shard_sweep *s;
    status_mute();
    assert_int_equal(shard_sweep_create(&arch, &serving, &(shard_sweep_options){.n_devices = 4, .fixed = {.tp = 8}, .prompt = 1, .output = 1}, false, &s), ST_INVALID);
    status_unmute();
}

/* A small split of a large machine never yields more than the rates allow, and no figure is negative or not a number. */
static void nothing_is_absurd(void **state)
{
    (void)state;
    static const char *const names[] = {"llama-3.1-405b", "llama-3.1-70b", "deepseek-v3", "qwen3-235b-a22b"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        config(names[i]);
        double total, active;
        shard_arch_weights(&arch, &total, &active);
        serving = (shard_serving){.machine = shard_machine_find("b200"), .types = {PACKED_F8, NULL}, .kv_type = SHARD_KV_F8, .overlap_rows = 64};
        for (int32_t tp = 1; tp <= 16; tp *= 2) {
            for (int32_t pp = 1; pp <= 9; pp += 4) {
                for (int32_t ep = 1; ep <= (arch.n_experts > 0 ? 8 : 1); ep *= 2) {
                    for (int32_t batch = 1; batch <= 4096; batch *= 8) {
                        shard_prediction p;
                        shard_split split = {tp, pp, ep, 2};
                        shard_predict(&arch, &serving, &split, &(shard_load){1000, 1000, batch}, &p);
                        const double all[] = {p.ttft, p.tpot, p.decode_step, p.tokens_per_second, p.per_device, p.per_user, p.decode_rate, p.prompt_rate, p.price_per_million};
                        for (size_t k = 0; k < ARRAY_LEN(all); k++)
                            assert_true(isfinite(all[k]) && all[k] > 0);
                        assert_true(p.exchange >= 0 && p.bubble >= 0 && p.bubble <= p.decode_step && p.tpot >= p.decode_step * (1 - 1e-12));
                        assert_true(p.decode_rate <= 2.0 * tp * pp * ep * 2.25e15 / active);
                    }
                }
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_are_what_the_names_say),
        cmocka_unit_test(bandwidth_bounds_decode),
        cmocka_unit_test(products_bound_prompts),
        cmocka_unit_test(experts_are_read_as_tokens_meet_them),
        cmocka_unit_test(latent_vectors_are_cached),
        cmocka_unit_test(sums_by_size),
        cmocka_unit_test(stages_overlap_when_there_is_work),
        cmocka_unit_test(sequences_divided_among_fewer_steps),
        cmocka_unit_test(reading_and_computing),
        cmocka_unit_test(exchanges_hide_behind_the_other_piece),
        cmocka_unit_test(memory_is_the_plans),
        cmocka_unit_test(a_decode_step_is_the_plans), cmocka_unit_test(measured_sums_go_before_reckoned_ones), cmocka_unit_test(a_prompts_step_is_the_plans), cmocka_unit_test(kv_heads_lie_where_their_query_heads_are),
        cmocka_unit_test(fronts_are_not_dominated),
        cmocka_unit_test(a_checkpoint_that_fits_nowhere),
        cmocka_unit_test(what_cannot_be_split_is_refused),
        cmocka_unit_test(nothing_is_absurd),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
