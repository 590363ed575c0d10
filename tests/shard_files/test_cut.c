/* tests/shard_files/test_cut.c - `trireme shard`: what is written is what would have been read, every damage is found and named, and a failure leaves
 * nothing. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "shard/checkpoint.h"
#include "shard/write.h"
#include "tests/shard_files/make.h"

static const shard_write_options quiet = {.quiet = true, .tool_version = "1.2.3", .tool_commit = "abc"};

static shard_plan *make_plan(shard_checkpoint *c, int32_t tp, int32_t pp, bool f32)
{
    shard_plan *plan;
    shard_plan_options o = {.tp = tp, .pp = pp, .max_seqs = 4, .max_context = 64, .max_batched_tokens = 64, .types = *shard_checkpoint_types(c, f32)};
    assert_int_equal(shard_plan_create(shard_checkpoint_arch(c), &o, &plan), ST_OK);
    return plan;
}

/* A llama of that type, cut; *source stays open. */
static char *make_cut(const char *folder, bool gguf, shard_dtype dtype, int32_t tp, int32_t pp, bool f32, shard_checkpoint **source, shard_plan **plan)
{
    char *src = make_path(folder, "source"), *target = make_path(folder, "cut");
    assert_int_equal(file_make_dirs(src), ST_OK);
    if (gguf)
        make_llama_gguf(src, "tiny.gguf", dtype);
    else
        make_llama_folder(src, dtype);
    assert_int_equal(shard_checkpoint_open(src, NULL, source), ST_OK);
    *plan = make_plan(*source, tp, pp, f32);
    shard_write_options o = quiet;
    o.f32 = f32;
    shard_write_stats stats;
    assert_int_equal(shard_write(*source, *plan, &o, target, &stats), ST_OK);
    assert_int_equal(stats.ranks, tp * pp);
    free(src);
    return target;
}

/* Every slice of every rank: equal bytes from the cut and from the source. */
static void compare_rank(shard_checkpoint *a, shard_checkpoint *b, const shard_rank_plan *r, bool f32)
{
    const shard_arch *arch = shard_checkpoint_arch(b);
    for (int role = 0; role < SHARD_ROLES; role++) {
        for (int32_t layer = r->layer_begin; layer < r->layer_end; layer++) {
            shard_slice rows, cols;
            packed_shape s;
            if (!shard_plan_slice(arch, r, (shard_role)role, layer, &rows, &cols) || rows.end <= rows.begin)
                continue;
            bool vector = shard_role_is_vector((shard_role)role);
            assert_true(vector || shard_plan_packed(arch, r, shard_checkpoint_types(b, f32), (shard_role)role, layer, &s));
            size_t bytes = mem_align(vector ? (size_t)(rows.end - rows.begin) * 4 : packed_bytes(s), 64);
            void *x = aligned_alloc(64, bytes), *y = aligned_alloc(64, bytes);
            memset(x, 0, bytes);
            memset(y, 0xff, bytes); /* a cut's read overwrites all */
            if (vector) {
                memset(y, 0, bytes);
                assert_int_equal(shard_checkpoint_read_vector(a, (shard_role)role, layer, rows, x), ST_OK);
                assert_int_equal(shard_checkpoint_read_vector(b, (shard_role)role, layer, rows, y), ST_OK);
            } else {
                assert_int_equal(shard_checkpoint_read_matrix(a, (shard_role)role, layer, rows, cols, s, x), ST_OK);
                assert_int_equal(shard_checkpoint_read_matrix(b, (shard_role)role, layer, rows, cols, s, y), ST_OK);
                bytes = packed_bytes(s);
            }
            assert_memory_equal(x, y, bytes);
            free(x);
            free(y);
        }
    }
}

