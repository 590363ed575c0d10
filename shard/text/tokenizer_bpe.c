/* shard/text/tokenizer_bpe.c - byte pair encoding of one word.
 *
 * The word starts as a linked list of characters (or bytes).  Every neighbouring pair that a merge rule names waits in a
 * heap, lowest rank and then leftmost first; merging one pair offers at most two new ones.  An entry whose pair has
 * changed meanwhile is dropped unless it still yields the same token, which is the reference's rule.  So n symbols take
 * O(n log n), whatever the text. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "shard/text/tokenizer_internal.h"

status tok_bpe_init(tok_bpe *b, size_t n_merges)
{
    size_t slots = 1024;
    if (n_merges > TOK_MAX_TOKENS)
        return FAIL(ST_LIMIT, "tokenizer: %zu merges; at most %d are accepted", n_merges, TOK_MAX_TOKENS);
    while (slots < n_merges * 2)
        slots *= 2;
    b->mask = slots - 1;
    TRY(mem_calloc(slots, sizeof(*b->keys), "tokenizer: merges", &b->keys));
    return mem_calloc(slots, sizeof(*b->merges), "tokenizer: merges", &b->merges);
}

static size_t merge_slot(const tok_bpe *b, int32_t left, int32_t right)
{
    uint64_t key = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) + 1;
    size_t i = (size_t)hash_mix(key) & b->mask;
    while (b->keys[i] != 0 && b->keys[i] != key)
        i = (i + 1) & b->mask;
    return i;
}

status tok_bpe_add_merge(tok_bpe *b, int32_t left, int32_t right, uint32_t rank, int32_t merged)
{
    size_t i = merge_slot(b, left, right);
    if (b->keys[i] == 0 && ++b->n_merges * 2 > b->mask + 1)
        return FAIL(ST_INTERNAL, "tokenizer: more merges than announced");
    b->keys[i] = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) + 1;
    b->merges[i] = (tok_merge){.rank = rank, .id = merged};
    return ST_OK;
}

static tok_merge find_merge(const tok_bpe *b, int32_t left, int32_t right)
{
    size_t i = merge_slot(b, left, right);
    return b->keys[i] == 0 ? (tok_merge){.id = -1} : b->merges[i];
}

void tok_fallback_ids(const tok_vocab *v, int32_t fallback[256])
{
    for (int i = 0; i < 256; i++) {
        char name[8];
        snprintf(name, sizeof(name), "<0x%02X>", (unsigned)i);
        fallback[i] = tok_vocab_find(v, name, 6);
    }
}

#define LOWER_BLOCK "\xe2\x96\x81" /* U+2581, SentencePiece's blank */

static bool ends_with_block(const char *s, size_t len)
{
    return len >= 3 && memcmp(s + len - 3, LOWER_BLOCK, 3) == 0;
}

static bool starts_with_block(const char *s, size_t len)
{
    return len >= 3 && memcmp(s, LOWER_BLOCK, 3) == 0;
}

static bool blocks_start_words(const tok_bpe *b, const tok_vocab *v)
{
    if (b->prefix.len > 0 || b->suffix.len > 0 || tok_vocab_find(v, LOWER_BLOCK, 3) < 0)
        return false;
    for (size_t i = 0; i <= b->mask; i++) {
        if (b->keys[i] == 0)
            continue;
        size_t left_len, right_len;
        const char *left = tok_vocab_token(v, (int32_t)((b->keys[i] - 1) >> 32), &left_len);
        const char *right = tok_vocab_token(v, (int32_t)(b->keys[i] - 1), &right_len);
        if (left == NULL || right == NULL || (starts_with_block(right, right_len) && !ends_with_block(left, left_len)))
            return false;
    }
    return true;
}

status tok_bpe_prepare(tok_bpe *b, const tok_vocab *v)
{
    tok_fallback_ids(v, b->fallback);
    b->lower_block_starts = blocks_start_words(b, v);
    for (int i = 0; i < 256; i++) {
        char c[4];
        b->bytes[i] = tok_vocab_find(v, c, tok_utf8_encode(tok_byte_char((uint8_t)i), c));
    }
    if (b->prefix.len > 0 || b->suffix.len > 0)
        return ST_OK;
    TRY(mem_calloc(256 * 256, sizeof(*b->byte_pairs), "tokenizer: merges of bytes", &b->byte_pairs));
    for (int left = 0; left < 256; left++) {
        for (int right = 0; right < 256; right++)
            b->byte_pairs[left << 8 | right] =
                b->bytes[left] < 0 || b->bytes[right] < 0 ? (tok_merge){.id = -1} : find_merge(b, b->bytes[left], b->bytes[right]);
    }
    return ST_OK;
}

size_t tok_bpe_word_end(const tok_bpe *b, const char *text, size_t len, size_t from)
{
    if (!b->lower_block_starts)
        return len;
    size_t at = from;
    while (starts_with_block(text + at, len - at))
        at += 3;
    const char *block = at >= len ? NULL : memmem(text + at, len - at, LOWER_BLOCK, 3);
    return block == NULL ? len : (size_t)(block - text);
}

