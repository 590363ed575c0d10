/* shard/text/tokenizer_regex.h - the regular expressions of tokenizer.json on PCRE2.
 *
 * The reference matches them with Oniguruma in its Ruby syntax, whose \s, \w, \h, \b, quantifiers, options and nested
 * character classes differ from Perl's: tokenizer_pattern.c rewrites a pattern so that PCRE2 matches the same texts. */
#ifndef SHARD_TEXT_TOKENIZER_REGEX_H
#define SHARD_TEXT_TOKENIZER_REGEX_H

#include <stdbool.h>
#include <stddef.h>

#include "base/mem.h"
#include "base/status.h"

/* Appends the PCRE2 form of an Oniguruma pattern.  newer: with the characters that PCRE2's Unicode lacks, which makes it
 * slower.  ST_FORMAT: not a pattern; ST_UNSUPPORTED: a construct named in the message. */
status tok_pattern_translate(const char *where, const char *pattern, size_t len, bool newer, mem_str *out);


typedef struct tok_regex tok_regex;
status tok_regex_compile(const char *where, const char *pattern, size_t len, tok_regex **out);
/* The pattern is PCRE2's own (the fixed ones of this folder). */
status tok_regex_compile_native(const char *where, const char *pattern, size_t len, tok_regex **out);
void tok_regex_destroy(tok_regex **re);

/* What one thread needs to match; shared by all patterns of one encode or decode. */
typedef struct tok_matcher tok_matcher;
/* text_len: sets how much time the matches may take together.  newer: the text holds characters newer than PCRE2's
 * Unicode (tok_text_is_newer). */
status tok_matcher_create(size_t text_len, bool newer, tok_matcher **out);
bool tok_text_is_newer(const char *text, size_t len);
void tok_matcher_destroy(tok_matcher **m);

/* Walks over the matches in a text from left to right. */
typedef struct tok_find {
    const char *text;
    size_t len;
    size_t from;              /* where the next search starts */
    size_t last_end;          /* of the previous match; SIZE_MAX none */
    size_t begin, end;        /* of this match */
} tok_find;
static inline tok_find tok_find_start(const char *text, size_t len)
{
    return (tok_find){.text = text, .len = len, .last_end = (size_t)-1};
}
/* *found false: no more.  ST_LIMIT: the text takes this pattern too many steps. */
status tok_regex_next(const tok_regex *re, tok_matcher *m, tok_find *f, bool *found);

#endif
