/* shard/text/tokenizer_json.c - a tokenizer from the text of a tokenizer.json.
 *
 * Truncation and padding, which some files carry, are settings of a training run: they are not obeyed. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "shard/text/tokenizer_internal.h"
#include "shard/text/tokenizer_scan.h"

enum { MAX_NESTING = 32 };

/* ---- members of steps ---- */

static status get_string(const json_t *obj, const char *where, const char *key, const char *dflt, tok_string *out)
{
    const json_t *v = json_object_get(obj, key);
    if ((v == NULL || json_is_null(v)) && dflt != NULL)
        return tok_string_copy(dflt, strlen(dflt), out);
    if (!json_is_string(v))
        return FAIL(ST_FORMAT, "%s: %s must be a string", where, key);
    return tok_string_copy(json_string_value(v), json_string_length(v), out);
}

static status get_char(const json_t *obj, const char *where, const char *key, uint32_t *out)
{
    const json_t *v = json_object_get(obj, key);
    size_t pos = 0;
    if (json_is_string(v) && json_string_length(v) > 0)
        *out = tok_utf8_next(json_string_value(v), &pos);
    if (pos == 0 || pos != json_string_length(v))
        return FAIL(ST_FORMAT, "%s: %s must be one character", where, key);
    return ST_OK;
}

static status get_size(const json_t *obj, const char *where, const char *key, int64_t dflt, int64_t min, size_t *out)
{
    int64_t n;
    TRY(json_get_int(obj, where, key, dflt, min, 1 << 30, &n));
    *out = (size_t)n;
    return ST_OK;
}

/* {"String": "..."} or {"Regex": "..."}; in old files a bare string. */
static status get_pattern(const json_t *obj, const char *where, tok_pattern *out)
{
    const json_t *p = json_object_get(obj, "pattern"), *literal = json_object_get(p, "String"), *regex = json_object_get(p, "Regex");
    if (json_is_string(p))
        literal = p;
    if (json_is_string(regex))
        return tok_regex_compile(where, json_string_value(regex), json_string_length(regex), &out->regex);
    if (!json_is_string(literal))
        return FAIL(ST_FORMAT, "%s: pattern must be {\"String\": text} or {\"Regex\": text}", where);
    if (json_string_length(literal) == 0) /* found between all characters, which the expression's search knows to do */
        return tok_regex_compile_native(where, "", 0, &out->regex);
    return tok_string_copy(json_string_value(literal), json_string_length(literal), &out->literal);
}

static status get_behaviour(const json_t *obj, const char *where, const char *dflt, tok_behaviour *out)
{
    static const char *const names[] = {
        [TOK_REMOVED] = "Removed", [TOK_ISOLATED] = "Isolated", [TOK_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
        [TOK_MERGED_WITH_NEXT] = "MergedWithNext", [TOK_CONTIGUOUS] = "Contiguous",
    };
    const char *name;
    TRY(json_get_str(obj, where, "behavior", dflt, &name));
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (name != NULL && strcmp(name, names[i]) == 0) {
            *out = (tok_behaviour)i;
            return ST_OK;
        }
    }
    return FAIL(ST_UNSUPPORTED, "%s: behavior \"%s\" is not known", where, name == NULL ? "(none)" : name);
}

static status get_scheme(const json_t *obj, const char *where, tok_scheme *out)
{
    const char *name;
    bool prefix;
    TRY(json_get_str(obj, where, "prepend_scheme", "always", &name));
    TRY(json_get_bool(obj, where, "add_prefix_space", true, &prefix)); /* the older spelling of "never" */
    *out = !prefix || strcmp(name, "never") == 0 ? TOK_PREPEND_NEVER : strcmp(name, "first") == 0 ? TOK_PREPEND_FIRST : TOK_PREPEND_ALWAYS;
    if (strcmp(name, "never") != 0 && strcmp(name, "first") != 0 && strcmp(name, "always") != 0)
        return FAIL(ST_UNSUPPORTED, "%s: prepend_scheme \"%s\" is not known", where, name);
    return ST_OK;
}

static status type_of(const json_t *obj, const char *where, const char **out)
{
    if (!json_is_object(obj))
        return FAIL(ST_FORMAT, "%s must be an object", where);
    TRY(json_get_str(obj, where, "type", NULL, out));
    return *out == NULL ? FAIL(ST_FORMAT, "%s has no type", where) : ST_OK;
}

