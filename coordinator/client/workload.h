/* coordinator/client/workload.h - what is sent: so many requests, each with a prompt of so many tokens and an answer of so many, drawn from a seed or read from a file.
 *
 *   random    lengths uniform in [length * (1 - ratio), length * (1 + ratio)], tokens at random, behind a prefix that all share
 *   prefix    n prefixes, each shared by an equal part of the requests, in random order; a suffix of one's own
 *   sharegpt  conversations: the first question and the length of the first answer, as `vllm bench serve` picks them
 *   trace     lines of {"timestamp": ms, "input_length", "output_length"}; "hash_ids" name blocks of 512 tokens, equal ids being equal tokens
 *
 * A prompt is a list of segments, each a seed and a length, and is spelled when it is sent: as token ids, or as words.  Ids come from a vocabulary of a given size, or are
 * those that the server's POST /tokenize makes of the words, so that they exist.  Words are counted by the same route, and corrected until the server counts what was
 * wanted; where it has none, a word stands for a token. */
#ifndef COORDINATOR_CLIENT_WORKLOAD_H
#define COORDINATOR_CLIENT_WORKLOAD_H

#include "base/mem.h"
#include "coordinator/client/server.h"

typedef enum client_data_kind { CLIENT_RANDOM, CLIENT_PREFIX, CLIENT_SHAREGPT, CLIENT_TRACE } client_data_kind;

enum { CLIENT_TRACE_BLOCK = 512, CLIENT_MAX_TOKENS = 1 << 24 };

typedef struct client_data_options {
    client_data_kind kind;
    const char *path;       /* of sharegpt and trace */
    int32_t n;              /* requests; trace: at most, 0 = all */
    uint64_t seed;
    bool text;              /* prompts are words, not ids */
    bool add_special;       /* the server puts special tokens before a prompt that is text, and they count */
    int32_t vocab_size;     /* ids are below it; 0: those of the words */
    int32_t input_len, output_len, prefix_len; /* random; of prefix: suffix, answer, prefix */
    double range_ratio;
    int32_t n_prefixes;
    double trace_speed;     /* 2: twice as fast */
} client_data_options;

typedef struct client_segment {
    uint64_t seed;
    int32_t n; /* tokens or words */
} client_segment;

typedef struct client_item {
    double at;              /* trace: when, seconds since its first */
    int32_t n_prompt, n_output;
    size_t first_segment, n_segments;
    char *text;             /* of a conversation, instead of segments */
} client_item;

typedef struct client_workload {
    client_item *items;
    int32_t n;
    client_segment *segments;
    size_t n_segments, cap_segments;
    bool text;
    int32_t vocab_size;
    int32_t *ids;           /* [n_ids], if vocab_size is 0 */
    size_t n_ids;
    bool uncounted;         /* the server does not count tokens: lengths of text are a guess */
} client_workload;

/* server and model: for /tokenize. */
status client_workload_create(const client_data_options *options, client_server *server, const char *model, client_workload *out);
void client_workload_free(client_workload *w);

/* The prompt as JSON: a list of ids, or a string.  salt: 0, or another one for prompts of the same shape and other tokens (warm-up). */
void client_prompt_put(const client_workload *w, const client_item *item, uint64_t salt, mem_str *out);

/* Pure parts, which tests and fuzzers call. */
status client_trace_parse(const char *where, const char *text, size_t len, const client_data_options *options, client_workload *out);
/* The usable conversations of such a file in a random order: pairs of strings in an array, the caller's. */
status client_sharegpt_parse(const char *where, json_t *file, uint64_t seed, json_t **out);

/* A number in [0, 1) from a seed and a counter. */
double client_uniform(uint64_t seed, uint64_t i);

#endif
