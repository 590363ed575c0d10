/* shard/text/grammar_reference.c - $ref: by pointer, by anchor, by $id, inside one document.
 *
 * A walk over all places where schemas stand notes each one's base URI and every URI that names one.  References out of the document are
 * refused: nothing is fetched. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "shard/text/grammar_schema.h"

/* ---- URIs (RFC 3986 5.2, without query merging) ---- */

static size_t scheme_length(const char *uri)
{
    size_t n = 0;
    while (isalnum((unsigned char)uri[n]) || (n > 0 && strchr("+-.", uri[n]) != NULL && uri[n] != '\0'))
        n++;
    return n > 0 && uri[n] == ':' ? n + 1 : 0;
}

/* Drops "." and ".." segments of the path that begins at `path`. */
static void drop_dots(char *path)
{
    char *out = path, *in = path;
    while (*in != '\0') {
        if (strncmp(in, "/./", 3) == 0 || strcmp(in, "/.") == 0) {
            in += in[2] == '\0' ? 2 : 2;
            if (*in == '\0')
                *out++ = '/';
        } else if (strncmp(in, "/../", 4) == 0 || strcmp(in, "/..") == 0) {
            in += 3;
            while (out > path && *--out != '/')
                ;
            if (*in == '\0')
                *out++ = '/';
        } else {
            do
                *out++ = *in++;
            while (*in != '\0' && *in != '/');
        }
    }
    *out = '\0';
}

static status join_uri(sch_ctx *s, const char *base, const char *ref, char **out)
{
    size_t keep, fragment = strcspn(base, "#"), scheme = scheme_length(base), path = scheme;
    TRY(gram_alloc(s->c, strlen(base) + strlen(ref) + 2, 1, out));
    if (strncmp(base + scheme, "//", 2) == 0)
        path = scheme + 2 + strcspn(base + scheme + 2, "/?#");
    if (scheme_length(ref) > 0)
        keep = 0;
    else if (ref[0] == '#' || ref[0] == '\0')
        keep = fragment;
    else if (ref[0] == '/')
        keep = ref[1] == '/' ? scheme : path;
    else
        for (keep = fragment; keep > path && base[keep - 1] != '/'; keep--)
            ;
    memcpy(*out, base, keep);
    if (keep == path && path > scheme && ref[0] != '/' && keep != fragment)
        (*out)[keep++] = '/';
    strcpy(*out + keep, ref);
    if (keep != fragment || ref[0] != '#') {
        size_t hash = strcspn(*out, "#");
        char *tail = strdup(*out + hash);
        if (tail == NULL)
            return FAIL(ST_NO_MEMORY, "schema: no memory");
        (*out)[hash] = '\0';
        if (strncmp(*out + scheme_length(*out), "//", 2) == 0) {
            char *from = strchr(*out + scheme_length(*out) + 2, '/');
            if (from != NULL)
                drop_dots(from);
        }
        strcat(*out, tail);
        free(tail);
    }
    return ST_OK;
}

/* ---- where schemas stand ---- */

static size_t place_slot(const sch_ctx *s, const json_t *schema)
{
    size_t at = hash_mix((uint64_t)(uintptr_t)schema) & (s->cap_places - 1);
    while (s->places[at].schema != NULL && s->places[at].schema != schema)
        at = (at + 1) & (s->cap_places - 1);
    return at;
}

static status put_place(sch_ctx *s, const json_t *schema, const char *base)
{
    if (s->n_places * 2 >= s->cap_places) {
        sch_place *old = s->places;
        size_t n = s->cap_places;
        s->cap_places = n == 0 ? 64 : n * 2;
        TRY(gram_alloc(s->c, s->cap_places, sizeof(*s->places), &s->places));
        for (size_t i = 0; i < n; i++) {
            if (old[i].schema != NULL)
                s->places[place_slot(s, old[i].schema)] = old[i];
        }
    }
    size_t at = place_slot(s, schema);
    s->n_places += s->places[at].schema == NULL;
    s->places[at] = (sch_place){schema, base};
    return ST_OK;
}

static status put_name(sch_ctx *s, const char *uri, const json_t *schema)
{
    TRY(gram_grow(s->c, &s->names, s->n_names, &s->cap_names, sizeof(*s->names)));
    s->names[s->n_names++] = (sch_name){uri, schema};
    return ST_OK;
}

static status put_anchor(sch_ctx *s, const char *base, const char *anchor, const json_t *schema)
{
    char *uri, *mark;
    TRY(gram_alloc(s->c, strlen(anchor) + 2, 1, &mark));
    mark[0] = '#';
    strcpy(mark + 1, anchor);
    TRY(join_uri(s, base, mark, &uri));
    return put_name(s, uri, schema);
}

static status walk(sch_ctx *s, const json_t *schema, const char *base, int depth);

static status walk_list(sch_ctx *s, const json_t *list, const char *base, int depth)
{
    size_t i;
    const json_t *item;
    json_array_foreach(list, i, item)
        TRY(walk(s, item, base, depth));
    return ST_OK;
}

