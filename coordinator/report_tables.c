/* coordinator/report_tables.c - the tables of a report: the results of each kind of test, and where they were measured. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/numbers.h"
#include "coordinator/report_internal.h"

enum { MAX_COLUMNS = 64, MAX_TESTS = 128, MAX_ENVIRONMENTS = 64 };

/* ---- values ---- */

/* The middle of a list of numbers; NAN if it is none. */
static double median_of(const json_t *list)
{
    size_t n = json_array_size(list);
    double *v = calloc(n + 1, sizeof(*v)), middle = NAN;
    for (size_t i = 0; v != NULL && i < n; i++)
        v[i] = json_number_value(json_array_get(list, i));
    if (v != NULL && n > 0)
        middle = numbers_median(v, n);
    free(v);
    return middle;
}

static bool is_shown(const char *name, const json_t *v)
{
    static const char *const hidden[] = {"test", "environment", "version", "requests", "itls", "rank0_step_ms", "breakdown"};
    for (size_t i = 0; i < ARRAY_LEN(hidden); i++) {
        if (strcmp(name, hidden[i]) == 0)
            return false;
    }
    return !json_is_array(v) || (json_array_size(v) > 0 && json_is_number(json_array_get(v, 0)));
}

static void put_value(const json_t *v, mem_str *out)
{
    char number[64];
    if (json_is_string(v)) {
        plot_escape(json_string_value(v), out);
    } else if (json_is_real(v) || json_is_array(v)) {
        snprintf(number, sizeof(number), "%.6g", json_is_array(v) ? median_of(v) : json_real_value(v));
        mem_str_puts(out, number);
    } else if (v != NULL) {
        char *text = json_dumps(v, JSON_ENCODE_ANY);
        plot_escape(text != NULL ? text : "", out);
        free(text);
    }
}

/* ---- a kind of test ---- */

typedef struct column {
    const char *name;   /* borrowed from a row */
    const json_t *same; /* the value that all rows have, or NULL */
    size_t n;           /* rows that have it */
} column;

typedef struct test {
    const char *name;
    size_t n_rows;
    column columns[MAX_COLUMNS];
    size_t n_columns;
} test;

/* Columns that stand for a server's row; the rest is in the JSON. */
static const char *const serve_columns[] = {
    "label", "model", "endpoint", "prompts", "data", "burstiness", "ignore_eos", "max_concurrency", "request_rate", "num_prompts", "completed", "failed", "request_throughput",
    "output_throughput", "request_goodput", "median_ttft_ms", "p99_ttft_ms", "median_tpot_ms", "p99_tpot_ms", "p99_itl_ms", "median_e2el_ms", "p99_e2el_ms", "max_concurrent_requests",
    "client_cpu",
};

static bool is_column(const test *t, const char *name, const json_t *v)
{
    if (strcmp(t->name, "serve") != 0)
        return is_shown(name, v);
    for (size_t i = 0; i < ARRAY_LEN(serve_columns); i++) {
        if (strcmp(name, serve_columns[i]) == 0)
            return true;
    }
    return false;
}

static void add_row(test *t, const json_t *row)
{
    const char *name;
    json_t *v;
    t->n_rows++;
    json_object_foreach((json_t *)(uintptr_t)row, name, v) {
        size_t i = 0;
        if (!is_column(t, name, v))
            continue;
        while (i < t->n_columns && strcmp(t->columns[i].name, name) != 0)
            i++;
        if (i == MAX_COLUMNS)
            continue;
        column *c = &t->columns[i];
        if (i == t->n_columns) {
            *c = (column){.name = name, .same = v};
            t->n_columns++;
        }
        c->same = c->same != NULL && json_equal((json_t *)(uintptr_t)c->same, v) ? c->same : NULL;
        c->n++;
    }
}

/* What all rows share stands above the table. */
static bool is_shared(const test *t, const column *c)
{
    return t->n_rows > 1 && c->same != NULL && c->n == t->n_rows && !json_is_real(c->same);
}

