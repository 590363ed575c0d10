/* tests/coordinator/fuzz_config.c - configuration files of any bytes: what is accepted names known sections and keys only. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "coordinator/cli/cli.h"
#include "coordinator/cli/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct argp_option options[] = {{"port", 1, "P", 0, NULL, 0}, {"api-keys", 2, "FILE", 0, NULL, 0}, {"quiet", 'q', NULL, 0, NULL, 0},
    {"silent", 0, NULL, OPTION_ALIAS, NULL, 0}, {"inner", 3, NULL, OPTION_HIDDEN, NULL, 0}, {0}};
static const struct argp argp = {options, NULL, NULL, NULL, NULL, NULL, NULL};
static const struct argp *get(void)
{
    return &argp;
}
const cli_command cli_commands[] = {{"up", "", NULL, false, get}, {"gateway", "", NULL, false, get}, {NULL, NULL, NULL, false, NULL}};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    int fd = memfd_create("config", MFD_CLOEXEC);
    if (fd < 0 || (size > 0 && write(fd, data, size) != (ssize_t)size))
        abort();
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    cli_config c;
    status_mute();
    if (cli_config_read(path, &c) == ST_OK) {
        for (int i = 0; i < c.n; i++) {
            static const char *const known[] = {"port", "api-keys", "quiet", "silent"};
            bool found = false;
            for (size_t k = 0; k < ARRAY_LEN(known); k++)
                found = found || strcmp(c.of[i].name, known[k]) == 0;
            if (!found || (strcmp(c.of[i].section, "up") != 0 && strcmp(c.of[i].section, "gateway") != 0) || c.of[i].line < 1)
                abort();
            if (cli_config_get(&c, c.of[i].section, c.of[i].name, NULL) == NULL)
                abort();
        }
        cli_config_free(&c);
    }
    status_unmute();
    close(fd);
    return 0;
}
