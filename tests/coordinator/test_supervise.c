/* tests/coordinator/test_supervise.c - children are started again with back-off, given up, ended, and leave nothing behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>

#include "base/log.h"
#include "coordinator/supervise.h"

static void delays_double_up_to_a_bound_and_health_forgives(void **state)
{
    (void)state;
    const supervise_policy p = {.first_delay = 0.5, .most_delay = 3, .limit = 6, .healthy = 60};
    const double want[] = {0.5, 1, 2, 3, 3, 3, -1};
    int failures = 0;
    for (size_t i = 0; i < ARRAY_LEN(want); i++)
        assert_float_equal(supervise_delay(&p, 1, &failures), want[i], 1e-9);
    failures = 6;
    assert_float_equal(supervise_delay(&p, 60, &failures), 0.5, 1e-9);
    assert_int_equal(failures, 1);
    /* One failure allowed, none allowed. */
    const supervise_policy once = {.first_delay = 1, .most_delay = 9, .limit = 1, .healthy = 60}, never = {.first_delay = 1, .most_delay = 9, .healthy = 60};
    failures = 0;
    assert_float_equal(supervise_delay(&once, 0, &failures), 1, 1e-9);
    assert_true(supervise_delay(&once, 0, &failures) < 0);
    failures = 0;
    assert_true(supervise_delay(&never, 0, &failures) < 0);
}

/* ---- real children ---- */

typedef struct heard {
    char text[16384];
    int lines;
} heard;

static void on_line(void *arg, int child, const char *line)
{
    heard *h = arg;
    size_t n = strlen(h->text);
    h->lines++;
    snprintf(h->text + n, sizeof(h->text) - n, "%d:%.200s\n", child, line);
}

static supervise *create(heard *h, int limit)
{
    supervise *s;
    supervise_options o = {.policy = {.first_delay = 0.01, .most_delay = 0.04, .limit = limit, .healthy = 60}, .on_line = on_line, .arg = h};
    assert_int_equal(supervise_create(&o, &s), ST_OK);
    return s;
}

static int start(supervise *s, const char *script)
{
    const char *argv[] = {"sh", "-c", script, NULL}, *env[] = {"SUPERVISE_TEST=here", NULL};
    int index = -1;
    assert_int_equal(supervise_start(s, &(supervise_child){.name = "shell", .argv = argv, .env = env}, &index), ST_OK);
    return index;
}

/* The next event of that kind; fails after 20 s. */
static supervise_event wait_for(supervise *s, supervise_kind kind)
{
    supervise_event e;
    for (double until = log_clock() + 20; log_clock() < until;) {
        assert_int_equal(supervise_wait(s, 100, &e), ST_OK);
        if (e.kind == kind)
            return e;
    }
    fail_msg("no event of kind %d", kind);
    return e;
}

static bool gone(pid_t pid)
{
    for (double until = log_clock() + 10; log_clock() < until; usleep(10000)) {
        char path[64], text[512] = "";
        snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        FILE *f = fopen(path, "r");
        if (f == NULL)
            return true;
        if (fgets(text, sizeof(text), f) == NULL)
            text[0] = '\0';
        fclose(f);
        if (strstr(text, ") Z ") != NULL || text[0] == '\0') /* only its entry is left */
            return true;
    }
    return false;
}

static void lines_come_with_their_child_and_the_last_are_kept(void **state)
{
    (void)state;
    heard h = {0};
    supervise *s = create(&h, 0);
    int a = start(s, "echo out; echo err >&2; echo $SUPERVISE_TEST; cat; printf 'no newline'");
    supervise_event e = wait_for(s, SUPERVISE_ENDED);
    assert_int_equal(e.child, a);
    assert_int_equal(e.exit_code, 0);
    assert_string_equal(h.text, "0:out\n0:err\n0:here\n0:no newline\n");
    assert_string_equal(supervise_last_line(s, a, 0), "no newline");
    assert_string_equal(supervise_last_line(s, a, 3), "out");
    assert_null(supervise_last_line(s, a, 4));
    int b = start(s, "i=0; while [ $i -lt 50 ]; do i=$((i+1)); echo line $i; done; head -c 9000 /dev/zero | tr '\\0' x; echo; printf 'a\\rb\\r\\n'");
    do
        e = wait_for(s, SUPERVISE_ENDED);
    while (e.child != b);
    assert_string_equal(supervise_last_line(s, b, 0), "b");
    assert_string_equal(supervise_last_line(s, b, 1), "a");
    assert_int_equal(strlen(supervise_last_line(s, b, 2)), 4095);
    assert_string_equal(supervise_last_line(s, b, 3), "line 50");
    supervise_destroy(&s);
    assert_null(s);
}

static void a_child_that_keeps_failing_is_given_up(void **state)
{
    (void)state;
    heard h = {0};
    supervise *s = create(&h, 3);
    int a = start(s, "echo trying; exit 7");
    supervise_event e;
    for (int i = 1; i <= 4; i++) {
        e = wait_for(s, SUPERVISE_ENDED);
        assert_int_equal(e.exit_code, 7);
        assert_int_equal(e.delay < 0, i == 4);
        assert_int_equal(supervise_state_of(s, a), i == 4 ? SUPERVISE_GIVEN_UP : SUPERVISE_WAITING);
    }
    assert_int_equal(supervise_starts(s, a), 4);
    assert_string_equal(supervise_last_line(s, a, 0), "trying");
    supervise_destroy(&s);
}

