/* tests/shard_files/test_hub.c - downloads from a hub on this machine (hub_server.py): the cache's layout, what is sent to whom, and everything that can
 * go wrong. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/log.h"
#include "shard/hub.h"
#include "tests/shard_files/make.h"

#define COMMIT "0123456789abcdef0123456789abcdef01234567"

typedef struct hub {
    char *folder, *log, *cache;
    int in, port;
    pid_t pid;
} hub;

static hub the; /* one server for all tests; each test has a cache of its own */

static int start(void **state)
{
    (void)state;
    int in[2], out[2], cdn;
    char text[64] = "";
    the.folder = make_folder();
    the.log = make_path(the.folder, "log");
    assert_int_equal(pipe(in) | pipe(out), 0);
    the.pid = fork();
    if (the.pid == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        close(in[1]);
        close(out[0]);
        execlp("python3", "python3", TEST_SOURCE_DIR "/shard_files/hub_server.py", the.log, (char *)NULL);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    the.in = in[1];
    FILE *said = fdopen(out[0], "r");
    char *line = fgets(text, sizeof(text), said);
    fclose(said);
    if (line == NULL || sscanf(text, "%d %d", &the.port, &cdn) != 2)
        return 1;
    char endpoint[64];
    snprintf(endpoint, sizeof(endpoint), "http://127.0.0.1:%d/", the.port);
    setenv("HF_ENDPOINT", endpoint, 1);
    setenv("HF_HOME", the.folder, 1);
    setenv("no_proxy", "127.0.0.1", 1);
    unsetenv("HF_HUB_OFFLINE");
    unsetenv("HF_TOKEN");
    return 0;
}

static int stop(void **state)
{
    (void)state;
    close(the.in);
    waitpid(the.pid, NULL, 0);
    make_remove(the.folder);
    free(the.folder);
    free(the.log);
    return 0;
}

static int fresh(void **state)
{
    (void)state;
    static int number;
    char name[32];
    snprintf(name, sizeof(name), "cache-%d", number++);
    the.cache = make_path(the.folder, name);
    setenv("HF_HUB_CACHE", the.cache, 1);
    make_text(the.folder, "log", "");
    return 0;
}

static int forget(void **state)
{
    (void)state;
    free(the.cache);
    the.cache = NULL;
    return 0;
}

static status pull(const char *model, const shard_hub_options *options, shard_hub_result *out)
{
    static const shard_hub_options none;
    shard_hub_name name;
    assert_true(shard_hub_name_parse(model, &name));
    status_mute();
    status st = shard_hub_fetch(&name, options == NULL ? &none : options, out);
    status_unmute();
    return st;
}

static void pull_ok(const char *model, shard_hub_result *out)
{
    if (pull(model, NULL, out) != ST_OK)
        fail_msg("%s: %s", model, status_message());
}

static void release(shard_hub_result *r)
{
    free(r->path);
    free(r->commit);
}

static char *read_log(void)
{
    char *text;
    size_t len;
    assert_int_equal(file_read_all(the.log, 1 << 20, &text, &len), ST_OK);
    return text;
}

static int count_lines(const char *log, const char *needle)
{
    int n = 0;
    for (const char *p = log; (p = strstr(p, needle)) != NULL; p++)
        n++;
    return n;
}

/* A path under the cache of org/REPO. */
static bool there(const char *repo, const char *relative)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/models--org--%s/%s", the.cache, repo, relative);
    return file_exists(path);
}

static void expect_fails(const char *model, status want, const char *says)
{
    shard_hub_result r;
    status st = pull(model, NULL, &r);
    if (st != want || strstr(status_message(), says) == NULL)
        fail_msg("%s: status %d, wanted %d and \"%s\"; message: %s", model, st, want, says, status_message());
}

/* ---- tests ---- */

static void names_are_told_from_paths(void **state)
{
    (void)state;
    static const char *const good[] = {"org/name", "a-b/c.d_e", "org/name:file.gguf", "org/name:Q4_K_M", "org/name:sub/file.gguf"};
    static const char *const bad[] = {"", "name", "/abs/path", "./x", "../x/y", "a/b/c", "org/..", "../name", "org/na--me", "org/-name", "org/name.",
                                      "org/na me", "org/name:", "org/name:../x", "org/name:/x", "org/name:a\nb", "or\\g/name", "org/name:.hidden"};
    shard_hub_name n;
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        assert_true(shard_hub_name_parse(good[i], &n));
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        if (shard_hub_name_parse(bad[i], &n))
            fail_msg("\"%s\" was taken for a hub name", bad[i]);
    }
    assert_true(shard_hub_name_parse("org/name:Q4_K_M", &n));
    assert_string_equal(n.repo, "org/name");
    assert_string_equal(n.file, "Q4_K_M");
}

