/* shard/text/tokenizer_gguf.c - a tokenizer from the vocabulary in a GGUF file's metadata.
 *
 * The metadata names a kind (tokenizer.ggml.model) and, for byte-level BPE, a splitting rule (tokenizer.ggml.pre); what
 * the checkpoint's own tokenizer.json said beyond that is put back here: normalisers, decoders, merges. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "shard/text/tokenizer_internal.h"
#include "shard/text/tokenizer_pre.h"

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER = 4, TYPE_UNUSED = 5, TYPE_BYTE = 6 };

#define LOWER_BLOCK "\xe2\x96\x81" /* U+2581, SentencePiece's blank */

static int32_t type_of(const shard_vocab *v, int32_t i)
{
    return v->types == NULL ? TYPE_NORMAL : v->types[i];
}

static bool is_special_type(int32_t type)
{
    return type == TYPE_CONTROL || type == TYPE_UNKNOWN;
}

/* Adds token i in the given spelling; broken UTF-8 is repaired, since text never holds it. */
static status add_spelled(shard_tokenizer *t, const char *s, size_t len, int32_t id)
{
    if (tok_utf8_valid(s, len))
        return tok_vocab_add(&t->vocab, t->where, s, len, id);
    mem_str fixed = {0};
    tok_utf8_repair(s, len, &fixed);
    status st = fixed.failed ? FAIL(ST_NO_MEMORY, "tokenizer: no memory for a token") : tok_vocab_add(&t->vocab, t->where, fixed.data, fixed.len, id);
    mem_str_free(&fixed);
    return st;
}

/* Registers control and user-defined tokens: they are recognised in text.  The file keeps none of their other flags. */
static status add_marked_tokens(shard_tokenizer *t, const shard_vocab *v, bool skip_blanks)
{
    for (int32_t i = 0; i < v->n_tokens; i++) {
        int32_t type = type_of(v, i);
        if (!is_special_type(type) && type != TYPE_USER)
            continue;
        /* A run of blanks that was respelled is reached by merges. */
        if (skip_blanks && type == TYPE_USER && tok_vocab_find(&t->vocab, v->tokens[i], v->token_lens[i]) < 0)
            continue;
        tok_added_token k = {.content = {(char *)v->tokens[i], v->token_lens[i]}, .special = is_special_type(type)};
        if (k.content.len > 0 && tok_utf8_valid(k.content.data, k.content.len))
            TRY(tok_add_token(t, &k));
    }
    return ST_OK;
}

static status add_bos_eos(shard_tokenizer *t, const shard_vocab *v, bool bos, bool eos)
{
    if (v->add_bos >= 0)
        bos = v->add_bos != 0;
    if (v->add_eos >= 0)
        eos = v->add_eos != 0;
    if (bos && v->bos >= 0)
        TRY(tok_post_push(t, v->bos));
    TRY(tok_post_push(t, TOK_POST_SEQUENCE));
    return eos && v->eos >= 0 ? tok_post_push(t, v->eos) : ST_OK;
}

static status add_replace(shard_tokenizer *t, const char *from, const char *to)
{
    tok_norm *n;
    TRY(tok_add_norm(t, TOK_NORM_REPLACE, &n));
    TRY(tok_string_copy(from, strlen(from), &n->pattern.literal));
    return tok_string_copy(to, strlen(to), &n->content);
}

/* ---- merges ---- */

static status add_merge(shard_tokenizer *t, const char *left, size_t left_len, const char *right, size_t right_len, uint32_t rank, mem_str *joined)
{
    int32_t l = tok_vocab_find(&t->vocab, left, left_len), r = tok_vocab_find(&t->vocab, right, right_len);
    mem_str_clear(joined);
    mem_str_append(joined, left, left_len);
    mem_str_append(joined, right, right_len);
    if (joined->failed)
        return FAIL(ST_NO_MEMORY, "tokenizer: no memory for a merge");
    int32_t m = tok_vocab_find(&t->vocab, joined->data, joined->len);
    /* A merge of tokens that do not exist can never apply. */
    return l < 0 || r < 0 || m < 0 ? ST_OK : tok_bpe_add_merge(&t->bpe, l, r, rank, m);
}