static void a_cut_holds_what_the_source_gives(void **state)
{
    (void)state;
    static const struct {
        bool gguf, f32;
        shard_dtype dtype;
        int32_t tp, pp;
    } cases[] = {{false, false, SHARD_BF16, 2, 2}, {true, false, SHARD_Q8_0, 2, 2}, {true, true, SHARD_Q8_0, 3, 1}, {false, true, SHARD_F16, 1, 2},
                 {false, false, SHARD_F32, 1, 1}, {true, false, SHARD_F16, 4, 1}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char *folder = make_folder();
        shard_checkpoint *source, *cut;
        shard_plan *plan, *again;
        char *target = make_cut(folder, cases[i].gguf, cases[i].dtype, cases[i].tp, cases[i].pp, cases[i].f32, &source, &plan);
        assert_int_equal(shard_checkpoint_open(target, NULL, &cut), ST_OK);
        shard_cut_info info;
        assert_true(shard_checkpoint_cut_info(cut, &info));
        assert_false(shard_checkpoint_cut_info(source, &info));
        assert_int_equal(info.tp, cases[i].tp);
        assert_int_equal(info.f32, cases[i].f32);
        assert_memory_equal(shard_checkpoint_arch(cut), shard_checkpoint_arch(source), sizeof(shard_arch));
        again = make_plan(cut, info.tp, info.pp, info.f32); /* from the cut alone, as a start does */
        for (int32_t r = 0; r < plan->n_ranks; r++)
            compare_rank(source, cut, &again->ranks[r], cases[i].f32);
        assert_int_equal(shard_checkpoint_verify(cut), ST_OK);
        assert_string_equal(shard_checkpoint_digest(cut), shard_checkpoint_digest(source));
        shard_io_stats io;
        shard_checkpoint_io_stats(cut, &io);
        assert_int_equal(io.bytes_read, io.bytes_needed);
        shard_plan_destroy(&plan);
        shard_plan_destroy(&again);
        shard_checkpoint_close(&cut);
        shard_checkpoint_close(&source);
        make_remove(folder);
        free(target);
        free(folder);
    }
}

static void another_split_is_refused_with_the_remedy(void **state)
{
    (void)state;
    char *folder = make_folder();
    shard_checkpoint *source, *cut;
    shard_plan *plan;
    char *target = make_cut(folder, true, SHARD_Q8_0, 2, 1, false, &source, &plan);
    assert_int_equal(shard_checkpoint_open(target, NULL, &cut), ST_OK);
    packed_shape s = {PACKED_Q8_0, 64, 64, 0};
    void *m = calloc(1, mem_align(packed_bytes(s), 64));
    status_mute();
    assert_int_equal(shard_checkpoint_read_matrix(cut, SHARD_Q, 0, (shard_slice){0, 64}, (shard_slice){0, 64}, s, m), ST_INVALID);
    status_unmute();
    assert_non_null(strstr(status_message(), "--tp 2 --pp 1"));
    free(m);
    status_mute();
    assert_int_equal(shard_write(cut, plan, &quiet, "unused", NULL), ST_INVALID);
    status_unmute();
    assert_non_null(strstr(status_message(), "source"));
    shard_plan_destroy(&plan);
    shard_checkpoint_close(&cut);
    shard_checkpoint_close(&source);
    make_remove(folder);
    free(target);
    free(folder);
}

static json_t *load_manifest(const char *target)
{
    json_t *m;
    char *path = make_path(target, "manifest.json");
    assert_int_equal(json_parse_file(path, 1 << 24, &m), ST_OK);
    free(path);
    return m;
}

static void flip(const char *path, uint64_t at)
{
    char b;
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0 && pread(fd, &b, 1, (off_t)at) == 1);
    b ^= 0x10;
    assert_int_equal(pwrite(fd, &b, 1, (off_t)at), 1);
    close(fd);
}

