/* tests/shard_arch/arch_fixture.h - tiny checkpoints as the tests see them: config, tensors' shapes, the golden's frequencies. */
#ifndef TESTS_SHARD_ARCH_FIXTURE_H
#define TESTS_SHARD_ARCH_FIXTURE_H

#include <jansson.h>
#include <stdbool.h>

#include "shard/arch.h"

typedef struct fixture {
    char name[128];
    json_t *config, *tensors; /* tensors: name -> {"dtype", "shape", ...} of every safetensors file */
    bool gguf;
    shard_arch arch;
} fixture;

/* The folder tests/golden/NAME; NULL config: there is none. */
void fixture_open(const char *name, fixture *f);
void fixture_close(fixture *f);
bool fixture_has(void *arg, const char *name); /* a shard_has_tensor_fn; arg: fixture */

/* The names of all folders of tests/golden with a model in them; n <= cap. */
int fixture_names(char (*names)[128], int cap);

/* Opens tests/golden/gguf/NAME.gguf and reads its arch. */
void fixture_open_gguf(const char *name, fixture *f);
int fixture_gguf_names(char (*names)[128], int cap); /* without .gguf */

/* from_config on text with ' for ". */
status fixture_parse(const char *text, shard_arch *out);

/* from_gguf on {"kv": {...}, "tensors": {name: [rows, cols], or reals: the values of a rope list}}; messages say model.gguf. */
status fixture_parse_gguf(const json_t *file, shard_arch *out);

#endif
