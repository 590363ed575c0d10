/* tests/coordinator/test_config.c - options from a file: order of precedence, refusals by name, any argp table. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "coordinator/cli/cli.h"
#include "coordinator/cli/cli_util.h"
#include "coordinator/cli/config.h"

/* Two commands with made-up options: the reader knows no option of its own. */
enum { OPT_DEPTH = 0x1000, OPT_COLOUR, OPT_OPTIONAL, OPT_SECRET };
typedef struct row_args {
    int depth, n_oars;
    bool quiet;
    const char *colour;
    char order[64]; /* first letters of the options as they came */
} row_args;

static error_t child_parse(int key, char *arg, struct argp_state *state)
{
    row_args *a = state->input;
    if (key != OPT_COLOUR)
        return ARGP_ERR_UNKNOWN;
    a->colour = arg;
    strcat(a->order, "c");
    return 0;
}
static const struct argp_option child_options[] = {{"colour", OPT_COLOUR, "NAME", 0, "Colour (default red)", 0}, {"color", 0, NULL, OPTION_ALIAS, NULL, 0}, {0}};
static const struct argp child_argp = {child_options, child_parse, NULL, NULL, NULL, NULL, NULL};

static error_t row_parse(int key, char *arg, struct argp_state *state)
{
    row_args *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = a;
        return 0;
    case OPT_DEPTH:
        a->depth = cli_arg_int(state, "depth", arg, 1, 100);
        strcat(a->order, "d");
        return 0;
    case 'n':
        a->n_oars = cli_arg_int(state, "oars", arg, 1, 200);
        strcat(a->order, "o");
        return 0;
    case 'q':
        a->quiet = true;
        return 0;
    case ARGP_KEY_END:
        if (a->n_oars == 0)
            argp_error(state, "no oars: give -n N");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}
static const struct argp_option row_options[] = {{NULL, 0, NULL, 0, "Rowing:", 1}, {"depth", OPT_DEPTH, "N", 0, "Depth (default 5)", 0},
    {"oars", 'n', "N", 0, "Oars", 0}, {"quiet", 'q', NULL, 0, "Say nothing", 0}, {"inner-thing", OPT_SECRET, NULL, OPTION_HIDDEN, NULL, 0}, {0}};
static const struct argp_child row_children[] = {{&child_argp, 0, NULL, 0}, {0}};
static const struct argp row_argp = {row_options, row_parse, NULL, NULL, row_children, NULL, NULL};
static const struct argp *row(void)
{
    return &row_argp;
}
static int nothing(int argc, char **argv)
{
    (void)argc, (void)argv;
    return 0;
}
const cli_command cli_commands[] = {{"row", "", nothing, false, row}, {"plain", "", nothing, false, NULL}, {NULL, NULL, NULL, false, NULL}};

static char *file_of(const char *text)
{
    static char path[] = "/tmp/test_config.XXXXXX", fresh[sizeof(path)];
    memcpy(fresh, path, sizeof(path));
    int fd = mkstemp(fresh);
    assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
    return fresh;
}

/* Parses in a child process, since argp exits; the child's exit code, and what it said. */
static int parse_in_child(const char *file, const char *flags, row_args *out, char said[4096])
{
    int results[2], errors[2];
    assert_true(pipe(results) == 0 && pipe(errors) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        char *argv[16] = {"trireme row", "--config", (char *)(uintptr_t)file}, *copy = strdup(flags), *save;
        int argc = 3;
        for (char *t = strtok_r(copy, " ", &save); t != NULL; t = strtok_r(NULL, " ", &save))
            argv[argc++] = t;
        row_args a = {0};
        dup2(errors[1], STDERR_FILENO);
        cli_parse_config("row", &row_argp, argc, argv, &a);
        static char colour[64];
        snprintf(colour, sizeof(colour), "%s", a.colour == NULL ? "" : a.colour);
        if (write(results[1], &a, sizeof(a)) < 0 || write(results[1], colour, sizeof(colour)) < 0)
            _exit(9);
        _exit(0);
    }
    close(results[1]);
    close(errors[1]);
    ssize_t n, used = 0;
    while (used < 4095 && (n = read(errors[0], said + used, (size_t)(4095 - used))) > 0)
        used += n;
    said[used] = '\0';
    static char colour[64];
    if (read(results[0], out, sizeof(*out)) == (ssize_t)sizeof(*out)) {
        assert_int_equal(read(results[0], colour, sizeof(colour)), sizeof(colour));
        out->colour = colour;
    }
    close(results[0]);
    close(errors[0]);
    int state;
    waitpid(pid, &state, 0);
    return WIFEXITED(state) ? WEXITSTATUS(state) : 100 + WTERMSIG(state);
}

static void flags_win_over_the_file_and_the_file_over_defaults(void **s)
{
    (void)s;
    char said[4096];
    row_args a = {0};
    char *file = file_of("# a comment\n[row]\n  depth = 7   ; deep\noars=30\nquiet = yes\ncolor = blue\n");
    assert_int_equal(parse_in_child(file, "", &a, said), 0);
    assert_int_equal(a.depth, 7);
    assert_int_equal(a.n_oars, 30);
    assert_true(a.quiet);
    assert_string_equal(a.colour, "blue");
    /* A flag in any spelling keeps the file's value from being parsed at all: options that add up are replaced. */
    const char *spellings[] = {"--depth 9 -n8", "--depth=9 --oars 8", "--dep 9 --oar=8 -q", "-qn8 --depth 9"};
    for (size_t i = 0; i < ARRAY_LEN(spellings); i++) {
        assert_int_equal(parse_in_child(file, spellings[i], &a, said), 0);
        assert_int_equal(a.depth, 9);
        assert_int_equal(a.n_oars, 8);
        assert_int_equal(strlen(a.order), 3);
    }
    /* An alias on the command line is the same option. */
    assert_int_equal(parse_in_child(file, "--color green", &a, said), 0);
    assert_string_equal(a.colour, "green");
    unlink(file);
}

