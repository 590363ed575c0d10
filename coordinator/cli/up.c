/* coordinator/cli/up.c - `trireme up`: a gateway and its replicas on this machine, under one roof.
 *
 *   trireme up ---+--- trireme gateway        HTTP; replicas come over a socket in a private folder, with keys made for this run
 *                 +--- mpirun trireme replica     (or plain, on one rank), as often as --replicas says
 *
 * Until all are ready a process that fails ends the command, with its reason in one line; afterwards it is started again (supervise.h). */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/threads.h"
#include "comm/wire/wire.h"
#include "coordinator/cli/cli.h"
#include "coordinator/cli/cli_util.h"
#include "coordinator/cli/command.h"
#include "coordinator/cli/config.h"
#include "coordinator/cli/up_args.h"
#include "coordinator/cli/up_service.h"
#include "coordinator/gateway/auth.h"
#include "coordinator/supervise.h"
#include "shard/checkpoint.h"

#define MEMORY_SHARE 0.85 /* as in a replica that has the machine for itself */
#define SHOWN_LINES 6     /* of a process that failed without a reason */

typedef struct up {
    const cli_up_args *args;
    supervise *children;
    up_folder folder;
    char *keys, *key_file, *socket, *program;
    char api_key[AUTH_KEY_TEXT];
    const char *key; /* api_key or the one given */
    mem_str address, url;
    int32_t port;
    int gateway;
    int complaining; /* a child that said what is wrong, -1: none */
    bool ready;
    mem_str held;    /* complaints while starting: told in one line should it fail, in full should it not */
} up;

static int n_ranks(const up *u)
{
    return u->args->tp * u->args->pp;
}

/* ---- before anything is started ---- */

/* What a person may have got wrong is told here rather than by a child: the checkpoint, the port, mpirun. */
static status check(up *u)
{
    const cli_up_args *a = u->args;
    shard_checkpoint *checkpoint = NULL;
    shard_open_options open = {.revision = a->revision, .offline = a->offline};
    TRY(shard_checkpoint_open(a->model, &open, &checkpoint));
    shard_checkpoint_close(&checkpoint);
    u->port = a->port;
    TRY(up_port_check(a->host, &u->port));
    char *mpirun = up_program_find("mpirun");
    bool found = mpirun != NULL;
    free(mpirun);
    if (n_ranks(u) > 1 && !found)
        return FAIL(ST_NOT_FOUND, "mpirun is not installed, and --tp %d --pp %d are %d ranks: install openmpi-bin, or use one rank", a->tp, a->pp, n_ranks(u));
    return ST_OK;
}

static status key_make(up *u)
{
    auth_limits none = {0};
    u->key = u->args->api_key != NULL ? u->args->api_key : u->api_key;
    if (u->args->api_key != NULL)
        return auth_file_set(u->key_file, "up", &none, true, u->args->api_key);
    return auth_file_add(u->key_file, "up", &none, true, u->api_key);
}

static status text_make(char **out, const char *format, ...) __attribute__((format(printf, 2, 3)));
static status text_make(char **out, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vasprintf(out, format, args);
    va_end(args);
    if (n < 0)
        *out = NULL;
    return n < 0 ? FAIL(ST_NO_MEMORY, "no memory for a name") : ST_OK;
}

static status prepare(up *u)
{
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (n <= 0)
        return FAIL(ST_IO, "cannot find the program itself: %s", strerror(errno));
    self[n] = '\0';
    TRY(text_make(&u->program, "%s", self));
    TRY(up_folder_create(&u->folder));
    TRY(text_make(&u->keys, "%s/keys", u->folder.path));
    TRY(text_make(&u->key_file, "%s/api-keys", u->folder.path));
    TRY(text_make(&u->socket, "ipc://%s/replicas", u->folder.path));
    TRY(wire_keys_dir_create(u->keys));
    TRY(key_make(u));
    up_address(u->args->host, u->port, &u->address);
    up_url(u->args->host, u->port, u->args->tls, &u->url);
    return u->address.failed || u->url.failed ? FAIL(ST_NO_MEMORY, "no memory for an address") : ST_OK;
}

/* ---- starting ---- */

static void words_forward(command_words *w, const cli_forward *f)
{
    for (int i = 0; i < f->n; i++)
        command_word(w, f->of[i]);
}

/* The file that we read, so that they read the same. */
static void words_config(command_words *w)
{
    if (cli_config_current()->path != NULL)
        command_words_of(w, (const char *[]){"--config", cli_config_current()->path, NULL});
}