static status listed_merges(shard_tokenizer *t, const shard_vocab *v)
{
    mem_str joined = {0};
    status st = tok_bpe_init(&t->bpe, (size_t)v->n_merges + 1);
    for (int32_t i = 0; i < v->n_merges && st == ST_OK; i++) {
        const char *m = v->merges[i];
        size_t len = v->merge_lens[i];
        /* The blank between; a merge may begin with one. */
        const char *blank = len < 3 ? NULL : memchr(m + 1, ' ', len - 1);
        if (blank == NULL || blank + 1 == m + len)
            st = FAIL(ST_FORMAT, "%s: tokenizer.ggml.merges[%d] must be two tokens with one blank between", t->where, i);
        else
            st = add_merge(t, m, (size_t)(blank - m), blank + 1, len - (size_t)(blank + 1 - m), (uint32_t)i, &joined);
    }
    mem_str_free(&joined);
    return st;
}

/* SentencePiece's BPE has scores, not merges: every way to cut a token in two is a merge, ranked by the token's score,
 * then by the length of its parts. */
typedef struct implied_merge {
    float score;
    uint32_t left_chars, right_chars, order;
    int32_t left, right, merged;
} implied_merge;

static int by_rank(const void *a, const void *b)
{
    const implied_merge *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    if (x->left_chars != y->left_chars)
        return x->left_chars > y->left_chars ? -1 : 1;
    if (x->right_chars != y->right_chars)
        return x->right_chars > y->right_chars ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

typedef struct implied_list {
    implied_merge *data;
    size_t n, cap;
} implied_list;

static status push_implied(implied_list *list, implied_merge m)
{
    if (list->n == TOK_MAX_TOKENS * (size_t)2)
        return FAIL(ST_LIMIT, "tokenizer: more than %zu merges", list->n);
    TRY(mem_grow(&list->data, &list->cap, list->n + 1, sizeof(*list->data), "tokenizer: merges"));
    m.order = (uint32_t)list->n;
    list->data[list->n++] = m;
    return ST_OK;
}

static bool may_merge(const shard_vocab *v, int32_t id)
{
    return id >= 0 && (type_of(v, id) == TYPE_NORMAL || type_of(v, id) == TYPE_USER);
}

static status imply_merges_of(const shard_tokenizer *t, const shard_vocab *v, int32_t id, float score, implied_list *list)
{
    size_t len;
    const char *token = tok_vocab_token(&t->vocab, id, &len);
    if (token == NULL || len > 1024) /* no real token is that long, and the cost is quadratic */
        return ST_OK;
    uint32_t n_chars = 0, left_chars = 0;
    for (size_t i = 0; i < len; i += tok_utf8_len(token[i]))
        n_chars++;
    for (size_t cut = 0; cut < len;) {
        cut += tok_utf8_len(token[cut]);
        left_chars++;
        if (cut >= len)
            break;
        int32_t left = tok_vocab_find(&t->vocab, token, cut), right = tok_vocab_find(&t->vocab, token + cut, len - cut);
        if (may_merge(v, left) && may_merge(v, right))
            TRY(push_implied(list, (implied_merge){.score = score, .left_chars = left_chars, .right_chars = n_chars - left_chars,
                                                   .left = left, .right = right, .merged = id}));
    }
    return ST_OK;
}

static status implied_merges(shard_tokenizer *t, const shard_vocab *v, bool by_position)
{
    implied_list list = {0};
    status st = ST_OK;
    if (!by_position && v->scores == NULL)
        return FAIL(ST_FORMAT, "%s: neither tokenizer.ggml.merges nor tokenizer.ggml.scores: the vocabulary cannot be used", t->where);
    for (int32_t i = 0; i < v->n_tokens && st == ST_OK; i++) {
        if (may_merge(v, i))
            st = imply_merges_of(t, v, i, by_position ? -(float)i : v->scores[i], &list);
    }
    if (st == ST_OK) {
        if (list.n > 0)
            qsort(list.data, list.n, sizeof(*list.data), by_rank);
        st = tok_bpe_init(&t->bpe, list.n + 1);
    }
    for (size_t i = 0; i < list.n && st == ST_OK; i++)
        st = tok_bpe_add_merge(&t->bpe, list.data[i].left, list.data[i].right, (uint32_t)i, list.data[i].merged);
    free(list.data);
    return st;
}

/* ---- byte-level BPE ---- */

static status add_pre(shard_tokenizer *t, const tok_pre *pre)
{
    static const struct { const char *step; tok_split_kind kind; tok_behaviour behaviour; } named[] = {
        {TOK_PRE_GPT2, TOK_SPLIT_BYTES, TOK_ISOLATED},
        {TOK_PRE_DIGITS, TOK_SPLIT_DIGITS, TOK_ISOLATED},
        {TOK_PRE_DIGIT_RUNS, TOK_SPLIT_DIGITS, TOK_CONTIGUOUS},
        {TOK_PRE_PUNCTUATION, TOK_SPLIT_PUNCTUATION, TOK_CONTIGUOUS},
    };
    for (size_t i = 0; i < TOK_PRE_STEPS && pre->steps[i] != NULL; i++) {
        tok_split *s;
        size_t k = 0;
        while (k < ARRAY_LEN(named) && strcmp(named[k].step, pre->steps[i]) != 0)
            k++;
        bool pattern = k == ARRAY_LEN(named);
        TRY(tok_add_split(t, pattern ? TOK_SPLIT_PATTERN : named[k].kind, &s));
        s->behaviour = pattern ? TOK_ISOLATED : named[k].behaviour;
        s->split = !pattern;
        TRY(pattern ? tok_regex_compile(t->where, pre->steps[i], strlen(pre->steps[i]), &s->pattern.regex) : tok_split_prepare(s, t->where));
    }
    for (size_t i = 0; i < t->n_splits; i++) {
        if (t->splits[i].kind == TOK_SPLIT_BYTES)
            return ST_OK; /* bytes have become characters before the last steps */
    }
    tok_split *s;
    return tok_add_split(t, TOK_SPLIT_BYTES, &s);
}

static bool in_byte_alphabet(const char *s, size_t len)
{
    if (!tok_utf8_valid(s, len))
        return false;
    for (size_t i = 0; i < len;) {
        if (tok_char_byte(tok_utf8_next(s, &i)) < 0)
            return false;
    }
    return true;
}

static status build_byte_level(shard_tokenizer *t, const shard_vocab *v)
{
    const tok_pre *pre = tok_pre_find(v->pre == NULL ? "default" : v->pre);
    if (pre == NULL)
        return FAIL(ST_UNSUPPORTED, "%s: tokenizer.ggml.pre \"%s\" is not known: its splitting rule is needed to get the same tokens", t->where, v->pre);
    if (v->pre == NULL)
        log_warn("%s: tokenizer.ggml.pre is missing: splitting by the default rule, which may differ from the model's", t->where);
    t->model = TOK_BPE;
    mem_str spelled = {0};
    for (int32_t i = 0; i < v->n_tokens; i++) {
        const char *s = v->tokens[i];
        size_t len = v->token_lens[i];
        int32_t type = type_of(v, i);
        mem_str_clear(&spelled);
        if (!is_special_type(type) && type != TYPE_USER && !in_byte_alphabet(s, len)) {
            tok_bytes_to_chars(s, len, &spelled);
            s = spelled.data;
            len = spelled.len;
        }
        status st = spelled.failed ? FAIL(ST_NO_MEMORY, "tokenizer: no memory for a token") : add_spelled(t, s, len, i);
        if (st != ST_OK) {
            mem_str_free(&spelled);
            return st;
        }
    }
    mem_str_free(&spelled);
    TRY(tok_vocab_finish(&t->vocab, t->where));
    t->bpe.ignore_merges = pre->ignore_merges;
    t->bpe.unk = -1;
    TRY(listed_merges(t, v));
    TRY(tok_bpe_prepare(&t->bpe, &t->vocab));
    tok_norm *n;
    tok_dec *d;
    if (pre->nfc)
        TRY(tok_add_norm(t, TOK_NORM_NFC, &n));
    TRY(add_pre(t, pre));
    TRY(tok_add_dec(t, TOK_DEC_BYTES, &d));
    TRY(add_bos_eos(t, v, pre->add_bos, pre->add_eos));
    return add_marked_tokens(t, v, false);
}

/* ---- SentencePiece BPE ---- */

static bool is_blank_run(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (s[i] != ' ')
            return false;
    }
    return len > 0;
}

