/* tests/comm_wire/test_wire_keys.c - key files: secret ones stay secret, nothing is overwritten, what is wrong is named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "pair.h"

static char *dir;

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

static const char *in_dir(const char *name)
{
    static char paths[4][512];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof(paths[0]), "%s/%s", dir, name);
    return path;
}

static unsigned mode_of(const char *path)
{
    struct stat sb;
    assert_int_equal(stat(path, &sb), 0);
    return sb.st_mode & 07777;
}

static void write_file(const char *path, unsigned mode, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    assert_int_equal(chmod(path, mode), 0);
}

static void refuses(status st, status want, const char *word)
{
    if (st != want || strstr(status_message(), word) == NULL)
        fail_msg("status %d (%d expected), \"%s\" expected in: %s", st, want, word, status_message());
}

static void a_pair_is_read_as_written(void **state)
{
    (void)state;
    wire_keys keys, again;
    char public_key[WIRE_KEY];
    umask(0);
    assert_int_equal(wire_keys_create(&keys), ST_OK);
    assert_int_equal(wire_keys_write(in_dir("pair"), &keys), ST_OK);
    umask(022);
    assert_int_equal(mode_of(in_dir("pair")), 0600);
    assert_int_equal(mode_of(in_dir("pair.pub")), 0644);
    assert_int_equal(wire_keys_read(in_dir("pair"), &again), ST_OK);
    assert_string_equal(again.public_key, keys.public_key);
    assert_string_equal(again.secret_key, keys.secret_key);
    assert_int_equal(wire_public_key_read(in_dir("pair.pub"), public_key), ST_OK);
    assert_string_equal(public_key, keys.public_key);
    char *text;
    size_t n;
    assert_int_equal(file_read_all(in_dir("pair.pub"), 4096, &text, &n), ST_OK);
    assert_null(strstr(text, keys.secret_key));
    free(text);
}

static void nothing_is_overwritten(void **state)
{
    (void)state;
    wire_keys keys, other;
    assert_int_equal(wire_keys_create(&keys), ST_OK);
    assert_int_equal(wire_keys_create(&other), ST_OK);
    assert_int_equal(wire_keys_write(in_dir("pair"), &keys), ST_OK);
    refuses(wire_keys_write(in_dir("pair"), &other), ST_INVALID, "not overwritten");
    unlink(in_dir("pair.pub"));
    refuses(wire_keys_write(in_dir("pair"), &other), ST_INVALID, "not overwritten");
    assert_false(file_exists(in_dir("pair.pub"))); /* no half of a pair that was not written */
    assert_int_equal(wire_keys_read(in_dir("pair"), &other), ST_OK);
    assert_string_equal(other.secret_key, keys.secret_key);
}

static void a_secret_that_others_may_read_is_refused(void **state)
{
    (void)state;
    static const unsigned modes[] = {0604, 0640, 0644, 0660, 0602, 0610};
    wire_keys keys;
    assert_int_equal(wire_keys_create(&keys), ST_OK);
    assert_int_equal(wire_keys_write(in_dir("pair"), &keys), ST_OK);
    for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
        assert_int_equal(chmod(in_dir("pair"), modes[i]), 0);
        refuses(wire_keys_read(in_dir("pair"), &keys), ST_INVALID, "chmod 600");
    }
    assert_int_equal(chmod(in_dir("pair"), 0400), 0);
    assert_int_equal(wire_keys_read(in_dir("pair"), &keys), ST_OK);
}

#define P "public-key = \"Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID\"\n"
#define S "secret-key = \"D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs\"\n" /* the pair of libzmq's own documentation */

static void broken_files_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *text, *word;
        status st;
    } cases[] = {
        {"", "public-key", ST_FORMAT},
        {"# public-key = \"Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID\"\n", "public-key", ST_FORMAT},
        {"public-key = \"short\"\n" S, "40 letters", ST_FORMAT},
        {"public-key = \"Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hI~\"\n" S, "40 letters", ST_FORMAT},
        {P, "public key alone", ST_FORMAT},
        {"public-key = \"D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs\"\n" S, "does not belong", ST_FORMAT},
        {"metadata\n    format = \"2\"\ncurve\n    " P "    " S, "upgrade", ST_UNSUPPORTED},
    };
    wire_keys keys;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        write_file(in_dir("key"), 0600, cases[i].text);
        refuses(wire_keys_read(in_dir("key"), &keys), cases[i].st, cases[i].word);
    }
    write_file(in_dir("key"), 0600, "#   Written by CZMQ\n\nmetadata\n    name = \"x\"\ncurve\n    " P "    " S);
    assert_int_equal(wire_keys_read(in_dir("key"), &keys), ST_OK);
    assert_string_equal(keys.public_key, "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID");
    refuses(wire_keys_read(in_dir("none"), &keys), ST_NOT_FOUND, "none");
    char *large = calloc(1, 70000);
    assert_non_null(large);
    memset(large, '\n', 69999);
    write_file(in_dir("key"), 0600, large);
    refuses(wire_keys_read(in_dir("key"), &keys), ST_LIMIT, "key");
    free(large);
}

