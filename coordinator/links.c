#include "coordinator/links.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/numbers.h"

enum { TAG_CLOCK = 8, TAG_LINK };
enum { CLOCK_ROUNDS = 16, LATENCY_MOST = 100, LATENCY_LEAST = 5, MESSAGES_MOST = 16, MESSAGES_LEAST = 4 };
#define LATENCY_SECONDS 0.005
#define MESSAGES_SECONDS 0.010
#define BETWEEN_SUMS 0.002
#define MESSAGE_BYTES ((size_t)1 << 20)

/* ---- one exchange ---- */

static status wait_for(comm_world *w, int peer, comm_request **r, int timeout_ms)
{
    status st = comm_wait(w, r, timeout_ms, NULL);
    if (st != ST_TIMEOUT)
        return st;
    char why[128];
    snprintf(why, sizeof(why), "rank %d did not answer rank %d within %g s", peer, comm_world_rank(w), timeout_ms / 1000.0);
    comm_abort(w, why); /* which logs it; all others stop too */
    status_message_set(why);
    return st;
}

static status give(comm_world *w, int to, int tag, const void *data, size_t bytes, int timeout_ms)
{
    comm_request *r;
    TRY(comm_send(w, to, tag, data, bytes, &r));
    return wait_for(w, to, &r, timeout_ms);
}

static status get(comm_world *w, int from, int tag, void *data, size_t bytes, int timeout_ms)
{
    comm_request *r;
    TRY(comm_recv(w, from, tag, data, bytes, &r));
    return wait_for(w, from, &r, timeout_ms);
}

/* ---- clocks ---- */

static double real_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static status clock_ask(comm_world *w, int timeout_ms, links_clock *out)
{
    double clocks[2], best = 1e30;
    for (int i = 0; i < CLOCK_ROUNDS; i++) {
        double begin = log_clock(), real = real_clock();
        TRY(give(w, 0, TAG_CLOCK, &begin, sizeof(begin), timeout_ms));
        TRY(get(w, 0, TAG_CLOCK, clocks, sizeof(clocks), timeout_ms));
        double took = log_clock() - begin;
        if (took >= best)
            continue;
        best = took;
        *out = (links_clock){clocks[0] - (begin + took / 2), clocks[1] - (real + took / 2), took / 2};
    }
    return ST_OK;
}

status links_clock_measure(comm_world *w, int timeout_ms, links_clock *out)
{
    double asked;
    *out = (links_clock){0};
    if (comm_world_rank(w) > 0)
        return clock_ask(w, timeout_ms, out);
    for (int r = 1; r < comm_world_size(w); r++) {
        for (int i = 0; i < CLOCK_ROUNDS; i++) {
            TRY(get(w, r, TAG_CLOCK, &asked, sizeof(asked), timeout_ms));
            double clocks[2] = {log_clock(), real_clock()};
            TRY(give(w, r, TAG_CLOCK, clocks, sizeof(clocks), timeout_ms));
        }
    }
    return ST_OK;
}

/* ---- who with whom, when ---- */

typedef struct schedule {
    links_pair *pairs;
    size_t n, cap;
    bool failed;
} schedule;

static void add(schedule *s, int a, int b, int slot)
{
    s->failed = s->failed || mem_grow(&s->pairs, &s->cap, s->n + 1, sizeof(*s->pairs), "pairs of ranks") != ST_OK;
    if (!s->failed)
        s->pairs[s->n++] = (links_pair){.a = a < b ? a : b, .b = a < b ? b : a, .slot = slot};
}

/* The k-th rank of a host; -1 after the last. */
static int rank_of(const int *host_of, int n, int host, int k)
{
    for (int r = 0; r < n; r++) {
        if (host_of[r] == host && k-- == 0)
            return r;
    }
    return -1;
}

/* The pairs of each host, all hosts at once. */
static int inside_hosts(schedule *s, const int *host_of, int n, int n_hosts)
{
    int slots = 0;
    for (int h = 0; h < n_hosts; h++) {
        int slot = 0;
        for (int a = 0; a < n; a++) {
            for (int b = a + 1; host_of[a] == h && b < n; b++) {
                if (host_of[b] == h)
                    add(s, a, b, slot++);
            }
        }
        slots = slot > slots ? slot : slots;
    }
    return slots;
}

/* Two hosts' ranks one pair after the other: returns how many there were. */
static int between_hosts(schedule *s, const int *host_of, int n, int one, int other, bool all, int slot)
{
    int begin = slot;
    for (int i = 0, a; (a = rank_of(host_of, n, one, i)) >= 0; i++) {
        for (int j = 0, b; (b = rank_of(host_of, n, other, j)) >= 0; j++) {
            add(s, a, b, slot++);
            if (!all)
                return 1;
        }
    }
    return slot - begin;
}

status links_schedule(const int *host_of, int n, bool all, links_pair **out, int *n_pairs, int *n_slots)
{
    schedule s = {0};
    int n_hosts = 0;
    for (int r = 0; r < n; r++)
        n_hosts = host_of[r] + 1 > n_hosts ? host_of[r] + 1 : n_hosts;
    int slot = inside_hosts(&s, host_of, n, n_hosts), seats = n_hosts + n_hosts % 2;
    /* A round robin tournament of hosts: seat 0 stays, the others move on by one; with an odd number the last seat is empty. */
    for (int round = 0; round + 1 < seats; round++) {
        int most = 0;
        for (int i = 0; i < seats / 2; i++) {
            int one = i == 0 ? 0 : (i - 1 + round) % (seats - 1) + 1, other = (seats - 2 - i + round) % (seats - 1) + 1;
            if (one >= n_hosts || other >= n_hosts)
                continue;
            int took = between_hosts(&s, host_of, n, one, other, all, slot);
            most = took > most ? took : most;
        }
        slot += most;
    }
    if (s.failed) {
        free(s.pairs);
        return FAIL(ST_NO_MEMORY, "no memory for the pairs of %d ranks", n);
    }
    *out = s.pairs;
    *n_pairs = (int)s.n;
    *n_slots = slot;
    return ST_OK;
}