/* Gemma's files spell runs of blanks with real ones, and its scores do not follow the order of its merges: there the
 * order of the tokens does. */
static bool has_blank_runs(const shard_vocab *v)
{
    for (int32_t i = 0; i < v->n_tokens; i++) {
        if (v->token_lens[i] > 1 && is_blank_run(v->tokens[i], v->token_lens[i]))
            return true;
    }
    return false;
}

static status add_sentencepiece_tokens(shard_tokenizer *t, const shard_vocab *v)
{
    mem_str spelled = {0};
    status st = ST_OK;
    for (int32_t i = 0; i < v->n_tokens && st == ST_OK; i++) {
        if (!is_blank_run(v->tokens[i], v->token_lens[i])) {
            st = add_spelled(t, v->tokens[i], v->token_lens[i], i);
            continue;
        }
        mem_str_clear(&spelled);
        for (size_t k = 0; k < v->token_lens[i]; k++)
            mem_str_puts(&spelled, LOWER_BLOCK);
        st = spelled.failed ? FAIL(ST_NO_MEMORY, "tokenizer: no memory for a token") : tok_vocab_add(&t->vocab, t->where, spelled.data, spelled.len, i);
    }
    mem_str_free(&spelled);
    return st == ST_OK ? tok_vocab_finish(&t->vocab, t->where) : st;
}

