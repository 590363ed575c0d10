#include "coordinator/cli/sampling_args.h"

#include <errno.h>

#include "base/status.h"

enum { OPT_FIRST = 0x4000 };

static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "How an answer is sampled:", 5},
    {"max-tokens", 'n', "N", 0, "Most tokens of an answer", 0},
    {"temperature", OPT_FIRST, "X", 0, "0 = greedy (default: the checkpoint's, else 1)", 0},
    {"top-p", OPT_FIRST + 1, "P", 0, "Sample from the likeliest tokens whose probabilities sum to P", 0},
    {"top-k", OPT_FIRST + 2, "K", 0, "Sample from the K likeliest tokens", 0},
    {"min-p", OPT_FIRST + 3, "P", 0, "Drop tokens less likely than P times the likeliest", 0},
    {"repetition-penalty", OPT_FIRST + 4, "X", 0, "Above 1: tokens that occurred become less likely", 0},
    {"seed", OPT_FIRST + 5, "N", 0, "Seed of the sampling noise (default: drawn)", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    static const char *const names[] = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed"};
    if (key != 'n' && (key < OPT_FIRST || key >= OPT_FIRST + (int)ARRAY_LEN(names)))
        return ARGP_ERR_UNKNOWN;
    const char *name = key == 'n' ? "max_tokens" : names[key - OPT_FIRST];
    json_t *v = json_loads(arg, JSON_DECODE_ANY, NULL);
    if (json_is_number(v)) {
        json_object_set_new(state->input, name, v);
        return 0;
    }
    json_decref(v);
    argp_error(state, "%s \"%s\": a number is needed", name, arg);
    return EINVAL;
}

const struct argp cli_sampling_argp = {options, parse, NULL, NULL, NULL, NULL, NULL};