/* ---- a pair ---- */

/* Messages there and short answers back, as many as the time allows; the first byte tells the other whether another one follows.  *seconds: the median of them. */
static status lead(comm_world *w, int peer, char *data, size_t bytes, int least, int most, double enough, int timeout_ms, double *seconds)
{
    double taken[LATENCY_MOST], begin = log_clock();
    bool last = false;
    int n = 0;
    for (int i = 0; !last; i++) {
        char answer;
        last = i >= most || (i >= least && log_clock() - begin > enough);
        data[0] = last;
        double from = log_clock();
        TRY(give(w, peer, TAG_LINK, data, bytes, timeout_ms));
        TRY(get(w, peer, TAG_LINK, &answer, 1, timeout_ms));
        if (i > 0) /* the first one warms up */
            taken[n++] = log_clock() - from;
    }
    *seconds = numbers_median(taken, (size_t)n);
    return ST_OK;
}

static status follow(comm_world *w, int peer, char *data, size_t bytes, int timeout_ms)
{
    do {
        TRY(get(w, peer, TAG_LINK, data, bytes, timeout_ms));
        TRY(give(w, peer, TAG_LINK, data, 1, timeout_ms));
    } while (data[0] == 0);
    return ST_OK;
}

static status pair_measure(comm_world *w, links_pair *p, char *data, int timeout_ms)
{
    double there_and_back = 0, message = 0;
    if (comm_world_rank(w) == p->b) {
        TRY(follow(w, p->a, data, 1, timeout_ms));
        return follow(w, p->a, data, MESSAGE_BYTES, timeout_ms);
    }
    TRY(lead(w, p->b, data, 1, LATENCY_LEAST, LATENCY_MOST - 1, LATENCY_SECONDS, timeout_ms, &there_and_back));
    TRY(lead(w, p->b, data, MESSAGE_BYTES, MESSAGES_LEAST, MESSAGES_MOST, MESSAGES_SECONDS, timeout_ms, &message));
    p->seconds = there_and_back / 2;
    message -= p->seconds; /* the answer's way */
    p->bytes_per_second = (double)MESSAGE_BYTES / (message > 1e-9 ? message : 1e-9);
    return ST_OK;
}

/* Each pair's figures come from one rank: the sum over all is what it brings. */
static status share(comm_group *everyone, links_pair *pairs, int n_pairs)
{
    float *sum;
    TRY(mem_calloc((size_t)n_pairs * 2, sizeof(*sum), "pairs", &sum));
    for (int i = 0; i < n_pairs; i++) {
        sum[2 * i] = (float)pairs[i].seconds;
        sum[2 * i + 1] = (float)pairs[i].bytes_per_second;
    }
    status st = comm_all_reduce(everyone, sum, (size_t)n_pairs * 2);
    for (int i = 0; st == ST_OK && i < n_pairs; i++) {
        pairs[i].seconds = sum[2 * i];
        pairs[i].bytes_per_second = sum[2 * i + 1];
    }
    free(sum);
    return st;
}

status links_measure(comm_world *w, comm_group *everyone, int timeout_ms, links_pair *pairs, int n_pairs, int n_slots)
{
    char *data;
    int me = comm_world_rank(w), *mine = NULL; /* [n_slots] my pair in each */
    if (n_pairs == 0)
        return ST_OK;
    TRY(mem_calloc(1, MESSAGE_BYTES, "messages", &data));
    status st = mem_calloc((size_t)n_slots, sizeof(*mine), "pairs", &mine);
    for (int i = 0; st == ST_OK && i < n_pairs; i++) {
        if (pairs[i].a == me || pairs[i].b == me)
            mine[pairs[i].slot] = i + 1;
    }
    for (int s = 0; st == ST_OK && s < n_slots; s++) {
        st = comm_barrier(everyone);
        if (st == ST_OK && mine[s] > 0)
            st = pair_measure(w, &pairs[mine[s] - 1], data, timeout_ms);
    }
    if (st == ST_OK)
        st = share(everyone, pairs, n_pairs);
    free(mine);
    free(data);
    return st;
}

/* ---- sums ---- */

/* Computing, as a rank does between its sums: meanwhile TCP's acknowledgements come back, without which the next sum would wait for room. */
static void compute_for(double seconds)
{
    for (double begin = log_clock(); log_clock() - begin < seconds;)
        ;
}

/* Each sum brings the ranks together again.  A barrier before each would set them apart by up to a message's time instead, which the first of them would wait.  The first half does not
 * count: TCP's windows grow with what goes through them. */
status links_sum(comm_group *g, size_t bytes, int rounds, double *seconds)
{
    float *data;
    double *taken;
    size_t n = bytes / sizeof(float);
    TRY(mem_calloc(n > 0 ? n : 1, sizeof(*data), "sums", &data));
    status st = mem_calloc((size_t)rounds, sizeof(*taken), "sums", &taken);
    for (int i = 0; st == ST_OK && i < rounds; i++) {
        compute_for(BETWEEN_SUMS);
        double begin = log_clock();
        st = comm_all_reduce(g, data, n);
        taken[i] = log_clock() - begin;
    }
    if (st == ST_OK)
        *seconds = numbers_median(taken + rounds / 2, (size_t)(rounds - rounds / 2));
    free(taken);
    free(data);
    return st;
}
