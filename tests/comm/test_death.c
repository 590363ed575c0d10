/* tests/comm/test_death.c - a rank is killed, hangs or leaves: the others end within 5 s with a message that names it.
 *
 * mpirun by itself ends the job one or two seconds after a death; with --enable-recovery (and under srun) it does not, and the
 * ranks must notice alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/log.h"
#include "base/status.h"

#define WITHIN 6.5 /* seconds; 1.5 of them to start and end mpirun on a busy machine */

/* Runs the job; returns its exit status, its output, and how long it took. */
static int run_job(const char *launcher, const char *hosts, const char *mode, char *output, size_t size, double *seconds)
{
    char command[1024];
    snprintf(command, sizeof(command), "TRIREME_TEST_HOSTS=%s timeout -k 2 25 mpirun --oversubscribe %s -n 4 %s/tests/victim %s 2>&1", hosts,
             launcher, TEST_BINARY_DIR, mode);
    double begin = log_clock();
    FILE *f = popen(command, "r");
    assert_non_null(f);
    size_t n = fread(output, 1, size - 1, f);
    output[n] = '\0';
    char rest[256];
    while (fread(rest, 1, sizeof(rest), f) > 0)
        continue;
    int code = pclose(f);
    *seconds = log_clock() - begin;
    return code;
}

static void job_fails(const char *launcher, const char *hosts, const char *mode, const char *message, double within)
{
    static char output[65536];
    double seconds;
    int code = run_job(launcher, hosts, mode, output, sizeof(output), &seconds);
    bool told = code != 0 || launcher[0] != '\0'; /* with --enable-recovery mpirun's code is 0 whatever happens */
    if (!told || seconds > within || strstr(output, message) == NULL)
        fail_msg("%s, hosts %s, %s: code %d after %.1f s, \"%s\" expected in:\n%s", launcher, hosts, mode, code, seconds, message, output);
}

static void a_killed_rank_is_named(void **state)
{
    (void)state;
    job_fails("", "1", "collective", "rank 2 ended without leaving the job", WITHIN);
    job_fails("", "1", "message", "rank 2 ended without leaving the job", WITHIN);
    job_fails("", "1", "agree", "rank 2 ended without leaving the job", WITHIN);
    job_fails("", "1", "leave", "rank 2 ended without leaving the job", WITHIN);
}

static void ranks_notice_a_death_without_the_launcher(void **state)
{
    (void)state;
    job_fails("--enable-recovery", "1", "collective", "rank 2 ended without leaving the job", WITHIN);
    job_fails("--enable-recovery", "1", "message", "rank 2 ended without leaving the job", WITHIN);
    job_fails("--enable-recovery", "1", "agree", "rank 2 ended without leaving the job", WITHIN);
}

static void a_death_is_told_to_other_hosts(void **state)
{
    (void)state;
    job_fails("--enable-recovery", "0,0,1,1", "collective", "rank 0: aborted: rank 2 ended without leaving the job", WITHIN);
    job_fails("--enable-recovery", "0,0,1,1", "message", "rank 0: aborted: rank 2 ended without leaving the job", WITHIN);
}

static void a_rank_killed_at_start_ends_the_job(void **state)
{
    (void)state;
    job_fails("", "1", "start", "the job has been aborted", WITHIN);
}

static void a_hanging_rank_meets_the_deadline(void **state)
{
    (void)state;
    job_fails("", "1", "hang", "rank 2 did not come to all-reduce within 1500 ms", WITHIN);
    job_fails("", "0,0,1,1", "hang", "rank 2 did not come to all-reduce within 1500 ms", WITHIN);
}

static void stopped_rank_is_named(int rank, const char *at, const char *how)
{
    char launcher[512], named[128], host[65] = "";
    assert_int_equal(gethostname(host, sizeof(host) - 1), 0);
    host[strcspn(host, ".")] = '\0'; /* as mpirun does */
    snprintf(launcher, sizeof(launcher), "-x LD_PRELOAD=%s/tests/stop_rank.so -x TRIREME_STOP_AT=%s -x TRIREME_STOP_RANK=%d", TEST_BINARY_DIR, at, rank);
    snprintf(named, sizeof(named), "rank %d (%s) of 4 %s", rank, host, how);
    job_fails(launcher, "1", "collective", named, WITHIN + 3); /* the deadline is 1.5 s, and to ask for marks takes a second for each kind */
}

static bool all;

static void a_rank_stopped_at_start_is_named(void **state)
{
    (void)state;
    static const char *const at[] = {"MPI_Init_thread", "MPI_Comm_idup", "MPI_Iallgather"}, silent[] = "came and has not been heard of since";
    stopped_rank_is_named(2, "", "did not come");
    stopped_rank_is_named(0, at[2], silent);
    for (size_t i = 0; all && i < ARRAY_LEN(at); i++)
        stopped_rank_is_named(2, at[i], silent);
}

int main(int argc, char **argv)
{
    (void)argv;
    all = argc > 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_killed_rank_is_named),
        cmocka_unit_test(ranks_notice_a_death_without_the_launcher),
        cmocka_unit_test(a_death_is_told_to_other_hosts),
        cmocka_unit_test(a_rank_killed_at_start_ends_the_job),
        cmocka_unit_test(a_hanging_rank_meets_the_deadline),
        cmocka_unit_test(a_rank_stopped_at_start_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
