/* coordinator/gateway/metrics.h - counters, gauges and histograms, and the Prometheus text that shows them.
 *
 * METRICS_LIST is the table: every family with its kind, buckets, label names and help.  A family times a set of label values is a series; who updates it
 * gets it once (a lookup under a lock) and keeps the pointer.  Updates are atomic operations without locks, from any thread.
 * Names are exposed under "trireme:" and, by option, under "vllm:" as well, with the retired names that boards still scrape.  http_* and process_* have no prefix. */
#ifndef COORDINATOR_GATEWAY_METRICS_H
#define COORDINATOR_GATEWAY_METRICS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/status.h"

#define METRICS_MAX_LABELS 8

/* X(id, kind, buckets, name, old names under vllm: (space-separated), label names (space-separated), help)
 * kind: COUNTER ("_total" is appended), GAUGE, HISTOGRAM.  Families that only we have carry "-" as old names: not shown under vllm:. */
#define METRICS_ENGINE "model_name engine"
#define METRICS_LIST(X)                                                                                                                                                      \
    X(NUM_REQUESTS_RUNNING, GAUGE, NONE, "num_requests_running", "", METRICS_ENGINE, "Requests in the running batch.")                                                       \
    X(NUM_REQUESTS_WAITING, GAUGE, NONE, "num_requests_waiting", "", METRICS_ENGINE, "Requests waiting to be scheduled.")                                                    \
    X(NUM_REQUESTS_WAITING_BY_REASON, GAUGE, NONE, "num_requests_waiting_by_reason", "", METRICS_ENGINE " reason", "Waiting requests by reason: capacity, deferred.")        \
    X(NUM_REQUESTS_SWAPPED, GAUGE, NONE, "num_requests_swapped", "", METRICS_ENGINE, "Requests swapped out: always 0, preemption recomputes.")                               \
    X(KV_CACHE_USAGE, GAUGE, NONE, "kv_cache_usage_perc", "gpu_cache_usage_perc", METRICS_ENGINE, "Share of KV cache blocks in use, 0 to 1.")                                \
    X(CPU_CACHE_USAGE, GAUGE, NONE, "cpu_cache_usage_perc", "", METRICS_ENGINE, "Share of swapped KV blocks: always 0.")                                                     \
    X(CACHE_CONFIG, GAUGE, NONE, "cache_config_info", "", METRICS_ENGINE " block_size num_gpu_blocks cache_dtype enable_prefix_caching", "The KV cache's configuration.")    \
    X(LORA_REQUESTS, GAUGE, NONE, "lora_requests_info", "", METRICS_ENGINE " max_lora waiting_lora_adapters running_lora_adapters", "Adapters in use.")                      \
    X(ENGINE_SLEEP, GAUGE, NONE, "engine_sleep_state", "", METRICS_ENGINE " sleep_state", "Sleep state of the engine.")                                                      \
    X(PREFIX_CACHE_QUERIES, COUNTER, NONE, "prefix_cache_queries", "gpu_prefix_cache_queries", METRICS_ENGINE, "Prompt tokens looked up in the prefix cache.")               \
    X(PREFIX_CACHE_HITS, COUNTER, NONE, "prefix_cache_hits", "gpu_prefix_cache_hits", METRICS_ENGINE, "Prompt tokens found in the prefix cache.")                            \
    X(NUM_PREEMPTIONS, COUNTER, NONE, "num_preemptions", "", METRICS_ENGINE, "Requests preempted.")                                                                          \
    X(PROMPT_TOKENS, COUNTER, NONE, "prompt_tokens", "", METRICS_ENGINE, "Prompt tokens processed.")                                                                         \
    X(PROMPT_TOKENS_BY_SOURCE, COUNTER, NONE, "prompt_tokens_by_source", "", METRICS_ENGINE " source", "Prompt tokens: local_compute, local_cache_hit.")                      \
    X(PROMPT_TOKENS_CACHED, COUNTER, NONE, "prompt_tokens_cached", "", METRICS_ENGINE, "Prompt tokens that came from the cache.")                                            \
    X(GENERATION_TOKENS, COUNTER, NONE, "generation_tokens", "", METRICS_ENGINE, "Tokens generated.")                                                                        \
    X(REQUEST_SUCCESS, COUNTER, NONE, "request_success", "", METRICS_ENGINE " finished_reason", "Requests ended: stop, length, abort, error.")                               \
    X(CORRUPTED_REQUESTS, COUNTER, NONE, "corrupted_requests", "", METRICS_ENGINE, "Requests ended because a logit was NaN.")                                                \
    X(REQUEST_PROMPT_TOKENS, HISTOGRAM, TOKENS, "request_prompt_tokens", "", METRICS_ENGINE, "Prompt tokens of a request.")                                                  \
    X(REQUEST_GENERATION_TOKENS, HISTOGRAM, TOKENS, "request_generation_tokens", "", METRICS_ENGINE, "Tokens generated for a request.")                                      \
    X(ITERATION_TOKENS, HISTOGRAM, ITERATION, "iteration_tokens_total", "", METRICS_ENGINE, "Tokens in a step.")                                                             \
    X(REQUEST_MAX_GENERATION_TOKENS, HISTOGRAM, TOKENS, "request_max_num_generation_tokens", "", METRICS_ENGINE, "Most tokens generated for one choice of a request.")        \
    X(REQUEST_PARAMS_N, HISTOGRAM, N, "request_params_n", "", METRICS_ENGINE, "The n of a request.")                                                                         \
    X(REQUEST_PARAMS_MAX_TOKENS, HISTOGRAM, TOKENS, "request_params_max_tokens", "", METRICS_ENGINE, "The max_tokens of a request.")                                         \
    X(TIME_TO_FIRST_TOKEN, HISTOGRAM, TTFT, "time_to_first_token_seconds", "", METRICS_ENGINE, "From the request's arrival to its first token.")                             \
    X(INTER_TOKEN_LATENCY, HISTOGRAM, ITL, "inter_token_latency_seconds", "time_per_output_token_seconds", METRICS_ENGINE, "Between successive tokens of a request.")        \
    X(REQUEST_TIME_PER_OUTPUT_TOKEN, HISTOGRAM, ITL, "request_time_per_output_token_seconds", "", METRICS_ENGINE, "A request's mean time per token after the first.")        \
    X(E2E_REQUEST_LATENCY, HISTOGRAM, LATENCY, "e2e_request_latency_seconds", "", METRICS_ENGINE, "From arrival to the last token.")                                         \
    X(REQUEST_QUEUE_TIME, HISTOGRAM, LATENCY, "request_queue_time_seconds", "", METRICS_ENGINE, "Time waiting.")                                                             \
    X(REQUEST_INFERENCE_TIME, HISTOGRAM, LATENCY, "request_inference_time_seconds", "", METRICS_ENGINE, "Time running.")                                                     \
    X(REQUEST_PREFILL_TIME, HISTOGRAM, LATENCY, "request_prefill_time_seconds", "", METRICS_ENGINE, "Time in prefill.")                                                      \
    X(REQUEST_DECODE_TIME, HISTOGRAM, LATENCY, "request_decode_time_seconds", "", METRICS_ENGINE, "Time in decode.")                                                         \
    X(REQUEST_PREFILL_KV_COMPUTED, HISTOGRAM, TOKENS, "request_prefill_kv_computed_tokens", "", METRICS_ENGINE, "Prompt tokens computed, the cached ones left out.")          \
    X(AVG_PROMPT_THROUGHPUT, GAUGE, NONE, "avg_prompt_throughput_toks_per_s", "", METRICS_ENGINE, "Prompt tokens a second, lately.")                                         \
    X(AVG_GENERATION_THROUGHPUT, GAUGE, NONE, "avg_generation_throughput_toks_per_s", "", METRICS_ENGINE, "Generated tokens a second, lately.")                              \
    X(PREFIX_CACHE_HIT_RATE, GAUGE, NONE, "prefix_cache_hit_rate", "gpu_prefix_cache_hit_rate", METRICS_ENGINE, "Share of prompt tokens found in the prefix cache.")         \
    /* Ours alone. */                                                                                                                                                        \
    X(RANK_STEP_SECONDS, COUNTER, NONE, "rank_step_seconds", "-", METRICS_ENGINE " rank", "Time of steps on a rank.")                                                        \
    X(RANK_STEPS, COUNTER, NONE, "rank_steps", "-", METRICS_ENGINE " rank", "Steps ended on a rank.")                                                                        \
    X(RANK_COLLECTIVE_SECONDS, COUNTER, NONE, "rank_collective_seconds", "-", METRICS_ENGINE " rank", "Time of a rank in collectives.")                                      \
    X(RANK_ARRIVAL_SKEW_SECONDS, COUNTER, NONE, "rank_arrival_skew_seconds", "-", METRICS_ENGINE " rank", "How much later than the first a rank came to collectives.")        \
    X(STEP_SECONDS, HISTOGRAM, FAST, "step_seconds", "-", METRICS_ENGINE, "Time of a step.")                                                                                 \
    X(REPLICAS, GAUGE, NONE, "replicas", "-", "model_name state", "Replicas by state: ready, draining, lost.")                                                               \
    X(REPLAYS, COUNTER, NONE, "replays", "-", "model_name", "Requests submitted again after a replica was lost.")                                                            \
    X(REQUESTS_REFUSED, COUNTER, NONE, "requests_refused", "-", "reason", "Requests refused: key, requests, tokens, concurrent, capacity, draining.")                        \
    X(GATEWAY_SUBMIT_SECONDS, HISTOGRAM, FAST, "gateway_submit_seconds", "-", "", "From a request's body read to its submit sent.")                                          \
    X(GATEWAY_WRITE_SECONDS, HISTOGRAM, FAST, "gateway_write_seconds", "-", "", "From tokens received to their bytes in the client's socket.")                               \
    X(GATEWAY_CONNECTIONS, GAUGE, NONE, "gateway_connections", "-", "", "Open connections.")                                                                                 \
    X(GATEWAY_ACTIVE, GAUGE, NONE, "gateway_active_requests", "-", "", "Requests being read, at work or being answered.")                                                    \
    X(ACCESS_DROPPED, COUNTER, NONE, "access_log_dropped", "-", "", "Lines of the access log that found no room.")                                                           \
    X(HTTP_REQUESTS, COUNTER, NONE, "http_requests", "=", "handler method status", "Requests by route, method and class of status.")                                         \
    X(HTTP_REQUEST_SIZE, HISTOGRAM, BYTES, "http_request_size_bytes", "=", "handler", "Bytes of request bodies.")                                                            \
    X(HTTP_RESPONSE_SIZE, HISTOGRAM, BYTES, "http_response_size_bytes", "=", "handler", "Bytes of response bodies.")                                                         \
    X(HTTP_REQUEST_DURATION, HISTOGRAM, HTTP, "http_request_duration_seconds", "=", "handler method", "From the head read to the last byte written.")                        \
    X(HTTP_REQUEST_DURATION_HIGHR, HISTOGRAM, HIGHR, "http_request_duration_highr_seconds", "=", "", "The same over all routes, in fine buckets.")

