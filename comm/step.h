/* comm/step.h - the step message: what every rank gets for one step.  A pure codec: bytes <-> struct.
 *
 * The coordinator (rank 0) numbers steps from 1 and sends each to every rank; ranks apply them in order and a gap is
 * fatal.  Workers keep each sequence's state, so only changes travel.  A sequence lives in a slot (0 .. max_seqs-1)
 * from `admit` until `retire`.
 *
 *   step     = header, retired slots, admissions, block copies, spans
 *   admit    = slot, rope set, prompt length, pooling, sampling parameters, tokens of the cached prefix (workers keep the sampling state)
 *   span     = slot, first position, n tokens, new blocks for each KV group, flags
 *   token    = an id, or STEP_TOKEN_LAST: "what this sequence sampled last", which the last stage tells stage 0
 *
 * A decoding sequence is in at most one step in flight; chunks of one prefill may follow in successive steps.  Blocks and slots are
 * freed by the scheduler only when every step naming them has retired. */
#ifndef COMM_STEP_H
#define COMM_STEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define STEP_TOKEN_LAST (-1)
#define STEP_MAX_KV_GROUPS 8
#define STEP_MAX_STOP_IDS 16
#define STEP_MAX_GRAMMAR ((size_t)16 << 20) /* bytes of a compiled grammar */
#define STEP_VERSION 5

typedef struct step_bias {
    int32_t token;
    float bias; /* -INFINITY bans */
} step_bias;

typedef struct step_tokens {
    int32_t n;
    const int32_t *tokens;
} step_tokens;

/* What a sequence is computed for. */
typedef enum step_pooling {
    STEP_GENERATE,
    STEP_POOL_LAST, /* the hidden state of the prompt's last token, after the final norm */
    STEP_POOL_MEAN, /* the mean over all tokens: every one of them is computed */
} step_pooling;

typedef struct step_sampling {
    float temperature; /* 0 = greedy */
    int32_t top_k;     /* 0 = off */
    float top_p, min_p;
    float repetition_penalty, presence_penalty, frequency_penalty;
    uint64_t seed;
    uint32_t choice;      /* which of n choices of a request: part of the noise's counter */
    int32_t n_logprobs;   /* top log-probabilities to report with each token; -1 = none, 0 = the token's own */
    int32_t n_prompt_logprobs; /* -1 = none */
    int32_t min_tokens;   /* end tokens are banned before this many were generated */
    int32_t max_tokens;   /* the last stage ends the sequence there */
    bool want_hash;       /* keep the running hash of this sequence's logits */
    int32_t n_stop;       /* end tokens (eos, unless the request ignores it, and stop_token_ids) */
    int32_t stop[STEP_MAX_STOP_IDS];
    /* The lists are borrowed: encode reads them; decode points into the step's arena. */
    int32_t n_bias;
    const step_bias *bias;
    step_tokens allowed;        /* none: every token may come; else only these */
    int32_t n_bad_words;
    const step_tokens *bad_words; /* a word's last token is banned where the tokens generated before it are the word's others */
    step_tokens logprob_tokens; /* also reported with each token: their log-probabilities */
    size_t n_grammar;           /* bytes of shard_grammar_compile; 0 = none */
    const void *grammar;
} step_sampling;

typedef struct step_admit {
    int32_t slot;
    int32_t rope_set;     /* shard_arch_rope_set of the prompt's length */
    int32_t n_prompt;     /* tokens of the prompt as the user sees it */
    int32_t n_generated;  /* tokens already generated before (replay or preemption): counted for penalties, lengths and noise positions */
    uint64_t hash;        /* the running hash of its logits so far (0 at first) */
    /* Positions [0, n_prefix) have their keys and values in shared blocks already: no span computes them, the first one starts at n_prefix, which is less
     * than n_prompt + n_generated. */
    int32_t n_prefix;
    const int32_t *prefix; /* the last step_prefix_told(admit) tokens of the prefix: what follows a sequence's tokens takes them as if spans had brought them */
    step_pooling pooling; /* not STEP_GENERATE: instead of a token, the span with STEP_SPAN_SAMPLE gives a vector, and `sampling` is not looked at */
    bool normalize;       /* the vector to length 1 */
    step_sampling sampling;
} step_admit;

/* Penalties look at every token of a sequence... */
bool step_penalised(const step_sampling *s);
/* ... and all else (bad words, grammar) at those generated: how many tokens at the end of a cached prefix the ranks must be told. */
int32_t step_prefix_told(const step_admit *a);

