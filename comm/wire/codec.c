#include "comm/wire/wire_internal.h"

#include <string.h>

size_t wire_unpack_limit(size_t frame_bytes)
{
    /* An event of nine bytes becomes a struct of 140, an int of one byte four; a whole frame of the smallest events is beyond what anyone sends. */
    size_t limit = ((size_t)64 << 10) + 32 * frame_bytes, most = 8 * WIRE_MAX_MESSAGE;
    return limit < most ? limit : most;
}

static void *arena_alloc(void *data, size_t size)
{
    return mem_arena_alloc(data, size);
}

static void arena_free(void *data, void *pointer)
{
    (void)data, (void)pointer; /* all at once, with the arena */
}

status wire_unpack(const void *data, size_t n, wire_message *out)
{
    *out = (wire_message){0};
    if (n > WIRE_MAX_MESSAGE)
        return ST_FORMAT;
    out->arena = mem_arena_create(wire_unpack_limit(n));
    if (out->arena == NULL)
        return ST_NO_MEMORY;
    ProtobufCAllocator allocator = {.alloc = arena_alloc, .free = arena_free, .allocator_data = out->arena};
    out->envelope = trireme__envelope__unpack(&allocator, n, data);
    if (out->envelope == NULL || out->envelope->body_case == TRIREME__ENVELOPE__BODY__NOT_SET) {
        wire_message_free(out);
        return ST_FORMAT;
    }
    return ST_OK;
}

void wire_message_free(wire_message *m)
{
    mem_arena_destroy(&m->arena);
    m->envelope = NULL;
}
