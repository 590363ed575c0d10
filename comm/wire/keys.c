/* comm/wire/keys.c - CURVE keys in files, in the layout of CZMQ's certificates:
 *
 *   # comment
 *   metadata
 *       format = "1"
 *   curve
 *       public-key = "40 letters of Z85"
 *       secret-key = "40 letters of Z85"
 */
#include "comm/wire/wire_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

enum { KEY_FORMAT = 1, MAX_KEY_FILE = 16384 };
#define GATEWAY "gateway"
#define REPLICA "replica"

status wire_keys_create(wire_keys *out)
{
    if (zmq_curve_keypair(out->public_key, out->secret_key) != 0)
        return FAIL(ST_UNSUPPORTED, "this libzmq makes no CURVE keys: %s", zmq_strerror(errno));
    return ST_OK;
}

/* The file must not be there: O_EXCL, so that of two that race one is told. */
static status write_new(const char *path, mode_t mode, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd < 0 && errno == EEXIST)
        return FAIL(ST_INVALID, "%s is there already and is not overwritten; remove it first if it is no longer used", path);
    if (fd < 0)
        return FAIL(ST_IO, "%s: %s", path, strerror(errno));
    status st = fchmod(fd, mode) == 0 ? file_write_at(fd, path, 0, text, strlen(text)) : FAIL(ST_IO, "%s: %s", path, strerror(errno));
    if (st == ST_OK && fsync(fd) != 0)
        st = FAIL(ST_IO, "%s: %s", path, strerror(errno));
    close(fd);
    if (st != ST_OK)
        unlink(path);
    return st;
}

static status write_public(const char *path, const char *key)
{
    char text[512];
    snprintf(text, sizeof(text), "# A public CURVE key of Trireme: may be shown to anyone.\nmetadata\n    format = \"%d\"\ncurve\n    public-key = \"%s\"\n", KEY_FORMAT,
             key);
    return write_new(path, 0644, text);
}

status wire_keys_write(const char *path, const wire_keys *keys)
{
    char text[512], *public_path = NULL;
    if (asprintf(&public_path, "%s.pub", path) < 0)
        return FAIL(ST_NO_MEMORY, "%s: no memory", path);
    snprintf(text, sizeof(text),
             "# A pair of CURVE keys of Trireme: keep it secret, mode 0600.\nmetadata\n    format = \"%d\"\ncurve\n    public-key = \"%s\"\n    secret-key = \"%s\"\n",
             KEY_FORMAT, keys->public_key, keys->secret_key);
    status st = write_public(public_path, keys->public_key);
    if (st == ST_OK) {
        st = write_new(path, 0600, text);
        if (st != ST_OK)
            unlink(public_path);
    }
    explicit_bzero(text, sizeof(text));
    free(public_path);
    return st;
}

/* The value of NAME = "VALUE" in a line; NULL: another line.  Cuts the line at the closing quote. */
static char *line_value(char *line, const char *name)
{
    line += strspn(line, " \t");
    size_t n = strlen(name);
    if (strncmp(line, name, n) != 0)
        return NULL;
    line += n;
    line += strspn(line, " \t");
    if (*line++ != '=')
        return NULL;
    line += strspn(line, " \t");
    char *end = *line == '"' ? strchr(line + 1, '"') : NULL;
    if (end == NULL)
        return NULL;
    *end = '\0';
    return line + 1;
}

static bool z85_valid(const char *key)
{
    uint8_t raw[32];
    return strlen(key) == WIRE_KEY - 1 && zmq_z85_decode(raw, key) != NULL;
}

static status parse_line(const char *path, char *line, wire_keys *out)
{
    char *value;
    if ((value = line_value(line, "format")) != NULL) {
        long format = strtol(value, NULL, 10);
        if (format > KEY_FORMAT)
            return FAIL(ST_UNSUPPORTED, "%s: a key file of format %ld; this trireme reads up to %d: upgrade it, or make keys with its own `trireme keygen`", path,
                        format, KEY_FORMAT);
    } else if ((value = line_value(line, "public-key")) != NULL || (value = line_value(line, "secret-key")) != NULL) {
        if (!z85_valid(value))
            return FAIL(ST_FORMAT, "%s: a key is not 40 letters of Z85", path);
        bool is_public = strstr(line, "public-key") != NULL;
        memcpy(is_public ? out->public_key : out->secret_key, value, WIRE_KEY);
    }
    return ST_OK;
}

