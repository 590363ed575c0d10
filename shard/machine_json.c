#include "shard/machine_json.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

/* Beyond these no machine is. */
#define MOST_PER_SECOND 1e21
#define MOST_SECONDS 3600.0
enum { MOST_BYTES = 1 << 20, MOST_PER_HOST = 1 << 16 };

typedef struct field {
    const char *key;
    size_t offset; /* of a double in shard_device */
    bool needed, seconds;
} field;

#define FIELD(key, member, needed, seconds) {key, offsetof(shard_device, member), needed, seconds}

static const field device_fields[] = {
    FIELD("cache_bytes_per_second", bytes_per_second, true, false),
    FIELD("attention_macs_per_second", attention_macs_per_second, true, false),
    FIELD("attention_head_seconds", attention_head_seconds, false, true),
    FIELD("elements_per_second", elements_per_second, true, false),
    FIELD("rotated_per_second", rotated_per_second, true, false),
    FIELD("phase_seconds", phase_seconds, false, true),
    FIELD("matrix_seconds", matrix_seconds, false, true),
    FIELD("step_seconds", step_seconds, false, true),
};
static const field host_fields[] = {FIELD("start_seconds", exchange_seconds, true, true), FIELD("bytes_per_second", exchange_bytes_per_second, true, false)};
static const field network_fields[] = {FIELD("start_seconds", network_seconds, true, true), FIELD("bytes_per_second", network_bytes_per_second, true, false)};

static double *place(shard_device *d, const field *f)
{
    return (double *)(void *)((char *)d + f->offset);
}

/* A rate is at least 1; a time may be 0. */
static status read_number(const char *where, const char *key, const json_t *v, bool seconds, double *out)
{
    if (!json_is_number(v))
        return FAIL(ST_FORMAT, "%s: %s must be a number", where, key);
    double n = json_number_value(v);
    if (seconds ? !(n >= 0 && n <= MOST_SECONDS) : !(n >= 1 && n <= MOST_PER_SECOND))
        return FAIL(ST_FORMAT, "%s: %s is %g, must be %s", where, key, n, seconds ? "from 0 to 3600 seconds" : "from 1 to 1e21 a second");
    *out = n;
    return ST_OK;
}

static const field *field_of(const field *fields, size_t n, const char *key)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(fields[i].key, key) == 0)
            return &fields[i];
    }
    return NULL;
}

static status check_needed(const char *where, const char *what, shard_device *d, const field *fields, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (fields[i].needed && !fields[i].seconds && !(*place(d, &fields[i]) > 0))
            return FAIL(ST_FORMAT, "%s: %s.%s is missing, and there is no \"base\" to take it from", where, what, fields[i].key);
    }
    return ST_OK;
}

static status read_link(const char *where, const char *what, const json_t *v, const field *fields, shard_device *d)
{
    const char *key;
    json_t *member;
    char name[192];
    if (!json_is_object(v))
        return FAIL(ST_FORMAT, "%s: %s must be an object of start_seconds and bytes_per_second", where, what);
    json_object_foreach((json_t *)v, key, member) {
        const field *f = field_of(fields, 2, key);
        snprintf(name, sizeof(name), "%s.%.64s", what, key);
        if (f == NULL)
            return FAIL(ST_FORMAT, "%s: %s is unknown: start_seconds and bytes_per_second are what a link has", where, name);
        TRY(read_number(where, name, member, f->seconds, place(d, f)));
    }
    return ST_OK;
}