void tok_bpe_free(tok_bpe *b)
{
    free(b->keys);
    free(b->merges);
    free(b->byte_pairs);
    free(b->prefix.data);
    free(b->suffix.data);
}

void tok_scratch_free(tok_scratch *s)
{
    free(s->symbols);
    free(s->heap);
    free(s->best);
    free(s->ids);
    mem_str_free(&s->text);
    mem_str_free(&s->word);
}

status tok_ids_push(shard_ids *ids, int32_t id)
{
    TRY(mem_grow(&ids->data, &ids->cap, ids->n + 1, sizeof(*ids->data), "tokenizer: ids"));
    ids->data[ids->n++] = id;
    return ST_OK;
}

/* ---- the heap ---- */

static void sift_down(tok_candidate *heap, size_t n, size_t i)
{
    tok_candidate moving = heap[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n)
            break;
        if (child + 1 < n && heap[child + 1].order < heap[child].order)
            child++;
        if (heap[child].order >= moving.order)
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = moving;
}

static void heap_push(tok_scratch *s, tok_merge m, int32_t position)
{
    tok_candidate c = {.order = (uint64_t)m.rank << 32 | (uint32_t)position, .id = m.id};
    size_t i = s->n_heap++;
    while (i > 0 && s->heap[(i - 1) / 2].order > c.order) {
        s->heap[i] = s->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    s->heap[i] = c;
}

/* Room for n symbols; a heap never holds more than three entries a symbol: n - 1 at the start, two more a merge. */
static status reserve(tok_scratch *s, size_t n)
{
    if (n <= s->cap_symbols)
        return ST_OK;
    size_t cap = n < 64 ? 64 : n + n / 2;
    tok_symbol *symbols = realloc(s->symbols, cap * sizeof(*symbols));
    if (symbols != NULL)
        s->symbols = symbols;
    tok_candidate *heap = symbols == NULL ? NULL : realloc(s->heap, 3 * cap * sizeof(*heap));
    if (heap == NULL)
        return FAIL(ST_NO_MEMORY, "tokenizer: no memory for a word of %zu symbols", n);
    s->heap = heap;
    s->cap_symbols = cap;
    return ST_OK;
}

static void merge_all(const tok_bpe *b, tok_scratch *s)
{
    tok_symbol *sym = s->symbols;
    for (size_t i = s->n_heap / 2; i-- > 0;)
        sift_down(s->heap, s->n_heap, i);
    while (s->n_heap > 0) {
        tok_candidate top = s->heap[0];
        s->heap[0] = s->heap[--s->n_heap];
        if (s->n_heap > 0)
            sift_down(s->heap, s->n_heap, 0);
        int32_t at = (int32_t)(uint32_t)top.order;
        if (sym[at].len == 0 || sym[at].next < 0)
            continue;
        int32_t right = sym[at].next;
        tok_merge m = find_merge(b, sym[at].id, sym[right].id);
        if (m.id != top.id)
            continue;
        sym[at].id = m.id;
        sym[at].len += sym[right].len;
        sym[at].next = sym[right].next;
        sym[right].len = 0;
        if (sym[at].next >= 0) {
            sym[sym[at].next].prev = at;
            m = find_merge(b, sym[at].id, sym[sym[at].next].id);
            if (m.id >= 0)
                heap_push(s, m, at);
        }
        if (sym[at].prev >= 0) {
            m = find_merge(b, sym[sym[at].prev].id, sym[at].id);
            if (m.id >= 0)
                heap_push(s, m, sym[at].prev);
        }
    }
}

/* ---- a word's first symbols ---- */

static void add_symbol(tok_scratch *s, size_t *n, int32_t id, uint32_t len)
{
    int32_t at = (int32_t)*n;
    s->symbols[at] = (tok_symbol){.id = id, .prev = at - 1, .next = at + 1, .len = len};
    ++*n;
}

static bool add_fallback(const tok_bpe *b, tok_scratch *s, size_t *n, const char *c, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (b->fallback[(uint8_t)c[i]] < 0)
            return false;
    }
    for (size_t i = 0; i < len; i++)
        add_symbol(s, n, b->fallback[(uint8_t)c[i]], 1);
    return true;
}

/* A character's spelling inside a word: with the continuing prefix unless first, the final suffix if last. */
static const char *spelling(const tok_bpe *b, tok_scratch *s, const char *c, size_t *len, bool first, bool last)
{
    bool prefix = !first && b->prefix.len > 0, suffix = last && b->suffix.len > 0;
    if (!prefix && !suffix)
        return c;
    mem_str_clear(&s->text);
    if (prefix)
        mem_str_append(&s->text, b->prefix.data, b->prefix.len);
    mem_str_append(&s->text, c, *len);
    if (suffix)
        mem_str_append(&s->text, b->suffix.data, b->suffix.len);
    *len = s->text.len;
    return s->text.data;
}

