/* shard/text/tokenizer_decode.c - ids back to text, at once or one by one.
 *
 * The decoders form a chain of stages that pass tokens on in parts: a part says whether it begins and whether it ends its
 * token, so that a stage which fuses all tokens into one need not hold the text back.  Whole decoding runs the same
 * chain and flushes it: what a stream appends over time is therefore what decode appends at once.  The chain ends in
 * text that is cut only between characters, because every stage passes only whole ones. */
#include <stdlib.h>
#include <string.h>

#include "shard/text/tokenizer_internal.h"

typedef struct stage {
    mem_str held;     /* what cannot be passed on yet */
    mem_str made;     /* scratch for what is passed on */
    mem_str last;     /* CTC: the token before */
    mem_str parts;    /* of a token that must be whole and comes in parts */
    bool open;        /* the token that goes out has begun */
    bool started;     /* some token has come in */
    bool has_held;    /* BPE: a whole token is held; CTC: `last` is one */
    size_t count;     /* METASPACE: tokens that ended; STRIP: characters stripped so far */
    bool stripping;   /* STRIP: still at the token's beginning */
} stage;

struct shard_stream {
    const shard_tokenizer *t;
    bool skip_special, any;
    stage *stages;
    tok_matcher *matcher;
    mem_str *out; /* during a call */
};

static status pass(shard_stream *s, size_t at, const char *text, size_t len, bool first, bool last);

static status no_memory(void)
{
    return FAIL(ST_NO_MEMORY, "tokenizer: no memory for decoded text");
}

/* Passes a whole token on. */
static status pass_token(shard_stream *s, size_t at, const char *text, size_t len)
{
    return pass(s, at + 1, len == 0 ? "" : text, len, true, true);
}

static status pass_made(shard_stream *s, size_t at)
{
    const stage *g = &s->stages[at];
    return g->made.failed ? no_memory() : pass_token(s, at, g->made.data, g->made.len);
}

/* ---- stages that need whole tokens ---- */

static int fallback_byte(const char *token, size_t len)
{
    if (len != 6 || memcmp(token, "<0x", 3) != 0 || token[5] != '>')
        return -1;
    int v = 0;
    for (int i = 3; i < 5; i++) {
        char c = token[i];
        int d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (d < 0 && !(c == '+' && i == 3)) /* the reference's number parser takes a sign */
            return -1;
        v = v * 16 + (d < 0 ? 0 : d);
    }
    return v;
}

static status flush_bytes(shard_stream *s, size_t at)
{
    stage *g = &s->stages[at];
    status st = ST_OK;
    if (g->held.len > 0 && tok_utf8_valid(g->held.data, g->held.len)) {
        st = pass_token(s, at, g->held.data, g->held.len);
    } else {
        for (size_t i = 0; i < g->held.len && st == ST_OK; i++)
            st = pass_token(s, at, "\xef\xbf\xbd", 3);
    }
    mem_str_clear(&g->held);
    return st;
}

static status token_fallback(shard_stream *s, size_t at, const char *text, size_t len)
{
    int byte = fallback_byte(text, len);
    if (byte >= 0) {
        mem_str_putc(&s->stages[at].held, (char)byte);
        return s->stages[at].held.failed ? no_memory() : ST_OK;
    }
    TRY(flush_bytes(s, at));
    return pass_token(s, at, text, len);
}

/* out = text with every `from` replaced by `to`. */
static void replace_all(const char *text, size_t len, const char *from, size_t from_len, const char *to, mem_str *out)
{
    size_t done = 0;
    if (from_len == 0) { /* an empty text is found before every character and at the end */
        while (done < len) {
            size_t step = tok_utf8_len(text[done]);
            mem_str_puts(out, to);
            mem_str_append(out, text + done, step);
            done += step;
        }
        mem_str_puts(out, to);
        return;
    }
    for (const char *hit; done < len && (hit = memmem(text + done, len - done, from, from_len)) != NULL;) {
        mem_str_append(out, text + done, (size_t)(hit - text) - done);
        mem_str_puts(out, to);
        done = (size_t)(hit - text) + from_len;
    }
    mem_str_append(out, text + done, len - done);
}

