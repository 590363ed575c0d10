#include "coordinator/cli/cli.h"

#include <stddef.h>

#include "coordinator/cli/up_args.h"

const cli_command cli_commands[] = {
    {"generate", "continue prompts, from a file or the command line", cli_generate, true, NULL},
    {"chat", "talk with a checkpoint, answers streamed", cli_chat, true, NULL},
    {"perplexity", "how well a checkpoint predicts a text", cli_perplexity, true, NULL},
    {"bench", "how fast a checkpoint is here", cli_bench, true, NULL},
    {"report", "benchmark results as one page", cli_report_command, false, NULL},
    {"replica", "serve a checkpoint at a gateway", cli_replica_command, true, cli_replica_command_argp},
    {"doctor", "see whether machines and ranks have what serving takes", cli_doctor, true, NULL},
    {"inspect", "show what a checkpoint is", cli_inspect, false, NULL},
    {"plan", "show how a checkpoint would be split over ranks", cli_plan, false, NULL},
    {"shard", "cut a checkpoint into every rank's final bytes", cli_shard, false, NULL},
    {"pull", "download a checkpoint from the hub", cli_pull, false, NULL},
    {"tokenize", "text to token ids and back", cli_tokenize, false, NULL},
    {"template", "render conversations with a chat template", cli_template, false, NULL},
    {"gateway", "serve an OpenAI API with the replicas that join", cli_gateway, false, cli_gateway_argp},
    {"up", "serve a checkpoint on this machine", cli_up, false, cli_up_argp},
    {"config", "show each option's value and where it comes from", cli_config_command, false, NULL},
    {"keygen", "make the keys of a gateway and its replicas", cli_keygen, false, NULL},
    {"apikey", "add, list and remove the API keys of a gateway", cli_apikey, false, NULL},
    {NULL, NULL, NULL, false, NULL},
};
