#include "tests/shard_text/vectors.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "shard/text/bundle.h"

enum { SHOWN = 5 };

static void report(vectors_result *r, const char *path, int line, const char *what, const char *got)
{
    if (++r->failures <= SHOWN)
        printf("%s, line %d: %s differs; got %.200s\n", path, line, what, got);
}

static void check_ids(const shard_tokenizer *t, const json_t *v, const char *field, int flags, const char *path, int line, vectors_result *r)
{
    const json_t *text = json_object_get(v, "text"), *want = json_object_get(v, field);
    shard_ids ids = {0};
    if (want == NULL)
        want = json_object_get(v, "ids");
    r->checks++;
    status st = shard_tokenizer_encode(t, json_string_value(text), json_string_length(text), flags, &ids);
    bool equal = st == ST_OK && ids.n == json_array_size(want);
    mem_str got = {0};
    for (size_t i = 0; i < ids.n; i++) {
        equal = equal && json_integer_value(json_array_get(want, i)) == ids.data[i];
        mem_str_printf(&got, "%d ", ids.data[i]);
    }
    if (!equal)
        report(r, path, line, field, st == ST_OK ? got.data : status_message());
    mem_str_free(&got);
    shard_ids_free(&ids);
}

static bool is_text(const json_t *want, const mem_str *got)
{
    return json_string_length(want) == got->len && memcmp(json_string_value(want), got->len == 0 ? "" : got->data, got->len) == 0;
}

/* What comes out of each push must be whole characters. */
static status stream(const shard_tokenizer *t, const int32_t *ids, size_t n, bool skip, mem_str *out, bool *whole)
{
    shard_stream *s;
    TRY(shard_stream_create(t, skip, &s));
    status st = ST_OK;
    for (size_t i = 0; i < n && st == ST_OK; i++) {
        size_t from = out->len;
        st = shard_stream_push(s, ids[i], out);
        *whole = *whole && (out->len == from || ((unsigned char)out->data[from] & 0xc0) != 0x80);
    }
    if (st == ST_OK)
        st = shard_stream_flush(s, out);
    shard_stream_destroy(&s);
    return st;
}

static void check_text(const shard_tokenizer *t, const json_t *v, bool skip, const char *path, int line, vectors_result *r)
{
    const json_t *list = json_object_get(v, "decode_ids"), *want = json_object_get(v, skip ? "decoded_skip" : "decoded");
    list = list == NULL ? json_object_get(v, "ids") : list;
    want = want == NULL ? json_object_get(v, "decoded") : want;
    size_t n = json_array_size(list);
    int32_t *ids = calloc(n + 1, sizeof(*ids));
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    mem_str got = {0}, streamed = {0};
    bool whole = true;
    r->checks += 2;
    if (shard_tokenizer_decode(t, ids, n, skip, &got) != ST_OK || !is_text(want, &got))
        report(r, path, line, skip ? "decoded_skip" : "decoded", got.len == 0 ? "" : got.data);
    if (stream(t, ids, n, skip, &streamed, &whole) != ST_OK || !is_text(want, &streamed) || !whole)
        report(r, path, line, "streamed", streamed.len == 0 ? "" : streamed.data);
    mem_str_free(&got);
    mem_str_free(&streamed);
    free(ids);
}

status vectors_check(const shard_tokenizer *t, const char *path, vectors_result *r)
{
    char *text;
    size_t len;
    int line = 0;
    TRY(file_read_all(path, (size_t)64 << 20, &text, &len));
    status st = ST_OK;
    for (char *at = text, *end; st == ST_OK && (end = strchr(at, '\n')) != NULL; at = end + 1) {
        json_t *v;
        line++;
        st = json_parse(path, at, (size_t)(end - at), &v);
        if (st != ST_OK)
            break;
        if (json_object_get(v, "text") != NULL) {
            check_ids(t, v, "ids", 0, path, line, r);
            check_ids(t, v, "ids_special", SHARD_ENCODE_ADD_SPECIAL, path, line, r);
        }
        check_text(t, v, false, path, line, r);
        check_text(t, v, true, path, line, r);
        json_decref(v);
    }
    free(text);
    return st;
}

status vectors_load(const char *path, shard_tokenizer **out)
{
    char *text;
    size_t len;
    shard_text *bundle; /* as a gateway opens it */
    TRY(file_read_all(path, (size_t)256 << 20, &text, &len));
    status st = shard_text_create(&(shard_text_asset){(char *)"tokenizer.json", text, len, (char *)path}, 1, &bundle);
    free(text);
    TRY(st);
    st = shard_text_tokenizer_take(bundle, out);
    shard_text_destroy(&bundle);
    return st;
}

static status check_one(const char *folder, const char *name, vectors_result *r)
{
    static const char suffix[] = ".tokenizer.json";
    mem_str vectors = {0};
    shard_tokenizer *t;
    char *path = file_join(folder, name);
    mem_str_printf(&vectors, "%s/%.*s.vectors.jsonl", folder, (int)(strlen(name) - sizeof(suffix) + 1), name);
    status st = vectors_load(path, &t);
    if (st == ST_OK) {
        int before = r->failures;
        st = vectors_check(t, vectors.data, r);
        printf("%-40s %s, %d checks so far, %d differ\n", name, shard_tokenizer_kind(t), r->checks, r->failures - before);
        shard_tokenizer_destroy(&t);
    }
    mem_str_free(&vectors);
    free(path);
    return st;
}

status vectors_check_folder(const char *folder, vectors_result *r)
{
    static const char suffix[] = ".tokenizer.json";
    DIR *dir = opendir(folder);
    if (dir == NULL)
        return FAIL(ST_NOT_FOUND, "%s: no such folder", folder);
    status st = ST_OK;
    for (struct dirent *e; st == ST_OK && (e = readdir(dir)) != NULL;) {
        size_t len = strlen(e->d_name);
        if (len > sizeof(suffix) - 1 && strcmp(e->d_name + len - sizeof(suffix) + 1, suffix) == 0)
            st = check_one(folder, e->d_name, r);
    }
    closedir(dir);
    return st;
}
