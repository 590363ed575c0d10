/* coordinator/cli/inspect.c - `trireme inspect`: what a checkpoint is, before anything is loaded. */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "coordinator/cli/cli.h"
#include "shard/checkpoint.h"

enum { OPT_JSON = 256, OPT_REVISION, OPT_OFFLINE, OPT_VERIFY, OPT_TENSORS };

typedef struct inspect_args {
    const char *model;
    bool json, verify, tensors;
    shard_open_options open;
} inspect_args;

static const struct argp_option options[] = {
    {"json", OPT_JSON, NULL, 0, "One JSON object instead of text; unknown facts are null", 0},
    {"tensors", OPT_TENSORS, NULL, 0, "List every tensor too", 0},
    {"verify", OPT_VERIFY, NULL, 0, "Read all bytes and compare them with the recorded SHA-256 (trireme shard folders, the hub's cache)", 0},
    {"revision", OPT_REVISION, "REV", 0, "Branch, tag or commit of a hub name (default main)", 0},
    {"offline", OPT_OFFLINE, NULL, 0, "Take a hub name from the cache only", 0},
    {0},
};

static const char doc[] =
    "Shows a checkpoint's name, source, licence, lineage, architecture, weights and text parts.  Only headers are read."
    "\v"
    "MODEL is a Hugging Face folder, a GGUF file (of a split set, the first), a folder written by trireme shard, a config.json, or a hub name.\n"
    "\n"
    "Examples:\n"
    "  trireme inspect ./SmolLM2-135M-Instruct\n"
    "  trireme inspect model.Q4_K_M.gguf --tensors\n"
    "  trireme inspect HuggingFaceTB/SmolLM2-135M-Instruct --json\n"
    "  trireme inspect ./cut-2x2 --verify      (a non-zero exit code, and the tensor's name, if a byte differs)";

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    inspect_args *a = state->input;
    switch (key) {
    case OPT_JSON:
        a->json = true;
        break;
    case OPT_TENSORS:
        a->tensors = true;
        break;
    case OPT_VERIFY:
        a->verify = true;
        break;
    case OPT_REVISION:
        a->open.revision = arg;
        break;
    case OPT_OFFLINE:
        a->open.offline = true;
        break;
    case ARGP_KEY_ARG:
        if (a->model != NULL)
            argp_error(state, "one MODEL at a time; unexpected \"%s\"", arg);
        a->model = arg;
        break;
    case ARGP_KEY_END:
        if (a->model == NULL)
            argp_error(state, "give a MODEL");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* ---- text ---- */

static const char *bytes_text(double v, char out[32])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int u = 0;
    for (; v >= 1024 && u < 4; u++)
        v /= 1024;
    snprintf(out, 32, u == 0 ? "%.0f %s" : "%.1f %s", v, units[u]);
    return out;
}

static const char *count_text(double v, char out[32])
{
    static const char *const units[] = {"", " k", " M", " G", " T"};
    int u = 0;
    for (; v >= 1000 && u < 4; u++)
        v /= 1000;
    snprintf(out, 32, u == 0 ? "%.0f%s" : "%.1f%s", v, units[u]);
    return out;
}

/* A scalar, or a list of scalars, or compact JSON; control characters out of the file become blanks. */
static void put_value(const json_t *v)
{
    size_t i;
    json_t *e;
    char *text = NULL;
    if (v == NULL || json_is_null(v)) {
        printf("unknown");
    } else if (json_is_array(v) && json_array_size(v) > 0 && json_is_string(json_array_get(v, 0))) {
        json_array_foreach(v, i, e)
        {
            printf("%s", i > 0 ? ", " : "");
            put_value(e);
        }
    } else {
        text = json_is_string(v) ? strndup(json_string_value(v), json_string_length(v)) : json_line(v);
        for (char *p = text; p != NULL && *p != '\0'; p++) {
            if ((unsigned char)*p < 0x20 || *p == 0x7f)
                *p = ' ';
        }
        printf("%s", text == NULL ? "?" : text);
        free(text);
    }
}

