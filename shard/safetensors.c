#include "shard/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"

status shard_safetensors_header_bytes(const char *where, const uint8_t first[8], uint64_t file_bytes, uint64_t *out)
{
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--)
        n = n << 8 | first[i];
    if (file_bytes < 8 || n > file_bytes - 8)
        return FAIL(ST_FORMAT,
                    "%s: says its header has %llu bytes, but the file has %llu: it is truncated or no safetensors file; fetch it again",
                    where, (unsigned long long)n, (unsigned long long)file_bytes);
    if (n > SHARD_SAFETENSORS_MAX_HEADER)
        return FAIL(ST_LIMIT, "%s: a header of %llu bytes is more than the %llu that safetensors allows", where, (unsigned long long)n,
                    (unsigned long long)SHARD_SAFETENSORS_MAX_HEADER);
    if (n < 2)
        return FAIL(ST_FORMAT, "%s: a header of %llu bytes cannot be JSON: not a safetensors file", where, (unsigned long long)n);
    *out = n;
    return ST_OK;
}

static status parse_dtype(const char *where, const char *name, const json_t *v, shard_dtype *out)
{
    if (!json_is_string(v))
        return FAIL(ST_FORMAT, "%s: tensor %s: dtype must be a string", where, name);
    *out = shard_dtype_parse(json_string_value(v));
    if (*out == SHARD_DTYPES || shard_dtype_block(*out) != 1)
        return FAIL(ST_UNSUPPORTED, "%s: tensor %s has the dtype %.32s, which is not one that can be read", where, name, json_string_value(v));
    return ST_OK;
}

static status parse_entry(const char *where, const char *name, const json_t *v, uint64_t data_begin, uint64_t data_bytes, shard_tensor *e)
{
    if (!json_is_object(v))
        return FAIL(ST_FORMAT, "%s: tensor %s must be an object with dtype, shape and data_offsets", where, name);
    TRY(parse_dtype(where, name, json_object_get(v, "dtype"), &e->dtype));

    const json_t *shape = json_object_get(v, "shape"), *offsets = json_object_get(v, "data_offsets");
    if (!json_is_array(shape) || json_array_size(shape) > SHARD_MAX_DIMS)
        return FAIL(ST_FORMAT, "%s: tensor %s: shape must be a list of at most %d sizes", where, name, SHARD_MAX_DIMS);
    e->n_dims = (int32_t)json_array_size(shape);
    for (int i = 0; i < e->n_dims; i++) {
        const json_t *d = json_array_get(shape, (size_t)i);
        if (!json_is_integer(d) || json_integer_value(d) < 0)
            return FAIL(ST_FORMAT, "%s: tensor %s: shape holds something that is not a size", where, name);
        e->dims[i] = json_integer_value(d);
    }

    const json_t *b = json_array_get(offsets, 0), *n = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(b) || !json_is_integer(n))
        return FAIL(ST_FORMAT, "%s: tensor %s: data_offsets must be [begin, end]", where, name);
    json_int_t begin = json_integer_value(b), end = json_integer_value(n);
    if (begin < 0 || end < begin || (uint64_t)end > data_bytes)
        return FAIL(ST_FORMAT,
                    "%s: tensor %s: data_offsets [%lld, %lld] do not lie in the file's %llu bytes of data; the file is truncated or damaged: "
                    "fetch it again",
                    where, name, (long long)begin, (long long)end, (unsigned long long)data_bytes);
    e->offset = data_begin + (uint64_t)begin;
    e->bytes = (uint64_t)(end - begin);
    return ST_OK;
}

static status parse_entries(const char *where, const json_t *root, uint64_t data_begin, uint64_t data_bytes, int32_t file, shard_tensors *out)
{
    const char *name;
    size_t name_len;
    json_t *v;
    json_object_keylen_foreach((json_t *)root, name, name_len, v)
    {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        if (memchr(name, '\0', name_len) != NULL)
            return FAIL(ST_FORMAT, "%s: a tensor's name holds a NUL", where);
        shard_tensor e = {.file = file};
        TRY(parse_entry(where, name, v, data_begin, data_bytes, &e));
        TRY(shard_tensors_add(out, where, name, name_len, &e));
        const shard_tensor *added = &out->list[out->n - 1];
        char shape[160];
        if (added->bytes != e.bytes)
            return FAIL(ST_FORMAT, "%s: tensor %s: %s of shape %s is %llu bytes, but data_offsets span %llu", where, name,
                        shard_dtype_name(e.dtype), shard_tensor_shape_text(added, shape), (unsigned long long)added->bytes,
                        (unsigned long long)e.bytes);
    }
    return ST_OK;
}

