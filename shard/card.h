/* shard/card.h - the metadata at the head of a model card (README.md), as JSON.
 *
 * Between two lines of "---" stands YAML; what cards use of it is read: nested mappings and lists by indentation, flow lists and mappings, quoted and plain
 * scalars, block scalars (| and >), comments.  Anchors, tags and complex keys are not.  Cards are written by hand: what cannot be understood is left out. */
#ifndef SHARD_CARD_H
#define SHARD_CARD_H

#include <jansson.h>
#include <stddef.h>

/* An object; empty where the text has no such head.  NULL: out of memory.  Depth and size are bounded. */
json_t *shard_card_parse(const char *text, size_t len);

#endif
