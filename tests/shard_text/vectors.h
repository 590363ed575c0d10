/* tests/shard_text/vectors.h - checks a tokenizer against lines of JSON made by the reference library. */
#ifndef TESTS_SHARD_TEXT_VECTORS_H
#define TESTS_SHARD_TEXT_VECTORS_H

#include "shard/text/tokenizer.h"

typedef struct vectors_result {
    int checks, failures;
} vectors_result;

/* Lines {"text", "ids", "ids_special", "decoded", "decoded_skip"} and {"decode_ids", "decoded", "decoded_skip"}; a field
 * that is absent equals the one before it.  Prints the first few differences.  Streamed decoding is checked too. */
status vectors_check(const shard_tokenizer *t, const char *path, vectors_result *r);
/* Every NAME.tokenizer.json in a folder with its NAME.vectors.jsonl. */
status vectors_check_folder(const char *folder, vectors_result *r);
status vectors_load(const char *path, shard_tokenizer **out);

#endif