status wire_keys_parse(const char *path, char *text, size_t n, wire_keys *out)
{
    *out = (wire_keys){0};
    if (strlen(text) != n)
        return FAIL(ST_FORMAT, "%s: not a key file", path);
    char *save = NULL;
    for (char *line = strtok_r(text, "\r\n", &save); line != NULL; line = strtok_r(NULL, "\r\n", &save))
        if (line[strspn(line, " \t")] != '#')
            TRY(parse_line(path, line, out));
    return out->public_key[0] != '\0' ? ST_OK : FAIL(ST_FORMAT, "%s: no public-key = \"...\" in it: not a key file", path);
}

static status read_keys(const char *path, wire_keys *out)
{
    char *text;
    size_t n;
    TRY(file_read_all(path, MAX_KEY_FILE, &text, &n));
    status st = wire_keys_parse(path, text, n, out);
    explicit_bzero(text, n);
    free(text);
    return st;
}

status wire_public_key_read(const char *path, char out[WIRE_KEY])
{
    wire_keys keys;
    status st = read_keys(path, &keys);
    if (st == ST_OK)
        memcpy(out, keys.public_key, WIRE_KEY);
    explicit_bzero(&keys, sizeof(keys));
    return st;
}

status wire_keys_read(const char *path, wire_keys *out)
{
    struct stat sb;
    char derived[WIRE_KEY];
    if (stat(path, &sb) != 0)
        return FAIL(errno == ENOENT ? ST_NOT_FOUND : ST_IO, "%s: %s", path, strerror(errno));
    if ((sb.st_mode & 077) != 0)
        return FAIL(ST_INVALID, "%s: a secret key that others may read or write (mode %04o): chmod 600 %s", path, (unsigned)sb.st_mode & 07777, path);
    TRY(read_keys(path, out));
    if (out->secret_key[0] == '\0')
        return FAIL(ST_FORMAT, "%s: a public key alone; the file with both has no .pub at its end", path);
    if (zmq_curve_public(derived, out->secret_key) != 0 || strcmp(derived, out->public_key) != 0)
        return FAIL(ST_FORMAT, "%s: its public key does not belong to its secret key", path);
    return ST_OK;
}

status wire_keys_dir_default(char **out)
{
    const char *config = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME"), *between = "";
    if (config == NULL || config[0] != '/') { /* relative ones are to be ignored */
        config = home;
        between = "/.config";
        struct passwd *user = config == NULL || config[0] != '/' ? getpwuid(getuid()) : NULL;
        if (user != NULL)
            config = user->pw_dir;
    }
    if (config == NULL || config[0] != '/')
        return FAIL(ST_NOT_FOUND, "no home folder to keep keys in: name one with --keys DIR");
    if (asprintf(out, "%s%s/trireme/keys", config, between) < 0)
        return FAIL(ST_NO_MEMORY, "no memory for a path");
    return ST_OK;
}

/* dir/name, or dir/allow/name.pub ... ; NULL: no memory. */
static char *key_path(const char *dir, const char *between, const char *name, const char *end)
{
    char *path = NULL;
    return asprintf(&path, "%s/%s%s%s", dir, between, name, end) < 0 ? NULL : path;
}

/* Made with mode 0700.  One that is there keeps its mode, unless others could put keys of theirs into it. */
static status make_private_dir(const char *dir)
{
    struct stat sb;
    bool made = !file_exists(dir);
    TRY(file_make_dirs(dir));
    if (stat(dir, &sb) != 0 || (made && chmod(dir, 0700) != 0))
        return FAIL(ST_IO, "%s: %s", dir, strerror(errno));
    if (!S_ISDIR(sb.st_mode))
        return FAIL(ST_INVALID, "%s: not a folder", dir);
    if (!made && (sb.st_mode & 022) != 0)
        return FAIL(ST_INVALID, "%s: others may write into this folder, which is no place for keys: name another, or chmod go-w %s", dir, dir);
    return ST_OK;
}

/* A pair under its name; its public half for the caller. */
static status make_pair(const char *dir, const char *name, char public_key[WIRE_KEY])
{
    wire_keys keys;
    char *path = key_path(dir, "", name, "");
    if (path == NULL)
        return FAIL(ST_NO_MEMORY, "%s: no memory", dir);
    status st = wire_keys_create(&keys);
    if (st == ST_OK)
        st = wire_keys_write(path, &keys);
    if (st == ST_OK)
        memcpy(public_key, keys.public_key, WIRE_KEY);
    explicit_bzero(&keys, sizeof(keys));
    free(path);
    return st;
}

static void remove_pair(const char *dir, const char *name)
{
    for (int public_half = 0; public_half < 2; public_half++) {
        char *path = key_path(dir, "", name, public_half ? ".pub" : "");
        if (path != NULL)
            unlink(path);
        free(path);
    }
}

