/* coordinator/cli/template.c - `trireme template`: renders conversations with a chat template, one line of JSON each. */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "coordinator/cli/cli.h"
#include "coordinator/cli/cli_util.h"
#include "shard/checkpoint.h"
#include "shard/text/template.h"

#define MAX_TEMPLATE ((size_t)4 << 20)
#define MAX_LINE ((size_t)256 << 20)

enum { OPT_TEMPLATE = 256, OPT_JSONL, OPT_REVISION, OPT_OFFLINE };

typedef struct template_args {
    const char *model, *template_path, *jsonl;
    shard_open_options open;
} template_args;

static const struct argp_option options[] = {
    {"model", 'm', "MODEL", 0, "Checkpoint whose template to use: a directory, a GGUF file or a hub name", 0},
    {"template", OPT_TEMPLATE, "FILE", 0, "A chat template (Jinja), such as a checkpoint's chat_template.jinja", 0},
    {"revision", OPT_REVISION, "REV", 0, "Branch, tag or commit of a hub name (default main)", 0},
    {"offline", OPT_OFFLINE, NULL, 0, "Take a hub name from the cache only", 0},
    {"jsonl", OPT_JSONL, "FILE", 0, "Conversations, one JSON object a line; \"-\" reads standard input", 0},
    {0},
};

static const char doc[] =
    "Renders conversations to the text a model is prompted with."
    "\v"
    "A line in:  {\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"add_generation_prompt\": true}\n"
    "A line out: {\"rendered\": \"...\"}, or {\"error\": \"...\"} where the template refuses the conversation.\n"
    "\n"
    "Also understood: \"tools\" and \"documents\" (lists of objects), \"continue_final_message\" (true, or the name of the field to "
    "continue), "
    "\"kwargs\" (an object of further variables, such as {\"enable_thinking\": false}), \"variables\" (replaces the checkpoint's bos_token, "
    "eos_token ...), and \"now\" (the time that strftime_now sees: 2026-02-03T14:05:06).\n"
    "\n"
    "Example:\n"
    "  echo '{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}' | trireme template --template chat_template.jinja --jsonl -\n"
    "\n"
    "Templates run in a sandbox: time, memory, output and depth are bounded, and nothing but the conversation is reachable.  A conversation that the template refuses is an answer; a line that is no "
    "conversation makes the exit code 2.";

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    template_args *a = state->input;
    switch (key) {
    case 'm':
        a->model = arg;
        break;
    case OPT_REVISION:
        a->open.revision = arg;
        break;
    case OPT_OFFLINE:
        a->open.offline = true;
        break;
    case OPT_TEMPLATE:
        a->template_path = arg;
        break;
    case OPT_JSONL:
        a->jsonl = arg;
        break;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument \"%s\"", arg);
        break;
    case ARGP_KEY_END:
        if ((a->template_path == NULL) == (a->model == NULL))
            argp_error(state, "give either -m MODEL or --template FILE");
        if (a->jsonl == NULL)
            argp_error(state, "give --jsonl FILE (or - for standard input)");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static status get_continue(const json_t *line, const char *where, shard_template_input *in)
{
    const json_t *v = json_object_get(line, "continue_final_message");
    if (v == NULL || json_is_null(v) || json_is_false(v))
        return ST_OK;
    if (!json_is_true(v) && !json_is_string(v))
        return FAIL(ST_FORMAT, "%s: continue_final_message must be true, false or the name of a field", where);
    in->continue_final_message = true;
    in->continue_field = json_string_value(v);
    return ST_OK;
}