static status gateway_start(up *u)
{
    command_words w = {0};
    char drain[64];
    snprintf(drain, sizeof(drain), "%.3f", u->args->drain_seconds);
    command_words_of(&w, (const char *[]){u->program, "gateway", NULL});
    words_config(&w);
    words_forward(&w, &u->args->gateway);
    command_words_of(&w, (const char *[]){"--listen", u->address.data, "--replicas", u->socket, "--keys", u->keys, "--api-keys", u->key_file, "--drain", drain, NULL});
    status st = w.failed ? FAIL(ST_NO_MEMORY, "no memory for arguments")
                         : supervise_start(u->children, &(supervise_child){.name = "gateway", .argv = w.of}, &u->gateway);
    free(w.of);
    return st;
}

/* Replicas of one machine share it: each would otherwise take all of it. */
static void shares(const up *u, command_words *w, char threads[32], char memory[32])
{
    int total = u->args->replicas * n_ranks(u), cores = threads_cores_granted();
    if (u->args->replicas == 1)
        return;
    snprintf(threads, 32, "--threads=%d", cores > total ? cores / total : 1);
    snprintf(memory, 32, "--memory=%.0f", (double)mem_available() * MEMORY_SHARE / total);
    if (!u->args->threads_given)
        command_word(w, threads);
    if (!u->args->memory_given)
        command_word(w, memory);
}

static status replica_start(up *u, int i, const command_words *share, const command_words *env)
{
    command_words w = {0};
    char name[32], ranks[16];
    int index;
    snprintf(name, sizeof(name), "replica-%d", i);
    snprintf(ranks, sizeof(ranks), "%d", n_ranks(u));
    if (n_ranks(u) > 1) /* by its name: called as /bin/mpirun it takes "/" for the prefix of its installation, and refuses */
        command_words_of(&w, (const char *[]){"mpirun", "--quiet", "-n", ranks, NULL});
    command_words_of(&w, (const char *[]){u->program, "replica", NULL});
    words_config(&w);
    if (share->n > 0)
        command_words_of(&w, share->of);
    words_forward(&w, &u->args->replica);
    command_words_of(&w, (const char *[]){"--gateway", u->socket, "--name", name, "--keys", u->keys, NULL});
    supervise_child child = {.name = name, .argv = w.of, .env = env->of, .death_signal = n_ranks(u) > 1 ? SIGTERM : SIGKILL};
    status st = w.failed || env->failed || share->failed ? FAIL(ST_NO_MEMORY, "no memory for arguments") : supervise_start(u->children, &child, &index);
    free(w.of);
    return st;
}

static status start(up *u)
{
    command_words share = {0}, env = {0};
    char threads[32], memory[32];
    status st = gateway_start(u);
    shares(u, &share, threads, memory);
    command_mpi_environment(u->args->replicas * n_ranks(u), &env);
    for (int i = 0; st == ST_OK && i < u->args->replicas; i++)
        st = replica_start(u, i, &share, &env);
    free(share.of);
    free(env.of);
    return st;
}

/* ---- what children say ---- */

/* Where the reason begins in a line that complains: what our logs call an error, or what argp says of a command line; NULL: it does not. */
static const char *complaint_in(const char *line)
{
    static const char log_mark[] = "error: ", *const commands[] = {"trireme gateway", "trireme replica"};
    const char *at = strstr(line, log_mark);
    if (at != NULL)
        return at + strlen(log_mark);
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        size_t n = strlen(commands[i]);
        if (strncmp(line, commands[i], n) == 0 && (line[n] == ':' || strncmp(line + n, " (", 2) == 0))
            return line[n] == ':' ? line + n + 2 : line + n + 1;
    }
    return NULL;
}

/* For a person at a terminal, as our own lines are there: without the time and the program's name. */
static const char *brief(const char *line)
{
    int n = 0;
    if (isatty(STDERR_FILENO) && sscanf(line, "%*4d-%*2d-%*2dT%*2d:%*2d:%*2d.%*3dZ trireme: %n", &n) == 0 && n > 0)
        return line + n;
    return line;
}

static void on_line(void *arg, int child, const char *line)
{
    up *u = arg;
    const char *name = child < supervise_count(u->children) ? supervise_name(u->children, child) : "";
    if (complaint_in(line) != NULL)
        u->complaining = child;
    if (!u->ready && u->complaining == child) /* and what follows: usually the end */
        mem_str_printf(&u->held, "%s | %s\n", name, brief(line));
    else
        fprintf(stderr, "%s | %s\n", name, brief(line));
}

