/* tests/coordinator/test_up_service.c - what `trireme up` prepares: a private folder, a free port, addresses, quoted text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "coordinator/cli/up_service.h"

static void a_folder_is_private_and_those_of_killed_runs_go(void **state)
{
    (void)state;
    char place[] = "/tmp/test_up_service.XXXXXX", path[256];
    struct stat sb;
    assert_non_null(mkdtemp(place));
    setenv("XDG_RUNTIME_DIR", place, 1);
    up_folder mine, dead = {0};
    int told[2];
    assert_int_equal(pipe(told), 0);
    pid_t pid = fork();
    if (pid == 0) { /* a run that has no time to clean up */
        if (up_folder_create(&dead) != ST_OK || write(told[1], dead.path, strlen(dead.path) + 1) < 0)
            _exit(1);
        snprintf(path, sizeof(path), "%s/keys", dead.path);
        mkdir(path, 0700);
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    assert_true(read(told[0], path, sizeof(path)) > 0);
    assert_true(file_is_dir(path));
    up_folder first;
    assert_int_equal(up_folder_create(&first), ST_OK);
    assert_false(file_exists(path)); /* the dead one's */
    assert_int_equal(stat(first.path, &sb), 0);
    assert_int_equal(sb.st_mode & 0777, 0700);
    assert_int_equal(up_folder_create(&mine), ST_OK);
    assert_true(file_is_dir(first.path)); /* the living one's stays */
    assert_string_not_equal(first.path, mine.path);
    /* What only looks like one: without a lock it may be just beginning. */
    snprintf(path, sizeof(path), "%s/trireme-up.begin", place);
    assert_int_equal(mkdir(path, 0700), 0);
    up_folder_remove(&mine);
    assert_int_equal(up_folder_create(&mine), ST_OK);
    assert_true(file_is_dir(path));
    rmdir(path);
    up_folder_remove(&mine);
    up_folder_remove(&first);
    up_folder_remove(&first);
    assert_int_equal(rmdir(place), 0); /* nothing else is left in it */
    close(told[0]);
    close(told[1]);
}

static void a_port_is_picked_or_refused_with_the_remedy(void **state)
{
    (void)state;
    int32_t port = 0;
    assert_int_equal(up_port_check("127.0.0.1", &port), ST_OK);
    assert_in_range(port, 1, 65535);
    assert_int_equal(up_port_check("127.0.0.1", &port), ST_OK); /* and given back */
    status_mute();
    port = 0;
    assert_int_equal(up_port_check("192.0.2.1", &port), ST_INVALID);
    assert_non_null(strstr(status_message(), "--host"));
    assert_int_equal(up_port_check("no such host", &port), ST_INVALID);
    status_unmute();
}

static void addresses(void **state)
{
    (void)state;
    static const struct { const char *host; bool tls; const char *address, *url; } cases[] = {
        {"127.0.0.1", false, "127.0.0.1:80", "http://127.0.0.1:80"}, {"0.0.0.0", true, "0.0.0.0:80", "https://127.0.0.1:80"},
        {"::", false, "[::]:80", "http://[::1]:80"}, {"::1", true, "[::1]:80", "https://[::1]:80"}, {"gpu.example", false, "gpu.example:80", "http://gpu.example:80"}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        mem_str a = {0}, u = {0};
        up_address(cases[i].host, 80, &a);
        up_url(cases[i].host, 80, cases[i].tls, &u);
        assert_string_equal(a.data, cases[i].address);
        assert_string_equal(u.data, cases[i].url);
        mem_str_free(&a);
        mem_str_free(&u);
    }
}

static void quoting_survives_a_shell(void **state)
{
    (void)state;
    static const char *const texts[] = {"plain", "it's", "a \"b\" $(c) `d` \\ !", "''", ""};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        mem_str s = {0};
        char got[64] = "";
        mem_str_puts(&s, "printf %s ");
        up_quote(texts[i], &s);
        FILE *p = popen(s.data, "r");
        size_t n = fread(got, 1, sizeof(got) - 1, p);
        got[n] = '\0';
        assert_int_equal(pclose(p), 0);
        assert_string_equal(got, texts[i]);
        mem_str_free(&s);
    }
}

static void programs_are_found_in_the_path(void **state)
{
    (void)state;
    char *sh = up_program_find("sh");
    assert_non_null(sh);
    assert_int_equal(access(sh, X_OK), 0);
    free(sh);
    assert_null(up_program_find("no-such-program-here"));
}

static void nobody_there_is_not_ready(void **state)
{
    (void)state;
    int32_t port = 0;
    char url[64];
    up_readiness r;
    assert_int_equal(up_port_check("127.0.0.1", &port), ST_OK);
    snprintf(url, sizeof(url), "http://127.0.0.1:%d", port);
    assert_int_equal(up_ready_ask(url, "key", &r), ST_OK);
    assert_null(r.model);
    assert_int_equal(r.ready, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_folder_is_private_and_those_of_killed_runs_go), cmocka_unit_test(a_port_is_picked_or_refused_with_the_remedy),
        cmocka_unit_test(addresses), cmocka_unit_test(quoting_survives_a_shell), cmocka_unit_test(programs_are_found_in_the_path),
        cmocka_unit_test(nobody_there_is_not_ready),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
