/* tests/shard_files/fuzz_card.c - any bytes as a model card. */
#include <stdint.h>
#include <stdlib.h>

#include "shard/card.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *card = shard_card_parse((const char *)data, size);
    if (card != NULL && !json_is_object(card))
        abort();
    json_decref(card);
    return 0;
}