static void a_repository_fills_the_cache(void **state)
{
    (void)state;
    shard_hub_result r;
    char link[512];
    setenv("HF_TOKEN", "secret", 1);
    pull_ok("org/good", &r);
    unsetenv("HF_TOKEN");
    assert_string_equal(r.commit, COMMIT);
    assert_non_null(strstr(r.path, "/models--org--good/snapshots/" COMMIT));
    assert_int_equal(r.files, 5);
    assert_int_equal(r.files_downloaded, 5);
    assert_true(there("good", "refs/main"));
    assert_true(there("good", "snapshots/" COMMIT "/model.safetensors"));
    assert_true(there("good", "snapshots/" COMMIT "/additional_chat_templates/tool use.jinja"));
    assert_false(there("good", "snapshots/" COMMIT "/pytorch_model.bin")); /* not needed */
    char *file = make_path(r.path, "model.safetensors");
    ssize_t n = readlink(file, link, sizeof(link) - 1);
    assert_true(n > 64);
    link[n] = '\0';
    assert_memory_equal(link, "../../blobs/", 12);
    free(file);
    /* The token went to the hub, and nowhere else. */
    char *log = read_log();
    assert_int_equal(count_lines(log, "cdn GET"), 1);
    assert_int_equal(count_lines(log, "auth=secret"), count_lines(log, "hub GET"));
    assert_int_equal(count_lines(log, "auth=-"), 1);
    free(log);
    release(&r);

    /* Again: one request, no file. */
    make_text(the.folder, "log", "");
    pull_ok("org/good", &r);
    assert_int_equal(r.files_downloaded, 0);
    assert_int_equal(r.bytes_downloaded, 0);
    log = read_log();
    assert_int_equal(count_lines(log, " GET "), 1);
    free(log);
    release(&r);

    /* By commit: none at all. */
    make_text(the.folder, "log", "");
    assert_int_equal(pull("org/good", &(shard_hub_options){.revision = COMMIT}, &r), ST_OK);
    log = read_log();
    assert_string_equal(log, "");
    free(log);
    release(&r);
}

static void the_token_file_is_used(void **state)
{
    (void)state;
    shard_hub_result r;
    make_text(the.folder, "token", "from-file\n");
    assert_int_equal(pull("org/good", &(shard_hub_options){.config_only = true}, &r), ST_OK);
    char *token = make_path(the.folder, "token"), *log = read_log();
    assert_true(count_lines(log, "auth=from-file") > 0);
    assert_int_equal(count_lines(log, "cdn"), 0); /* configuration only: no weights */
    unlink(token);
    free(token);
    free(log);
    release(&r);
    setenv("HF_TOKEN", "two\nlines", 1);
    expect_fails("org/good", ST_INVALID, "token");
    unsetenv("HF_TOKEN");
}

static void offline_uses_the_cache_alone(void **state)
{
    (void)state;
    shard_hub_result r;
    setenv("HF_HUB_OFFLINE", "1", 1);
    expect_fails("org/good", ST_NOT_FOUND, "trireme pull org/good");
    unsetenv("HF_HUB_OFFLINE");
    pull_ok("org/good", &r);
    release(&r);
    make_text(the.folder, "log", "");
    setenv("HF_HUB_OFFLINE", "1", 1);
    pull_ok("org/good", &r);
    unsetenv("HF_HUB_OFFLINE");
    assert_string_equal(r.commit, COMMIT);
    char *log = read_log();
    assert_string_equal(log, "");
    free(log);
    release(&r);
    assert_int_equal(pull("org/good", &(shard_hub_options){.offline = true, .revision = "other"}, &r), ST_NOT_FOUND);
}

static void an_unreachable_hub_falls_back_to_the_cache(void **state)
{
    (void)state;
    shard_hub_result r;
    char endpoint[64], was[64];
    pull_ok("org/good", &r);
    release(&r);
    snprintf(was, sizeof(was), "%s", getenv("HF_ENDPOINT"));
    snprintf(endpoint, sizeof(endpoint), "http://127.0.0.1:1");
    setenv("HF_ENDPOINT", endpoint, 1);
    log_level_set(LOG_ERROR);
    pull_ok("org/good", &r);
    assert_string_equal(r.commit, COMMIT);
    release(&r);
    status st = pull("org/indexed", NULL, &r);
    log_level_set(LOG_WARN);
    setenv("HF_ENDPOINT", was, 1);
    assert_int_equal(st, ST_IO);
    assert_non_null(strstr(status_message(), "127.0.0.1:1"));
}

