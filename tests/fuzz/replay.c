/* tests/fuzz/replay.c - runs a fuzz target over every file of a corpus folder, for builds without libFuzzer. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s CORPUS_DIR\n", argv[0]);
        return 2;
    }
    DIR *dir = opendir(argv[1]);
    if (dir == NULL) {
        fprintf(stderr, "%s: no corpus there\n", argv[1]);
        return 1;
    }
    int n = 0;
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        if (e->d_name[0] == '.')
            continue;
        char *path = file_join(argv[1], e->d_name), *data;
        size_t len;
        if (path == NULL || file_read_all(path, (size_t)64 << 20, &data, &len) != ST_OK)
            return 1;
        /* An exact-size heap copy, so that a read past the end is one the sanitizer sees. */
        uint8_t *copy = malloc(len == 0 ? 1 : len);
        if (copy == NULL)
            return 1;
        memcpy(copy, data, len);
        LLVMFuzzerTestOneInput(copy, len);
        free(copy);
        free(data);
        free(path);
        n++;
    }
    closedir(dir);
    printf("replayed %d inputs\n", n);
    return n > 0 ? 0 : 1;
}
