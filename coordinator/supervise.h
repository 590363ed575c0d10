/* coordinator/supervise.h - child processes under care: started, listened to, started again, ended, never orphaned.
 *
 *              start                 exit                      after the back-off
 *   (added) ----------> RUNNING -------------------> WAITING ---------------------> RUNNING
 *                          |                            |  too many failures in a row
 *                          | supervise_stop             v
 *                          +-----------> STOPPED      GIVEN_UP
 *
 * Each child leads a process group of its own, so that Ctrl-C in a terminal reaches the supervisor alone; it dies with the supervisor
 * (PR_SET_PDEATHSIG), and what it leaves behind comes to the supervisor (PR_SET_CHILD_SUBREAPER) and is killed.  Lines of a child's standard
 * output and error come to a callback; the last ones are kept, to say what failed.  One thread; nothing but supervise_wait waits. */
#ifndef COORDINATOR_SUPERVISE_H
#define COORDINATOR_SUPERVISE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

/* ---- when to start again: pure ---- */

typedef struct supervise_policy {
    double first_delay, most_delay; /* seconds; doubled from one failure to the next */
    int limit;                      /* failures in a row after which it is given up */
    double healthy;                 /* seconds that a process must run for its end not to count as one more in a row */
} supervise_policy;

/* *failures in a row, before and after this end; ran: seconds since its start.  Returns the seconds to wait, negative: give up. */
double supervise_delay(const supervise_policy *policy, double ran, int *failures);

/* ---- children ---- */

typedef struct supervise supervise;
typedef enum supervise_state { SUPERVISE_STOPPED, SUPERVISE_RUNNING, SUPERVISE_WAITING, SUPERVISE_GIVEN_UP } supervise_state;

typedef struct supervise_options {
    supervise_policy policy;
    /* A line of a child, without its newline, cut at 4 KiB; may be NULL. */
    void (*on_line)(void *arg, int child, const char *line);
    void *arg;
} supervise_options;

/* One at a time in a process: it takes over SIGINT, SIGTERM, SIGHUP and SIGCHLD until it is destroyed. */
status supervise_create(const supervise_options *options, supervise **out);
/* Kills what still runs, at once. */
void supervise_destroy(supervise **s);

typedef struct supervise_child {
    const char *name;        /* all copied */
    const char *const *argv; /* argv[0] is looked for in PATH; ends with NULL */
    const char *const *env;  /* "NAME=value" besides our own; ends with NULL; may be NULL */
    int death_signal;        /* what it gets when the supervisor dies: SIGKILL, or SIGTERM for a launcher that cleans up; 0: SIGKILL */
} supervise_child;
/* Adds and starts.  ST_NOT_FOUND: no such program. */
status supervise_start(supervise *s, const supervise_child *child, int *index);

typedef enum supervise_kind { SUPERVISE_NOTHING, SUPERVISE_ENDED, SUPERVISE_SIGNAL } supervise_kind;
typedef struct supervise_event {
    supervise_kind kind;
    int child;     /* ENDED: whose process ended; supervise_state_of says what comes next */
    int exit_code; /* ENDED: 128 + signal where one killed it */
    double delay;  /* ENDED: seconds until it is started again; negative: it is not */
    int signal;    /* SIGNAL: what we got (SIGINT, SIGTERM or SIGHUP) */
} supervise_event;
/* Waits up to timeout_ms for something to report, passing lines on and starting again what is due. */
status supervise_wait(supervise *s, int timeout_ms, supervise_event *out);

/* Sends signal to a running child, which then is not started again; for one that waits it is the end. */
void supervise_stop(supervise *s, int child, int signal);
/* SIGKILL to its whole group. */
void supervise_kill(supervise *s, int child);

int supervise_count(const supervise *s);
supervise_state supervise_state_of(const supervise *s, int child);
const char *supervise_name(const supervise *s, int child);
/* Starts so far. */
int supervise_starts(const supervise *s, int child);
/* The i-th last line of a child's latest process, 0 the newest; NULL if there is none. */
const char *supervise_last_line(const supervise *s, int child, int i);

#endif
