/* trireme generate: many prompts from a file, or one prompt streamed to a person. */
#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "coordinator/cli/cli.h"
#include "coordinator/cli/cli_util.h"
#include "coordinator/cli/replica_args.h"
#include "coordinator/cli/sampling_args.h"
#include "coordinator/cli/stats.h"
#include "coordinator/completion.h"

#define MAX_LINE ((size_t)64 << 20)
#define DEFAULT_MAX_TOKENS 256

typedef struct generate_args {
    cli_replica_args replica;
    const char *prompts, *prompt;
    bool json, chat, stats;
    json_t *fields; /* of --prompt: what options set */
} generate_args;

enum { OPT_PROMPTS = 0x2000, OPT_JSON, OPT_CHAT, OPT_STATS };

static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "What to generate:", 1},
    {"prompt", 'p', "TEXT", 0, "One prompt, whose continuation is streamed as plain text", 0},
    {"chat", OPT_CHAT, NULL, 0, "Send --prompt as a user's message through the chat template", 0},
    {"prompts", OPT_PROMPTS, "FILE|-", 0, "One JSON object a line: {\"prompt\": ...}, see below", 0},
    {"json", OPT_JSON, NULL, 0, "One line of JSON for each prompt, in the order of the input", 0},
    {"stats", OPT_STATS, NULL, 0, "At the end, on standard error: times, and each rank's memory", 0},
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
    "ignore_eos, logprobs, prompt_logprobs, logprob_token_ids, allowed_token_ids, bad_words_ids, pooling (\"last\" or \"mean\": the prompt's hidden state "
    "instead of an answer), normalize.  Answers come as {\"id\", \"prompt_ids\", \"token_ids\", \"text\", \"finish_reason\", \"logits_hash\", "
    "\"logprobs\", \"prompt_logprobs\", \"embedding\"}; log-probabilities are of the full softmax before temperature and truncation.\n"
    "\n"
    "A line that is wrong is answered by {\"id\", \"error\"} in its place, with the message on standard error too; the others are answered "
    "all the same, and the exit code is 2.  Options that say how an answer is sampled are for --prompt; at most 256 tokens are generated unless "
    "max_tokens says otherwise.";

static error_t parse(int key, char *arg, struct argp_state *state)
{
    generate_args *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->replica;
        state->child_inputs[1] = a->fields;
        return 0;
    case 'p':
        a->prompt = arg;
        return 0;
    case OPT_CHAT:
        a->chat = true;
        return 0;
    case OPT_PROMPTS:
        a->prompts = arg;
        return 0;
    case OPT_JSON:
        a->json = true;
        return 0;
    case OPT_STATS:
        a->stats = true;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument \"%s\": a prompt is given with -p", arg);
        return 0;
    case ARGP_KEY_END:
        if ((a->prompt == NULL) == (a->prompts == NULL))
            argp_error(state, "give either --prompt TEXT or --prompts FILE");
        if (a->prompts != NULL && (a->chat || json_object_size(a->fields) > 0))
            argp_error(state, "with --prompts each line says how it is sampled: options such as --temperature and --chat go with --prompt");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* One line of the input: its request, or what is wrong with it. */
typedef struct entry {
    coord_completion *completion;
    json_t *error; /* {"id", "error"} */
} entry;

/* Requests under way, in the order of the input: a ring of `cap`. */
typedef struct run {
    coord_replica *replica;
    coord_completion_defaults defaults;
    entry *ring;
    uint64_t cap, first, next; /* numbers [first, next) are under way */
    bool json, stream;
    int64_t n_wrong;
    status failed; /* of an event */
    cli_answer_times times;
} run;

static void on_event(void *arg, const coord_event *e)
{
    run *r = arg;
    coord_completion *c = r->ring[e->id % r->cap].completion;
    bool ended, cancel;
    status st = coord_completion_event(c, e, &ended, &cancel);
    if (st != ST_OK) {
        log_error("%s", status_message());
        r->failed = st;
    }
    if (cancel)
        coord_replica_cancel(r->replica, e->id);
    if (!e->prompt)
        cli_answer_token(&r->times);
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
    const coord_request *q = coord_completion_request(c);
    status st = coord_replica_submit(r->replica, q);
    if (st != ST_OK) {
        coord_completion_destroy(&c);
        return st;
    }
    r->times.n_prompt += q->n_prompt;
    r->ring[r->next++ % r->cap] = (entry){.completion = c};
    return ST_OK;
}

/* Whether the fault is the request's: the run goes on without it. */
static bool is_request_fault(status st)
{
    return st == ST_INVALID || st == ST_FORMAT || st == ST_LIMIT || st == ST_UNSUPPORTED || st == ST_NOT_FOUND;
}

