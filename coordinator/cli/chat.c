/* coordinator/cli/chat.c - `trireme chat`: a conversation with a checkpoint, answers streamed.
 *
 * Rank 0 reads lines from standard input, a terminal or a pipe, alone or under mpirun; the conversation is a list of messages that goes
 * through the checkpoint's chat template at every turn.  When it no longer fits the context its oldest exchange is left out. */
#include <argp.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "coordinator/cli/cli.h"
#include "coordinator/cli/cli_util.h"
#include "coordinator/cli/replica_args.h"
#include "coordinator/cli/sampling_args.h"
#include "coordinator/cli/stats.h"
#include "coordinator/completion.h"

#define DEFAULT_MAX_TOKENS 1024
#define MAX_MESSAGE ((size_t)16 << 20)

typedef struct chat_args {
    cli_replica_args replica;
    char *system;   /* owned once parsed: /system replaces it */
    json_t *fields; /* sampling and limits, as a request names them */
    bool stats;
} chat_args;

enum { OPT_SYSTEM = 0x3000, OPT_STATS };

static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "The conversation:", 1},
    {"system", OPT_SYSTEM, "TEXT", 0, "The system message", 0},
    {"stats", OPT_STATS, NULL, 0, "At start each rank's memory, after each answer its times, on standard error", 0},
    {0},
};

static const char doc[] =
    "Talks with a checkpoint through its chat template, on one process or on the ranks of mpirun or srun."
    "\v"
    "Examples:\n"
    "  trireme chat -m HuggingFaceTB/SmolLM2-135M-Instruct\n"
    "  mpirun -n 4 trireme chat -m model.gguf --tp 2 --pp 2 --system 'Answer in one sentence.'\n"
    "\n"
    "Answers have at most 1024 tokens unless --max-tokens says otherwise.  A line is a message; a line that ends in \\ goes on in the next; a block between two lines of \"\"\" is one message.  Commands:\n"
    "  /reset          forget the conversation (the system message stays)\n"
    "  /system TEXT    set the system message and start anew; without TEXT, remove it\n"
    "  /set NAME VALUE set temperature, top_p, top_k, min_p, max_tokens, seed ...; without VALUE, the default again\n"
    "  /retry          answer the last message again\n"
    "  /stop           while an answer comes: end it there\n"
    "  /help  /exit\n"
    "\n"
    "Ctrl-C ends the answer that is coming; at the prompt, twice, it leaves, as Ctrl-D does.  mpirun takes Ctrl-C for itself and ends the "
    "job: type /stop and Enter there.  Messages and answers may come and go through pipes: only answers are written to standard output.";

