/* tests/shard_grammar/walk.c - see walk.h. */
#include "tests/shard_grammar/walk.h"

#include <stdio.h>
#include <string.h>

#include "shard/text/tokenizer_text.h"

status walk_byte_tokenizer(shard_tokenizer **out)
{
    mem_str json = {0};
    mem_str_puts(&json, "{\"added_tokens\":[{\"id\":256,\"content\":\"<end>\",\"special\":true,\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false}],"
                        "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false},"
                        "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false},\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{");
    for (int b = 0; b < 256; b++)
        mem_str_printf(&json, "%s\"\\u%04x\":%d", b == 0 ? "" : ",", (unsigned)tok_byte_char((uint8_t)b), b);
    mem_str_puts(&json, "}}}");
    status st = shard_tokenizer_from_json("bytes", json.data, json.len, out);
    mem_str_free(&json);
    return st;
}

status walk_open(shard_grammar_kind kind, const char *source, size_t len, shard_grammar_vocab *vocab, walk *out)
{
    walk w = {.vocab = vocab};
    status st = shard_grammar_compile(kind, source, len, NULL, &w.compiled);
    if (st == ST_OK)
        st = shard_grammar_load(w.compiled.data, w.compiled.len, vocab, &w.grammar);
    if (st != ST_OK) {
        walk_close(&w);
        return st;
    }
    *out = w;
    return ST_OK;
}

void walk_close(walk *w)
{
    shard_grammar_destroy(&w->grammar);
    mem_str_free(&w->compiled);
}

bool walk_accepts(walk *w, const char *text, size_t len, bool *prefix)
{
    shard_grammar_state *s;
    bool taken = true, ends = false;
    if (shard_grammar_state_create(w->grammar, &s) != ST_OK)
        return false;
    status_mute();
    for (size_t i = 0; i < len && taken; i++)
        taken = shard_grammar_accept(s, (unsigned char)text[i]) == ST_OK;
    if (taken)
        ends = shard_grammar_accept(s, WALK_END) == ST_OK;
    status_unmute();
    if (prefix != NULL)
        *prefix = taken;
    shard_grammar_state_destroy(&s);
    return ends;
}