static status submit_line(run *r, const cli_lines *l)
{
    char where[256];
    json_t *object = NULL;
    snprintf(where, sizeof(where), "%s, line %zu", l->path, l->number);
    status st = json_parse(where, l->line, l->len, &object);
    if (st == ST_OK)
        st = submit(r, where, object);
    if (is_request_fault(st)) {
        json_t *id = json_object_get(object, "id");
        json_t *error = json_pack("{sO? ss}", "id", id, "error", status_message());
        if (error == NULL)
            error = json_pack("{sn ss}", "id", "error", "wrong, and its message is no UTF-8");
        r->ring[r->next++ % r->cap] = (entry){.error = error};
        r->n_wrong++;
        st = error != NULL ? ST_OK : FAIL(ST_NO_MEMORY, "no memory for an answer");
    }
    json_decref(object);
    return st;
}

static status print_json(json_t *answer)
{
    char *line = answer == NULL ? NULL : json_line(answer);
    if (line == NULL)
        return FAIL(ST_NO_MEMORY, "no memory for an answer");
    puts(line);
    free(line);
    return ST_OK;
}

static status print_entry(const run *r, const entry *e)
{
    if (e->completion == NULL)
        return r->json ? print_json(e->error) : ST_OK;
    if (r->json) {
        json_t *answer = coord_completion_answer(e->completion);
        status st = print_json(answer);
        json_decref(answer);
        return st;
    }
    if (!r->stream) {
        size_t n;
        const char *text = coord_completion_take_text(e->completion, &n);
        fwrite(text, 1, n, stdout);
        putchar('\n');
    }
    return ST_OK;
}

static void entry_free(entry *e)
{
    coord_completion_destroy(&e->completion);
    json_decref(e->error);
    *e = (entry){0};
}

static status print_ended(run *r)
{
    uint64_t begin = r->first;
    for (; r->first < r->next; r->first++) {
        entry *e = &r->ring[r->first % r->cap];
        if (e->completion != NULL && !coord_completion_ended(e->completion))
            break;
        TRY(print_entry(r, e));
        entry_free(e);
    }
    if (r->first != begin && fflush(stdout) != 0)
        return FAIL(ST_IO, "standard output: %s", strerror(errno));
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
        uint64_t first = r->first;
        TRY(print_ended(r));
        if (idle && r->first == first && r->first < r->next)
            return FAIL(ST_INTERNAL, "request %llu waits for ever", (unsigned long long)r->first);
    }
    return ST_OK;
}

static status run_prompt(run *r, generate_args *a)
{
    json_t *o = json_copy(a->fields), *text = json_string(a->prompt);
    r->stream = !a->json;
    r->json = a->json;
    if (text == NULL) {
        json_decref(o);
        return FAIL(ST_INVALID, "--prompt: the text must be UTF-8");
    }
    if (a->chat)
        json_object_set_new(o, "messages", json_pack("[{ssso}]", "role", "user", "content", text));
    else
        json_object_set_new(o, "prompt", text);
    status st = submit(r, "--prompt", o);
    json_decref(o);
    if (is_request_fault(st)) {
        r->n_wrong++;
        return ST_OK;
    }
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

static status generate(const cli_replica *cr, generate_args *a)
{
    int32_t seqs = a->replica.options.max_seqs;
    run r = {.replica = cr->replica, .cap = (uint64_t)(seqs > 16 ? seqs : 16) * 4};
    r.defaults = (coord_completion_defaults){DEFAULT_MAX_TOKENS, coord_replica_max_context(cr->replica), a->json};
    TRY(mem_calloc(r.cap, sizeof(*r.ring), "requests", &r.ring));
    cli_answer_begin(&r.times, 0);
    status st = a->prompt != NULL ? run_prompt(&r, a) : run_file(&r, a);
    for (; r.first < r.next; r.first++)
        entry_free(&r.ring[r.first % r.cap]);
    free(r.ring);
    if (a->stats) {
        fflush(stdout);
        cli_answer_show(&r.times);
        cli_ranks_show(cr);
    }
    return st == ST_OK && r.n_wrong > 0 ? ST_INVALID : st; /* told already */
}

int cli_generate(int argc, char **argv)
{
    generate_args a = {.fields = json_object()};
    struct argp_child children[] = {{&cli_replica_argp, 0, NULL, 0}, {&cli_sampling_argp, 0, NULL, 0}, {0}};
    struct argp argp = {options, parse, NULL, doc, children, NULL, NULL};
    cli_parse(&argp, argc, argv, &a);
    cli_replica cr;
    bool done;
    int code;
    cli_replica_start(&a.replica, &cr, &done, &code);
    if (!done)
        code = cli_finish_output(cli_replica_finish(&cr, generate(&cr, &a)));
    json_decref(a.fields);
    return code;
}
