/* trireme generate: many prompts from a file, or one prompt streamed to a person. */
#include <argp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "coordinator/cli/cli.h"
#include "coordinator/cli/cli_util.h"
#include "coordinator/cli/replica_args.h"
#include "coordinator/completion.h"

#define MAX_LINE ((size_t)64 << 20)
#define DEFAULT_MAX_TOKENS 256

typedef struct generate_args {
    cli_replica_args replica;
    const char *prompts, *prompt;
    bool json;
    json_t *fields; /* of --prompt: what options set */
} generate_args;

enum { OPT_PROMPTS = 0x2000, OPT_JSON, OPT_MAX_TOKENS, OPT_TEMPERATURE, OPT_SEED, OPT_CHAT };

static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "What to generate:", 1},
    {"prompt", 'p', "TEXT", 0, "One prompt, whose continuation is streamed as plain text", 0},
    {"chat", OPT_CHAT, NULL, 0, "Send --prompt as a user's message through the chat template", 0},
    {"prompts", OPT_PROMPTS, "FILE|-", 0, "One JSON object a line: {\"prompt\": ...}, see below", 0},
    {"json", OPT_JSON, NULL, 0, "One line of JSON for each prompt, in the order of the input", 0},
    {"max-tokens", 'n', "N", 0, "Most tokens of an answer (for --prompt; default 256)", 0},
    {"temperature", OPT_TEMPERATURE, "X", 0, "0 = greedy (for --prompt; default: the checkpoint's, else 1)", 0},
    {"seed", OPT_SEED, "N", 0, "Seed of the sampling noise (for --prompt; default: drawn)", 0},
    {0},
};

static const char doc[] =
    "Continues prompts with a checkpoint, on one process or on the ranks of mpirun or srun.\v"
    "Examples:\n"
    "  trireme generate -m ./SmolLM2-135M-Instruct -p 'The capital of France is'\n"
    "  mpirun -n 4 trireme generate -m model.gguf --tp 2 --pp 2 --chat -p 'Why is the sky blue?'\n"
    "  trireme generate -m model.gguf --prompts prompts.jsonl --json > answers.jsonl\n"
    "\n"
    "A line of prompts holds one of \"prompt\" (text), \"prompt_ids\" (token ids) or \"messages\" (+ \"tools\", \"documents\"), and may hold id, max_tokens, "
    "min_tokens, temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty, logit_bias, seed, stop, stop_token_ids, "
    "ignore_eos, logprobs, prompt_logprobs.  Answers come as {\"id\", \"prompt_ids\", \"token_ids\", \"text\", \"finish_reason\", \"logits_hash\", "
    "\"logprobs\", \"prompt_logprobs\"}; log-probabilities are of the full softmax before temperature and truncation.  A line that is wrong ends the run "
    "with exit code 2 and a message that names it; the answers before it have been written.";