static error_t parse(int key, char *arg, struct argp_state *state)
{
    chat_args *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->replica;
        state->child_inputs[1] = a->fields;
        return 0;
    case OPT_SYSTEM:
        a->system = arg;
        return 0;
    case OPT_STATS:
        a->stats = true;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument \"%s\": give the checkpoint with -m", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* ---- lines from standard input, which may also be looked at while an answer comes ---- */

typedef struct input {
    mem_str bytes; /* read and not consumed */
    bool ended;
    bool prompts;  /* a person is there: show a prompt */
} input;

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

/* Reads what is there; waits for it if `wait`.  Returns false when nothing came. */
static bool input_fill(input *in, bool wait)
{
    char buf[4096];
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    if (in->ended || (!wait && poll(&p, 1, 0) <= 0))
        return false;
    ssize_t n = read(STDIN_FILENO, buf, sizeof(buf));
    if (n > 0)
        mem_str_append(&in->bytes, buf, (size_t)n);
    else if (n == 0 || errno != EINTR)
        in->ended = true;
    return n > 0;
}

/* Takes a whole line, without its newline, into `line`; a last one needs no newline. */
static bool input_take(input *in, mem_str *line)
{
    char *newline = in->bytes.len > 0 ? memchr(in->bytes.data, '\n', in->bytes.len) : NULL;
    if (newline == NULL && !(in->ended && in->bytes.len > 0))
        return false;
    size_t n = newline != NULL ? (size_t)(newline - in->bytes.data) : in->bytes.len, skip = n + (newline != NULL);
    mem_str_clear(line);
    mem_str_append(line, in->bytes.data, n > 0 && in->bytes.data[n - 1] == '\r' ? n - 1 : n);
    memmove(in->bytes.data, in->bytes.data + skip, in->bytes.len - skip);
    in->bytes.len -= skip;
    return true;
}

/* The next line; false at the end, or when Ctrl-C was pressed twice. */
static bool input_line(input *in, const char *prompt, mem_str *line)
{
    bool shown = false;
    for (int presses = 0; !input_take(in, line);) {
        if (in->ended || in->bytes.failed)
            return false;
        if (in->prompts && !shown)
            fputs(prompt, stderr);
        shown = true;
        input_fill(in, true);
        if (!interrupted)
            continue;
        interrupted = 0;
        mem_str_clear(&in->bytes);
        if (++presses == 2)
            return false;
        if (in->prompts)
            fprintf(stderr, "\n(Ctrl-C again, Ctrl-D or /exit leaves)\n%s", prompt);
    }
    return !line->failed;
}

/* Whether the next line that waits is /stop; takes it if so. */
static bool input_stop(input *in)
{
    while (input_fill(in, false))
        continue;
    if (in->bytes.len < 5 || memcmp(in->bytes.data, "/stop", 5) != 0 || (in->bytes.len > 5 && in->bytes.data[5] != '\n'))
        return false;
    mem_str line = {0};
    bool taken = input_take(in, &line);
    mem_str_free(&line);
    return taken;
}

static const char *text_of(const mem_str *s)
{
    return s->data == NULL ? "" : s->data;
}

/* A message: a line, lines that end in \, or a block between """ and """. */
static bool input_message(input *in, mem_str *message)
{
    mem_str line = {.limit = MAX_MESSAGE};
    bool more = input_line(in, "> ", &line), block = more && strcmp(text_of(&line), "\"\"\"") == 0;
    mem_str_clear(message);
    while (block && input_line(in, ". ", &line) && strcmp(text_of(&line), "\"\"\"") != 0)
        mem_str_printf(message, "%s%s", message->len > 0 ? "\n" : "", text_of(&line));
    while (more && !block) {
        bool goes_on = line.len > 0 && line.data[line.len - 1] == '\\';
        mem_str_append(message, text_of(&line), line.len - goes_on);
        if (!goes_on || !input_line(in, ". ", &line))
            break;
        mem_str_putc(message, '\n');
    }
    mem_str_free(&line);
    return more && !message->failed;
}

/* ---- the conversation ---- */

typedef struct chat {
    cli_replica *cr;
    chat_args *args;
    input in;
    json_t *messages;
    coord_completion_defaults defaults;
    coord_completion *answer; /* under way */
    mem_str text;             /* of it, so far */
    cli_answer_times times;
    uint64_t n_answers;
    bool ended;
    status failed;
} chat;

static void conversation_reset(chat *c)
{
    json_array_clear(c->messages);
    if (c->args->system != NULL && *c->args->system != '\0')
        json_array_append_new(c->messages, json_pack("{ssss}", "role", "system", "content", c->args->system));
}

static void message_add(chat *c, const char *role, const char *text, size_t len)
{
    json_t *content = json_stringn(text, len);
    if (content == NULL) /* not UTF-8 */
        content = json_string("");
    json_array_append_new(c->messages, json_pack("{ssso}", "role", role, "content", content));
}

static bool last_is_from(const chat *c, const char *role)
{
    size_t n = json_array_size(c->messages);
    const char *last = n == 0 ? NULL : json_string_value(json_object_get(json_array_get(c->messages, n - 1), "role"));
    return last != NULL && strcmp(last, role) == 0;
}

static void on_event(void *arg, const coord_event *e)
{
    chat *c = arg;
    bool cancel = false;
    size_t n;
    if (e->prompt || c->ended)
        return;
    cli_answer_token(&c->times);
    status st = coord_completion_event(c->answer, e, &c->ended, &cancel);
    if (st != ST_OK)
        c->failed = st;
    if (cancel)
        coord_replica_cancel(c->cr->replica, e->id);
    const char *text = coord_completion_take_text(c->answer, &n);
    fwrite(text, 1, n, stdout);
    fflush(stdout);
    mem_str_append(&c->text, text, n);
}

/* The oldest exchange goes: from the first user message up to the next.  false: there is only one. */
static bool drop_oldest(chat *c)
{
    size_t n = json_array_size(c->messages), first = n, second = n;
    for (size_t i = n; i-- > 0;) {
        const char *role = json_string_value(json_object_get(json_array_get(c->messages, i), "role"));
        if (role != NULL && strcmp(role, "user") == 0) {
            second = first;
            first = i;
        }
    }
    if (second == n)
        return false;
    for (size_t i = first; i < second; i++)
        json_array_remove(c->messages, first);
    return true;
}

/* The request for the conversation as it stands; its oldest exchanges are left out until it fits. */
static status make_request(chat *c)
{
    for (bool told = false;; told = true) {
        json_t *o = json_copy(c->args->fields);
        json_object_set(o, "messages", c->messages);
        bool may_shrink = json_array_size(c->messages) > 1;
        if (may_shrink)
            status_mute();
        status st = coord_completion_parse("chat", o, c->n_answers, &c->defaults, coord_replica_checkpoint(c->cr->replica), &c->answer);
        if (may_shrink)
            status_unmute();
        json_decref(o);
        if (st != ST_LIMIT || !drop_oldest(c)) {
            if (st != ST_OK && may_shrink)
                log_error("%s", status_message());
            return st;
        }
        if (!told)
            log_warn("the conversation is longer than the context: its oldest part is left out");
    }
}

/* Answers the last message.  Failures of the request are told and the conversation goes on; those of the replica end it. */
static status answer(chat *c)
{
    interrupted = 0;
    c->ended = false;
    mem_str_clear(&c->text);
    status st = make_request(c);
    if (st != ST_OK)
        return ST_OK;
    const coord_request *q = coord_completion_request(c->answer);
    cli_answer_begin(&c->times, q->n_prompt);
    st = coord_replica_submit(c->cr->replica, q);
    bool stopped = false;
    while (st == ST_OK && !c->ended && !stopped) {
        bool idle;
        st = coord_replica_run(c->cr->replica, on_event, c, &idle);
        if (st == ST_OK)
            st = c->failed;
        stopped = interrupted || input_stop(&c->in);
        if (st == ST_OK && idle && !c->ended)
            st = FAIL(ST_INTERNAL, "the answer waits for ever");
    }
    if (stopped && !c->ended)
        coord_replica_cancel(c->cr->replica, c->n_answers);
    interrupted = 0;
    c->n_answers++;
    coord_completion_destroy(&c->answer);
    putchar('\n');
    fflush(stdout);
    if (c->args->stats)
        cli_answer_show(&c->times);
    message_add(c, "assistant", text_of(&c->text), c->text.len);
    return st;
}

/* ---- commands ---- */

static void command_set(chat *c, const char *rest)
{
    char name[64];
    int used = 0;
    if (sscanf(rest, "%63s %n", name, &used) != 1) {
        char *line = json_line(c->args->fields);
        fprintf(stderr, "%s\n", line == NULL ? "" : line);
        free(line);
        return;
    }
    if (rest[used] == '\0') {
        json_object_del(c->args->fields, name);
        return;
    }
    json_t *v = json_loads(rest + used, JSON_DECODE_ANY, NULL), *before = json_incref(json_object_get(c->args->fields, name));
    json_object_set_new(c->args->fields, name, v != NULL ? v : json_string(rest + used));
    /* Tried on a small request, so that a mistake is told now. */
    json_t *o = json_copy(c->args->fields);
    json_object_set_new(o, "prompt_ids", json_pack("[i]", 0));
    coord_completion *trial = NULL;
    if (coord_completion_parse("/set", o, 0, &c->defaults, coord_replica_checkpoint(c->cr->replica), &trial) != ST_OK) {
        if (before != NULL)
            json_object_set(c->args->fields, name, before);
        else
            json_object_del(c->args->fields, name);
    }
    coord_completion_destroy(&trial);
    json_decref(before);
    json_decref(o);
}

static status command_retry(chat *c)
{
    if (last_is_from(c, "assistant"))
        json_array_remove(c->messages, json_array_size(c->messages) - 1);
    if (last_is_from(c, "user"))
        return answer(c);
    log_warn("there is no message to answer");
    return ST_OK;
}

static bool is_command(const char *text, const char *name, const char **rest)
{
    size_t n = strlen(name);
    if (strncmp(text, name, n) != 0 || (text[n] != '\0' && text[n] != ' '))
        return false;
    *rest = text + n + strspn(text + n, " ");
    return true;
}

/* A line that begins with / (two of them: a message that begins with one). */
static status command(chat *c, const char *text, bool *leave)
{
    const char *rest;
    if (is_command(text, "/exit", &rest) || is_command(text, "/quit", &rest)) {
        *leave = true;
    } else if (is_command(text, "/reset", &rest)) {
        conversation_reset(c);
    } else if (is_command(text, "/system", &rest)) {
        free(c->args->system);
        c->args->system = strdup(rest);
        conversation_reset(c);
    } else if (is_command(text, "/set", &rest)) {
        command_set(c, rest);
    } else if (is_command(text, "/retry", &rest)) {
        return command_retry(c);
    } else if (is_command(text, "/help", &rest)) {
        fputs(strstr(doc, "A line is a message"), stderr);
        fputc('\n', stderr);
    } else if (!is_command(text, "/stop", &rest)) { /* a /stop that came late is no mistake */
        log_warn("no command \"%.40s\": /help lists them; begin with // for a message that begins with /", text);
    }
    return ST_OK;
}

static status converse(chat *c)
{
    mem_str message = {.limit = MAX_MESSAGE};
    status st = ST_OK;
    bool leave = false;
    while (st == ST_OK && !leave && input_message(&c->in, &message)) {
        const char *text = text_of(&message);
        if (text[strspn(text, " \t\n")] == '\0')
            continue;
        if (text[0] == '/' && text[1] != '/') {
            st = command(c, text, &leave);
            continue;
        }
        size_t skip = text[0] == '/';
        message_add(c, "user", text + skip, message.len - skip);
        st = answer(c);
        if (!last_is_from(c, "assistant")) /* refused: as if it had not been said */
            json_array_remove(c->messages, json_array_size(c->messages) - 1);
    }
    if (message.failed)
        st = FAIL(ST_LIMIT, "a message is longer than %zu MiB", MAX_MESSAGE >> 20);
    mem_str_free(&message);
    if (c->in.prompts && !leave)
        fputc('\n', stderr);
    return st;
}

static status chat_run(cli_replica *cr, chat_args *a)
{
    const shard_template *template;
    const json_t *variables;
    int n, rank;
    TRY(shard_checkpoint_template(coord_replica_checkpoint(cr->replica), &template, &variables));
    chat c = {.cr = cr, .args = a, .messages = json_array()};
    c.defaults = (coord_completion_defaults){DEFAULT_MAX_TOKENS, coord_replica_max_context(cr->replica), false};
    /* Under mpirun standard input is a pipe even when a person types: who has nothing to say yet is taken for one. */
    struct pollfd stdin_poll = {.fd = STDIN_FILENO, .events = POLLIN};
    c.in.prompts = isatty(STDIN_FILENO) || (comm_launched(&n, &rank) && poll(&stdin_poll, 1, 300) == 0);
    c.in.bytes.limit = MAX_MESSAGE;
    struct sigaction act = {.sa_handler = on_interrupt}, before; /* no SA_RESTART: read returns */
    sigemptyset(&act.sa_mask);
    sigaction(SIGINT, &act, &before);
    if (a->stats)
        cli_ranks_show(cr);
    if (c.in.prompts)
        fputs("/help explains, /exit leaves\n", stderr);
    conversation_reset(&c);
    status st = converse(&c);
    sigaction(SIGINT, &before, NULL);
    json_decref(c.messages);
    mem_str_free(&c.in.bytes);
    mem_str_free(&c.text);
    return st;
}

int cli_chat(int argc, char **argv)
{
    chat_args a = {.fields = json_object()};
    struct argp_child children[] = {{&cli_replica_argp, 0, NULL, 0}, {&cli_sampling_argp, 0, NULL, 0}, {0}};
    struct argp argp = {options, parse, NULL, doc, children, NULL, NULL};
    cli_parse(&argp, argc, argv, &a);
    a.system = a.system == NULL ? NULL : strdup(a.system);
    cli_replica cr;
    bool done;
    int code;
    cli_replica_start(&a.replica, &cr, &done, &code);
    if (!done)
        code = cli_finish_output(cli_replica_finish(&cr, chat_run(&cr, &a)));
    free(a.system);
    json_decref(a.fields);
    return code;
}
