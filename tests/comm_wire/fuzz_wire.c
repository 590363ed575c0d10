/* tests/comm_wire/fuzz_wire.c - hostile frames and key files: what unpacks packs to as much again, and what passes the checks keeps their promises.
 * The first byte says who sends: 0 a replica, 1 a gateway; 2: a key file. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "comm/wire/wire_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const wire_limits limits = {.vocab = 512, .max_model_len = 4096, .embedding_dim = 4};

static void frame(const uint8_t *data, size_t n, wire_side from)
{
    wire_message m, again;
    if (wire_unpack(data, n, &m) != ST_OK)
        return;
    if (mem_arena_used(m.arena) > wire_unpack_limit(n))
        abort();
    Trireme__Envelope *e = m.envelope;
    const char *wrong = wire_check(e, from, &limits);
    if (wrong == NULL && e->body_case == TRIREME__ENVELOPE__BODY_HELLO && (!wire_name_valid(e->hello->replica) || strlen(e->hello->model) > 512))
        abort();
    if (wrong == NULL && e->body_case == TRIREME__ENVELOPE__BODY_SUBMIT && wire_check_submit(e->submit, &limits) == NULL &&
        e->submit->n_tokens > (size_t)limits.max_model_len)
        abort();
    size_t bytes = trireme__envelope__get_packed_size(e);
    uint8_t *packed = malloc(bytes + 1);
    if (packed == NULL)
        abort();
    if (trireme__envelope__pack(e, packed) != bytes)
        abort();
    if (bytes <= n && wire_unpack(packed, bytes, &again) == ST_OK) {
        if (again.envelope->body_case != e->body_case || trireme__envelope__get_packed_size(again.envelope) != bytes)
            abort();
        wire_message_free(&again);
    }
    free(packed);
    wire_message_free(&m);
}

static void key_file(const uint8_t *data, size_t n)
{
    wire_keys keys;
    char *text = malloc(n + 1);
    if (text == NULL)
        abort();
    memcpy(text, data, n);
    text[n] = '\0';
    status_mute();
    if (wire_keys_parse("key", text, n, &keys) == ST_OK && strlen(keys.public_key) != WIRE_KEY - 1)
        abort();
    status_unmute();
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || size > 1 << 16)
        return 0;
    if (data[0] % 3 == 2)
        key_file(data + 1, size - 1);
    else
        frame(data + 1, size - 1, data[0] % 3 == 0 ? WIRE_FROM_REPLICA : WIRE_FROM_GATEWAY);
    return 0;
}
