/* tests/gateway/test_auth.c - API keys: who is let in, what the file may hold, and that a change of it is seen; limits per key. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/log.h"
#include "coordinator/gateway/auth.h"
#include "coordinator/gateway/limits.h"

static char dir[] = "/tmp/trireme-auth-XXXXXX", path[64];

static int setup(void **state)
{
    (void)state;
    snprintf(path, sizeof(path), "%s/keys", dir);
    unlink(path);
    return 0;
}

static void check(auth *a, const char *key, auth_verdict want, const char *name)
{
    char header[300];
    auth_key k;
    snprintf(header, sizeof(header), "Bearer %s", key);
    assert_int_equal(auth_check(a, header, NULL, &k), want);
    assert_int_equal(auth_check(a, NULL, key, &k), want);
    if (want == AUTH_OK) {
        assert_string_equal(k.name, name);
        assert_string_equal(auth_name(a, k.number), name);
    }
}

static void only_the_keys_of_the_file_open(void **state)
{
    (void)state;
    char one[AUTH_KEY_TEXT], two[AUTH_KEY_TEXT];
    auth *a;
    auth_key k;
    assert_int_equal(auth_file_add(path, "one", &(auth_limits){0}, false, one), ST_OK);
    assert_int_equal(auth_file_add(path, "two", &(auth_limits){.requests_per_min = 5, .tokens_per_min = 600, .max_concurrent = 2}, true, two), ST_OK);
    assert_string_not_equal(one, two);
    assert_int_equal(strlen(one), 46);
    assert_int_equal(auth_create(&(auth_options){.path = path}, &a), ST_OK);
    assert_true(auth_required(a));
    check(a, one, AUTH_OK, "one");
    check(a, two, AUTH_OK, "two");
    assert_int_equal(auth_check(a, NULL, two, &k), AUTH_OK);
    assert_true(k.admin && k.limits.requests_per_min == 5 && k.limits.tokens_per_min == 600 && k.limits.max_concurrent == 2);
    one[45] = one[45] == 'A' ? 'B' : 'A';
    check(a, one, AUTH_WRONG, NULL);
    check(a, "x", AUTH_WRONG, NULL);
    assert_int_equal(auth_check(a, NULL, NULL, &k), AUTH_MISSING);
    assert_int_equal(auth_check(a, "Basic abc", NULL, &k), AUTH_MISSING);
    assert_int_equal(auth_check(a, "Bearer ", NULL, &k), AUTH_MISSING);
    char longest[1000];
    memset(longest, 'k', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    assert_int_equal(auth_check(a, NULL, longest, &k), AUTH_WRONG);
    auth_destroy(&a);
}

static void the_file_holds_no_key_and_is_private(void **state)
{
    (void)state;
    char key[AUTH_KEY_TEXT], *text;
    size_t n;
    struct stat sb;
    assert_int_equal(auth_file_add(path, "one", &(auth_limits){0}, false, key), ST_OK);
    assert_int_equal(file_read_all(path, 1 << 20, &text, &n), ST_OK);
    assert_null(strstr(text, key + 3));
    free(text);
    assert_int_equal(stat(path, &sb), 0);
    assert_int_equal(sb.st_mode & 0777, 0600);
    chmod(path, 0666);
    auth *a;
    status_mute();
    assert_int_equal(auth_create(&(auth_options){.path = path}, &a), ST_INVALID);
    status_unmute();
}

static void a_change_of_the_file_is_seen_and_a_broken_one_changes_nothing(void **state)
{
    (void)state;
    char one[AUTH_KEY_TEXT], two[AUTH_KEY_TEXT];
    auth *a;
    auth_key k;
    assert_int_equal(auth_file_add(path, "one", &(auth_limits){0}, false, one), ST_OK);
    assert_int_equal(auth_create(&(auth_options){.path = path}, &a), ST_OK);
    assert_int_equal(auth_check(a, NULL, one, &k), AUTH_OK);
    int32_t number = k.number;
    assert_int_equal(auth_file_add(path, "two", &(auth_limits){0}, false, two), ST_OK);
    assert_int_equal(auth_reload(a), ST_OK);
    check(a, two, AUTH_OK, "two");
    assert_int_equal(auth_check(a, NULL, one, &k), AUTH_OK);
    assert_int_equal(k.number, number); /* limits go by it */
    assert_int_equal(auth_file_remove(path, "one"), ST_OK);
    for (int i = 0; i < 300 && auth_check(a, NULL, one, &k) == AUTH_OK; i++) /* without auth_reload, too */
        usleep(10000);
    check(a, one, AUTH_WRONG, NULL);
    check(a, two, AUTH_OK, "two");
    assert_string_equal(auth_name(a, number), "one");
    assert_int_equal(file_write_all(path, "rubbish", 7, 0600), ST_OK);
    status_mute();
    assert_int_equal(auth_reload(a), ST_FORMAT);
    unlink(path);
    assert_int_equal(auth_reload(a), ST_NOT_FOUND);
    status_unmute();
    check(a, two, AUTH_OK, "two");
    auth_destroy(&a);
}

