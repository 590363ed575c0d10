/* shard/text/tokenizer_split.c - the pre-tokenizers of tokenizer.json: pieces into smaller pieces.
 *
 * A step sees every piece that is not yet a token as a row of ranges, each a match of what it splits at or not; its
 * behaviour says which ranges become pieces, alone or joined.  Empty pieces vanish. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "shard/text/tokenizer_internal.h"
#include "shard/text/tokenizer_unicode.h"

void tok_split_free(tok_split *s)
{
    tok_pattern_free(&s->pattern);
}

status tok_pieces_push(tok_pieces *p, tok_piece piece)
{
    TRY(mem_grow(&p->data, &p->cap, p->n + 1, sizeof(*p->data), "tokenizer: pieces of text"));
    p->data[p->n++] = piece;
    return ST_OK;
}

/* ---- ranges into pieces ---- */

typedef struct splitter {
    tok_work *w;
    tok_behaviour behaviour;
    bool invert;
    tok_piece piece;      /* what is being split */
    size_t done;          /* bytes of it given to ranges */
    bool pending, previous_match;
    size_t from, to;      /* the pending range, within the piece */
} splitter;

static status emit(splitter *s, size_t from, size_t to)
{
    if (from == to)
        return ST_OK;
    size_t zero = s->piece.zero > from ? s->piece.zero - from : 0;
    return tok_pieces_push(&s->w->next, (tok_piece){.offset = s->piece.offset + from, .len = to - from, .zero = zero < to - from ? zero : to - from, .id = -1});
}

static status flush(splitter *s)
{
    if (!s->pending)
        return ST_OK;
    s->pending = false;
    return emit(s, s->from, s->to);
}

/* The next range of the piece. */
static status range(splitter *s, size_t from, size_t to, bool match)
{
    match = match != s->invert;
    bool join = false;
    switch (s->behaviour) {
    case TOK_REMOVED:
        return match ? ST_OK : emit(s, from, to);
    case TOK_ISOLATED:
        return emit(s, from, to);
    case TOK_CONTIGUOUS:
        join = match == s->previous_match && s->pending;
        break;
    case TOK_MERGED_WITH_PREVIOUS:
        join = match && !s->previous_match && s->pending;
        break;
    case TOK_MERGED_WITH_NEXT:
        join = !match && s->previous_match && s->pending;
        break;
    }
    s->previous_match = match;
    if (join) {
        s->to = to;
        return ST_OK;
    }
    TRY(flush(s));
    s->pending = true;
    s->from = from;
    s->to = to;
    return ST_OK;
}

static void begin(splitter *s, const tok_piece *piece)
{
    s->piece = *piece;
    s->done = 0;
    s->pending = s->previous_match = false;
}

static status match(splitter *s, size_t from, size_t to)
{
    if (s->done < from)
        TRY(range(s, s->done, from, false));
    s->done = to;
    return range(s, from, to, true);
}

static status end(splitter *s)
{
    if (s->done < s->piece.len)
        TRY(range(s, s->done, s->piece.len, false));
    return flush(s);
}

static void swap_pieces(tok_work *w)
{
    tok_pieces old = w->pieces;
    w->pieces = w->next;
    w->next = old;
    w->next.n = 0;
}

/* Splits every unfinished piece at the characters that `is` picks. */
static status split_chars(tok_work *w, bool (*is)(uint32_t c, uint32_t arg), uint32_t arg, tok_behaviour behaviour)
{
    splitter s = {.w = w, .behaviour = behaviour};
    for (size_t i = 0; i < w->pieces.n; i++) {
        tok_piece p = w->pieces.data[i];
        if (p.id >= 0) {
            TRY(tok_pieces_push(&w->next, p));
            continue;
        }
        begin(&s, &p);
        for (size_t at = 0; at < p.len;) {
            size_t from = at;
            if (is(tok_utf8_next(w->text.data + p.offset, &at), arg))
                TRY(match(&s, from, at));
        }
        TRY(end(&s));
    }
    swap_pieces(w);
    return ST_OK;
}

static status split_pattern(const tok_pattern *pattern, tok_work *w, tok_behaviour behaviour, bool invert)
{
    splitter s = {.w = w, .behaviour = behaviour, .invert = invert};
    for (size_t i = 0; i < w->pieces.n; i++) {
        tok_piece p = w->pieces.data[i];
        if (p.id >= 0) {
            TRY(tok_pieces_push(&w->next, p));
            continue;
        }
        begin(&s, &p);
        tok_find f = tok_find_start(w->text.data + p.offset, p.len);
        bool found;
        for (;;) {
            TRY(tok_pattern_next(pattern, w->matcher, &f, &found));
            if (!found)
                break;
            TRY(match(&s, f.begin, f.end));
        }
        TRY(end(&s));
    }
    swap_pieces(w);
    return ST_OK;
}

