#include "coordinator/results.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/threads.h"
#include "trireme_version.h"

enum { MAX_FILE = 1 << 30 };

/* ---- the environment ---- */

/* Values of these are never written down, however the options were abbreviated. */
static const char *const secret_options[] = {"api-key", "header"};

static bool is_secret(const char *arg, size_t n)
{
    for (size_t i = 0; i < ARRAY_LEN(secret_options); i++) {
        if (n >= 3 && n - 2 <= strlen(secret_options[i]) && strncmp(arg, "--", 2) == 0 && n > 2 && strncmp(arg + 2, secret_options[i], n - 2) == 0)
            return true;
    }
    return false;
}

/* An argument as it may be shown: without a value that is secret, without the password of a URL. */
static json_t *shown(const char *arg)
{
    const char *equals = strchr(arg, '='), *scheme = strstr(arg, "://");
    if (equals != NULL && is_secret(arg, (size_t)(equals - arg)))
        return json_sprintf("%.*s=...", (int)(equals - arg), arg);
    if (scheme != NULL) {
        const char *host = scheme + 3, *end = host + strcspn(host, "/?#"), *at = memrchr(host, '@', (size_t)(end - host));
        if (at != NULL)
            return json_sprintf("%.*s...%s", (int)(host - arg), arg, at);
    }
    json_t *text = json_string(arg);
    return text != NULL ? text : json_string("(not UTF-8)");
}

static json_t *command_json(int argc, char **argv)
{
    json_t *all = json_array();
    for (int i = 0; i < argc; i++) {
        json_array_append_new(all, shown(argv[i]));
        if (strchr(argv[i], '=') == NULL && is_secret(argv[i], strlen(argv[i])) && i + 1 < argc) {
            json_array_append_new(all, json_string("..."));
            i++;
        }
    }
    return all;
}

/* Of the processor's instruction sets those that the backends tell apart. */
static void isa_names(char *out, size_t cap)
{
    static const char *const wanted[] = {"avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimd", "sve"};
    char flags[8192], padded[8200];
    size_t n = 0;
    file_value("/proc/cpuinfo", "flags", flags, sizeof(flags));
    if (flags[0] == '\0')
        file_value("/proc/cpuinfo", "Features", flags, sizeof(flags));
    snprintf(padded, sizeof(padded), " %s ", flags);
    out[0] = '\0';
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        char word[32];
        snprintf(word, sizeof(word), " %s ", wanted[i]);
        if (strstr(padded, word) != NULL && n < cap)
            n += (size_t)snprintf(out + n, cap - n, "%s%s", n > 0 ? " " : "", wanted[i]);
    }
}

json_t *results_environment(int argc, char **argv)
{
    struct utsname u;
    char cpu[256], isa[128], at[32], system[sizeof(u.sysname) + sizeof(u.release) + 1];
    time_t now = time(NULL);
    struct tm t;
    double load[3] = {0};
    uname(&u);
    snprintf(system, sizeof(system), "%s %s", u.sysname, u.release);
    gmtime_r(&now, &t);
    strftime(at, sizeof(at), "%Y-%m-%dT%H:%M:%SZ", &t);
    file_value("/proc/cpuinfo", "model name", cpu, sizeof(cpu));
    if (cpu[0] == '\0')
        snprintf(cpu, sizeof(cpu), "%s", u.machine);
    isa_names(isa, sizeof(isa));
    if (getloadavg(load, 3) < 1)
        load[0] = -1;
    return json_pack("{ss ss ss ss so ss ss ss ss si sI sf}", "time", at, "version", TRIREME_VERSION, "commit", TRIREME_COMMIT, "build", TRIREME_BUILD, "command",
                     command_json(argc, argv), "host", u.nodename, "system", system, "cpu", cpu, "isa", isa, "cores", threads_cores_granted(), "memory_bytes",
                     (json_int_t)mem_available(), "load", load[0]);
}

status results_add_replica(json_t *environment, coord_replica *r, const coord_replica_options *options, const coord_rank_report *reports, int n_ranks)
{
    const shard_plan *plan = coord_replica_plan(r);
    json_t *ranks = json_array();
    for (int i = 0; i < n_ranks; i++)
        json_array_append_new(ranks, json_pack("{si ss ss si}", "stage", reports[i].stage, "host", reports[i].host, "backend", reports[i].backend, "threads", reports[i].n_threads));
    json_t *o = json_pack("{ss ss si si ss ss so}", "model", options->model, "digest", shard_checkpoint_digest(coord_replica_checkpoint(r)), "tp", plan->tp, "pp", plan->pp,
                          "compute", options->f32 ? "f32" : "auto", "kv_type", shard_kv_type_name(options->kv_type), "ranks", ranks);
    return json_object_set_new(environment, "replica", o) == 0 ? ST_OK : FAIL(ST_NO_MEMORY, "no memory for the environment of a result");
}

/* ---- writing ---- */

