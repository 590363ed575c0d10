/* coordinator/cli/config.h - options from an INI file: in the section named for a command may stand any of its long options.
 *
 *   [gateway]
 *   listen = 0.0.0.0:8000        ; as --listen 0.0.0.0:8000
 *   log-text = false             ; an option without a value: true or false
 *
 * The command line wins over the file, the file over the defaults.  It all works on argp's tables: a command hands over its argp, and a new
 * option of it needs nothing here.  An unknown section or key is refused by name, so that a misspelt one is not silently without effect. */
#ifndef COORDINATOR_CLI_CONFIG_H
#define COORDINATOR_CLI_CONFIG_H

#include <argp.h>
#include <stdbool.h>

#include "base/status.h"

/* ---- a command's options as a flat list ---- */

typedef struct cli_option {
    const char *name, *arg, *doc; /* arg NULL: takes none */
    int key, flags;
    bool alias;                   /* another name of the option before it */
} cli_option;

typedef struct cli_options {
    cli_option *of;
    int n;
} cli_options;

/* All long options of argp and its children, hidden ones too; strings are argp's.  Free with cli_options_free. */
status cli_options_list(const struct argp *argp, cli_options *out);
void cli_options_free(cli_options *o);
/* The option with this name, an alias yielding the option it stands for; -1 if there is none. */
int cli_options_find(const cli_options *o, const char *name);
/* Values that a command line gives: values[i] of option i, "" for one without a value, NULL if it is not there.  *unknown, which may
 * be NULL: the first argument that is none of them, left alone if there is none.  argv stays as it is. */
status cli_options_scan(const cli_options *o, int argc, char **argv, const char **values, const char **unknown);

/* ---- the file ---- */

typedef struct cli_setting {
    char *section, *name, *value;
    int line;
} cli_setting;

typedef struct cli_config {
    char *path; /* NULL: there is no file */
    cli_setting *of;
    int n;
} cli_config;

/* path NULL: $XDG_CONFIG_HOME/trireme/trireme.conf (~/.config where it is not set), else /etc/trireme/trireme.conf, else nothing.
 * Checks sections and keys against the commands of cli_commands.  ST_NOT_FOUND, ST_INVALID with file, line and the nearest name. */
status cli_config_read(const char *path, cli_config *out);
void cli_config_free(cli_config *c);
/* The last value of a key, NULL if it is not there; *line may be NULL. */
const char *cli_config_get(const cli_config *c, const char *section, const char *name, int *line);

/* ---- parsing with it ---- */

/* As cli_parse, with the file's section before the command line.  Adds --config FILE to the options. */
void cli_parse_config(const char *section, const struct argp *argp, int argc, char **argv, void *input);
/* The file that cli_parse_config read; empty before. */
const cli_config *cli_config_current(void);

/* The --config option, for the list of a command's own options. */
extern const struct argp cli_config_argp;

#endif
