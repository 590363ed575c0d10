#include "coordinator/placement.h"

#include <hwloc.h>
#include <hwloc/glibc-sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"

/* ---- the topology ---- */

status placement_topology_load(placement_topology *out)
{
    /* Programming interfaces of GPUs: slow to start, some talk, and PCI tells all that is needed. */
    static const char *const unwanted[] = {"opencl", "gl", "cuda", "nvml", "rsmi", "levelzero"};
    hwloc_topology_t t;
    *out = NULL;
    if (hwloc_topology_init(&t) != 0)
        return FAIL(ST_NO_MEMORY, "hwloc: no memory for a topology");
    for (size_t i = 0; i < ARRAY_LEN(unwanted); i++)
        (void)hwloc_topology_set_components(t, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST, unwanted[i]);
    hwloc_topology_set_io_types_filter(t, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
    if (hwloc_topology_load(t) != 0) {
        hwloc_topology_destroy(t);
        return FAIL(ST_IO, "hwloc cannot read this machine's topology (or what HWLOC_XMLFILE or HWLOC_SYNTHETIC describe)");
    }
    *out = t;
    return ST_OK;
}

void placement_topology_free(placement_topology *t)
{
    if (*t != NULL)
        hwloc_topology_destroy(*t);
    *t = NULL;
}

/* The part of the machine that a PCI device hangs at; NULL: unknown device. */
static hwloc_obj_t device_of(hwloc_topology_t t, const char *pci)
{
    return pci[0] == '\0' ? NULL : hwloc_get_pcidev_by_busidstring(t, pci);
}

static int common_ancestors(hwloc_obj_t a, hwloc_obj_t b)
{
    int depth_a = 0, depth_b = 0, common = 0;
    for (hwloc_obj_t o = a; o != NULL; o = o->parent)
        depth_a++;
    for (hwloc_obj_t o = b; o != NULL; o = o->parent)
        depth_b++;
    for (; depth_a > depth_b; depth_a--)
        a = a->parent;
    for (; depth_b > depth_a; depth_b--)
        b = b->parent;
    for (; a != b; depth_a--) {
        a = a->parent;
        b = b->parent;
    }
    for (common = 0; a != NULL; a = a->parent)
        common++;
    return common;
}

/* How near a card is: to the GPU by what they share on the way to the root; to cores by how little lies around it besides them. */
static int nearness(hwloc_topology_t t, hwloc_obj_t card, hwloc_obj_t gpu, hwloc_const_cpuset_t cores)
{
    if (gpu != NULL)
        return common_ancestors(card, gpu);
    hwloc_obj_t at = hwloc_get_non_io_ancestor_obj(t, card);
    return at != NULL && at->cpuset != NULL && hwloc_bitmap_intersects(at->cpuset, cores) ? INT32_MAX - hwloc_bitmap_weight(at->cpuset) : 0;
}

/* The nearest card; of several equally near ones the me-th in turn.  InfiniBand and its like go before others. */
static void choose_nic(hwloc_topology_t t, hwloc_obj_t gpu, hwloc_const_cpuset_t cores, int me, coord_place *out)
{
    static const hwloc_obj_osdev_type_t kinds[] = {HWLOC_OBJ_OSDEV_OPENFABRICS, HWLOC_OBJ_OSDEV_NETWORK};
    for (size_t k = 0; k < ARRAY_LEN(kinds) && out->nic[0] == '\0'; k++) {
        int best = -1, n_best = 0;
        for (int pass = 0; pass < 2; pass++) { /* how near, and how many; then the one in turn */
            int i = 0;
            for (hwloc_obj_t o = NULL; (o = hwloc_get_next_osdev(t, o)) != NULL;) {
                if (o->attr->osdev.type != kinds[k] || o->name == NULL || strcmp(o->name, "lo") == 0)
                    continue;
                int near = nearness(t, o, gpu, cores);
                if (pass == 0 && near > best) {
                    best = near;
                    n_best = 0;
                }
                if (pass == 0)
                    n_best += near == best;
                else if (near == best && i++ == me % n_best)
                    snprintf(out->nic, sizeof(out->nic), "%s", o->name);
            }
            if (n_best == 0)
                break;
        }
    }
}

/* ---- dividing ---- */

typedef struct division {
    hwloc_topology_t t;
    hwloc_obj_t *cores; /* [n_cores] those with a granted hardware thread, in the topology's order */
    int *owner;         /* [n_cores] place among the sharers; -1 free */
    int n_cores;
} division;

static void division_free(division *d)
{
    free(d->cores);
    free(d->owner);
}

static status division_make(hwloc_topology_t t, hwloc_const_cpuset_t granted, division *d)
{
    int all = hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_CORE);
    hwloc_obj_type_t type = all > 0 ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU; /* some virtual machines show no cores */
    all = hwloc_get_nbobjs_by_type(t, type);
    *d = (division){.t = t};
    TRY(mem_calloc((size_t)(all > 0 ? all : 1), sizeof(hwloc_obj_t), "cores", &d->cores));
    TRY(mem_calloc((size_t)(all > 0 ? all : 1), sizeof(int), "cores", &d->owner));
    for (int i = 0; i < all; i++) {
        hwloc_obj_t o = hwloc_get_obj_by_type(t, type, (unsigned)i);
        if (!hwloc_bitmap_intersects(o->cpuset, granted))
            continue;
        d->owner[d->n_cores] = -1;
        d->cores[d->n_cores++] = o;
    }
    return ST_OK;
}

