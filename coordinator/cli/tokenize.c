/* coordinator/cli/tokenize.c - `trireme tokenize`: text to token ids and back, one line of JSON each. */
#include <argp.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "coordinator/cli/cli.h"
#include "coordinator/cli/cli_util.h"
#include "shard/checkpoint.h"
#include "shard/text/tokenizer.h"

enum { OPT_TOKENIZER = 256, OPT_SPECIAL, OPT_DECODE, OPT_JSONL };
#define MAX_LINE_BYTES ((size_t)256 << 20)

typedef struct tokenize_args {
    const char *model, *tokenizer, *jsonl;
    bool special, decode;
} tokenize_args;

static const struct argp_option options[] = {
    {"model", 'm', "MODEL", 0, "A checkpoint: a folder, a GGUF file, or a hub name", 0},
    {"tokenizer", OPT_TOKENIZER, "FILE", 0, "A tokenizer.json, in place of -m", 0},
    {"special", OPT_SPECIAL, NULL, 0, "With special tokens: encoding adds those that open and close a text (<s>, [CLS] ...), decoding shows them", 0},
    {"decode", OPT_DECODE, NULL, 0, "Every line must be ids; without this option a line's fields say which way it goes", 0},
    {"jsonl", OPT_JSONL, "FILE", 0, "Lines of JSON; \"-\" reads standard input", 0},
    {0},
};

static const char doc[] =
    "Turns text into token ids and ids into text, exactly as the checkpoint's own tokenizer does."
    "\v"
    "A line in: {\"text\": \"Hello\"}  a line out: {\"ids\": [19556]}\n"
    "A line in: {\"ids\": [19556]}     a line out: {\"text\": \"Hello\"}\n"
    "\n"
    "Lines come out in the order they went in. Special tokens that a text spells out are recognised. Bytes that decode to broken UTF-8 become "
    "U+FFFD; ids that the vocabulary lacks give nothing.\n"
    "\n"
    "Examples:\n"
    "  echo '{\"text\": \"Hello\"}' | trireme tokenize --tokenizer tokenizer.json --jsonl -\n"
    "  echo '{\"ids\": [1, 15043, 2]}' | trireme tokenize -m model.gguf --decode --special --jsonl -\n"
    "\n"
    "Exit code: 0 done, 1 failed while running, 2 wrong use or wrong input (the message names file and line).";

static error_t parse(int key, char *arg, struct argp_state *state)
{
    tokenize_args *a = state->input;
    switch (key) {
    case 'm':
        a->model = arg;
        return 0;
    case OPT_TOKENIZER:
        a->tokenizer = arg;
        return 0;
    case OPT_SPECIAL:
        a->special = true;
        return 0;
    case OPT_DECODE:
        a->decode = true;
        return 0;
    case OPT_JSONL:
        a->jsonl = arg;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument \"%s\"", arg);
        return 0;
    case ARGP_KEY_END:
        if ((a->model == NULL) == (a->tokenizer == NULL))
            argp_error(state, "give either -m MODEL or --tokenizer FILE");
        if (a->jsonl == NULL)
            argp_error(state, "give --jsonl FILE (or - for standard input)");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* A tokenizer from either source; the checkpoint owns its own. */
typedef struct source {
    shard_checkpoint *checkpoint;
    shard_tokenizer *own;
    const shard_tokenizer *t;
} source;

static void source_close(source *s)
{
    shard_checkpoint_close(&s->checkpoint);
    shard_tokenizer_destroy(&s->own);
}

static status source_open(const tokenize_args *a, source *s)
{
    *s = (source){0};
    const char *path = a->tokenizer != NULL ? a->tokenizer : a->model;
    if (a->tokenizer != NULL || file_exists(path) || file_is_dir(path)) {
        TRY(shard_tokenizer_open(path, &s->own));
        s->t = s->own;
        return ST_OK;
    }
    TRY(shard_checkpoint_open(a->model, &(shard_open_options){.config_only = true}, &s->checkpoint)); /* a hub name, then */
    return shard_checkpoint_tokenizer(s->checkpoint, &s->t);
}

static status encode_line(const shard_tokenizer *t, const json_t *text, bool special, json_t **out)
{
    shard_ids ids = {0};
    TRY(shard_tokenizer_encode(t, json_string_value(text), json_string_length(text), special ? SHARD_ENCODE_ADD_SPECIAL : 0, &ids));
    json_t *list = json_array();
    for (size_t i = 0; i < ids.n; i++)
        json_array_append_new(list, json_integer(ids.data[i]));
    bool complete = list != NULL && json_array_size(list) == ids.n;
    shard_ids_free(&ids);
    *out = json_pack("{so}", "ids", list);
    return *out != NULL && complete ? ST_OK : FAIL(ST_NO_MEMORY, "no memory for a line's ids");
}

static status read_ids(const json_t *list, const char *where, shard_ids *ids)
{
    size_t i, n = json_array_size(list);
    json_t *id;
    TRY(mem_calloc(n + 1, sizeof(*ids->data), "ids", &ids->data));
    json_array_foreach (list, i, id) {
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > INT32_MAX)
            return FAIL(ST_FORMAT, "%s: ids[%zu] must be a whole number from 0 to %d", where, i, INT32_MAX);
        ids->data[ids->n++] = (int32_t)json_integer_value(id);
    }
    return ST_OK;
}

