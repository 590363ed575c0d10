#include "coordinator/cli/cli.h"

#include <stddef.h>

const cli_command cli_commands[] = {
    {"generate", "continue prompts, from a file or the command line", cli_generate, true},
    {"chat", "talk with a checkpoint, answers streamed", cli_chat, true},
    {"perplexity", "how well a checkpoint predicts a text", cli_perplexity, true},
    {"bench", "how fast a checkpoint is here", cli_bench, true},
    {"inspect", "show what a checkpoint is", cli_inspect, false},
    {"plan", "show how a checkpoint would be split over ranks", cli_plan, false},
    {"shard", "cut a checkpoint into every rank's final bytes", cli_shard, false},
    {"pull", "download a checkpoint from the hub", cli_pull, false},
    {"tokenize", "text to token ids and back", cli_tokenize, false},
    {"template", "render conversations with a chat template", cli_template, false},
    {NULL, NULL, NULL},
};
