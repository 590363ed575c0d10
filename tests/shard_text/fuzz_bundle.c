/* tests/shard_text/fuzz_bundle.c - bytes as the assets of a bundle; what opens is used.
 *
 * The first byte says which asset the rest is. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "shard/text/bundle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const shard_text *t)
{
    const shard_template *template;
    const json_t *variables;
    const shard_tokenizer *tokenizer = shard_text_tokenizer(t);
    shard_text_template(t, NULL, &template, &variables);
    char *described;
    if (shard_text_describe(shard_text_info_get(t), shard_text_generation(t), variables, &described) == ST_OK)
        free(described);
    if (tokenizer == NULL)
        return;
    shard_ids ids = {0};
    mem_str text = {.limit = 1 << 20};
    shard_tokenizer_encode(tokenizer, "ab  b<s>\xc3\xa9", 10, SHARD_ENCODE_ADD_SPECIAL, &ids);
    shard_tokenizer_decode(tokenizer, ids.data, ids.n, false, &text);
    shard_ids_free(&ids);
    mem_str_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"vocab.bin", "text.json", "template/default.jinja", "tokenizer.json"};
    if (size < 1 || size > 1 << 16)
        return 0;
    shard_text_asset a = {(char *)names[data[0] % 4], (uint8_t *)data + 1, size - 1, NULL};
    shard_text *t;
    status_mute();
    if (shard_text_create(&a, 1, &t) == ST_OK) {
        use(t);
        shard_text_destroy(&t);
    }
    status_unmute();
    return 0;
}