static status add_sentencepiece_decoders(shard_tokenizer *t, bool prefix)
{
    tok_dec *d;
    TRY(tok_add_dec(t, TOK_DEC_REPLACE, &d));
    TRY(tok_string_copy(LOWER_BLOCK, 3, &d->pattern.literal));
    TRY(tok_string_copy(" ", 1, &d->content));
    TRY(tok_add_dec(t, TOK_DEC_FALLBACK, &d));
    TRY(tok_add_dec(t, TOK_DEC_FUSE, &d));
    if (!prefix)
        return ST_OK;
    TRY(tok_add_dec(t, TOK_DEC_STRIP, &d));
    d->character = ' ';
    d->start = 1;
    return ST_OK;
}

static status build_sentencepiece(shard_tokenizer *t, const shard_vocab *v)
{
    bool gemma = has_blank_runs(v), prefix = v->add_space_prefix != 0 && strcmp(v->model, "gemma4") != 0;
    t->model = TOK_BPE;
    TRY(add_sentencepiece_tokens(t, v));
    t->bpe.byte_fallback = t->bpe.fuse_unk = t->bpe.has_unk = true;
    t->bpe.unk = v->unk >= 0 && v->unk < v->n_tokens ? v->unk : tok_vocab_find(&t->vocab, "<unk>", 5);
    TRY(v->n_merges > 0 ? listed_merges(t, v) : implied_merges(t, v, gemma));
    TRY(tok_bpe_prepare(&t->bpe, &t->vocab));
    tok_norm *n;
    if (prefix) {
        TRY(tok_add_norm(t, TOK_NORM_PREPEND, &n));
        TRY(tok_string_copy(LOWER_BLOCK, 3, &n->content));
    }
    TRY(add_replace(t, " ", LOWER_BLOCK));
    TRY(add_sentencepiece_decoders(t, prefix));
    /* Gemma 4's flag is set, but its template writes <bos> itself and its tokenizer adds none. */
    TRY(strcmp(v->model, "gemma4") == 0 ? tok_post_push(t, TOK_POST_SEQUENCE) : add_bos_eos(t, v, true, false));
    return add_marked_tokens(t, v, true);
}