typedef status (*step_fn)(shard_tokenizer *t, const char *where, const json_t *obj, int depth);

/* Calls add for each member of a Sequence's list. */
static status each_step(shard_tokenizer *t, const char *where, const json_t *obj, const char *key, int depth, step_fn add)
{
    json_t *list;
    if (depth >= MAX_NESTING)
        return FAIL(ST_LIMIT, "%s: sequences nested too deeply", where);
    TRY(json_get_arr(obj, where, key, &list));
    if (list == NULL)
        return FAIL(ST_FORMAT, "%s: a Sequence without %s", where, key);
    size_t i;
    json_t *item;
    json_array_foreach (list, i, item)
        TRY(add(t, where, item, depth + 1));
    return ST_OK;
}

/* ---- normalisers ---- */

static int base64_value(char c)
{
    return c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z' ? c - 'a' + 26 : c >= '0' && c <= '9' ? c - '0' + 52 : c == '+' ? 62 : c == '/' ? 63 : -1;
}

static status add_charsmap(tok_norm *n, const char *where, const json_t *obj)
{
    const char *text;
    TRY(json_get_str(obj, where, "precompiled_charsmap", NULL, &text));
    if (text == NULL)
        return FAIL(ST_FORMAT, "%s: Precompiled without precompiled_charsmap", where);
    mem_str blob = {0};
    uint32_t bits = 0;
    int held = 0;
    for (; *text != '\0' && *text != '='; text++) {
        int v = base64_value(*text);
        if (v < 0) {
            mem_str_free(&blob);
            return FAIL(ST_FORMAT, "%s: precompiled_charsmap is not base64", where);
        }
        bits = bits << 6 | (uint32_t)v;
        held += 6;
        if (held >= 8)
            mem_str_putc(&blob, (char)(bits >> (held -= 8)));
    }
    status st = blob.failed ? FAIL(ST_NO_MEMORY, "tokenizer: no memory for the charsmap")
                            : tok_charsmap_create(where, blob.len == 0 ? "" : blob.data, blob.len, &n->charsmap);
    mem_str_free(&blob);
    return st;
}

static status fill_bert(tok_norm *n, const char *where, const json_t *obj)
{
    TRY(json_get_bool(obj, where, "clean_text", true, &n->clean));
    TRY(json_get_bool(obj, where, "handle_chinese_chars", true, &n->chinese));
    TRY(json_get_bool(obj, where, "lowercase", true, &n->lowercase));
    return json_get_bool(obj, where, "strip_accents", n->lowercase, &n->strip_accents);
}

static status add_normaliser(shard_tokenizer *t, const char *where, const json_t *obj, int depth)
{
    static const struct { const char *name; tok_norm_kind kind; } kinds[] = {
        {"NFC", TOK_NORM_NFC}, {"NFD", TOK_NORM_NFD}, {"NFKC", TOK_NORM_NFKC}, {"NFKD", TOK_NORM_NFKD}, {"Lowercase", TOK_NORM_LOWERCASE},
        {"Strip", TOK_NORM_STRIP}, {"StripAccents", TOK_NORM_STRIP_ACCENTS}, {"Replace", TOK_NORM_REPLACE}, {"Prepend", TOK_NORM_PREPEND},
        {"Nmt", TOK_NORM_NMT}, {"BertNormalizer", TOK_NORM_BERT}, {"Bert", TOK_NORM_BERT}, {"Precompiled", TOK_NORM_CHARSMAP},
        {"ByteLevel", TOK_NORM_BYTES},
    };
    const char *type;
    TRY(type_of(obj, where, &type));
    if (strcmp(type, "Sequence") == 0)
        return each_step(t, where, obj, "normalizers", depth, add_normaliser);
    size_t i = 0;
    while (i < ARRAY_LEN(kinds) && strcmp(kinds[i].name, type) != 0)
        i++;
    if (i == ARRAY_LEN(kinds))
        return FAIL(ST_UNSUPPORTED, "%s: type \"%s\" is not known", where, type);
    tok_norm *n;
    TRY(tok_add_norm(t, kinds[i].kind, &n));
    switch (n->kind) {
    case TOK_NORM_STRIP:
        TRY(json_get_bool(obj, where, "strip_left", true, &n->left));
        return json_get_bool(obj, where, "strip_right", true, &n->right);
    case TOK_NORM_REPLACE:
        TRY(get_pattern(obj, where, &n->pattern));
        return get_string(obj, where, "content", NULL, &n->content);
    case TOK_NORM_PREPEND:
        return get_string(obj, where, "prepend", NULL, &n->content);
    case TOK_NORM_BERT:
        return fill_bert(n, where, obj);
    case TOK_NORM_CHARSMAP:
        return add_charsmap(n, where, obj);
    default:
        return ST_OK;
    }
}