static status decode_line(const shard_tokenizer *t, const char *where, const json_t *list, bool special, json_t **out)
{
    shard_ids ids = {0};
    mem_str text = {0};
    status st = read_ids(list, where, &ids);
    if (st == ST_OK)
        st = shard_tokenizer_decode(t, ids.data, ids.n, !special, &text);
    if (st == ST_OK) {
        json_t *value = json_stringn(text.len == 0 ? "" : text.data, text.len);
        *out = json_pack("{so}", "text", value);
        if (*out == NULL)
            st = FAIL(ST_NO_MEMORY, "no memory for a line's text");
    }
    mem_str_free(&text);
    shard_ids_free(&ids);
    return st;
}

static status answer(const shard_tokenizer *t, const tokenize_args *a, const char *where, const json_t *line, json_t **out)
{
    const json_t *text = json_object_get(line, "text"), *ids = json_object_get(line, "ids");
    if (json_is_array(ids) && (a->decode || text == NULL))
        return decode_line(t, where, ids, a->special, out);
    if (json_is_string(text) && !a->decode)
        return encode_line(t, text, a->special, out);
    return FAIL(ST_FORMAT, a->decode ? "%s: {\"ids\": [...]} is needed" : "%s: {\"text\": \"...\"} or {\"ids\": [...]} is needed", where);
}

static status run_line(const shard_tokenizer *t, const tokenize_args *a, const cli_lines *lines)
{
    mem_str where = {0};
    json_t *line = NULL, *out = NULL;
    mem_str_printf(&where, "%s, line %zu", lines->path, lines->number);
    status st = where.failed ? FAIL(ST_NO_MEMORY, "no memory") : json_parse(where.data, lines->line, lines->len, &line);
    if (st == ST_OK)
        st = answer(t, a, where.data, line, &out);
    /* ASCII, so that a reader which also splits lines at U+2028 and the like stays in step. */
    char *text = st == ST_OK ? json_dumps(out, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
    if (st == ST_OK && text == NULL)
        st = FAIL(ST_NO_MEMORY, "%s: no memory for the answer", where.data);
    if (text != NULL)
        puts(text);
    free(text);
    json_decref(line);
    json_decref(out);
    mem_str_free(&where);
    return st;
}

static status run_lines(const shard_tokenizer *t, const tokenize_args *a)
{
    cli_lines lines;
    bool more = true;
    TRY(cli_lines_open(a->jsonl, MAX_LINE_BYTES, &lines));
    status st = cli_lines_next(&lines, &more);
    while (st == ST_OK && more && !ferror(stdout)) {
        st = run_line(t, a, &lines);
        if (st == ST_OK)
            st = cli_lines_next(&lines, &more);
    }
    cli_lines_close(&lines);
    return st;
}

static status run(const tokenize_args *a)
{
    source s;
    status st = source_open(a, &s);
    if (st == ST_OK)
        st = run_lines(s.t, a);
    source_close(&s);
    return st;
}

int cli_tokenize(int argc, char **argv)
{
    tokenize_args a = {0};
    struct argp argp = {options, parse, NULL, doc, NULL, NULL, NULL};
    argp_err_exit_status = 2;
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    status_mute(); /* reported once, below */
    status st = run(&a);
    status_unmute();
    return cli_finish_output(st == ST_OK ? 0 : cli_report(st));
}