/* One byte of every tensor of every rank in turn: found, and named. */
static void one_flipped_byte_is_named(void **state)
{
    (void)state;
    char *folder = make_folder();
    shard_checkpoint *source, *cut;
    shard_plan *plan;
    char *target = make_cut(folder, true, SHARD_Q8_0, 2, 2, false, &source, &plan);
    assert_int_equal(shard_checkpoint_open(target, NULL, &cut), ST_OK);
    json_t *m = load_manifest(target), *rank, *t;
    size_t i, j, n = 0;
    json_array_foreach(json_object_get(m, "ranks"), i, rank)
    {
        char *path = make_path(target, json_string_value(json_object_get(rank, "file")));
        json_array_foreach(json_object_get(rank, "tensors"), j, t)
        {
            uint64_t offset = (uint64_t)json_integer_value(json_object_get(t, "offset")), bytes = (uint64_t)json_integer_value(json_object_get(t, "bytes"));
            uint64_t at = offset + (n++ * 7919) % bytes;
            flip(path, at);
            status_mute();
            status st = shard_checkpoint_verify(cut);
            status_unmute();
            const char *role = json_string_value(json_object_get(t, "role"));
            if (st != ST_CORRUPT || strstr(status_message(), role) == NULL || strstr(status_message(), path) == NULL)
                fail_msg("byte %llu of %s (%s): status %d, %s", (unsigned long long)at, path, role, st, status_message());
            flip(path, at);
        }
        free(path);
    }
    assert_true(n > 40);
    assert_int_equal(shard_checkpoint_verify(cut), ST_OK);
    char *metadata = make_path(target, "metadata.gguf");
    flip(metadata, 100);
    status_mute();
    assert_int_equal(shard_checkpoint_verify(cut), ST_CORRUPT);
    status_unmute();
    assert_non_null(strstr(status_message(), "metadata.gguf"));
    free(metadata);
    json_decref(m);
    shard_plan_destroy(&plan);
    shard_checkpoint_close(&cut);
    shard_checkpoint_close(&source);
    make_remove(folder);
    free(target);
    free(folder);
}

static void expect_open_fails(const char *target, json_t *manifest, status want, const char *says)
{
    shard_checkpoint *c = NULL;
    char *text = json_dumps(manifest, 0);
    make_text(target, "manifest.json", text);
    free(text);
    status_mute();
    status st = shard_checkpoint_open(target, NULL, &c);
    status_unmute();
    if (st != want || strstr(status_message(), says) == NULL)
        fail_msg("status %d, wanted %d and \"%s\"; message: %s", st, want, says, status_message());
    json_decref(manifest);
}

static json_t *first_tensor(json_t *m)
{
    return json_array_get(json_object_get(json_array_get(json_object_get(m, "ranks"), 0), "tensors"), 0);
}

static void spoiled_manifests_are_refused(void **state)
{
    (void)state;
    char *folder = make_folder();
    shard_checkpoint *source;
    shard_plan *plan;
    char *target = make_cut(folder, false, SHARD_BF16, 2, 1, false, &source, &plan);
    json_t *good = load_manifest(target), *m;
#define SPOIL(object, key, value)                               \
    m = json_deep_copy(good);                                   \
    json_object_set_new((object), (key), (value))
    SPOIL(m, "version", json_integer(2));
    expect_open_fails(target, m, ST_UNSUPPORTED, "newer trireme");
    SPOIL(m, "format", json_string("other"));
    expect_open_fails(target, m, ST_FORMAT, "format");
    SPOIL(json_object_get(m, "options"), "tp", json_integer(3));
    expect_open_fails(target, m, ST_FORMAT, "ranks");
    SPOIL(json_object_get(m, "options"), "pp", json_integer(-1));
    expect_open_fails(target, m, ST_FORMAT, "pp");
    SPOIL(m, "ranks", json_integer(1));
    expect_open_fails(target, m, ST_FORMAT, "ranks");
    SPOIL(json_array_get(json_object_get(m, "ranks"), 0), "file", json_string("../rank"));
    expect_open_fails(target, m, ST_FORMAT, "plain name");
    SPOIL(json_array_get(json_object_get(m, "ranks"), 0), "file", json_string("gone.bin"));
    expect_open_fails(target, m, ST_NOT_FOUND, "gone.bin");
    SPOIL(json_array_get(json_object_get(m, "ranks"), 0), "bytes", json_integer(17));
    expect_open_fails(target, m, ST_FORMAT, "17");
    SPOIL(first_tensor(m), "role", json_string("no_such_role"));
    expect_open_fails(target, m, ST_FORMAT, "no_such_role");
    SPOIL(first_tensor(m), "offset", json_integer(INT64_MAX / 64 * 64));
    expect_open_fails(target, m, ST_FORMAT, "outside");
    SPOIL(first_tensor(m), "offset", json_integer(3));
    expect_open_fails(target, m, ST_FORMAT, "outside");
    SPOIL(first_tensor(m), "type", json_string("q99"));
    expect_open_fails(target, m, ST_UNSUPPORTED, "q99");
    SPOIL(first_tensor(m), "rows", json_pack("[i, i]", 0, 1 << 20));
    expect_open_fails(target, m, ST_FORMAT, "rows");
    SPOIL(first_tensor(m), "rows", json_pack("[i, i]", 5, 3));
    expect_open_fails(target, m, ST_FORMAT, "rows");
    SPOIL(first_tensor(m), "bytes", json_integer(64));
    expect_open_fails(target, m, ST_FORMAT, "64 bytes");
    SPOIL(first_tensor(m), "sha256", json_string("xyz"));
    expect_open_fails(target, m, ST_FORMAT, "sha256");
    m = json_deep_copy(good);
    json_object_del(m, "source_tensors");
    shard_checkpoint *c; /* the architecture can do without names here: all of llama's are the common ones */
    char *text = json_dumps(m, 0);
    make_text(target, "manifest.json", text);
    free(text);
    json_decref(m);
    assert_int_equal(shard_checkpoint_open(target, NULL, &c), ST_OK);
    shard_checkpoint_close(&c);
    json_decref(good);
    shard_plan_destroy(&plan);
    shard_checkpoint_close(&source);
    make_remove(folder);
    free(target);
    free(folder);
}

