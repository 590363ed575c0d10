/* tests/coordinator/test_diagnosis.c - what `trireme doctor` makes of what ranks found: 64 of them that are alike, and one in which something differs; and who measures with whom. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "coordinator/diagnosis.h"
#include "coordinator/links.h"

/* n ranks, eight to a host, as facts.h describes them, all well. */
static json_t *report_of(int n)
{
    json_t *ranks = json_array(), *hosts = json_array(), *links = json_array();
    for (int i = 0; i < n; i++) {
        char host[16], pci[16];
        snprintf(host, sizeof(host), "node%d", i / 8);
        snprintf(pci, sizeof(pci), "0000:%02x:00.0", i % 8);
        json_array_append_new(hosts, json_integer(i / 8));
        json_t *r = json_pack("{si ss ss ss ss ss ss ss ss sn sn ss ss si si sI sn sI sI ss sn si sI sI sI sI}", "rank", i, "host", host, "trireme", "1.0", "commit", "abc", "binary", "12ab", "mpi",
                              "Open MPI v4", "pmix", "4.2", "libc", "2.36", "kernel", "6.1", "driver", "nccl", "cpu", "Xeon", "isa", "amx", "cores", 8, "cores_online", 64, "memory", (json_int_t)1 << 40,
                              "memory_limit", "memory_available", ((json_int_t)1 << 39) + i, "swap_used", (json_int_t)0, "thp", "madvise", "memlock", "nofile", 65536, "stack", (json_int_t)8 << 20, "shm",
                              (json_int_t)1 << 33, "shm_free", (json_int_t)1 << 33, "hugepages", (json_int_t)0);
        assert_non_null(r);
        json_object_set_new(r, "gpus", json_pack("[{ss ss sI sI}]", "name", "H100", "pci", pci, "total_bytes", (json_int_t)80 << 30, "free_bytes", (json_int_t)79 << 30));
        json_object_set_new(r, "gpu_pci", json_string(pci));
        json_object_set_new(r, "rdma", json_pack("[s]", "mlx5_0"));
        json_object_set_new(r, "place", json_string("cores 0-7"));
        json_object_set_new(r, "clock_offset_seconds", json_real(1e-5 * i));
        json_object_set_new(r, "clock_error_seconds", json_real(1e-5));
        json_array_append_new(ranks, r);
        for (int k = 0; k < i; k++)
            json_array_append_new(links, json_pack("{s[ii] sf sf}", "ranks", k, i, "seconds", k / 8 == i / 8 ? 1e-6 : 5e-6, "bytes_per_second", k / 8 == i / 8 ? 9e9 : 2e10));
    }
    return json_pack("{so so so s[]}", "ranks", ranks, "hosts", hosts, "links", links, "sums");
}

static json_t *rank_of(json_t *report, int i)
{
    return json_array_get(json_object_get(report, "ranks"), (size_t)i);
}

/* The table and the findings as text; caller frees. */
static char *told(json_t *report, int *must)
{
    char *text = NULL;
    size_t size;
    assert_int_equal(diagnosis_find(report, must), ST_OK);
    FILE *f = open_memstream(&text, &size);
    diagnosis_print(report, f);
    fclose(f);
    return text;
}

static void check_has(const char *text, const char *wanted)
{
    if (strstr(text, wanted) == NULL)
        fail_msg("\"%s\" is missing in:\n%s", wanted, text);
}

static void alike_is_said_once(void **state)
{
    (void)state;
    int must, lines = 0;
    json_t *report = report_of(64);
    char *text = told(report, &must);
    assert_int_equal(must, 0);
    assert_int_equal(json_array_size(json_object_get(report, "findings")), 0);
    check_has(text, "64 ranks on 8 hosts");
    check_has(text, "\ncommit                abc\n");
    check_has(text, "GPUs                  1 x H100, 80.0 GiB\n");
    check_has(text, "inside hosts          224 pairs");
    check_has(text, "between hosts         1792 pairs");
    check_has(text, "nothing found that is wrong");
    assert_null(strchr(text, '*'));
    for (const char *p = text; *p != '\0'; p++)
        lines += *p == '\n';
    assert_in_range(lines, 64 + 20, 64 + 45); /* one for each rank's place, and no more than a page besides */
    free(text);
    json_decref(report);
}

static void who_differs_is_named_and_told_what_to_do(void **state)
{
    (void)state;
    int must;
    json_t *report = report_of(64);
    json_object_set_new(rank_of(report, 11), "binary", json_string("77ff"));
    json_object_set_new(rank_of(report, 24), "memlock", json_integer(65536));
    json_object_set_new(rank_of(report, 25), "memlock", json_integer(65536));
    json_object_set_new(rank_of(report, 40), "clock_offset_seconds", json_real(-3.5));
    json_object_set_new(rank_of(report, 50), "checkpoint_error", json_string("no such file"));
    json_object_set_new(rank_of(report, 63), "gpu_far", json_true());
    char *text = told(report, &must);
    assert_int_equal(must, 3);
    check_has(text, "program's SHA-256     12ab   ranks 0-10, 12-63");
    check_has(text, "* 77ff   rank 11 (host node1)");
    check_has(text, "MEND rank 11 (host node1): program's SHA-256 is 77ff, where others have 12ab\n     install the same build");
    check_has(text, "MEND ranks 24-25 (host node3): locked memory is limited to 64.0 KiB");
    check_has(text, "LimitMEMLOCK=infinity");
    check_has(text, "MEND rank 50 (host node6): the checkpoint cannot be used: no such file");
    check_has(text, "note rank 40 (host node5): the clock is off");
    check_has(text, "note rank 63 (host node7): the GPU lies at another socket");
    check_has(text, "at most 3.50 s off rank 0's (rank 40");
    free(text);
    json_decref(report);
}

