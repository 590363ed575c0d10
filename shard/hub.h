/* shard/hub.h - checkpoints by hub name, in the cache that Hugging Face's own tools use.
 *
 *   $HF_HUB_CACHE (or $HF_HOME/hub, ~/.cache/huggingface/hub)/models--ORG--NAME/
 *     refs/REVISION              the commit a branch or tag stood at
 *     blobs/HASH                 the bytes, named by SHA-256 (large files) or git's SHA-1
 *     snapshots/COMMIT/FILE   -> ../../blobs/HASH
 *
 * A revision is resolved to a commit once, and everything is taken from that commit.  Only what an engine needs is downloaded: configuration, tokenizer,
 * template, model card and safetensors, or one GGUF.  Sizes and hashes are checked; an interrupted download goes on where it stopped.
 * HF_ENDPOINT names another server; HF_TOKEN (or $HF_HOME/token) is sent to that server alone, never to where it redirects;
 * HF_HUB_OFFLINE=1 forbids the network. */
#ifndef SHARD_HUB_H
#define SHARD_HUB_H

#include <stdbool.h>

#include "base/status.h"

typedef struct shard_hub_name {
    char repo[200];  /* "org/name" or "name" */
    char file[256];  /* "FILE.gguf" or a quantisation ("Q4_K_M"); "" = safetensors */
} shard_hub_name;

/* ORG/NAME, ORG/NAME:FILE.gguf or ORG/NAME:QUANT.  false: it is no such name. */
bool shard_hub_name_parse(const char *text, shard_hub_name *out);

typedef struct shard_hub_options {
    const char *revision; /* branch, tag or commit; NULL = main */
    bool offline, config_only;
} shard_hub_options;

typedef struct shard_hub_result {
    char *path;     /* the snapshot's folder, or the (first) GGUF file in it; caller frees */
    char *commit;   /* caller frees */
    unsigned long long bytes_downloaded;
    int files_downloaded, files;
} shard_hub_result;

/* Makes sure the files are in the cache and says where.  Processes that want the same repository at once wait for one that downloads it.  ST_NOT_FOUND: no
 * such repository, revision or file, or offline and not in the cache; ST_CORRUPT: a hash differs; ST_IO, ST_TIMEOUT: the network. */
status shard_hub_fetch(const shard_hub_name *name, const shard_hub_options *options, shard_hub_result *out);

#endif
