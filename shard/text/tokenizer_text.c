#include "shard/text/tokenizer_text.h"

#include <utf8proc.h>

#include "shard/text/tokenizer_unicode.h"

size_t tok_utf8_encode(uint32_t c, char out[4])
{
    return (size_t)utf8proc_encode_char((utf8proc_int32_t)c, (utf8proc_uint8_t *)out);
}

void tok_utf8_push(mem_str *out, uint32_t c)
{
    char buf[4];
    mem_str_append(out, buf, tok_utf8_encode(c, buf));
}

size_t tok_utf8_scan(const char *bytes, size_t n, bool *valid, bool *open)
{
    const unsigned char *p = (const unsigned char *)bytes;
    *open = false;
    *valid = true;
    if (p[0] < 0x80)
        return 1;
    size_t need = p[0] >= 0xc2 && p[0] <= 0xdf ? 2 : p[0] >= 0xe0 && p[0] <= 0xef ? 3 : p[0] >= 0xf0 && p[0] <= 0xf4 ? 4 : 0;
    *valid = false;
    if (need == 0)
        return 1;
    /* The second byte's range excludes overlong forms, surrogates and what lies beyond U+10FFFF. */
    unsigned char low = p[0] == 0xe0 ? 0xa0 : p[0] == 0xf0 ? 0x90 : 0x80, high = p[0] == 0xed ? 0x9f : p[0] == 0xf4 ? 0x8f : 0xbf;
    for (size_t i = 1; i < need; i++) {
        if (i >= n) {
            *open = true;
            return i;
        }
        if (p[i] < low || p[i] > high)
            return i;
        low = 0x80;
        high = 0xbf;
    }
    *valid = true;
    return need;
}

bool tok_utf8_valid(const char *bytes, size_t n)
{
    for (size_t i = 0; i < n;) {
        if ((unsigned char)bytes[i] < 0x80) {
            i++;
            continue;
        }
        bool valid, open;
        i += tok_utf8_scan(bytes + i, n - i, &valid, &open);
        if (!valid)
            return false;
    }
    return true;
}

void tok_utf8_repair(const char *bytes, size_t n, mem_str *out)
{
    size_t done = 0;
    for (size_t i = 0; i < n;) {
        bool valid, open;
        size_t step = tok_utf8_scan(bytes + i, n - i, &valid, &open);
        if (!valid) {
            mem_str_append(out, bytes + done, i - done);
            mem_str_append(out, "\xef\xbf\xbd", 3);
            done = i + step;
        }
        i += step;
    }
    mem_str_append(out, bytes + done, n - done);
}

bool tok_is_space(uint32_t c)
{
    if (c < 0x80)
        return c == ' ' || (c >= 0x09 && c <= 0x0d);
    return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
           c == 0x3000;
}

bool tok_is_numeric(uint32_t c)
{
    return c < 0x80 ? c >= '0' && c <= '9' : tok_in_ranges(&tok_ranges_numeric, c);
}

bool tok_is_punctuation(uint32_t c)
{
    if (c < 0x80)
        return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
    return tok_in_ranges(&tok_ranges_punctuation, c);
}

bool tok_is_other(uint32_t c)
{
    return tok_in_ranges(&tok_ranges_other, c);
}

bool tok_is_nonspacing(uint32_t c)
{
    return c >= 0x300 && tok_in_ranges(&tok_ranges_nonspacing, c);
}

bool tok_is_mark(uint32_t c)
{
    return c >= 0x300 && tok_in_ranges(&tok_ranges_mark, c);
}

bool tok_is_word(uint32_t c)
{
    if (c < 0x80)
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
    return tok_in_ranges(&tok_ranges_word, c);
}

int tok_lower(uint32_t c, uint32_t out[2])
{
    if (c < 0x80) {
        out[0] = c >= 'A' && c <= 'Z' ? c + 32 : c;
        return 1;
    }
    if (c == 0x130) { /* the one unconditional special casing: dotted capital I */
        out[0] = 'i';
        out[1] = 0x307;
        return 2;
    }
    out[0] = (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
    for (size_t i = 0; i < tok_lower_shifts.n && out[0] == c; i++) {
        const tok_shift *s = &tok_lower_shifts.at[i];
        if (c >= s->first && c <= s->last)
            out[0] = (uint32_t)((int32_t)c + s->add);
    }
    return 1;
}

/* Printable Latin-1 stands for itself; the other 68 bytes take U+0100 upwards in byte order. */
static bool byte_is_itself(uint32_t b)
{
    return (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
}

uint32_t tok_byte_char(uint8_t byte)
{
    if (byte_is_itself(byte))
        return byte;
    if (byte <= ' ')
        return 0x100u + byte;
    if (byte < 0xad)
        return 0x100u + 33 + (byte - 0x7fu);
    return 0x100u + 33 + 34;
}

int tok_char_byte(uint32_t c)
{
    if (c < 0x100)
        return byte_is_itself(c) ? (int)c : -1;
    if (c <= 0x120)
        return (int)(c - 0x100);
    if (c <= 0x142)
        return (int)(c - 0x121 + 0x7f);
    return c == 0x143 ? 0xad : -1;
}
