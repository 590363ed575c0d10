#include "coordinator/cli/config.h"

#include <errno.h>
#include <getopt.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "comm/comm.h"
#include "coordinator/cli/cli.h"
#include "coordinator/cli/cli_util.h"

#define MAX_FILE ((size_t)1 << 20)

/* ---- options as a list ---- */

static int options_count(const struct argp *argp)
{
    int n = 0;
    for (const struct argp_option *o = argp->options; o != NULL && (o->name != NULL || o->key != 0 || o->doc != NULL || o->group != 0); o++)
        n += o->name != NULL;
    for (const struct argp_child *c = argp->children; c != NULL && c->argp != NULL; c++)
        n += options_count(c->argp);
    return n;
}

static void options_fill(const struct argp *argp, cli_options *out)
{
    for (const struct argp_option *o = argp->options; o != NULL && (o->name != NULL || o->key != 0 || o->doc != NULL || o->group != 0); o++) {
        if (o->name == NULL || (o->flags & OPTION_DOC) != 0)
            continue;
        bool alias = (o->flags & OPTION_ALIAS) != 0 && out->n > 0;
        const cli_option *real = alias ? &out->of[out->n - 1] : NULL;
        out->of[out->n++] = (cli_option){o->name, alias ? real->arg : o->arg, alias ? real->doc : o->doc, alias ? real->key : o->key, o->flags, alias};
    }
    for (const struct argp_child *c = argp->children; c != NULL && c->argp != NULL; c++)
        options_fill(c->argp, out);
}

status cli_options_list(const struct argp *argp, cli_options *out)
{
    *out = (cli_options){0};
    TRY(mem_calloc((size_t)options_count(argp) + 1, sizeof(*out->of), "options", &out->of));
    options_fill(argp, out);
    return ST_OK;
}

void cli_options_free(cli_options *o)
{
    free(o->of);
    *o = (cli_options){0};
}

int cli_options_find(const cli_options *o, const char *name)
{
    for (int i = 0; i < o->n; i++) {
        if (strcmp(o->of[i].name, name) == 0) {
            while (o->of[i].alias)
                i--;
            return i;
        }
    }
    return -1;
}

enum { LONG_BASE = 0x10000 }; /* getopt's values for long options; below are short ones */

static void scan(const cli_options *o, int argc, char **argv, const struct option *table, const char *shorts, const char **values,
                 const char **unknown)
{
    optind = 0; /* GNU: begin anew */
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, shorts, table, NULL)) != -1;) {
        int i = c >= LONG_BASE ? c - LONG_BASE : -1;
        for (int k = 0; i < 0 && k < o->n && c != '?' && c != ':'; k++)
            i = o->of[k].key == c ? k : -1;
        if (i < 0) { /* argp's own --help, or a mistake that argp tells better */
            *unknown = *unknown != NULL ? *unknown : argv[optind - 1];
            continue;
        }
        while (o->of[i].alias)
            i--;
        values[i] = optarg != NULL ? optarg : "";
    }
    optind = 0;
}

status cli_options_scan(const cli_options *o, int argc, char **argv, const char **values, const char **unknown)
{
    struct option *table = NULL;
    const char *ignored = NULL;
    char **copy = NULL; /* getopt puts its argv into another order */
    mem_str shorts = {0};
    status st;
    TRY_GOTO(mem_calloc((size_t)o->n + 1, sizeof(*table), "options", &table), done);
    TRY_GOTO(mem_calloc((size_t)argc + 1, sizeof(*copy), "arguments", &copy), done);
    memcpy(copy, argv, (size_t)argc * sizeof(*copy));
    for (int i = 0; i < o->n; i++) {
        const cli_option *p = &o->of[i];
        int wants = p->arg == NULL ? no_argument : (p->flags & OPTION_ARG_OPTIONAL) != 0 ? optional_argument : required_argument;
        table[i] = (struct option){p->name, wants, NULL, LONG_BASE + i};
        values[i] = NULL;
        if (p->key > ' ' && p->key < 0x7f && !p->alias)
            mem_str_printf(&shorts, "%c%s", p->key, wants == no_argument ? "" : wants == required_argument ? ":" : "::");
    }
    if (shorts.failed)
        st = FAIL(ST_NO_MEMORY, "no memory for options");
    else
        scan(o, argc, copy, table, shorts.data == NULL ? "" : shorts.data, values, unknown != NULL ? unknown : &ignored);
done:
    mem_str_free(&shorts);
    free(copy);
    free(table);
    return st;
}