static void replace_in_place(mem_str *s, const char *from, size_t from_len, const char *to)
{
    mem_str out = {0};
    replace_all(s->len == 0 ? "" : s->data, s->len, from, from_len, to, &out);
    mem_str_free(s);
    *s = out;
}

/* Blanks before punctuation and in English short forms. */
static void clean_up(mem_str *s)
{
    static const char *const pairs[][2] = {{" .", "."}, {" ?", "?"}, {" !", "!"}, {" ,", ","}, {" ' ", "'"}, {" n't", "n't"}, {" 'm", "'m"},
                                           {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    if (s->len == 0 || memchr(s->data, ' ', s->len) == NULL)
        return; /* all of them begin with a blank */
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++)
        replace_in_place(s, pairs[i][0], strlen(pairs[i][0]), pairs[i][1]);
}

static status token_wordpiece(const tok_dec *d, shard_stream *s, size_t at, const char *text, size_t len)
{
    stage *g = &s->stages[at];
    mem_str_clear(&g->made);
    if (g->started) {
        if (len >= d->prefix.len && memcmp(text, d->prefix.data, d->prefix.len) == 0) {
            text += d->prefix.len;
            len -= d->prefix.len;
        } else {
            mem_str_putc(&g->made, ' ');
        }
    }
    g->started = true;
    mem_str_append(&g->made, text, len);
    if (d->cleanup)
        clean_up(&g->made);
    return pass_made(s, at);
}

static status flush_bpe(const tok_dec *d, shard_stream *s, size_t at, bool final)
{
    stage *g = &s->stages[at];
    if (!g->has_held)
        return ST_OK;
    mem_str_clear(&g->made);
    replace_all(g->held.len == 0 ? "" : g->held.data, g->held.len, d->prefix.data, d->prefix.len, final ? "" : " ", &g->made);
    return pass_made(s, at);
}

/* The suffix becomes a blank, but in the last token nothing: so one token is always held back. */
static status token_bpe(const tok_dec *d, shard_stream *s, size_t at, const char *text, size_t len)
{
    stage *g = &s->stages[at];
    TRY(flush_bpe(d, s, at, false));
    mem_str_clear(&g->held);
    mem_str_append(&g->held, text, len);
    g->has_held = true;
    return g->held.failed ? no_memory() : ST_OK;
}

static status token_ctc(const tok_dec *d, shard_stream *s, size_t at, const char *text, size_t len)
{
    stage *g = &s->stages[at];
    if (g->has_held && g->last.len == len && memcmp(g->last.data, text, len) == 0)
        return ST_OK;
    g->has_held = true;
    mem_str_clear(&g->last);
    mem_str_append(&g->last, text, len);
    mem_str_clear(&g->made);
    replace_all(text, len, d->prefix.data, d->prefix.len, "", &g->made);
    if (d->cleanup) {
        clean_up(&g->made);
        replace_in_place(&g->made, d->delimiter.data, d->delimiter.len, " ");
    }
    if (g->last.failed || g->made.failed)
        return no_memory();
    return g->made.len == 0 ? ST_OK : pass_made(s, at);
}

static status token_replace(const tok_dec *d, shard_stream *s, size_t at, const char *text, size_t len)
{
    stage *g = &s->stages[at];
    tok_find f = tok_find_start(text, len);
    size_t done = 0;
    bool found = false;
    mem_str_clear(&g->made);
    while (len > 0) {
        TRY(tok_pattern_next(&d->pattern, s->matcher, &f, &found));
        if (!found)
            break;
        mem_str_append(&g->made, text + done, f.begin - done);
        mem_str_append(&g->made, d->content.data, d->content.len);
        done = f.end;
        if (g->made.failed)
            return no_memory();
    }
    mem_str_append(&g->made, text + done, len - done);
    return pass_made(s, at);
}

static status whole_token(const tok_dec *d, shard_stream *s, size_t at, const char *text, size_t len)
{
    switch (d->kind) {
    case TOK_DEC_FALLBACK:
        return token_fallback(s, at, text, len);
    case TOK_DEC_WORDPIECE:
        return token_wordpiece(d, s, at, text, len);
    case TOK_DEC_BPE:
        return token_bpe(d, s, at, text, len);
    case TOK_DEC_CTC:
        return token_ctc(d, s, at, text, len);
    default:
        return token_replace(d, s, at, text, len);
    }
}

/* Gathers a token that comes in parts (behind a stage that fuses). */
static status gather(const tok_dec *d, shard_stream *s, size_t at, const char *text, size_t len, bool first, bool last)
{
    stage *g = &s->stages[at];
    if (first && last)
        return whole_token(d, s, at, text, len);
    mem_str_append(&g->parts, text, len);
    if (g->parts.failed)
        return no_memory();
    if (!last)
        return ST_OK;
    mem_str whole = g->parts;
    g->parts = (mem_str){0};
    status st = whole_token(d, s, at, whole.len == 0 ? "" : whole.data, whole.len);
    mem_str_free(&whole);
    return st;
}

/* ---- stages that work on parts ---- */

static void drop_front(mem_str *s, size_t n)
{
    if (n < s->len)
        memmove(s->data, s->data + n, s->len - n);
    s->len -= n;
}

/* Bytes so far into text: whole characters, broken runs as U+FFFD, an open end held unless this is the last. */
static status pass_repaired(shard_stream *s, size_t at, bool final)
{
    stage *g = &s->stages[at];
    size_t keep = g->held.len;
    mem_str_clear(&g->made);
    for (size_t i = 0; i < g->held.len && !final;) {
        bool valid, open;
        size_t step = tok_utf8_scan(g->held.data + i, g->held.len - i, &valid, &open);
        if (open) {
            keep = i;
            break;
        }
        i += step;
    }
    tok_utf8_repair(g->held.len == 0 ? "" : g->held.data, keep, &g->made);
    if (g->made.failed || g->held.failed)
        return no_memory();
    drop_front(&g->held, keep);
    bool first = !g->open;
    g->open = true;
    return g->made.len == 0 && !first && !final ? ST_OK : pass(s, at + 1, g->made.len == 0 ? "" : g->made.data, g->made.len, first, final);
}

static status part_bytes(shard_stream *s, size_t at, const char *text, size_t len, bool first, bool last)
{
    stage *g = &s->stages[at];
    if (!(first && last)) {
        mem_str_append(&g->parts, text, len);
        if (g->parts.failed)
            return no_memory();
        if (!last)
            return ST_OK;
        text = g->parts.len == 0 ? "" : g->parts.data;
        len = g->parts.len;
    }
    /* A token that holds anything else than byte characters is taken as it is. */
    size_t from = g->held.len;
    for (size_t i = 0; i < len;) {
        int byte = tok_char_byte(tok_utf8_next(text, &i));
        if (byte < 0) {
            g->held.len = from;
            mem_str_append(&g->held, text, len);
            break;
        }
        mem_str_putc(&g->held, (char)byte);
    }
    mem_str_clear(&g->parts);
    if (g->held.failed)
        return no_memory();
    return pass_repaired(s, at, false);
}

static status part_fuse(shard_stream *s, size_t at, const char *text, size_t len)
{
    bool first = !s->stages[at].open;
    s->stages[at].open = true;
    return pass(s, at + 1, text, len, first, false);
}

static status part_metaspace(const tok_dec *d, shard_stream *s, size_t at, const char *text, size_t len, bool first, bool last)
{
    stage *g = &s->stages[at];
    mem_str_clear(&g->made);
    for (size_t i = 0; i < len;) {
        uint32_t c = tok_utf8_next(text, &i);
        if (c != d->character)
            tok_utf8_push(&g->made, c);
        else if (g->count > 0 || d->scheme == TOK_PREPEND_NEVER)
            mem_str_putc(&g->made, ' ');
    }
    if (last)
        g->count++;
    return g->made.failed ? no_memory() : pass(s, at + 1, g->made.len == 0 ? "" : g->made.data, g->made.len, first, last);
}

/* Strips up to `start` of the character from a token's beginning and up to `stop` from its end; held back are the last
 * characters that the end may yet claim. */
static status part_strip(const tok_dec *d, shard_stream *s, size_t at, const char *text, size_t len, bool first, bool last)
{
    stage *g = &s->stages[at];
    if (first) {
        g->count = 0;
        g->stripping = true;
    }
    size_t i = 0;
    while (i < len && g->stripping) {
        size_t next = i;
        if (g->count >= d->start || tok_utf8_next(text, &next) != d->character) {
            g->stripping = false;
            break;
        }
        g->count++;
        i = next;
    }
    mem_str_append(&g->held, text + i, len - i);
    /* The longest tail of the character, at most `stop` of them. */
    size_t tail = g->held.len;
    for (size_t n = 0; n < d->stop && tail > 0; n++) {
        size_t from = tail - 1, pos;
        while (from > 0 && ((unsigned char)g->held.data[from] & 0xc0) == 0x80)
            from--;
        pos = from;
        if (tok_utf8_next(g->held.data, &pos) != d->character)
            break;
        tail = from;
    }
    mem_str_clear(&g->made);
    mem_str_append(&g->made, g->held.len == 0 ? "" : g->held.data, tail);
    if (g->held.failed || g->made.failed)
        return no_memory();
    if (last) {
        mem_str_clear(&g->held);
    } else {
        drop_front(&g->held, tail);
    }
    return pass(s, at + 1, g->made.len == 0 ? "" : g->made.data, g->made.len, first, last);
}

/* ---- the chain ---- */

/* Gives a part of a token to stage `at`; behind the last stage it is text. */
static status pass(shard_stream *s, size_t at, const char *text, size_t len, bool first, bool last)
{
    if (at == s->t->n_decs) {
        mem_str_append(s->out, text, len);
        return s->out->failed ? FAIL(ST_LIMIT, "tokenizer: decoded text exceeds memory or its limit") : ST_OK;
    }
    const tok_dec *d = &s->t->decs[at];
    switch (d->kind) {
    case TOK_DEC_BYTES:
        return part_bytes(s, at, text, len, first, last);
    case TOK_DEC_FUSE:
        return part_fuse(s, at, text, len);
    case TOK_DEC_METASPACE:
        return part_metaspace(d, s, at, text, len, first, last);
    case TOK_DEC_STRIP:
        return part_strip(d, s, at, text, len, first, last);
    default:
        return gather(d, s, at, text, len, first, last);
    }
}

/* No more tokens come: each stage in turn gives what it holds. */
static status flush_stage(shard_stream *s, size_t at)
{
    const tok_dec *d = &s->t->decs[at];
    switch (d->kind) {
    case TOK_DEC_BYTES:
        return pass_repaired(s, at, true);
    case TOK_DEC_FUSE: {
        bool first = !s->stages[at].open;
        return pass(s, at + 1, "", 0, first, true);
    }
    case TOK_DEC_FALLBACK:
        return flush_bytes(s, at);
    case TOK_DEC_BPE:
        return flush_bpe(d, s, at, true);
    default:
        return ST_OK;
    }
}

static void reset(shard_stream *s)
{
    for (size_t i = 0; i < s->t->n_decs; i++) {
        stage *g = &s->stages[i];
        mem_str_free(&g->held);
        mem_str_free(&g->made);
        mem_str_free(&g->last);
        mem_str_free(&g->parts);
        *g = (stage){0};
    }
    s->any = false;
}

status shard_stream_create(const shard_tokenizer *t, bool skip_special, shard_stream **out)
{
    shard_stream *s;
    TRY(mem_calloc(1, sizeof(*s), "tokenizer: stream", &s));
    s->t = t;
    s->skip_special = skip_special;
    bool patterns = false;
    for (size_t i = 0; i < t->n_decs; i++)
        patterns = patterns || t->decs[i].pattern.regex != NULL;
    status st = mem_calloc(t->n_decs + 1, sizeof(*s->stages), "tokenizer: decoders", &s->stages);
    if (st == ST_OK && patterns)
        st = tok_matcher_create((size_t)64 << 20, true, &s->matcher);
    if (st != ST_OK)
        shard_stream_destroy(&s);
    else
        *out = s;
    return st;
}

void shard_stream_destroy(shard_stream **sp)
{
    shard_stream *s = *sp;
    if (s == NULL)
        return;
    if (s->stages != NULL)
        reset(s);
    free(s->stages);
    tok_matcher_destroy(&s->matcher);
    free(s);
    *sp = NULL;
}

status shard_stream_push(shard_stream *s, int32_t id, mem_str *out)
{
    size_t len;
    const char *token = tok_decode_token(s->t, id, &len);
    if (token == NULL || (s->skip_special && s->t->special[id]))
        return ST_OK;
    s->out = out;
    if (!s->t->has_decoder && s->any)
        mem_str_putc(out, ' ');
    s->any = true;
    return pass(s, 0, token, len, true, true);
}

status shard_stream_flush(shard_stream *s, mem_str *out)
{
    s->out = out;
    status st = ST_OK;
    for (size_t i = 0; i < s->t->n_decs && st == ST_OK; i++)
        st = flush_stage(s, i);
    reset(s);
    return st;
}

status shard_tokenizer_decode(const shard_tokenizer *t, const int32_t *ids, size_t n, bool skip_special, mem_str *out)
{
    shard_stream *s;
    TRY(shard_stream_create(t, skip_special, &s));
    status st = ST_OK;
    for (size_t i = 0; i < n && st == ST_OK; i++)
        st = shard_stream_push(s, ids[i], out);
    if (st == ST_OK)
        st = shard_stream_flush(s, out);
    shard_stream_destroy(&s);
    return st;
}

/* ---- one token ---- */

/* What a decoder makes of one token's bytes, whatever stands before and after. */
static void decode_alone(const tok_dec *d, mem_str *b, mem_str *spare)
{
    const char *s = b->data == NULL ? "" : b->data;
    char character[4];
    int byte;
    mem_str_clear(spare);
    switch (d->kind) {
    case TOK_DEC_BYTES:
        for (size_t i = 0; i < b->len;) {
            byte = tok_char_byte(tok_utf8_next(s, &i));
            if (byte < 0)
                return;
            mem_str_putc(spare, (char)byte);
        }
        break;
    case TOK_DEC_FALLBACK:
        byte = fallback_byte(s, b->len);
        if (byte < 0)
            return;
        mem_str_putc(spare, (char)byte);
        break;
    case TOK_DEC_METASPACE:
        replace_all(s, b->len, character, tok_utf8_encode(d->character, character), " ", spare);
        break;
    case TOK_DEC_REPLACE:
        if (d->pattern.regex != NULL)
            return;
        replace_all(s, b->len, d->pattern.literal.data, d->pattern.literal.len, d->content.data, spare);
        break;
    case TOK_DEC_WORDPIECE:
        if (b->len >= d->prefix.len && memcmp(s, d->prefix.data, d->prefix.len) == 0)
            mem_str_append(spare, s + d->prefix.len, b->len - d->prefix.len);
        else
            mem_str_printf(spare, " %s", s);
        break;
    case TOK_DEC_BPE:
        replace_all(s, b->len, d->prefix.data, d->prefix.len, " ", spare);
        break;
    default:
        return;
    }
    mem_str old = *b;
    *b = *spare;
    *spare = old;
}

status shard_tokenizer_token_bytes(const shard_tokenizer *t, int32_t id, mem_str *out)
{
    size_t len;
    const char *s = shard_tokenizer_token(t, id, &len);
    mem_str bytes = {0}, spare = {0};
    if (s == NULL)
        return ST_OK;
    mem_str_append(&bytes, s, len);
    for (size_t i = 0; i < t->n_decs && t->added_by_id[id] == 0 && !bytes.failed; i++)
        decode_alone(&t->decs[i], &bytes, &spare);
    mem_str_append(out, bytes.data, bytes.len);
    bool failed = bytes.failed || spare.failed || out->failed;
    mem_str_free(&bytes);
    mem_str_free(&spare);
    return failed ? no_memory() : ST_OK;
}
