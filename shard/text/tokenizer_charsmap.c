/* shard/text/tokenizer_charsmap.c - SentencePiece's precompiled character map.
 *
 * blob = u32 bytes of the array | the array: u32 units of a double array (darts-clone) | NUL-terminated texts.
 * A unit: label in bits 0-7 and 31, has-leaf in bit 8, offset in bits 10-30 (times 256 if bit 9); a leaf's value is an
 * offset into the texts.  The reference applies the shortest key that begins a grapheme cluster of under six bytes to
 * the whole cluster, and else works character by character; models were trained on text normalised like that. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "shard/text/tokenizer_internal.h"

struct tok_charsmap {
    uint32_t *units;
    size_t n_units;
    char *texts;
    size_t texts_len;
};

static uint32_t read_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

status tok_charsmap_create(const char *where, const void *blob, size_t len, tok_charsmap **out)
{
    const uint8_t *p = blob;
    size_t bytes = len >= 4 ? read_u32(p) : 0;
    if (len < 4 || bytes % 4 != 0 || bytes > len - 4)
        return FAIL(ST_FORMAT, "%s: precompiled_charsmap is damaged: %zu bytes, of which the array claims %zu", where, len, bytes);
    tok_charsmap *m;
    TRY(mem_calloc(1, sizeof(*m), "tokenizer: charsmap", &m));
    m->n_units = bytes / 4;
    m->texts_len = len - 4 - bytes;
    status st = mem_calloc(m->n_units + 1, sizeof(*m->units), "tokenizer: charsmap", &m->units);
    if (st == ST_OK)
        st = mem_calloc(m->texts_len + 1, 1, "tokenizer: charsmap", &m->texts);
    if (st == ST_OK && !tok_utf8_valid((const char *)p + 4 + bytes, m->texts_len))
        st = FAIL(ST_FORMAT, "%s: precompiled_charsmap holds text that is not UTF-8", where);
    if (st != ST_OK) {
        tok_charsmap_destroy(&m);
        return st;
    }
    for (size_t i = 0; i < m->n_units; i++)
        m->units[i] = read_u32(p + 4 + i * 4);
    memcpy(m->texts, p + 4 + bytes, m->texts_len);
    *out = m;
    return ST_OK;
}

void tok_charsmap_destroy(tok_charsmap **m)
{
    if (*m == NULL)
        return;
    free((*m)->units);
    free((*m)->texts);
    free(*m);
    *m = NULL;
}

static size_t unit_offset(uint32_t unit)
{
    return (size_t)(unit >> 10) << ((unit & 1u << 9) >> 6);
}

/* The text that replaces the shortest key at the beginning of key[0..len), or NULL. */
static const char *lookup(const tok_charsmap *m, const char *key, size_t len, size_t *text_len)
{
    if (m->n_units == 0)
        return NULL;
    size_t node = unit_offset(m->units[0]);
    for (size_t i = 0; i < len && key[i] != '\0'; i++) {
        node ^= (uint8_t)key[i];
        if (node >= m->n_units || (m->units[node] & (1u << 31 | 0xff)) != (uint8_t)key[i])
            return NULL;
        uint32_t unit = m->units[node];
        node ^= unit_offset(unit);
        if ((unit >> 8 & 1) == 0)
            continue;
        if (node >= m->n_units)
            return NULL;
        size_t at = m->units[node] & 0x7fffffff;
        /* A value inside a character would break the text. */
        if (at >= m->texts_len || ((uint8_t)m->texts[at] & 0xc0) == 0x80)
            return NULL;
        *text_len = strlen(m->texts + at);
        return m->texts + at;
    }
    return NULL;
}

static size_t cluster_end(const char *text, size_t len, size_t from)
{
    size_t end = from;
    utf8proc_int32_t state = 0;
    uint32_t before = tok_utf8_next(text, &end);
    while (end < len) {
        size_t next = end;
        uint32_t c = tok_utf8_next(text, &next);
        if (before < 0x80 && c < 0x80 ? !(before == '\r' && c == '\n')
                                      : utf8proc_grapheme_break_stateful((utf8proc_int32_t)before, (utf8proc_int32_t)c, &state))
            break;
        before = c;
        end = next;
    }
    return end;
}

static void push_mapped(const tok_charsmap *m, const char *part, size_t len, mem_str *out)
{
    size_t n;
    const char *text = lookup(m, part, len, &n);
    if (text != NULL)
        mem_str_append(out, text, n);
    else
        mem_str_append(out, part, len);
}

void tok_charsmap_apply(const tok_charsmap *m, const char *text, size_t len, mem_str *out)
{
    for (size_t i = 0; i < len;) {
        size_t end = cluster_end(text, len, i), n;
        const char *whole = end - i < 6 ? lookup(m, text + i, end - i, &n) : NULL;
        if (whole != NULL) {
            mem_str_append(out, whole, n);
            i = end;
        }
        while (i < end) {
            size_t step = tok_utf8_len(text[i]);
            push_mapped(m, text + i, step, out);
            i += step;
        }
    }
}
