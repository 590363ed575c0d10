/* tests/client/fuzz_stream.c - any bytes as a streamed answer, cut where their first byte says: the same as in one piece. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/client/stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_cut(const char *text, size_t n, size_t piece, client_stream *s)
{
    int32_t outputs = 0;
    client_stream_begin(s);
    for (size_t at = 0; at < n; at += piece)
        outputs += client_stream_feed(s, text + at, n - at < piece ? n - at : piece);
    outputs += client_stream_end(s);
    if (outputs != s->n_outputs || s->n_outputs > s->n_choices || strlen(s->error) >= sizeof(s->error) || s->failed != (s->error[0] != '\0'))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    client_stream whole = {0}, cut = {0};
    char text[CLIENT_STREAM_ERROR];
    if (size < 1)
        return 0;
    const char *bytes = (const char *)data + 1;
    read_cut(bytes, size - 1, size, &whole);
    read_cut(bytes, size - 1, 1 + data[0] % 32, &cut);
    if (whole.n_choices != cut.n_choices || whole.n_outputs != cut.n_outputs || whole.done != cut.done || whole.finished != cut.finished || whole.failed != cut.failed ||
        whole.prompt_tokens != cut.prompt_tokens || whole.completion_tokens != cut.completion_tokens || strcmp(whole.error, cut.error) != 0)
        abort();
    client_error_text(bytes, size - 1, text);
    if (strpbrk(text, "\r\n\t") != NULL)
        abort();
    client_stream_free(&whole);
    client_stream_free(&cut);
    return 0;
}
