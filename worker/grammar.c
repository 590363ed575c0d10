/* worker/grammar.c - compiled grammars on the last stage: loaded once for equal bytes, walked with each token.
 *
 * Every rank of the stage walks by itself and masks its slice of the vocabulary; tokens and bytes are the same on all, and so are the masks.  A few
 * grammars that no sequence uses any more are kept, with the masks they have worked out, for the requests that ask for them again. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "worker/worker_internal.h"

enum { GRAMMARS_KEPT = 64 };

struct worker_grammar {
    uint8_t digest[HASH_SHA256_BYTES];
    shard_grammar *grammar;
    int32_t users;
    uint64_t used; /* when last admitted, to find the oldest */
};

status worker_grammars_prepare(worker *w)
{
    const shard_tokenizer *t;
    const shard_generation *g = shard_checkpoint_generation(w->opt.checkpoint);
    if (w->grammar_vocab != NULL)
        return ST_OK;
    TRY(shard_checkpoint_tokenizer(w->opt.checkpoint, &t));
    return shard_grammar_vocab_create(t, w->arch->vocab, g->eos, g->n_eos, &w->grammar_vocab);
}

/* Room for one more: the oldest that nobody uses goes when there are many. */
static status room_make(worker *w, worker_grammar **out)
{
    worker_grammar *oldest = NULL;
    for (int32_t i = 0; i < w->n_grammars; i++) {
        worker_grammar *g = w->grammars[i];
        if (g->users == 0 && (oldest == NULL || g->used < oldest->used))
            oldest = g;
    }
    if (oldest != NULL && w->n_grammars >= GRAMMARS_KEPT) {
        shard_grammar_destroy(&oldest->grammar);
        *out = oldest;
        return ST_OK;
    }
    worker_grammar **p = realloc(w->grammars, (size_t)(w->n_grammars + 1) * sizeof(worker_grammar *));
    if (p == NULL)
        return FAIL(ST_NO_MEMORY, "no memory for a grammar");
    w->grammars = p;
    TRY(mem_calloc(1, sizeof(**p), "a grammar", &p[w->n_grammars]));
    *out = p[w->n_grammars++];
    return ST_OK;
}

static status load(worker *w, const void *bytes, size_t n, worker_grammar **out)
{
    uint8_t digest[HASH_SHA256_BYTES];
    TRY(hash_sha256_of(bytes, n, digest));
    for (int32_t i = 0; i < w->n_grammars; i++) {
        *out = w->grammars[i];
        if ((*out)->grammar != NULL && memcmp((*out)->digest, digest, sizeof(digest)) == 0)
            return ST_OK;
    }
    TRY(worker_grammars_prepare(w));
    TRY(room_make(w, out));
    memcpy((*out)->digest, digest, sizeof(digest));
    return shard_grammar_load(bytes, n, w->grammar_vocab, &(*out)->grammar);
}

status worker_grammar_admit(worker *w, worker_seq *q, const void *bytes, size_t n)
{
    if (n == 0)
        return ST_OK;
    if (q->mask == NULL)
        TRY(mem_calloc(((size_t)w->arch->vocab + 31) / 32, sizeof(uint32_t), "a mask", &q->mask));
    worker_grammar *g = NULL;
    TRY(load(w, bytes, n, &g));
    TRY(shard_grammar_state_create(g->grammar, &q->grammar_state));
    g->users++;
    g->used = w->step_number;
    q->grammar = g;
    q->grammar_lost = false;
    return ST_OK;
}

void worker_grammar_retire(worker_seq *q)
{
    if (q->grammar == NULL)
        return;
    shard_grammar_state_destroy(&q->grammar_state);
    q->grammar->users--;
    q->grammar = NULL;
}

/* A failure that follows from grammar and tokens is the request's, and the same on every rank. */
static status own_fault(worker_seq *q, status st)
{
    q->grammar_lost |= st != ST_OK;
    return st == ST_NO_MEMORY ? FAIL(st, "no memory for a grammar's state") : ST_OK;
}

status worker_grammar_saw(worker_seq *q, int32_t token)
{
    if (q->grammar == NULL)
        return ST_OK;
    status_mute();
    status st = shard_grammar_accept(q->grammar_state, token);
    status_unmute();
    return own_fault(q, st);
}

status worker_grammar_row(worker *w, worker_seq *q, ops_sample_row *r)
{
    size_t words = ((size_t)w->arch->vocab + 31) / 32;
    if (q->grammar == NULL)
        return ST_OK;
    status_mute();
    status st = q->grammar_lost ? ST_UNSUPPORTED : shard_grammar_mask(q->grammar_state, q->mask);
    status_unmute();
    TRY(own_fault(q, st));
    if (q->grammar_lost)
        memset(q->mask, 0, words * sizeof(uint32_t));
    for (size_t i = 0; r->allow != NULL && i < words; i++)
        q->mask[i] &= r->allow[i];
    r->allow = q->mask;
    return ST_OK;
}

bool worker_grammar_ended(const worker_seq *q)
{
    return q->grammar != NULL && shard_grammar_ended(q->grammar_state);
}

/* A grammar's end is the request's, whatever end tokens it goes by. */
bool worker_grammar_ends(const worker *w, const worker_seq *q, int32_t token)
{
    const shard_generation *g = shard_checkpoint_generation(w->opt.checkpoint);
    for (int32_t i = 0; q->grammar != NULL && i < g->n_eos; i++) {
        if (g->eos[i] == token)
            return true;
    }
    return false;
}

void worker_grammars_destroy(worker *w)
{
    for (int32_t i = 0; i < w->n_grammars; i++) {
        shard_grammar_destroy(&w->grammars[i]->grammar);
        free(w->grammars[i]);
    }
    free(w->grammars);
    shard_grammar_vocab_destroy(&w->grammar_vocab);
}