/* ---- WordPiece ---- */

/* In the file a word's first token begins with U+2581 and a continuing one with nothing. */
static status add_wordpiece_tokens(shard_tokenizer *t, const shard_vocab *v, bool *cased)
{
    mem_str spelled = {0};
    status st = ST_OK;
    int upper = 0;
    for (int32_t i = 0; i < v->n_tokens && st == ST_OK; i++) {
        const char *s = v->tokens[i];
        size_t len = v->token_lens[i];
        if (is_special_type(type_of(v, i))) {
            st = add_spelled(t, s, len, i);
            continue;
        }
        bool first = len >= 3 && memcmp(s, LOWER_BLOCK, 3) == 0;
        mem_str_clear(&spelled);
        mem_str_puts(&spelled, first ? "" : "##");
        mem_str_append(&spelled, s + (first ? 3 : 0), len - (first ? 3 : 0));
        for (size_t k = 0; k < spelled.len && first; k++)
            upper += spelled.data[k] >= 'A' && spelled.data[k] <= 'Z' && spelled.data[0] != '[';
        st = spelled.failed ? FAIL(ST_NO_MEMORY, "tokenizer: no memory for a token") : add_spelled(t, spelled.data, spelled.len, i);
    }
    *cased = upper > 100; /* nothing else in the file says whether the model tells cases apart */
    mem_str_free(&spelled);
    return st == ST_OK ? tok_vocab_finish(&t->vocab, t->where) : st;
}

static status build_wordpiece(shard_tokenizer *t, const shard_vocab *v)
{
    bool cased;
    t->model = TOK_WORDPIECE;
    TRY(add_wordpiece_tokens(t, v, &cased));
    t->wordpiece.unk = v->unk >= 0 ? v->unk : tok_vocab_find(&t->vocab, "[UNK]", 5);
    t->wordpiece.max_chars = 100;
    TRY(tok_wordpiece_prepare(&t->wordpiece, &t->vocab, "##", 2));
    tok_norm *n;
    TRY(tok_add_norm(t, TOK_NORM_BERT, &n));
    n->clean = n->chinese = true;
    n->lowercase = n->strip_accents = !cased;
    tok_split *s;
    TRY(tok_add_split(t, TOK_SPLIT_BERT, &s));
    tok_dec *d;
    TRY(tok_add_dec(t, TOK_DEC_WORDPIECE, &d));
    TRY(tok_string_copy("##", 2, &d->prefix));
    d->cleanup = true;
    int32_t first = v->cls >= 0 ? v->cls : v->bos, last = v->sep >= 0 ? v->sep : v->eos;
    if (first >= 0 && v->add_bos != 0)
        TRY(tok_post_push(t, first));
    TRY(tok_post_push(t, TOK_POST_SEQUENCE));
    if (last >= 0 && v->add_eos != 0)
        TRY(tok_post_push(t, last));
    return add_marked_tokens(t, v, false);
}

/* ---- Unigram ---- */