static void false_leaves_an_option_out_and_other_words_are_refused(void **s)
{
    (void)s;
    char said[4096];
    row_args a = {0};
    char *file = file_of("[row]\nquiet = off\noars = 2\n");
    assert_int_equal(parse_in_child(file, "", &a, said), 0);
    assert_false(a.quiet);
    unlink(file);
    file = file_of("[row]\noars = 2\nquiet = perhaps\n");
    assert_int_equal(parse_in_child(file, "", &a, said), 2);
    assert_non_null(strstr(said, ":3: quiet = perhaps: true or false"));
    unlink(file);
}

static void a_bad_value_is_told_with_file_and_line(void **s)
{
    (void)s;
    char said[4096], where[128];
    row_args a = {0};
    char *file = file_of("[row]\noars = 2\n\ndepth = deep\n");
    assert_int_equal(parse_in_child(file, "", &a, said), 2);
    snprintf(where, sizeof(where), "%s:4", file);
    assert_non_null(strstr(said, where));
    assert_non_null(strstr(said, "--depth deep"));
    unlink(file);
    /* What comes after the file's options is the command's own again. */
    file = file_of("[row]\ndepth = 4\n");
    assert_int_equal(parse_in_child(file, "", &a, said), 2);
    assert_non_null(strstr(said, "trireme row: no oars"));
    assert_null(strstr(said, file));
    unlink(file);
}

static void unknown_names_are_refused_with_the_nearest(void **s)
{
    (void)s;
    static const struct { const char *text, *says; } cases[] = {
        {"[row]\ndepht = 3\n", ":2: `trireme row` has no option \"depht\": did you mean \"depth\"?"},
        {"[row]\nco_lour = 3\n", "did you mean \"colour\"?"},
        {"[row]\nzzzzzzzzzzzz = 3\n", "`trireme config` lists them"},
        {"[raw]\ndepth = 3\n", ":2: no section [raw]: did you mean [row]?"},
        {"[plain]\ndepth = 3\n", "no section [plain]"},
        {"depth = 3\n[row]\n", ":1: \"depth\" stands before any section"},
        {"[row]\ndepth\n", ":2: neither a [section] nor key = value"},
        {"[row\ndepth = 3\n", ":1: neither"},
        {"[row]\ninner-thing = true\n", "has no option \"inner-thing\""},
        {"[row]\nconfig-origin = x\n", "has no option \"config-origin\""},
        {"[row]\nhelp = true\n", "has no option \"help\""},
    };
    char said[4096];
    row_args a;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char *file = file_of(cases[i].text);
        assert_int_equal(parse_in_child(file, "-n 3", &a, said), 2);
        if (strstr(said, cases[i].says) == NULL)
            fail_msg("case %zu: \"%s\" is not in \"%s\"", i, cases[i].says, said);
        unlink(file);
    }
    assert_int_equal(parse_in_child("/nonexistent/trireme.conf", "-n 3", &a, said), 2);
    assert_non_null(strstr(said, "/nonexistent/trireme.conf: No such file"));
}

static void a_line_may_be_long(void **s)
{
    (void)s;
    enum { LONG = 20000 };
    char *text = malloc(LONG + 100);
    int n = sprintf(text, "[row]\ncolour = ");
    memset(text + n, 'x', LONG);
    strcpy(text + n + LONG, "\ndepth = 3\n");
    char *file = file_of(text);
    cli_config c;
    int line;
    assert_int_equal(cli_config_read(file, &c), ST_OK);
    assert_int_equal(strlen(cli_config_get(&c, "row", "colour", &line)), LONG);
    assert_int_equal(line, 2);
    assert_string_equal(cli_config_get(&c, "row", "depth", &line), "3");
    assert_int_equal(line, 3);
    assert_null(cli_config_get(&c, "row", "oars", NULL));
    cli_config_free(&c);
    unlink(file);
    free(text);
}

static void the_default_file_is_the_users_then_the_hosts(void **s)
{
    (void)s;
    char dir[] = "/tmp/test_config_dir.XXXXXX", path[128], folder[64];
    cli_config c;
    assert_non_null(mkdtemp(dir));
    setenv("XDG_CONFIG_HOME", dir, 1);
    assert_int_equal(cli_config_read(NULL, &c), ST_OK);
    assert_true(c.path == NULL || strncmp(c.path, "/etc/", 5) == 0);
    cli_config_free(&c);
    snprintf(folder, sizeof(folder), "%s/trireme", dir);
    snprintf(path, sizeof(path), "%s/trireme.conf", folder);
    assert_int_equal(file_make_dirs(folder), ST_OK);
    assert_int_equal(file_write_all(path, "[row]\ndepth = 3\n", 16, 0600), ST_OK);
    assert_int_equal(cli_config_read(NULL, &c), ST_OK);
    assert_string_equal(c.path, path);
    assert_int_equal(c.n, 1);
    cli_config_free(&c);
    unlink(path);
    rmdir(folder);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flags_win_over_the_file_and_the_file_over_defaults), cmocka_unit_test(false_leaves_an_option_out_and_other_words_are_refused),
        cmocka_unit_test(a_bad_value_is_told_with_file_and_line), cmocka_unit_test(unknown_names_are_refused_with_the_nearest),
        cmocka_unit_test(a_line_may_be_long), cmocka_unit_test(the_default_file_is_the_users_then_the_hosts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
