/* tests/coordinator/test_placement.c - which cores ranks get, on machines that are not at hand: hwloc's synthetic ones, and one with GPUs and cards as XML. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "coordinator/placement.h"

static placement_topology synthetic(const char *description)
{
    placement_topology t;
    setenv("HWLOC_SYNTHETIC", description, 1);
    assert_int_equal(placement_topology_load(&t), ST_OK);
    unsetenv("HWLOC_SYNTHETIC");
    return t;
}

static placement_rank granted(int begin, int end, const char *pci)
{
    placement_rank r = {.pci = ""};
    CPU_ZERO(&r.granted);
    for (int c = begin; c < end; c++)
        CPU_SET(c, &r.granted);
    snprintf(r.pci, sizeof(r.pci), "%s", pci);
    return r;
}

static coord_place place_of(placement_topology t, const placement_rank *ranks, int n, int me)
{
    coord_place p;
    assert_int_equal(placement_choose(t, ranks, n, me, &p), ST_OK);
    assert_false(p.real); /* nobody is pinned to a machine that is not there */
    assert_false(coord_place_pin(&p, 1));
    return p;
}

static void check_cores(const coord_place *p, const char *cores, const char *numa)
{
    char text[256];
    assert_string_equal(coord_cores_text(&p->cores, text, sizeof(text)), cores);
    assert_string_equal(p->numa, numa);
}

/* Two sockets of four cores with two hardware threads each, numbered 0 to 15. */
static void ranks_that_see_everything_divide_it_by_whole_cores(void **state)
{
    (void)state;
    placement_topology t = synthetic("numa:2 core:4 pu:2");
    placement_rank ranks[4] = {granted(0, 16, ""), granted(0, 16, ""), granted(0, 16, ""), granted(0, 16, "")};
    static const char *const cores[] = {"0-3", "4-7", "8-11", "12-15"}, *const numa[] = {"0", "0", "1", "1"};
    for (int i = 0; i < 4; i++) {
        coord_place p = place_of(t, ranks, 4, i);
        check_cores(&p, cores[i], numa[i]);
        assert_true(p.divided && !p.shared && p.n_cores == 2);
    }
    coord_place p = place_of(t, ranks, 3, 0); /* 8 cores: 3, 3, 2 */
    check_cores(&p, "0-5", "0");
    p = place_of(t, ranks, 3, 1);
    check_cores(&p, "6-11", "0-1");
    p = place_of(t, ranks, 3, 2);
    check_cores(&p, "12-15", "1");
    p = place_of(t, ranks, 1, 0);
    check_cores(&p, "0-15", "0-1");
    assert_true(!p.divided && !p.shared);
    placement_topology_free(&t);
}

static void what_the_launcher_bound_stays(void **state)
{
    (void)state;
    placement_topology t = synthetic("numa:2 core:4 pu:1");
    placement_rank ranks[2] = {granted(6, 8, ""), granted(0, 3, "")};
    coord_place p = place_of(t, ranks, 2, 0);
    check_cores(&p, "6-7", "1");
    assert_true(!p.divided && !p.shared && p.n_cores == 2);
    p = place_of(t, ranks, 2, 1);
    check_cores(&p, "0-2", "0");
    placement_topology_free(&t);
}

static void sharing_is_seen(void **state)
{
    (void)state;
    placement_topology t = synthetic("numa:1 core:2 pu:1");
    placement_rank more[3] = {granted(0, 2, ""), granted(0, 2, ""), granted(0, 2, "")}; /* more ranks than cores */
    coord_place p = place_of(t, more, 3, 2);
    assert_true(p.shared && !p.divided);
    assert_int_equal(p.shared_with, 0);
    check_cores(&p, "0-1", "0");
    placement_topology_free(&t);
    t = synthetic("numa:1 core:4 pu:1");
    placement_rank overlap[2] = {granted(0, 3, ""), granted(2, 4, "")}; /* core 2 is both's */
    p = place_of(t, overlap, 2, 0);
    assert_true(p.shared);
    assert_int_equal(p.shared_with, 1);
    placement_topology_free(&t);
}

