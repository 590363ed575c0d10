/* tests/shard_jinja/render_lines.c - a driver for diff_jinja.py: lines {"template", "messages", "kwargs" ...} in, {"rendered"} or {"error"} out. */
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "tests/shard_jinja/render.h"

int main(void)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    status_mute();
    while ((n = getline(&line, &cap, stdin)) > 0) {
        json_t *in;
        mem_str out = {0};
        if (json_parse("line", line, (size_t)n, &in) != ST_OK)
            return 1;
        const json_t *source = json_object_get(in, "template");
        status st = render_json(json_string_value(source), json_string_length(source), in, NULL, &out);
        json_t *answer = st == ST_OK ? json_pack("{s:s%}", "rendered", out.data == NULL ? "" : out.data, out.len)
                                     : json_pack("{s:s, s:s}", "error", status_message(), "status", status_text(st));
        if (answer == NULL)
            answer = json_pack("{s:s}", "error", "not UTF-8");
        char *text = json_line(answer);
        puts(text);
        fflush(stdout);
        free(text);
        json_decref(answer);
        json_decref(in);
        mem_str_free(&out);
    }
    free(line);
    return 0;
}
