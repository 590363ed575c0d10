/* tests/shard_jinja/fuzz_jinja.c - any bytes as a template, rendered over one conversation within small limits. */
#include <stdint.h>
#include <stdlib.h>

#include "tests/shard_jinja/render.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static json_t *conversation(void)
{
    return json_pack("{s:[{s:s,s:s},{s:s,s:[{s:s,s:s}]},{s:s,s:s,s:s,s:[{s:s,s:{s:s,s:{s:i,s:f,s:n}}}]}],s:[{s:s,s:{s:s,s:s}}],s:b,s:{s:s},s:s}", //
                     "messages", "role", "system", "content", "Be brief \xc3\xa9\xf0\x9f\x99\x82.", //
                     "role", "user", "content", "type", "text", "text", "Hello\nworld", //
                     "role", "assistant", "content", "  Hi ", "thinking", "hm", "tool_calls", "type", "function", "function", "name", "f", "arguments", "a", 1, "b", 2.5, "c", //
                     "tools", "type", "function", "function", "name", "f", "description", "d", //
                     "add_generation_prompt", 1, "variables", "bos_token", "<s>", "now", "2026-02-03T14:05:06");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static json_t *line;
    if (line == NULL)
        line = conversation();
    if (line == NULL || size > 1 << 16)
        return 0;
    shard_template_limits limits = {.max_steps = 200000, .max_memory = 8 << 20, .max_output = 1 << 20, .max_depth = 50};
    mem_str out = {0};
    status_mute();
    render_json((const char *)data, size, line, &limits, &out);
    status_unmute();
    mem_str_free(&out);
    return 0;
}
