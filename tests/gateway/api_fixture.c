#include "tests/gateway/api_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"

static const char *const specials[] = {"<|im_start|>", "<|im_end|>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "<|tool_call|>", "<|eot|>"};
static const char *const fims[] = {"<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"};

static const char chatml[] = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
                             "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/* GPT-2's alphabet: printable bytes as they are, the others from U+0100 on. */
static size_t byte_char(int b, char out[3])
{
    static int next[256];
    if (next[0] == 0) {
        for (int i = 0, n = 0; i < 256; i++) {
            bool plain = (i >= 0x21 && i <= 0x7e) || (i >= 0xa1 && i <= 0xac) || i >= 0xae;
            next[i] = plain ? i : 256 + n++;
        }
    }
    int c = next[b];
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    out[0] = (char)(0xc0 | c >> 6);
    out[1] = (char)(0x80 | (c & 0x3f));
    return 2;
}

static void make_vocab(bool fim, mem_str *out)
{
    static char spelled[256][3];
    static const char *tokens[300];
    static size_t lens[300];
    static int32_t types[300];
    static const char *const merges[] = {"a b", "\xc4\xa0 t"};
    static const size_t merge_lens[] = {3, 4};
    int32_t n = 0;
    for (; n < 256; n++) {
        lens[n] = byte_char(n, spelled[n]);
        tokens[n] = spelled[n];
        types[n] = 1;
    }
    for (size_t i = 0; i < ARRAY_LEN(specials); i++, n++)
        tokens[n] = specials[i], types[n] = 3, lens[n] = strlen(specials[i]);
    for (size_t i = 0; fim && i < ARRAY_LEN(fims); i++, n++)
        tokens[n] = fims[i], types[n] = 3, lens[n] = strlen(fims[i]);
    static const char *const pairs[] = {"ab", "\xc4\xa0t"};
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++, n++)
        tokens[n] = pairs[i], types[n] = 1, lens[n] = strlen(pairs[i]);
    shard_vocab v = {.model = "gpt2", .pre = "gpt-2", .n_tokens = n, .tokens = tokens, .token_lens = lens, .types = types, .n_merges = 2, .merges = merges,
                     .merge_lens = merge_lens, .bos = -1, .eos = fixture_eos, .unk = -1, .sep = -1, .cls = -1, .pad = -1, .mask = -1, .add_bos = 0, .add_eos = 0,
                     .add_space_prefix = 0, .remove_extra_whitespaces = -1};
    if (shard_vocab_encode(&v, out) != ST_OK)
        abort();
}

static void add(shard_text_asset *assets, size_t *n, const char *name, const void *data, size_t len)
{
    assets[(*n)++] = (shard_text_asset){(char *)name, (void *)data, len, NULL};
}

shard_text *fixture_text(const char *template, const json_t *templates, bool fim)
{
    static const char described[] = "{\"version\":1,\"family\":\"test\",\"vocab\":512,\"max_positions\":4096,\"generation\":{\"eos\":[257],\"temperature\":0.5},"
                                    "\"variables\":{\"bos_token\":\"\",\"eos_token\":\"<|im_end|>\"}}";
    shard_text_asset assets[16];
    size_t n = 0;
    mem_str vocab = {0};
    char names[8][64];
    const char *name;
    json_t *v;
    int k = 0;
    make_vocab(fim, &vocab);
    add(assets, &n, "vocab.bin", vocab.data, vocab.len);
    add(assets, &n, "text.json", described, sizeof(described) - 1);
    template = template != NULL ? template : chatml;
    if (template[0] != '\0')
        add(assets, &n, "template/default.jinja", template, strlen(template));
    json_object_foreach((json_t *)templates, name, v)
    {
        snprintf(names[k], sizeof(names[k]), "template/%.40s.jinja", name);
        add(assets, &n, names[k], json_string_value(v), json_string_length(v));
        if (++k == 8)
            break;
    }
    shard_text *text;
    if (shard_text_create(assets, n, &text) != ST_OK) {
        fprintf(stderr, "%s\n", status_message());
        abort();
    }
    mem_str_free(&vocab);
    return text;
}

api_model fixture_model(const shard_text *text)
{
    return (api_model){.name = "test-model", .digest = "sha256:0", .fingerprint = "fp_1", .text = text, .max_model_len = 4096,
                       .vocab = shard_tokenizer_size(shard_text_tokenizer(text)), .created = 1};
}
