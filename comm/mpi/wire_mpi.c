/* comm/mpi/wire_mpi.c - the wire over MPI: the whole of comm_mpi.so.
 *
 * The thread that opens it makes every call (MPI_THREAD_FUNNELED).  Each channel has a communicator of its own.  Nothing blocks:
 * collective set-up runs as non-blocking calls tested until a deadline.  MPI_Init and MPI_Finalize cannot be made so; a watchdog ends the
 * process if they hang, since MPI offers no other way out. */
#include <errno.h>
#include <limits.h>
#include <mpi.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "comm/mpi/roll.h"
#include "comm/wire.h"

#define LEAVE_TIMEOUT_MS 120000 /* the first to leave waits so long for the last */
#define FINALIZE_TIMEOUT_MS 10000
#define TELL_MS 15000      /* after so long those who keep the others waiting are named */
#define ROLL_CALL_MS 6000

struct comm_wire {
    MPI_Comm comm[COMM_CHANNELS];
    int rank, size, tag_max;
    char error[1800];
};

/* The watchdog over a call that may hang. */
typedef struct watchdog {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    pthread_t thread;
    bool running, done;
    bool names; /* the call waits for all ranks: says which have not come */
    int timeout_ms;
    const char *what;
} watchdog;

static void tell(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void tell(const char *format, ...)
{
    char text[2048];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof(text) - 1, format, args);
    va_end(args);
    n = n < 0 ? 0 : n > (int)sizeof(text) - 2 ? (int)sizeof(text) - 2 : n;
    text[n++] = '\n';
    if (write(STDERR_FILENO, text, (size_t)n) < 0)
        return;
}

/* Whether the call has returned within ms of the watchdog's beginning. */
static bool returned_within(watchdog *d, const struct timespec *begin, int ms)
{
    struct timespec until = *begin;
    until.tv_sec += ms / 1000;
    pthread_mutex_lock(&d->mutex);
    int error = 0;
    while (!d->done && error != ETIMEDOUT)
        error = pthread_cond_timedwait(&d->cond, &d->mutex, &until);
    bool done = d->done;
    pthread_mutex_unlock(&d->mutex);
    return done;
}

static void *watch(void *arg)
{
    watchdog *d = arg;
    char absent[1536] = "";
    struct timespec begin;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    if (d->names && d->timeout_ms > TELL_MS + ROLL_CALL_MS) {
        if (returned_within(d, &begin, TELL_MS))
            return NULL;
        if (roll_call(ROLL_CALL_MS, absent, sizeof(absent)) && !returned_within(d, &begin, 0))
            tell("trireme: warn: these have not come in %d s, and the others wait %d s more: %s", TELL_MS / 1000, (d->timeout_ms - TELL_MS) / 1000, absent);
    }
    if (returned_within(d, &begin, d->timeout_ms))
        return NULL;
    bool named = d->names && roll_call(ROLL_CALL_MS, absent, sizeof(absent));
    if (d->names && !named && returned_within(d, &begin, d->timeout_ms + ROLL_CALL_MS)) /* whoever names them comes first: the job ends with the first that leaves */
        return NULL;
    fflush(stdout);
    tell("trireme: error: %s has not returned for %d s; giving up%s%s", d->what, d->timeout_ms / 1000, named ? "; these have not come: " : "", named ? absent : "");
    _exit(1);
}

static void watchdog_begin(watchdog *d, const char *what, bool names, int timeout_ms)
{
    *d = (watchdog){.timeout_ms = timeout_ms, .what = what, .names = names};
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&d->mutex, NULL);
    pthread_cond_init(&d->cond, &attr);
    pthread_condattr_destroy(&attr);
    d->running = pthread_create(&d->thread, NULL, watch, d) == 0;
}

static void watchdog_end(watchdog *d)
{
    pthread_mutex_lock(&d->mutex);
    d->done = true;
    pthread_cond_signal(&d->cond);
    pthread_mutex_unlock(&d->mutex);
    if (d->running)
        pthread_join(d->thread, NULL);
    pthread_cond_destroy(&d->cond);
    pthread_mutex_destroy(&d->mutex);
}

