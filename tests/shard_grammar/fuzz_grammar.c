/* tests/shard_grammar/fuzz_grammar.c - a first byte that chooses the kind, then a grammar's source; what compiles is loaded and walked by the bytes
 * themselves. */
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

/* Whatever the mask allows is taken, and the walk never ends in a state without a way on. */
static void follow(shard_grammar *g, const uint8_t *data, size_t size)
{
    shard_grammar_state *s;
    uint32_t mask[(WALK_BYTES + 31) / 32];
    if (shard_grammar_state_create(g, &s) != ST_OK)
        return;
    for (size_t i = 0; i < size && i < 50; i++) {
        status st = shard_grammar_mask(s, mask);
        if (st == ST_LIMIT)
            break;
        if (st != ST_OK)
            abort();
        int32_t token = data[i];
        while ((mask[token / 32] >> (token % 32) & 1) == 0)
            token = (token + 1) % WALK_BYTES;
        st = shard_grammar_accept(s, token);
        if (st == ST_LIMIT || token == WALK_END)
            break;
        if (st != ST_OK)
            abort();
    }
    shard_grammar_state_destroy(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const shard_grammar_limits limits = {.max_steps = 300000, .max_seconds = 1, .max_bytes = 1 << 18};
    mem_str bytes = {0};
    shard_grammar *g = NULL;
    if (size < 1 || size > 1 << 14)
        return 0;
    status_mute();
    if (shard_grammar_compile((shard_grammar_kind)(data[0] % 5), (const char *)data + 1, size - 1, &limits, &bytes) == ST_OK) {
        if (shard_grammar_load(bytes.data, bytes.len, vocab(), &g) != ST_OK)
            abort();
        follow(g, data, size);
    }
    shard_grammar_destroy(&g);
    mem_str_free(&bytes);
    status_unmute();
    return 0;
}
