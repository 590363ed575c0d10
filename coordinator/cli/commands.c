#include "coordinator/cli/cli.h"

#include <stddef.h>

const cli_command cli_commands[] = {
    {"template", "render conversations with a chat template", cli_template},
    {NULL, NULL, NULL},
};
