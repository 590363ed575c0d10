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
#define TELL_MS 15000   /* a start-up that lasts so long says whom it waits for */
#define AFTER_SECONDS 2 /* rank 0 says first whom it has not heard */

struct comm_wire {
    MPI_Comm comm[COMM_CHANNELS];
    int rank, size, tag_max;
    int phase; /* of the start-up, for the roll; 0: it is over */
    char error[ROLL_TEXT + 200];
};

/* The watchdog over a call that may hang. */
typedef struct watchdog {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    pthread_t thread;
    bool running, done;
    int timeout_ms, phase; /* phase: of the start-up; 0: it is over */
    const char *what;
} watchdog;

static void tell(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void tell(const char *format, ...)
{
    char text[ROLL_TEXT + 300];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (n > 0 && write(STDERR_FILENO, text, (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1) < 0)
        return;
}

static void tell_late(const char *who, int timeout_ms)
{
    tell("trireme: warn: %s in %d s; the others wait %d s more\n", who, TELL_MS / 1000, (timeout_ms - TELL_MS) / 1000);
}

static void give_up(const watchdog *d)
{
    char absent[ROLL_TEXT];
    bool tells = true, named = d->phase > 0 && roll_absent(d->phase, absent, sizeof(absent), &tells);
    fflush(stdout);
    if (named)
        tell("trireme: error: %s; %s has not returned for %g s\n", absent, d->what, d->timeout_ms / 1000.0);
    else if (tells)
        tell("trireme: error: %s has not returned for %g s; giving up\n", d->what, d->timeout_ms / 1000.0);
    _exit(1);
}

/* Waits until it is done, or so many milliseconds after `from`. */
static bool watch_until(watchdog *d, const struct timespec *from, int ms)
{
    struct timespec until = {from->tv_sec + ms / 1000, from->tv_nsec + ms % 1000 * 1000000L};
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
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
    struct timespec from;
    clock_gettime(CLOCK_MONOTONIC, &from);
    if (d->phase > 0 && d->timeout_ms >= 2 * TELL_MS) {
        char late[ROLL_TEXT];
        if (watch_until(d, &from, TELL_MS))
            return NULL;
        if (roll_late(d->phase, late, sizeof(late)) && !watch_until(d, &from, 0))
            tell_late(late, d->timeout_ms);
    }
    if (watch_until(d, &from, d->timeout_ms / 2))
        return NULL;
    if (d->phase > 0)
        roll_wait(d->phase);
    if (!watch_until(d, &from, d->timeout_ms))
        give_up(d);
    return NULL;
}

static void watchdog_begin(watchdog *d, const char *what, int phase, int timeout_ms)
{
    *d = (watchdog){.timeout_ms = timeout_ms, .phase = phase, .what = what};
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

/* Whose requests are not done, as roll_names puts it; false: nobody's, or they are not requests of single ranks. */
static bool name_unheard(MPI_Request *requests, int n_peers, char *text, size_t size)
{
    bool *unheard = calloc((size_t)n_peers + 1, sizeof(*unheard));
    int n = 0;
    if (unheard != NULL && n_peers > 0) {
        for (int r = 0; r < n_peers; r++) {
            int done = 0; /* 1 of a null request */
            unheard[r] = MPI_Test(&requests[r], &done, MPI_STATUS_IGNORE) != MPI_SUCCESS || !done;
        }
        n = roll_names(unheard, n_peers, text, size);
    }
    free(unheard);
    return n > 0;
}

/* ST_PEER where rank 0 is among those that did not come: whoever is told ST_TIMEOUT leaves it to rank 0 to say so. */
static status not_all_came(comm_wire *w, MPI_Request *requests, int n_peers, int timeout_ms)
{
    char who[ROLL_TEXT];
    bool tells = true;
    if (w->phase > 0 && roll_absent(w->phase, who, sizeof(who), &tells)) {
        snprintf(w->error, sizeof(w->error), "%s, for %g s", who, timeout_ms / 1000.0);
    } else if (name_unheard(requests, n_peers, who, sizeof(who))) {
        snprintf(w->error, sizeof(w->error), "nothing has come over the network within %g s from %s", timeout_ms / 1000.0, who);
        if (tells && w->rank > 0)
            sleep(AFTER_SECONDS);
    } else {
        snprintf(w->error, sizeof(w->error), "the %d ranks did not come together within %g s: one hangs, or hosts do not reach each other", w->size, timeout_ms / 1000.0);
        return ST_TIMEOUT;
    }
    return tells && w->rank > 0 ? ST_PEER : ST_TIMEOUT;
}

static void warn_of_late(comm_wire *w, MPI_Request *requests, int n_peers, int timeout_ms)
{
    char who[ROLL_TEXT];
    if (roll_late(w->phase, who, sizeof(who)))
        tell_late(who, timeout_ms);
    else if (w->rank == 0 && name_unheard(requests, n_peers, who, sizeof(who)))
        tell("trireme: warn: nothing has come over the network in %d s from %s, and %d s are left; do all hosts reach each other, by the interfaces that MPI uses?\n",
             TELL_MS / 1000, who, (timeout_ms - TELL_MS) / 1000);
}

/* Waits for n_peers requests, each to or from the rank of its number (or null), or, where that is 0, for a collective one. */
static status wait_until(comm_wire *w, MPI_Request *requests, int n_peers, int timeout_ms)
{
    int64_t begin = now_ms(), passed = 0;
    bool warned = w->phase == 0 || timeout_ms < 2 * TELL_MS, marked = w->phase == 0;
    for (int i = 0; passed < timeout_ms; i++) {
        int done = 0;
        status st = from_mpi(w, MPI_Testall(n_peers > 0 ? n_peers : 1, requests, &done, MPI_STATUSES_IGNORE));
        if (st != ST_OK || done)
            return st;
        nap(i < 50 ? 20000 : 200000);
        passed = now_ms() - begin;
        if (!warned && passed >= TELL_MS) {
            warn_of_late(w, requests, n_peers, timeout_ms);
            warned = true;
        }
        if (!marked && passed >= timeout_ms / 2) {
            roll_wait(w->phase);
            marked = true;
        }
    }
    return not_all_came(w, requests, n_peers, timeout_ms);
}

/* The next phase of the start-up, which nobody passes before all have come. */
static void next_phase(comm_wire *w)
{
    roll_come(++w->phase);
}

/* Our waits sleep by themselves, so MPI's own may always yield (with more ranks than cores it must).  Memory of other processes is never
 * read directly: containers refuse it, and ranks of one host do not use MPI for their data. */
static void set_environment(void)
{
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
    setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
}

static void wire_close(comm_wire **wire, bool clean);

/* ---- before any collective call rank 0 hears from each other rank: so it can say whom the network does not reach ---- */

enum { TAG_HELLO = 1, TAG_GO };

static status lead(comm_wire *w, int timeout_ms)
{
    MPI_Request *requests = calloc((size_t)w->size, sizeof(*requests));
    if (requests == NULL) {
        snprintf(w->error, sizeof(w->error), "out of memory");
        return ST_NO_MEMORY;
    }
    requests[0] = MPI_REQUEST_NULL;
    status st = ST_OK;
    for (int r = 1; r < w->size && st == ST_OK; r++)
        st = from_mpi(w, MPI_Irecv(NULL, 0, MPI_BYTE, r, TAG_HELLO, MPI_COMM_WORLD, &requests[r]));
    if (st == ST_OK)
        st = wait_until(w, requests, w->size, timeout_ms);
    for (int r = 1; r < w->size && st == ST_OK; r++)
        st = from_mpi(w, MPI_Isend(NULL, 0, MPI_BYTE, r, TAG_GO, MPI_COMM_WORLD, &requests[r]));
    if (st == ST_OK)
        st = wait_until(w, requests, w->size, timeout_ms);
    free(requests); /* where it failed MPI is never called again */
    return st;
}

static status follow(comm_wire *w, int timeout_ms)
{
    MPI_Request hello, go;
    status st = from_mpi(w, MPI_Irecv(NULL, 0, MPI_BYTE, 0, TAG_GO, MPI_COMM_WORLD, &go));
    if (st == ST_OK)
        st = from_mpi(w, MPI_Isend(NULL, 0, MPI_BYTE, 0, TAG_HELLO, MPI_COMM_WORLD, &hello));
    if (st == ST_OK)
        st = wait_until(w, &go, 1, timeout_ms);
    return st == ST_OK ? wait_until(w, &hello, 1, timeout_ms) : st;
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
    w->phase = ROLL_INIT;
    next_phase(w);
    status met = w->rank == 0 ? lead(w, timeout_ms) : follow(w, timeout_ms);
    if (met != ST_OK)
        return met;
    next_phase(w);
    for (int i = 0; i < COMM_CHANNELS; i++) {
        status st = from_mpi(w, MPI_Comm_idup(MPI_COMM_WORLD, &w->comm[i], &requests[i]));
        if (st == ST_OK)
            st = wait_until(w, &requests[i], 0, timeout_ms);
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
    watchdog_begin(&dog, "MPI_Init", ROLL_INIT, timeout_ms);
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
    w->phase = 0;
    return from_mpi(w, MPI_Ibarrier(w->comm[COMM_CHANNEL_CONTROL], &request)) == ST_OK && wait_until(w, &request, 0, LEAVE_TIMEOUT_MS) == ST_OK;
}

/* Not clean: a peer may be gone, and MPI_Finalize would wait for it.  The launcher sees a process end without it and ends the job. */
static void wire_close(comm_wire **wire, bool clean)
{
    comm_wire *w = *wire;
    *wire = NULL;
    if (clean && all_leave(w)) {
        watchdog dog;
        watchdog_begin(&dog, "MPI_Finalize", 0, FINALIZE_TIMEOUT_MS);
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

static const char *wire_describe(void)
{
    static char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int n = 0;
    if (MPI_Get_library_version(text, &n) != MPI_SUCCESS)
        return "unknown";
    text[strcspn(text, ",\n")] = '\0'; /* the rest says who built it where */
    return text;
}

static status gather_all(comm_wire *w, const void *mine, size_t bytes, void *all, int timeout_ms)
{
    MPI_Request request;
    next_phase(w);
    status st = from_mpi(w, MPI_Iallgather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, w->comm[COMM_CHANNEL_CONTROL], &request));
    return st == ST_OK ? wait_until(w, &request, 0, timeout_ms) : st;
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
    .describe = wire_describe,
    .gather_all = gather_all,
    .send = wire_send,
    .recv = wire_recv,
    .test = wire_test,
    .cancel = wire_cancel,
    .poke = wire_poke,
};
