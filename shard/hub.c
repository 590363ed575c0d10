#include "shard/hub.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* Letters, digits, dot, dash, underscore; no ".." and no "--" (the cache's separator); neither begins nor ends with a dot or dash. */
static bool name_part(const char *s, size_t n)
{
    if (n == 0 || n > 96 || s[0] == '.' || s[0] == '-' || s[n - 1] == '.' || s[n - 1] == '-')
        return false;
    for (size_t i = 0; i < n; i++) {
        if (!isalnum((unsigned char)s[i]) && strchr("._-", s[i]) == NULL)
            return false;
        if (i > 0 && s[i] == s[i - 1] && (s[i] == '.' || s[i] == '-'))
            return false;
    }
    return true;
}

bool shard_hub_name_parse(const char *text, shard_hub_name *out)
{
    size_t n = strcspn(text, ":"), slash = strcspn(text, "/");
    if (n >= sizeof(out->repo) || slash >= n || !name_part(text, slash) || !name_part(text + slash + 1, n - slash - 1))
        return false;
    *out = (shard_hub_name){0};
    memcpy(out->repo, text, n);
    if (text[n] == '\0')
        return true;
    const char *file = text + n + 1;
    size_t len = strlen(file);
    if (len == 0 || len >= sizeof(out->file) || file[0] == '.' || file[0] == '/')
        return false;
    for (size_t i = 0; i < len; i++) {
        if (!isalnum((unsigned char)file[i]) && strchr("._-/+", file[i]) == NULL)
            return false;
        if (file[i] == '.' && file[i + 1] == '.')
            return false;
    }
    memcpy(out->file, file, len + 1);
    return true;
}