static status from_mpi(comm_wire *w, int code)
{
    if (code == MPI_SUCCESS)
        return ST_OK;
    int class = MPI_ERR_OTHER, n = 0;
    char text[MPI_MAX_ERROR_STRING] = "";
    MPI_Error_class(code, &class);
    MPI_Error_string(code, text, &n);
    snprintf(w->error, sizeof(w->error), "%.200s", text);
    return class == MPI_ERR_TRUNCATE ? ST_LIMIT : ST_PEER;
}

static void nap(long ns)
{
    struct timespec t = {.tv_nsec = ns};
    nanosleep(&t, NULL);
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static status wait_until(comm_wire *w, MPI_Request *request, int timeout_ms)
{
    int64_t begin = now_ms();
    for (int i = 0; now_ms() - begin < timeout_ms; i++) {
        int done = 0;
        status st = from_mpi(w, MPI_Test(request, &done, MPI_STATUS_IGNORE));
        if (st != ST_OK || done)
            return st;
        nap(i < 50 ? 20000 : 200000);
    }
    snprintf(w->error, sizeof(w->error), "not all of the %d ranks came within %d s", w->size, timeout_ms / 1000);
    return ST_TIMEOUT;
}

/* Our waits sleep by themselves, so MPI's own may always yield (with more ranks than cores it must).  Memory of other processes is never
 * read directly: containers refuse it, and ranks of one host do not use MPI for their data. */
static void set_environment(void)
{
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
    setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
}

static void wire_close(comm_wire **wire, bool clean);

/* ---- start-up: the first rank hears from each other rank before any collective call, so that it can say whom it has not heard ---- */

enum { TAG_HELLO = 1, TAG_GO };

/* Which of the hellos have not come, with their hosts. */
static void name_unheard(const MPI_Request *hello, int n, char *text, size_t size)
{
    size_t at = 0;
    text[0] = '\0';
    for (int r = 1, k = 0; r < n; r++) {
        char host[256];
        if (hello[r] == MPI_REQUEST_NULL)
            continue;
        if (++k > 16) {
            snprintf(text + at, size - at, " and others");
            return;
        }
        roll_host(r, host, sizeof(host));
        int len = snprintf(text + at, size - at, "%srank %d%s", k > 1 ? ", " : "", r, host);
        at = len > 0 && (size_t)len < size - at ? at + (size_t)len : at;
    }
}

/* Those that have come become MPI_REQUEST_NULL. */
static status hear(comm_wire *w, MPI_Request *hello, bool *all)
{
    *all = true;
    for (int r = 1; r < w->size; r++) {
        int done = 0; /* 1 of a null request */
        status st = from_mpi(w, MPI_Test(&hello[r], &done, MPI_STATUS_IGNORE));
        if (st != ST_OK)
            return st;
        *all = *all && done;
    }
    return ST_OK;
}

static status hear_all(comm_wire *w, MPI_Request *hello, int timeout_ms)
{
    char unheard[1536];
    bool told = false;
    for (int64_t begin = now_ms(), passed = 0; passed < timeout_ms; passed = now_ms() - begin) {
        bool all;
        status st = hear(w, hello, &all);
        if (st != ST_OK || all)
            return st;
        if (!told && passed >= TELL_MS) {
            name_unheard(hello, w->size, unheard, sizeof(unheard));
            tell("trireme: warn: nothing has come over the network in %d s from these, and %d s are left: %s; do all hosts reach each other, by the interfaces that MPI uses?", TELL_MS / 1000, (timeout_ms - TELL_MS) / 1000, unheard);
            told = true;
        }
        nap(200000);
    }
    name_unheard(hello, w->size, unheard, sizeof(unheard));
    snprintf(w->error, sizeof(w->error), "nothing has come over the network within %d s from %s", timeout_ms / 1000, unheard);
    return ST_TIMEOUT;
}

static status lead(comm_wire *w, int timeout_ms)
{
    char hello = 0, go = 0;
    MPI_Request *requests = calloc((size_t)w->size, sizeof(*requests));
    if (requests == NULL)
        return ST_NO_MEMORY;
    requests[0] = MPI_REQUEST_NULL;
    status st = ST_OK;
    for (int r = 1; r < w->size && st == ST_OK; r++)
        st = from_mpi(w, MPI_Irecv(&hello, 0, MPI_BYTE, r, TAG_HELLO, MPI_COMM_WORLD, &requests[r]));
    if (st == ST_OK)
        st = hear_all(w, requests, timeout_ms);
    for (int r = 1; r < w->size && st == ST_OK; r++)
        st = from_mpi(w, MPI_Isend(&go, 0, MPI_BYTE, r, TAG_GO, MPI_COMM_WORLD, &requests[r]));
    for (int r = 1; r < w->size && st == ST_OK; r++)
        st = wait_until(w, &requests[r], timeout_ms);
    free(requests); /* where it failed MPI is never called again */
    return st;
}

static status follow(comm_wire *w, int timeout_ms)
{
    char hello = 0, go = 0, host[200];
    MPI_Request requests[2];
    status st = from_mpi(w, MPI_Irecv(&go, 0, MPI_BYTE, 0, TAG_GO, MPI_COMM_WORLD, &requests[0]));
    if (st == ST_OK)
        st = from_mpi(w, MPI_Isend(&hello, 0, MPI_BYTE, 0, TAG_HELLO, MPI_COMM_WORLD, &requests[1]));
    for (int i = 0; i < 2 && st == ST_OK; i++)
        st = wait_until(w, &requests[1 - i], timeout_ms + TELL_MS); /* the first rank tells first */
    if (st == ST_TIMEOUT) {
        roll_host(0, host, sizeof(host));
        snprintf(w->error, sizeof(w->error), "nothing has come over the network from rank 0%s", host);
    }
    return st;
}

static status start(comm_wire *w, int timeout_ms)
{
    MPI_Request requests[COMM_CHANNELS];
    int *bound = NULL, found = 0;
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &w->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &w->size);
    MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &bound, &found);
    w->tag_max = found ? *bound : 32767;
    status met = w->rank == 0 ? lead(w, timeout_ms) : follow(w, timeout_ms);
    if (met != ST_OK)
        return met;
    for (int i = 0; i < COMM_CHANNELS; i++) {
        status st = from_mpi(w, MPI_Comm_idup(MPI_COMM_WORLD, &w->comm[i], &requests[i]));
        if (st == ST_OK)
            st = wait_until(w, &requests[i], timeout_ms);
        if (st != ST_OK)
            return st;
        MPI_Comm_set_errhandler(w->comm[i], MPI_ERRORS_RETURN);
    }
    return ST_OK;
}

