/* tests/comm/test_mpi.c - the same cases on real MPI ranks (mpirun -n N), on their one host and, with
 * TRIREME_TEST_HOSTS in the environment, on pretended ones. */
#include "tests/comm/cases.h"

static const struct {
    const char *name;
    rank_case run;
} cases[] = {
    {"exchange", case_exchange},
    {"all-reduce", case_all_reduce},
    {"gather and broadcast", case_gather_broadcast},
    {"subgroups", case_subgroups},
    {"messages", case_messages},
    {"messages while exchanging", case_messages_while_exchanging},
    {"agreement", case_agree},
    {"common", case_common},
    {"refusals", case_refusals},
};

int main(int argc, char **argv)
{
    comm_world *w;
    int failed = 0, launched, rank;
    (void)argv;
    if (argc > 1)
        setenv("TRIREME_TEST_HOSTS", argv[1], 1);
    if (!comm_launched(&launched, &rank)) {
        puts("skipped: run it under mpirun");
        return 77;
    }
    if (comm_world_mpi(0, &w) != ST_OK)
        return 1;
    for (size_t i = 0; i < ARRAY_LEN(cases) && !failed; i++) {
        failed = cases[i].run(w);
        if (failed)
            comm_abort(w, cases[i].name);
        else if (rank == 0)
            printf("ok: %s on %d ranks\n", cases[i].name, launched);
    }
    comm_world_destroy(&w);
    return failed;
}