static void a_killed_child_is_started_again_and_a_stopped_one_is_not(void **state)
{
    (void)state;
    heard h = {0};
    supervise *s = create(&h, 3);
    int a = start(s, "if [ -e /proc/self/fd/9 ]; then :; fi; kill -9 $$");
    supervise_event e = wait_for(s, SUPERVISE_ENDED);
    assert_int_equal(e.exit_code, 128 + SIGKILL);
    assert_true(e.delay >= 0);
    supervise_stop(s, a, SIGTERM); /* while it waits */
    assert_int_equal(supervise_state_of(s, a), SUPERVISE_STOPPED);
    int b = start(s, "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done");
    while (strstr(h.text, "up") == NULL)
        supervise_wait(s, 50, &e);
    supervise_stop(s, b, SIGTERM);
    e = wait_for(s, SUPERVISE_ENDED);
    assert_int_equal(e.child, b);
    assert_int_equal(e.exit_code, 0);
    assert_true(e.delay < 0);
    assert_int_equal(supervise_state_of(s, b), SUPERVISE_STOPPED);
    assert_non_null(strstr(h.text, "bye"));
    assert_int_equal(supervise_starts(s, a), 1);
    assert_int_equal(supervise_starts(s, b), 1);
    supervise_destroy(&s);
}

static void what_a_child_leaves_behind_is_killed(void **state)
{
    (void)state;
    heard h = {0};
    supervise *s = create(&h, 0);
    /* One in its group, one that left the group and session, as MPI's ranks do. */
    start(s, "sleep 1000 & echo $!; setsid sleep 1000 & echo $!; exit 1");
    wait_for(s, SUPERVISE_ENDED);
    int first = 0, second = 0;
    assert_int_equal(sscanf(h.text, "0:%d\n0:%d\n", &first, &second), 2);
    assert_true(gone(first));
    supervise_event e;
    supervise_wait(s, 50, &e);
    assert_true(gone(second));
    supervise_destroy(&s);
}

static void destroying_kills_all_generations(void **state)
{
    (void)state;
    heard h = {0};
    supervise *s = create(&h, 0);
    int i = start(s, "setsid sh -c 'setsid sleep 1000 & echo $!; wait' & trap '' TERM; echo $$; wait; sleep 1000"), a = 0, b = 0;
    supervise_event e;
    while (h.lines < 2)
        supervise_wait(s, 50, &e);
    supervise_stop(s, i, SIGTERM); /* ignored */
    assert_int_equal(sscanf(h.text, "0:%d\n0:%d\n", &a, &b), 2);
    supervise_destroy(&s);
    assert_true(gone(a));
    assert_true(gone(b));
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child is left, not even a dead one */
    assert_int_equal(errno, ECHILD);
}

static void children_die_with_the_supervisor(void **state)
{
    (void)state;
    int told[2];
    assert_int_equal(pipe(told), 0);
    pid_t pid = fork();
    if (pid == 0) {
        heard h = {0};
        supervise *s = create(&h, 0);
        start(s, "echo $$; while :; do sleep 0.1; done");
        for (supervise_event e; h.lines == 0;)
            supervise_wait(s, 50, &e);
        if (write(told[1], h.text, strlen(h.text)) < 0)
            _exit(1);
        for (;;)
            pause();
    }
    char text[64] = "";
    int child = 0;
    assert_true(read(told[0], text, sizeof(text) - 1) > 0);
    assert_int_equal(sscanf(text, "0:%d", &child), 1);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_true(gone(child));
    close(told[0]);
    close(told[1]);
}

static void signals_come_as_events_and_are_given_back(void **state)
{
    (void)state;
    heard h = {0};
    supervise *s = create(&h, 0);
    kill(getpid(), SIGTERM);
    assert_int_equal(wait_for(s, SUPERVISE_SIGNAL).signal, SIGTERM);
    kill(getpid(), SIGINT);
    assert_int_equal(wait_for(s, SUPERVISE_SIGNAL).signal, SIGINT);
    /* A child has none of them blocked. */
    start(s, "grep SigBlk /proc/self/status");
    wait_for(s, SUPERVISE_ENDED);
    assert_non_null(strstr(h.text, "SigBlk:\t0000000000000000"));
    supervise_destroy(&s);
    sigset_t now;
    sigprocmask(SIG_SETMASK, NULL, &now);
    assert_false(sigismember(&now, SIGTERM));
}

static void a_program_that_is_not_there_is_told(void **state)
{
    (void)state;
    heard h = {0};
    supervise *s = create(&h, 0);
    const char *argv[] = {"no-such-program-here", NULL};
    int index = -1;
    status_mute();
    assert_int_equal(supervise_start(s, &(supervise_child){.name = "none", .argv = argv}, &index), ST_NOT_FOUND);
    status_unmute();
    assert_non_null(strstr(status_message(), "no-such-program-here"));
    assert_int_equal(supervise_count(s), 0);
    supervise_destroy(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(delays_double_up_to_a_bound_and_health_forgives), cmocka_unit_test(lines_come_with_their_child_and_the_last_are_kept),
        cmocka_unit_test(a_child_that_keeps_failing_is_given_up), cmocka_unit_test(a_killed_child_is_started_again_and_a_stopped_one_is_not),
        cmocka_unit_test(what_a_child_leaves_behind_is_killed), cmocka_unit_test(destroying_kills_all_generations),
        cmocka_unit_test(children_die_with_the_supervisor), cmocka_unit_test(signals_come_as_events_and_are_given_back),
        cmocka_unit_test(a_program_that_is_not_there_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
