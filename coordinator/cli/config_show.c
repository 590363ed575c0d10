/* coordinator/cli/config_show.c - `trireme config`: each option's value and where it comes from.
 *
 * What is printed is itself a valid configuration file.  Defaults are what the options' own help says after "(default". */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "coordinator/cli/cli.h"
#include "coordinator/cli/cli_util.h"
#include "coordinator/cli/config.h"

static const char doc[] =
    "Shows the options of the commands that read a configuration file, one section for each: the value and where it comes from."
    "\v"
    "Examples:\n"
    "  trireme config\n"
    "  trireme config gateway --config trireme.conf\n"
    "  trireme config gateway --listen 0.0.0.0:80    what would hold with these options\n"
    "\n"
    "The output is a configuration file itself; options at their defaults are commented out.  A file is looked for in "
    "$XDG_CONFIG_HOME/trireme/trireme.conf (~/.config where that is not set), then in /etc/trireme/trireme.conf; --config names another, and "
    "--config /dev/null none.  The command line wins over the file, the file over the defaults.";

static const struct argp_child config_children[] = {{&cli_config_argp, 0, NULL, 0}, {0}};
static const struct argp config_argp = {NULL, NULL, "[COMMAND [OPTION...]]", doc, config_children, NULL, NULL};

/* The default as the help tells it: "... (default 16)" yields "16", "(default: what memory allows)" the words; *words: it is no value. */
static char *default_of(const cli_option *o, bool *words)
{
    *words = false;
    if (o->arg == NULL)
        return strdup("false");
    const char *p = o->doc == NULL ? NULL : strstr(o->doc, "(default"), *end = p == NULL ? NULL : strrchr(p, ')');
    if (end == NULL || end < p + 9) {
        *words = true;
        return strdup("not set");
    }
    p += strlen("(default");
    *words = *p == ':' || memchr(p + 1, ' ', (size_t)(end - p - 1)) != NULL;
    p += strspn(p, ": ");
    return strndup(p, (size_t)(end - p));
}

/* Whoever is shown the configuration need not be shown its keys. */
static const char *shown(const char *name, const char *value)
{
    return strstr(name, "api-key") != NULL && strstr(name, "api-keys") == NULL ? "(hidden)" : value;
}

static status option_show(const cli_config *config, const char *section, const cli_option *o, const char *flag)
{
    int line;
    bool words;
    const char *file = cli_config_get(config, section, o->name, &line);
    if (flag != NULL) {
        printf("%s = %s    ; command line\n", o->name, o->arg == NULL ? "true" : shown(o->name, flag));
    } else if (file != NULL) {
        printf("%s = %s    ; %s:%d\n", o->name, shown(o->name, file), config->path, line);
    } else {
        char *value = default_of(o, &words);
        if (value == NULL)
            return FAIL(ST_NO_MEMORY, "no memory for a default");
        printf(words ? "; %s =    ; default: %s\n" : "; %s = %s    ; default\n", o->name, value);
        free(value);
    }
    return ST_OK;
}

/* A command's options with --config among them. */
static struct argp with_config(const cli_command *c, struct argp_child children[3])
{
    children[0] = (struct argp_child){&cli_config_argp, 0, NULL, 0};
    children[1] = (struct argp_child){c != NULL ? c->argp() : NULL, 0, NULL, 0};
    children[2] = (struct argp_child){0};
    return (struct argp){NULL, NULL, NULL, NULL, children, NULL, NULL};
}

static status section_show(const cli_config *config, const cli_command *c, int argc, char **argv)
{
    cli_options o;
    const char **values = NULL;
    struct argp_child children[3];
    const struct argp argp = with_config(c, children);
    TRY(cli_options_list(&argp, &o));
    status st = mem_calloc((size_t)o.n + 1, sizeof(*values), "options", &values);
    if (st == ST_OK)
        st = cli_options_scan(&o, argc, argv, values, NULL);
    printf("\n[%s]\n", c->name);
    for (int i = 0; st == ST_OK && i < o.n; i++) {
        if (!o.of[i].alias && (o.of[i].flags & OPTION_HIDDEN) == 0 && strcmp(o.of[i].name, "config") != 0)
            st = option_show(config, c->name, &o.of[i], values[i]);
    }
    free(values);
    cli_options_free(&o);
    return st;
}

static int no_command(const char *name)
{
    fprintf(stderr, "trireme: error: \"%s\" reads no configuration; these do:", name);
    for (const cli_command *c = cli_commands; c->name != NULL; c++)
        fprintf(stderr, "%s%s", c->argp != NULL ? " " : "", c->argp != NULL ? c->name : "");
    fputc('\n', stderr);
    return 2;
}

/* Finds --config among the arguments, and refuses what neither the command nor we know. */
static status arguments_check(const cli_command *c, int argc, char **argv, const char **path)
{
    cli_options o;
    const char **values = NULL, *unknown = NULL;
    struct argp_child children[3];
    const struct argp argp = with_config(c, children);
    TRY(cli_options_list(&argp, &o));
    status st = mem_calloc((size_t)o.n + 1, sizeof(*values), "options", &values);
    if (st == ST_OK)
        st = cli_options_scan(&o, argc, argv, values, &unknown);
    if (st == ST_OK && unknown != NULL)
        st = FAIL(ST_INVALID, "%s: `trireme %s` has no such option, or wants another value", unknown, c->name);
    if (st == ST_OK)
        *path = values[cli_options_find(&o, "config")];
    free(values);
    cli_options_free(&o);
    return st;
}

static const cli_command *command_find(const char *name)
{
    for (const cli_command *c = cli_commands; c->name != NULL; c++) {
        if (c->argp != NULL && strcmp(c->name, name) == 0)
            return c;
    }
    return NULL;
}

int cli_config_command(int argc, char **argv)
{
    const cli_command *only = argc > 1 && argv[1][0] != '-' ? command_find(argv[1]) : NULL;
    const char *path = NULL;
    cli_config config;
    if (argc > 1 && argv[1][0] != '-' && only == NULL)
        return no_command(argv[1]);
    if (only == NULL)
        cli_parse(&config_argp, argc, argv, NULL);
    else { /* "trireme config gateway OPTIONS": the options are gateway's */
        argc--;
        argv++;
    }
    status st = arguments_check(only, argc, argv, &path);
    if (st == ST_OK)
        st = cli_config_read(path, &config);
    if (st != ST_OK)
        return status_exit_code(st);
    printf("; %s\n", config.path != NULL ? config.path : "no configuration file");
    for (const cli_command *c = cli_commands; st == ST_OK && c->name != NULL; c++) {
        if (c->argp != NULL && (only == NULL || c == only))
            st = section_show(&config, c, only != NULL ? argc : 1, argv);
    }
    cli_config_free(&config);
    return cli_finish_output(st != ST_OK ? status_exit_code(st) : 0);
}
