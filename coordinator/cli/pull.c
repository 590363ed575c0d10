/* coordinator/cli/pull.c - `trireme pull`: a checkpoint from the hub into the cache, before it is needed. */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/log.h"
#include "coordinator/cli/cli.h"
#include "shard/checkpoint.h"
#include "shard/hub.h"

enum { OPT_JSON = 256, OPT_REVISION, OPT_OFFLINE, OPT_CONFIG };

typedef struct pull_args {
    const char *model;
    bool json;
    shard_hub_options hub;
} pull_args;

static const struct argp_option options[] = {
    {"revision", OPT_REVISION, "REV", 0, "Branch, tag or commit (default main); it is resolved to a commit once, and printed", 0},
    {"config-only", OPT_CONFIG, NULL, 0, "Configuration, tokenizer and card, without weights: enough for trireme plan", 0},
    {"offline", OPT_OFFLINE, NULL, 0, "Only look into the cache", 0},
    {"json", OPT_JSON, NULL, 0, "{\"repository\", \"commit\", \"path\", \"licence\", \"files\", \"downloaded\", \"bytes\"} instead of the path", 0},
    {0},
};

static const char doc[] =
    "Downloads a checkpoint from the hub into the standard cache and prints where it lies."
    "\v"
    "NAME is ORG/NAME for safetensors, or ORG/NAME:FILE.gguf or ORG/NAME:QUANTISATION for one GGUF.  Only what an engine needs is taken.  Sizes and hashes are "
    "checked; an interrupted download goes on where it stopped; files that other tools have put into the cache are used.\n"
    "\n"
    "Examples:\n"
    "  trireme pull HuggingFaceTB/SmolLM2-135M-Instruct\n"
    "  trireme pull bartowski/SmolLM2-135M-Instruct-GGUF:Q4_K_M\n"
    "  trireme generate -m $(trireme pull ORG/NAME --revision 1f2e3d4) --prompts prompts.jsonl --json\n"
    "\n"
    "Environment:\n"
    "  HF_HOME          where the cache and the token file lie (default ~/.cache/huggingface)\n"
    "  HF_HUB_CACHE     the cache itself (default $HF_HOME/hub)\n"
    "  HF_ENDPOINT      another hub (default https://huggingface.co)\n"
    "  HF_TOKEN         for private and gated repositories; sent to that hub alone, never to where it redirects (default the file $HF_HOME/token)\n"
    "  HF_HUB_OFFLINE   1: as --offline";

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    pull_args *a = state->input;
    switch (key) {
    case OPT_JSON:
        a->json = true;
        break;
    case OPT_REVISION:
        a->hub.revision = arg;
        break;
    case OPT_OFFLINE:
        a->hub.offline = true;
        break;
    case OPT_CONFIG:
        a->hub.config_only = true;
        break;
    case ARGP_KEY_ARG:
        if (a->model != NULL)
            argp_error(state, "one NAME at a time; unexpected \"%s\"", arg);
        a->model = arg;
        break;
    case ARGP_KEY_END:
        if (a->model == NULL)
            argp_error(state, "give a NAME");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* The licence as the card gives it, or null; caller json_decref()s.  What was pulled need not be something we can run: then nothing is said of it. */
static json_t *licence_of(const char *path)
{
    shard_checkpoint *c;
    json_t *d = NULL, *v = NULL;
    status_mute();
    if (shard_checkpoint_open(path, &(shard_open_options){.config_only = true}, &c) == ST_OK) {
        if (shard_checkpoint_describe(c, &d) == ST_OK)
            v = json_incref(json_object_get(d, "licence"));
        json_decref(d);
        shard_checkpoint_close(&c);
    }
    status_unmute();
    return v == NULL ? json_null() : v;
}

static status print(const pull_args *a, const shard_hub_name *name, const shard_hub_result *r)
{
    json_t *licence = licence_of(r->path);
    if (a->json) {
        json_t *o = json_pack("{s:s, s:s, s:s, s:O, s:i, s:i, s:I}", "repository", name->repo, "commit", r->commit, "path", r->path, "licence", licence, "files",
                              r->files, "downloaded", r->files_downloaded, "bytes", (json_int_t)r->bytes_downloaded);
        char *line = o == NULL ? NULL : json_line(o);
        puts(line == NULL ? "{}" : line);
        free(line);
        json_decref(o);
    } else {
        char *text = json_is_string(licence) ? NULL : json_line(licence);
        log_info("%s at %s, licence %s", name->repo, r->commit,
                 json_is_string(licence) ? json_string_value(licence) : json_is_null(licence) || text == NULL ? "unknown" : text);
        puts(r->path);
        free(text);
    }
    json_decref(licence);
    return fflush(stdout) == 0 ? ST_OK : FAIL(ST_IO, "standard output cannot be written");
}

static status pull(const pull_args *a)
{
    shard_hub_name name;
    shard_hub_result r;
    if (!shard_hub_name_parse(a->model, &name))
        return FAIL(ST_INVALID, "\"%s\" is no hub name: ORG/NAME, ORG/NAME:FILE.gguf or ORG/NAME:QUANTISATION", a->model);
    TRY(shard_hub_fetch(&name, &a->hub, &r));
    status st = print(a, &name, &r);
    free(r.path);
    free(r.commit);
    return st;
}

int cli_pull(int argc, char **argv)
{
    static const struct argp argp = {options, parse_option, "NAME", doc, NULL, NULL, NULL};
    pull_args a = {0};
    argp_err_exit_status = 2;
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    return status_exit_code(pull(&a));
}