/* ---- pre-tokenizers ---- */

static status fill_split(tok_split *s, const char *where, const json_t *obj)
{
    bool individual;
    switch (s->kind) {
    case TOK_SPLIT_BYTES:
        TRY(json_get_bool(obj, where, "add_prefix_space", true, &s->add_prefix_space));
        return json_get_bool(obj, where, "use_regex", true, &s->split);
    case TOK_SPLIT_PATTERN:
        TRY(get_pattern(obj, where, &s->pattern));
        TRY(get_behaviour(obj, where, NULL, &s->behaviour));
        return json_get_bool(obj, where, "invert", false, &s->invert);
    case TOK_SPLIT_METASPACE:
        TRY(get_char(obj, where, "replacement", &s->character));
        TRY(get_scheme(obj, where, &s->scheme));
        return json_get_bool(obj, where, "split", true, &s->split);
    case TOK_SPLIT_PUNCTUATION:
        return get_behaviour(obj, where, "Isolated", &s->behaviour);
    case TOK_SPLIT_DIGITS:
        TRY(json_get_bool(obj, where, "individual_digits", false, &individual));
        s->behaviour = individual ? TOK_ISOLATED : TOK_CONTIGUOUS;
        return ST_OK;
    case TOK_SPLIT_DELIMITER:
        return get_char(obj, where, "delimiter", &s->character);
    case TOK_SPLIT_FIXED:
        return get_size(obj, where, "length", 5, 1, &s->length);
    default:
        return ST_OK;
    }
}

static status add_pre_tokenizer(shard_tokenizer *t, const char *where, const json_t *obj, int depth)
{
    static const struct { const char *name; tok_split_kind kind; } kinds[] = {
        {"ByteLevel", TOK_SPLIT_BYTES}, {"Split", TOK_SPLIT_PATTERN}, {"Metaspace", TOK_SPLIT_METASPACE}, {"Whitespace", TOK_SPLIT_WHITESPACE},
        {"WhitespaceSplit", TOK_SPLIT_SPACES}, {"BertPreTokenizer", TOK_SPLIT_BERT}, {"Punctuation", TOK_SPLIT_PUNCTUATION},
        {"Digits", TOK_SPLIT_DIGITS}, {"CharDelimiterSplit", TOK_SPLIT_DELIMITER}, {"Delimiter", TOK_SPLIT_DELIMITER},
        {"UnicodeScripts", TOK_SPLIT_SCRIPTS}, {"FixedLength", TOK_SPLIT_FIXED},
    };
    const char *type;
    TRY(type_of(obj, where, &type));
    if (strcmp(type, "Sequence") == 0)
        return each_step(t, where, obj, "pretokenizers", depth, add_pre_tokenizer);
    size_t i = 0;
    while (i < ARRAY_LEN(kinds) && strcmp(kinds[i].name, type) != 0)
        i++;
    if (i == ARRAY_LEN(kinds))
        return FAIL(ST_UNSUPPORTED, "%s: type \"%s\" is not known", where, type);
    tok_split *s;
    TRY(tok_add_split(t, kinds[i].kind, &s));
    TRY(fill_split(s, where, obj));
    return tok_split_prepare(s, where);
}

/* ---- post-processor ---- */

static status template_special(shard_tokenizer *t, const char *where, const json_t *tokens, const json_t *piece)
{
    const char *id;
    json_t *ids;
    TRY(json_get_str(piece, where, "id", NULL, &id));
    const json_t *token = id == NULL ? NULL : json_object_get(tokens, id);
    if (token == NULL)
        return FAIL(ST_FORMAT, "%s: the template uses \"%s\", which special_tokens lacks", where, id == NULL ? "(none)" : id);
    TRY(json_get_arr(token, where, "ids", &ids));
    size_t i;
    json_t *n;
    json_array_foreach (ids, i, n) {
        if (!json_is_integer(n) || json_integer_value(n) < 0 || json_integer_value(n) >= TOK_MAX_ID)
            return FAIL(ST_FORMAT, "%s: special token \"%s\" has a bad id", where, id);
        TRY(tok_post_push(t, (int32_t)json_integer_value(n)));
    }
    return ST_OK;
}