/* ---- the nearest name ---- */

/* Levenshtein's distance; names are short. */
static int distance(const char *a, const char *b)
{
    int row[128], n = (int)strnlen(b, ARRAY_LEN(row) - 1);
    for (int j = 0; j <= n; j++)
        row[j] = j;
    for (int i = 1; *a != '\0'; a++, i++) {
        int before = row[0];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            int change = before + (*a != b[j - 1]), best = row[j] + 1 < row[j - 1] + 1 ? row[j] + 1 : row[j - 1] + 1;
            before = row[j];
            row[j] = change < best ? change : best;
        }
    }
    return row[n];
}

/* The better of two candidates; one that shares less than about half its letters is none. */
static const char *nearer(const char *name, const char *best, const char *candidate)
{
    int limit = (int)strlen(name) / 2 + 1, d = distance(name, candidate);
    return d <= limit && (best == NULL || d < distance(name, best)) ? candidate : best;
}

/* ---- the file ---- */

typedef struct reading {
    cli_config *config;
    FILE *file;
    int lines; /* read so far */
    bool begun; /* a line without its newline */
    status st;
} reading;

/* fgets that counts lines: inih does not tell the handler where it is. */
static char *read_line(char *into, int size, void *arg)
{
    reading *r = arg;
    char *got = fgets(into, size, r->file);
    if (got == NULL)
        return NULL;
    if (!r->begun)
        r->lines++;
    size_t len = strlen(got);
    r->begun = len == 0 || got[len - 1] != '\n';
    return got;
}

static const cli_command *configurable(const char *section, const char **nearest)
{
    for (const cli_command *c = cli_commands; c->name != NULL; c++) {
        if (c->argp == NULL)
            continue;
        if (strcmp(c->name, section) == 0)
            return c;
        *nearest = nearer(section, *nearest, c->name);
    }
    return NULL;
}

static status key_check(const char *where, const cli_command *c, const char *name)
{
    cli_options o;
    const char *best = NULL;
    TRY(cli_options_list(c->argp(), &o));
    int i = cli_options_find(&o, name);
    for (int k = 0; k < o.n; k++) {
        if ((o.of[k].flags & OPTION_HIDDEN) == 0)
            best = nearer(name, best, o.of[k].name);
    }
    bool known = i >= 0 && (o.of[i].flags & OPTION_HIDDEN) == 0;
    cli_options_free(&o);
    if (known)
        return ST_OK;
    return FAIL(ST_INVALID, "%s: `trireme %s` has no option \"%s\"%s%s%s", where, c->name, name, best != NULL ? ": did you mean \"" : "",
                best != NULL ? best : "", best != NULL ? "\"?" : "; `trireme config` lists them");
}

static status setting_check(const reading *r, const char *section, const char *name)
{
    char where[512];
    const char *best = NULL;
    snprintf(where, sizeof(where), "%s:%d", r->config->path, r->lines);
    if (*section == '\0')
        return FAIL(ST_INVALID, "%s: \"%s\" stands before any section: begin with [gateway], [replica] or [up]", where, name);
    const cli_command *c = configurable(section, &best);
    if (c == NULL)
        return FAIL(ST_INVALID, "%s: no section [%s]%s%s%s", where, section, best != NULL ? ": did you mean [" : "", best != NULL ? best : "",
                    best != NULL ? "]?" : "; a section is named for a command: [gateway], [replica], [up]");
    return key_check(where, c, name);
}

static status setting_add(cli_config *c, const char *section, const char *name, const char *value, int line)
{
    cli_setting *grown = realloc(c->of, ((size_t)c->n + 1) * sizeof(*grown));
    if (grown == NULL)
        return FAIL(ST_NO_MEMORY, "no memory for the settings of %s", c->path);
    c->of = grown;
    cli_setting *s = &c->of[c->n++];
    *s = (cli_setting){strdup(section), strdup(name), strdup(value), line};
    return s->section == NULL || s->name == NULL || s->value == NULL ? FAIL(ST_NO_MEMORY, "no memory for the settings of %s", c->path) : ST_OK;
}