static void put_fact(const json_t *d, const char *key, const char *label)
{
    printf("  %-15s ", label);
    put_value(json_object_get(d, key));
    printf("\n");
}

static void put_parent(const json_t *d)
{
    const json_t *p = json_object_get(d, "parent");
    printf("  %-15s ", "parent");
    put_value(json_object_get(p, "model"));
    if (json_is_string(json_object_get(p, "relation")))
        printf(" (%s)", json_string_value(json_object_get(p, "relation")));
    printf("\n");
}

static void put_object(const json_t *d, const char *key)
{
    const json_t *o = json_object_get(d, key);
    const char *name;
    json_t *v;
    bool first = true;
    printf("  %-15s ", key);
    if (!json_is_object(o)) {
        printf("unknown\n");
        return;
    }
    json_object_foreach((json_t *)o, name, v)
    {
        printf("%s%s: ", first ? "" : "\n                  ", name);
        put_value(v);
        first = false;
    }
    printf("\n");
}

static void put_evaluations(const json_t *d)
{
    const json_t *list = json_object_get(d, "evaluations");
    size_t i;
    json_t *e;
    printf("  %-15s ", "evaluations");
    if (json_array_size(list) == 0)
        printf("unknown\n");
    json_array_foreach(list, i, e)
    {
        printf("%s", i > 0 ? "                  " : "");
        put_value(json_object_get(e, "dataset"));
        printf(", ");
        put_value(json_object_get(e, "metric"));
        printf(": ");
        put_value(json_object_get(e, "value"));
        printf("\n");
    }
}

static long long number(const json_t *o, const char *key)
{
    return (long long)json_integer_value(json_object_get(o, key));
}

static void put_architecture(const json_t *d)
{
    const json_t *a = json_object_get(d, "architecture");
    printf("\nArchitecture      %s\n", json_string_value(json_object_get(a, "family")));
    printf("  %-15s %lld, hidden size %lld, MLP %lld\n", "layers", number(a, "layers"), number(a, "hidden"), number(a, "intermediate"));
    printf("  %-15s %lld query heads, %lld KV heads, of %lld\n", "attention", number(a, "heads"), number(a, "kv_heads"), number(a, "head_dim"));
    if (number(a, "windowed_layers") > 0)
        printf("  %-15s %lld tokens, in %lld layers\n", "window", number(a, "window"), number(a, "windowed_layers"));
    if (json_is_number(json_object_get(a, "rope_theta")))
        printf("  %-15s base %g, scaling %s\n", "rope", json_number_value(json_object_get(a, "rope_theta")),
               json_string_value(json_object_get(a, "rope_scaling")));
    printf("  %-15s %lld tokens%s\n", "vocabulary", number(a, "vocab"), json_is_true(json_object_get(a, "tied_embeddings")) ? ", embeddings tied" : "");
    printf("  %-15s %lld tokens\n", "context", number(a, "context"));
}

static void put_weights(const json_t *d)
{
    const json_t *types = json_object_get(d, "tensors");
    const char *name;
    json_t *v;
    char a[32], b[32];
    if (!json_is_integer(json_object_get(d, "parameters"))) {
        printf("\nWeights           none here\n");
        return;
    }
    printf("\nWeights           %s parameters, %s in %zu file%s\n", count_text((double)number(d, "parameters"), a),
           bytes_text((double)number(d, "weight_bytes"), b), json_array_size(json_object_get(d, "files")),
           json_array_size(json_object_get(d, "files")) == 1 ? "" : "s");
    printf("  %-15s %8s %12s %12s\n", "type", "tensors", "parameters", "bytes");
    json_object_foreach((json_t *)types, name, v)
        printf("  %-15s %8lld %12s %12s\n", name, number(v, "tensors"), count_text((double)number(v, "elements"), a),
               bytes_text((double)number(v, "bytes"), b));
}

