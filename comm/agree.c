/* comm/agree.c - one answer for several ranks: each brings its status, the first rank gathers, decides and tells. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "comm/comm_internal.h"

typedef struct agree_message {
    uint32_t phase;
    int32_t st;
    int32_t failed_rank;
    uint32_t value;
    char text[HOST_ABORT_TEXT];
} agree_message;

static void message_fill(agree_message *m, status st, int rank, const char *text)
{
    m->st = st;
    m->failed_rank = st == ST_OK ? -1 : rank;
    snprintf(m->text, sizeof(m->text), "%s", st == ST_OK ? "" : text);
}

/* Waits for one rank's message; those of a phase that ended without it are passed over. */
static status take(comm_world *w, int from, int tag, agree_message *m, comm_request **request, int64_t deadline_ns, uint32_t phase)
{
    for (;;) {
        size_t got = 0;
        TRY(p2p_wait(w, request, deadline_ns, &got));
        if (got == sizeof(*m) && m->phase == phase)
            return ST_OK;
        TRY(p2p_recv(w, from, COMM_CHANNEL_CONTROL, tag, m, sizeof(*m), request));
    }
}

/* The first rank: gathers into messages[1..n), decides into messages[0]. */
static status gather(comm_world *w, const int *ranks, int n, int tag, agree_message *messages, comm_request **requests, int64_t deadline_ns)
{
    mem_str missing = {0};
    int first_missing = -1, n_missing = 0;
    agree_message *out = &messages[0];
    for (int i = 1; i < n; i++)
        TRY(p2p_recv(w, ranks[i], COMM_CHANNEL_CONTROL, tag, &messages[i], sizeof(messages[i]), &requests[i]));
    for (int i = 1; i < n; i++) {
        status st = take(w, ranks[i], tag, &messages[i], &requests[i], deadline_ns, out->phase);
        if (st == ST_TIMEOUT) {
            p2p_cancel(w, &requests[i]);
            mem_str_printf(&missing, "%s%d", n_missing++ > 0 ? ", " : "", ranks[i]);
            first_missing = first_missing < 0 ? ranks[i] : first_missing;
        } else if (st != ST_OK) {
            mem_str_free(&missing);
            return st;
        } else if (messages[i].st != ST_OK && (out->st == ST_OK || ranks[i] < out->failed_rank)) {
            uint32_t value = out->value;
            *out = messages[i];
            out->value = value;
        }
    }
    if (out->st == ST_OK && n_missing > 0) {
        char text[HOST_ABORT_TEXT];
        snprintf(text, sizeof(text), "rank%s %s did not come in time", n_missing > 1 ? "s" : "", missing.failed ? "?" : missing.data);
        message_fill(out, ST_TIMEOUT, first_missing, text);
    }
    mem_str_free(&missing);
    return ST_OK;
}

static status lead(comm_world *w, const int *ranks, int n, int tag, agree_message *out, int64_t deadline_ns)
{
    status st;
    agree_message *messages = NULL;
    comm_request **requests = NULL;
    TRY(mem_calloc((size_t)n, sizeof(*messages), "agreement", &messages));
    TRY_GOTO(mem_calloc((size_t)n, sizeof(*requests), "agreement", &requests), done);
    messages[0] = *out;
    TRY_GOTO(gather(w, ranks, n, tag, messages, requests, deadline_ns), done);
    *out = messages[0];
    for (int i = 1; i < n; i++)
        TRY_GOTO(p2p_send(w, ranks[i], COMM_CHANNEL_CONTROL, tag, out, sizeof(*out), &requests[i]), done);
    /* Small messages leave at once; one to a rank that never came may stay behind. */
    int64_t until = world_deadline(1000);
    for (int i = 1; i < n; i++)
        if (p2p_wait(w, &requests[i], until, NULL) == ST_TIMEOUT)
            p2p_cancel(w, &requests[i]);
done:
    for (int i = 1; requests != NULL && i < n; i++)
        p2p_cancel(w, &requests[i]);
    free(requests);
    free(messages);
    return st;
}

static status follow(comm_world *w, int leader, int tag, agree_message *m, int timeout_ms)
{
    comm_request *send = NULL, *recv = NULL;
    uint32_t phase = m->phase;
    agree_message answer = {0};
    TRY(p2p_recv(w, leader, COMM_CHANNEL_CONTROL, tag, &answer, sizeof(answer), &recv));
    status st = p2p_send(w, leader, COMM_CHANNEL_CONTROL, tag, m, sizeof(*m), &send);
    /* The leader may come as late as its patience allows, and then waits for the others as long again. */
    int64_t deadline_ns = world_deadline(timeout_ms < 0 ? -1 : timeout_ms > 1000000000 ? 2000000000 : 2 * timeout_ms + 1000);
    if (st == ST_OK)
        st = take(w, leader, tag, &answer, &recv, deadline_ns, phase);
    if (st == ST_OK)
        *m = answer;
    if (st == ST_TIMEOUT) {
        char text[64];
        snprintf(text, sizeof(text), "rank %d did not come in time", leader);
        message_fill(m, ST_TIMEOUT, leader, text);
        st = ST_OK;
    }
    p2p_cancel(w, &recv);
    if (send != NULL && p2p_wait(w, &send, world_deadline(1000), NULL) == ST_TIMEOUT)
        p2p_cancel(w, &send);
    return st;
}

status agree_over(comm_world *w, const int *ranks, int n, int tag, status mine, int timeout_ms, int *failed_rank, uint32_t *value)
{
    agree_message m = {.phase = tag == CONTROL_AGREE ? ++w->agree_phase : 0, .value = value != NULL ? *value : 0};
    message_fill(&m, mine, w->rank, status_message());
    status st = ST_OK;
    if (n > 1 && w->rank == ranks[0])
        st = lead(w, ranks, n, tag, &m, world_deadline(timeout_ms));
    else if (n > 1)
        st = follow(w, ranks[0], tag, &m, timeout_ms);
    if (st != ST_OK) { /* aborted, or a rank died: everyone learns of it in the same way */
        if (failed_rank != NULL)
            *failed_rank = w->host.shared->abort.rank;
        return st;
    }
    if (failed_rank != NULL)
        *failed_rank = m.failed_rank;
    if (value != NULL)
        *value = m.value;
    if (m.st != ST_OK)
        status_message_set(m.text);
    return (status)m.st;
}
