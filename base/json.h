/* base/json.h - jansson with typed, bounded, named access: a wrong type is a message, never a crash.
 *
 * Getters return the default when the key is absent or null, and ST_FORMAT with "<where>: <key> must be ..."
 * when it has another type or is out of range (NaN and infinities cannot occur: jansson refuses them;
 * the lenient reader below turns the NaN/Infinity some config.json files hold into an error naming it). */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* Parses text; messages start with `where` (a path) and give line and column. Caller json_decref()s *out. */
status json_parse(const char *where, const char *text, size_t len, json_t **out);
status json_parse_file(const char *path, size_t limit, json_t **out);

status json_get_int(const json_t *obj, const char *where, const char *key, int64_t dflt, int64_t min, int64_t max,
                    int64_t *out);
status json_get_i32(const json_t *obj, const char *where, const char *key, int32_t dflt, int32_t min, int32_t max,
                    int32_t *out);
status json_get_f64(const json_t *obj, const char *where, const char *key, double dflt, double *out); /* accepts ints */
status json_get_f32(const json_t *obj, const char *where, const char *key, float dflt, float *out);
status json_get_bool(const json_t *obj, const char *where, const char *key, bool dflt, bool *out);
/* Borrowed from obj; dflt may be NULL. */
status json_get_str(const json_t *obj, const char *where, const char *key, const char *dflt, const char **out);
/* A member that must be an object / array when present; *out NULL when absent or null.  Borrowed. */
status json_get_obj(const json_t *obj, const char *where, const char *key, json_t **out);
status json_get_arr(const json_t *obj, const char *where, const char *key, json_t **out);

/* One compact line (UTF-8, no spaces, keys in insertion order); caller frees; NULL: out of memory. */
char *json_line(const json_t *value);

#endif
