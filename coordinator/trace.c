#include "coordinator/trace.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "coordinator/links.h"

enum { TAG_TRACE = 6 };

/* What a rank says of itself before its events. */
typedef struct trace_rank {
    trace_clock begin, end;
    double first; /* its first event by rank 0's clock; 0 without one */
    uint64_t n;
    int32_t stage;
    char host[64];
} trace_rank;

status trace_clock_read(comm_world *w, int timeout_ms, trace_clock *out)
{
    links_clock c;
    TRY(links_clock_measure(w, timeout_ms, &c));
    *out = (trace_clock){log_clock(), c.monotonic_offset, c.error};
    return ST_OK;
}

/* A moment of that rank by rank 0's clock. */
static double aligned(const trace_rank *r, double at)
{
    double span = r->end.at - r->begin.at, part = span > 0 ? (at - r->begin.at) / span : 0;
    return at + r->begin.offset + part * (r->end.offset - r->begin.offset);
}

static const char *name_of(worker_operation o)
{
    static const char *const names[] = {
        [WORKER_IDLE] = "idle", [WORKER_BATCH] = "batch", [WORKER_EMBED] = "embedding", [WORKER_ATTENTION] = "attention", [WORKER_MLP] = "mlp", [WORKER_HEAD] = "head",
        [WORKER_SAMPLE] = "sampling", [WORKER_EXCHANGE] = "exchange", [WORKER_STAGE] = "waiting for a stage"};
    return (size_t)o < ARRAY_LEN(names) ? names[o] : "?";
}

static void write_bar(mem_str *out, int rank, const char *category, const char *name, double from, double to, const worker_activity *a, bool layer)
{
    mem_str_printf(out, ",\n{\"ph\":\"X\",\"pid\":%d,\"tid\":0,\"cat\":\"%s\",\"name\":\"%s\",\"ts\":%.3f,\"dur\":%.3f,\"args\":{\"step\":%llu", rank, category, name, 1e6 * from,
                   1e6 * (to - from), (unsigned long long)a->step);
    if (layer)
        mem_str_printf(out, ",\"layer\":%d", a->layer);
    mem_str_puts(out, "}}");
}

/* A rank's events as bars: a step from its first event to the one of WORKER_IDLE, and in it each event until the next.  A step that is not whole (none was recorded to its end) is
 * left out. */
static void write_events(mem_str *out, const trace_rank *r, int rank, const worker_event *events, double zero)
{
    for (size_t i = 0; i < r->n;) {
        worker_activity first = worker_activity_of(events[i].note);
        size_t end = i;
        while (end < r->n && worker_activity_of(events[end].note).operation != WORKER_IDLE)
            end++;
        if (end == r->n)
            return;
        char name[32];
        snprintf(name, sizeof(name), "step %llu", (unsigned long long)first.step);
        write_bar(out, rank, "step", name, aligned(r, events[i].at) - zero, aligned(r, events[end].at) - zero, &first, false);
        for (; i < end; i++) {
            worker_activity a = worker_activity_of(events[i].note);
            bool waits = a.operation == WORKER_EXCHANGE || a.operation == WORKER_STAGE;
            write_bar(out, rank, waits ? "wait" : "compute", name_of(a.operation), aligned(r, events[i].at) - zero, aligned(r, events[i + 1].at) - zero, &a,
                      a.operation == WORKER_ATTENTION || a.operation == WORKER_MLP || a.operation == WORKER_EXCHANGE);
        }
        i = end + 1;
    }
}

static void write_rank(mem_str *out, const trace_rank *r, int rank)
{
    char text[192];
    snprintf(text, sizeof(text), "rank %d, stage %d, %.63s (clock to within %.1f us)", rank, r->stage, r->host, 1e6 * (r->begin.error > r->end.error ? r->begin.error : r->end.error));
    json_t *name = json_string(text);
    char *quoted = name != NULL ? json_dumps(name, JSON_ENCODE_ANY) : NULL; /* a host's name may be anything */
    mem_str_printf(out, "%s{\"ph\":\"M\",\"pid\":%d,\"tid\":0,\"name\":\"process_name\",\"args\":{\"name\":%s}}", rank > 0 ? ",\n" : "", rank, quoted != NULL ? quoted : "\"?\"");
    mem_str_printf(out, ",\n{\"ph\":\"M\",\"pid\":%d,\"tid\":0,\"name\":\"process_sort_index\",\"args\":{\"sort_index\":%d}}", rank, rank);
    free(quoted);
    json_decref(name);
}

/* Rank 0: takes the other ranks' events, one rank after the other. */
static status collect(comm_world *w, int timeout_ms, const trace_rank *ranks, const worker_event *mine, mem_str *out)
{
    double zero = 0;
    int n = comm_world_size(w);
    for (int i = 0; i < n; i++)
        zero = ranks[i].n > 0 && (zero == 0 || ranks[i].first < zero) ? ranks[i].first : zero;
    mem_str_puts(out, "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n");
    for (int i = 0; i < n; i++)
        write_rank(out, &ranks[i], i);
    write_events(out, &ranks[0], 0, mine, zero);
    for (int i = 1; i < n; i++) {
        worker_event *events;
        comm_request *r;
        size_t bytes = (size_t)ranks[i].n * sizeof(*events);
        if (bytes == 0)
            continue;
        TRY(mem_calloc((size_t)ranks[i].n, sizeof(*events), "the trace of steps", &events));
        status st = comm_recv(w, i, TAG_TRACE, events, bytes, &r);
        if (st == ST_OK)
            st = comm_wait(w, &r, timeout_ms, NULL);
        if (st == ST_OK)
            write_events(out, &ranks[i], i, events, zero);
        free(events);
        TRY(st);
    }
    mem_str_puts(out, "\n]}\n");
    return out->failed ? FAIL(ST_NO_MEMORY, "no memory for the trace of steps") : ST_OK;
}

status trace_write(comm_world *w, comm_group *everyone, int timeout_ms, const trace_clock *begin, int32_t stage, const worker_event *events, size_t n, const char *path)
{
    trace_rank mine = {.begin = *begin, .n = n, .stage = stage}, *all;
    comm_request *r;
    if (gethostname(mine.host, sizeof(mine.host) - 1) != 0)
        mine.host[0] = '\0';
    TRY(trace_clock_read(w, timeout_ms, &mine.end));
    mine.first = n > 0 ? aligned(&mine, events[0].at) : 0;
    TRY(mem_calloc((size_t)comm_world_size(w), sizeof(*all), "the trace of steps", &all));
    status st = comm_all_gather_equal(everyone, &mine, sizeof(mine), all);
    if (st == ST_OK && comm_world_rank(w) > 0 && n > 0) {
        st = comm_send(w, 0, TAG_TRACE, events, n * sizeof(*events), &r);
        if (st == ST_OK)
            st = comm_wait(w, &r, timeout_ms, NULL);
    } else if (st == ST_OK && comm_world_rank(w) == 0) {
        mem_str out = {0};
        st = collect(w, timeout_ms, all, events, &out);
        if (st == ST_OK)
            st = file_write_all(path, out.data, out.len, 0644);
        if (st == ST_OK)
            log_info("steps of %d ranks are in %s: open it in ui.perfetto.dev or about:tracing", comm_world_size(w), path);
        mem_str_free(&out);
    }
    free(all);
    return st;
}