static void cut_connections_are_resumed(void **state)
{
    (void)state;
    shard_hub_result r;
    pull_ok("org/cut", &r);
    char *log = read_log();
    assert_int_equal(count_lines(log, "cdn GET"), 3);
    assert_int_equal(count_lines(log, "range=bytes=100000-"), 2); /* asked of the hub, then of where it redirects */
    assert_int_equal(count_lines(log, "range=bytes=200000-"), 2);
    free(log);
    release(&r);
}

static void passing_failures_are_tried_again(void **state)
{
    (void)state;
    shard_hub_result r;
    pull_ok("org/flaky", &r);
    release(&r);
}

static void a_dead_connection_ends_in_an_error(void **state)
{
    (void)state;
    expect_fails("org/dead", ST_IO, "model.safetensors");
    assert_false(there("dead", "snapshots/" COMMIT "/model.safetensors"));
    assert_false(there("dead", "refs/main"));
}

/* blobs/HASH.incomplete of the weights, with the first n bytes of the real file or of nonsense. */
static void leave_incomplete(const char *repo, bool real, size_t n)
{
    shard_hub_result r;
    char path[512], *text = NULL, *blobs, sha[65];
    size_t len;
    pull_ok("org/good", &r); /* the same bytes */
    snprintf(path, sizeof(path), "%s/model.safetensors", r.path);
    assert_int_equal(file_read_all(path, 1 << 20, &text, &len), ST_OK);
    char link[512] = "";
    assert_true(readlink(path, link, sizeof(link) - 1) > 64);
    snprintf(sha, sizeof(sha), "%s", strrchr(link, '/') + 1);
    snprintf(path, sizeof(path), "%s/models--org--%s/blobs", the.cache, repo);
    assert_int_equal(file_make_dirs(path), ST_OK);
    blobs = strdup(path);
    snprintf(path, sizeof(path), "%s.incomplete", sha);
    if (!real)
        memset(text, 'x', len);
    make_file(blobs, path, text, n);
    free(blobs);
    free(text);
    release(&r);
    make_text(the.folder, "log", "");
}

static void what_an_earlier_run_left_is_used(void **state)
{
    (void)state;
    shard_hub_result r;
    leave_incomplete("flaky", true, 250000);
    pull_ok("org/flaky", &r);
    char *log = read_log();
    assert_int_equal(count_lines(log, "cdn GET"), 1);
    assert_int_equal(count_lines(log, "range=bytes=250000-"), 2);
    assert_true(r.bytes_downloaded < 100000);
    free(log);
    release(&r);
}

static void servers_without_ranges_start_over(void **state)
{
    (void)state;
    shard_hub_result r;
    leave_incomplete("norange", true, 1000);
    pull_ok("org/norange", &r);
    release(&r);
}

static void a_foreign_beginning_is_thrown_away(void **state)
{
    (void)state;
    shard_hub_result r;
    leave_incomplete("nometa", false, 1000);
    log_level_set(LOG_ERROR);
    pull_ok("org/nometa", &r); /* also: hashes and sizes from the files' own answers */
    log_level_set(LOG_WARN);
    char *log = read_log();
    assert_int_equal(count_lines(log, "cdn GET"), 2);
    assert_true(count_lines(log, "hub HEAD") >= 5);
    free(log);
    release(&r);
}

static void wrong_hashes_are_refused(void **state)
{
    (void)state;
    expect_fails("org/wronghash", ST_CORRUPT, "model.safetensors");
    assert_false(there("wronghash", "snapshots/" COMMIT "/model.safetensors"));
    expect_fails("org/wrongtext", ST_CORRUPT, "config.json");
    expect_fails("org/longer", ST_CORRUPT, "more than");
}

static void names_cannot_leave_the_cache(void **state)
{
    (void)state;
    expect_fails("org/evilname", ST_FORMAT, "refused");
    expect_fails("org/evilindex", ST_FORMAT, "plain file name");
    char *evil = make_path(the.folder, "evil.jinja");
    assert_false(file_exists(evil));
    free(evil);
    shard_hub_result r;
    static const char *const revisions[] = {"../../x", "/etc", "a/../b", "", "a\nb", "a?b"};
    for (size_t i = 0; i < ARRAY_LEN(revisions); i++)
        assert_int_equal(pull("org/good", &(shard_hub_options){.revision = revisions[i]}, &r), ST_INVALID);
}