static void put_shared(const test *t, mem_str *out)
{
    bool first = true;
    mem_str_puts(out, "<p>");
    for (size_t i = 0; i < t->n_columns; i++) {
        if (!is_shared(t, &t->columns[i]))
            continue;
        mem_str_puts(out, first ? "" : ", ");
        plot_escape(t->columns[i].name, out);
        mem_str_putc(out, ' ');
        put_value(t->columns[i].same, out);
        first = false;
    }
    mem_str_puts(out, "</p>\n");
}

static void put_head(const report *r, const test *t, mem_str *out)
{
    mem_str_puts(out, "<div class=\"wide\"><table><thead><tr>");
    if (r->n_files > 1)
        mem_str_puts(out, "<th>file</th>");
    for (size_t i = 0; i < t->n_columns; i++) {
        if (is_shared(t, &t->columns[i]))
            continue;
        mem_str_puts(out, "<th>");
        plot_escape(t->columns[i].name, out);
        mem_str_puts(out, "</th>");
    }
    mem_str_puts(out, "</tr></thead><tbody>\n");
}

static void put_row(const report *r, const test *t, int file, const json_t *row, mem_str *out)
{
    mem_str_puts(out, "<tr>");
    if (r->n_files > 1) {
        mem_str_puts(out, "<td>");
        plot_escape(r->names[file], out);
        mem_str_puts(out, "</td>");
    }
    for (size_t i = 0; i < t->n_columns; i++) {
        const column *c = &t->columns[i];
        const json_t *v = json_object_get(row, c->name);
        if (is_shared(t, c))
            continue;
        bool worse = strcmp(c->name, "failed") == 0 && json_integer_value(v) > 0;
        mem_str_puts(out, worse ? "<td class=\"n worse\">" : json_is_number(v) || json_is_array(v) ? "<td class=\"n\">" : "<td>");
        put_value(v, out);
        mem_str_puts(out, "</td>");
    }
    mem_str_puts(out, "</tr>\n");
}

static void put_test(report *r, const char *name)
{
    test t = {.name = name};
    for (int pass = 0; pass < 2; pass++) {
        for (int f = 0; f < r->n_files; f++) {
            size_t i;
            json_t *row;
            json_array_foreach(r->rows[f], i, row) {
                if (!report_is(row, name))
                    continue;
                if (pass == 0)
                    add_row(&t, row);
                else
                    put_row(r, &t, f, row, r->out);
            }
        }
        if (pass == 0) {
            put_shared(&t, r->out);
            put_head(r, &t, r->out);
        }
    }
    mem_str_puts(r->out, "</tbody></table></div>\n");
}

status report_tables(report *r)
{
    const char *names[MAX_TESTS];
    size_t n = 0;
    for (int f = 0; f < r->n_files; f++) {
        size_t i, k;
        json_t *row;
        json_array_foreach(r->rows[f], i, row) {
            const char *name = json_string_value(json_object_get(row, "test"));
            for (k = 0; k < n && name != NULL && strcmp(names[k], name) != 0; k++)
                ;
            if (name == NULL || k < n || n == MAX_TESTS || strcmp(name, "trace") == 0)
                continue;
            names[n++] = name;
            mem_str_puts(r->out, "<h2>Results: ");
            plot_escape(name, r->out);
            mem_str_puts(r->out, "</h2>\n");
            put_test(r, name);
        }
    }
    return ST_OK;
}

/* ---- environments ---- */

/* What differs from command to command. */
static bool is_of_command(const char *name)
{
    return strcmp(name, "time") == 0 || strcmp(name, "command") == 0 || strcmp(name, "load") == 0 || strcmp(name, "memory_bytes") == 0;
}