static status walk_members(sch_ctx *s, const json_t *schema, const char *base, int depth)
{
    static const char *const single[] = {"additionalItems", "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties"};
    static const char *const lists[] = {"allOf", "anyOf", "oneOf", "prefixItems", "items"};
    static const char *const maps[] = {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties", "dependencies"};
    for (size_t i = 0; i < ARRAY_LEN(single); i++)
        TRY(walk(s, json_object_get(schema, single[i]), base, depth));
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        TRY(walk_list(s, json_object_get(schema, lists[i]), base, depth));
    for (size_t i = 0; i < ARRAY_LEN(maps); i++) {
        const char *key;
        json_t *value;
        json_object_foreach(json_object_get(schema, maps[i]), key, value)
            TRY(walk(s, value, base, depth));
    }
    return ST_OK;
}

static status walk(sch_ctx *s, const json_t *schema, const char *base, int depth)
{
    if (!json_is_object(schema))
        return ST_OK;
    if (depth > GRAM_MAX_DEPTH)
        return FAIL(ST_LIMIT, "schema: nested deeper than %d", GRAM_MAX_DEPTH);
    TRY(gram_work(s->c, 10));
    const char *id = json_string_value(json_object_get(schema, "$id"));
    if (id == NULL && s->old)
        id = json_string_value(json_object_get(schema, "id"));
    if (id != NULL && !(s->old && json_object_get(schema, "$ref") != NULL)) {
        char *uri;
        TRY(join_uri(s, base, id, &uri));
        if (id[0] != '#') {
            char *clean;
            TRY(gram_alloc(s->c, strlen(uri) + 1, 1, &clean));
            memcpy(clean, uri, strcspn(uri, "#"));
            base = clean;
            TRY(put_name(s, base, schema));
        } else {
            TRY(put_name(s, uri, schema));
        }
    }
    static const char *const anchors[] = {"$anchor", "$dynamicAnchor"};
    for (size_t i = 0; i < ARRAY_LEN(anchors); i++) {
        const char *anchor = json_string_value(json_object_get(schema, anchors[i]));
        if (anchor != NULL)
            TRY(put_anchor(s, base, anchor, schema));
    }
    TRY(put_place(s, schema, base));
    return walk_members(s, schema, base, depth + 1);
}

status sch_index(sch_ctx *s)
{
    const char *dialect = json_string_value(json_object_get(s->root, "$schema"));
    s->old = dialect != NULL && (strstr(dialect, "draft-03") != NULL || strstr(dialect, "draft-04") != NULL || strstr(dialect, "draft-06") != NULL || strstr(dialect, "draft-07") != NULL);
    TRY(put_name(s, "", s->root));
    return walk(s, s->root, "", 0);
}

/* ---- resolving ---- */

static const json_t *named(const sch_ctx *s, const char *uri)
{
    for (size_t i = 0; i < s->n_names; i++) {
        if (strcmp(s->names[i].uri, uri) == 0)
            return s->names[i].schema;
    }
    return NULL;
}

static int hex_value(char c)
{
    return isdigit((unsigned char)c) ? c - '0' : isxdigit((unsigned char)c) ? tolower((unsigned char)c) - 'a' + 10 : -1;
}

/* One segment of a JSON pointer, %XX and ~0 ~1 undone, in place.  Returns where the next begins. */
static char *unescape_segment(char *from)
{
    char *out = from, *in = from;
    for (; *in != '\0' && *in != '/'; in++) {
        if (*in == '%' && hex_value(in[1]) >= 0 && hex_value(in[2]) >= 0) {
            *out++ = (char)(hex_value(in[1]) * 16 + hex_value(in[2]));
            in += 2;
        } else {
            *out++ = *in;
        }
    }
    char *next = *in == '/' ? in + 1 : in;
    bool last = *in == '\0';
    *out = '\0';
    char *w = from;
    for (char *r = from; *r != '\0'; r++) {
        if (*r == '~' && (r[1] == '0' || r[1] == '1'))
            *w++ = *++r == '0' ? '~' : '/';
        else
            *w++ = *r;
    }
    *w = '\0';
    return last ? NULL : next;
}

/* Follows /a/b/0 from a schema; *base follows the $ids on the way. */
static const json_t *follow(const sch_ctx *s, const json_t *at, char *pointer, const char **base)
{
    for (char *segment = pointer + 1; segment != NULL && at != NULL;) {
        char *next = unescape_segment(segment);
        if (json_is_array(at))
            at = isdigit((unsigned char)segment[0]) ? json_array_get(at, strtoul(segment, NULL, 10)) : NULL;
        else
            at = json_object_get(at, segment);
        if (at != NULL && s->places[place_slot(s, at)].schema == at)
            *base = s->places[place_slot(s, at)].base;
        segment = next;
    }
    return at;
}

status sch_resolve(sch_ctx *s, const json_t *from, const char *ref, const json_t **out)
{
    char *uri;
    const sch_place *place = &s->places[place_slot(s, from)];
    const char *base = place->schema == from ? place->base : "";
    TRY(join_uri(s, base, ref, &uri));
    *out = named(s, uri);
    char *hash = strchr(uri, '#');
    if (*out == NULL && hash != NULL) {
        *hash = '\0';
        const json_t *document = named(s, uri);
        base = uri;
        if (document != NULL && hash[1] == '\0')
            *out = document;
        else if (document != NULL && hash[1] == '/')
            *out = follow(s, document, hash + 1, &base);
        if (json_is_object(*out) && s->places[place_slot(s, *out)].schema != *out)
            TRY(walk(s, *out, base, 0)); /* it stands where no schema is looked for */
    }
    if (*out == NULL || (!json_is_object(*out) && !json_is_boolean(*out)))
        return FAIL(ST_UNSUPPORTED, "schema: $ref \"%.200s\" leads to no schema in this document", ref);
    return ST_OK;
}
