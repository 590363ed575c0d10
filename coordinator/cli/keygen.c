/* coordinator/cli/keygen.c - `trireme keygen`: the keys with which gateway and replicas know each other. */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "comm/wire/wire.h"
#include "coordinator/cli/cli.h"
#include "coordinator/cli/cli_util.h"

enum { OPT_REPLICA = 256, OPT_ALLOW };

typedef struct keygen_args {
    const char *dir, *replica, *allow;
} keygen_args;

static const struct argp_option options[] = {
    {"replica", OPT_REPLICA, "NAME", 0, "Add a key pair for one more replica to DIR, and admit it", 0},
    {"allow", OPT_ALLOW, "FILE.pub", 0, "Admit the replica whose public key is in this file; it keeps the file's name", 0},
    {0},
};

static const char doc[] =
    "Makes the keys with which a gateway and its replicas encrypt what they say and know each other."
    "\v"
    "DIR is where `trireme gateway` and `trireme replica` look unless told otherwise with --keys: $XDG_CONFIG_HOME/trireme/keys, or "
    "~/.config/trireme/keys. Without an option it is filled with\n"
    "\n"
    "  gateway, gateway.pub   the gateway's pair; a replica needs gateway.pub\n"
    "  replica, replica.pub   a pair for replicas\n"
    "  allow/replica.pub      the replicas' public keys that the gateway admits\n"
    "\n"
    "Secret keys have mode 0600 and never leave the machine unless you copy them. Nothing is ever overwritten. A running gateway sees a "
    "new key in allow/ at once, and cuts off a replica whose key is removed from there within a second.\n"
    "\n"
    "Examples:\n"
    "  trireme keygen                           all that one machine needs\n"
    "  trireme keygen --replica node7           a pair for another machine: copy node7, node7.pub and gateway.pub there\n"
    "  trireme keygen --allow /tmp/node8.pub    a pair made elsewhere, whose secret stays there\n"
    "  rm ~/.config/trireme/keys/allow/node7.pub   cuts node7 off\n"
    "\n"
    "Exit code: 0 done, 1 failed while running, 2 wrong use, or a key of that name is there already.";

static void take_once(struct argp_state *state, const char *name, const char **field, const char *arg)
{
    if (*field != NULL)
        argp_error(state, "%s: once at most", name);
    *field = arg;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    keygen_args *a = state->input;
    switch (key) {
    case OPT_REPLICA:
        take_once(state, "--replica", &a->replica, arg);
        return 0;
    case OPT_ALLOW:
        take_once(state, "--allow", &a->allow, arg);
        return 0;
    case ARGP_KEY_ARG:
        take_once(state, "DIR", &a->dir, arg);
        return 0;
    case ARGP_KEY_END:
        if (a->replica != NULL && a->allow != NULL)
            argp_error(state, "give either --replica or --allow");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* "/tmp/node8.pub" is node8's. */
static status name_of(const char *path, char name[WIRE_NAME])
{
    const char *slash = strrchr(path, '/'), *file = slash != NULL ? slash + 1 : path;
    size_t n = strlen(file);
    if (n < 5 || strcmp(file + n - 4, ".pub") != 0 || n - 4 >= WIRE_NAME)
        return FAIL(ST_INVALID, "%s: a public key's file is called NAME.pub", path);
    memcpy(name, file, n - 4);
    name[n - 4] = '\0';
    return ST_OK;
}

static status allow_file(const char *dir, const char *path)
{
    char name[WIRE_NAME];
    TRY(name_of(path, name));
    TRY(wire_keys_dir_allow(dir, name, path));
    printf("%s/allow/%s.pub: admitted\n", dir, name);
    return ST_OK;
}

static status add_replica(const char *dir, const char *name)
{
    TRY(wire_keys_dir_add(dir, name));
    printf("%s/%s: made and admitted. A replica on another machine needs it, %s.pub and gateway.pub.\n", dir, name, name);
    return ST_OK;
}

static status create(const char *dir)
{
    TRY(wire_keys_dir_create(dir));
    printf("%s: keys of a gateway and of its replicas\n", dir);
    return ST_OK;
}

static status run(const keygen_args *a)
{
    char *standard = NULL;
    TRY(a->dir == NULL ? wire_keys_dir_default(&standard) : ST_OK);
    const char *dir = a->dir != NULL ? a->dir : standard;
    status st = a->allow != NULL ? allow_file(dir, a->allow) : a->replica != NULL ? add_replica(dir, a->replica) : create(dir);
    free(standard);
    return st;
}

int cli_keygen(int argc, char **argv)
{
    keygen_args a = {0};
    struct argp argp = {options, parse, "[DIR]", doc, NULL, NULL, NULL};
    cli_parse(&argp, argc, argv, &a);
    status_mute(); /* reported once, below */
    status st = run(&a);
    status_unmute();
    return cli_finish_output(st == ST_OK ? 0 : cli_report(st));
}
