#include "coordinator/gateway/http_internal.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_bodyless(int http)
{
    return http == 204 || http == 304 || http < 200;
}

static ssize_t read_out(void *arg, uint64_t position, char *to, size_t max);

static bool add_headers(const http_request *r, const http_answer *a, const char *content_type, struct MHD_Response *response)
{
    bool ok = is_bodyless(a->status) || MHD_add_response_header(response, "Content-Type", content_type) == MHD_YES;
    for (int i = 0; i < a->n_headers; i++)
        ok = ok && MHD_add_response_header(response, a->headers[i].name, a->headers[i].value) == MHD_YES;
    ok = ok && MHD_add_response_header(response, "X-Request-Id", r->name) == MHD_YES;
    http_cors_add(r, response);
    if (r->close || atomic_load(&r->server->draining))
        ok = ok && MHD_add_response_header(response, "Connection", "close") == MHD_YES;
    return ok;
}

/* Small bodies go out with the head in one write.  Large ones go block by block, so that a client's progress can be seen. */
static struct MHD_Response *whole_response(http_request *r, const http_answer *a, mem_str *body)
{
    size_t n = body != NULL ? body->len : a->body_len;
    r->body_out = n;
    if (n > HTTP_BLOCK) {
        if (body != NULL) {
            mem_str_free(&r->out);
            r->out = *body;
            *body = (mem_str){0};
        } else {
            mem_str_append(&r->out, a->body, n);
        }
        r->appended = n;
        r->ended = true;
        return r->out.failed ? NULL : MHD_create_response_from_callback(n, HTTP_BLOCK, read_out, r, NULL);
    }
    if (a->body_is_static && body == NULL)
        return MHD_create_response_from_buffer(n, (void *)(uintptr_t)a->body, MHD_RESPMEM_PERSISTENT);
    const void *bytes = body != NULL ? body->data : a->body;
    return MHD_create_response_from_buffer(n, (void *)(uintptr_t)(n > 0 ? bytes : ""), MHD_RESPMEM_MUST_COPY);
}

struct MHD_Response *http_response_make(http_request *r, const http_answer *a, mem_str *body)
{
    struct MHD_Response *response;
    if (r->streaming) {
        mem_str_append(&r->out, a->body, a->body_len);
        r->appended = a->body_len;
        response = r->out.failed ? NULL : MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, HTTP_BLOCK, read_out, r, NULL);
    } else {
        response = whole_response(r, a, body);
    }
    const char *type = a->content_type != NULL ? a->content_type : r->streaming ? "text/event-stream" : "application/json";
    if (response != NULL && !add_headers(r, a, type, response)) {
        MHD_destroy_response(response);
        response = NULL;
    }
    if (response != NULL && r->streaming)
        MHD_add_response_header(response, "Cache-Control", "no-cache");
    return response;
}

/* request.lock held. */
static void wake(http_request *r)
{
    if (!r->suspended)
        return;
    r->suspended = false;
    MHD_resume_connection(r->connection);
    http_wake(r->server); /* the library's own signal may be taken off by a run that has already looked */
}

void http_request_lost(http_request *r)
{
    pthread_mutex_lock(&r->lock);
    bool tell = !r->gone && r->owned && !r->handing;
    r->gone = true;
    wake(r);
    pthread_mutex_unlock(&r->lock);
    if (tell && r->server->o.gone != NULL)
        r->server->o.gone(r->server->o.arg, r->id);
}

/* What the library has taken, it has by now written: it asks for more only then.  Fills times with the received_ns of what that completes. */
static int collect_written(http_request *r, uint64_t now, uint64_t times[HTTP_MARKS])
{
    int n = 0;
    if (r->taken > 0 && r->first_written == 0)
        r->first_written = now;
    while (n < r->n_marks && r->marks[n].end <= r->taken) {
        times[n] = r->marks[n].received_ns;
        n++;
    }
    memmove(r->marks, r->marks + n, (size_t)(r->n_marks - n) * sizeof(r->marks[0]));
    r->n_marks -= n;
    return n;
}

/* Moves up to one block to the library; 0: nothing there. */
static size_t take(http_request *r, char *to, size_t max)
{
    size_t n = r->out.len - r->out_start;
    n = n < max ? n : max;
    n = n < HTTP_BLOCK ? n : HTTP_BLOCK;
    if (n == 0)
        return 0;
    memcpy(to, r->out.data + r->out_start, n);
    r->out_start += n;
    r->taken += n;
    if (r->out_start == r->out.len) { /* thousands of idle streams keep no memory */
        r->out_start = 0;
        if (r->out.cap > 4096)
            mem_str_free(&r->out);
        else
            mem_str_clear(&r->out);
    }
    return n;
}