/* Locked memory matters where something reaches it. */
static void limits_that_hurt_nobody_are_let_be(void **state)
{
    (void)state;
    int must;
    json_t *report = report_of(1), *r = rank_of(report, 0);
    json_object_set_new(r, "memlock", json_integer(65536));
    json_object_set_new(r, "gpus", json_array());
    json_object_set_new(r, "rdma", json_array());
    free(told(report, &must));
    assert_int_equal(must, 0);
    json_object_set_new(r, "nofile", json_integer(256));
    char *text = told(report, &must);
    assert_int_equal(must, 1);
    check_has(text, "256 files may be open");
    free(text);
    json_decref(report);
}

static void memory_and_shared_gpus(void **state)
{
    (void)state;
    int must;
    json_t *report = report_of(2);
    json_object_set_new(report, "need", json_pack("{s[II]}", "rank_bytes", (json_int_t)90 << 30, (json_int_t)10 << 30));
    json_object_set_new(rank_of(report, 1), "gpu_pci", json_string("0000:00:00.0"));
    char *text = told(report, &must);
    assert_int_equal(must, 1);
    check_has(text, "MEND rank 0 (host node0): its part of the checkpoint needs 90.0 GiB, and its share of what is free is 79.0 GiB");
    check_has(text, "note ranks 0-1 (host node0): all have the GPU 0000:00:00.0");
    free(text);
    json_decref(report);
}

static void a_slow_link_is_found(void **state)
{
    (void)state;
    int must;
    json_t *report = report_of(32), *link;
    size_t i;
    json_array_foreach(json_object_get(report, "links"), i, link) {
        json_int_t b = json_integer_value(json_array_get(json_object_get(link, "ranks"), 1)), a = json_integer_value(json_array_get(json_object_get(link, "ranks"), 0));
        if (b / 8 == 3 && a / 8 != 3) /* all of the last host's */
            json_object_set_new(link, "bytes_per_second", json_real(1e8));
    }
    char *text = told(report, &must);
    assert_int_equal(must, 1);
    check_has(text, "MEND ranks 24-31 (host node3): every link to another host has less than 40 %");
    free(text);
    json_decref(report);
}

/* Each pair once, and in a slot no rank and no two hosts' way twice. */
static void check_schedule(const int *host_of, int n, bool all, int want)
{
    links_pair *pairs;
    int n_pairs, n_slots, met = 0;
    assert_int_equal(links_schedule(host_of, n, all, &pairs, &n_pairs, &n_slots), ST_OK);
    char *seen = calloc((size_t)n * (size_t)n, 1);
    for (int i = 0; i < n_pairs; i++) {
        const links_pair *p = &pairs[i];
        assert_true(p->a >= 0 && p->a < p->b && p->b < n && p->slot >= 0 && p->slot < n_slots);
        met += seen[p->a * n + p->b]++ == 0;
        for (int k = 0; k < i; k++) {
            const links_pair *q = &pairs[k];
            if (q->slot != p->slot)
                continue;
            assert_true(p->a != q->a && p->a != q->b && p->b != q->a && p->b != q->b);
            if (host_of[p->a] != host_of[p->b] && host_of[q->a] != host_of[q->b]) { /* a host's card serves one pair */
                const int ends[2] = {host_of[q->a], host_of[q->b]};
                for (int e = 0; e < 2; e++)
                    assert_true(ends[e] != host_of[p->a] && ends[e] != host_of[p->b]);
            }
        }
    }
    assert_int_equal(met, n_pairs);
    assert_int_equal(n_pairs, want);
    free(seen);
    free(pairs);
}

static void pairs_take_turns(void **state)
{
    (void)state;
    static const int uneven[] = {0, 0, 0, 1, 2, 2, 1, 3, 4, 4}, blocks[] = {0, 0, 1, 1, 2, 2, 3, 3}, one[] = {0, 0, 0, 0, 0};
    check_schedule(uneven, 10, true, 45);
    check_schedule(uneven, 10, false, 3 + 1 + 1 + 1 + 10);
    check_schedule(blocks, 8, true, 28);
    check_schedule(blocks, 8, false, 4 + 6);
    check_schedule(one, 5, true, 10);
    check_schedule(one, 1, true, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alike_is_said_once),
        cmocka_unit_test(who_differs_is_named_and_told_what_to_do),
        cmocka_unit_test(limits_that_hurt_nobody_are_let_be),
        cmocka_unit_test(memory_and_shared_gpus),
        cmocka_unit_test(a_slow_link_is_found),
        cmocka_unit_test(pairs_take_turns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