static status build_unigram(shard_tokenizer *t, const shard_vocab *v)
{
    if (v->scores == NULL)
        return FAIL(ST_FORMAT, "%s: tokenizer.ggml.scores is missing: a Unigram vocabulary needs it", t->where);
    t->model = TOK_UNIGRAM;
    t->vocab.keep_duplicates = true;
    TRY(mem_calloc((size_t)v->n_tokens + 1, sizeof(*t->unigram.scores), "tokenizer: scores", &t->unigram.scores));
    for (int32_t i = 0; i < v->n_tokens; i++) {
        t->unigram.scores[i] = v->scores[i];
        t->unigram.byte_fallback = t->unigram.byte_fallback || type_of(v, i) == TYPE_BYTE;
        TRY(add_spelled(t, v->tokens[i], v->token_lens[i], i));
    }
    TRY(tok_vocab_finish(&t->vocab, t->where));
    t->unigram.unk = v->unk >= 0 && v->unk < v->n_tokens ? v->unk : tok_vocab_find(&t->vocab, "<unk>", 5);
    TRY(tok_unigram_prepare(&t->unigram, &t->vocab));
    tok_norm *n;
    if (v->precompiled_charsmap != NULL && v->charsmap_len > 0) {
        TRY(tok_add_norm(t, TOK_NORM_CHARSMAP, &n));
        TRY(tok_charsmap_create(t->where, v->precompiled_charsmap, v->charsmap_len, &n->charsmap));
    }
    tok_split *s;
    if (v->remove_extra_whitespaces != 0)
        TRY(tok_add_split(t, TOK_SPLIT_SPACES, &s));
    TRY(tok_add_split(t, TOK_SPLIT_METASPACE, &s));
    s->character = 0x2581;
    s->scheme = v->add_space_prefix == 0 ? TOK_PREPEND_NEVER : TOK_PREPEND_ALWAYS;
    s->split = true;
    tok_dec *d;
    TRY(tok_add_dec(t, TOK_DEC_METASPACE, &d));
    d->character = 0x2581;
    d->scheme = s->scheme;
    TRY(add_bos_eos(t, v, false, true));
    return add_marked_tokens(t, v, false);
}

static status check_vocab(const char *where, const shard_vocab *v)
{
    if (v->model == NULL)
        return FAIL(ST_NOT_FOUND, "%s: tokenizer.ggml.model is missing: the file holds no tokenizer", where);
    if (v->n_tokens <= 0 || v->n_tokens > TOK_MAX_TOKENS || v->tokens == NULL || v->token_lens == NULL)
        return FAIL(ST_FORMAT, "%s: tokenizer.ggml.tokens must be a list of 1 to %d tokens, not %d", where, TOK_MAX_TOKENS, v->n_tokens);
    if (v->n_merges < 0 || v->n_merges > TOK_MAX_TOKENS)
        return FAIL(ST_FORMAT, "%s: tokenizer.ggml.merges: at most %d are accepted, not %d", where, TOK_MAX_TOKENS, v->n_merges);
    const struct { const char *name; int32_t id; } ids[] = {{"bos", v->bos}, {"eos", v->eos}, {"unknown", v->unk}, {"seperator", v->sep}, {"cls", v->cls}};
    for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
        if (ids[i].id >= v->n_tokens)
            return FAIL(ST_FORMAT, "%s: tokenizer.ggml.%s_token_id is %d but there are %d tokens", where, ids[i].name, ids[i].id, v->n_tokens);
    }
    return ST_OK;
}

static status build(shard_tokenizer *t, const shard_vocab *v)
{
    static const struct { const char *model; status (*build)(shard_tokenizer *t, const shard_vocab *v); } kinds[] = {
        {"gpt2", build_byte_level}, {"llama", build_sentencepiece}, {"gemma4", build_sentencepiece}, {"bert", build_wordpiece}, {"t5", build_unigram},
    };
    TRY(check_vocab(t->where, v));
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (strcmp(kinds[i].model, v->model) == 0) {
            TRY(kinds[i].build(t, v));
            return tok_finish(t);
        }
    }
    return FAIL(ST_UNSUPPORTED, "%s: tokenizer.ggml.model \"%s\" is not known (gpt2, llama, gemma4, bert and t5 are)", t->where, v->model);
}

status shard_tokenizer_from_vocab(const char *where, const shard_vocab *vocab, shard_tokenizer **out)
{
    shard_tokenizer *t;
    TRY(mem_calloc(1, sizeof(*t), "tokenizer", &t));
    t->where = strdup(where);
    status st = t->where == NULL ? FAIL(ST_NO_MEMORY, "tokenizer: no memory") : build(t, vocab);
    if (st != ST_OK)
        shard_tokenizer_destroy(&t);
    else
        *out = t;
    return st;
}