/* The library's reader: I/O thread. */
static ssize_t read_out(void *arg, uint64_t position, char *to, size_t max)
{
    http_request *r = arg;
    uint64_t times[HTTP_MARKS], now = http_now();
    (void)position;
    pthread_mutex_lock(&r->lock);
    int n_times = collect_written(r, now, times);
    ssize_t result = (ssize_t)take(r, to, max);
    if (r->gone || r->aborted) {
        result = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (result > 0) {
        http_conn_deadline(r->conn, r->server->o.write_timeout_ms);
    } else if (r->ended) {
        result = MHD_CONTENT_READER_END_OF_STREAM;
        http_conn_deadline(r->conn, r->server->o.write_timeout_ms);
    } else {
        http_conn_deadline(r->conn, 0);
        r->suspended = true;
        MHD_suspend_connection(r->connection);
    }
    pthread_mutex_unlock(&r->lock);
    for (int i = 0; i < n_times; i++)
        r->server->o.written(r->server->o.arg, times[i], now);
    return result;
}

/* The owner gives the request back: no more news of it. */
static void give_back(http_request **rp)
{
    http_request *r = *rp;
    *rp = NULL;
    pthread_mutex_lock(&r->lock);
    r->owned = false;
    pthread_mutex_unlock(&r->lock);
    http_request_release(r);
}

static void respond(http_request **rp, const http_answer *answer, mem_str *body)
{
    http_request *r = *rp;
    http_request_free_body(r);
    pthread_mutex_lock(&r->lock);
    if (!r->gone && r->response == NULL) {
        r->response = http_response_make(r, answer, body);
        r->status = answer->status;
        r->first_queued = http_now();
        r->aborted = r->response == NULL; /* out of memory: cut, rather than left without an answer */
        wake(r);
    }
    pthread_mutex_unlock(&r->lock);
    give_back(rp);
}

void http_respond(http_request **r, const http_answer *answer)
{
    respond(r, answer, NULL);
}

void http_respond_take(http_request **r, const http_answer *answer, mem_str *body)
{
    if (body->failed) {
        http_respond_error(r, 500, "server_error", NULL, NULL, "Out of memory.", 0);
        mem_str_free(body);
        return;
    }
    respond(r, answer, body);
    mem_str_free(body);
}

void http_error_body(mem_str *out, const char *type, const char *code, const char *param, const char *message)
{
    json_t *error = json_pack("{s:{s:s, s:s, s:s?, s:s?}}", "error", "message", message, "type", type, "param", param, "code", code);
    char *text = error != NULL ? json_dumps(error, 0) : NULL;
    mem_str_puts(out, text != NULL ? text : "{\"error\": {\"message\": \"The request failed.\", \"type\": \"server_error\", \"param\": null, \"code\": null}}");
    free(text);
    json_decref(error);
}

void http_respond_error(http_request **r, int http, const char *type, const char *code, const char *param, const char *message, int retry_after_s)
{
    mem_str body = {0};
    char seconds[16];
    snprintf(seconds, sizeof(seconds), "%d", retry_after_s);
    const http_header retry = {"Retry-After", seconds};
    http_error_body(&body, type, code, param, message);
    respond(r, &(http_answer){.status = http, .headers = &retry, .n_headers = retry_after_s > 0, .body = "", .body_len = 0}, body.failed ? NULL : &body);
    mem_str_free(&body);
}

status http_stream_begin(http_request *r, const http_answer *answer)
{
    http_request_free_body(r);
    pthread_mutex_lock(&r->lock);
    status st = r->gone ? ST_PEER : ST_OK;
    if (st == ST_OK) {
        r->streaming = true;
        r->response = http_response_make(r, answer, NULL);
        r->status = answer->status;
        r->first_queued = http_now();
        r->aborted = r->response == NULL;
        wake(r);
        if (r->aborted)
            st = ST_NO_MEMORY;
    }
    pthread_mutex_unlock(&r->lock);
    return st;
}

/* Room for n more unread bytes; the taken ones make way first. */
static bool has_room(http_request *r, size_t n)
{
    if (r->out_start > 0 && r->out.len + n > r->out.cap) {
        memmove(r->out.data, r->out.data + r->out_start, r->out.len - r->out_start);
        r->out.len -= r->out_start;
        r->out_start = 0;
    }
    return r->out.len - r->out_start + n <= r->server->o.max_unread;
}

status http_stream_append(http_request *r, const void *bytes, size_t n, uint64_t received_ns)
{
    bool slow = false;
    pthread_mutex_lock(&r->lock);
    status st = r->gone || r->aborted ? ST_PEER : ST_OK;
    if (st == ST_OK && n > 0) {
        slow = !has_room(r, n);
        if (!slow)
            mem_str_append(&r->out, bytes, n);
        slow = slow || r->out.failed;
        r->owned = !slow; /* told by the result, not by the callback */
        r->appended += n;
        if (received_ns != 0 && r->server->o.written != NULL && r->n_marks < HTTP_MARKS)
            r->marks[r->n_marks++] = (http_mark){r->appended, received_ns};
        if (!slow)
            wake(r);
    }
    pthread_mutex_unlock(&r->lock);
    if (slow)
        http_request_lost(r);
    return slow ? ST_PEER : st;
}

void http_stream_end(http_request **rp)
{
    http_request *r = *rp;
    pthread_mutex_lock(&r->lock);
    r->ended = true;
    wake(r);
    pthread_mutex_unlock(&r->lock);
    give_back(rp);
}

void http_abort(http_request **rp)
{
    http_request *r = *rp;
    pthread_mutex_lock(&r->lock);
    r->aborted = true;
    wake(r);
    pthread_mutex_unlock(&r->lock);
    give_back(rp);
}