static status add_template(shard_tokenizer *t, const char *where, const json_t *obj)
{
    json_t *single, *tokens;
    TRY(json_get_arr(obj, where, "single", &single));
    TRY(json_get_obj(obj, where, "special_tokens", &tokens));
    if (single == NULL)
        return FAIL(ST_FORMAT, "%s: TemplateProcessing without single", where);
    t->post.present = true;
    size_t i;
    json_t *piece;
    json_array_foreach (single, i, piece) {
        const json_t *sequence = json_object_get(piece, "Sequence"), *special = json_object_get(piece, "SpecialToken");
        const char *id = json_string_value(json_object_get(sequence, "id"));
        if (sequence != NULL && id != NULL && strcmp(id, "A") == 0)
            TRY(tok_post_push(t, TOK_POST_SEQUENCE));
        else if (special != NULL)
            TRY(template_special(t, where, tokens, special));
        else
            return FAIL(ST_FORMAT, "%s: piece %zu of single is neither sequence A nor a special token", where, i);
    }
    return ST_OK;
}

/* [text, id] */
static status pair_id(const json_t *obj, const char *where, const char *key, int32_t *out)
{
    const json_t *id = json_array_get(json_object_get(obj, key), 1);
    if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= TOK_MAX_ID)
        return FAIL(ST_FORMAT, "%s: %s must be [token, id]", where, key);
    *out = (int32_t)json_integer_value(id);
    return ST_OK;
}

static status add_post_processor(shard_tokenizer *t, const char *where, const json_t *obj, int depth)
{
    const char *type;
    TRY(type_of(obj, where, &type));
    if (strcmp(type, "Sequence") == 0)
        return each_step(t, where, obj, "processors", depth, add_post_processor);
    if (strcmp(type, "ByteLevel") == 0) /* concerns offsets only */
        return ST_OK;
    if (t->post.present)
        return FAIL(ST_UNSUPPORTED, "%s: a second processor that adds tokens (%s)", where, type);
    if (strcmp(type, "TemplateProcessing") == 0)
        return add_template(t, where, obj);
    if (strcmp(type, "BertProcessing") != 0 && strcmp(type, "RobertaProcessing") != 0)
        return FAIL(ST_UNSUPPORTED, "%s: type \"%s\" is not known", where, type);
    int32_t cls = -1, sep = -1;
    TRY(pair_id(obj, where, "cls", &cls));
    TRY(pair_id(obj, where, "sep", &sep));
    TRY(tok_post_push(t, cls));
    TRY(tok_post_push(t, TOK_POST_SEQUENCE));
    return tok_post_push(t, sep);
}

/* ---- decoders ---- */

static status fill_dec(tok_dec *d, const char *where, const json_t *obj)
{
    switch (d->kind) {
    case TOK_DEC_METASPACE:
        TRY(get_char(obj, where, "replacement", &d->character));
        return get_scheme(obj, where, &d->scheme);
    case TOK_DEC_WORDPIECE:
        TRY(get_string(obj, where, "prefix", "##", &d->prefix));
        return json_get_bool(obj, where, "cleanup", true, &d->cleanup);
    case TOK_DEC_BPE:
        return get_string(obj, where, "suffix", "</w>", &d->prefix);
    case TOK_DEC_CTC:
        TRY(get_string(obj, where, "pad_token", "<pad>", &d->prefix));
        TRY(get_string(obj, where, "word_delimiter_token", "|", &d->delimiter));
        return json_get_bool(obj, where, "cleanup", true, &d->cleanup);
    case TOK_DEC_STRIP:
        TRY(get_char(obj, where, "content", &d->character));
        TRY(get_size(obj, where, "start", 0, 0, &d->start));
        return get_size(obj, where, "stop", 0, 0, &d->stop);
    case TOK_DEC_REPLACE:
        TRY(get_pattern(obj, where, &d->pattern));
        return get_string(obj, where, "content", NULL, &d->content);
    default:
        return ST_OK;
    }
}

