/* shard/text/tokenizer_pre.c - data: splitting rules by the name that GGUF files give them.
 *
 * Each pattern is the one of the models' own tokenizer.json (Oniguruma's dialect; characters beyond ASCII as \x{..}). */
#include "shard/text/tokenizer_pre.h"

#include <stddef.h>
#include <string.h>

#define DEFAULT_PUNCT \
    "[\\p{P}\\$\\+<=>\\^~\\|]+"
#define LLAMA3 \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|" \
    "\\s+(?!\\S)|\\s+"
#define QWEN2 \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!" \
    "\\S)|\\s+"
#define QWEN35 \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[" \
    "\\r\\n]+|\\s+(?!\\S)|\\s+"
#define GPT4O \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?" \
    "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)" \
    "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define TEKKEN \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{L" \
    "u}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s" \
    "+(?!\\S)|\\s+"
#define DEEPSEEK_LETTERS \
    "\\s?[A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{293}\\x{295}-\\x{2af}" \
    "\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-" \
    "\\x{3f5}\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}" \
    "\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}" \
    "\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-" \
    "\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}" \
    "\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}\\x{210a}-\\x{2113}" \
    "\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-" \
    "\\x{213f}\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}" \
    "\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}" \
    "\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}" \
    "\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}\\x{1e900}-" \
    "\\x{1e943}]+"
#define DEEPSEEK_PUNCT \
    "\\s?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+"
#define DEEPSEEK_CJK \
    "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"
#define CJK_KANA \
    "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+"
#define DEEPSEEK3 \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[" \
    "\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define SPARK \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+|[" \
    "\\r\\n]|\\s+(?!\\S)|\\s+"
#define YOUTU_CJK \
    "[\\x{ac00}-\\x{d7a3}\\x{3131}-\\x{318e}]+|[\\x{ff01}\\x{2026}\\x{201c}\\x{201d}\\x{2018}\\x{2019}\\x{2014}\\x{ff1a}" \
    "\\x{ff1b}\\x{ff0c}\\x{3001}-\\x{303f}\\x{fe30}-\\x{fe4f}]+|[\\x{3105}-\\x{312f}]+|[\\x{4e00}-\\x{9fa5}\\x{3040}-" \
    "\\x{309f}\\x{30a0}-\\x{30ff}]+"
#define YOUTU \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?" \
    "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)" \
    "?|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define BLOOM \
    " ?[^(\\s|[.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c}])]+"
#define CHAMELEON_IMAGE \
    "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z"
#define BAILING \
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|" \
    "\\s+"
#define SEED \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|\\s*[\\r\\n]+|\\s+(?!" \
    "\\S)|\\s+"
#define KIMI \
    "[\\p{Han}]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^" \
    "\\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]+[\\p{" \
    "Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[" \
    "\\r\\n]+|\\s+(?!\\S)|\\s+"
#define AFMOE_DIGITS \
    "\\p{N}{1,3}(?=(?:\\p{N}{3})*(?!\\p{N}))"
#define AFMOE_ASIAN \
    "[\\x{4e00}-\\x{9fff}\\x{3400}-\\x{4dbf}\\x{f900}-\\x{faff}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}\\x{ff65}-\\x{ff9f}" \
    "\\x{2f00}-\\x{2fdf}\\x{e40}-\\x{e7f}\\x{e80}-\\x{eff}\\x{1780}-\\x{17ff}\\x{1000}-\\x{109f}\\x{aa60}-\\x{aa7f}" \
    "\\x{a9e0}-\\x{a9ff}\\x{ac00}-\\x{d7af}\\x{1100}-\\x{11ff}]+"
#define JAIS2 \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|" \
    "\\s{512}(?!\\S)|\\s{256}(?!\\S)|\\s{128}(?!\\S)|\\s{64}(?!\\S)|\\s{32}(?!\\S)|\\s{16}(?!\\S)|\\s{8}(?!\\S)|\\s{4}(?!" \
    "\\S)|\\s{1,2}(?!\\S)|\\s{1}"
#define AYA_DIGITS \
    "\\d{1,3}(?=(?:\\d{3})*\\b)"
#define EXAONE_MOE \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[" \
    "\\r\\n/]?|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"
#define MINICPM5 \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}+| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?" \
    "!\\S)|\\s+"
