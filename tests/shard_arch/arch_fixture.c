#include "arch_fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "shard/gguf.h"

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

/* ---- GGUF ---- */

int fixture_gguf_names(char (*names)[128], int cap)
{
    DIR *dir = opendir(TEST_SOURCE_DIR "/golden/gguf");
    int n = 0;
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL && n < cap;) {
        size_t len = strlen(e->d_name);
        if (len > 5 && len < 128 && strcmp(e->d_name + len - 5, ".gguf") == 0)
            snprintf(names[n++], 128, "%.*s", (int)(len - 5), e->d_name);
    }
    if (dir != NULL)
        closedir(dir);
    qsort(names, (size_t)n, sizeof(names[0]), compare);
    return n;
}

typedef struct opened {
    int fd;
    shard_gguf *gguf;
    shard_tensors tensors;
} opened;

static bool meta_int(void *arg, const char *key, int64_t *out)
{
    return shard_gguf_int(((opened *)arg)->gguf, key, out);
}
static bool meta_f64(void *arg, const char *key, double *out)
{
    return shard_gguf_f64(((opened *)arg)->gguf, key, out);
}
static bool meta_bool(void *arg, const char *key, bool *out)
{
    return shard_gguf_bool(((opened *)arg)->gguf, key, out);
}
static const char *meta_str(void *arg, const char *key)
{
    return shard_gguf_str(((opened *)arg)->gguf, key);
}
static int64_t meta_ints(void *arg, const char *key, const int64_t **out)
{
    return shard_gguf_int_array(((opened *)arg)->gguf, key, out);
}
static int64_t meta_f64s(void *arg, const char *key, const double **out)
{
    return shard_gguf_f64_array(((opened *)arg)->gguf, key, out);
}
static bool meta_shape(void *arg, const char *name, int64_t *rows, int64_t *cols)
{
    const shard_tensor *t = shard_tensors_find(&((opened *)arg)->tensors, name);
    if (t == NULL)
        return false;
    *rows = t->dims[0];
    *cols = t->n_dims > 1 ? t->dims[1] : 1;
    return true;
}
static status meta_f32(void *arg, const char *name, int64_t *n, float **out)
{
    opened *o = arg;
    const shard_tensor *t = shard_tensors_find(&o->tensors, name);
    *n = t->elements;
    *out = malloc(t->bytes);
    return *out == NULL ? ST_NO_MEMORY : file_read_at(o->fd, name, t->offset, *out, t->bytes);
}

void fixture_open_gguf(const char *name, fixture *f)
{
    char path[600];
    struct stat sb;
    opened o = {0};
    memset(f, 0, sizeof(*f));
    snprintf(f->name, sizeof(f->name), "%s", name);
    snprintf(path, sizeof(path), "%s/golden/gguf/%s.gguf", TEST_SOURCE_DIR, name);
    o.fd = open(path, O_RDONLY);
    if (o.fd < 0 || fstat(o.fd, &sb) != 0 || shard_tensors_init(&o.tensors) != ST_OK ||
        shard_gguf_read(path, o.fd, (uint64_t)sb.st_size, 0, &o.tensors, &o.gguf) != ST_OK)
        abort();
    shard_meta meta = {&o, meta_int, meta_f64, meta_bool, meta_str, meta_ints, meta_f64s, meta_shape, meta_f32};
    if (shard_arch_from_gguf(path, &meta, &f->arch) != ST_OK)
        abort();
    f->gguf = true;
    f->tensors = json_object();
    for (size_t i = 0; i < o.tensors.n; i++) {
        const shard_tensor *t = &o.tensors.list[i];
        if (strncmp(t->name, "rope_", 5) != 0) /* read with the metadata */
            json_object_set_new(f->tensors, t->name, t->n_dims > 1 ? json_pack("{s:[I,I]}", "shape", (json_int_t)t->dims[0], (json_int_t)t->dims[1])
                                                                   : json_pack("{s:[I]}", "shape", (json_int_t)t->dims[0]));
    }
    shard_gguf_destroy(&o.gguf);
    shard_tensors_free(&o.tensors);
    close(o.fd);
}