static status add_decoder(shard_tokenizer *t, const char *where, const json_t *obj, int depth)
{
    static const struct { const char *name; tok_dec_kind kind; } kinds[] = {
        {"ByteLevel", TOK_DEC_BYTES}, {"ByteFallback", TOK_DEC_FALLBACK}, {"Metaspace", TOK_DEC_METASPACE}, {"WordPiece", TOK_DEC_WORDPIECE},
        {"BPEDecoder", TOK_DEC_BPE}, {"CTC", TOK_DEC_CTC}, {"Fuse", TOK_DEC_FUSE}, {"Strip", TOK_DEC_STRIP}, {"Replace", TOK_DEC_REPLACE},
    };
    const char *type;
    TRY(type_of(obj, where, &type));
    t->has_decoder = true;
    if (strcmp(type, "Sequence") == 0)
        return each_step(t, where, obj, "decoders", depth, add_decoder);
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (strcmp(kinds[i].name, type) == 0) {
            tok_dec *d;
            TRY(tok_add_dec(t, kinds[i].kind, &d));
            return fill_dec(d, where, obj);
        }
    }
    return FAIL(ST_UNSUPPORTED, "%s: type \"%s\" is not known", where, type);
}

/* ---- models ---- */

/* {"token": id, ...} */
static status read_vocab_object(shard_tokenizer *t, tok_scan *s)
{
    mem_str token = {0};
    bool more;
    status st = tok_scan_expect(s, '{');
    for (bool first = true; st == ST_OK; first = false) {
        double id;
        TRY_GOTO(tok_scan_more(s, '}', first, &more), done);
        if (!more)
            break;
        TRY_GOTO(tok_scan_string(s, &token), done);
        TRY_GOTO(tok_scan_expect(s, ':'), done);
        TRY_GOTO(tok_scan_number(s, &id), done);
        if (id < 0 || id >= TOK_MAX_ID || id != (double)(int64_t)id) {
            st = tok_scan_bad(s, "a token's id must be a whole number from 0 to 33554431");
            goto done;
        }
        TRY_GOTO(tok_vocab_add(&t->vocab, t->where, token.data, token.len, (int64_t)id), done);
    }
done:
    mem_str_free(&token);
    return st == ST_OK ? tok_vocab_finish(&t->vocab, t->where) : st;
}

/* [["token", score], ...] */
static status read_vocab_scores(shard_tokenizer *t, tok_scan *s)
{
    mem_str token = {0};
    size_t n = 0, cap = 0;
    bool more;
    status st = tok_scan_expect(s, '[');
    t->vocab.keep_duplicates = true;
    for (bool first = true; st == ST_OK; first = false) {
        TRY_GOTO(tok_scan_more(s, ']', first, &more), done);
        if (!more)
            break;
        TRY_GOTO(mem_grow(&t->unigram.scores, &cap, n + 1, sizeof(*t->unigram.scores), "tokenizer: scores"), done);
        TRY_GOTO(tok_scan_expect(s, '['), done);
        TRY_GOTO(tok_scan_string(s, &token), done);
        TRY_GOTO(tok_scan_expect(s, ','), done);
        TRY_GOTO(tok_scan_number(s, &t->unigram.scores[n]), done);
        TRY_GOTO(tok_scan_expect(s, ']'), done);
        TRY_GOTO(tok_vocab_add(&t->vocab, t->where, token.data, token.len, (int64_t)n++), done);
    }
done:
    mem_str_free(&token);
    return st == ST_OK ? tok_vocab_finish(&t->vocab, t->where) : st;
}

static status add_named_merge(shard_tokenizer *t, const char *left, size_t left_len, const char *right, size_t right_len, uint32_t rank,
                              mem_str *joined)
{
    size_t skip = t->bpe.prefix.len;
    int32_t l = tok_vocab_find(&t->vocab, left, left_len), r = tok_vocab_find(&t->vocab, right, right_len), m = -1;
    if (l >= 0 && r >= 0 && right_len >= skip) {
        mem_str_clear(joined);
        mem_str_append(joined, left, left_len);
        mem_str_append(joined, right + skip, right_len - skip);
        m = tok_vocab_find(&t->vocab, joined->data, joined->len);
    }
    if (m < 0)
        return FAIL(ST_FORMAT, "%s: merge %u (\"%.*s\" \"%.*s\") names a token that the vocabulary lacks", t->where, rank,
                    (int)(left_len > 60 ? 60 : left_len), left, (int)(right_len > 60 ? 60 : right_len), right);
    return tok_bpe_add_merge(&t->bpe, l, r, rank, m);
}

