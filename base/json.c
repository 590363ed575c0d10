#include "base/json.h"

#include <math.h>
#include <stdlib.h>

#include "base/file.h"

status json_parse(const char *where, const char *text, size_t len, json_t **out)
{
    json_error_t err;
    json_t *v = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &err);
    if (v == NULL)
        return FAIL(ST_FORMAT, "%s: not valid JSON: %s (line %d, column %d)", where, err.text, err.line, err.column);
    *out = v;
    return ST_OK;
}

status json_parse_file(const char *path, size_t limit, json_t **out)
{
    char *text;
    size_t len;
    TRY(file_read_all(path, limit, &text, &len));
    status st = json_parse(path, text, len, out);
    free(text);
    return st;
}

static json_t *member(const json_t *obj, const char *key)
{
    json_t *v = json_object_get(obj, key);
    return v == NULL || json_is_null(v) ? NULL : v;
}

status json_get_int(const json_t *obj, const char *where, const char *key, int64_t dflt, int64_t min, int64_t max,
                    int64_t *out)
{
    json_t *v = member(obj, key);
    int64_t n = dflt;
    if (v != NULL) {
        if (json_is_integer(v))
            n = json_integer_value(v);
        else if (json_is_real(v) && json_real_value(v) == floor(json_real_value(v)) && fabs(json_real_value(v)) < 9e15)
            n = (int64_t)json_real_value(v);
        else
            return FAIL(ST_FORMAT, "%s: %s must be a whole number", where, key);
        if (n < min || n > max)
            return FAIL(ST_FORMAT, "%s: %s is %lld, must be from %lld to %lld", where, key, (long long)n, (long long)min,
                        (long long)max);
    }
    *out = n;
    return ST_OK;
}

status json_get_i32(const json_t *obj, const char *where, const char *key, int32_t dflt, int32_t min, int32_t max,
                    int32_t *out)
{
    int64_t n;
    TRY(json_get_int(obj, where, key, dflt, min, max, &n));
    *out = (int32_t)n;
    return ST_OK;
}

status json_get_f64(const json_t *obj, const char *where, const char *key, double dflt, double *out)
{
    json_t *v = member(obj, key);
    if (v != NULL && !json_is_number(v))
        return FAIL(ST_FORMAT, "%s: %s must be a number", where, key);
    *out = v == NULL ? dflt : json_number_value(v);
    return ST_OK;
}

status json_get_f32(const json_t *obj, const char *where, const char *key, float dflt, float *out)
{
    double d = 0;
    TRY(json_get_f64(obj, where, key, dflt, &d));
    if (fabs(d) > 3.4e38)
        return FAIL(ST_FORMAT, "%s: %s is %g, too large for a 32-bit float", where, key, d);
    *out = (float)d;
    return ST_OK;
}

status json_get_bool(const json_t *obj, const char *where, const char *key, bool dflt, bool *out)
{
    json_t *v = member(obj, key);
    if (v != NULL && !json_is_boolean(v))
        return FAIL(ST_FORMAT, "%s: %s must be true or false", where, key);
    *out = v == NULL ? dflt : json_is_true(v);
    return ST_OK;
}

status json_get_str(const json_t *obj, const char *where, const char *key, const char *dflt, const char **out)
{
    json_t *v = member(obj, key);
    if (v != NULL && !json_is_string(v))
        return FAIL(ST_FORMAT, "%s: %s must be a string", where, key);
    *out = v == NULL ? dflt : json_string_value(v);
    return ST_OK;
}

status json_get_obj(const json_t *obj, const char *where, const char *key, json_t **out)
{
    json_t *v = member(obj, key);
    if (v != NULL && !json_is_object(v))
        return FAIL(ST_FORMAT, "%s: %s must be an object", where, key);
    *out = v;
    return ST_OK;
}

status json_get_arr(const json_t *obj, const char *where, const char *key, json_t **out)
{
    json_t *v = member(obj, key);
    if (v != NULL && !json_is_array(v))
        return FAIL(ST_FORMAT, "%s: %s must be a list", where, key);
    *out = v;
    return ST_OK;
}

char *json_line(const json_t *value)
{
    return json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
}
