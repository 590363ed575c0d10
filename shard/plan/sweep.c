/* shard/plan/sweep.c - every split of so many devices.
 *
 * A thousand devices have tens of thousands of tp x pp x ep, each with a dozen batches: what depends on tp and ep alone is worked out once for them, then what depends on pp, and a
 * prediction is a microsecond. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "shard/plan/predict_internal.h"

typedef struct sweeper {
    predictor p;
    const shard_sweep_options *o;
    bool every;
    shard_sweep *out;
    int32_t front_room, kept_room;
} sweeper;

/* One more place at the end of a list. */
static status grow(shard_point **list, int32_t n, int32_t *room)
{
    if (n < *room)
        return ST_OK;
    int32_t more = *room > 0 ? *room * 2 : 64;
    shard_point *bigger = realloc(*list, (size_t)more * sizeof(*bigger));
    if (bigger == NULL)
        return FAIL(ST_NO_MEMORY, "sweep: no memory for %d points", more);
    *list = bigger;
    *room = more;
    return ST_OK;
}

/* The front is sorted, tokens/s a user falling and tokens/s a device rising: a point belongs where those before it have more for a user, and none as much for a device. */
static status front_add(sweeper *w, const shard_point *point)
{
    shard_sweep *s = w->out;
    int32_t low = 0, high = s->n_front, end;
    while (low < high) {
        int32_t mid = (low + high) / 2;
        if (s->front[mid].p.per_user >= point->p.per_user)
            low = mid + 1;
        else
            high = mid;
    }
    if (low > 0 && s->front[low - 1].p.per_device >= point->p.per_device)
        return ST_OK;
    if (low > 0 && s->front[low - 1].p.per_user == point->p.per_user)
        low--;
    for (end = low; end < s->n_front && s->front[end].p.per_device <= point->p.per_device;)
        end++;
    TRY(grow(&s->front, s->n_front + 1, &w->front_room));
    memmove(&s->front[low + 1], &s->front[end], (size_t)(s->n_front - end) * sizeof(*s->front));
    s->front[low] = *point;
    s->n_front += 1 - (end - low);
    return ST_OK;
}

/* By how much a point misses the SLO: at most 1 within it. */
static double miss(const shard_sweep_options *o, const shard_prediction *p)
{
    return fmax(o->ttft > 0 ? p->ttft / o->ttft : 0, o->tpot > 0 ? p->tpot / o->tpot : 0);
}

static bool better(const shard_sweep_options *o, const shard_prediction *a, const shard_prediction *b)
{
    double x = miss(o, a), y = miss(o, b);
    if ((x <= 1) != (y <= 1))
        return x <= 1;
    return x <= 1 ? a->per_device > b->per_device : x < y;
}

static status one_split(sweeper *w)
{
    const shard_sweep_options *o = w->o;
    const shard_split *split = &w->p.split;
    int64_t room = predictor_room(&w->p, (int64_t)o->prompt + o->output, o->batch > 0 ? o->batch : INT32_MAX / 2);
    shard_point best = {.batch = 0};
    bool fits = room >= (o->batch > 0 ? o->batch : 1), asked = o->batch > 0 && o->fixed.tp > 0 && o->fixed.pp > 0 && (o->fixed.ep > 0 || w->p.a->n_experts == 0);
    w->out->n_splits++;
    w->out->n_fit += fits;
    if (!fits && !asked) /* the one thing asked for is answered though it does not fit */
        return ST_OK;
    prompt_time prompt = predictor_prompt(&w->p, o->prompt);
    /* A sequence for each group, two, four ... and as many as there is room for. */
    for (int64_t batch = o->batch > 0 ? o->batch : split->ep; batch <= room || asked; batch = batch < room && batch * 2 > room ? room : batch * 2) {
        shard_point point = {.split = *split, .batch = (int32_t)batch};
        shard_load load = {o->prompt, o->output, (int32_t)batch};
        predictor_serve(&w->p, &load, prompt, &point.p);
        point.p.per_device = point.p.tokens_per_second / o->n_devices;
        point.p.price_per_million = o->n_devices * w->p.s.machine->price_per_hour / 3600 / point.p.tokens_per_second * 1e6;
        w->out->n_points++;
        TRY(front_add(w, &point));
        if (best.batch == 0 || better(o, &point.p, &best.p))
            best = point;
        if (o->batch > 0)
            break;
    }
    if (best.batch == 0)
        return ST_OK;
    if (w->every) {
        TRY(grow(&w->out->splits, w->out->n_points_kept, &w->kept_room));
        w->out->splits[w->out->n_points_kept++] = best;
    }
    if (w->out->best.batch == 0 || better(o, &best.p, &w->out->best.p))
        w->out->best = best;
    return ST_OK;
}