static void redirect_loops_end(void **state)
{
    (void)state;
    expect_fails("org/loop", ST_IO, "redirects");
}

static void indexed_weights_are_found_by_the_index(void **state)
{
    (void)state;
    shard_hub_result r;
    pull_ok("org/indexed", &r);
    assert_true(there("indexed", "snapshots/" COMMIT "/model-00002-of-00002.safetensors"));
    release(&r);
}

static void ggufs_are_named_by_file_or_quantisation(void **state)
{
    (void)state;
    shard_hub_result r;
    expect_fails("org/gguf", ST_INVALID, "m-Q4_K_M.gguf");
    expect_fails("org/gguf:Q4_K", ST_NOT_FOUND, "m-Q4_K_S.gguf");
    pull_ok("org/gguf:q4_k_m", &r);
    assert_non_null(strstr(r.path, "/m-Q4_K_M.gguf"));
    assert_false(there("gguf", "snapshots/" COMMIT "/m-Q4_K_S.gguf"));
    release(&r);
    pull_ok("org/gguf:Q8_0", &r);
    assert_non_null(strstr(r.path, "/sub/m-Q8_0-00001-of-00002.gguf"));
    assert_true(there("gguf", "snapshots/" COMMIT "/sub/m-Q8_0-00002-of-00002.gguf"));
    release(&r);
    assert_int_equal(pull("org/gguf:m-Q4_K_S.gguf", &(shard_hub_options){.revision = "refs/pr/1"}, &r), ST_OK);
    assert_true(there("gguf", "refs/refs/pr/1"));
    release(&r);
    setenv("HF_HUB_OFFLINE", "true", 1);
    pull_ok("org/gguf:Q8_0", &r);
    unsetenv("HF_HUB_OFFLINE");
    assert_non_null(strstr(r.path, "/sub/m-Q8_0-00001-of-00002.gguf"));
    release(&r);
}

static void refusals_say_what_to_do(void **state)
{
    (void)state;
    shard_hub_result r;
    expect_fails("org/gated", ST_NOT_FOUND, "HF_TOKEN");
    expect_fails("org/absent", ST_NOT_FOUND, "RepoNotFound");
    expect_fails("org/empty", ST_UNSUPPORTED, "safetensors");
    assert_int_equal(pull("org/good", &(shard_hub_options){.revision = "nope"}, &r), ST_NOT_FOUND);
    assert_non_null(strstr(status_message(), "nope"));
    assert_int_equal(pull("org/moved", &(shard_hub_options){.revision = "fedcba9876543210fedcba9876543210fedcba98"}, &r), ST_CORRUPT);
    setenv("HF_HUB_CACHE", "/proc/nowhere", 1);
    expect_fails("org/good", ST_IO, "/proc/nowhere");
}

/* Several processes want the same at once: one downloads. */
static void processes_wait_for_one_another(void **state)
{
    (void)state;
    pid_t pids[4];
    log_level_set(LOG_ERROR);
    for (int i = 0; i < 4; i++) {
        pids[i] = fork();
        if (pids[i] == 0) {
            shard_hub_result r;
            _exit(pull("org/good", NULL, &r) == ST_OK ? 0 : 1);
        }
    }
    for (int i = 0; i < 4; i++) {
        int code;
        waitpid(pids[i], &code, 0);
        assert_int_equal(code, 0);
    }
    log_level_set(LOG_WARN);
    char *log = read_log();
    assert_int_equal(count_lines(log, "cdn GET"), 1);
    free(log);
}

int main(void)
{
    if (system("python3 -c 'import http.server'") != 0) {
        printf("skipped: python3 is not installed, and the test's hub is written in it\n");
        return 77;
    }
    log_level_set(LOG_WARN);
#define T(f) cmocka_unit_test_setup_teardown(f, fresh, forget)
    const struct CMUnitTest tests[] = {
        T(names_are_told_from_paths),          T(a_repository_fills_the_cache),
        T(the_token_file_is_used),             T(offline_uses_the_cache_alone),
        T(an_unreachable_hub_falls_back_to_the_cache), T(cut_connections_are_resumed),
        T(passing_failures_are_tried_again),   T(a_dead_connection_ends_in_an_error),
        T(what_an_earlier_run_left_is_used),   T(servers_without_ranges_start_over),
        T(a_foreign_beginning_is_thrown_away), T(wrong_hashes_are_refused),
        T(names_cannot_leave_the_cache),       T(redirect_loops_end),
        T(indexed_weights_are_found_by_the_index), T(ggufs_are_named_by_file_or_quantisation),
        T(refusals_say_what_to_do),            T(processes_wait_for_one_another),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
