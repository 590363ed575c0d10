#include "coordinator/client/figures.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/numbers.h"

int32_t client_failures_add(client_failures *f, const char *what)
{
    int32_t i = 0;
    while (i < f->n && strncmp(f->of[i].what, what, sizeof(f->of[i].what) - 1) != 0)
        i++;
    if (i == (int32_t)ARRAY_LEN(f->of)) {
        i--;
        f->lost++;
    } else if (i == f->n) {
        snprintf(f->of[f->n++].what, sizeof(f->of[0].what), "%s", what);
    }
    f->of[i].n++;
    return i;
}

void client_times_add(client_times *t, double seconds)
{
    t->failed = t->failed || mem_grow(&t->of, &t->cap, t->n + 1, sizeof(*t->of), "times") != ST_OK;
    if (!t->failed)
        t->of[t->n++] = seconds;
}

void client_times_free(client_times *t)
{
    free(t->of);
    *t = (client_times){0};
}

void client_run_free(client_run *r)
{
    free(r->records);
    client_times_free(&r->itl);
    *r = (client_run){0};
}

/* ---- summaries ---- */

void client_summarise(client_times *t, client_summary *out)
{
    *out = (client_summary){0};
    if (t->n == 0)
        return;
    numbers_sort(t->of, t->n);
    out->mean = numbers_mean(t->of, t->n, &out->sd);
    out->median = numbers_at(t->of, t->n, 0.5);
    out->p90 = numbers_at(t->of, t->n, 0.9);
    out->p95 = numbers_at(t->of, t->n, 0.95);
    out->p99 = numbers_at(t->of, t->n, 0.99);
    out->max = t->of[t->n - 1];
}

static bool is_good(const client_record *r, double tpot, const client_slo *slo)
{
    return (slo->ttft <= 0 || r->ttft <= slo->ttft) && (slo->tpot <= 0 || tpot <= slo->tpot) && (slo->e2e <= 0 || r->e2e <= slo->e2e);
}

status client_figures_of(client_run *r, const client_slo *slo, client_figures *out)
{
    client_times ttft = {0}, tpot = {0}, e2e = {0}, late = {0};
    *out = (client_figures){0};
    for (int32_t i = 0; i < r->n; i++) {
        const client_record *k = &r->records[i];
        out->failed += !k->ok;
        if (!k->ok)
            continue;
        double each = k->n_output > 1 ? (k->e2e - k->ttft) / (k->n_output - 1) : 0;
        client_times_add(&ttft, k->ttft);
        client_times_add(&e2e, k->e2e);
        client_times_add(&late, k->sent - k->due);
        if (k->n_output > 1)
            client_times_add(&tpot, each);
        out->completed++;
        out->shorter += k->n_output < k->n_asked;
        out->good += is_good(k, each, slo);
        out->prompt_tokens += k->n_prompt;
        out->output_tokens += k->n_output;
    }
    double seconds = r->seconds > 0 ? r->seconds : 1e-9;
    out->request_rate = out->completed / seconds;
    out->goodput = out->good / seconds;
    out->output_rate = (double)out->output_tokens / seconds;
    out->total_rate = (double)(out->prompt_tokens + out->output_tokens) / seconds;
    client_summarise(&ttft, &out->ttft);
    client_summarise(&tpot, &out->tpot);
    client_summarise(&e2e, &out->e2e);
    client_summarise(&late, &out->lateness);
    client_summarise(&r->itl, &out->itl);
    bool failed = ttft.failed || tpot.failed || e2e.failed || late.failed || r->itl.failed;
    client_times_free(&ttft);
    client_times_free(&tpot);
    client_times_free(&e2e);
    client_times_free(&late);
    return failed ? FAIL(ST_NO_MEMORY, "no memory for the times of the requests") : ST_OK;
}

/* ---- JSON ---- */

static void put_summary(json_t *o, const char *name, const client_summary *s)
{
    const struct {
        const char *key;
        double seconds;
    } all[] = {{"mean", s->mean}, {"median", s->median}, {"std", s->sd}, {"p90", s->p90}, {"p95", s->p95}, {"p99", s->p99}, {"max", s->max}};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        char key[64];
        snprintf(key, sizeof(key), "%s_%s_ms", all[i].key, name);
        json_object_set_new(o, key, json_real(all[i].seconds * 1000));
    }
}

json_t *client_figures_json(const client_run *r, const client_figures *f, bool with_goodput)
{
    json_t *failures = json_object();
    for (int32_t i = 0; i < r->failures.n; i++)
        json_object_set_new(failures, r->failures.of[i].what, json_integer(r->failures.of[i].n));
    json_t *o = json_pack("{sf si si si so sI sI sf sf sf si sf ss}", "duration", r->seconds, "completed", f->completed, "failed", f->failed, "shorter", f->shorter, "failures", failures,
                          "total_input_tokens", (json_int_t)f->prompt_tokens, "total_output_tokens", (json_int_t)f->output_tokens, "request_throughput", f->request_rate,
                          "output_throughput", f->output_rate, "total_token_throughput", f->total_rate, "max_concurrent_requests", r->peak, "client_cpu",
                          r->seconds > 0 ? r->cpu_seconds / r->seconds : 0, "tokens_counted_by", r->counted_by_server ? "server" : "outputs");
    if (o == NULL)
        return NULL;
    if (with_goodput)
        json_object_set_new(o, "request_goodput", json_real(f->goodput));
    put_summary(o, "ttft", &f->ttft);
    put_summary(o, "tpot", &f->tpot);
    put_summary(o, "itl", &f->itl);
    put_summary(o, "e2el", &f->e2e);
    put_summary(o, "lateness", &f->lateness);
    return o;
}

status client_details_put(const client_run *r, json_t *row)
{
    json_t *requests = json_array(), *gaps = json_array();
    bool ok = true;
    for (int32_t i = 0; i < r->n; i++) {
        const client_record *k = &r->records[i];
        json_t *o = k->ok ? json_pack("{si si sf sf sf sf}", "input_len", k->n_prompt, "output_len", k->n_output, "due", k->due, "sent", k->sent, "ttft", k->ttft, "e2el", k->e2e)
                          : json_pack("{sf sf ss}", "due", k->due, "sent", k->sent, "error", r->failures.of[k->failure].what);
        ok = json_array_append_new(requests, o) == 0 && ok;
    }
    for (size_t i = 0; i < r->itl.n; i++)
        ok = json_array_append_new(gaps, json_real(r->itl.of[i])) == 0 && ok;
    ok = json_object_set_new(row, "requests", requests) == 0 && ok;
    ok = json_object_set_new(row, "itls", gaps) == 0 && ok;
    return ok ? ST_OK : FAIL(ST_NO_MEMORY, "no memory for the figures of %d requests", r->n);
}