/* Cores that the system numbers across sockets, as many servers do: even ones on the first. */
static void neighbours_are_neighbours_whatever_their_numbers(void **state)
{
    (void)state;
    placement_topology t = synthetic("numa:2 core:4 pu:1(indexes=0,2,4,6,1,3,5,7)");
    placement_rank ranks[2] = {granted(0, 8, ""), granted(0, 8, "")};
    coord_place p = place_of(t, ranks, 2, 0);
    check_cores(&p, "0,2,4,6", "0");
    p = place_of(t, ranks, 2, 1);
    check_cores(&p, "1,3,5,7", "1");
    placement_topology_free(&t);
}

/* ---- a machine with GPUs: two sockets of four cores; at each two GPUs and two InfiniBand cards, one of each behind a switch of its own, and an Ethernet card at the first ---- */

static void put_bridge(FILE *f, int bus, int n)
{
    fprintf(f, "<object type=\"Bridge\" gp_index=\"%d\" bridge_type=\"1-1\" depth=\"1\" bridge_pci=\"0000:[%02x-%02x]\" pci_busid=\"0000:00:%02x.0\" pci_type=\"0604 [1000:c010] [0000:0000] 00\">\n", n, bus,
            bus + 1, bus & 0x1f);
}

static void put_device(FILE *f, int bus, const char *class, const char *osdev, int osdev_type, int n)
{
    fprintf(f, "<object type=\"PCIDev\" gp_index=\"%d\" pci_busid=\"0000:%02x:00.0\" pci_type=\"%s [10de:2330] [0000:0000] a1\">\n", n, bus, class);
    if (osdev != NULL)
        fprintf(f, "<object type=\"OSDev\" gp_index=\"%d\" name=\"%s\" osdev_type=\"%d\"/>\n", n + 1000, osdev, osdev_type);
    fprintf(f, "</object>\n");
}

static placement_topology with_gpus(void)
{
    char path[] = "/tmp/trireme-topology-XXXXXX";
    placement_topology t;
    int fd = mkstemp(path), n = 100;
    assert_true(fd >= 0);
    FILE *f = fdopen(fd, "w");
    fprintf(f, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!DOCTYPE topology SYSTEM \"hwloc2.dtd\">\n<topology version=\"2.0\">\n"
               "<object type=\"Machine\" os_index=\"0\" cpuset=\"0x000000ff\" complete_cpuset=\"0x000000ff\" allowed_cpuset=\"0x000000ff\" nodeset=\"0x00000003\" complete_nodeset=\"0x00000003\" "
               "allowed_nodeset=\"0x00000003\" gp_index=\"1\">\n");
    for (int s = 0; s < 2; s++) {
        int mask = 0xf << 4 * s;
        fprintf(f, "<object type=\"Package\" os_index=\"%d\" cpuset=\"0x%08x\" complete_cpuset=\"0x%08x\" nodeset=\"0x%08x\" complete_nodeset=\"0x%08x\" gp_index=\"%d\">\n", s, mask, mask, 1 << s, 1 << s, n++);
        fprintf(f, "<object type=\"NUMANode\" os_index=\"%d\" cpuset=\"0x%08x\" complete_cpuset=\"0x%08x\" nodeset=\"0x%08x\" complete_nodeset=\"0x%08x\" gp_index=\"%d\" local_memory=\"1073741824\"/>\n", s, mask,
                mask, 1 << s, 1 << s, n++);
        for (int c = 0; c < 4; c++) {
            int one = 1 << (4 * s + c);
            for (int pu = 0; pu < 2; pu++)
                fprintf(f, "<object type=\"%s\" os_index=\"%d\" cpuset=\"0x%08x\" complete_cpuset=\"0x%08x\" nodeset=\"0x%08x\" complete_nodeset=\"0x%08x\" gp_index=\"%d\"%s>\n", pu ? "PU" : "Core", 4 * s + c,
                        one, one, 1 << s, 1 << s, n++, pu ? "/" : "");
            fprintf(f, "</object>\n");
        }
        int bus = 0x10 + 0x80 * s;
        fprintf(f, "<object type=\"Bridge\" gp_index=\"%d\" bridge_type=\"0-1\" depth=\"0\" bridge_pci=\"0000:[%02x-%02x]\">\n", n++, s ? 0x80 : 0, s ? 0xff : 0x7f);
        for (int k = 0; k < 2; k++) {
            char nic[16];
            snprintf(nic, sizeof(nic), "mlx5_%d", 2 * s + k);
            put_bridge(f, bus + 0x10 * k, n++);
            put_device(f, bus + 0x10 * k, "0302", NULL, 0, n++);
            put_device(f, bus + 0x10 * k + 1, "0207", nic, 3, n++);
            fprintf(f, "</object>\n");
        }
        if (s == 0)
            put_device(f, 0x40, "0200", "eth0", 2, n++);
        fprintf(f, "</object>\n</object>\n");
    }
    fprintf(f, "</object>\n</topology>\n");
    fclose(f);
    setenv("HWLOC_XMLFILE", path, 1);
    assert_int_equal(placement_topology_load(&t), ST_OK);
    unsetenv("HWLOC_XMLFILE");
    unlink(path);
    return t;
}