static void a_key_may_be_given_and_replaced(void **state)
{
    (void)state;
    auth *a;
    assert_int_equal(auth_file_set(path, "mine", &(auth_limits){0}, true, "my-own-key"), ST_OK);
    assert_int_equal(auth_create(&(auth_options){.path = path}, &a), ST_OK);
    check(a, "my-own-key", AUTH_OK, "mine");
    assert_int_equal(auth_file_set(path, "mine", &(auth_limits){0}, true, "another"), ST_OK);
    assert_int_equal(auth_reload(a), ST_OK);
    check(a, "my-own-key", AUTH_WRONG, NULL);
    check(a, "another", AUTH_OK, "mine");
    auth_destroy(&a);
    status_mute();
    assert_int_equal(auth_file_set(path, "mine", &(auth_limits){0}, true, ""), ST_INVALID);
    assert_int_equal(auth_file_set(path, "mine", &(auth_limits){0}, true, "a b"), ST_INVALID);
    status_unmute();
}

static void comments_survive_a_change(void **state)
{
    (void)state;
    char key[AUTH_KEY_TEXT], *text;
    size_t n;
    assert_int_equal(auth_file_add(path, "one", &(auth_limits){0}, false, key), ST_OK);
    assert_int_equal(file_read_all(path, 1 << 20, &text, &n), ST_OK);
    mem_str with = {0};
    mem_str_printf(&with, "%s\n  # of the night shift\n", text);
    free(text);
    assert_int_equal(file_write_all(path, with.data, with.len, 0600), ST_OK);
    mem_str_free(&with);
    assert_int_equal(auth_file_add(path, "one.more", &(auth_limits){0}, false, key), ST_OK);
    assert_int_equal(auth_file_remove(path, "one"), ST_OK);
    assert_int_equal(file_read_all(path, 1 << 20, &text, &n), ST_OK);
    assert_non_null(strstr(text, "# of the night shift\n"));
    assert_non_null(strstr(text, "\none.more "));
    assert_null(strstr(text, "\none "));
    free(text);
}

