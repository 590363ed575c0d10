/* coordinator/cli/up_args.h - the options of `trireme up`: its own, and all those of the gateway and of the replicas that it does not decide itself.
 *
 * The latter are read from the two commands' own tables, so that an option that they gain is one of `trireme up` too; they are handed on as they came.
 * A value that `up` needs to know itself is looked up by name, here and in the file's section of the command it belongs to. */
#ifndef COORDINATOR_CLI_UP_ARGS_H
#define COORDINATOR_CLI_UP_ARGS_H

#include <argp.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef struct cli_forward {
    char **of; /* "--name=value", "--name"; ends with NULL */
    int n;
} cli_forward;

typedef struct cli_up_args {
    const char *host, *api_key;
    int32_t port, replicas, restart_limit;
    double drain_seconds, start_seconds;
    bool json;
    cli_forward gateway, replica;
    /* From the options of a replica or its section of the file. */
    const char *model, *revision;
    bool offline;
    int32_t tp, pp;
    bool threads_given, memory_given;
    bool tls;
} cli_up_args;

const struct argp *cli_up_argp(void);
/* Parses, exits on wrong use. */
void cli_up_parse(int argc, char **argv, cli_up_args *out);
void cli_up_args_free(cli_up_args *a);

#endif