static status allow_key(const char *dir, const char *name, const char *public_key)
{
    char *path = key_path(dir, "allow/", name, ".pub");
    if (path == NULL)
        return FAIL(ST_NO_MEMORY, "%s: no memory", dir);
    status st = write_public(path, public_key);
    free(path);
    return st;
}

status wire_keys_dir_create(const char *dir)
{
    char key[WIRE_KEY], *allow = file_join(dir, "allow");
    if (allow == NULL)
        return FAIL(ST_NO_MEMORY, "%s: no memory", dir);
    status st = make_private_dir(dir);
    if (st == ST_OK)
        st = make_private_dir(allow);
    free(allow);
    TRY(st);
    TRY(make_pair(dir, GATEWAY, key));
    st = wire_keys_dir_add(dir, REPLICA);
    if (st != ST_OK)
        remove_pair(dir, GATEWAY);
    return st;
}

static status check_name(const char *name)
{
    size_t n = strlen(name);
    if (!wire_name_valid(name) || strcmp(name, GATEWAY) == 0 || strcmp(name, "allow") == 0 || (n > 4 && strcmp(name + n - 4, ".pub") == 0))
        return FAIL(ST_INVALID, "\"%s\" cannot name a replica's key: letters, digits, '.', '_' and '-', at most %d, not ending in .pub; \"gateway\" and \"allow\" are taken",
                    name, WIRE_NAME - 1);
    return ST_OK;
}

static status check_made(const char *dir)
{
    char *path = key_path(dir, "", "allow", "");
    bool made = path != NULL && file_is_dir(path);
    free(path);
    return made ? ST_OK : FAIL(ST_NOT_FOUND, "%s holds no keys yet: `trireme keygen %s` makes them", dir, dir);
}

status wire_keys_dir_add(const char *dir, const char *name)
{
    char key[WIRE_KEY];
    TRY(check_name(name));
    TRY(check_made(dir));
    TRY(make_pair(dir, name, key));
    status st = allow_key(dir, name, key);
    if (st != ST_OK)
        remove_pair(dir, name);
    return st;
}

status wire_keys_dir_allow(const char *dir, const char *name, const char *public_path)
{
    char key[WIRE_KEY];
    TRY(check_name(name));
    TRY(check_made(dir));
    TRY(wire_public_key_read(public_path, key));
    return allow_key(dir, name, key);
}

static status read_pair(const char *dir, const char *name, wire_keys *out)
{
    char *path = key_path(dir, "", name, "");
    if (path == NULL)
        return FAIL(ST_NO_MEMORY, "%s: no memory", dir);
    status st = file_exists(path) ? wire_keys_read(path, out)
                                  : FAIL(ST_NOT_FOUND, "%s: no such key; `trireme keygen %s` makes keys, and --keys DIR names another folder of them", path, dir);
    free(path);
    return st;
}

static status gateway_of(const char *dir, wire_security *s)
{
    TRY(read_pair(dir, GATEWAY, &s->keys));
    s->allow_dir = file_join(dir, "allow");
    return s->allow_dir != NULL ? ST_OK : FAIL(ST_NO_MEMORY, "%s: no memory", dir);
}

static status replica_of(const char *dir, const char *name, wire_security *s)
{
    TRY(read_pair(dir, name != NULL ? name : REPLICA, &s->keys));
    char *path = key_path(dir, "", GATEWAY, ".pub");
    status st = path == NULL         ? FAIL(ST_NO_MEMORY, "%s: no memory", dir)
                : !file_exists(path) ? FAIL(ST_NOT_FOUND, "%s: no such file; copy gateway.pub from the gateway's folder of keys", path)
                                     : wire_public_key_read(path, s->server_key);
    free(path);
    return st;
}

static status security_from(const char *keys_dir, bool gateway, const char *name, wire_security *out)
{
    char *dir = NULL;
    *out = (wire_security){0};
    TRY(keys_dir == NULL ? wire_keys_dir_default(&dir) : ST_OK);
    const char *from = keys_dir != NULL ? keys_dir : dir;
    status st = gateway ? gateway_of(from, out) : replica_of(from, name, out);
    free(dir);
    if (st != ST_OK)
        wire_security_clear(out);
    return st;
}

status wire_security_gateway(const char *keys_dir, wire_security *out)
{
    return security_from(keys_dir, true, NULL, out);
}

status wire_security_replica(const char *keys_dir, const char *key_name, wire_security *out)
{
    return security_from(keys_dir, false, key_name, out);
}

void wire_security_clear(wire_security *s)
{
    free(s->allow_dir);
    explicit_bzero(s, sizeof(*s));
}