static void what_is_wrong_with_a_file_is_said(void **state)
{
    (void)state;
    static const char salt[] = "trireme-keys 1 00112233445566778899aabbccddeeff\n";
    static const char digest[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    static const struct {
        const char *head, *line, *says;
        status st;
    } cases[] = {{"", "", "not a file of API keys", ST_FORMAT},
                 {"trireme-keys 2 00\n", "", "newer", ST_UNSUPPORTED},
                 {"trireme-keys 1 0011\n", "", "line 1", ST_FORMAT},
                 {salt, "one", "line 2", ST_FORMAT},
                 {salt, "one 0123", "line 2", ST_FORMAT},
                 {salt, "o/e D", "line 2", ST_FORMAT},
                 {salt, "one D requests=0", "requests=0", ST_FORMAT},
                 {salt, "one D tokens=-1", "tokens=-1", ST_FORMAT},
                 {salt, "one D concurrent=99999999999", "concurrent", ST_FORMAT},
                 {salt, "one D speed=9", "speed=9", ST_FORMAT},
                 {salt, "one D\none D", "twice", ST_FORMAT},
                 {salt, "one D\ntwo D", "another name", ST_FORMAT}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        mem_str text = {0};
        auth *a;
        mem_str_puts(&text, cases[i].head);
        for (const char *p = cases[i].line; *p != '\0'; p++)
            *p == 'D' ? mem_str_puts(&text, digest) : mem_str_putc(&text, *p);
        assert_int_equal(file_write_all(path, text.len > 0 ? text.data : "", text.len, 0600), ST_OK);
        mem_str_free(&text);
        status_mute();
        assert_int_equal(auth_create(&(auth_options){.path = path}, &a), cases[i].st);
        status_unmute();
        assert_non_null(strstr(status_message(), cases[i].says));
    }
}

/* Damaged in every way: read or refused with a reason, and what is read holds no more than was there. */
static void a_damaged_file_does_no_harm(void **state)
{
    (void)state;
    static const char alphabet[] = " \t\r\n#=0123456789abcdefxyz.-_\xff";
    char key[AUTH_KEY_TEXT], *text;
    size_t n;
    for (int i = 0; i < 4; i++) {
        snprintf(key, sizeof(key), "name-%d", i);
        char drawn[AUTH_KEY_TEXT];
        assert_int_equal(auth_file_add(path, key, &(auth_limits){.requests_per_min = 10, .tokens_per_min = 20, .max_concurrent = 3}, i == 0, drawn), ST_OK);
    }
    assert_int_equal(file_read_all(path, 1 << 20, &text, &n), ST_OK);
    uint64_t seed = 7;
    int read = 0;
    status_mute();
    for (int i = 0; i < 3000; i++) {
        char *copy = malloc(n + 1);
        memcpy(copy, text, n + 1);
        for (int k = 0; k < 1 + i % 4; k++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            copy[(seed >> 33) % n] = alphabet[(seed >> 20) % sizeof(alphabet)];
        }
        FILE *f = fopen(path, "w");
        fwrite(copy, 1, i % 5 == 0 ? (size_t)((seed >> 30) % n) : n, f);
        fclose(f);
        free(copy);
        auth *a;
        status st = auth_create(&(auth_options){.path = path}, &a);
        assert_true(st == ST_OK || st == ST_FORMAT || st == ST_UNSUPPORTED);
        read += st == ST_OK;
        if (st == ST_OK) {
            auth_key k;
            assert_int_equal(auth_check(a, NULL, "sk-none", &k), AUTH_WRONG);
            auth_destroy(&a);
        }
    }
    status_unmute();
    assert_true(read > 0 && read < 3000);
    free(text);
}

static void without_keys_everybody_is_let_in_but_not_as_admin(void **state)
{
    (void)state;
    auth *a;
    auth_key k;
    assert_int_equal(auth_create(&(auth_options){0}, &a), ST_OK);
    assert_false(auth_required(a));
    assert_int_equal(auth_check(a, NULL, NULL, &k), AUTH_OK);
    assert_false(k.admin);
    auth_destroy(&a);
    assert_int_equal(auth_create(&(auth_options){.single = "secret"}, &a), ST_OK);
    check(a, "secret", AUTH_OK, "default");
    check(a, "secre", AUTH_WRONG, NULL);
    auth_destroy(&a);
}

/* ---- limits ---- */

#define S 1000000000ull

static void requests_are_refused_beyond_the_rate_and_admitted_again(void **state)
{
    (void)state;
    limits *l;
    auth_key k = {.number = 3, .limits = {.requests_per_min = 6}};
    int retry;
    assert_int_equal(limits_create(&l), ST_OK);
    for (int i = 0; i < 6; i++)
        assert_int_equal(limits_admit(l, &k, 100 * S, &retry), LIMITS_OK);
    assert_int_equal(limits_admit(l, &k, 100 * S, &retry), LIMITS_REQUESTS);
    assert_int_equal(retry, 10);
    assert_int_equal(limits_admit(l, &k, 100 * S + retry * S - S / 2, &retry), LIMITS_REQUESTS);
    assert_int_equal(limits_admit(l, &k, 110 * S, &retry), LIMITS_OK);
    assert_int_equal(limits_admit(l, &k, 110 * S, &retry), LIMITS_REQUESTS);
    auth_key other = {.number = 4, .limits = {.requests_per_min = 6}};
    assert_int_equal(limits_admit(l, &other, 110 * S, &retry), LIMITS_OK); /* another key is not touched */
    limits_destroy(&l);
}

static void tokens_charged_beyond_the_bucket_are_a_debt(void **state)
{
    (void)state;
    limits *l;
    limits_state left;
    auth_key k = {.number = 0, .limits = {.tokens_per_min = 60}};
    int retry;
    assert_int_equal(limits_create(&l), ST_OK);
    assert_int_equal(limits_admit(l, &k, S, &retry), LIMITS_OK);
    limits_charge(l, 0, 50, S);
    limits_state_get(l, &k, S, &left);
    assert_int_equal(left.tokens_left, 10);
    assert_int_equal(limits_admit(l, &k, S, &retry), LIMITS_OK);
    limits_charge(l, 0, 40, S); /* 30 in debt */
    assert_int_equal(limits_admit(l, &k, S, &retry), LIMITS_TOKENS);
    assert_int_equal(retry, 31);
    assert_int_equal(limits_admit(l, &k, 30 * S, &retry), LIMITS_TOKENS);
    assert_int_equal(limits_admit(l, &k, 32 * S, &retry), LIMITS_OK);
    limits_state_get(l, &k, 1000 * S, &left);
    assert_int_equal(left.tokens_left, 60); /* never more than a minute's worth */
    limits_destroy(&l);
}

static void as_many_run_at_once_as_allowed(void **state)
{
    (void)state;
    limits *l;
    auth_key k = {.number = 1, .limits = {.max_concurrent = 2, .requests_per_min = 100}};
    limits_state left;
    int retry;
    assert_int_equal(limits_create(&l), ST_OK);
    assert_int_equal(limits_admit(l, &k, 0, &retry), LIMITS_OK);
    assert_int_equal(limits_admit(l, &k, 0, &retry), LIMITS_OK);
    assert_int_equal(limits_admit(l, &k, 0, &retry), LIMITS_CONCURRENT);
    assert_true(retry >= 1);
    limits_release(l, 1);
    assert_int_equal(limits_admit(l, &k, 0, &retry), LIMITS_OK);
    limits_state_get(l, &k, 0, &left);
    assert_int_equal(left.running, 2);
    assert_int_equal(left.requests_left, 97); /* what was refused took nothing */
    limits_destroy(&l);
}

static void a_new_limit_applies_at_once(void **state)
{
    (void)state;
    limits *l;
    auth_key k = {.number = 0};
    int retry;
    assert_int_equal(limits_create(&l), ST_OK);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(limits_admit(l, &k, 0, &retry), LIMITS_OK);
    k.limits.requests_per_min = 1;
    assert_int_equal(limits_admit(l, &k, 0, &retry), LIMITS_OK);
    assert_int_equal(limits_admit(l, &k, 0, &retry), LIMITS_REQUESTS);
    limits_destroy(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(only_the_keys_of_the_file_open, setup),
        cmocka_unit_test_setup(the_file_holds_no_key_and_is_private, setup),
        cmocka_unit_test_setup(a_change_of_the_file_is_seen_and_a_broken_one_changes_nothing, setup),
        cmocka_unit_test_setup(a_key_may_be_given_and_replaced, setup),
        cmocka_unit_test_setup(comments_survive_a_change, setup),
        cmocka_unit_test_setup(what_is_wrong_with_a_file_is_said, setup),
        cmocka_unit_test_setup(a_damaged_file_does_no_harm, setup),
        cmocka_unit_test(without_keys_everybody_is_let_in_but_not_as_admin),
        cmocka_unit_test(requests_are_refused_beyond_the_rate_and_admitted_again),
        cmocka_unit_test(tokens_charged_beyond_the_bucket_are_a_debt),
        cmocka_unit_test(as_many_run_at_once_as_allowed),
        cmocka_unit_test(a_new_limit_applies_at_once),
    };
    log_level_set(LOG_WARN);
    if (mkdtemp(dir) == NULL)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char lock[80];
    snprintf(lock, sizeof(lock), "%s.lock", path);
    unlink(path);
    unlink(lock);
    rmdir(dir);
    return failed;
}
