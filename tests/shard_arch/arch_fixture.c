#include "arch_fixture.h"

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

static int compare(const void *a, const void *b)
{
    return strcmp(a, b);
}

int fixture_names(char (*names)[128], int cap)
{
    DIR *dir = opendir(TEST_SOURCE_DIR "/golden");
    int n = 0;
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL && n < cap;) {
        char path[1024];
        snprintf(path, sizeof(path), "%s/golden/%s/config.json", TEST_SOURCE_DIR, e->d_name);
        if (e->d_name[0] != '.' && file_exists(path))
            snprintf(names[n++], 128, "%.127s", e->d_name);
    }
    if (dir != NULL)
        closedir(dir);
    qsort(names, (size_t)n, sizeof(names[0]), compare);
    return n;
}

/* A safetensors header: 8 bytes of length, then JSON. */
static json_t *header_of(const char *path)
{
    uint64_t n;
    json_t *header = NULL;
    FILE *file = fopen(path, "rb");
    if (file == NULL || fread(&n, 8, 1, file) != 1 || n > 1 << 20)
        abort();
    char *text = malloc(n);
    if (text == NULL || fread(text, 1, n, file) != n || json_parse(path, text, n, &header) != ST_OK)
        abort();
    free(text);
    fclose(file);
    json_object_del(header, "__metadata__");
    return header;
}

void fixture_open(const char *name, fixture *f)
{
    char dir[256], path[600];
    memset(f, 0, sizeof(*f));
    snprintf(f->name, sizeof(f->name), "%s", name);
    snprintf(dir, sizeof(dir), "%s/golden/%s", TEST_SOURCE_DIR, name);
    snprintf(path, sizeof(path), "%s/config.json", dir);
    if (json_parse_file(path, 1 << 20, &f->config) != ST_OK)
        abort();
    f->tensors = json_object();
    DIR *d = opendir(dir);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        size_t len = strlen(e->d_name);
        if (len < 12 || strcmp(e->d_name + len - 12, ".safetensors") != 0)
            continue;
        snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
        json_t *header = header_of(path);
        json_object_update(f->tensors, header);
        json_decref(header);
    }
    closedir(d);
}

void fixture_close(fixture *f)
{
    json_decref(f->config);
    json_decref(f->tensors);
}

bool fixture_has(void *arg, const char *name)
{
    return json_object_get(((fixture *)arg)->tensors, name) != NULL;
}

status fixture_parse(const char *text, shard_arch *out)
{
    char buf[4096];
    json_t *config;
    snprintf(buf, sizeof(buf), "%s", text);
    for (char *p = buf; *p != '\0'; p++)
        *p = *p == '\'' ? '"' : *p;
    status st = json_parse("config.json", buf, strlen(buf), &config);
    if (st != ST_OK)
        return st;
    st = shard_arch_from_config("config.json", config, NULL, NULL, out);
    json_decref(config);
    return st;
}
