#include "coordinator/cli/cli_util.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/log.h"
#include "comm/comm.h"

void cli_parse(const struct argp *argp, int argc, char **argv, void *input)
{
    int n, rank, kept[2] = {-1, -1};
    bool silent = comm_launched(&n, &rank) && rank > 0;
    argp_err_exit_status = silent ? 0 : 2; /* a rank that fails ends the job, perhaps before rank 0 has said why */
    int null = silent ? open("/dev/null", O_WRONLY | O_CLOEXEC) : -1;
    for (int fd = STDOUT_FILENO; null >= 0 && fd <= STDERR_FILENO; fd++) {
        kept[fd - STDOUT_FILENO] = dup(fd);
        dup2(null, fd);
    }
    argp_parse(argp, argc, argv, 0, NULL, input);
    for (int fd = STDOUT_FILENO; null >= 0 && fd <= STDERR_FILENO; fd++) {
        dup2(kept[fd - STDOUT_FILENO], fd);
        close(kept[fd - STDOUT_FILENO]);
    }
    if (null >= 0)
        close(null);
}

status cli_lines_open(const char *path, size_t limit, cli_lines *out)
{
    *out = (cli_lines){.path = strcmp(path, "-") == 0 ? "standard input" : path, .limit = limit};
    out->file = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
    if (out->file == NULL)
        return FAIL(errno == ENOENT ? ST_NOT_FOUND : ST_IO, "%s: %s", path, strerror(errno));
    return ST_OK;
}

static bool blank(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (strchr(" \t\r", s[i]) == NULL || s[i] == '\0')
            return false;
    }
    return true;
}

status cli_lines_next(cli_lines *l, bool *more)
{
    do {
        errno = 0;
        ssize_t n = getline(&l->line, &l->cap, l->file);
        *more = n >= 0;
        if (n < 0) {
            if (ferror(l->file))
                return FAIL(ST_IO, "%s: cannot read: %s", l->path, strerror(errno));
            return ST_OK;
        }
        l->number++;
        l->len = (size_t)n;
        if (l->len > 0 && l->line[l->len - 1] == '\n')
            l->line[--l->len] = '\0';
        if (l->limit > 0 && l->len > l->limit)
            return FAIL(ST_LIMIT, "%s, line %zu: longer than %zu bytes", l->path, l->number, l->limit);
    } while (blank(l->line, l->len));
    return ST_OK;
}

void cli_lines_close(cli_lines *l)
{
    if (l->file != NULL && l->file != stdin)
        fclose(l->file);
    free(l->line);
    *l = (cli_lines){0};
}

bool cli_parse_bytes(const char *text, size_t *out)
{
    char *end;
    errno = 0;
    double v = strtod(text, &end);
    if (end == text || errno != 0 || !(v >= 0))
        return false;
    static const char units[] = "KMGT";
    if (*end != '\0') {
        const char *u = strchr(units, (char)(*end & ~0x20));
        if (u == NULL || *u == '\0' || (end[1] != '\0' && strcasecmp(end + 1, "b") != 0 && strcasecmp(end + 1, "ib") != 0))
            return false;
        for (const char *p = units; p <= u; p++)
            v *= 1024;
    }
    if (v >= 9e18)
        return false;
    *out = (size_t)v;
    return true;
}

bool cli_parse_int(const char *text, long min, long max, long *out)
{
    char *end;
    errno = 0;
    long v = strtol(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || v < min || v > max)
        return false;
    *out = v;
    return true;
}

int32_t cli_arg_int(struct argp_state *state, const char *name, const char *text, int32_t min, int32_t max)
{
    long v = 0;
    if (!cli_parse_int(text, min, max, &v))
        argp_error(state, "--%s %s: give a whole number from %d to %d", name, text, min, max);
    return (int32_t)v;
}

double cli_arg_number(struct argp_state *state, const char *name, const char *text, double min, double max)
{
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end != '\0' || !(v >= min && v <= max))
        argp_error(state, "--%s %s: give a number from %g to %g", name, text, min, max);
    return v;
}

size_t cli_arg_bytes(struct argp_state *state, const char *name, const char *text)
{
    size_t v = 0;
    if (!cli_parse_bytes(text, &v) || v == 0)
        argp_error(state, "--%s %s: give an amount of memory such as 80GiB or 512MiB", name, text);
    return v;
}

const char *cli_show_bytes(size_t bytes, char text[CLI_AMOUNT])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double v = (double)bytes;
    size_t u = 0;
    while (v >= 1023.5 && u + 1 < ARRAY_LEN(units)) {
        v /= 1024;
        u++;
    }
    snprintf(text, CLI_AMOUNT, "%.*f %s", u > 0 && v < 99.95 ? 1 : 0, v, units[u]);
    return text;
}

const char *cli_show_seconds(double seconds, char text[CLI_AMOUNT])
{
    static const char *const units[] = {"s", "ms", "us", "ns"};
    size_t u = 0;
    while (seconds < 0.9995 && seconds > 0 && u + 1 < ARRAY_LEN(units)) {
        seconds *= 1000;
        u++;
    }
    snprintf(text, CLI_AMOUNT, "%.*f %s", seconds <= 0 ? 0 : seconds < 9.995 ? 2 : seconds < 99.95 ? 1 : 0, seconds, units[u]);
    return text;
}

int cli_report(status st)
{
    log_error("%s", status_message());
    return status_exit_code(st);
}

int cli_finish_output(int exit_code)
{
    if (fflush(stdout) != 0 || ferror(stdout)) {
        log_error("standard output: %s", strerror(errno));
        return exit_code != 0 ? exit_code : 1;
    }
    return exit_code;
}

status cli_print_json(json_t *o)
{
    char *line = o == NULL ? NULL : json_line(o);
    json_decref(o);
    if (line == NULL)
        return FAIL(ST_NO_MEMORY, "no memory for a line of JSON");
    puts(line);
    fflush(stdout); /* whoever reads need not wait for the next */
    free(line);
    return ST_OK;
}
