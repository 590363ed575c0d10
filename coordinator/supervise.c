#include "coordinator/supervise.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"

#define LINE_BYTES 4096
#define LAST_LINES 16

extern char **environ;

double supervise_delay(const supervise_policy *policy, double ran, int *failures)
{
    *failures = ran >= policy->healthy ? 1 : *failures + 1;
    if (*failures > policy->limit)
        return -1;
    double delay = policy->first_delay;
    for (int i = 1; i < *failures && delay < policy->most_delay; i++)
        delay *= 2;
    return delay < policy->most_delay ? delay : policy->most_delay;
}

typedef struct child {
    char *name, **argv, **env; /* env: the whole environment */
    int death_signal;
    supervise_state state;
    bool stopping;  /* by supervise_stop */
    pid_t pid;      /* RUNNING */
    int pipe;       /* its standard output and error; -1: none */
    char line[LINE_BYTES];
    size_t line_len;
    char *last[LAST_LINES]; /* ring; n_lines % LAST_LINES is the next */
    size_t n_lines;
    int failures, starts;
    double started, due;
} child;

struct supervise {
    supervise_options options;
    child **children;
    int n, signal_fd;
    sigset_t blocked, before;
};

static void strings_free(char ***list)
{
    for (char **p = *list; p != NULL && *p != NULL; p++)
        free(*p);
    free(*list);
    *list = NULL;
}

static size_t strings_count(const char *const *list)
{
    size_t n = 0;
    while (list != NULL && list[n] != NULL)
        n++;
    return n;
}

static status strings_append(char **list, size_t *n, const char *text)
{
    list[*n] = strdup(text);
    if (list[*n] == NULL)
        return FAIL(ST_NO_MEMORY, "no memory for a child's arguments");
    (*n)++;
    return ST_OK;
}

static bool sets(const char *const *list, const char *entry)
{
    const char *equals = strchr(entry, '=');
    size_t len = equals != NULL ? (size_t)(equals - entry) + 1 : strlen(entry);
    for (; list != NULL && *list != NULL; list++) {
        if (strncmp(*list, entry, len) == 0)
            return true;
    }
    return false;
}

/* Our environment, what `extra` sets taking the place of what is there. */
static status environment_make(const char *const *extra, char ***out)
{
    size_t n = 0, most = strings_count((const char *const *)environ) + strings_count(extra) + 1;
    TRY(mem_calloc(most, sizeof(**out), "environment", out));
    for (char **p = environ; p != NULL && *p != NULL; p++) {
        if (!sets(extra, *p))
            TRY(strings_append(*out, &n, *p));
    }
    for (; extra != NULL && *extra != NULL; extra++)
        TRY(strings_append(*out, &n, *extra));
    return ST_OK;
}

static void lines_forget(child *c)
{
    for (size_t i = 0; i < LAST_LINES; i++) {
        free(c->last[i]);
        c->last[i] = NULL;
    }
    c->n_lines = c->line_len = 0;
}

static void child_free(child *c)
{
    if (c == NULL)
        return;
    if (c->pipe >= 0)
        close(c->pipe);
    lines_forget(c);
    strings_free(&c->argv);
    strings_free(&c->env);
    free(c->name);
    free(c);
}

/* ---- starting ---- */

/* Between fork and exec: only calls that are safe there.  `report` tells the parent why exec failed. */
static void child_exec(const child *c, const sigset_t *mask, pid_t parent, int out, int report)
{
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, c->death_signal);
    if (getppid() != parent) /* it died before prctl */
        _exit(127);
    int null = open("/dev/null", O_RDONLY);
    if (null >= 0)
        dup2(null, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    dup2(out, STDERR_FILENO);
    sigprocmask(SIG_SETMASK, mask, NULL);
    environ = c->env;
    execvp(c->argv[0], c->argv);
    int why = errno;
    ssize_t ignored = write(report, &why, sizeof(why));
    (void)ignored;
    _exit(127);
}

