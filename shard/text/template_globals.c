/* shard/text/template_globals.c - the functions a template finds: range, dict, namespace, cycler, joiner, raise_exception,
 * strftime_now. */
#include "shard/text/template_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define MAX_RANGE 100000 /* Jinja's sandbox */

static tv g_range(tmpl_run *r, const targs *a)
{
    tmpl_positional(r, "range", a, 1, 3);
    int64_t v[3] = {0, 0, 1};
    for (int i = 0; i < a->n; i++)
        v[i] = tv_to_int(r, a->pos[i], "range()");
    int64_t start = a->n == 1 ? 0 : v[0], stop = a->n == 1 ? v[0] : v[1], step = v[2];
    if (step == 0)
        tmpl_fail(r, ST_INVALID, "range() arg 3 must not be zero");
    long double span = step > 0 ? (long double)stop - start : (long double)start - stop, n = 0;
    if (span > 0)
        n = (long double)(uint64_t)((span - 1) / (step > 0 ? (long double)step : -(long double)step)) + 1;
    if (n > MAX_RANGE)
        tmpl_fail(r, ST_INVALID, "Range too big. The sandbox blocks ranges larger than %d", MAX_RANGE);
    trange *g = tmpl_alloc(r, sizeof(*g));
    *g = (trange){.start = start, .stop = stop, .step = step, .n = (int64_t)n};
    return (tv){.type = TV_RANGE, .u.range = g};
}

/* dict(mapping or pairs, **kwargs) into d */
static void fill_dict(tmpl_run *r, tdict *d, const char *func, const targs *a)
{
    if (a->n > 1)
        tmpl_fail(r, ST_INVALID, "%s expected at most 1 argument, got %d", func, a->n);
    if (a->n == 1 && a->pos[0].type == TV_DICT) {
        const tdict *from = a->pos[0].u.d;
        for (size_t i = 0; i < from->n; i++)
            tv_dict_set(r, d, from->e[i].key, from->e[i].value);
    } else if (a->n == 1) {
        titer *it = tv_iterate(r, a->pos[0]);
        tv v;
        while (it->next(r, it, &v)) {
            tv pair = tv_to_list(r, v);
            if (pair.u.l->n != 2)
                tmpl_fail(r, ST_INVALID, "dictionary update sequence element has length %zu; 2 is required", pair.u.l->n);
            tv_dict_set(r, d, pair.u.l->v[0], pair.u.l->v[1]);
        }
    }
    for (int i = 0; i < a->n_kw; i++)
        tv_dict_set(r, d, a->kw_name[i], a->kw[i]);
}

static tv g_dict(tmpl_run *r, const targs *a)
{
    tv d = tv_dict_new(r);
    fill_dict(r, d.u.d, "dict", a);
    return d;
}

static tv g_namespace(tmpl_run *r, const targs *a)
{
    tv d = tv_dict_new(r);
    fill_dict(r, d.u.d, "namespace", a);
    for (size_t i = 0; i < d.u.d->n; i++) {
        tv key = d.u.d->e[i].key;
        if (key.type == TV_STR && key.u.s->len > 0 && key.u.s->p[0] == '_')
            tmpl_fail(r, ST_INVALID, "a namespace cannot hold '%.*s': names must not start with an underscore", (int)key.u.s->len, key.u.s->p);
    }
    d.type = TV_NAMESPACE;
    return d;
}

static tv g_cycler(tmpl_run *r, const targs *a)
{
    if (a->n == 0 || a->n_kw > 0)
        tmpl_fail(r, ST_INVALID, "cycler: at least one item has to be provided");
    tcycler *c = tmpl_alloc(r, sizeof(*c));
    tv *items = tmpl_alloc(r, (size_t)a->n * sizeof(tv));
    memcpy(items, a->pos, (size_t)a->n * sizeof(tv));
    *c = (tcycler){.items = items, .n = a->n};
    return (tv){.type = TV_CYCLER, .u.cycler = c};
}

static tv g_joiner(tmpl_run *r, const targs *a)
{
    static const char *const names[] = {"sep"};
    tjoiner *j = tmpl_alloc(r, sizeof(*j));
    tmpl_bind(r, "joiner", a, names, 1, 0, &j->sep);
    if (j->sep.type == TV_MISSING)
        j->sep = tv_text(r, ", ");
    return (tv){.type = TV_JOINER, .u.joiner = j};
}

