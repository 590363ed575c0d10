/* coordinator/cli/sampling_args.h - the options that say how one answer is sampled, for commands that are given no JSON. */
#ifndef COORDINATOR_CLI_SAMPLING_ARGS_H
#define COORDINATOR_CLI_SAMPLING_ARGS_H

#include <argp.h>
#include <jansson.h>

/* A child for argp; its input is a json_t * object, which gets a request's fields (completion.h). */
extern const struct argp cli_sampling_argp;

#endif
