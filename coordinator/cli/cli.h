/* coordinator/cli/cli.h - the subcommands of `trireme`: one file each, one function each.
 *
 * A command gets argv with argv[0] = "trireme NAME", parses it with argp (its --help teaches: what it does,
 * an example, every option), does its job and returns the process's exit code: 0 done, 1 failed while
 * running, 2 wrong use or wrong input.  Results go to standard output, everything else to standard error. */
#ifndef COORDINATOR_CLI_CLI_H
#define COORDINATOR_CLI_CLI_H

#include <argp.h>
#include <stdbool.h>

typedef struct cli_command {
    const char *name;
    const char *summary; /* one line for `trireme --help` */
    int (*run)(int argc, char **argv);
    bool on_every_rank; /* under mpirun all ranks run it; else rank 0 alone does, and the others end at once */
    const struct argp *(*argp)(void); /* its options, where they may stand in a configuration file; else NULL */
} cli_command;

extern const cli_command cli_commands[]; /* ends with a NULL name */

int cli_generate(int argc, char **argv);
int cli_chat(int argc, char **argv);
int cli_inspect(int argc, char **argv);
int cli_plan(int argc, char **argv);
int cli_shard(int argc, char **argv);
int cli_pull(int argc, char **argv);
int cli_tokenize(int argc, char **argv);
int cli_template(int argc, char **argv);
int cli_perplexity(int argc, char **argv);
int cli_bench(int argc, char **argv);
int cli_bench_comm(int argc, char **argv); /* `bench comm` and its like, by cli_bench */
int cli_bench_compare(int argc, char **argv);
int cli_bench_kernels(int argc, char **argv);
int cli_bench_load(int argc, char **argv);
int cli_bench_scale(int argc, char **argv);
int cli_bench_serve(int argc, char **argv);
int cli_report_command(int argc, char **argv);
int cli_doctor(int argc, char **argv);
int cli_gateway(int argc, char **argv);
const struct argp *cli_gateway_argp(void);
int cli_replica_command(int argc, char **argv);
const struct argp *cli_replica_command_argp(void);
int cli_keygen(int argc, char **argv);
int cli_apikey(int argc, char **argv);
int cli_config_command(int argc, char **argv);
int cli_up(int argc, char **argv);

#endif
