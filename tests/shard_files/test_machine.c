/* tests/shard_files/test_machine.c - machines as files: written and read again, and hostile ones refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "shard/machine_json.h"

static void same(const shard_machine *a, const shard_machine *b)
{
    assert_string_equal(a->name, b->name);
    assert_int_equal(a->devices_per_host, b->devices_per_host);
    assert_int_equal(a->memory_bytes, b->memory_bytes);
    assert_true(a->price_per_hour == b->price_per_hour);
    shard_device x = a->device, y = b->device;
    x.name = y.name = NULL;
    assert_memory_equal(x.weights_per_second, y.weights_per_second, sizeof(x.weights_per_second));
    assert_memory_equal(x.macs_per_second, y.macs_per_second, sizeof(x.macs_per_second));
    assert_true(x.bytes_per_second == y.bytes_per_second && x.attention_macs_per_second == y.attention_macs_per_second && x.attention_head_seconds == y.attention_head_seconds);
    assert_true(x.elements_per_second == y.elements_per_second && x.rotated_per_second == y.rotated_per_second && x.phase_seconds == y.phase_seconds);
    assert_true(x.matrix_seconds == y.matrix_seconds && x.step_seconds == y.step_seconds && x.overlaps == y.overlaps);
    assert_true(x.exchange_seconds == y.exchange_seconds && x.exchange_bytes_per_second == y.exchange_bytes_per_second && x.network_seconds == y.network_seconds);
    assert_true(x.network_bytes_per_second == y.network_bytes_per_second && x.n_sums == y.n_sums);
    for (int32_t i = 0; i < x.n_sums; i++)
        assert_true(x.sums[i].ranks == y.sums[i].ranks && x.sums[i].hosts == y.sums[i].hosts && x.sums[i].bytes == y.sums[i].bytes && x.sums[i].seconds == y.sums[i].seconds);
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    static const char *const names[] = {"cpu", "a100", "h100", "h200", "b200"};
    char path[] = "/tmp/trireme_machine_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        shard_machine m, again;
        assert_int_equal(shard_machine_read(names[i], &m), ST_OK);
        assert_non_null(strstr(shard_machine_names(), names[i]));
        m.device.n_sums = (int32_t)i;
        for (size_t k = 0; k < i; k++)
            m.device.sums[k] = (shard_sum){.ranks = 2, .hosts = 1 + (int32_t)k / 2, .bytes = 1e3 * (double)(1 + k), .seconds = 1e-5 * (double)k};
        json_t *v = shard_machine_json(&m);
        assert_non_null(v);
        json_object_set_new(v, "measured", json_pack("{s:s}", "by", "anything at all"));
        char *text = json_line(v);
        assert_int_equal(file_write_all(path, text, strlen(text), 0600), ST_OK);
        assert_int_equal(shard_machine_read(path, &again), ST_OK);
        same(&m, &again);
        free(text);
        json_decref(v);
    }
    unlink(path);
}

static void a_base_gives_what_the_file_does_not(void **state)
{
    (void)state;
    static const char text[] = "{\"machine\":\"ours\",\"base\":\"h100\",\"devices_per_host\":4,\"between_hosts\":{\"bytes_per_second\":1e10},\"device\":{\"macs_per_second\":{\"bf16\":3e14}}}";
    shard_machine m;
    const shard_machine *h100 = shard_machine_find("h100");
    assert_int_equal(shard_machine_parse("ours.json", text, sizeof(text) - 1, &m), ST_OK);
    assert_string_equal(m.name, "ours");
    assert_true(m.devices_per_host == 4 && m.memory_bytes == h100->memory_bytes && m.device.network_bytes_per_second == 1e10);
    assert_true(m.device.network_seconds == h100->device.network_seconds && m.device.macs_per_second[PACKED_BF16] == 3e14);
    assert_true(m.device.macs_per_second[PACKED_F16] == h100->device.macs_per_second[PACKED_F16] && m.device.overlaps);
}

static void hostile_files_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "not valid JSON"},
        {"[]", "must be a JSON object"},
        {"{}", "devices_per_host is missing"},
        {"{'base':'h100','base':'h100'}", "duplicate"},
        {"{'base':'pentium'}", "base must be one of cpu"},
        {"{'base':7}", "base must be one of"},
        {"{'base':'h100','speed':9}", "speed is unknown"},
        {"{'base':'h100','machine':7}", "machine must be a name"},
        {"{'base':'h100','machine':'0123456789012345678901234567890123456789012345678901234567890123'}", "less than 64 bytes"},
        {"{'base':'h100','devices_per_host':0}", "devices_per_host is 0"},
        {"{'base':'h100','devices_per_host':1.5}", "whole number"},
        {"{'base':'h100','devices_per_host':100000}", "devices_per_host is 100000"},
        {"{'base':'h100','memory_bytes':-1}", "memory_bytes is -1"},
        {"{'base':'h100','memory_bytes':'80GB'}", "memory_bytes must be a number"},
        {"{'base':'h100','memory_bytes':1e20}", "more than any device"},
        {"{'base':'h100','price_per_hour':-2}", "price_per_hour is -2"},
        {"{'base':'h100','in_host':7}", "in_host must be an object"},
        {"{'base':'h100','in_host':{'speed':7}}", "in_host.speed is unknown"},
        {"{'base':'h100','in_host':{'bytes_per_second':0}}", "in_host.bytes_per_second is 0"},
        {"{'base':'h100','between_hosts':{'start_seconds':-1}}", "between_hosts.start_seconds is -1"},
        {"{'base':'h100','between_hosts':{'start_seconds':1e9}}", "between_hosts.start_seconds is 1e+09"},
        {"{'base':'h100','sums':{}}", "sums must be a list of at most"},
        {"{'base':'h100','sums':[7]}", "sums[0] must be an object"},
        {"{'base':'h100','sums':[{'ranks':2,'hosts':1,'bytes':9}]}", "sums[0] must be an object"},
        {"{'base':'h100','sums':[{'ranks':2,'hosts':1,'bytes':9,'speed':1}]}", "sums[0].speed is unknown"},
        {"{'base':'h100','sums':[{'ranks':1,'hosts':1,'bytes':9,'seconds':1}]}", "ranks is 1"},
        {"{'base':'h100','sums':[{'ranks':2,'hosts':3,'bytes':9,'seconds':1}]}", "hosts is 3"},
        {"{'base':'h100','sums':[{'ranks':2,'hosts':2,'bytes':0,'seconds':1}]}", "sums: bytes is 0"},
        {"{'base':'h100','sums':[{'ranks':2,'hosts':2,'bytes':8,'seconds':-1}]}", "sums: seconds is -1"},
        {"{'base':'h100','sums':[{'ranks':2,'hosts':2,'bytes':8,'seconds':1},{'ranks':2,'hosts':2,'bytes':8,'seconds':2}]}", "sums[1] is there twice"},
        {"{'base':'h100','device':[]}", "device must be an object"},
        {"{'base':'h100','device':{'flops':1}}", "device.flops is unknown"},
        {"{'base':'h100','device':{'overlaps':1}}", "overlaps must be true or false"},
        {"{'base':'h100','device':{'phase_seconds':null}}", "device.phase_seconds must be a number"},
        {"{'base':'h100','device':{'elements_per_second':1e30}}", "device.elements_per_second is 1e+30"},
        {"{'base':'h100','device':{'macs_per_second':5}}", "device.macs_per_second must be an object"},
        {"{'base':'h100','device':{'macs_per_second':{'q9':5}}}", "device.macs_per_second.q9"},
        {"{'base':'h100','device':{'macs_per_second':{'bf16':-5}}}", "device.macs_per_second.bf16 is -5"},
        {"{'devices_per_host':8}", "memory_bytes is missing"},
        {"{'devices_per_host':8,'memory_bytes':1e9}", "in_host.bytes_per_second is missing"},
        {"{'devices_per_host':8,'memory_bytes':1e9,'in_host':{'bytes_per_second':1e9}}", "between_hosts.bytes_per_second is missing"},
        {"{'devices_per_host':8,'memory_bytes':1e9,'in_host':{'bytes_per_second':1e9},'between_hosts':{'bytes_per_second':1e9}}", "device.cache_bytes_per_second is missing"},
        {"{'devices_per_host':8,'memory_bytes':1e9,'in_host':{'bytes_per_second':1e9},'between_hosts':{'bytes_per_second':1e9},'device':{'cache_bytes_per_second':1,"
         "'attention_macs_per_second':1,'elements_per_second':1,'rotated_per_second':1}}", "weights_per_second and device.macs_per_second are missing"},
        {"{'devices_per_host':8,'memory_bytes':1e9,'in_host':{'bytes_per_second':1e9},'between_hosts':{'bytes_per_second':1e9},'device':{'cache_bytes_per_second':1,"
         "'attention_macs_per_second':1,'elements_per_second':1,'rotated_per_second':1,'weights_per_second':{'q4_0':1,'bf16':1},'macs_per_second':{'bf16':1}}}",
         "device.macs_per_second lacks q4_0"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char text[1024];
        shard_machine m;
        snprintf(text, sizeof(text), "%s", cases[i].text);
        for (char *c = text; *c != '\0'; c++)
            *c = *c == '\'' ? '"' : *c;
        status_mute();
        status st = shard_machine_parse("machine.json", text, strlen(text), &m);
        status_unmute();
        if (st != ST_FORMAT || strstr(status_message(), cases[i].says) == NULL || strstr(status_message(), "machine.json") == NULL)
            fail_msg("%s\n  gave %s: %s\n  wanted ...%s...", text, status_text(st), status_message(), cases[i].says);
    }
    shard_machine m;
    status_mute();
    assert_int_equal(shard_machine_read("/no/such/machine.json", &m), ST_NOT_FOUND);
    status_unmute();
    assert_non_null(strstr(status_message(), "h200"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(a_base_gives_what_the_file_does_not),
        cmocka_unit_test(hostile_files_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
