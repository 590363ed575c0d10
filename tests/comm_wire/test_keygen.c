/* tests/comm_wire/test_keygen.c - `trireme keygen` as people and scripts use it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "base/file.h"
#include "pair.h"

static char *dir, output[16384];

/* Runs a shell command in the test's folder, with $T the program; both streams into `output`. */
static int run(const char *command)
{
    char line[2048];
    snprintf(line, sizeof(line), "cd '%s' && export T='%s/trireme' HOME='%s' && unset XDG_CONFIG_HOME && umask 000 && { %s; } 2>&1", dir, TEST_BINARY_DIR, dir, command);
    FILE *p = popen(line, "r");
    assert_non_null(p);
    size_t n = fread(output, 1, sizeof(output) - 1, p);
    output[n] = '\0';
    int st = pclose(p);
    assert_true(WIFEXITED(st));
    return WEXITSTATUS(st);
}

static void expect(const char *command, int code, const char *word)
{
    int got = run(command);
    if (got != code || strstr(output, word) == NULL)
        fail_msg("%s: exit code %d (%d expected), \"%s\" expected in:\n%s", command, got, code, word, output);
}

static int make_dir(void **state)
{
    (void)state;
    dir = test_dir_make();
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    test_dir_remove(&dir);
    return 0;
}

static void keys_are_made_where_they_are_looked_for(void **state)
{
    (void)state;
    expect("$T keygen", 0, "keys of a gateway");
    expect("cd .config/trireme/keys && stat -c '%a %n' . allow gateway gateway.pub replica replica.pub allow/replica.pub | tr '\\n' ';'", 0,
           "700 .;700 allow;600 gateway;644 gateway.pub;600 replica;644 replica.pub;644 allow/replica.pub;");
    expect("sha256sum $(find .config -type f) >before; $T keygen", 2, "not overwritten");
    expect("sha256sum --quiet -c before", 0, "");
    expect("XDG_CONFIG_HOME=$HOME/xdg $T keygen && test -f xdg/trireme/keys/gateway", 0, "xdg/trireme/keys");
    char path[512];
    wire_security gateway, replica;
    snprintf(path, sizeof(path), "%s/.config/trireme/keys", dir);
    assert_int_equal(wire_security_gateway(path, &gateway), ST_OK);
    assert_int_equal(wire_security_replica(path, NULL, &replica), ST_OK);
    assert_string_equal(replica.server_key, gateway.keys.public_key);
    wire_security_clear(&gateway);
    wire_security_clear(&replica);
}

static void replicas_are_added_by_name_and_by_public_key(void **state)
{
    (void)state;
    expect("$T keygen keys --replica node7", 2, "trireme keygen keys");
    expect("$T keygen keys && $T keygen keys --replica node7", 0, "gateway.pub");
    expect("$T keygen keys --replica node7", 2, "not overwritten");
    expect("cmp keys/node7.pub keys/allow/node7.pub", 0, "");
    expect("$T keygen keys --replica ../node8", 2, "cannot name");
    expect("$T keygen other && cp other/replica.pub node9.pub && $T keygen keys --allow node9.pub && cmp node9.pub keys/allow/node9.pub", 0, "admitted");
    expect("$T keygen keys --allow other/replica", 2, "NAME.pub");
    expect("echo nonsense >bad.pub; $T keygen keys --allow bad.pub", 2, "bad.pub");
    expect("cp other/replica secret.pub && $T keygen keys --allow secret.pub && ! grep -q secret keys/allow/secret.pub", 0, "admitted"); /* the public half alone */
    expect("$T keygen keys --allow node9.pub --replica x", 2, "either");
    expect("$T keygen a b", 2, "once");
    expect("mkdir open && chmod 777 open && $T keygen open", 2, "chmod go-w");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(keys_are_made_where_they_are_looked_for, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(replicas_are_added_by_name_and_by_public_key, make_dir, remove_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