/* The reason that a process gave: the last line that complains. */
static const char *reason_of(const up *u, int child)
{
    const char *line, *at = NULL;
    for (int i = 0; at == NULL && (line = supervise_last_line(u->children, child, i)) != NULL; i++)
        at = complaint_in(line);
    return at;
}

static void how_it_ended(int code, char text[96])
{
    if (code > 128)
        snprintf(text, 96, "was killed by signal %d (%s)%s", code - 128, strsignal(code - 128), code == 128 + SIGKILL ? ", perhaps for want of memory" : "");
    else
        snprintf(text, 96, "ended with exit code %d", code);
}

/* One line: who, how, why; without a reason of its own, its last lines. */
static void tell_failure(const up *u, const supervise_event *e, const char *then)
{
    char how[96];
    const char *name = supervise_name(u->children, e->child), *reason = reason_of(u, e->child), *line;
    how_it_ended(e->exit_code, how);
    if (reason != NULL) {
        log_error("%s %s%s: %s", name, how, then, reason);
        return;
    }
    log_error("%s %s%s; its last lines:", name, how, then);
    for (int i = SHOWN_LINES - 1; i >= 0; i--) {
        if ((line = supervise_last_line(u->children, e->child, i)) != NULL)
            fprintf(stderr, "%s | %s\n", name, line);
    }
}

/* ---- until it is ready ---- */

static void show_json(const up *u, const char *model)
{
    json_t *o = json_pack("{ssssss}", "url", u->url.data, "api_key", u->key, "model", model);
    char *line = o != NULL ? json_line(o) : NULL;
    printf("%s\n", line != NULL ? line : "");
    free(line);
    json_decref(o);
}

static void show_words(const up *u, const char *model)
{
    mem_str header = {0}, body = {0};
    json_t *o = json_pack("{sss[{ssss}]sb}", "model", model, "messages", "role", "user", "content", "Say hello.", "stream", 1);
    char *line = o != NULL ? json_line(o) : NULL, *text = NULL;
    if (asprintf(&text, "Authorization: Bearer %s", u->key) < 0)
        text = NULL;
    up_quote(text != NULL ? text : "", &header);
    up_quote(line != NULL ? line : "", &body);
    printf("%s is served\n\n  URL      %s\n  API key  %s\n  page     %s/#key=%s\n\n"
           "  curl -N%s %s/v1/chat/completions -H %s -H 'Content-Type: application/json' -d %s\n\n"
           "Ctrl-C ends it; answers under way are finished first.\n",
           model, u->url.data, u->key, u->url.data, u->key, u->args->tls ? "k" : "", u->url.data, header.data, body.data);
    mem_str_free(&header);
    mem_str_free(&body);
    free(text);
    free(line);
    json_decref(o);
}

static int became_ready(up *u, const char *model)
{
    u->ready = true;
    if (u->held.len > 0)
        fputs(u->held.data, stderr);
    mem_str_free(&u->held);
    if (u->args->json)
        show_json(u, model);
    else
        show_words(u, model);
    return cli_finish_output(0);
}

/* Whether a process that ended while starting may be tried again: one that was killed may, one that said why or exited by itself would only do
 * so again. */
static bool worth_a_retry(const supervise_event *e)
{
    return e->exit_code > 128 && e->delay >= 0;
}

typedef enum outcome { GO_ON, FAILED, DRAIN, END_NOW } outcome;

static outcome starting(up *u, int *code)
{
    for (double until = log_clock() + u->args->start_seconds; log_clock() < until;) {
        supervise_event e;
        up_readiness r;
        if (supervise_wait(u->children, 200, &e) != ST_OK || up_ready_ask(u->url.data, u->key, &r) != ST_OK)
            return FAILED;
        bool all = r.model != NULL && r.ready >= u->args->replicas;
        int shown = all ? became_ready(u, r.model) : 0;
        free(r.model);
        if (all) {
            *code = shown;
            return shown == 0 ? GO_ON : FAILED;
        }
        if (e.kind == SUPERVISE_SIGNAL) {
            *code = 1;
            return END_NOW; /* nothing is under way that could be finished */
        }
        if (e.kind != SUPERVISE_ENDED)
            continue;
        bool again = worth_a_retry(&e);
        tell_failure(u, &e, again ? " and is started again" : "");
        if (!again) {
            *code = e.exit_code == 2 ? 2 : 1;
            return FAILED;
        }
    }
    log_error("not all replicas are ready after %.0f s (--start-timeout)", u->args->start_seconds);
    *code = 1;
    return FAILED;
}

