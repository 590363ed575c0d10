/* tests/gateway/test_cli_apikey.c - `trireme apikey` as a person and a script use it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "coordinator/gateway/auth.h"

static char dir[] = "/tmp/trireme-apikey-XXXXXX", file[64], output[1 << 16];

/* Runs `trireme apikey ARGS`, "@" in them being the file; its standard output, or with `errors` all of it, into `output`. */
static int run(const char *args, bool errors)
{
    char command[1024];
    const char *at = strchr(args, '@');
    snprintf(command, sizeof(command), "%s/trireme apikey %.*s%s%s %s", TEST_BINARY_DIR, at != NULL ? (int)(at - args) : (int)strlen(args), args, at != NULL ? file : "", at != NULL ? at + 1 : "",
             errors ? "2>&1" : "2>/dev/null");
    FILE *p = popen(command, "r");
    assert_non_null(p);
    size_t n = fread(output, 1, sizeof(output) - 1, p);
    output[n] = '\0';
    int st = pclose(p);
    assert_true(WIFEXITED(st));
    return WEXITSTATUS(st);
}

static void a_key_is_printed_alone_and_opens(void **state)
{
    (void)state;
    assert_int_equal(run("add @ alice --requests 60 --tokens 5000 --concurrent 2", false), 0);
    output[strcspn(output, "\n")] = '\0';
    assert_memory_equal(output, "sk-", 3);
    auth *a;
    auth_key k;
    assert_int_equal(auth_create(&(auth_options){.path = file}, &a), ST_OK);
    assert_int_equal(auth_check(a, NULL, output, &k), AUTH_OK);
    assert_string_equal(k.name, "alice");
    auth_destroy(&a);
    char *key = strdup(output);
    assert_int_equal(run("add @ root --admin", false), 0);
    assert_int_equal(run("list @", true), 0);
    assert_non_null(strstr(output, "alice  requests/min 60  tokens/min 5000  at once 2\n"));
    assert_non_null(strstr(output, "root  admin\n"));
    assert_null(strstr(output, key)); /* never again */
    free(key);
    assert_int_equal(run("remove @ alice", false), 0);
    assert_int_equal(run("list @", false), 0);
    assert_string_equal(output, "root  admin\n");
}

static void wrong_use_says_so_and_exits_with_2(void **state)
{
    (void)state;
    static const struct {
        const char *args, *says;
    } cases[] = {{"", "give add, list or remove"},        {"drop @ x", "give add, list or remove"},     {"add", "a file of keys is needed"}, {"add @", "a name is needed"},
                 {"add @ root", "already"},               {"add @ a/b", "letters"},                     {"remove @ nobody", "no key named"}, {"list @ x", "unexpected argument"},
                 {"add @ b --requests 0", "--requests"},  {"remove @ root --admin", "limits go with add"}, {"add @ b c", "unexpected argument"},
                 {"list /nonexistent/keys", "/nonexistent/keys"}, {"remove /nonexistent/keys x", "no such file"}, {"list " TEST_SOURCE_DIR "/CMakeLists.txt", "not a file of API keys"}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int code = run(cases[i].args, true);
        if (code != 2 || strstr(output, cases[i].says) == NULL)
            fail_msg("apikey %s: exit code %d, %s", cases[i].args, code, output);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_key_is_printed_alone_and_opens),
        cmocka_unit_test(wrong_use_says_so_and_exits_with_2),
    };
    char command[128];
    if (mkdtemp(dir) == NULL)
        return 1;
    snprintf(file, sizeof(file), "%s/keys", dir);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(command, sizeof(command), "rm -r %s", dir);
    return failed | system(command);
}