static status child_launch(supervise *s, child *c)
{
    int out[2], report[2], why = 0;
    if (pipe2(out, O_CLOEXEC) != 0)
        return FAIL(ST_IO, "pipe: %s", strerror(errno));
    if (pipe2(report, O_CLOEXEC) != 0) {
        close(out[0]);
        close(out[1]);
        return FAIL(ST_IO, "pipe: %s", strerror(errno));
    }
    fcntl(out[0], F_SETFL, O_NONBLOCK);
    pid_t parent = getpid(), pid = fork();
    if (pid == 0)
        child_exec(c, &s->before, parent, out[1], report[1]);
    int failed = errno;
    close(out[1]);
    close(report[1]);
    ssize_t told = pid > 0 ? read(report[0], &why, sizeof(why)) : 0; /* ends with exec */
    close(report[0]);
    if (pid < 0 || told > 0) {
        close(out[0]);
        if (pid > 0)
            waitpid(pid, NULL, 0);
        else
            why = failed;
        return FAIL(why == ENOENT ? ST_NOT_FOUND : ST_IO, "cannot start %s: %s", c->argv[0], strerror(why));
    }
    setpgid(pid, pid); /* also here: it may be killed before it got so far */
    if (c->pipe >= 0)
        close(c->pipe);
    lines_forget(c);
    c->pipe = out[0];
    c->pid = pid;
    c->starts++;
    c->started = log_clock();
    c->state = SUPERVISE_RUNNING;
    return ST_OK;
}

static status child_make(const supervise_child *from, child **out)
{
    size_t n = 0;
    TRY(mem_calloc(1, sizeof(**out), "child", out));
    child *c = *out;
    c->pipe = -1;
    c->death_signal = from->death_signal != 0 ? from->death_signal : SIGKILL;
    c->name = strdup(from->name);
    if (c->name == NULL)
        return FAIL(ST_NO_MEMORY, "no memory for a child's name");
    TRY(mem_calloc(strings_count(from->argv) + 1, sizeof(*c->argv), "arguments", &c->argv));
    for (const char *const *p = from->argv; *p != NULL; p++)
        TRY(strings_append(c->argv, &n, *p));
    return environment_make(from->env, &c->env);
}

status supervise_start(supervise *s, const supervise_child *from, int *index)
{
    child *c = NULL;
    child **grown = realloc(s->children, ((size_t)s->n + 1) * sizeof(*grown));
    if (grown == NULL)
        return FAIL(ST_NO_MEMORY, "no memory for a child");
    s->children = grown;
    status st = child_make(from, &c);
    if (st == ST_OK)
        st = child_launch(s, c);
    if (st != ST_OK) {
        child_free(c);
        return st;
    }
    s->children[s->n] = c;
    *index = s->n++;
    return ST_OK;
}

/* ---- lines ---- */

static void line_end(supervise *s, int index)
{
    child *c = s->children[index];
    if (c->line_len > 0 && c->line[c->line_len - 1] == '\r')
        c->line_len--;
    c->line[c->line_len] = '\0';
    if (c->line_len > 0) {
        char **slot = &c->last[c->n_lines++ % LAST_LINES];
        free(*slot);
        *slot = strdup(c->line);
        if (s->options.on_line != NULL)
            s->options.on_line(s->options.arg, index, c->line);
    }
    c->line_len = 0;
}

/* A progress line that is redrawn ends with \r: each state of it counts as a line. */
static void bytes_take(supervise *s, int index, const char *bytes, size_t n)
{
    child *c = s->children[index];
    for (size_t i = 0; i < n; i++) {
        if (bytes[i] == '\n' || bytes[i] == '\r') {
            line_end(s, index);
        } else if (c->line_len < LINE_BYTES - 1) {
            c->line[c->line_len++] = bytes[i];
        }
    }
}

/* What is there, at most 64 KiB so that a child that floods does not keep us. */
static void pipe_read(supervise *s, int index)
{
    char buf[LINE_BYTES];
    child *c = s->children[index];
    for (int i = 0; i < 16 && c->pipe >= 0; i++) {
        ssize_t n = read(c->pipe, buf, sizeof(buf));
        if (n > 0) {
            bytes_take(s, index, buf, (size_t)n);
        } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
            line_end(s, index);
            close(c->pipe);
            c->pipe = -1;
        } else {
            return;
        }
    }
}