static status render_line(const shard_template *t, const json_t *defaults, const json_t *line, const char *where, mem_str *out)
{
    json_t *messages, *tools, *documents, *kwargs, *variables;
    shard_template_input in = {0};
    if (!json_is_object(line))
        return FAIL(ST_FORMAT, "%s: must be an object with \"messages\"", where);
    TRY(json_get_arr(line, where, "messages", &messages));
    TRY(json_get_arr(line, where, "tools", &tools));
    TRY(json_get_arr(line, where, "documents", &documents));
    TRY(json_get_obj(line, where, "kwargs", &kwargs));
    TRY(json_get_obj(line, where, "variables", &variables));
    TRY(json_get_bool(line, where, "add_generation_prompt", false, &in.add_generation_prompt));
    TRY(json_get_str(line, where, "now", NULL, &in.now));
    TRY(get_continue(line, where, &in));
    if (messages == NULL)
        return FAIL(ST_FORMAT, "%s: \"messages\" is missing", where);
    in.messages = messages;
    in.tools = tools;
    in.documents = documents;
    in.kwargs = kwargs;
    in.variables = variables != NULL ? variables : defaults;
    return shard_template_render(t, &in, NULL, out);
}

/* {"rendered"} or {"error"}: a line that fails is an answer, not the end; one that is no conversation at all counts as wrong. */
static status answer_line(const shard_template *t, const json_t *defaults, const char *where, const char *text, size_t len, int64_t *n_wrong)
{
    mem_str out = {0};
    json_t *line = NULL, *answer;
    status_mute();
    status st = json_parse(where, text, len, &line);
    if (st == ST_OK)
        st = render_line(t, defaults, line, where, &out);
    status_unmute();
    *n_wrong += st == ST_FORMAT;
    answer = st != ST_OK ? NULL : json_pack("{s:s%}", "rendered", out.data == NULL ? "" : out.data, out.len);
    if (st == ST_OK && answer == NULL)
        status_message_set("the text is not UTF-8: the template writes half of a surrogate pair");
    if (answer == NULL)
        answer = json_pack("{s:s}", "error", status_message());
    char *printed = answer == NULL ? NULL : json_line(answer);
    bool ok = printed != NULL && puts(printed) >= 0;
    free(printed);
    json_decref(answer);
    json_decref(line);
    mem_str_free(&out);
    return ok ? ST_OK : FAIL(ST_IO, "%s: cannot write the answer", where);
}

static status answer_lines(const shard_template *t, const json_t *defaults, const char *path)
{
    cli_lines lines;
    char where[64];
    bool more = false;
    int64_t n_wrong = 0;
    TRY(cli_lines_open(path, MAX_LINE, &lines));
    status st;
    while ((st = cli_lines_next(&lines, &more)) == ST_OK && more) {
        snprintf(where, sizeof(where), "line %zu", lines.number);
        TRY_GOTO(answer_line(t, defaults, where, lines.line, lines.len, &n_wrong), close);
    }
    if (st == ST_OK && n_wrong > 0)
        st = FAIL(ST_FORMAT, "%s: %lld lines are wrong; the answers in their places say why", path, (long long)n_wrong);
close:
    cli_lines_close(&lines);
    return st;
}

static status run_model(const template_args *a)
{
    shard_checkpoint *c;
    const shard_template *t;
    const json_t *variables;
    shard_open_options open = a->open;
    open.config_only = true; /* a template needs no weights */
    TRY(shard_checkpoint_open(a->model, &open, &c));
    status st = shard_checkpoint_template(c, &t, &variables);
    if (st == ST_OK)
        st = answer_lines(t, variables, a->jsonl);
    shard_checkpoint_close(&c);
    return st;
}

static status run_file(const template_args *a)
{
    shard_template *t;
    char *source;
    size_t len;
    TRY(file_read_all(a->template_path, MAX_TEMPLATE, &source, &len));
    status st = shard_template_parse(a->template_path, source, len, &t);
    free(source);
    if (st != ST_OK)
        return st;
    st = answer_lines(t, NULL, a->jsonl);
    shard_template_destroy(&t);
    return st;
}

int cli_template(int argc, char **argv)
{
    static const struct argp argp = {options, parse_option, NULL, doc, NULL, NULL, NULL};
    template_args a = {0};
    cli_parse(&argp, argc, argv, &a);
    return cli_finish_output(status_exit_code(a.model != NULL ? run_model(&a) : run_file(&a)));
}