#define UFAK \
    "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const tok_pre rows[] = {
    {"default", {DEFAULT_PUNCT, TOK_PRE_GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {"llama3", {LLAMA3}, .ignore_merges = true, .add_bos = true},
    {"llama-v3", {LLAMA3}, .ignore_merges = true, .add_bos = true},
    {"llama-bpe", {LLAMA3}, .ignore_merges = true, .add_bos = true},
    {"falcon3", {LLAMA3}, .ignore_merges = true, .add_bos = true},
    {"falcon-h1", {LLAMA3}, .ignore_merges = true, .add_bos = true},
    {"pixtral", {LLAMA3}, .ignore_merges = true, .add_bos = true},
    {"midm-2.0", {LLAMA3}, .ignore_merges = true, .add_bos = true},
    {"lfm2", {LLAMA3}, .ignore_merges = true, .add_bos = true},
    {"jina-v5-nano", {LLAMA3}, .ignore_merges = true, .add_bos = true},
    {"dbrx", {LLAMA3}},
    {"smaug-bpe", {LLAMA3}},
    {"glm4", {LLAMA3}},
    {"chatglm-bpe", {LLAMA3}},
    {"gpt-2", {TOK_PRE_GPT2}},
    {"phi-2", {TOK_PRE_GPT2}},
    {"jina-es", {TOK_PRE_GPT2}},
    {"jina-de", {TOK_PRE_GPT2}},
    {"gigachat", {TOK_PRE_GPT2}},
    {"jina-v2-es", {TOK_PRE_GPT2}},
    {"jina-v2-de", {TOK_PRE_GPT2}},
    {"a.x-4.0", {TOK_PRE_GPT2}},
    {"mellum", {TOK_PRE_GPT2}},
    {"exaone4", {TOK_PRE_GPT2}},
    {"jais", {TOK_PRE_GPT2}},
    {"trillion", {TOK_PRE_GPT2}},
    {"granite-docling", {TOK_PRE_GPT2}},
    {"mpt", {TOK_PRE_GPT2}, .nfc = true},
    {"olmo", {TOK_PRE_GPT2}, .nfc = true},
    {"jina-v1-en", {TOK_PRE_GPT2}, .add_bos = true, .add_eos = true},
    {"jina-v2-code", {TOK_PRE_GPT2}, .add_bos = true, .add_eos = true},
    {"roberta-bpe", {TOK_PRE_GPT2}, .add_bos = true, .add_eos = true},
    {"starcoder", {TOK_PRE_DIGITS, TOK_PRE_GPT2}},
    {"refact", {TOK_PRE_DIGITS, TOK_PRE_GPT2}},
    {"smollm", {TOK_PRE_DIGITS, TOK_PRE_GPT2}},
    {"codeshell", {TOK_PRE_DIGITS, TOK_PRE_GPT2}},
    {"exaone", {TOK_PRE_DIGITS, TOK_PRE_GPT2}},
    {"minerva-7b", {TOK_PRE_DIGITS, TOK_PRE_GPT2}},
    {"mellum2", {TOK_PRE_DIGITS, TOK_PRE_GPT2}},
    {"command-r", {TOK_PRE_DIGITS, TOK_PRE_GPT2}, .nfc = true},
    {"falcon", {TOK_PRE_PUNCTUATION, TOK_PRE_GPT2, TOK_PRE_DIGIT_RUNS, "[0-9][0-9][0-9]"}},
    {"qwen2", {QWEN2}, .nfc = true},
    {"deepseek-r1-qwen", {QWEN2}, .nfc = true},
    {"kormo", {QWEN2}, .nfc = true},
    {"megrez", {QWEN2}, .nfc = true},
    {"f2llmv2", {QWEN2}, .nfc = true},
    {"stablelm2", {QWEN2}, .nfc = true},
    {"hunyuan", {QWEN2}},
    {"solar-open", {QWEN2}},
    {"grok-2", {QWEN2}},
    {"qwen35", {QWEN35}, .nfc = true},
    {"gpt-4o", {GPT4O}},
    {"llama4", {GPT4O}},
    {"kanana2", {GPT4O}},
    {"talkie", {GPT4O}},
    {"minimax-m2", {GPT4O}},
    {"granite-emb-multi", {GPT4O}},
    {"tekken", {TEKKEN}, .ignore_merges = true, .add_bos = true},
    {"deepseek-llm", {"[\\r\\n]", DEEPSEEK_LETTERS, DEEPSEEK_PUNCT, "\\s+$", DEEPSEEK_CJK, "\\p{N}+"}},
    {"deepseek-coder", {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", DEEPSEEK_CJK, TOK_PRE_DIGITS}},
    {"deepseek-v3", {"\\p{N}{1,3}", CJK_KANA, DEEPSEEK3}},
    {"hunyuan-dense", {"\\p{N}{1,3}", CJK_KANA, DEEPSEEK3}},
    {"joyai-llm", {"\\p{N}{1,3}", CJK_KANA, DEEPSEEK3}},
    {"spark2.5", {"\\p{N}{1,3}", CJK_KANA, SPARK, TOK_PRE_DIGITS}},
    {"youtu", {YOUTU_CJK, YOUTU}},
    {"poro-chat", {BLOOM}},
    {"bloom", {BLOOM}},
    {"gpt3-finnish", {BLOOM}},
    {"viking", {BLOOM, TOK_PRE_DIGITS}},
    {"chameleon", {"<sentinel:[0-9]+>", CHAMELEON_IMAGE, "([\\t\\n]|    |  )", TOK_PRE_DIGITS, "[\\p{P}!-/:-@\\[-`{-~]", TOK_PRE_GPT2}, .add_bos = true},
    {"superbpe", {"\\p{N}+", "(?=(\\d{3})+(?!\\d))"}},
    {"bailingmoe", {BAILING}},
    {"bailingmoe2", {BAILING}},
    {"llada-moe", {BAILING}},
    {"seed-coder", {SEED}},
    {"kimi-k2", {KIMI}},
    {"afmoe", {AFMOE_DIGITS, AFMOE_ASIAN, DEEPSEEK3}},
    {"jais-2", {JAIS2}},
    {"tiny_aya", {AYA_DIGITS, GPT4O}},
    {"exaone-moe", {EXAONE_MOE}},
    {"minicpm5", {"\\p{N}{1,3}", MINICPM5}, .ignore_merges = true},
    {"laguna", {"[^\\n]+|[\\n]+", QWEN2}},
    {"ufakzeka", {UFAK}},
};

const tok_pre *tok_pre_find(const char *name)
{
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (strcmp(rows[i].name, name) == 0)
            return &rows[i];
    }
    return NULL;
}

const char *tok_pre_name(int i)
{
    return i >= 0 && (size_t)i < sizeof(rows) / sizeof(rows[0]) ? rows[i].name : NULL;
}
