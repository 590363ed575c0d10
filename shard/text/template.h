/* shard/text/template.h - chat templates: a Jinja interpreter wide enough for real checkpoints' templates.
 *
 * The environment is transformers': ImmutableSandboxedEnvironment, trim_blocks, lstrip_blocks, loop controls,
 * {% generation %}, tojson without HTML escapes, raise_exception, strftime_now; tools and documents are None
 * when absent.  Templates come with the checkpoint and are hostile until proven otherwise: time, memory, output and
 * depth are bounded, and nothing outside the values given is reachable.  A parsed template is immutable and may be
 * rendered by any number of threads. */
#ifndef SHARD_TEXT_TEMPLATE_H
#define SHARD_TEXT_TEMPLATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/status.h"

typedef struct shard_template shard_template;

/* `where` starts every message; errors name the line. */
status shard_template_parse(const char *where, const char *source, size_t len, shard_template **out);
void shard_template_destroy(shard_template **t);

typedef struct shard_template_limits {
    int64_t max_steps;        /* evaluated nodes; 0 = default (10 million) */
    size_t max_memory;        /* bytes of values; 0 = default (64 MiB) */
    size_t max_output;        /* bytes; 0 = default (16 MiB) */
    int max_depth;            /* nesting of calls, macros and values; 0 = default (200) */
} shard_template_limits;

typedef struct shard_template_input { /* everything borrowed */
    const json_t *messages;   /* list */
    const json_t *tools, *documents; /* list or NULL */
    bool add_generation_prompt;
    bool continue_final_message; /* output ends with the last message's content, as transformers does it */
    const char *continue_field;  /* ... or with this field of it ("reasoning_content"); NULL = "content" */
    const json_t *kwargs;     /* object of extra variables, or NULL */
    const json_t *variables;  /* bos_token, eos_token ...: object of strings, or NULL */
    const char *now;          /* "2026-02-03T14:05:06" seen by strftime_now; NULL = the clock, local time */
} shard_template_input;

/* Appends the rendered prompt.  ST_INVALID: the template refused the input (its raise_exception's text), or the input does not fit
 * the template (an operation a value does not have); ST_LIMIT: a bound was hit.  Messages name template and line. */
status shard_template_render(const shard_template *t, const shard_template_input *input, const shard_template_limits *limits, mem_str *out);

#endif
