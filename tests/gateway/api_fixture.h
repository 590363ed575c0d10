/* tests/gateway/api_fixture.h - a model for tests of the API: a token for each byte, and the marks that tests need. */
#ifndef TESTS_GATEWAY_API_FIXTURE_H
#define TESTS_GATEWAY_API_FIXTURE_H

#include "coordinator/gateway/api.h"

enum { fixture_eos = 257, fixture_first_special = 256 };

/* template NULL: ChatML; templates: more of them by name, or NULL. */
shard_text *fixture_text(const char *template, const json_t *templates, bool fim);
api_model fixture_model(const shard_text *text);

#endif
