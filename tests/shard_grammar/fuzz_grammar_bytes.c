/* tests/shard_grammar/fuzz_grammar_bytes.c - compiled bytes from outside: refused, or loaded and walked. */
#include <stdint.h>
#include <stdlib.h>

#include "tests/shard_grammar/walk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static shard_grammar_vocab *vocab(void)
{
    static shard_grammar_vocab *v; /* one for all inputs */
    static const int32_t end = WALK_END;
    shard_tokenizer *t;
    if (v == NULL && walk_byte_tokenizer(&t) == ST_OK) {
        if (shard_grammar_vocab_create(t, WALK_BYTES, &end, 1, &v) != ST_OK)
            abort();
        shard_tokenizer_destroy(&t);
    }
    return v;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    shard_grammar *g = NULL;
    shard_grammar_state *s = NULL;
    uint32_t mask[(WALK_BYTES + 31) / 32];
    if (size > 1 << 14)
        return 0;
    status_mute();
    if (shard_grammar_load(data, size, vocab(), &g) == ST_OK && shard_grammar_state_create(g, &s) == ST_OK) {
        for (size_t i = 0; i < size && i < 64; i++) {
            if (shard_grammar_mask(s, mask) != ST_OK)
                break;
            int32_t token = data[i], first = token;
            while ((mask[token / 32] >> (token % 32) & 1) == 0 && (token + 1) % WALK_BYTES != first)
                token = (token + 1) % WALK_BYTES;
            if (shard_grammar_accept(s, token) != ST_OK)
                break;
        }
    }
    shard_grammar_state_destroy(&s);
    shard_grammar_destroy(&g);
    status_unmute();
    return 0;
}