static void a_folder_of_keys_serves_both_ends(void **state)
{
    (void)state;
    wire_security gateway, replica;
    const char *keys = in_dir("new/keys");
    refuses(wire_security_gateway(keys, &gateway), ST_NOT_FOUND, "trireme keygen");
    assert_int_equal(wire_keys_dir_create(keys), ST_OK);
    assert_int_equal(mode_of(keys), 0700);
    refuses(wire_keys_dir_create(keys), ST_INVALID, "not overwritten");
    assert_int_equal(wire_security_gateway(keys, &gateway), ST_OK);
    assert_int_equal(wire_security_replica(keys, NULL, &replica), ST_OK);
    assert_string_equal(replica.server_key, gateway.keys.public_key);
    assert_false(gateway.plain || replica.plain);
    char public_key[WIRE_KEY];
    assert_int_equal(wire_public_key_read(in_dir("new/keys/allow/replica.pub"), public_key), ST_OK);
    assert_string_equal(public_key, replica.keys.public_key);
    wire_security_clear(&replica);
    assert_int_equal(wire_keys_dir_add(keys, "node7"), ST_OK);
    refuses(wire_keys_dir_add(keys, "node7"), ST_INVALID, "not overwritten");
    assert_int_equal(wire_security_replica(keys, "node7", &replica), ST_OK);
    assert_int_equal(wire_keys_dir_allow(keys, "node8", in_dir("new/keys/node7.pub")), ST_OK);
    assert_true(file_exists(in_dir("new/keys/allow/node8.pub")));
    static const char *const wrong[] = {"", ".", "..", "../up", "a/b", "gateway", "allow", "x.pub", "-x", "with space", "\xc3\xa4"};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        refuses(wire_keys_dir_add(keys, wrong[i]), ST_INVALID, "cannot name");
    wire_security_clear(&gateway);
    wire_security_clear(&replica);
    assert_int_equal(replica.keys.secret_key[0], 0);
}

static void a_folder_that_others_write_into_is_no_place_for_keys(void **state)
{
    (void)state;
    assert_int_equal(chmod(dir, 0777), 0);
    refuses(wire_keys_dir_create(dir), ST_INVALID, "chmod go-w");
    assert_int_equal(chmod(dir, 0755), 0);
    assert_int_equal(wire_keys_dir_create(dir), ST_OK);
    assert_int_equal(mode_of(dir), 0755); /* the user's own folder is left as it was */
}

static void the_standard_folder_follows_the_environment(void **state)
{
    (void)state;
    char *path;
    setenv("HOME", "/users/someone", 1);
    setenv("XDG_CONFIG_HOME", "/etc/xdg", 1);
    assert_int_equal(wire_keys_dir_default(&path), ST_OK);
    assert_string_equal(path, "/etc/xdg/trireme/keys");
    free(path);
    setenv("XDG_CONFIG_HOME", "relative", 1);
    assert_int_equal(wire_keys_dir_default(&path), ST_OK);
    assert_string_equal(path, "/users/someone/.config/trireme/keys");
    free(path);
    unsetenv("XDG_CONFIG_HOME");
    assert_int_equal(wire_keys_dir_default(&path), ST_OK);
    assert_string_equal(path, "/users/someone/.config/trireme/keys");
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_pair_is_read_as_written, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(nothing_is_overwritten, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(a_secret_that_others_may_read_is_refused, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(broken_files_are_named, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(a_folder_of_keys_serves_both_ends, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(a_folder_that_others_write_into_is_no_place_for_keys, make_dir, remove_dir),
        cmocka_unit_test(the_standard_folder_follows_the_environment),
    };
    status_mute();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