/* ---- afterwards ---- */

/* With the gateway, or the last of the replicas, given up there is no service. */
static bool lost(const up *u)
{
    int alive = 0;
    for (int i = 0; i < supervise_count(u->children); i++) {
        bool given_up = supervise_state_of(u->children, i) == SUPERVISE_GIVEN_UP;
        if (i == u->gateway && given_up)
            return true;
        alive += i != u->gateway && !given_up;
    }
    return alive == 0;
}

static outcome serving(up *u, int *code)
{
    for (;;) {
        supervise_event e;
        char then[64] = " and is given up";
        if (supervise_wait(u->children, 60000, &e) != ST_OK) {
            *code = 1;
            return DRAIN;
        }
        if (e.kind == SUPERVISE_SIGNAL)
            return DRAIN;
        if (e.kind != SUPERVISE_ENDED)
            continue;
        if (e.delay >= 0)
            snprintf(then, sizeof(then), " and is started again in %.1f s", e.delay);
        tell_failure(u, &e, then);
        if (lost(u)) {
            log_error("nothing is left to serve with: ending");
            *code = 1;
            return DRAIN;
        }
    }
}

/* Waits until the children from `first` to `last` have ended; false: time is up, or a second signal came (*hurry). */
static bool wait_ended(up *u, int first, int last, double seconds, bool *hurry)
{
    for (double until = log_clock() + seconds; !*hurry && log_clock() < until;) {
        supervise_event e;
        int running = 0;
        for (int i = first; i <= last; i++)
            running += supervise_state_of(u->children, i) == SUPERVISE_RUNNING;
        if (running == 0)
            return true;
        *hurry = supervise_wait(u->children, 100, &e) != ST_OK || e.kind == SUPERVISE_SIGNAL;
    }
    return false;
}

/* The gateway first: it refuses what is new and finishes what it has.  Only then the replicas, which have nothing to do any more. */
static int drain(up *u)
{
    bool hurry = false, clean;
    int n = supervise_count(u->children);
    log_info("draining: answers under way are finished; Ctrl-C again ends at once");
    supervise_stop(u->children, u->gateway, SIGTERM);
    clean = wait_ended(u, u->gateway, u->gateway, u->args->drain_seconds + 5, &hurry);
    for (int i = 0; i < n; i++) {
        if (i != u->gateway)
            supervise_stop(u->children, i, SIGTERM);
    }
    if (!clean)
        supervise_kill(u->children, u->gateway);
    if (!hurry)
        wait_ended(u, 0, n - 1, 10, &hurry);
    if (!clean)
        log_warn(hurry ? "ended before all answers were finished" : "answers that were not finished in time were cut off");
    return clean ? 0 : 1;
}

static int run(up *u)
{
    int code = 0;
    supervise_options o = {.policy = {.first_delay = 0.5, .most_delay = 30, .limit = u->args->restart_limit, .healthy = 60}, .on_line = on_line, .arg = u};
    status st = supervise_create(&o, &u->children);
    if (st == ST_OK)
        st = start(u);
    if (st != ST_OK)
        return status_exit_code(st);
    outcome next = starting(u, &code);
    if (next == GO_ON)
        next = serving(u, &code);
    if (next == DRAIN) {
        int cut = drain(u);
        code = code != 0 ? code : cut;
    }
    return code;
}

int cli_up(int argc, char **argv)
{
    cli_up_args args;
    cli_up_parse(argc, argv, &args);
    up u = {.args = &args, .complaining = -1, .held = {.limit = (size_t)1 << 20}};
    status st = check(&u);
    if (st == ST_OK)
        st = prepare(&u);
    int code = st == ST_OK ? run(&u) : status_exit_code(st);
    supervise_destroy(&u.children); /* whatever still runs is killed */
    up_folder_remove(&u.folder);
    explicit_bzero(u.api_key, sizeof(u.api_key));
    char *owned[] = {u.keys, u.key_file, u.socket, u.program};
    for (size_t i = 0; i < ARRAY_LEN(owned); i++)
        free(owned[i]);
    mem_str_free(&u.address);
    mem_str_free(&u.url);
    mem_str_free(&u.held);
    cli_up_args_free(&args);
    return code;
}