/* Copy a KV block (copy on write of a shared block). */
typedef struct step_copy {
    int32_t group, from, to;
} step_copy;

enum {
    STEP_SPAN_SAMPLE = 1,  /* the span's last token is the sequence's last known one: its logits give a new token */
    STEP_SPAN_PROMPT_LOGPROBS = 2, /* report log-probabilities of this span's tokens' successors */
};

typedef struct step_span {
    int32_t slot;
    int32_t position;    /* of the first token */
    int32_t n_tokens;
    int32_t flags;
    const int32_t *tokens; /* [n_tokens] */
    int32_t next_token;    /* the prompt's token after the span (for STEP_SPAN_PROMPT_LOGPROBS); -1 = none */
    /* Blocks appended to the sequence's table of each group, before this span is computed.  For a sequence with a prefix the first span's
     * include the shared ones; those that the group's window no longer reaches are named by any block, which is not read. */
    int32_t n_new_blocks[STEP_MAX_KV_GROUPS];
    const int32_t *new_blocks[STEP_MAX_KV_GROUPS];
} step_span;

typedef struct step {
    uint64_t number;
    bool stop;           /* no work: ranks leave their loop */
    bool lent;           /* it is in flight alone: while one stage computes the others on its host wait, and lend it their cores */
    int32_t n_kv_groups;
    int32_t n_retire;
    const int32_t *retire;
    int32_t n_admit;
    const step_admit *admit;
    int32_t n_copies;
    const step_copy *copies;
    int32_t n_spans;
    const step_span *spans;
} step;

/* Bounds that decode enforces on outside bytes. */
typedef struct step_limits {
    int32_t max_seqs, max_tokens /* of all spans */, max_blocks /* highest block id + 1 */, max_blocks_per_span;
    int32_t max_bias; /* biases, allowed tokens, log-probability tokens, bad words, tokens of a bad word: each at most this many */
    int32_t max_prefix, vocab;
    int32_t n_kv_groups;
} step_limits;

/* Bytes needed, or bytes written into buf (ST_LIMIT if cap is too small; *len then holds the need). */
status step_encode(const step *s, void *buf, size_t cap, size_t *len);

/* Decodes into *out, whose pointers lead into `arena` (scratch bytes the caller owns, reused from step to step; grown as needed). */
typedef struct step_arena {
    void *data;
    size_t size;
} step_arena;
status step_decode(const void *buf, size_t len, const step_limits *limits, step_arena *arena, step *out);
void step_arena_free(step_arena *arena);

/* A copy that borrows nothing: its lists lie in *memory (one block, NULL if there are none), which the caller frees. */
status step_sampling_copy(const step_sampling *from, step_sampling *out, void **memory);

/* What the last stage answers for a step, to rank 0. */
typedef struct step_logprob {
    int32_t token;
    float logprob;
    int32_t rank; /* 1 = the likeliest; of equal ones the lower token comes first */
} step_logprob;

/* How a token leaves its sequence.  The last two are no token: the sequence ends there by the request's own fault. */
enum {
    STEP_GOES_ON,
    STEP_END_TOKEN,
    STEP_LENGTH,
    STEP_NO_TOKEN,    /* bans, masks and grammar leave no token that could come */
    STEP_NOT_NUMBERS, /* the logits are no numbers */
    STEP_FINISHES
};

typedef struct step_result_row {
    int32_t slot;
    int32_t position;     /* of the token the logits came from */
    int32_t token;        /* sampled; -1 for a row of prompt_logprobs, a vector, or a sequence that ends without one */
    uint8_t finish;       /* STEP_GOES_ON ... ; of a vector STEP_END_TOKEN */
    uint64_t hash;        /* running hash of the sequence's logits, 0 if not wanted */
    float logprob;        /* of the token (sampled or the prompt's next one) */
    int32_t rank;         /* of the token, as in step_logprob; 0: log-probabilities are not wanted */
    int32_t n_top;
    const step_logprob *top; /* the likeliest, in order, then logprob_tokens, in theirs */
    int32_t n_embedding;
    const float *embedding; /* a pooled vector */
} step_result_row;

typedef struct step_result {
    uint64_t number;
    int32_t n_rows;
    const step_result_row *rows;
} step_result;

status step_result_encode(const step_result *r, void *buf, size_t cap, size_t *len);
typedef struct step_result_limits {
    int32_t max_rows, max_top, max_embedding, vocab;
} step_result_limits;
status step_result_decode(const void *buf, size_t len, const step_result_limits *limits, step_arena *arena, step_result *out);

#endif
