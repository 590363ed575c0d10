/* tests/shard_text/test_tokenizer_vectors.c - ids and texts equal the reference library's: on the small tokenizers committed here,
 * and with "reference" on those of the folder that TRIREME_REFERENCE_DIR names (a real model's GGUF by TRIREME_TEST_GGUF
 * and its vectors by TRIREME_TEST_GGUF_VECTORS). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "shard/checkpoint.h"
#include "tests/shard_text/vectors.h"

static int verdict(status st, const vectors_result *r)
{
    printf("%d checks, %d differ\n", r->checks, r->failures);
    return st == ST_OK && r->failures == 0 && r->checks > 0 ? 0 : 1;
}

static status check_gguf(const char *path, const char *vectors, vectors_result *r)
{
    shard_checkpoint *c;
    const shard_tokenizer *t;
    TRY(shard_checkpoint_open(path, &(shard_open_options){.config_only = true}, &c));
    status st = shard_checkpoint_tokenizer(c, &t);
    if (st == ST_OK)
        st = vectors_check(t, vectors, r);
    shard_checkpoint_close(&c);
    return st;
}

static int reference(void)
{
    const char *dir = getenv("TRIREME_REFERENCE_DIR"), *gguf = getenv("TRIREME_TEST_GGUF"), *gguf_vectors = getenv("TRIREME_TEST_GGUF_VECTORS");
    char *folder = dir == NULL ? NULL : file_join(dir, "tokenizers");
    if (folder == NULL || !file_is_dir(folder)) {
        printf("skipped: TRIREME_REFERENCE_DIR names no folder with tokenizers/\n");
        free(folder);
        return 77;
    }
    vectors_result r = {0};
    status st = vectors_check_folder(folder, &r);
    free(folder);
    if (st == ST_OK && gguf != NULL && gguf_vectors != NULL)
        st = check_gguf(gguf, gguf_vectors, &r);
    return verdict(st, &r);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "reference") == 0)
        return reference();
    vectors_result r = {0};
    return verdict(vectors_check_folder(TEST_SOURCE_DIR "/shard_text/data", &r), &r);
}