/* "left right" or ["left", "right"]; two strings hold the parts. */
static status read_merge(tok_scan *s, mem_str *left, mem_str *right, bool *comment)
{
    *comment = false;
    if (tok_scan_peek(s) == '[') {
        s->at++;
        TRY(tok_scan_string(s, left));
        TRY(tok_scan_expect(s, ','));
        TRY(tok_scan_string(s, right));
        return tok_scan_expect(s, ']');
    }
    TRY(tok_scan_string(s, left));
    if (left->len >= 8 && memcmp(left->data, "#version", 8) == 0) {
        *comment = true;
        return ST_OK;
    }
    char *space = memchr(left->data, ' ', left->len);
    if (space == NULL || memchr(space + 1, ' ', left->len - (size_t)(space + 1 - left->data)) != NULL)
        return tok_scan_bad(s, "a merge must be two tokens with one blank between");
    mem_str_clear(right);
    mem_str_append(right, space + 1, left->len - (size_t)(space + 1 - left->data));
    left->len = (size_t)(space - left->data);
    return ST_OK;
}

static status read_merges(shard_tokenizer *t, tok_scan *s)
{
    /* The scanner has seen the list to its end; an upper bound of its items sizes the table. */
    size_t bound = 0;
    for (const char *p = s->at; p < s->end; p++)
        bound += *p == ',';
    tok_scan probe = *s;
    bool pairs = tok_scan_peek(&probe) == '[' && (probe.at++, tok_scan_peek(&probe)) == '[';
    TRY(tok_bpe_init(&t->bpe, pairs ? bound / 2 + 1 : bound + 1));
    mem_str left = {0}, right = {0}, joined = {0};
    uint32_t rank = 0;
    bool more, comment;
    status st = tok_scan_expect(s, '[');
    for (bool first = true; st == ST_OK; first = false) {
        TRY_GOTO(tok_scan_more(s, ']', first, &more), done);
        if (!more)
            break;
        TRY_GOTO(read_merge(s, &left, &right, &comment), done);
        if (comment)
            continue;
        mem_str_append(&left, "", 0);
        mem_str_append(&right, "", 0);
        TRY_GOTO(add_named_merge(t, left.data, left.len, right.data, right.len, rank++, &joined), done);
    }
done:
    mem_str_free(&left);
    mem_str_free(&right);
    mem_str_free(&joined);
    return st;
}

enum { M_TYPE, M_VOCAB, M_MERGES, M_UNK, M_UNK_ID, M_PREFIX, M_SUFFIX, M_FUSE, M_BYTES, M_IGNORE, M_DROPOUT, M_MAX, M_COUNT };
static const char *const model_members[M_COUNT] = {
    "type", "vocab", "merges", "unk_token", "unk_id", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback",
    "ignore_merges", "dropout", "max_input_chars_per_word",
};

/* The small members as an object of their own. */
static status small_members(const shard_tokenizer *t, const tok_span spans[M_COUNT], json_t **out)
{
    json_t *obj = json_object();
    status st = obj == NULL ? FAIL(ST_NO_MEMORY, "tokenizer: no memory") : ST_OK;
    for (int i = 0; i < M_COUNT && st == ST_OK; i++) {
        json_t *value;
        if (i == M_VOCAB || i == M_MERGES || spans[i].begin == NULL)
            continue;
        st = json_parse(t->where, spans[i].begin, spans[i].len, &value);
        if (st == ST_OK && json_object_set_new(obj, model_members[i], value) != 0)
            st = FAIL(ST_NO_MEMORY, "tokenizer: no memory");
    }
    if (st != ST_OK)
        json_decref(obj);
    else
        *out = obj;
    return st;
}

/* The id of a named token: *named whether the file names one, -1 if the vocabulary lacks it. */
static status unknown_token(const shard_tokenizer *t, const json_t *m, const char *dflt, bool *named, int32_t *id)
{
    const json_t *v = json_object_get(m, "unk_token");
    if (v != NULL && !json_is_string(v))
        return FAIL(ST_FORMAT, "%s: model.unk_token must be a string", t->where);
    *named = v != NULL || dflt != NULL;
    const char *text = v != NULL ? json_string_value(v) : dflt;
    *id = text == NULL ? -1 : tok_vocab_find(&t->vocab, text, v != NULL ? json_string_length(v) : strlen(text));
    return ST_OK;
}