static void set_number(struct argp_state *state, json_t *fields, const char *name, const char *arg, bool whole)
{
    char *end;
    double v = strtod(arg, &end);
    if (*arg == '\0' || *end != '\0')
        argp_error(state, "--%s %s: a number is needed", name, arg);
    char key[32];
    snprintf(key, sizeof(key), "%s", name);
    for (char *c = key; *c != '\0'; c++)
        *c = *c == '-' ? '_' : *c;
    json_object_set_new(fields, key, whole ? json_integer((json_int_t)v) : json_real(v));
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    generate_args *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->replica;
        return 0;
    case 'p':
        a->prompt = arg;
        return 0;
    case OPT_CHAT:
        json_object_set_new(a->fields, "chat", json_true());
        return 0;
    case OPT_PROMPTS:
        a->prompts = arg;
        return 0;
    case OPT_JSON:
        a->json = true;
        return 0;
    case 'n':
        set_number(state, a->fields, "max-tokens", arg, true);
        return 0;
    case OPT_TEMPERATURE:
        set_number(state, a->fields, "temperature", arg, false);
        return 0;
    case OPT_SEED:
        set_number(state, a->fields, "seed", arg, true);
        return 0;
    case ARGP_KEY_END:
        if ((a->prompt == NULL) == (a->prompts == NULL))
            argp_error(state, "give either --prompt TEXT or --prompts FILE");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* Requests under way, in the order of the input: a ring of `cap`. */
typedef struct run {
    coord_replica *replica;
    coord_completion_defaults defaults;
    coord_completion **ring;
    uint64_t cap, first, next; /* numbers [first, next) are under way */
    bool json, stream;
    status failed; /* of an event */
} run;

static void on_event(void *arg, const coord_event *e)
{
    run *r = arg;
    coord_completion *c = r->ring[e->id % r->cap];
    bool ended, cancel;
    status st = coord_completion_event(c, e, &ended, &cancel);
    if (st != ST_OK) {
        log_error("%s", status_message());
        r->failed = st;
    }
    if (cancel)
        coord_replica_cancel(r->replica, e->id);
    if (r->stream) {
        size_t n;
        const char *text = coord_completion_take_text(c, &n);
        fwrite(text, 1, n, stdout);
        fflush(stdout);
    }
}

static status submit(run *r, const char *where, const json_t *object)
{
    coord_completion *c;
    TRY(coord_completion_parse(where, object, r->next, &r->defaults, coord_replica_checkpoint(r->replica), &c));
    status st = coord_replica_submit(r->replica, coord_completion_request(c));
    if (st != ST_OK) {
        coord_completion_destroy(&c);
        return st;
    }
    r->ring[r->next++ % r->cap] = c;
    return ST_OK;
}

static status submit_line(run *r, const cli_lines *l)
{
    char where[256];
    json_t *object;
    snprintf(where, sizeof(where), "%s, line %zu", l->path, l->number);
    TRY(json_parse(where, l->line, l->len, &object));
    status st = submit(r, where, object);
    json_decref(object);
    return st;
}

static status print_ended(run *r)
{
    for (; r->first < r->next; r->first++) {
        coord_completion **c = &r->ring[r->first % r->cap];
        if (!coord_completion_ended(*c))
            break;
        if (r->json) {
            json_t *answer = coord_completion_answer(*c);
            char *line = json_line(answer);
            json_decref(answer);
            if (line == NULL)
                return FAIL(ST_NO_MEMORY, "no memory for an answer");
            puts(line);
            free(line);
        } else if (!r->stream) {
            size_t n;
            const char *text = coord_completion_take_text(*c, &n);
            fwrite(text, 1, n, stdout);
            putchar('\n');
        }
        coord_completion_destroy(c);
    }
    return ST_OK;
}

/* Reads ahead of the answers by the ring's size. */
static status run_all(run *r, cli_lines *lines)
{
    bool more = lines != NULL, idle = false;
    while (more || r->first < r->next) {
        while (more && r->next - r->first < r->cap) {
            TRY(cli_lines_next(lines, &more));
            if (more)
                TRY(submit_line(r, lines));
        }
        TRY(coord_replica_run(r->replica, on_event, r, &idle));
        TRY(r->failed);
        TRY(print_ended(r));
        if (idle && r->first < r->next)
            return FAIL(ST_INTERNAL, "request %llu waits for ever", (unsigned long long)r->first);
    }
    return ST_OK;
}

static status run_prompt(run *r, generate_args *a)
{
    json_t *o = json_copy(a->fields);
    bool chat = json_object_get(o, "chat") != NULL;
    json_object_del(o, "chat");
    if (chat)
        json_object_set_new(o, "messages", json_pack("[{ssss}]", "role", "user", "content", a->prompt));
    else
        json_object_set_new(o, "prompt", json_string(a->prompt));
    r->stream = !a->json;
    r->json = a->json;
    status st = submit(r, "--prompt", o);
    json_decref(o);
    TRY(st);
    TRY(run_all(r, NULL));
    if (r->stream)
        putchar('\n');
    return ST_OK;
}

static status run_file(run *r, generate_args *a)
{
    cli_lines lines;
    TRY(cli_lines_open(a->prompts, MAX_LINE, &lines));
    r->json = a->json;
    status st = run_all(r, &lines);
    cli_lines_close(&lines);
    return st;
}

int cli_generate(int argc, char **argv)
{
    generate_args a = {.fields = json_object()};
    struct argp_child children[] = {{&cli_replica_argp, 0, NULL, 0}, {0}};
    struct argp argp = {options, parse, NULL, doc, children, NULL, NULL};
    argp_err_exit_status = 2;
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    cli_replica cr;
    bool done;
    int code;
    cli_replica_start(&a.replica, &cr, &done, &code);
    if (!done) {
        int32_t seqs = a.replica.options.max_seqs;
        run r = {.replica = cr.replica, .cap = (uint64_t)(seqs > 16 ? seqs : 16) * 4};
        r.defaults = (coord_completion_defaults){DEFAULT_MAX_TOKENS, coord_replica_max_context(cr.replica), a.json};
        status st = mem_calloc(r.cap, sizeof(*r.ring), "requests", &r.ring);
        if (st == ST_OK)
            st = a.prompt != NULL ? run_prompt(&r, &a) : run_file(&r, &a);
        for (; r.first < r.next; r.first++)
            coord_completion_destroy(&r.ring[r.first % r.cap]);
        free(r.ring);
        code = cli_finish_output(cli_replica_finish(&cr, st));
    }
    json_decref(a.fields);
    return code;
}