static status all_splits(sweeper *w, const shard_arch *a)
{
    const shard_split *f = &w->o->fixed;
    int32_t n = w->o->n_devices, most_tp = a->n_heads < a->intermediate ? a->n_heads : a->intermediate;
    most_tp = most_tp < a->vocab ? most_tp : a->vocab;
    for (int32_t tp = 1; tp <= most_tp && tp <= n; tp++) {
        int32_t most_ep = a->n_experts / tp > 1 ? a->n_experts / tp : 1;
        if (f->tp > 0 && tp != f->tp)
            continue;
        for (int32_t ep = 1; ep <= most_ep && ep <= n / tp; ep++) {
            if (f->ep > 0 && ep != f->ep)
                continue;
            predictor_ranks(&w->p, tp, ep);
            for (int32_t pp = 1; pp <= a->n_layers && pp <= n / (tp * ep); pp++) {
                if (f->pp > 0 && pp != f->pp)
                    continue;
                predictor_stages(&w->p, pp);
                w->p.split.replicas = f->replicas > 0 && f->replicas < n / (tp * ep * pp) ? f->replicas : n / (tp * ep * pp);
                TRY(one_split(w));
            }
        }
    }
    return ST_OK;
}

status shard_sweep_create(const shard_arch *arch, const shard_serving *s, const shard_sweep_options *options, bool every, shard_sweep **out)
{
    const shard_split *f = &options->fixed;
    const shard_split least = {f->tp > 0 ? f->tp : 1, f->pp > 0 ? f->pp : 1, f->ep > 0 ? f->ep : 1, f->replicas > 0 ? f->replicas : 1};
    TRY(shard_split_check(arch, s, &least));
    int64_t needed = (int64_t)least.tp * least.pp * least.ep * least.replicas;
    if (needed > options->n_devices)
        return FAIL(ST_INVALID, "tp %d x pp %d x ep %d x %d replicas are %lld devices, and there are %d: give more with --devices", least.tp, least.pp, least.ep, least.replicas,
                    (long long)needed, options->n_devices);
    stage_shape *shapes = NULL;
    sweeper *w = NULL;
    status st;
    TRY(mem_calloc((size_t)arch->n_layers, sizeof(*shapes), "sweep", &shapes));
    TRY_GOTO(mem_calloc(1, sizeof(*w), "sweep", &w), end);
    TRY_GOTO(mem_calloc(1, sizeof(*w->out), "sweep", &w->out), end);
    w->o = options;
    w->every = every;
    predictor_init(&w->p, arch, s, shapes);
    st = all_splits(w, arch);
    w->out->found = w->out->best.batch > 0 && w->out->best.p.fits && miss(options, &w->out->best.p) <= 1;
    if (st == ST_OK)
        *out = w->out;
    else
        shard_sweep_destroy(&w->out);
end:
    free(w);
    free(shapes);
    return st;
}

void shard_sweep_destroy(shard_sweep **sweep)
{
    if (*sweep == NULL)
        return;
    free((*sweep)->front);
    free((*sweep)->splits);
    free(*sweep);
    *sweep = NULL;
}