/* ---- ends ---- */

static child *child_of(supervise *s, pid_t pid, int *index)
{
    for (int i = 0; i < s->n; i++) {
        if (s->children[i]->state == SUPERVISE_RUNNING && s->children[i]->pid == pid) {
            *index = i;
            return s->children[i];
        }
    }
    return NULL;
}

/* The parent of a process, from /proc/PID/stat; its name, in brackets, may contain anything. */
static pid_t parent_of(const char *pid)
{
    char path[64], text[1024];
    snprintf(path, sizeof(path), "/proc/%.20s/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = '\0';
    const char *name_end = strrchr(text, ')');
    int parent = 0;
    return name_end != NULL && sscanf(name_end + 1, " %*c %d", &parent) == 1 ? parent : 0;
}

/* Kills what a dead child left behind: it became our own child, and nobody started it here. */
static void orphans_kill(supervise *s)
{
    DIR *proc = opendir("/proc");
    pid_t me = getpid();
    int index;
    for (struct dirent *e; proc != NULL && (e = readdir(proc)) != NULL;) {
        if (!isdigit((unsigned char)e->d_name[0]) || parent_of(e->d_name) != me)
            continue;
        pid_t pid = (pid_t)strtol(e->d_name, NULL, 10);
        if (child_of(s, pid, &index) == NULL)
            kill(pid, SIGKILL);
    }
    if (proc != NULL)
        closedir(proc);
}

static void child_ended(supervise *s, int index, int wait_status, supervise_event *out)
{
    child *c = s->children[index];
    pipe_read(s, index);
    kill(-c->pid, SIGKILL); /* the rest of its group */
    *out = (supervise_event){.kind = SUPERVISE_ENDED, .child = index, .delay = -1};
    out->exit_code = WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
    double now = log_clock();
    c->state = SUPERVISE_STOPPED;
    if (c->stopping)
        return;
    out->delay = supervise_delay(&s->options.policy, now - c->started, &c->failures);
    c->state = out->delay < 0 ? SUPERVISE_GIVEN_UP : SUPERVISE_WAITING;
    c->due = now + out->delay;
}

/* Reaps until one of the children is among the dead. */
static bool reap(supervise *s, supervise_event *out)
{
    int wait_status, index;
    for (pid_t pid; (pid = waitpid(-1, &wait_status, WNOHANG)) > 0;) {
        if (child_of(s, pid, &index) == NULL) { /* an orphan, whose own children are ours now */
            orphans_kill(s);
            continue;
        }
        child_ended(s, index, wait_status, out);
        orphans_kill(s);
        return true;
    }
    return false;
}

/* ---- waiting ---- */

static void start_due(supervise *s)
{
    for (int i = 0; i < s->n; i++) {
        child *c = s->children[i];
        if (c->state != SUPERVISE_WAITING || log_clock() < c->due)
            continue;
        if (child_launch(s, c) == ST_OK)
            continue;
        double delay = supervise_delay(&s->options.policy, 0, &c->failures);
        c->state = delay < 0 ? SUPERVISE_GIVEN_UP : SUPERVISE_WAITING;
        c->due = log_clock() + delay;
    }
}

static int wait_ms(const supervise *s, double until)
{
    for (int i = 0; i < s->n; i++) {
        if (s->children[i]->state == SUPERVISE_WAITING && s->children[i]->due < until)
            until = s->children[i]->due;
    }
    double left = (until - log_clock()) * 1000;
    return left <= 0 ? 0 : left > 60000 ? 60000 : (int)left + 1;
}

static bool signal_take(supervise *s, supervise_event *out)
{
    struct signalfd_siginfo info;
    while (read(s->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo == SIGCHLD)
            continue;
        *out = (supervise_event){.kind = SUPERVISE_SIGNAL, .signal = (int)info.ssi_signo};
        return true;
    }
    return false;
}

status supervise_wait(supervise *s, int timeout_ms, supervise_event *out)
{
    double until = log_clock() + timeout_ms / 1000.0;
    struct pollfd *polls;
    TRY(mem_calloc((size_t)s->n + 1, sizeof(*polls), "polls", &polls));
    *out = (supervise_event){.kind = SUPERVISE_NOTHING};
    for (;;) {
        start_due(s);
        for (int i = 0; i < s->n; i++)
            polls[i] = (struct pollfd){.fd = s->children[i]->pipe, .events = POLLIN}; /* -1 is passed over */
        polls[s->n] = (struct pollfd){.fd = s->signal_fd, .events = POLLIN};
        poll(polls, (nfds_t)s->n + 1, wait_ms(s, until));
        for (int i = 0; i < s->n; i++)
            pipe_read(s, i);
        if (signal_take(s, out) || reap(s, out) || log_clock() >= until)
            break;
    }
    free(polls);
    return ST_OK;
}

void supervise_stop(supervise *s, int index, int signal)
{
    child *c = s->children[index];
    c->stopping = true;
    if (c->state == SUPERVISE_RUNNING)
        kill(c->pid, signal);
    else
        c->state = SUPERVISE_STOPPED;
}

void supervise_kill(supervise *s, int index)
{
    child *c = s->children[index];
    supervise_stop(s, index, SIGKILL);
    if (c->state == SUPERVISE_RUNNING)
        kill(-c->pid, SIGKILL);
}

/* ---- life ---- */

status supervise_create(const supervise_options *options, supervise **out)
{
    supervise *s;
    TRY(mem_calloc(1, sizeof(*s), "supervisor", &s));
    s->options = *options;
    sigemptyset(&s->blocked);
    sigaddset(&s->blocked, SIGINT);
    sigaddset(&s->blocked, SIGTERM);
    sigaddset(&s->blocked, SIGHUP);
    sigaddset(&s->blocked, SIGCHLD);
    s->signal_fd = signalfd(-1, &s->blocked, SFD_CLOEXEC | SFD_NONBLOCK);
    if (s->signal_fd < 0 || sigprocmask(SIG_BLOCK, &s->blocked, &s->before) != 0) {
        status st = FAIL(ST_IO, "signals: %s", strerror(errno));
        if (s->signal_fd >= 0)
            close(s->signal_fd);
        free(s);
        return st;
    }
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    *out = s;
    return ST_OK;
}

/* Orphans of orphans come one generation at a time. */
static void kill_all(supervise *s)
{
    for (int i = 0; i < s->n; i++)
        supervise_kill(s, i);
    for (double until = log_clock() + 5; log_clock() < until;) {
        supervise_event e;
        pid_t pid = waitpid(-1, NULL, WNOHANG);
        if (pid < 0)
            return;
        for (int i = 0; pid > 0 && i < s->n; i++) {
            if (s->children[i]->pid == pid)
                s->children[i]->state = SUPERVISE_STOPPED;
        }
        orphans_kill(s);
        if (pid == 0)
            poll(&(struct pollfd){.fd = s->signal_fd, .events = POLLIN}, 1, 20);
        signal_take(s, &e);
    }
}

void supervise_destroy(supervise **sp)
{
    supervise *s = *sp;
    if (s == NULL)
        return;
    kill_all(s);
    for (int i = 0; i < s->n; i++)
        child_free(s->children[i]);
    free(s->children);
    close(s->signal_fd);
    prctl(PR_SET_CHILD_SUBREAPER, 0);
    sigprocmask(SIG_SETMASK, &s->before, NULL);
    free(s);
    *sp = NULL;
}

int supervise_count(const supervise *s)
{
    return s->n;
}

supervise_state supervise_state_of(const supervise *s, int index)
{
    return s->children[index]->state;
}

const char *supervise_name(const supervise *s, int index)
{
    return s->children[index]->name;
}

int supervise_starts(const supervise *s, int index)
{
    return s->children[index]->starts;
}

const char *supervise_last_line(const supervise *s, int index, int i)
{
    const child *c = s->children[index];
    if (i < 0 || i >= LAST_LINES || (size_t)i >= c->n_lines)
        return NULL;
    return c->last[(c->n_lines - 1 - (size_t)i) % LAST_LINES];
}
