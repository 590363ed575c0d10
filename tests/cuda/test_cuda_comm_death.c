/* tests/cuda/test_cuda_comm_death.c - whatever goes wrong in a collective of devices ends in a message that names call or rank, before the deadline and on every rank.
 *
 * Each case is a job of its own (test_cuda_comm fail ...), whose deadline is 1.5 s; mpirun does not end the job when a rank dies (--enable-recovery), so that the ranks must notice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/log.h"
#include "base/status.h"

#define MOST_S 20.0 /* a deadline, and mpirun on a busy machine; what hangs takes 25 s */

/* All of it in one line, so that the rank is that of the call. */
static bool one_line_says(char *output, const char *const *messages)
{
    char *rest = NULL, *copy = strdup(output);
    bool found = false;
    assert_non_null(copy);
    for (char *line = strtok_r(copy, "\n", &rest); line != NULL && !found; line = strtok_r(NULL, "\n", &rest)) {
        found = true;
        for (int i = 0; messages[i] != NULL; i++)
            found = found && strstr(line, messages[i]) != NULL;
    }
    free(copy);
    return found;
}

static void job(int n, const char *fault, const char *path, const char *inject, const char *const *messages)
{
    static char output[65536];
    char command[1024], end[32];
    snprintf(command, sizeof(command), "timeout -k 2 25 mpirun --oversubscribe --enable-recovery -n %d %s/tests/test_cuda_comm fail %s %s %s 2>&1", n, TEST_BINARY_DIR, fault, path, inject);
    double begin = log_clock();
    FILE *f = popen(command, "r");
    assert_non_null(f);
    size_t got = fread(output, 1, sizeof(output) - 1, f);
    output[got] = '\0';
    char rest[256];
    while (fread(rest, 1, sizeof(rest), f) > 0)
        continue;
    (void)pclose(f);
    double seconds = log_clock() - begin;
    bool ok = seconds < MOST_S && one_line_says(output, messages);
    for (int r = 0; r < n && ok; r++) { /* rank 1 may be gone */
        snprintf(end, sizeof(end), "RANK %d LEAVES 0", r);
        ok = r == 1 || strstr(output, end) != NULL;
    }
    if (!ok)
        fail_msg("%d ranks, %s, %s, %s: after %.1f s, \"%s\" and the ranks' ends expected in:\n%s", n, fault, path, inject, seconds, messages[0], output);
}

static const char *const paths[] = {"one", "two", "nccl"};

static void a_rank_that_dies_or_leaves_is_named(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        job(3, "killed", paths[i], "", (const char *const[]){"rank 1 ended without leaving the job", "see its log", NULL});
        job(2, "leaves", paths[i], "", (const char *const[]){"rank 1 left the job while rank 0 was in the exchange", "see its log", NULL});
    }
}

static void a_rank_that_dies_amid_an_operation_is_named(void **state)
{
    (void)state;
    job(3, "vanish", "nccl", "ncclVanish:3", (const char *const[]){"rank 1 ended without leaving the job", NULL});
    job(2, "killed", "nccl", "ncclVanish:1", (const char *const[]){"rank 1 ended without leaving the job", NULL});
}

static void a_rank_that_stays_away_meets_the_deadline(void **state)
{
    (void)state;
    job(2, "away", "one", "", (const char *const[]){"rank 0 waited 1500 ms in the exchange", "for rank 1:", "look at their logs", NULL});
    job(3, "away", "two", "", (const char *const[]){"waited 1500 ms in the exchange", "for rank 1:", NULL});
    job(2, "away", "nccl", "", (const char *const[]){"rank 0 waited 1500 ms in the exchange", "for rank 1:", NULL});
}

static void an_abort_frees_the_devices(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(paths); i++)
        job(3, "abort", paths[i], "", (const char *const[]){"rank 1 gives up", "RANK 0 ENDS: aborted", NULL});
}

static void an_asynchronous_error_is_told(void **state)
{
    (void)state;
    job(2, "async", "nccl", "ncclAsync:4", (const char *const[]){"rank 1 in the exchange", "remote process exited", "look at the other ranks' logs", NULL});
    job(2, "async", "nccl", "ncclAsync:1=2", (const char *const[]){"unhandled system error", "NCCL_DEBUG", NULL});
}

/* At start-up the caller reports once; later the rank that failed tells, and the others learn it. */
static void a_call_that_fails_is_named(void **state)
{
    static const struct {
        const char *call, *named;
        int more; /* the more-th call fails too; 0: it is called once */
    } calls[] = {
        {"ncclCommInitRankConfig", "ncclCommInitRankConfig", 0}, {"ncclCommGetAsyncError", "ncclCommGetAsyncError", 7}, {"ncclGroupStart", "ncclGroupStart", 4}, {"ncclSend", "ncclSend", 4},
        {"ncclRecv", "ncclRecv", 4}, {"ncclGroupEnd", "ncclGroupEnd", 4}, {"ncclAllGather", "ncclAllGather", 4}, {"cudaMalloc", "cudaMalloc", 3}, {"cudaHostAlloc", "cudaHostAlloc", 0},
        {"cudaMemsetAsync", "cudaMemsetAsync", 2}, {"cudaGetDeviceProperties", "cudaGetDeviceProperties", 0}, {"cudaHostGetDevicePointer", "cudaHostGetDevicePointer", 0},
        {"cudaLaunchKernel", "k_comm_", 5},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(calls); i++) {
        for (int n = 1; n != 0 && n <= calls[i].more + 1; n = n == 1 ? calls[i].more : 0) {
            char inject[64];
            snprintf(inject, sizeof(inject), "%s:%d", calls[i].call, n);
            job(2, "inject", "nccl", inject, (const char *const[]){"rank 1, ", calls[i].named, NULL});
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_rank_that_dies_or_leaves_is_named),
        cmocka_unit_test(a_rank_that_dies_amid_an_operation_is_named),
        cmocka_unit_test(a_rank_that_stays_away_meets_the_deadline),
        cmocka_unit_test(an_abort_frees_the_devices),
        cmocka_unit_test(an_asynchronous_error_is_told),
        cmocka_unit_test(a_call_that_fails_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
