/* coordinator/main.c - the `trireme` binary: picks the subcommand. */
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/log.h"
#include "comm/comm.h"
#include "coordinator/cli/cli.h"
#include "ops/device.h"
#include "trireme_version.h"

static void usage(FILE *out)
{
    fprintf(out, "Usage: trireme COMMAND [OPTION...]\n"
                 "A distributed inference cluster: splits a checkpoint over MPI ranks and runs it.\n\n"
                 "Commands:\n");
    for (const cli_command *c = cli_commands; c->name != NULL; c++)
        fprintf(out, "  %-12s %s\n", c->name, c->summary);
    fprintf(out, "\n"
                 "  trireme COMMAND --help   what a command does, with an example\n"
                 "  trireme --version        version and commit\n\n"
                 "Environment: TRIREME_LOG=error|warn|info|debug|trace, TRIREME_ISA=c|avx2|avx512|amx\n");
}

int main(int argc, char **argv)
{
    int n_ranks, rank;
    /* What all ranks would say rank 0 says; and the others leave with 0, since a rank that fails ends the job, perhaps before it was said. */
    bool launched = comm_launched(&n_ranks, &rank), silent = launched && rank > 0;
    /* A rank does not outlive the mpirun that started it, however that ended.  (srun's daemon looks after its tasks itself.) */
    if (launched && getenv("OMPI_COMM_WORLD_SIZE") != NULL)
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int wrong_use = silent ? 0 : 2;
    if (silent && (argc < 2 || argv[1][0] == '-'))
        return 0;
    const char *level_name = getenv("TRIREME_LOG");
    log_level level;
    if (level_name != NULL) {
        if (!log_level_parse(level_name, &level)) {
            if (!silent)
                fprintf(stderr, "trireme: error: TRIREME_LOG=%s: use error, warn, info, debug or trace\n", level_name);
            return wrong_use;
        }
        log_level_set(level);
    }
    if (argc < 2) {
        usage(stderr);
        return 2;
    }
    const char *name = argv[1];
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        char backends[2048];
        ops_device_list(backends, sizeof(backends));
        printf("trireme %s (commit %s)\n%s\n", TRIREME_VERSION, TRIREME_COMMIT, backends);
        return 0;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        usage(stdout);
        return 0;
    }
    for (const cli_command *c = cli_commands; c->name != NULL; c++) {
        if (strcmp(name, c->name) == 0) {
            if (silent && !c->on_every_rank)
                return 0;
            char title[64];
            snprintf(title, sizeof(title), "trireme %s", c->name);
            argv[1] = title;
            return c->run(argc - 1, argv + 1);
        }
    }
    if (!silent)
        fprintf(stderr, "trireme: error: no command \"%s\"; `trireme --help` lists them\n", name);
    return wrong_use;
}
