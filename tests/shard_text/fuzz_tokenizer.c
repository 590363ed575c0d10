/* tests/shard_text/fuzz_tokenizer.c - bytes as a tokenizer.json; what opens encodes and decodes a fixed set of texts. */
#include <stdint.h>
#include <string.h>

#include "shard/text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define TEXT(s) {s, sizeof(s) - 1}
static const struct { const char *text; size_t len; } texts[] = {
    TEXT(""), TEXT("the quick brown fox's 12345"), TEXT("  a\t\n <s>b</s>"), TEXT("\xe2\x96\x81x \xc3\xa9 e\xcc\x81 \xe4\xbd\xa0 \xf0\x9f\x98\x80"),
    TEXT("\xff\xfe\0z"), TEXT("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
};

static void decode(const shard_tokenizer *t, const int32_t *ids, size_t n)
{
    mem_str out = {.limit = 1 << 20};
    shard_tokenizer_decode(t, ids, n, false, &out);
    mem_str_clear(&out);
    shard_tokenizer_decode(t, ids, n, true, &out);
    mem_str_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    shard_tokenizer *t;
    if (size > 1 << 16)
        return 0;
    status_mute();
    if (shard_tokenizer_from_json("fuzz", (const char *)data, size, &t) == ST_OK) {
        for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
            shard_ids ids = {0};
            shard_tokenizer_encode(t, texts[i].text, texts[i].len, i % 2 == 0 ? SHARD_ENCODE_ADD_SPECIAL : SHARD_ENCODE_PLAIN, &ids);
            decode(t, ids.data, ids.n);
            shard_ids_free(&ids);
        }
        int32_t some[48];
        for (int i = 0; i < 48; i++)
            some[i] = i < 40 ? i : shard_tokenizer_size(t) - 4 + (i - 40);
        decode(t, some, 48);
        shard_tokenizer_destroy(&t);
    }
    status_unmute();
    return 0;
}
