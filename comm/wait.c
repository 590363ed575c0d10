/* comm/wait.c - how a rank waits: it spins while its peers are surely near, then sleeps on its bell; where messages may come over the
 * wire it looks there too, less and less often.  Aborts and deaths are noticed here. */
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "comm/comm_internal.h"

#define SLEEP_MAX_NS 50000000     /* nothing to poll: the bell wakes us; this only bounds how late a death is seen */
#define SLEEP_FIRST_NS 20000000   /* a host's first rank looks for other hosts' aborts */
#define BACKOFF_NS 200000         /* polling the wire */
#define BACKOFF_IDLE_NS 1000000   /* after IDLE_AFTER_NS */
#define IDLE_AFTER_NS 200000000
#define POLL_YIELD_NS 50000       /* poll without sleeping so long, where spinning is off */

int64_t world_deadline(int timeout_ms)
{
    return timeout_ms < 0 ? NEVER_NS : sync_now_ns() + (int64_t)timeout_ms * 1000000;
}

status world_aborted(const comm_world *w)
{
    status_mute();
    status st = FAIL(ST_ABORTED, "%s", w->host.shared->abort.text);
    status_unmute();
    return st;
}

/* Tells the first rank of each other host, once; the messages are small and leave at once. */
void world_forward_abort(comm_world *w)
{
    if (w->n_hosts == 1 || (w->owner != 0 && (uintptr_t)pthread_self() != w->owner))
        return;
    if (atomic_exchange(&w->host.shared->abort.forwarded, 1) != 0)
        return;
    w->abort_out.rank = w->host.shared->abort.rank;
    memcpy(w->abort_out.text, w->host.shared->abort.text, sizeof(w->abort_out.text));
    comm_wire_request requests[8];
    int n = 0;
    for (int h = 0; h < w->n_hosts; h++) {
        if (h == w->my_host || w->ops->send(w->wire, w->first_of_host[h], COMM_CHANNEL_CONTROL, CONTROL_ABORT, &w->abort_out,
                                            sizeof(w->abort_out), &requests[n]) != ST_OK)
            continue;
        n += n + 1 < (int)ARRAY_LEN(requests);
    }
    /* A little time to leave; whoever does not get it meets a deadline. */
    int64_t until = sync_now_ns() + 50000000;
    for (int i = 0; i < n && sync_now_ns() < until;) {
        bool done = false;
        if (w->ops->test(w->wire, &requests[i], &done, NULL) != ST_OK || done)
            i++;
        else
            sched_yield();
    }
}

void comm_abort(comm_world *w, const char *why)
{
    if (host_abort_set(&w->host, w->rank, why, false))
        log_error("%s", why);
    world_forward_abort(w);
}

status world_break(comm_world *w, status st, int rank, const char *format, ...)
{
    char text[HOST_ABORT_TEXT];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    bool first = host_abort_set(&w->host, rank, text, false);
    if (first)
        log_error("%s", text);
    world_forward_abort(w);
    if (!first) { /* someone else knew a cause before: that one is told */
        while (!host_aborted(&w->host))
            sync_pause();
        return world_aborted(w);
    }
    status_message_set(text);
    return st;
}

/* Another host's abort, if it has come. */
static void look_for_abort(comm_world *w)
{
    bool done = false;
    if (!w->abort_posted)
        return;
    status st = w->ops->test(w->wire, &w->abort_request, &done, NULL);
    if (st == ST_OK && !done)
        return;
    w->abort_posted = false;
    if (st == ST_OK) {
        w->abort_in.text[sizeof(w->abort_in.text) - 1] = '\0';
        host_abort_set(&w->host, w->abort_in.rank, w->abort_in.text, true);
    }
}

status world_progress(comm_world *w)
{
    TRY(mailbox_progress(w->box));
    if (w->abort_posted)
        look_for_abort(w);
    else if (w->n_wire_pending > 0)
        w->ops->poke(w->wire);
    return ST_OK;
}

/* Abort, death or deadline; ST_OK: go on waiting. */
static status check(comm_world *w, int64_t now, int64_t deadline_ns)
{
    if (host_aborted(&w->host)) {
        world_forward_abort(w);
        return world_aborted(w);
    }
    int dead = host_find_dead(&w->host, now);
    if (dead >= 0)
        return world_break(w, ST_PEER, w->on_my_host[dead], "rank %d ended without leaving the job (killed or crashed)",
                           w->on_my_host[dead]);
    return now >= deadline_ns ? ST_TIMEOUT : ST_OK;
}

/* How long to sleep, given how long we have waited. */
static int64_t sleep_ns(const comm_world *w, int64_t waited, int64_t spin_ns, bool on_wire)
{
    if (on_wire || w->n_wire_pending > 0) {
        if (waited < POLL_YIELD_NS || (on_wire && waited < spin_ns))
            return 0;
        int64_t ns = waited / 16;
        int64_t most = waited > IDLE_AFTER_NS ? BACKOFF_IDLE_NS : BACKOFF_NS;
        return ns < most ? ns : most;
    }
    return w->abort_posted ? SLEEP_FIRST_NS : SLEEP_MAX_NS;
}

status world_wait(comm_world *w, wait_fn ready, void *arg, int64_t deadline_ns, int64_t spin_ns, int64_t yield_ns, bool on_wire)
{
    int64_t begin = sync_now_ns(), now = begin;
    if (w->spin) {
        while (now - begin < spin_ns && now < deadline_ns) {
            for (int i = 0; i < 64; i++) {
                if (ready(arg))
                    return ST_OK;
                sync_pause();
            }
            TRY(world_progress(w));
            if (host_aborted(&w->host))
                break;
            now = sync_now_ns();
        }
    }
    host_rank *me = &w->host.shared->ranks[w->host.me];
    for (;;) {
        unsigned bell = atomic_load(&me->bell);
        atomic_store(&me->sleeping, 1);
        status st = world_progress(w);
        bool is_ready = st == ST_OK && ready(arg);
        if (st == ST_OK && !is_ready) {
            now = sync_now_ns();
            st = check(w, now, deadline_ns);
        }
        if (st != ST_OK || is_ready) {
            atomic_store_explicit(&me->sleeping, 0, memory_order_relaxed);
            return st;
        }
        int64_t ns = now - begin < yield_ns ? 0 : sleep_ns(w, now - begin, spin_ns, on_wire);
        if (ns > deadline_ns - now)
            ns = deadline_ns - now;
        if (ns > 0)
            sync_futex_wait(&me->bell, bell, ns);
        else
            sched_yield();
        atomic_store_explicit(&me->sleeping, 0, memory_order_relaxed);
    }
}