typedef enum metrics_id {
#define METRICS_ENUM(id, kind, buckets, name, old, labels, help) METRIC_##id,
    METRICS_LIST(METRICS_ENUM)
#undef METRICS_ENUM
    METRICS_N
} metrics_id;

typedef struct metrics metrics;
typedef struct metrics_series metrics_series;

typedef struct metrics_options {
    bool vllm_names;
    int64_t max_model_len; /* where the buckets of token counts end; 0: 1,000,000 */
    int max_series_per_family; /* 0: 2048 */
} metrics_options;
status metrics_create(const metrics_options *options, metrics **out);
void metrics_destroy(metrics **m);

/* The series of these label values, in the order of the table's names (NULL where there are none); made at the first call, valid until destroy.  Never
 * NULL: past the bound, or out of memory, one that is not shown.  Any bytes may be in a value. */
metrics_series *metrics_get(metrics *m, metrics_id id, const char *const *values);
/* A replica has left: series with this value of the label are no longer shown until got again (then from 0). */
void metrics_hide(metrics *m, const char *label, const char *value);

void metrics_add(metrics_series *s, double v);     /* counter (v >= 0) or gauge */
void metrics_set(metrics_series *s, double v);     /* gauge; a counter that mirrors one elsewhere */
void metrics_observe(metrics_series *s, double v); /* histogram */

/* One exchange into the http_* families. status 0 counts as "499": the client left first. */
void metrics_http(metrics *m, const char *route, const char *method, int status, uint64_t bytes_in, uint64_t bytes_out, double seconds);

/* What a scraper gets.  accept: the header, or NULL; *content_type is static: Prometheus text 0.0.4, or OpenMetrics 1.0.0 when asked for. */
status metrics_text(metrics *m, const char *accept, mem_str *out, const char **content_type);

#endif