static status read_bpe(shard_tokenizer *t, const char *text, const tok_span spans[M_COUNT], const json_t *m)
{
    tok_bpe *b = &t->bpe;
    double dropout;
    TRY(json_get_f64(m, t->where, "dropout", 0, &dropout));
    if (dropout != 0) /* it makes ids random: meant for training alone */
        log_warn("%s: model.dropout %g is ignored", t->where, dropout);
    TRY(json_get_bool(m, t->where, "fuse_unk", false, &b->fuse_unk));
    TRY(json_get_bool(m, t->where, "byte_fallback", false, &b->byte_fallback));
    TRY(json_get_bool(m, t->where, "ignore_merges", false, &b->ignore_merges));
    TRY(get_string(m, t->where, "continuing_subword_prefix", "", &b->prefix));
    TRY(get_string(m, t->where, "end_of_word_suffix", "", &b->suffix));
    tok_scan s = tok_scan_start(t->where, text, spans[M_VOCAB]);
    TRY(read_vocab_object(t, &s));
    TRY(unknown_token(t, m, NULL, &b->has_unk, &b->unk));
    if (spans[M_MERGES].begin == NULL)
        return FAIL(ST_FORMAT, "%s: a BPE model without merges", t->where);
    s = tok_scan_start(t->where, text, spans[M_MERGES]);
    TRY(read_merges(t, &s));
    return tok_bpe_prepare(b, &t->vocab);
}

static status read_unigram(shard_tokenizer *t, const char *text, const tok_span spans[M_COUNT], const json_t *m)
{
    tok_scan s = tok_scan_start(t->where, text, spans[M_VOCAB]);
    TRY(read_vocab_scores(t, &s));
    TRY(json_get_i32(m, t->where, "unk_id", -1, -1, t->vocab.n_ids - 1, &t->unigram.unk));
    TRY(json_get_bool(m, t->where, "byte_fallback", false, &t->unigram.byte_fallback));
    return tok_unigram_prepare(&t->unigram, &t->vocab);
}

static status read_wordpiece(shard_tokenizer *t, const char *text, const tok_span spans[M_COUNT], const json_t *m)
{
    bool named;
    tok_string prefix = {0};
    tok_scan s = tok_scan_start(t->where, text, spans[M_VOCAB]);
    TRY(read_vocab_object(t, &s));
    TRY(unknown_token(t, m, t->model == TOK_WORDPIECE ? "[UNK]" : "<unk>", &named, &t->wordpiece.unk));
    if (t->model == TOK_WORDLEVEL)
        return ST_OK;
    TRY(get_size(m, t->where, "max_input_chars_per_word", 100, 0, &t->wordpiece.max_chars));
    TRY(get_string(m, t->where, "continuing_subword_prefix", "##", &prefix));
    status st = tok_wordpiece_prepare(&t->wordpiece, &t->vocab, prefix.data, prefix.len);
    free(prefix.data);
    return st;
}

/* Old files do not say the type: it shows in the members. */
static const char *guess_type(const tok_span spans[M_COUNT])
{
    if (spans[M_MERGES].begin != NULL)
        return "BPE";
    if (spans[M_VOCAB].begin != NULL && spans[M_VOCAB].begin[0] == '[')
        return "Unigram";
    return spans[M_MAX].begin != NULL || spans[M_PREFIX].begin != NULL ? "WordPiece" : "WordLevel";
}

static status read_model(shard_tokenizer *t, const char *text, tok_span span)
{
    static const struct {
        const char *name;
        tok_model_kind kind;
        status (*read)(shard_tokenizer *t, const char *text, const tok_span spans[M_COUNT], const json_t *m);
    } models[] = {
        {"BPE", TOK_BPE, read_bpe},
        {"Unigram", TOK_UNIGRAM, read_unigram},
        {"WordPiece", TOK_WORDPIECE, read_wordpiece},
        {"WordLevel", TOK_WORDLEVEL, read_wordpiece},
    };
    tok_span spans[M_COUNT];
    tok_scan s = tok_scan_start(t->where, text, span);
    TRY(tok_scan_members(&s, model_members, spans, M_COUNT));
    if (spans[M_VOCAB].begin == NULL)
        return FAIL(ST_FORMAT, "%s: model.vocab is missing", t->where);
    json_t *m;
    TRY(small_members(t, spans, &m));
    const char *type;
    status st = json_get_str(m, t->where, "type", guess_type(spans), &type);
    size_t i = 0;
    while (st == ST_OK && i < ARRAY_LEN(models) && strcmp(models[i].name, type) != 0)
        i++;
    if (st == ST_OK && i == ARRAY_LEN(models))
        st = FAIL(ST_UNSUPPORTED, "%s: model.type \"%s\" is not known (BPE, Unigram, WordPiece and WordLevel are)", t->where, type);
    if (st == ST_OK) {
        t->model = models[i].kind;
        st = models[i].read(t, text, spans, m);
    }
    json_decref(m);
    return st;
}