/* As a shell would take it. */
static void put_argument(const char *text, mem_str *out)
{
    bool plain = text[0] != '\0' && strpbrk(text, " \t\n\"'\\$`&|;<>(){}*?#~!") == NULL;
    if (plain) {
        plot_escape(text, out);
        return;
    }
    mem_str_puts(out, "&#39;");
    for (const char *quote; (quote = strchr(text, '\'')) != NULL; text = quote + 1) {
        char *before = strndup(text, (size_t)(quote - text));
        plot_escape(before != NULL ? before : "", out);
        mem_str_puts(out, "&#39;\\&#39;&#39;");
        free(before);
    }
    plot_escape(text, out);
    mem_str_puts(out, "&#39;");
}

static void put_command(const json_t *environment, size_t number, mem_str *out)
{
    size_t i;
    json_t *arg;
    mem_str_puts(out, "<tr><td>");
    put_value(json_object_get(environment, "time"), out);
    mem_str_printf(out, "</td><td class=\"n\">%zu</td><td class=\"n\">", number);
    put_value(json_object_get(environment, "load"), out);
    mem_str_puts(out, "</td><td><code>");
    json_array_foreach(json_object_get(environment, "command"), i, arg) {
        const char *text = json_is_string(arg) ? json_string_value(arg) : "?";
        mem_str_puts(out, i > 0 ? " " : "");
        if (i == 0) /* "trireme bench comm" is one */
            plot_escape(text, out);
        else
            put_argument(text, out);
    }
    mem_str_puts(out, "</code></td></tr>\n");
}

static void put_members(const json_t *environment, size_t number, mem_str *out)
{
    const char *name;
    json_t *v;
    mem_str_printf(out, "<h2>Environment %zu</h2>\n<div class=\"wide\"><table><tbody>\n", number);
    json_object_foreach((json_t *)(uintptr_t)environment, name, v) {
        if (is_of_command(name))
            continue;
        mem_str_puts(out, "<tr><th>");
        plot_escape(name, out);
        mem_str_puts(out, "</th><td>");
        put_value(v, out);
        mem_str_puts(out, "</td></tr>\n");
    }
    mem_str_puts(out, "</tbody></table></div>\n");
}

/* Two that differ in nothing but the command. */
static bool is_like(const json_t *a, const json_t *b)
{
    json_t *x = json_copy((json_t *)(uintptr_t)a), *y = json_copy((json_t *)(uintptr_t)b);
    static const char *const of_command[] = {"time", "command", "load", "memory_bytes"};
    for (size_t i = 0; i < ARRAY_LEN(of_command); i++) {
        json_object_del(x, of_command[i]);
        json_object_del(y, of_command[i]);
    }
    bool same = json_equal(x, y);
    json_decref(x);
    json_decref(y);
    return same;
}

status report_environments(report *r)
{
    const json_t *kinds[MAX_ENVIRONMENTS], *before = NULL;
    size_t n = 0;
    mem_str commands = {0};
    for (int f = 0; f < r->n_files; f++) {
        size_t i, k = 0;
        json_t *row;
        json_array_foreach(r->rows[f], i, row) {
            const json_t *e = json_object_get(row, "environment");
            if (!json_is_object(e) || (before != NULL && json_equal((json_t *)(uintptr_t)before, (json_t *)(uintptr_t)e)))
                continue;
            before = e;
            for (k = 0; k < n && !is_like(kinds[k], e); k++)
                ;
            if (k == n && n < MAX_ENVIRONMENTS)
                kinds[n++] = e;
            put_command(e, k + 1, &commands);
        }
    }
    for (size_t i = 0; i < n; i++)
        put_members(kinds[i], i + 1, r->out);
    if (commands.len > 0) {
        mem_str_puts(r->out, "<h2>Commands</h2>\n<div class=\"wide\"><table><thead><tr><th>time</th><th>environment</th><th>load</th><th>command</th></tr></thead><tbody>\n");
        mem_str_append(r->out, commands.data, commands.len);
        mem_str_puts(r->out, "</tbody></table></div>\n");
    }
    bool failed = commands.failed;
    mem_str_free(&commands);
    return failed ? FAIL(ST_NO_MEMORY, "no memory for a report") : ST_OK;
}