#define FIRST "0000:10:00.0"
#define SECOND "0000:20:00.0"
#define THIRD "0000:90:00.0"
#define FOURTH "0000:a0:00.0"

static void cores_and_cards_are_near_the_gpu(void **state)
{
    (void)state;
    placement_topology t = with_gpus();
    /* The GPUs are numbered across the sockets, as devices sometimes are. */
    placement_rank ranks[4] = {granted(0, 8, THIRD), granted(0, 8, FIRST), granted(0, 8, FOURTH), granted(0, 8, SECOND)};
    static const char *const cores[] = {"4-5", "0-1", "6-7", "2-3"}, *const numa[] = {"1", "0", "1", "0"}, *const nics[] = {"mlx5_2", "mlx5_0", "mlx5_3", "mlx5_1"};
    for (int i = 0; i < 4; i++) {
        char text[COORD_PLACE_TEXT], want[COORD_PLACE_TEXT];
        coord_place p = place_of(t, ranks, 4, i);
        check_cores(&p, cores[i], numa[i]);
        assert_string_equal(p.nic, nics[i]);
        assert_false(p.gpu_far);
        p.gpu = 0;
        snprintf(want, sizeof(want), "cores %s, numa %s, gpu 0 (pci %s), nic %s", cores[i], numa[i], ranks[i].pci, nics[i]);
        assert_string_equal(coord_place_text(&p, text), want);
    }
    placement_topology_free(&t);
}

static void a_gpu_at_another_socket_is_told(void **state)
{
    (void)state;
    placement_topology t = with_gpus();
    placement_rank ranks[2] = {granted(0, 4, THIRD), granted(4, 8, FOURTH)}; /* bound by the launcher */
    coord_place p = place_of(t, ranks, 2, 0);
    assert_true(p.gpu_far);
    check_cores(&p, "0-3", "0");
    p = place_of(t, ranks, 2, 1);
    assert_false(p.gpu_far);
    placement_topology_free(&t);
}

static void without_a_gpu_a_card_is_near_the_cores(void **state)
{
    (void)state;
    placement_topology t = with_gpus();
    placement_rank ranks[2] = {granted(0, 8, ""), granted(0, 8, "")};
    coord_place p = place_of(t, ranks, 2, 0);
    check_cores(&p, "0-3", "0");
    assert_string_equal(p.nic, "mlx5_0");
    p = place_of(t, ranks, 2, 1);
    check_cores(&p, "4-7", "1");
    assert_string_equal(p.nic, "mlx5_3"); /* of two equally near ones the second rank's turn */
    placement_rank unknown[1] = {granted(0, 8, "0000:77:00.0")}; /* a device that the topology does not show */
    p = place_of(t, unknown, 1, 0);
    assert_false(p.gpu_far);
    placement_topology_free(&t);
}

static void long_lists_of_cores_are_cut(void **state)
{
    (void)state;
    char text[24];
    cpu_set_t cores;
    CPU_ZERO(&cores);
    assert_string_equal(coord_cores_text(&cores, text, sizeof(text)), "");
    for (int c = 0; c < 64; c += 2)
        CPU_SET(c, &cores);
    assert_non_null(strstr(coord_cores_text(&cores, text, sizeof(text)), "..."));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_that_see_everything_divide_it_by_whole_cores),
        cmocka_unit_test(what_the_launcher_bound_stays),
        cmocka_unit_test(sharing_is_seen),
        cmocka_unit_test(neighbours_are_neighbours_whatever_their_numbers),
        cmocka_unit_test(cores_and_cards_are_near_the_gpu),
        cmocka_unit_test(a_gpu_at_another_socket_is_told),
        cmocka_unit_test(without_a_gpu_a_card_is_near_the_cores),
        cmocka_unit_test(long_lists_of_cores_are_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
