#include "coordinator/cli/cli.h"

#include <stddef.h>

const cli_command cli_commands[] = {
    {"generate", "continue prompts, from a file or the command line", cli_generate},
    {"perplexity", "how well a checkpoint predicts a text", cli_perplexity},
    {"inspect", "show what a checkpoint is", cli_inspect},
    {"shard", "cut a checkpoint into every rank's final bytes", cli_shard},
    {"pull", "download a checkpoint from the hub", cli_pull},
    {"plan", "show how a checkpoint would be split over ranks", cli_plan},
    {"template", "render conversations with a chat template", cli_template},
    {NULL, NULL, NULL},
};