static status append(const char *path, const char *line)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0)
        return FAIL(ST_IO, "%s: %s", path, strerror(errno));
    status st = ST_OK;
    char *text = NULL;
    int n = asprintf(&text, "%s\n", line);
    if (n < 0)
        st = FAIL(ST_NO_MEMORY, "no memory for a result");
    for (ssize_t at = 0, k; st == ST_OK && at < n; at += k) {
        k = write(fd, text + at, (size_t)(n - at));
        if (k < 0 && errno == EINTR)
            k = 0;
        else if (k < 0)
            st = FAIL(ST_IO, "%s: %s", path, strerror(errno));
    }
    if (close(fd) != 0 && st == ST_OK)
        st = FAIL(ST_IO, "%s: %s", path, strerror(errno));
    free(text);
    return st;
}

status results_put(json_t *row, json_t *environment, bool print, const char *path)
{
    bool whole = row != NULL && environment != NULL && json_object_set(row, "environment", environment) == 0;
    char *line = whole ? json_line(row) : NULL;
    json_decref(row);
    if (line == NULL)
        return FAIL(ST_NO_MEMORY, "no memory for a line of JSON");
    if (print) {
        puts(line);
        fflush(stdout); /* whoever reads need not wait for the next */
    }
    status st = path != NULL ? append(path, line) : ST_OK;
    free(line);
    return st;
}

/* ---- reading ---- */

static bool blank(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (strchr(" \t\r", s[i]) == NULL || s[i] == '\0')
            return false;
    }
    return true;
}

static status add_line(const char *where, const char *line, size_t n, json_t *rows)
{
    json_t *row;
    const char *test = NULL;
    TRY(json_parse(where, line, n, &row));
    status st = json_is_object(row) ? json_get_str(row, where, "test", NULL, &test) : ST_OK;
    if (st == ST_OK && test == NULL)
        st = FAIL(ST_FORMAT, "%s: not a result (an object with a member \"test\" is one): results are what `trireme bench --json` prints", where);
    if (st == ST_OK && json_array_append(rows, row) != 0)
        st = FAIL(ST_NO_MEMORY, "%s: out of memory", where);
    json_decref(row);
    return st;
}

/* Of its first bytes: rows begin with members of their own. */
static bool is_trace(const char *text, size_t len)
{
    static const char member[] = "\"traceEvents\"";
    size_t first = len < 256 ? len : 256;
    return len > 0 && text[0] == '{' && memmem(text, first, member, sizeof(member) - 1) != NULL && (memmem(text, first, "\"test\"", 6) == NULL);
}

static status parse_trace(const char *where, const char *text, size_t len, json_t **out)
{
    json_t *o;
    TRY(json_parse(where, text, len, &o));
    json_t *list = json_object_get(o, "traceEvents");
    status st = json_is_array(list) ? ST_OK : FAIL(ST_FORMAT, "%s: \"traceEvents\" is no array", where);
    if (st == ST_OK) {
        *out = json_pack("[{ss sO}]", "test", "trace", "traceEvents", list);
        st = *out != NULL ? ST_OK : FAIL(ST_NO_MEMORY, "%s: out of memory", where);
    }
    json_decref(o);
    return st;
}

status results_parse(const char *where, const char *text, size_t len, json_t **out)
{
    if (is_trace(text, len))
        return parse_trace(where, text, len, out);
    json_t *rows = json_array();
    status st = rows != NULL ? ST_OK : FAIL(ST_NO_MEMORY, "%s: out of memory", where);
    size_t number = 1;
    for (size_t at = 0; st == ST_OK && at < len; number++) {
        const char *end = memchr(text + at, '\n', len - at);
        size_t n = end != NULL ? (size_t)(end - text) - at : len - at;
        char place[512];
        snprintf(place, sizeof(place), "%.440s, line %zu", where, number);
        if (!blank(text + at, n))
            st = add_line(place, text + at, n, rows);
        at += n + 1;
    }
    if (st != ST_OK) {
        json_decref(rows);
        return st;
    }
    *out = rows;
    return ST_OK;
}

static status read_stdin(mem_str *out)
{
    char piece[1 << 16];
    size_t n;
    out->limit = MAX_FILE;
    while ((n = fread(piece, 1, sizeof(piece), stdin)) > 0 && !out->failed)
        mem_str_append(out, piece, n);
    if (ferror(stdin))
        return FAIL(ST_IO, "standard input: cannot read: %s", strerror(errno));
    return out->failed ? FAIL(ST_LIMIT, "standard input: more than %d bytes", MAX_FILE) : ST_OK;
}

status results_read(const char *path, json_t **out)
{
    char *text = NULL;
    size_t len = 0;
    mem_str input = {0};
    bool is_stdin = strcmp(path, "-") == 0;
    status st = is_stdin ? read_stdin(&input) : file_read_all(path, MAX_FILE, &text, &len);
    if (st == ST_OK)
        st = results_parse(is_stdin ? "standard input" : path, is_stdin ? input.data : text, is_stdin ? input.len : len, out);
    free(text);
    mem_str_free(&input);
    return st;
}