/* Up to n free cores for `who`, inside `near` if that is given. */
static int take(division *d, int who, int n, hwloc_const_cpuset_t near)
{
    int taken = 0;
    for (int i = 0; i < d->n_cores && taken < n; i++) {
        if (d->owner[i] >= 0 || (near != NULL && !hwloc_bitmap_isincluded(d->cores[i]->cpuset, near)))
            continue;
        d->owner[i] = who;
        taken++;
    }
    return taken;
}

/* Cores for each of the n sharers: first those near their GPUs, for who has one; the others get of what is left. */
static void divide(division *d, const placement_rank *const *sharers, int n)
{
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < n; i++) {
            int share = d->n_cores / n + (i < d->n_cores % n), has = 0;
            for (int c = 0; c < d->n_cores; c++)
                has += d->owner[c] == i;
            hwloc_obj_t gpu = device_of(d->t, sharers[i]->pci);
            hwloc_obj_t at = gpu != NULL ? hwloc_get_non_io_ancestor_obj(d->t, gpu) : NULL;
            if (pass == 0 && at != NULL && at->cpuset != NULL)
                take(d, i, share, at->cpuset);
            else if (pass == 1 && has == 0) /* less, and all of it near, is better than more */
                take(d, i, share, NULL);
        }
    }
}

/* The host's ranks that were granted the same cores as this one, which are divided among them, or which they must share. */
static status divide_granted(hwloc_topology_t t, const placement_rank *ranks, int n, int me, hwloc_bitmap_t mine, coord_place *out)
{
    const placement_rank **sharers;
    division d;
    int n_sharers = 0, my_place = 0;
    for (int i = 0; i < n; i++) {
        cpu_set_t both;
        CPU_AND(&both, &ranks[i].granted, &ranks[me].granted);
        if (i != me && CPU_COUNT(&both) > 0 && !CPU_EQUAL(&ranks[i].granted, &ranks[me].granted)) {
            out->shared = true;
            out->shared_with = i;
        }
    }
    TRY(mem_calloc((size_t)n, sizeof(*sharers), "ranks", &sharers));
    for (int i = 0; i < n; i++) {
        if (!CPU_EQUAL(&ranks[i].granted, &ranks[me].granted))
            continue;
        my_place = i == me ? n_sharers : my_place;
        if (i != me && out->shared_with < 0)
            out->shared_with = i; /* unless the cores go round */
        sharers[n_sharers++] = &ranks[i];
    }
    status st = division_make(t, mine, &d);
    if (st == ST_OK && n_sharers > 1 && n_sharers <= d.n_cores && !out->shared) {
        divide(&d, sharers, n_sharers);
        hwloc_bitmap_t own = hwloc_bitmap_alloc();
        for (int c = 0; own != NULL && c < d.n_cores; c++) {
            if (d.owner[c] == my_place)
                hwloc_bitmap_or(own, own, d.cores[c]->cpuset);
        }
        if (own != NULL && !hwloc_bitmap_iszero(own)) {
            hwloc_bitmap_and(mine, mine, own);
            out->divided = true;
        }
        hwloc_bitmap_free(own);
    }
    if (st == ST_OK && n_sharers > 1 && !out->divided)
        out->shared = true;
    if (!out->shared)
        out->shared_with = -1;
    for (int c = 0; c < d.n_cores; c++)
        out->n_cores += hwloc_bitmap_intersects(d.cores[c]->cpuset, mine);
    division_free(&d);
    free(sharers);
    return st;
}

status placement_choose(placement_topology t, const placement_rank *ranks, int n, int me, coord_place *out)
{
    *out = (coord_place){.gpu = -1, .shared_with = -1, .real = hwloc_topology_is_thissystem(t) != 0};
    hwloc_bitmap_t mine = hwloc_bitmap_alloc(), nodes = hwloc_bitmap_alloc();
    if (mine == NULL || nodes == NULL) {
        hwloc_bitmap_free(mine);
        hwloc_bitmap_free(nodes);
        return FAIL(ST_NO_MEMORY, "no memory for a set of cores");
    }
    hwloc_cpuset_from_glibc_sched_affinity(t, mine, &ranks[me].granted, sizeof(cpu_set_t));
    status st = divide_granted(t, ranks, n, me, mine, out);
    if (st == ST_OK) {
        hwloc_cpuset_to_glibc_sched_affinity(t, mine, &out->cores, sizeof(cpu_set_t));
        hwloc_cpuset_to_nodeset(t, mine, nodes);
        hwloc_bitmap_list_snprintf(out->numa, sizeof(out->numa), nodes);
        memcpy(out->pci, ranks[me].pci, sizeof(out->pci));
        hwloc_obj_t gpu = device_of(t, out->pci), at = gpu != NULL ? hwloc_get_non_io_ancestor_obj(t, gpu) : NULL;
        out->gpu_far = at != NULL && at->cpuset != NULL && !hwloc_bitmap_intersects(at->cpuset, mine);
        choose_nic(t, gpu, mine, me, out);
    }
    hwloc_bitmap_free(mine);
    hwloc_bitmap_free(nodes);
    return st;
}

