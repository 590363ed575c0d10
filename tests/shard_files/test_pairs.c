/* tests/shard_files/test_pairs.c - the same checkpoint as a Hugging Face folder and as GGUF gives the same weights, role by role.
 *
 * The GGUF files are what llama.cpp's converter made of the folders: this proves row orders, fused tensors, transposes and shifted norms of both
 * readers against each other, for every family that has both.  It also cuts each folder and compares once more. */
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "shard/checkpoint.h"
#include "shard/write.h"
#include "tests/shard_files/make.h"

/* Rows [r0, r1) x columns [c0, c1) of a role as f32; caller frees. */
static float *read_f32(shard_checkpoint *c, shard_role role, int32_t layer, shard_slice rows, shard_slice cols)
{
    int64_t n = rows.end - rows.begin, k = cols.end - cols.begin;
    float *out = calloc((size_t)(n * k), sizeof(float));
    if (shard_role_is_vector(role)) {
        assert_int_equal(shard_checkpoint_read_vector(c, role, layer, rows, out), ST_OK);
        return out;
    }
    packed_shape s = {PACKED_F32, (int32_t)n, (int32_t)k, 0};
    void *m = aligned_alloc(64, mem_align(packed_bytes(s), 64));
    memset(m, 0, packed_bytes(s));
    assert_int_equal(shard_checkpoint_read_matrix(c, role, layer, rows, cols, s, m), ST_OK);
    for (int32_t r = 0; r < n; r++)
        packed_dequantise(s, m, r, 0, (int32_t)k, out + r * k);
    free(m);
    return out;
}

static int compare_role(const char *name, shard_checkpoint *a, shard_checkpoint *b, shard_role role, int32_t layer, shard_slice rows, shard_slice cols)
{
    float *x = read_f32(a, role, layer, rows, cols), *y = read_f32(b, role, layer, rows, cols);
    int64_t n = (rows.end - rows.begin) * (cols.end - cols.begin);
    int bad = 0;
    for (int64_t i = 0; i < n && bad == 0; i++) {
        /* Gemma's converter adds 1 to norms in the weights' type: the sum was rounded to bf16 there. */
        float allowed = shard_role_is_vector(role) ? 0x1p-7f * fmaxf(1, fabsf(x[i])) : 0;
        if (!(fabsf(x[i] - y[i]) <= allowed)) {
            printf("%s: %s of layer %d, element %lld: folder %g, GGUF %g\n", name, shard_role_name(role), layer, (long long)i, (double)x[i], (double)y[i]);
            bad = 1;
        }
    }
    free(x);
    free(y);
    return bad;
}

static int compare_all(const char *name, shard_checkpoint *a, shard_checkpoint *b)
{
    const shard_arch *x = shard_checkpoint_arch(a), *y = shard_checkpoint_arch(b);
    int bad = 0;
    for (int role = 0; role < SHARD_ROLES; role++) {
        int64_t rows, cols, rows2, cols2;
        bool has = shard_role_shape(x, (shard_role)role, &rows, &cols), has2 = shard_role_shape(y, (shard_role)role, &rows2, &cols2);
        if (!has || !has2) {
            if (has != has2) {
                printf("%s: %s is only in the %s\n", name, shard_role_name((shard_role)role), has ? "folder" : "GGUF");
                bad++;
            }
            continue;
        }
        for (int32_t layer = 0; layer < (shard_role_in_layer((shard_role)role) ? x->n_layers : 1); layer++) {
            bad += compare_role(name, a, b, (shard_role)role, layer, (shard_slice){0, rows}, (shard_slice){0, cols});
            if (rows > 3) /* and a slice that cuts heads and groups */
                bad += compare_role(name, a, b, (shard_role)role, layer, (shard_slice){1, rows - 1}, cols > 9 ? (shard_slice){3, cols - 5} : (shard_slice){0, cols});
        }
    }
    return bad;
}

static int each_pair(int (*fn)(const char *name, const char *folder, const char *gguf))
{
    DIR *d = opendir(TEST_SOURCE_DIR "/golden/gguf");
    int bad = 0, n = 0;
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        size_t len = strlen(e->d_name);
        if (len < 6 || strcmp(e->d_name + len - 5, ".gguf") != 0)
            continue;
        char name[128], folder[512], gguf[512];
        snprintf(name, sizeof(name), "%.*s", (int)(len - 5), e->d_name);
        snprintf(folder, sizeof(folder), TEST_SOURCE_DIR "/golden/%s", name);
        snprintf(gguf, sizeof(gguf), TEST_SOURCE_DIR "/golden/gguf/%s", e->d_name);
        if (!file_is_dir(folder))
            continue;
        n++;
        bad += fn(name, folder, gguf);
    }
    closedir(d);
    printf("%d pairs, %d differences\n", n, bad);
    assert_true(n > 0);
    return bad;
}

static int compare_pair(const char *name, const char *folder, const char *gguf)
{
    shard_checkpoint *a, *b;
    assert_int_equal(shard_checkpoint_open(folder, NULL, &a), ST_OK);
    assert_int_equal(shard_checkpoint_open(gguf, NULL, &b), ST_OK);
    int bad = compare_all(name, a, b);
    shard_checkpoint_close(&a);
    shard_checkpoint_close(&b);
    return bad;
}

static void folders_and_ggufs_agree(void **state)
{
    (void)state;
    assert_int_equal(each_pair(compare_pair), 0);
}

/* A cut for one rank holds every role whole. */
static int cut_one(const char *name, const char *source)
{
    char *dir = make_folder(), *target = make_path(dir, "cut");
    shard_checkpoint *a, *b;
    shard_plan *plan;
    int bad = 0;
    assert_int_equal(shard_checkpoint_open(source, NULL, &a), ST_OK);
    shard_plan_options o = {.tp = 1, .pp = 1, .types = *shard_checkpoint_types(a, true)};
    assert_int_equal(shard_plan_create(shard_checkpoint_arch(a), &o, &plan), ST_OK);
    assert_int_equal(shard_write(a, plan, &(shard_write_options){.f32 = true, .quiet = true}, target, NULL), ST_OK);
    assert_int_equal(shard_checkpoint_open(target, NULL, &b), ST_OK);
    if (memcmp(shard_checkpoint_arch(a), shard_checkpoint_arch(b), sizeof(shard_arch)) != 0) {
        printf("%s: the cut's architecture differs from its source's\n", name);
        bad++;
    }
    for (int role = 0; role < SHARD_ROLES; role++) {
        int64_t rows, cols;
        if (shard_role_shape(shard_checkpoint_arch(a), (shard_role)role, &rows, &cols))
            bad += compare_role(name, a, b, (shard_role)role, 0, (shard_slice){0, rows}, (shard_slice){0, cols});
    }
    shard_plan_destroy(&plan);
    shard_checkpoint_close(&a);
    shard_checkpoint_close(&b);
    make_remove(dir);
    free(target);
    free(dir);
    return bad;
}

static int cut_pair(const char *name, const char *folder, const char *gguf)
{
    return cut_one(name, folder) + cut_one(name, gguf);
}

static void cuts_keep_every_family(void **state)
{
    (void)state;
    assert_int_equal(each_pair(cut_pair), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(folders_and_ggufs_agree), cmocka_unit_test(cuts_keep_every_family)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