static tv g_lipsum(tmpl_run *r, const targs *a)
{
    (void)a;
    tmpl_fail(r, ST_UNSUPPORTED, "lipsum is not supported: a prompt is not random");
}

static tv g_raise_exception(tmpl_run *r, const targs *a)
{
    static const char *const names[] = {"message"};
    tv message[1];
    tmpl_bind(r, "raise_exception", a, names, 1, 1, message);
    tv text = tmpl_str(r, message[0]);
    r->raised = true;
    tmpl_fail(r, ST_INVALID, "%.*s", (int)(text.u.s->len > 800 ? 800 : text.u.s->len), text.u.s->p);
}

static bool parse_now(const char *text, struct tm *out)
{
    *out = (struct tm){.tm_isdst = -1};
    int n = sscanf(text, "%d-%d-%d%*1[T ]%d:%d:%d", &out->tm_year, &out->tm_mon, &out->tm_mday, &out->tm_hour, &out->tm_min, &out->tm_sec);
    if (n < 3 || out->tm_year < 1 || out->tm_year > 9999 || out->tm_mon < 1 || out->tm_mon > 12 || out->tm_mday < 1 || out->tm_mday > 31)
        return false;
    out->tm_year -= 1900;
    out->tm_mon -= 1;
    struct tm day = *out; /* week day and day of the year */
    day.tm_isdst = 0;
    timegm(&day);
    out->tm_wday = day.tm_wday;
    out->tm_yday = day.tm_yday;
    return true;
}

/* What the C library does not format as Python does: %f, and %z and %Z, which are empty for a time without a zone. */
static tv prepared_format(tmpl_run *r, const tstr *format, long microseconds)
{
    tbuf b = {.r = r};
    for (size_t i = 0; i < format->len; i++) {
        char next = i + 1 < format->len ? format->p[i + 1] : '\0', digits[16];
        if (format->p[i] != '%' || next == '\0') {
            tbuf_putc(&b, format->p[i]);
        } else if (next == 'f') {
            snprintf(digits, sizeof(digits), "%06ld", microseconds % 1000000);
            tbuf_puts(&b, digits);
            i++;
        } else if (next == 'z' || next == 'Z') {
            i++;
        } else {
            tbuf_put(&b, format->p + i, 2);
            i++;
        }
    }
    tbuf_putc(&b, '\0');
    return tbuf_take(&b);
}

static tv g_strftime_now(tmpl_run *r, const targs *a)
{
    static const char *const names[] = {"format"};
    tv format[1];
    struct tm now;
    struct timespec clock = {0};
    tmpl_bind(r, "strftime_now", a, names, 1, 1, format);
    const tstr *text = tv_need_str(r, format[0], "strftime() argument 1");
    if (r->now != NULL) {
        if (!parse_now(r->now, &now))
            tmpl_fail(r, ST_INVALID, "\"%s\" is no time (like 2026-02-03T14:05:06)", r->now);
    } else {
        clock_gettime(CLOCK_REALTIME, &clock);
        localtime_r(&clock.tv_sec, &now);
    }
    if (text->len > 4096)
        tmpl_fail(r, ST_LIMIT, "formats a time with more than 4096 characters");
    tv prepared = prepared_format(r, text, clock.tv_nsec / 1000);
    size_t cap = 64 * prepared.u.s->len + 256;
    char *out = tmpl_alloc(r, cap);
    return tv_view_of(r, out, strftime(out, cap, prepared.u.s->p, &now));
}

void tmpl_add_globals(tmpl_run *r, tdict *globals)
{
    static const tfunc functions[] = {
        {"range", g_range}, {"dict", g_dict}, {"namespace", g_namespace}, {"cycler", g_cycler}, {"joiner", g_joiner}, {"lipsum", g_lipsum},
        {"raise_exception", g_raise_exception}, {"strftime_now", g_strftime_now},
    };
    for (size_t i = 0; i < ARRAY_LEN(functions); i++)
        tv_dict_set(r, globals, tv_text(r, functions[i].name), (tv){.type = TV_FUNC, .u.func = &functions[i]});
}