status shard_safetensors_parse(const char *where, const char *json, size_t len, uint64_t file_bytes, int32_t file, shard_tensors *out)
{
    json_t *root;
    uint64_t data_begin = 8 + (uint64_t)len;
    if (file_bytes < data_begin)
        return FAIL(ST_FORMAT, "%s: the file ends inside its header", where);
    TRY(json_parse(where, json, len, &root));
    status st = ST_OK;
    if (!json_is_object(root))
        st = FAIL(ST_FORMAT, "%s: the header must be a JSON object", where);
    if (st == ST_OK)
        st = parse_entries(where, root, data_begin, file_bytes - data_begin, file, out);
    if (st == ST_OK)
        st = shard_tensors_check_layout(out, where, file, data_begin, file_bytes, true);
    json_decref(root);
    return st;
}

static bool plain_file_name(const char *s, size_t len)
{
    if (len == 0 || len > 255 || s[0] == '.')
        return false;
    for (size_t i = 0; i < len; i++) {
        if (s[i] == '/' || s[i] == '\\' || (unsigned char)s[i] < 0x20 || s[i] == 0x7f)
            return false;
    }
    return true;
}

static size_t position(const char *const *names, size_t n, const char *name)
{
    size_t i = 0;
    while (i < n && strcmp(names[i], name) != 0)
        i++;
    return i;
}

static status collect_files(const char *where, const json_t *map, const char **names, size_t *n)
{
    const char *tensor;
    json_t *v;
    json_object_foreach((json_t *)map, tensor, v)
    {
        const char *name = json_string_value(v);
        if (name == NULL || !plain_file_name(name, json_string_length(v)))
            return FAIL(ST_FORMAT, "%s: weight_map: tensor %.128s: its value must be a plain file name in the same folder", where, tensor);
        /* Tensors of one file come in runs: the last name is nearly always the one. */
        if (*n > 0 && strcmp(names[*n - 1], name) == 0)
            continue;
        if (position(names, *n, name) < *n)
            continue;
        if (*n == SHARD_SAFETENSORS_MAX_FILES)
            return FAIL(ST_LIMIT, "%s: names more than %d files", where, SHARD_SAFETENSORS_MAX_FILES);
        names[(*n)++] = name;
    }
    return *n == 0 ? FAIL(ST_FORMAT, "%s: weight_map is empty", where) : ST_OK;
}

status shard_safetensors_index_files(const char *where, const json_t *index, const char ***names, size_t *n)
{
    json_t *map;
    if (!json_is_object(index))
        return FAIL(ST_FORMAT, "%s: must be a JSON object", where);
    TRY(json_get_obj(index, where, "weight_map", &map));
    if (map == NULL)
        return FAIL(ST_FORMAT, "%s: has no weight_map", where);
    const char **list;
    size_t count = 0;
    TRY(mem_calloc(SHARD_SAFETENSORS_MAX_FILES, sizeof(*list), "index", &list));
    status st = collect_files(where, map, list, &count);
    if (st != ST_OK) {
        free(list);
        return st;
    }
    *names = list;
    *n = count;
    return ST_OK;
}

status shard_safetensors_index_check(const char *where, const json_t *index, const shard_tensors *t, const char *const *names)
{
    const char *name;
    json_t *v;
    json_object_foreach(json_object_get(index, "weight_map"), name, v)
    {
        const shard_tensor *e = shard_tensors_find(t, name);
        if (e == NULL || strcmp(names[e->file], json_string_value(v)) != 0)
            return FAIL(ST_FORMAT, "%s: says tensor %.128s is in %s, but it is not: the files do not belong together; fetch them again", where,
                        name, json_string_value(v));
    }
    return ST_OK;
}