static bool is_space(uint32_t c, uint32_t arg)
{
    (void)arg;
    return tok_is_space(c);
}
static bool is_punctuation(uint32_t c, uint32_t arg)
{
    (void)arg;
    return tok_is_punctuation(c);
}
static bool is_numeric(uint32_t c, uint32_t arg)
{
    (void)arg;
    return tok_is_numeric(c);
}
static bool is_char(uint32_t c, uint32_t arg)
{
    return c == arg;
}

/* ---- steps that change the text ---- */

/* Rewrites every unfinished piece with `write` (which appends its new text and returns how many bytes were put before it). */
typedef size_t (*rewrite_fn)(const tok_split *s, const char *text, const tok_piece *p, mem_str *out);

static status rewrite(const tok_split *s, tok_work *w, rewrite_fn write)
{
    mem_str_clear(&w->spare);
    for (size_t i = 0; i < w->pieces.n; i++) {
        tok_piece *p = &w->pieces.data[i];
        if (p->id >= 0)
            continue;
        size_t at = w->spare.len, added = write(s, w->text.data + p->offset, p, &w->spare);
        size_t len = w->spare.len - at;
        /* The first character may have become longer: its bytes, and what was put before it, are at position zero. */
        size_t grown = p->zero == 0 ? 0 : p->zero == p->len ? len : added + p->zero;
        *p = (tok_piece){.offset = at, .len = len, .zero = grown, .id = -1};
    }
    if (w->spare.failed)
        return FAIL(ST_NO_MEMORY, "tokenizer: no memory for %zu bytes of text", w->text.len);
    mem_str old = w->text;
    w->text = w->spare;
    w->spare = old;
    return ST_OK;
}

static size_t write_metaspace(const tok_split *s, const char *text, const tok_piece *p, mem_str *out)
{
    char mark[4];
    size_t n = tok_utf8_encode(s->character, mark), added = 0;
    bool starts = text[0] == ' ' || (p->len >= n && memcmp(text, mark, n) == 0);
    if (!starts && (s->scheme == TOK_PREPEND_ALWAYS || (s->scheme == TOK_PREPEND_FIRST && p->zero > 0))) {
        mem_str_append(out, mark, n);
        added = n;
    }
    for (size_t i = 0; i < p->len;) {
        const char *space = memchr(text + i, ' ', p->len - i);
        size_t to = space == NULL ? p->len : (size_t)(space - text);
        mem_str_append(out, text + i, to - i);
        if (space != NULL)
            mem_str_append(out, mark, n);
        i = to + 1;
    }
    return added;
}

static size_t write_prefix_space(const tok_split *s, const char *text, const tok_piece *p, mem_str *out)
{
    (void)s;
    size_t added = text[0] == ' ' ? 0 : 1;
    if (added > 0)
        mem_str_putc(out, ' ');
    mem_str_append(out, text, p->len);
    return added;
}

static size_t write_bytes(const tok_split *s, const char *text, const tok_piece *p, mem_str *out)
{
    (void)s;
    tok_bytes_to_chars(text, p->len, out);
    return 0;
}

static status apply_bytes(const tok_split *s, tok_work *w, bool last)
{
    if (s->add_prefix_space)
        TRY(rewrite(s, w, write_prefix_space));
    if (s->split)
        TRY(split_pattern(&s->pattern, w, TOK_ISOLATED, false));
    if (last) {
        w->raw_bytes = true;
        return ST_OK;
    }
    return rewrite(s, w, write_bytes);
}

/* ---- pieces of equal script, and of equal length ---- */

/* 0: none, which never splits (the blank, and what the reference's table lacks). */
static uint32_t script_of(uint32_t c)
{
    size_t low = 0, high = tok_script_of.n;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (c > tok_script_of.at[mid].last)
            low = mid + 1;
        else
            high = mid;
    }
    return low < tok_script_of.n && c >= tok_script_of.at[low].first ? tok_script_of.at[low].script : 0;
}

