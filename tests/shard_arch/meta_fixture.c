/* tests/shard_arch/meta_fixture.c - GGUF metadata written as JSON. */
#include <stdlib.h>

#include "arch_fixture.h"

typedef struct fake {
    const json_t *kv, *tensors;
    int64_t ints[256];
} fake;

static json_t *kv(void *arg, const char *key)
{
    return json_object_get(((fake *)arg)->kv, key);
}
static bool fake_int(void *arg, const char *key, int64_t *out)
{
    *out = json_integer_value(kv(arg, key));
    return json_is_integer(kv(arg, key));
}
static bool fake_f64(void *arg, const char *key, double *out)
{
    *out = json_number_value(kv(arg, key));
    return json_is_number(kv(arg, key));
}
static bool fake_bool(void *arg, const char *key, bool *out)
{
    *out = json_is_true(kv(arg, key));
    return json_is_boolean(kv(arg, key));
}
static const char *fake_str(void *arg, const char *key)
{
    return json_string_value(kv(arg, key));
}
static int64_t fake_int_array(void *arg, const char *key, const int64_t **out)
{
    fake *f = arg;
    json_t *v;
    size_t i;
    if (!json_is_array(kv(arg, key)) || json_array_size(kv(arg, key)) > ARRAY_LEN(f->ints))
        return -1;
    json_array_foreach(kv(arg, key), i, v) f->ints[i] = json_is_boolean(v) ? json_is_true(v) : json_integer_value(v);
    *out = f->ints;
    return (int64_t)json_array_size(kv(arg, key));
}
static int64_t fake_f64_array(void *arg, const char *key, const double **out)
{
    (void)arg, (void)key, (void)out;
    return -1;
}
static bool fake_shape(void *arg, const char *name, int64_t *rows, int64_t *cols)
{
    const json_t *v = json_object_get(((fake *)arg)->tensors, name);
    bool list = json_is_real(json_array_get(v, 0));
    *rows = list ? (int64_t)json_array_size(v) : json_integer_value(json_array_get(v, 0));
    *cols = list || json_array_size(v) < 2 ? 1 : json_integer_value(json_array_get(v, 1));
    return v != NULL;
}
static status fake_f32(void *arg, const char *name, int64_t *n, float **out)
{
    const json_t *v = json_object_get(((fake *)arg)->tensors, name);
    *n = (int64_t)json_array_size(v);
    *out = calloc((size_t)*n, sizeof(float));
    for (int64_t i = 0; i < *n; i++)
        (*out)[i] = (float)json_number_value(json_array_get(v, (size_t)i));
    return ST_OK;
}

status fixture_parse_gguf(const json_t *file, shard_arch *out)
{
    fake f = {.kv = json_object_get(file, "kv"), .tensors = json_object_get(file, "tensors")};
    shard_meta meta = {&f, fake_int, fake_f64, fake_bool, fake_str, fake_int_array, fake_f64_array, fake_shape, fake_f32};
    return shard_arch_from_gguf("model.gguf", &meta, out);
}