static int on_setting(void *arg, const char *section, const char *name, const char *value)
{
    reading *r = arg;
    r->st = setting_check(r, section, name);
    if (r->st == ST_OK)
        r->st = setting_add(r->config, section, name, value, r->lines);
    return r->st == ST_OK;
}

static status file_parse(cli_config *c, FILE *file)
{
    reading r = {.config = c, .file = file};
    /* inih's own settings: lines of any length, an indented line is a line, the first mistake ends it. */
    ini_use_stack = false;
    ini_allow_realloc = true;
    ini_max_line = (int)MAX_FILE;
    ini_allow_multiline = false;
    ini_stop_on_first_error = true;
    int rc = ini_parse_stream(read_line, &r, on_setting, &r);
    if (r.st != ST_OK)
        return r.st;
    if (rc == -2)
        return FAIL(ST_NO_MEMORY, "no memory to read %s", c->path);
    if (rc != 0)
        return FAIL(ST_INVALID, "%s:%d: neither a [section] nor key = value", c->path, rc);
    return ferror(file) ? FAIL(ST_IO, "%s: cannot read: %s", c->path, strerror(errno)) : ST_OK;
}

/* "" in $XDG_CONFIG_HOME counts as not set (XDG base directories). */
static char *default_path(void)
{
    const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    mem_str s = {0};
    if (xdg != NULL && *xdg == '/')
        mem_str_printf(&s, "%s/trireme/trireme.conf", xdg);
    else if (home != NULL && *home != '\0')
        mem_str_printf(&s, "%s/.config/trireme/trireme.conf", home);
    if (s.len > 0 && !s.failed && file_exists(s.data))
        return mem_str_take(&s);
    mem_str_free(&s);
    return file_exists("/etc/trireme/trireme.conf") ? strdup("/etc/trireme/trireme.conf") : NULL;
}

status cli_config_read(const char *path, cli_config *out)
{
    *out = (cli_config){.path = path != NULL ? strdup(path) : default_path()};
    if (out->path == NULL)
        return path != NULL ? FAIL(ST_NO_MEMORY, "no memory for the name of the configuration") : ST_OK;
    FILE *f = fopen(out->path, "re");
    status st = f == NULL ? FAIL(errno == ENOENT ? ST_NOT_FOUND : ST_IO, "configuration %s: %s", out->path, strerror(errno)) : file_parse(out, f);
    if (f != NULL)
        fclose(f);
    if (st != ST_OK)
        cli_config_free(out);
    return st;
}

void cli_config_free(cli_config *c)
{
    for (int i = 0; i < c->n; i++) {
        free(c->of[i].section);
        free(c->of[i].name);
        free(c->of[i].value);
    }
    free(c->of);
    free(c->path);
    *c = (cli_config){0};
}

const char *cli_config_get(const cli_config *c, const char *section, const char *name, int *line)
{
    for (int i = c->n; i-- > 0;) {
        if (strcmp(c->of[i].section, section) != 0 || strcmp(c->of[i].name, name) != 0)
            continue;
        if (line != NULL)
            *line = c->of[i].line;
        return c->of[i].value;
    }
    return NULL;
}

/* ---- parsing with it ---- */

enum { OPT_CONFIG = 0x7f0000, OPT_ORIGIN };

/* --config-origin, which only cli_parse_config writes, stands before an option from the file, so that argp's complaint about its value names file
 * and line; an empty one ends them. */
static const struct argp_option config_options[] = {
    {"config", OPT_CONFIG, "FILE", 0, "Options from an INI file; the command line wins over it (default ~/.config/trireme/trireme.conf if it is there, then /etc/trireme/trireme.conf)", -2},
    {"config-origin", OPT_ORIGIN, "WHERE", OPTION_HIDDEN, NULL, -2},
    {0},
};