/* ---- added tokens and the file as a whole ---- */

static status read_added_token(shard_tokenizer *t, const json_t *obj)
{
    tok_added_token k = {0};
    const json_t *content = json_object_get(obj, "content");
    if (!json_is_string(content))
        return FAIL(ST_FORMAT, "%s: an added token without content", t->where);
    k.content = (tok_string){.data = (char *)json_string_value(content), .len = json_string_length(content)};
    TRY(json_get_bool(obj, t->where, "special", false, &k.special));
    TRY(json_get_bool(obj, t->where, "single_word", false, &k.single_word));
    TRY(json_get_bool(obj, t->where, "lstrip", false, &k.lstrip));
    TRY(json_get_bool(obj, t->where, "rstrip", false, &k.rstrip));
    TRY(json_get_bool(obj, t->where, "normalized", !k.special, &k.normalized));
    return tok_add_token(t, &k);
}

enum { F_ADDED, F_NORMALISER, F_PRE, F_POST, F_DECODER, F_MODEL, F_COUNT };
static const char *const file_members[F_COUNT] = {"added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model"};

static status read_part(shard_tokenizer *t, const tok_span spans[F_COUNT], int which, step_fn add)
{
    if (spans[which].begin == NULL)
        return ST_OK;
    json_t *obj;
    TRY(json_parse(t->where, spans[which].begin, spans[which].len, &obj));
    mem_str where = {0};
    mem_str_printf(&where, "%s: %s", t->where, file_members[which]);
    status st = where.failed ? FAIL(ST_NO_MEMORY, "tokenizer: no memory") : add(t, where.data, obj, 0);
    mem_str_free(&where);
    json_decref(obj);
    return st;
}

static status add_tokens(shard_tokenizer *t, const char *where, const json_t *list, int depth)
{
    (void)depth;
    if (!json_is_array(list))
        return FAIL(ST_FORMAT, "%s must be a list", where);
    size_t i;
    json_t *token;
    json_array_foreach (list, i, token)
        TRY(read_added_token(t, token));
    return ST_OK;
}

static status read_file(shard_tokenizer *t, const char *json, size_t len)
{
    tok_span spans[F_COUNT];
    tok_scan s = tok_scan_start(t->where, json, (tok_span){.begin = json, .len = len});
    TRY(tok_scan_members(&s, file_members, spans, F_COUNT));
    if (tok_scan_peek(&s) != '\0' || s.at != s.end)
        return tok_scan_bad(&s, "not valid JSON: something follows its end");
    if (spans[F_MODEL].begin == NULL)
        return FAIL(ST_FORMAT, "%s: no \"model\": is this a tokenizer.json?", t->where);
    TRY(read_model(t, json, spans[F_MODEL]));
    TRY(read_part(t, spans, F_NORMALISER, add_normaliser));
    TRY(read_part(t, spans, F_PRE, add_pre_tokenizer));
    TRY(read_part(t, spans, F_POST, add_post_processor));
    TRY(read_part(t, spans, F_DECODER, add_decoder));
    TRY(read_part(t, spans, F_ADDED, add_tokens));
    return tok_finish(t);
}

status shard_tokenizer_from_json(const char *where, const char *json, size_t len, shard_tokenizer **out)
{
    shard_tokenizer *t;
    TRY(mem_calloc(1, sizeof(*t), "tokenizer", &t));
    t->where = strdup(where);
    status st = t->where == NULL ? FAIL(ST_NO_MEMORY, "tokenizer: no memory") : read_file(t, json, len);
    if (st != ST_OK)
        shard_tokenizer_destroy(&t);
    else
        *out = t;
    return st;
}