static status first_symbols(const tok_bpe *b, const tok_vocab *v, tok_scratch *s, const char *word, size_t len, size_t *n)
{
    bool unknown = false; /* an unknown token waits: byte fallback comes before it, as in the reference */
    uint32_t unknown_len = 0;
    size_t extra = b->byte_fallback ? b->prefix.len + b->suffix.len : 0, room;
    if (!mem_mul(len + 1, extra + 1, &room) || room > INT_MAX)
        return FAIL(ST_LIMIT, "tokenizer: a word of %zu bytes is too long", len);
    TRY(reserve(s, room));
    for (size_t i = 0; i < len;) {
        size_t step = tok_utf8_len(word[i]), slen = step;
        const char *c = spelling(b, s, word + i, &slen, i == 0, i + step == len);
        if (c == NULL || s->text.failed)
            return FAIL(ST_NO_MEMORY, "tokenizer: no memory for a word");
        i += step;
        int32_t id = tok_vocab_find(v, c, slen);
        if (id >= 0) {
            if (unknown)
                add_symbol(s, n, b->unk, unknown_len);
            unknown = false;
            add_symbol(s, n, id, (uint32_t)step);
            continue;
        }
        if (b->byte_fallback && add_fallback(b, s, n, c, slen))
            continue;
        if (!b->has_unk)
            continue;
        if (b->unk < 0)
            return FAIL(ST_FORMAT, "tokenizer: the text needs the unknown token, which the vocabulary lacks");
        if (unknown && !b->fuse_unk)
            add_symbol(s, n, b->unk, unknown_len);
        unknown_len = (uint32_t)step + (unknown && b->fuse_unk ? unknown_len : 0);
        unknown = true;
    }
    if (unknown)
        add_symbol(s, n, b->unk, unknown_len);
    return ST_OK;
}

static status emit_symbols(const tok_scratch *s, size_t n, shard_ids *out)
{
    for (int32_t i = n == 0 ? -1 : 0; i >= 0; i = s->symbols[i].next)
        TRY(tok_ids_push(out, s->symbols[i].id));
    return ST_OK;
}

static int32_t whole_word(const tok_vocab *v, const tok_scratch *s, const char *word, size_t len)
{
    int32_t id = tok_vocab_find(v, word, len);
    return id >= 0 && s->plain && s->special[id] ? -1 : id;
}

static void push_first(tok_scratch *s, tok_merge m, size_t at)
{
    if (m.id >= 0)
        s->heap[s->n_heap++] = (tok_candidate){.order = (uint64_t)m.rank << 32 | at, .id = m.id};
}

static status encode_chars(const tok_bpe *b, const tok_vocab *v, tok_scratch *s, const char *word, size_t len, shard_ids *out)
{
    size_t n = 0;
    TRY(first_symbols(b, v, s, word, len, &n));
    if (n == 0)
        return ST_OK;
    s->symbols[n - 1].next = -1;
    for (size_t i = 0; i + 1 < n; i++)
        push_first(s, find_merge(b, s->symbols[i].id, s->symbols[i + 1].id), i);
    merge_all(b, s);
    return emit_symbols(s, n, out);
}

static status encode_bytes(const tok_bpe *b, tok_scratch *s, const char *word, size_t len, shard_ids *out)
{
    size_t n = 0;
    TRY(reserve(s, len));
    for (size_t i = 0; i < len; i++)
        add_symbol(s, &n, b->bytes[(uint8_t)word[i]], 1);
    s->symbols[n - 1].next = -1;
    for (size_t i = 0; i + 1 < len; i++)
        push_first(s, b->byte_pairs[(uint8_t)word[i] << 8 | (uint8_t)word[i + 1]], i);
    merge_all(b, s);
    return emit_symbols(s, n, out);
}

static bool all_bytes_known(const tok_bpe *b, const char *word, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (b->bytes[(uint8_t)word[i]] < 0)
            return false;
    }
    return true;
}

status tok_bpe_encode(const tok_bpe *b, const tok_vocab *v, tok_scratch *s, const char *word, size_t len, bool raw_bytes, shard_ids *out)
{
    if (len > INT_MAX / 8)
        return FAIL(ST_LIMIT, "tokenizer: a word of %zu bytes is too long", len);
    bool known = raw_bytes && all_bytes_known(b, word, len);
    s->n_heap = 0;
    bool mapped = raw_bytes && (!known || (b->ignore_merges && len <= v->max_len));
    if (mapped) {
        mem_str_clear(&s->word);
        tok_bytes_to_chars(word, len, &s->word);
        if (s->word.failed)
            return FAIL(ST_NO_MEMORY, "tokenizer: no memory for a word of %zu bytes", len);
    }
    const char *chars = mapped ? s->word.data : word;
    size_t chars_len = mapped ? s->word.len : len;
    if (b->ignore_merges && (!raw_bytes || mapped)) {
        int32_t id = whole_word(v, s, chars, chars_len);
        if (id >= 0)
            return tok_ids_push(out, id);
    }
    return known ? encode_bytes(b, s, word, len, out) : encode_chars(b, v, s, chars, chars_len, out);
}
