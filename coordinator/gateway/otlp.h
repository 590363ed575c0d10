/* coordinator/gateway/otlp.h - spans on their way to a collector of traces: OTLP over HTTP, as JSON (OpenTelemetry Protocol 1.x), and the trace that a request belongs to already (W3C Trace
 * Context, the header traceparent).
 *
 * A thread of its own sends what has gathered, about once a second.  Nobody waits for it: spans that find the queue full are dropped and counted, as are those that the collector did not
 * take within some attempts. */
#ifndef COORDINATOR_GATEWAY_OTLP_H
#define COORDINATOR_GATEWAY_OTLP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/json.h"
#include "base/status.h"

typedef struct otlp otlp;

typedef struct otlp_options { /* strings are borrowed until otlp_destroy */
    const char *endpoint;     /* "http://127.0.0.1:4318", to which /v1/traces is added, or the whole URL with that at its end */
    const char *headers;      /* "name=value,name=value", as in OTEL_EXPORTER_OTLP_HEADERS; may be NULL */
    const char *service, *instance, *version;
    double ratio;             /* of traces that begin here, those that are sent: 0 to 1 */
} otlp_options;

/* ST_INVALID: no such endpoint.  Nothing is sent yet, and no collector need be there. */
status otlp_create(const otlp_options *options, otlp **out);
/* Sends what is left, for at most timeout_ms. */
void otlp_destroy(otlp **o, int timeout_ms);

/* The trace of a request, and the ids of its own span and of the one that it is part of. */
typedef struct otlp_context {
    uint8_t trace[16], span[8], parent[8];
    bool has_parent, sampled; /* not sampled: nothing of it is sent */
    uint64_t epoch_ns;        /* the time of day less http_now, when the request came: all its spans by one clock */
} otlp_context;
/* traceparent: the header, or NULL; one that is wrong counts as none.  o NULL: not sampled. */
void otlp_context_make(const otlp *o, const char *traceparent, otlp_context *out);
/* Pure: "00-<32 digits>-<16 digits>-<2 digits>"; false: it is none, *out is untouched. */
bool otlp_traceparent_parse(const char *text, otlp_context *out);

typedef struct otlp_span {
    const char *name;
    bool root;                     /* the request's own span; else a part of it */
    uint64_t begin_ns, end_ns;     /* http_now */
    const char *error;             /* what went wrong, or NULL */
    json_t *attributes;            /* of otlp_text and its like; taken; may be NULL */
} otlp_span;
/* Any thread; never waits. */
void otlp_put(otlp *o, const otlp_context *c, const otlp_span *span);

/* Adds an attribute to a list, which may be NULL (no memory). */
void otlp_text(json_t *attributes, const char *name, const char *value);
void otlp_int(json_t *attributes, const char *name, int64_t value);
void otlp_number(json_t *attributes, const char *name, double value);

#endif