static void put_text(const json_t *d)
{
    const json_t *t = json_object_get(d, "tokenizer"), *g = json_object_get(d, "generation"), *names = json_object_get(d, "chat_templates");
    static const char *const keys[] = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty"};
    bool any = false;
    printf("\nText\n  %-15s ", "tokenizer");
    if (json_is_object(t))
        printf("%s, %lld tokens\n", json_string_value(json_object_get(t, "kind")), number(t, "tokens"));
    else
        printf("none\n");
    printf("  %-15s ", "chat templates");
    if (json_array_size(names) == 0)
        printf("none");
    else
        put_value(names);
    printf("\n  %-15s ", "end tokens");
    put_value(json_object_get(g, "eos"));
    printf("\n  %-15s ", "sampling");
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        const json_t *v = json_object_get(g, keys[i]);
        if (json_is_number(v))
            printf("%s%s %g", any ? ", " : "", keys[i], json_number_value(v));
        any = any || json_is_number(v);
    }
    printf("%s\n", any ? "" : "no defaults given");
}

static void put_tensors(const json_t *list)
{
    size_t i;
    json_t *t;
    printf("\n%-56s %-8s %-20s %12s\n", "Tensor", "type", "shape", "bytes");
    json_array_foreach(list, i, t)
    {
        char *shape = json_line(json_object_get(t, "shape"));
        printf("%-56s %-8s %-20s %12lld\n", json_string_value(json_object_get(t, "name")), json_string_value(json_object_get(t, "type")),
               shape == NULL ? "?" : shape, number(t, "bytes"));
        free(shape);
    }
}

static void put_all(const json_t *d)
{
    const json_t *cut = json_object_get(d, "cut");
    put_value(json_object_get(d, "name"));
    printf("\n");
    put_fact(d, "source", "source");
    put_fact(d, "path", "path");
    put_fact(d, "format", "format");
    if (json_is_object(cut))
        printf("  %-15s tp %lld x pp %lld%s\n", "cut for", number(cut, "tp"), number(cut, "pp"), json_is_true(json_object_get(cut, "f32")) ? ", in f32" : "");
    put_fact(d, "revision", "revision");
    put_fact(d, "licence", "licence");
    put_fact(d, "base", "base");
    put_parent(d);
    put_object(d, "recipe");
    put_object(d, "policies");
    put_evaluations(d);
    put_fact(d, "digest", "digest");
    put_architecture(d);
    put_weights(d);
    put_text(d);
    if (json_object_get(d, "tensor_list") != NULL)
        put_tensors(json_object_get(d, "tensor_list"));
    if (json_object_get(d, "verified") != NULL)
        printf("\nVerified: every byte is what its SHA-256 says.\n");
}

static status print(const json_t *d, bool json)
{
    if (json) {
        char *text = json_dumps(d, JSON_INDENT(2));
        if (text == NULL)
            return FAIL(ST_NO_MEMORY, "out of memory");
        puts(text);
        free(text);
    } else {
        put_all(d);
    }
    return fflush(stdout) == 0 && !ferror(stdout) ? ST_OK : FAIL(ST_IO, "standard output cannot be written");
}

static status inspect(const inspect_args *a)
{
    shard_checkpoint *c;
    json_t *d = NULL, *list = NULL;
    shard_open_options open = a->open;
    open.config_only = true; /* a configuration alone has something to say too */
    TRY(shard_checkpoint_open(a->model, &open, &c));
    status st = shard_checkpoint_describe(c, &d);
    if (st == ST_OK && a->tensors) {
        st = shard_checkpoint_list_tensors(c, &list);
        if (st == ST_OK)
            json_object_set_new(d, "tensor_list", list);
    }
    if (st == ST_OK && a->verify) {
        st = shard_checkpoint_verify(c);
        if (st == ST_OK)
            json_object_set_new(d, "verified", json_true());
    }
    if (st == ST_OK)
        st = print(d, a->json);
    json_decref(d);
    shard_checkpoint_close(&c);
    return st;
}

int cli_inspect(int argc, char **argv)
{
    static const struct argp argp = {options, parse_option, "MODEL", doc, NULL, NULL, NULL};
    inspect_args a = {0};
    argp_err_exit_status = 2;
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    return status_exit_code(inspect(&a));
}
