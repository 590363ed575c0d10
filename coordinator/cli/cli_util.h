/* coordinator/cli/cli_util.h - the few things that several commands need: reading lines, numbers with units, reporting a failure. */
#ifndef COORDINATOR_CLI_CLI_UTIL_H
#define COORDINATOR_CLI_CLI_UTIL_H

#include <argp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/json.h"
#include "base/status.h"

/* argp_parse, with exit code 2 for wrong use.  Exits on --help and on errors in the command line, which rank 0 alone shows. */
void cli_parse(const struct argp *argp, int argc, char **argv, void *input);

/* Lines of a file, or of standard input for "-"; each at most `limit` bytes. */
typedef struct cli_lines {
    const char *path;
    FILE *file;
    char *line; /* the current one, without its newline */
    size_t cap, len, number, limit;
} cli_lines;
status cli_lines_open(const char *path, size_t limit, cli_lines *out);
/* false in *more at the end; blank lines are passed over. */
status cli_lines_next(cli_lines *l, bool *more);
void cli_lines_close(cli_lines *l);

/* "80GiB", "512m", "4096": bytes, K M G T in powers of 1024. */
bool cli_parse_bytes(const char *text, size_t *out);
bool cli_parse_int(const char *text, long min, long max, long *out); /* the whole text must be a number in range */

/* For argp parsers: the option's value, or the message "--name VALUE: give ..." and exit code 2. */
int32_t cli_arg_int(struct argp_state *state, const char *name, const char *text, int32_t min, int32_t max);
double cli_arg_number(struct argp_state *state, const char *name, const char *text, double min, double max);
size_t cli_arg_bytes(struct argp_state *state, const char *name, const char *text);

/* "1.2 GiB", "345 KiB"; "12.3 ms", "45 us": for people.  Return text. */
#define CLI_AMOUNT 24
const char *cli_show_bytes(size_t bytes, char text[CLI_AMOUNT]);
const char *cli_show_seconds(double seconds, char text[CLI_AMOUNT]);

/* A line of JSON on standard output. o is taken; NULL, as jansson gives when there is no memory, fails. */
status cli_print_json(json_t *o);

/* The exit code of a failure that FAIL has already logged or, where it was muted or came from another rank, is logged here. */
int cli_report(status st);

/* Flushes standard output; a full disk or closed pipe is a failure too. */
int cli_finish_output(int exit_code);

#endif
