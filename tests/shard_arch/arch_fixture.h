/* tests/shard_arch/arch_fixture.h - tiny checkpoints as the tests see them: config, tensors' shapes, the golden's frequencies. */
#ifndef TESTS_SHARD_ARCH_FIXTURE_H
#define TESTS_SHARD_ARCH_FIXTURE_H

#include <jansson.h>
#include <stdbool.h>

#include "shard/arch.h"

typedef struct fixture {
    char name[128];
    json_t *config, *tensors; /* tensors: name -> {"dtype", "shape", ...} of every safetensors file */
    shard_arch arch;
} fixture;

/* The folder tests/golden/NAME; NULL config: there is none. */
void fixture_open(const char *name, fixture *f);
void fixture_close(fixture *f);
bool fixture_has(void *arg, const char *name); /* a shard_has_tensor_fn; arg: fixture */

/* The names of all folders of tests/golden with a model in them; n <= cap. */
int fixture_names(char (*names)[128], int cap);

/* from_config on text with ' for ". */
status fixture_parse(const char *text, shard_arch *out);

#endif