static status wire_open(int timeout_ms, comm_wire **out, int *rank, int *size, char *error, size_t error_size)
{
    comm_wire *w = calloc(1, sizeof(*w));
    if (w == NULL) {
        snprintf(error, error_size, "out of memory");
        return ST_NO_MEMORY;
    }
    watchdog dog;
    int provided = 0;
    set_environment();
    roll_open();
    watchdog_begin(&dog, "MPI_Init", true, timeout_ms);
    int code = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    watchdog_end(&dog);
    if (code != MPI_SUCCESS || provided < MPI_THREAD_FUNNELED) {
        snprintf(error, error_size, "MPI_Init failed (code %d, thread level %d)", code, provided);
        free(w);
        return ST_PEER;
    }
    status st = start(w, timeout_ms);
    if (st != ST_OK) {
        snprintf(error, error_size, "%s", w->error);
        wire_close(&w, false);
        return st;
    }
    *rank = w->rank;
    *size = w->size;
    *out = w;
    return ST_OK;
}

/* Whether all ranks have come to leave.  MPI_Finalize would wait for them too, but with a busy core and without an end. */
static bool all_leave(comm_wire *w)
{
    MPI_Request request;
    return from_mpi(w, MPI_Ibarrier(w->comm[COMM_CHANNEL_CONTROL], &request)) == ST_OK && wait_until(w, &request, LEAVE_TIMEOUT_MS) == ST_OK;
}

