#include "coordinator/device.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"

typedef struct device_word { /* what ranks tell each other */
    int32_t cuda;            /* its backend */
    char why[512];           /* what kept it from a device */
} device_word;

/* `auto` takes CUDA where every rank has it: ranks that compute differently would not give one answer. */
static status all_have_it(comm_world *w, comm_group *everyone, const device_word *mine, coord_device *d)
{
    device_word *all;
    TRY(mem_calloc((size_t)comm_world_size(w), sizeof(*all), "ranks", &all));
    status st = comm_all_gather_equal(everyone, mine, sizeof(*mine), all);
    int lacks = -1, has = 0;
    for (int i = comm_world_size(w) - 1; st == ST_OK && i >= 0; i--) {
        has += all[i].cuda;
        lacks = all[i].cuda ? lacks : i;
    }
    if (lacks >= 0)
        d->ops = ops_cpu();
    if (lacks >= 0 && comm_world_rank(w) == 0 && has > 0)
        log_warn("rank %d has no device that the others have, so all compute on the CPU: %s", lacks, all[lacks].why);
    else if (lacks >= 0 && comm_world_rank(w) == 0 && all[lacks].why[0] != '\0')
        log_info("computing on the CPU: %s", all[lacks].why);
    free(all);
    return st;
}

status coord_device_resolve(comm_world *w, comm_group *everyone, ops_device_kind kind, int timeout_ms, coord_device *out)
{
    device_word mine = {0};
    int failed = 0;
    *out = (coord_device){0};
    status st = ops_device_open(kind, &out->ops, mine.why, sizeof(mine.why));
    mine.cuda = st == ST_OK && out->ops->devices != NULL;
    TRY(comm_agree(w, st, timeout_ms, &failed));
    if (kind == OPS_DEVICE_AUTO)
        TRY(all_have_it(w, everyone, &mine, out));
    if (out->ops->devices != NULL)
        out->device = comm_world_host_rank(w) % out->ops->devices(); /* a launcher that gives each rank its own shows it only that one */
    return ST_OK;
}

status coord_device_memory(comm_world *w, comm_group *everyone, const coord_device *d, int timeout_ms, size_t *out)
{
    typedef struct { ops_device_info info; int32_t host; } device_use;
    device_use use = {.host = comm_world_host(w, comm_world_rank(w))}, *all;
    int failed = 0, n = 0;
    TRY(comm_agree(w, d->ops->device_info(d->device, &use.info), timeout_ms, &failed));
    TRY(mem_calloc((size_t)comm_world_size(w), sizeof(*all), "ranks", &all));
    status st = comm_all_gather_equal(everyone, &use, sizeof(use), all);
    size_t free_bytes = use.info.free_bytes; /* the least that any of them saw: they take their contexts one after the other */
    for (int i = 0; i < comm_world_size(w); i++) {
        if (all[i].host != use.host || memcmp(all[i].info.id, use.info.id, sizeof(use.info.id)) != 0)
            continue;
        n++;
        free_bytes = all[i].info.free_bytes < free_bytes ? all[i].info.free_bytes : free_bytes;
    }
    free(all);
    *out = free_bytes / (size_t)(n > 0 ? n : 1);
    return st;
}
