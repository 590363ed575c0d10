/* tests/bench/bench_tokenizer.c - bytes a second of encoding and decoding.
 *
 *   bench_tokenizer TOKENIZER.json TEXT [SECONDS] */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/file.h"
#include "base/log.h"
#include "shard/text/tokenizer.h"

/* Of this thread: what else runs on the machine counts less. */
static double cpu_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static status run(const char *tokenizer, const char *path, double seconds)
{
    char *json, *text;
    size_t json_len, len;
    shard_tokenizer *t;
    double start = cpu_clock();
    TRY(file_read_all(tokenizer, (size_t)1 << 30, &json, &json_len));
    TRY(shard_tokenizer_from_json(tokenizer, json, json_len, &t));
    printf("%s: %s, opened in %.0f ms\n", tokenizer, shard_tokenizer_kind(t), (cpu_clock() - start) * 1e3);
    TRY(file_read_all(path, (size_t)1 << 30, &text, &len));
    double best = 0, best_decode = 0;
    shard_ids ids = {0};
    for (double begin = log_clock(); log_clock() - begin < seconds;) {
        ids.n = 0;
        start = cpu_clock();
        TRY(shard_tokenizer_encode(t, text, len, 0, &ids));
        double rate = (double)len / (cpu_clock() - start) / 1e6;
        best = rate > best ? rate : best;
        mem_str out = {0};
        start = cpu_clock();
        TRY(shard_tokenizer_decode(t, ids.data, ids.n, false, &out));
        rate = (double)out.len / (cpu_clock() - start) / 1e6;
        best_decode = rate > best_decode ? rate : best_decode;
        mem_str_free(&out);
    }
    printf("%s: %zu bytes, %zu ids: encodes %.1f MB/s, decodes %.1f MB/s (best run, one thread's processor time)\n", path, len, ids.n, best, best_decode);
    shard_ids_free(&ids);
    shard_tokenizer_destroy(&t);
    free(json);
    free(text);
    return ST_OK;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: %s TOKENIZER.json TEXT [SECONDS]\n", argv[0]);
        return 2;
    }
    return run(argv[1], argv[2], argc > 3 ? atof(argv[3]) : 3) == ST_OK ? 0 : 1;
}