/* Not clean: a peer may be gone, and MPI_Finalize would wait for it.  The launcher sees a process end without it and ends the job. */
static void wire_close(comm_wire **wire, bool clean)
{
    comm_wire *w = *wire;
    *wire = NULL;
    if (clean && all_leave(w)) {
        watchdog dog;
        watchdog_begin(&dog, "MPI_Finalize", false, FINALIZE_TIMEOUT_MS);
        for (int i = 0; i < COMM_CHANNELS; i++)
            MPI_Comm_free(&w->comm[i]);
        MPI_Finalize();
        roll_close();
        watchdog_end(&dog);
    }
    free(w);
}

static const char *wire_error(const comm_wire *w)
{
    return w->error;
}

static status gather_all(comm_wire *w, const void *mine, size_t bytes, void *all, int timeout_ms)
{
    MPI_Request request;
    status st = from_mpi(w, MPI_Iallgather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, w->comm[COMM_CHANNEL_CONTROL], &request));
    return st == ST_OK ? wait_until(w, &request, timeout_ms) : st;
}

static status check(comm_wire *w, int tag, size_t bytes)
{
    if (bytes <= INT_MAX && tag <= w->tag_max)
        return ST_OK;
    snprintf(w->error, sizeof(w->error), "message of %zu bytes with tag %d: at most %d bytes and tag %d", bytes, tag, INT_MAX, w->tag_max);
    return ST_INVALID;
}

/* An MPI_Request is a pointer or an int. */
_Static_assert(sizeof(MPI_Request) <= sizeof(comm_wire_request), "a request fits its place");

static status wire_send(comm_wire *w, int to, comm_channel channel, int tag, const void *data, size_t bytes, comm_wire_request *out)
{
    MPI_Request request;
    status st = check(w, tag, bytes);
    if (st == ST_OK)
        st = from_mpi(w, MPI_Isend(data, (int)bytes, MPI_BYTE, to, tag, w->comm[channel], &request));
    if (st == ST_OK)
        memcpy(out, &request, sizeof(request));
    return st;
}

static status wire_recv(comm_wire *w, int from, comm_channel channel, int tag, void *data, size_t max_bytes, comm_wire_request *out)
{
    MPI_Request request;
    int count = max_bytes > INT_MAX ? INT_MAX : (int)max_bytes;
    status st = check(w, tag, 0);
    if (st == ST_OK)
        st = from_mpi(w, MPI_Irecv(data, count, MPI_BYTE, from == COMM_WIRE_ANY ? MPI_ANY_SOURCE : from, tag, w->comm[channel], &request));
    if (st == ST_OK)
        memcpy(out, &request, sizeof(request));
    return st;
}

static status wire_test(comm_wire *w, comm_wire_request *out, bool *done, size_t *got)
{
    MPI_Request request;
    MPI_Status ended;
    int flag = 0, count = 0;
    memcpy(&request, out, sizeof(request));
    status st = from_mpi(w, MPI_Test(&request, &flag, &ended));
    memcpy(out, &request, sizeof(request));
    *done = flag != 0;
    if (st == ST_OK && flag && got != NULL) {
        MPI_Get_count(&ended, MPI_BYTE, &count);
        *got = count == MPI_UNDEFINED ? 0 : (size_t)count;
    }
    return st;
}

/* A receive that has not matched is withdrawn.  A send cannot be: MPI keeps what it has of it. */
static void wire_cancel(comm_wire *w, comm_wire_request *out)
{
    (void)w;
    MPI_Request request;
    memcpy(&request, out, sizeof(request));
    if (request == MPI_REQUEST_NULL)
        return;
    MPI_Cancel(&request);
    MPI_Request_free(&request);
}

static void wire_poke(comm_wire *w)
{
    int flag;
    MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, w->comm[COMM_CHANNEL_CONTROL], &flag, MPI_STATUS_IGNORE);
}

__attribute__((visibility("default"))) const comm_wire_ops comm_mpi_wire = {
    .version = COMM_WIRE_VERSION,
    .name = "MPI",
    .open = wire_open,
    .close = wire_close,
    .error = wire_error,
    .gather_all = gather_all,
    .send = wire_send,
    .recv = wire_recv,
    .test = wire_test,
    .cancel = wire_cancel,
    .poke = wire_poke,
};
