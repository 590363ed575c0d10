/* tests/shard_jinja/test_chat_goldens.c - real checkpoints' templates render byte for byte as transformers renders them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "tests/shard_jinja/render.h"

static char *path_of(const char *dir, const char *a, const char *b)
{
    char *folder = file_join(dir, a), *path = folder == NULL ? NULL : file_join(folder, b);
    free(folder);
    return path;
}

/* Why the line does not hold; NULL when it does. */
static const char *check(const json_t *golden, const char *source, size_t len)
{
    mem_str out = {0};
    const json_t *want = json_object_get(golden, "rendered"), *error = json_object_get(golden, "error");
    const char *why = NULL;
    status st = render_json(source, len, golden, NULL, &out);
    if (want != NULL && st != ST_OK)
        why = status_message();
    else if (want != NULL && (json_string_length(want) != out.len || memcmp(json_string_value(want), out.data == NULL ? "" : out.data, out.len) != 0))
        why = "other text";
    else if (want == NULL && st == ST_OK)
        why = "rendered what should be refused";
    else if (want == NULL && strcmp(json_string_value(json_object_get(error, "kind")), "raised") == 0 &&
             strstr(status_message(), json_string_value(json_object_get(error, "message"))) == NULL)
        why = "the template's own message is lost";
    mem_str_free(&out);
    return why;
}

int main(void)
{
    const char *dir = getenv("TRIREME_REFERENCE_DIR");
    if (dir == NULL) {
        printf("skipped: TRIREME_REFERENCE_DIR is not set\n");
        return 77;
    }
    char *lines_path = path_of(dir, "chat", "goldens.jsonl"), *line = NULL;
    FILE *f = lines_path == NULL ? NULL : fopen(lines_path, "r");
    if (f == NULL) {
        printf("skipped: no %s\n", lines_path);
        return 77;
    }
    size_t cap = 0;
    ssize_t n;
    int total = 0, bad = 0;
    status_mute();
    while ((n = getline(&line, &cap, f)) > 0) {
        json_t *golden;
        char *source;
        size_t len;
        if (json_parse(lines_path, line, (size_t)n, &golden) != ST_OK)
            return 1;
        const char *name = json_string_value(json_object_get(golden, "template"));
        char *folder = path_of(dir, "chat", "templates"), *path = file_join(folder, name);
        if (file_read_all(path, (size_t)4 << 20, &source, &len) != ST_OK)
            return 1;
        const char *why = check(golden, source, len);
        if (why != NULL) {
            printf("%s, %s: %s\n", name, json_string_value(json_object_get(golden, "case")), why);
            bad++;
        }
        total++;
        free(source);
        free(path);
        free(folder);
        json_decref(golden);
    }
    fclose(f);
    free(line);
    free(lines_path);
    printf("%d renderings, %d wrong\n", total, bad);
    return total > 0 && bad == 0 ? 0 : 1;
}
