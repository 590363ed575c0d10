/* trireme perplexity: how well a checkpoint predicts a text. */
#include <argp.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "coordinator/cli/cli.h"
#include "coordinator/cli/cli_util.h"
#include "coordinator/cli/replica_args.h"
#include "shard/arch.h"

#define MAX_TEXT ((size_t)1 << 30)
#define DEFAULT_WINDOW 512

typedef struct perplexity_args {
    cli_replica_args replica;
    const char *text, *ids;
    int32_t window, unscored;
    bool json;
} perplexity_args;

enum { OPT_TEXT = 0x2000, OPT_IDS, OPT_WINDOW, OPT_UNSCORED, OPT_JSON };

static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "What to score:", 1},
    {"text", OPT_TEXT, "FILE", 0, "A text file; no special tokens are added", 0},
    {"ids", OPT_IDS, "FILE", 0, "A JSON list of token ids", 0},
    {"window", OPT_WINDOW, "TOKENS", 0, "Windows of so many tokens, each scored on its own (default 512)", 0},
    {"unscored", OPT_UNSCORED, "TOKENS", 0, "The first so many tokens of each window are context for the others (default 1, the least)", 0},
    {"json", OPT_JSON, NULL, 0, "One line: {\"tokens\", \"nll\", \"perplexity\"}", 0},
    {0},
};

static const char doc[] =
    "Scores a text: exp of the mean negative log-likelihood of its tokens.\v"
    "Examples:\n"
    "  trireme perplexity -m model.gguf --text wiki.txt\n"
    "  mpirun -n 2 trireme perplexity -m model.gguf --ids ids.json --window 1024 --compute f32 --json\n"
    "  trireme perplexity -m model.gguf --text wiki.txt --window 512 --unscored 257     as llama-perplexity counts\n"
    "\n"
    "tokens counts the tokens scored, nll is the sum of their negative log-likelihoods.  The last window may be shorter than the others.";

static error_t parse(int key, char *arg, struct argp_state *state)
{
    perplexity_args *a = state->input;
    long v;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->replica;
        return 0;
    case OPT_TEXT:
        a->text = arg;
        return 0;
    case OPT_IDS:
        a->ids = arg;
        return 0;
    case OPT_WINDOW:
        if (!cli_parse_int(arg, 2, 1 << 24, &v))
            argp_error(state, "--window %s: a whole number of at least 2 is needed", arg);
        a->window = (int32_t)v;
        return 0;
    case OPT_UNSCORED:
        if (!cli_parse_int(arg, 1, 1 << 24, &v))
            argp_error(state, "--unscored %s: a whole number of at least 1 is needed", arg);
        a->unscored = (int32_t)v;
        return 0;
    case OPT_JSON:
        a->json = true;
        return 0;
    case ARGP_KEY_END:
        if ((a->text == NULL) == (a->ids == NULL))
            argp_error(state, "give either --text FILE or --ids FILE");
        if (a->unscored >= a->window)
            argp_error(state, "--unscored %d leaves nothing of windows of %d tokens (--window)", a->unscored, a->window);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static status read_ids(const char *path, int32_t vocab, shard_ids *out)
{
    json_t *list, *v;
    size_t i;
    TRY(json_parse_file(path, MAX_TEXT, &list));
    status st = json_is_array(list) ? ST_OK : FAIL(ST_FORMAT, "%s: a list of token ids is needed", path);
    if (st == ST_OK)
        st = mem_calloc(json_array_size(list), sizeof(int32_t), "token ids", &out->data);
    out->cap = json_array_size(list);
    for (i = 0; st == ST_OK && i < out->cap; i++) {
        v = json_array_get(list, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= vocab)
            st = FAIL(ST_FORMAT, "%s: entry %zu is no token id (0 to %d)", path, i, vocab - 1);
        else
            out->data[out->n++] = (int32_t)json_integer_value(v);
    }
    json_decref(list);
    return st;
}

static status read_text(shard_checkpoint *c, const char *path, shard_ids *out)
{
    const shard_tokenizer *t;
    char *text;
    size_t len;
    TRY(shard_checkpoint_tokenizer(c, &t));
    TRY(file_read_all(path, MAX_TEXT, &text, &len));
    status st = shard_tokenizer_encode(t, text, len, 0, out);
    free(text);
    return st;
}

typedef struct score {
    int32_t unscored; /* of each window's tokens */
    double nll;
    int64_t tokens;
    int64_t ended;
} score;

static void on_event(void *arg, const coord_event *e)
{
    score *s = arg;
    if (!e->prompt) {
        s->ended++;
    } else if (e->index >= s->unscored) {
        s->nll -= (double)e->logprob;
        s->tokens++;
    }
}

/* One window is one request whose prompt is scored and of which one token is generated and thrown away. */
static status window_submit(coord_replica *r, const shard_ids *ids, size_t begin, size_t n, uint64_t number)
{
    coord_request q = {
        .id = number,
        .tokens = ids->data + begin,
        .n_tokens = (int32_t)n,
        .n_prompt = (int32_t)n,
        .rope_set = shard_arch_rope_set(shard_checkpoint_arch(coord_replica_checkpoint(r)), (int64_t)n),
        .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1, .n_prompt_logprobs = 0, .max_tokens = 1},
    };
    return coord_replica_submit(r, &q);
}

