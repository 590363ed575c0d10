#include "comm/host.h"

#include <stdio.h>

#include "base/mem.h"

#define CHECK_NS 100000000

size_t host_shared_bytes(int size)
{
    return mem_align(sizeof(host_shared) + (size_t)size * sizeof(host_rank), 4096);
}

status host_join(host *h)
{
    h->shared = (host_shared *)segment_base(h->segment);
    TRY(segment_mark_alive(h->segment, h->me));
    atomic_store(&h->shared->ranks[h->me].state, HOST_ALIVE);
    return ST_OK;
}

void host_leave(host *h)
{
    if (h->shared == NULL)
        return;
    atomic_store(&h->shared->ranks[h->me].state, HOST_LEFT);
    for (int i = 0; i < h->size; i++)
        host_wake(h, i);
    h->shared = NULL;
}

bool host_abort_set(host *h, int rank, const char *text, bool from_wire)
{
    host_abort *a = &h->shared->abort;
    int none = 0;
    bool first = atomic_compare_exchange_strong(&a->state, &none, 1);
    if (first) {
        a->rank = rank;
        snprintf(a->text, sizeof(a->text), "%s", text);
        if (from_wire)
            atomic_store(&a->forwarded, 1);
        atomic_store(&a->state, 2);
    }
    for (int i = 0; i < h->size; i++) {
        atomic_fetch_add(&h->shared->ranks[i].bell, 1);
        sync_futex_wake(&h->shared->ranks[i].bell);
    }
    return first;
}

int host_find_dead(host *h, int64_t now_ns)
{
    if (!h->processes || now_ns < atomic_load(&h->next_check_ns))
        return -1;
    atomic_store(&h->next_check_ns, now_ns + CHECK_NS);
    for (int i = 0; i < h->size; i++) {
        /* A rank that leaves marks itself first and ends afterwards: look at the mark again once the lock is seen to be gone. */
        if (i != h->me && atomic_load(&h->shared->ranks[i].state) == HOST_ALIVE && !segment_is_alive(h->segment, i) &&
            atomic_load(&h->shared->ranks[i].state) == HOST_ALIVE)
            return i;
    }
    return -1;
}
