/* tests/client/fuzz_workload.c - any bytes as a trace (first byte even) or as conversations: what is accepted can be sent. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/client/workload.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_trace(const char *text, size_t len)
{
    client_workload w = {.vocab_size = 1000};
    client_data_options o = {.kind = CLIENT_TRACE, .trace_speed = 1, .n = 64};
    if (client_trace_parse("trace", text, len, &o, &w) == ST_OK) {
        double before = 0;
        for (int32_t i = 0; i < w.n; i++) {
            const client_item *item = &w.items[i];
            int64_t n = 0;
            for (size_t k = 0; k < item->n_segments; k++)
                n += w.segments[item->first_segment + k].n;
            if (n != item->n_prompt || item->n_output < 1 || !(item->at >= before) || !isfinite(item->at))
                abort();
            before = item->at;
        }
    }
    client_workload_free(&w);
}

static void check_conversations(const char *text, size_t len)
{
    json_t *file, *pairs;
    if (json_parse("file", text, len, &file) != ST_OK)
        return;
    if (client_sharegpt_parse("file", file, 3, &pairs) == ST_OK) {
        if (json_array_size(pairs) < 1 || json_array_size(pairs) > json_array_size(file))
            abort();
        json_decref(pairs);
    }
    json_decref(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    char *text = malloc(size); /* ends with a zero, as files do when they are read */
    if (text == NULL)
        return 0;
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    status_mute();
    if (data[0] % 2 == 0)
        check_trace(text, size - 1);
    else
        check_conversations(text, size - 1);
    status_unmute();
    free(text);
    return 0;
}