static error_t config_parse(int key, char *arg, struct argp_state *state)
{
    switch (key) {
    case OPT_CONFIG:
        return 0;
    case OPT_ORIGIN:
        state->name = *arg != '\0' ? arg : state->argv[0];
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp cli_config_argp = {config_options, config_parse, NULL, NULL, NULL, NULL, NULL};

/* What argp's results point into lives as long as the process, as argv does. */
static struct {
    cli_config config;
    char **argv;
    int argc;
    struct argp_child *children;
} kept;

const cli_config *cli_config_current(void)
{
    return &kept.config;
}

static status argument_add(char *text)
{
    if (text == NULL)
        return FAIL(ST_NO_MEMORY, "no memory for options");
    kept.argv[kept.argc++] = text;
    return ST_OK;
}

static char *text_of(const char *format, ...) __attribute__((format(printf, 1, 2)));
static char *text_of(const char *format, ...)
{
    char *text;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    return n < 0 ? NULL : text;
}

static bool parse_truth(const char *text, bool *out)
{
    static const char *const words[2][4] = {{"false", "no", "off", "0"}, {"true", "yes", "on", "1"}};
    for (int v = 0; v < 2; v++) {
        for (size_t i = 0; i < ARRAY_LEN(words[v]); i++) {
            if (strcasecmp(text, words[v][i]) == 0) {
                *out = v == 1;
                return true;
            }
        }
    }
    return false;
}

static status setting_pass(const cli_setting *s, const cli_option *o, const char *command)
{
    bool on = true;
    if (o->arg == NULL && !parse_truth(s->value, &on))
        return FAIL(ST_INVALID, "%s:%d: %s = %s: true or false is needed", kept.config.path, s->line, s->name, s->value);
    if (!on)
        return ST_OK;
    TRY(argument_add(text_of("--config-origin=%s (%s:%d)", command, kept.config.path, s->line)));
    return argument_add(o->arg == NULL ? text_of("--%s", o->name) : text_of("--%s=%s", o->name, s->value));
}

/* argv[0], the file's settings that the command line does not give itself, the command line. */
static status arguments_make(const char *section, const cli_options *o, const char **values, int argc, char **argv)
{
    TRY(mem_calloc((size_t)kept.config.n * 2 + (size_t)argc + 2, sizeof(*kept.argv), "arguments", &kept.argv));
    kept.argv[kept.argc++] = argv[0];
    for (int i = 0; i < kept.config.n; i++) {
        const cli_setting *s = &kept.config.of[i];
        int k = strcmp(s->section, section) == 0 ? cli_options_find(o, s->name) : -1;
        if (k >= 0 && values[k] == NULL)
            TRY(setting_pass(s, &o->of[k], argv[0]));
    }
    if (kept.argc > 1)
        TRY(argument_add(strdup("--config-origin=")));
    for (int i = 1; i < argc; i++)
        kept.argv[kept.argc++] = argv[i];
    return ST_OK;
}

static status prepare(const char *section, const struct argp *argp, int argc, char **argv)
{
    cli_options o;
    const char **values = NULL;
    TRY(cli_options_list(argp, &o));
    status st = mem_calloc((size_t)o.n + 1, sizeof(*values), "options", &values);
    if (st == ST_OK)
        st = cli_options_scan(&o, argc, argv, values, NULL);
    int config = cli_options_find(&o, "config");
    if (st == ST_OK)
        st = cli_config_read(values[config], &kept.config);
    if (st == ST_OK)
        st = arguments_make(section, &o, values, argc, argv);
    free(values);
    cli_options_free(&o);
    return st;
}

/* argp with one child more. */
static status argp_extend(const struct argp *argp, struct argp *out)
{
    int n = 0;
    while (argp->children != NULL && argp->children[n].argp != NULL)
        n++;
    TRY(mem_calloc((size_t)n + 2, sizeof(*kept.children), "options", &kept.children));
    if (n > 0)
        memcpy(kept.children, argp->children, (size_t)n * sizeof(*kept.children));
    kept.children[n] = (struct argp_child){&cli_config_argp, 0, NULL, -2};
    *out = *argp;
    out->children = kept.children;
    return ST_OK;
}

void cli_parse_config(const char *section, const struct argp *argp, int argc, char **argv, void *input)
{
    int n, rank;
    bool silent = comm_launched(&n, &rank) && rank > 0;
    struct argp whole;
    if (silent) /* as in cli_parse: rank 0 says what is wrong, for all */
        status_mute();
    status st = argp_extend(argp, &whole);
    if (st == ST_OK)
        st = prepare(section, &whole, argc, argv);
    if (silent)
        status_unmute();
    if (st != ST_OK)
        exit(silent ? 0 : 2);
    cli_parse(&whole, kept.argc, kept.argv, input);
}