static status split_scripts(tok_work *w)
{
    splitter out = {.w = w, .behaviour = TOK_ISOLATED};
    for (size_t i = 0; i < w->pieces.n; i++) {
        tok_piece p = w->pieces.data[i];
        if (p.id >= 0) {
            TRY(tok_pieces_push(&w->next, p));
            continue;
        }
        begin(&out, &p);
        uint32_t last = 0;
        size_t start = p.len; /* what comes before the first script belongs to no piece, in the reference too */
        for (size_t at = 0; at < p.len;) {
            size_t from = at;
            uint32_t script = script_of(tok_utf8_next(w->text.data + p.offset, &at));
            if (script == 0 || script == last)
                continue;
            if (last != 0)
                TRY(emit(&out, start, from));
            start = from;
            last = script;
        }
        TRY(emit(&out, start, p.len));
    }
    swap_pieces(w);
    return ST_OK;
}

static status split_fixed(const tok_split *s, tok_work *w)
{
    splitter out = {.w = w, .behaviour = TOK_ISOLATED};
    for (size_t i = 0; i < w->pieces.n; i++) {
        tok_piece p = w->pieces.data[i];
        if (p.id >= 0) {
            TRY(tok_pieces_push(&w->next, p));
            continue;
        }
        begin(&out, &p);
        for (size_t at = 0; at < p.len;) {
            size_t from = at;
            for (size_t k = 0; k < s->length && at < p.len; k++)
                at += tok_utf8_len(w->text.data[p.offset + at]);
            TRY(emit(&out, from, at));
        }
    }
    swap_pieces(w);
    return ST_OK;
}

/* Runs of word characters, and runs of what is neither word nor blank. */
static status split_words(tok_work *w)
{
    splitter out = {.w = w, .behaviour = TOK_ISOLATED};
    enum { BLANK, WORD, REST } kind, last;
    for (size_t i = 0; i < w->pieces.n; i++) {
        tok_piece p = w->pieces.data[i];
        if (p.id >= 0) {
            TRY(tok_pieces_push(&w->next, p));
            continue;
        }
        begin(&out, &p);
        size_t start = 0;
        last = BLANK;
        for (size_t at = 0; at < p.len;) {
            size_t from = at;
            uint32_t c = tok_utf8_next(w->text.data + p.offset, &at);
            kind = tok_is_word(c) ? WORD : tok_is_space(c) ? BLANK : REST;
            if (kind == last)
                continue;
            if (last != BLANK)
                TRY(emit(&out, start, from));
            start = from;
            last = kind;
        }
        if (last != BLANK)
            TRY(emit(&out, start, p.len));
    }
    swap_pieces(w);
    return ST_OK;
}

/* ---- the table of steps ---- */

status tok_split_prepare(tok_split *s, const char *where)
{
    static const char gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    switch (s->kind) {
    case TOK_SPLIT_BYTES:
        return s->split ? tok_regex_compile(where, gpt2, sizeof(gpt2) - 1, &s->pattern.regex) : ST_OK;
    default:
        return ST_OK;
    }
}

status tok_split_apply(const tok_split *s, tok_work *w, bool last)
{
    switch (s->kind) {
    case TOK_SPLIT_BYTES:
        return apply_bytes(s, w, last);
    case TOK_SPLIT_PATTERN:
        return split_pattern(&s->pattern, w, s->behaviour, s->invert);
    case TOK_SPLIT_METASPACE:
        TRY(rewrite(s, w, write_metaspace));
        return s->split ? split_chars(w, is_char, s->character, TOK_MERGED_WITH_NEXT) : ST_OK;
    case TOK_SPLIT_WHITESPACE:
        return split_words(w);
    case TOK_SPLIT_SPACES:
        return split_chars(w, is_space, 0, TOK_REMOVED);
    case TOK_SPLIT_BERT:
        TRY(split_chars(w, is_space, 0, TOK_REMOVED));
        return split_chars(w, is_punctuation, 0, TOK_ISOLATED);
    case TOK_SPLIT_PUNCTUATION:
        return split_chars(w, is_punctuation, 0, s->behaviour);
    case TOK_SPLIT_DIGITS:
        return split_chars(w, is_numeric, 0, s->behaviour);
    case TOK_SPLIT_DELIMITER:
        return split_chars(w, is_char, s->character, TOK_REMOVED);
    case TOK_SPLIT_SCRIPTS:
        return split_scripts(w);
    case TOK_SPLIT_FIXED:
        return split_fixed(s, w);
    }
    return ST_OK;
}
