/* shard/text/tokenizer_text.h - UTF-8 and character classes as the reference tokenizers see them.
 *
 * Text inside the tokenizer is always valid UTF-8: encode repairs its input once (a maximal broken run becomes one
 * U+FFFD) and everything after may decode without checks. */
#ifndef SHARD_TEXT_TOKENIZER_TEXT_H
#define SHARD_TEXT_TOKENIZER_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"

/* The character at *pos of valid UTF-8, and *pos past it. */
static inline uint32_t tok_utf8_next(const char *s, size_t *pos)
{
    const unsigned char *p = (const unsigned char *)s + *pos;
    if (p[0] < 0x80) {
        *pos += 1;
        return p[0];
    }
    if (p[0] < 0xe0) {
        *pos += 2;
        return (uint32_t)(p[0] & 0x1f) << 6 | (p[1] & 0x3f);
    }
    if (p[0] < 0xf0) {
        *pos += 3;
        return (uint32_t)(p[0] & 0x0f) << 12 | (uint32_t)(p[1] & 0x3f) << 6 | (p[2] & 0x3f);
    }
    *pos += 4;
    return (uint32_t)(p[0] & 0x07) << 18 | (uint32_t)(p[1] & 0x3f) << 12 | (uint32_t)(p[2] & 0x3f) << 6 | (p[3] & 0x3f);
}

/* Bytes of the character that starts with `first`. */
static inline size_t tok_utf8_len(char first)
{
    unsigned char c = (unsigned char)first;
    return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

/* c: any scalar value.  Returns the bytes written. */
size_t tok_utf8_encode(uint32_t c, char out[4]);
void tok_utf8_push(mem_str *out, uint32_t c);

/* Looks at bytes[0..n), n > 0: how many belong to the next character.  *valid: they are one.  If not, they are a maximal
 * broken run; *open: it is only the end of the input that breaks it (more bytes may complete it). */
size_t tok_utf8_scan(const char *bytes, size_t n, bool *valid, bool *open);
bool tok_utf8_valid(const char *bytes, size_t n);
/* Appends bytes with every broken run as U+FFFD. */
void tok_utf8_repair(const char *bytes, size_t n, mem_str *out);

bool tok_is_space(uint32_t c);       /* White_Space */
/* Classes of the reference (tokenizer_unicode.h), each by the version of Unicode that it uses for it. */
bool tok_is_numeric(uint32_t c);
bool tok_is_punctuation(uint32_t c); /* with all of ASCII's symbols */
bool tok_is_other(uint32_t c);
bool tok_is_nonspacing(uint32_t c);
bool tok_is_mark(uint32_t c);
bool tok_is_word(uint32_t c);
/* Lower case of one character on its own (no final sigma rule): at most two characters. */
int tok_lower(uint32_t c, uint32_t out[2]);

/* GPT-2's alphabet: each byte as one printable character. */
uint32_t tok_byte_char(uint8_t byte);
int tok_char_byte(uint32_t c); /* -1 if it stands for no byte */

#endif