static status score_all(coord_replica *r, const shard_ids *ids, int32_t window, bool quiet, score *s)
{
    size_t next = 0;
    int64_t submitted = 0, total = ((int64_t)ids->n + window - 1) / window;
    log_progress p;
    log_progress_begin(&p, "scoring windows", (unsigned long long)total, false);
    while (next < ids->n || s->ended < submitted) {
        while (next < ids->n && submitted - s->ended < 64) {
            size_t n = ids->n - next < (size_t)window ? ids->n - next : (size_t)window;
            if (n > (size_t)s->unscored)
                TRY(window_submit(r, ids, next, n, (uint64_t)submitted++));
            next += n;
        }
        bool idle;
        TRY(coord_replica_run(r, on_event, s, &idle));
        if (!quiet)
            log_progress_update(&p, (unsigned long long)s->ended);
    }
    log_progress_end(&p);
    return ST_OK;
}

static status perplexity(coord_replica *r, const perplexity_args *a)
{
    shard_ids ids = {0};
    score s = {.unscored = a->unscored};
    shard_checkpoint *c = coord_replica_checkpoint(r);
    status st = a->ids != NULL ? read_ids(a->ids, shard_checkpoint_arch(c)->vocab, &ids) : read_text(c, a->text, &ids);
    if (st == ST_OK && ids.n <= (size_t)a->unscored)
        st = FAIL(ST_INVALID, "%s: %zu tokens; at least %d are needed", a->ids != NULL ? a->ids : a->text, ids.n, a->unscored + 1);
    if (st == ST_OK && a->window >= coord_replica_max_context(r))
        st = FAIL(ST_INVALID, "--window %d: the context of %d tokens leaves room for %d", a->window, coord_replica_max_context(r),
                  coord_replica_max_context(r) - 1);
    if (st == ST_OK)
        st = score_all(r, &ids, a->window, a->json, &s);
    shard_ids_free(&ids);
    TRY(st);
    double value = exp(s.nll / (double)s.tokens);
    if (a->json)
        printf("{\"tokens\":%lld,\"nll\":%.6f,\"perplexity\":%.6f}\n", (long long)s.tokens, s.nll, value);
    else
        printf("%lld tokens, mean negative log-likelihood %.6f, perplexity %.4f\n", (long long)s.tokens, s.nll / (double)s.tokens, value);
    return ST_OK;
}

int cli_perplexity(int argc, char **argv)
{
    perplexity_args a = {.window = DEFAULT_WINDOW, .unscored = 1};
    struct argp_child children[] = {{&cli_replica_argp, 0, NULL, 0}, {0}};
    struct argp argp = {options, parse, NULL, doc, children, NULL, NULL};
    cli_parse(&argp, argc, argv, &a);
    cli_replica cr;
    bool done;
    int code;
    cli_replica_start(&a.replica, &cr, &done, &code);
    return done ? code : cli_finish_output(cli_replica_finish(&cr, perplexity(cr.replica, &a)));
}