/* ---- a rank's own ---- */

static status choose_here(const placement_rank *ranks, int n, int me, coord_place *out)
{
    placement_topology t;
    TRY(placement_topology_load(&t));
    status st = placement_choose(t, ranks, n, me, out);
    placement_topology_free(&t);
    return st;
}

status coord_place_find(comm_world *w, comm_group *everyone, const coord_device *device, coord_place *out)
{
    int size = comm_world_size(w), host = comm_world_host(w, comm_world_rank(w)), n = 0;
    placement_rank mine, *all;
    ops_device_info info;
    memset(&mine, 0, sizeof(mine));
    if (sched_getaffinity(0, sizeof(mine.granted), &mine.granted) != 0)
        CPU_ZERO(&mine.granted);
    bool has_gpu = device->ops->devices != NULL && device->ops->device_info(device->device, &info) == ST_OK;
    if (has_gpu)
        memcpy(mine.pci, info.pci, sizeof(mine.pci));
    TRY(mem_calloc((size_t)size, sizeof(*all), "ranks", &all));
    status st = comm_all_gather_equal(everyone, &mine, sizeof(mine), all);
    for (int i = 0; st == ST_OK && i < size; i++) {
        if (comm_world_host(w, i) == host)
            all[n++] = all[i];
    }
    if (st == ST_OK && choose_here(all, n, comm_world_host_rank(w), out) != ST_OK) {
        log_warn("cores are used as the launcher granted them: %s", status_message());
        *out = (coord_place){.cores = mine.granted, .n_cores = CPU_COUNT(&mine.granted), .shared = n > 1, .shared_with = -1};
    }
    out->gpu = has_gpu ? device->device : -1;
    free(all);
    return st;
}

bool coord_place_pin(const coord_place *p, int n_threads)
{
    if (p->shared || !p->real || n_threads > CPU_COUNT(&p->cores))
        return false;
    cpu_set_t cores = p->cores;
    placement_topology t;
    /* Fewer threads than cores have hardware threads: the first of each core. */
    if (n_threads <= p->n_cores && p->n_cores < CPU_COUNT(&p->cores) && placement_topology_load(&t) == ST_OK) {
        hwloc_bitmap_t one = hwloc_bitmap_alloc();
        if (one != NULL) {
            hwloc_cpuset_from_glibc_sched_affinity(t, one, &p->cores, sizeof(cpu_set_t));
            hwloc_bitmap_singlify_per_core(t, one, 0);
            hwloc_cpuset_to_glibc_sched_affinity(t, one, &cores, sizeof(cpu_set_t));
        }
        hwloc_bitmap_free(one);
        placement_topology_free(&t);
    }
    return CPU_COUNT(&cores) >= n_threads && sched_setaffinity(0, sizeof(cores), &cores) == 0;
}

/* ---- words ---- */

const char *coord_cores_text(const cpu_set_t *cores, char *text, size_t size)
{
    size_t at = 0;
    text[0] = '\0';
    for (int c = 0; c < CPU_SETSIZE; c++) {
        if (!CPU_ISSET(c, cores))
            continue;
        int last = c;
        while (last + 1 < CPU_SETSIZE && CPU_ISSET(last + 1, cores))
            last++;
        if (at + 16 > size) {
            snprintf(text + at, size - at, "...");
            break;
        }
        at += (size_t)(last > c ? snprintf(text + at, size - at, "%s%d-%d", at > 0 ? "," : "", c, last) : snprintf(text + at, size - at, "%s%d", at > 0 ? "," : "", c));
        c = last;
    }
    return text;
}

const char *coord_place_text(const coord_place *p, char text[COORD_PLACE_TEXT])
{
    char cores[96];
    size_t at = (size_t)snprintf(text, COORD_PLACE_TEXT, "cores %s%s", coord_cores_text(&p->cores, cores, sizeof(cores)), p->shared ? " (shared)" : "");
    if (p->numa[0] != '\0')
        at += (size_t)snprintf(text + at, COORD_PLACE_TEXT - at, ", numa %s", p->numa);
    if (p->gpu >= 0)
        at += (size_t)snprintf(text + at, COORD_PLACE_TEXT - at, ", gpu %d%s%s%s", p->gpu, p->pci[0] != '\0' ? " (pci " : "", p->pci, p->pci[0] != '\0' ? ")" : "");
    if (p->nic[0] != '\0')
        snprintf(text + at, COORD_PLACE_TEXT - at, ", nic %s", p->nic);
    return text;
}
