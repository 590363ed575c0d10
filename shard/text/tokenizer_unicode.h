/* shard/text/tokenizer_unicode.h - ranges of characters (tokenizer_unicode.c holds the data). */
#ifndef SHARD_TEXT_TOKENIZER_UNICODE_H
#define SHARD_TEXT_TOKENIZER_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct tok_range {
    uint32_t first, last;
} tok_range;
typedef struct tok_ranges {
    const tok_range *at; /* ascending */
    size_t n;
} tok_ranges;

typedef struct tok_newer {
    uint32_t first, last;
    char category[3];
} tok_newer;
typedef struct tok_newer_list {
    const tok_newer *at;
    size_t n;
} tok_newer_list;

typedef struct tok_shift {
    uint32_t first, last;
    int32_t add;
} tok_shift;
typedef struct tok_shifts {
    const tok_shift *at;
    size_t n;
} tok_shifts;

typedef struct tok_script {
    uint32_t first, last, script;
} tok_script;
typedef struct tok_scripts {
    const tok_script *at;
    size_t n;
} tok_scripts;

extern const tok_scripts tok_script_of;
extern const tok_ranges tok_ranges_numeric, tok_ranges_punctuation, tok_ranges_other, tok_ranges_nonspacing, tok_ranges_mark, tok_ranges_word,
    tok_ranges_undecomposed, tok_ranges_alphabetic, tok_ranges_uppercase, tok_ranges_lowercase;
extern const tok_newer_list tok_newer_characters;
extern const tok_shifts tok_lower_shifts;

static inline bool tok_in_ranges(const tok_ranges *r, uint32_t c)
{
    size_t low = 0, high = r->n;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (c > r->at[mid].last)
            low = mid + 1;
        else
            high = mid;
    }
    return low < r->n && c >= r->at[low].first;
}

#endif