static int entries_of(const char *folder)
{
    char command[512];
    snprintf(command, sizeof(command), "ls -A '%s' | wc -l", folder);
    FILE *p = popen(command, "r");
    int n = -1;
    assert_int_equal(fscanf(p, "%d", &n), 1);
    pclose(p);
    return n;
}

static void failures_leave_nothing_behind(void **state)
{
    (void)state;
    char *folder = make_folder(), *source = make_path(folder, "source"), *target = make_path(folder, "cut"), *deep = make_path(folder, "no/such/cut");
    shard_checkpoint *c;
    assert_int_equal(file_make_dirs(source), ST_OK);
    make_llama_folder(source, SHARD_F32);
    assert_int_equal(shard_checkpoint_open(source, NULL, &c), ST_OK);
    shard_plan *plan = make_plan(c, 2, 1, false);

    status_mute();
    assert_int_equal(shard_write(c, plan, &quiet, source, NULL), ST_INVALID);
    assert_non_null(strstr(status_message(), "exists"));
    assert_int_equal(shard_write(c, plan, &quiet, deep, NULL), ST_IO);
    assert_non_null(strstr(status_message(), "no/such/cut"));

    /* A disk that cannot take the files, as a limit on file sizes. */
    struct rlimit was, small;
    getrlimit(RLIMIT_FSIZE, &was);
    small = was;
    small.rlim_cur = 4096;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    status st = shard_write(c, plan, &quiet, target, NULL);
    setrlimit(RLIMIT_FSIZE, &was);
    assert_int_equal(st, ST_IO);
    assert_non_null(strstr(status_message(), "rank-00000.bin"));
    assert_int_equal(entries_of(folder), 1);

    /* A source that turns out damaged half way. */
    char *weights = make_path(source, "model.safetensors");
    assert_int_equal(truncate(weights, 100000), 0);
    assert_int_equal(shard_write(c, plan, &quiet, target, NULL), ST_FORMAT);
    assert_int_equal(entries_of(folder), 1);
    status_unmute();

    shard_plan_destroy(&plan);
    shard_checkpoint_close(&c);
    make_remove(folder);
    free(weights);
    free(source);
    free(target);
    free(deep);
    free(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cut_holds_what_the_source_gives), cmocka_unit_test(another_split_is_refused_with_the_remedy),
        cmocka_unit_test(one_flipped_byte_is_named),         cmocka_unit_test(spoiled_manifests_are_refused),
        cmocka_unit_test(failures_leave_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