/* By ranks, hosts and bytes. */
static int sum_order(const shard_sum *a, const shard_sum *b)
{
    if (a->ranks != b->ranks || a->hosts != b->hosts)
        return a->ranks != b->ranks ? a->ranks - b->ranks : a->hosts - b->hosts;
    return (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

static status read_sum(const char *where, const char *name, const json_t *v, shard_device *d)
{
    static const char *const known[] = {"ranks", "hosts", "bytes", "seconds"};
    const char *key;
    json_t *member;
    shard_sum s = {0};
    int32_t at = d->n_sums;
    if (!json_is_object(v) || json_object_size(v) != ARRAY_LEN(known))
        return FAIL(ST_FORMAT, "%s: %s must be an object of ranks, hosts, bytes and seconds", where, name);
    json_object_foreach((json_t *)v, key, member) {
        if (strcmp(key, "bytes") == 0)
            TRY(read_number(where, "sums: bytes", member, false, &s.bytes));
        else if (strcmp(key, "seconds") == 0)
            TRY(read_number(where, "sums: seconds", member, true, &s.seconds));
        else if (strcmp(key, "ranks") != 0 && strcmp(key, "hosts") != 0)
            return FAIL(ST_FORMAT, "%s: %s.%.64s is unknown", where, name, key);
    }
    TRY(json_get_i32(v, where, "ranks", 0, 2, MOST_PER_HOST, &s.ranks));
    TRY(json_get_i32(v, where, "hosts", 0, 1, s.ranks, &s.hosts));
    for (; at > 0 && sum_order(&s, &d->sums[at - 1]) <= 0; at--) {
        if (sum_order(&s, &d->sums[at - 1]) == 0)
            return FAIL(ST_FORMAT, "%s: %s is there twice", where, name);
        d->sums[at] = d->sums[at - 1];
    }
    d->sums[at] = s;
    d->n_sums++;
    return ST_OK;
}

static status read_sums(const char *where, const json_t *v, shard_device *d)
{
    size_t i;
    json_t *one;
    char name[64];
    if (!json_is_array(v) || json_array_size(v) > SHARD_MOST_SUMS)
        return FAIL(ST_FORMAT, "%s: sums must be a list of at most %d", where, SHARD_MOST_SUMS);
    d->n_sums = 0;
    json_array_foreach(v, i, one) {
        snprintf(name, sizeof(name), "sums[%zu]", i);
        TRY(read_sum(where, name, one, d));
    }
    return ST_OK;
}

static status read_types(const char *where, const char *what, const json_t *v, double of[PACKED_TYPES])
{
    const char *key;
    json_t *member;
    char name[192];
    if (!json_is_object(v))
        return FAIL(ST_FORMAT, "%s: device.%s must be an object from packed types to figures", where, what);
    json_object_foreach((json_t *)v, key, member) {
        packed_type t = packed_type_parse(key);
        snprintf(name, sizeof(name), "device.%s.%.64s", what, key);
        if (t == PACKED_TYPES)
            return FAIL(ST_FORMAT, "%s: %s: no such packed type (f32, bf16, f16, fp8, q4_0 ...)", where, name);
        TRY(read_number(where, name, member, false, &of[t]));
    }
    return ST_OK;
}

static status read_device(const char *where, const json_t *v, shard_device *d)
{
    const char *key;
    json_t *member;
    char name[128];
    if (!json_is_object(v))
        return FAIL(ST_FORMAT, "%s: device must be an object", where);
    json_object_foreach((json_t *)v, key, member) {
        const field *f = field_of(device_fields, ARRAY_LEN(device_fields), key);
        snprintf(name, sizeof(name), "device.%.64s", key);
        if (f != NULL)
            TRY(read_number(where, name, member, f->seconds, place(d, f)));
        else if (strcmp(key, "weights_per_second") == 0)
            TRY(read_types(where, key, member, d->weights_per_second));
        else if (strcmp(key, "macs_per_second") == 0)
            TRY(read_types(where, key, member, d->macs_per_second));
        else if (strcmp(key, "overlaps") == 0)
            TRY(json_get_bool(v, where, "overlaps", false, &d->overlaps));
        else
            return FAIL(ST_FORMAT, "%s: %s is unknown; shard/machine_json.h and the manual page list what a device has", where, name);
    }
    return ST_OK;
}

/* Both figures of a type, or neither. */
static status check_types(const char *where, const shard_device *d)
{
    bool any = false;
    for (int t = 0; t < PACKED_TYPES; t++) {
        bool read = d->weights_per_second[t] > 0, macs = d->macs_per_second[t] > 0;
        any |= read && macs;
        if (read != macs)
            return FAIL(ST_FORMAT, "%s: device.%s lacks %s, which device.%s has", where, read ? "macs_per_second" : "weights_per_second", packed_format_of((packed_type)t)->name,
                        read ? "weights_per_second" : "macs_per_second");
    }
    return any ? ST_OK : FAIL(ST_FORMAT, "%s: device.weights_per_second and device.macs_per_second are missing, and there is no \"base\" to take them from", where);
}

static status read_base(const char *where, const json_t *v, shard_machine *m)
{
    const char *base = json_string_value(json_object_get(v, "base"));
    if (json_object_get(v, "base") == NULL)
        return ST_OK;
    const shard_machine *built_in = base == NULL ? NULL : shard_machine_find(base);
    if (built_in == NULL)
        return FAIL(ST_FORMAT, "%s: base must be one of %s", where, shard_machine_names());
    *m = *built_in;
    return ST_OK;
}

static status read_member(const char *where, const json_t *v, const char *key, const json_t *member, shard_machine *m)
{
    if (strcmp(key, "machine") == 0) {
        if (!json_is_string(member) || json_string_length(member) >= sizeof(m->name))
            return FAIL(ST_FORMAT, "%s: machine must be a name of less than %zu bytes", where, sizeof(m->name));
        snprintf(m->name, sizeof(m->name), "%s", json_string_value(member));
        return ST_OK;
    }
    if (strcmp(key, "devices_per_host") == 0)
        return json_get_i32(v, where, key, 1, 1, MOST_PER_HOST, &m->devices_per_host);
    if (strcmp(key, "memory_bytes") == 0) {
        double bytes = 0;
        TRY(read_number(where, key, member, false, &bytes));
        if (bytes > 1e18)
            return FAIL(ST_FORMAT, "%s: memory_bytes is %g, more than any device has", where, bytes);
        m->memory_bytes = (size_t)bytes;
        return ST_OK;
    }
    if (strcmp(key, "price_per_hour") == 0) {
        TRY(json_get_f64(v, where, key, 0, &m->price_per_hour));
        return m->price_per_hour >= 0 && m->price_per_hour <= 1e9 ? ST_OK : FAIL(ST_FORMAT, "%s: price_per_hour is %g, must be from 0 to 1e9", where, m->price_per_hour);
    }
    if (strcmp(key, "in_host") == 0)
        return read_link(where, key, member, host_fields, &m->device);
    if (strcmp(key, "between_hosts") == 0)
        return read_link(where, key, member, network_fields, &m->device);
    if (strcmp(key, "sums") == 0)
        return read_sums(where, member, &m->device);
    if (strcmp(key, "device") == 0)
        return read_device(where, member, &m->device);
    if (strcmp(key, "base") == 0 || strcmp(key, "measured") == 0)
        return ST_OK;
    return FAIL(ST_FORMAT, "%s: %.64s is unknown; known are machine, base, devices_per_host, memory_bytes, price_per_hour, in_host, between_hosts, sums, device, measured", where, key);
}

static status read_all(const char *where, const json_t *v, shard_machine *m)
{
    const char *key;
    json_t *member;
    if (!json_is_object(v))
        return FAIL(ST_FORMAT, "%s: must be a JSON object", where);
    *m = (shard_machine){.name = "unnamed"};
    TRY(read_base(where, v, m));
    json_object_foreach((json_t *)v, key, member)
        TRY(read_member(where, v, key, member, m));
    if (m->devices_per_host == 0)
        return FAIL(ST_FORMAT, "%s: devices_per_host is missing, and there is no \"base\" to take it from", where);
    if (m->memory_bytes == 0)
        return FAIL(ST_FORMAT, "%s: memory_bytes is missing, and there is no \"base\" to take it from", where);
    TRY(check_needed(where, "in_host", &m->device, host_fields, ARRAY_LEN(host_fields)));
    TRY(check_needed(where, "between_hosts", &m->device, network_fields, ARRAY_LEN(network_fields)));
    TRY(check_needed(where, "device", &m->device, device_fields, ARRAY_LEN(device_fields)));
    m->device.name = "of a file";
    return check_types(where, &m->device);
}

status shard_machine_parse(const char *where, const char *text, size_t len, shard_machine *out)
{
    json_t *v;
    TRY(json_parse(where, text, len, &v));
    status st = read_all(where, v, out);
    json_decref(v);
    return st;
}

status shard_machine_read(const char *name_or_path, shard_machine *out)
{
    const shard_machine *built_in = shard_machine_find(name_or_path);
    char *text;
    size_t len;
    if (built_in != NULL) {
        *out = *built_in;
        return ST_OK;
    }
    if (!file_exists(name_or_path))
        return FAIL(ST_NOT_FOUND, "%s: neither a built-in machine (%s) nor a file", name_or_path, shard_machine_names());
    TRY(file_read_all(name_or_path, MOST_BYTES, &text, &len));
    status st = shard_machine_parse(name_or_path, text, len, out);
    free(text);
    return st;
}

/* ---- writing ---- */

static void put(json_t *object, const char *key, double value)
{
    if (value != 0)
        json_object_set_new(object, key, json_real(value));
}

static json_t *fields_json(const shard_device *d, const field *fields, size_t n)
{
    json_t *v = json_object();
    for (size_t i = 0; i < n; i++)
        put(v, fields[i].key, *place((shard_device *)d, &fields[i]));
    return v;
}

static json_t *types_json(const double of[PACKED_TYPES])
{
    json_t *v = json_object();
    for (int t = 0; t < PACKED_TYPES; t++)
        put(v, packed_format_of((packed_type)t)->name, of[t]);
    return v;
}

static json_t *sums_json(const shard_device *d)
{
    json_t *list = json_array();
    for (int32_t i = 0; i < d->n_sums; i++)
        json_array_append_new(list, json_pack("{s:i,s:i,s:f,s:f}", "ranks", d->sums[i].ranks, "hosts", d->sums[i].hosts, "bytes", d->sums[i].bytes, "seconds", d->sums[i].seconds));
    return list;
}

json_t *shard_machine_json(const shard_machine *m)
{
    json_t *device = fields_json(&m->device, device_fields, ARRAY_LEN(device_fields));
    json_object_set_new(device, "weights_per_second", types_json(m->device.weights_per_second));
    json_object_set_new(device, "macs_per_second", types_json(m->device.macs_per_second));
    json_object_set_new(device, "overlaps", json_boolean(m->device.overlaps));
    json_t *v = json_pack("{s:s,s:i,s:f,s:o,s:o,s:o}", "machine", m->name, "devices_per_host", m->devices_per_host, "memory_bytes", (double)m->memory_bytes, "in_host",
                          fields_json(&m->device, host_fields, ARRAY_LEN(host_fields)), "between_hosts",
                          fields_json(&m->device, network_fields, ARRAY_LEN(network_fields)), "device", device);
    if (v != NULL)
        put(v, "price_per_hour", m->price_per_hour);
    if (v != NULL && m->device.n_sums > 0)
        json_object_set_new(v, "sums", sums_json(&m->device));
    return v;
}
