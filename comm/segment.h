/* comm/segment.h - memory that the ranks of one host share.
 *
 * Between threads it is an anonymous mapping with a count of its users; between processes a POSIX shared-memory object, or a memfd reached
 * through /proc where /dev/shm is too small (a container's default is 64 MiB).  Its name lives only until all have attached, so that
 * nothing is left behind by a rank that is killed.  Pages are promised with segment_commit before they are touched: a full
 * /dev/shm is a message, not a SIGBUS, and each rank's pages come from its own memory node. */
#ifndef COMM_SEGMENT_H
#define COMM_SEGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct segment segment;

/* What a peer needs to attach; plain bytes, sent as a message. */
typedef struct segment_handle {
    uint64_t bytes;
    uint64_t address; /* between threads: where the mapping is */
    char name[64];    /* between processes */
} segment_handle;

/* bytes of address space, of which about `wanted` will be committed. */
status segment_create(size_t bytes, size_t wanted, bool processes, segment **out);
void segment_handle_get(const segment *s, segment_handle *out);
status segment_attach(const segment_handle *handle, segment **out);
void segment_unlink(segment *s); /* once all have attached */
void segment_close(segment **s);

char *segment_base(const segment *s);
/* Promises the pages of [offset, offset + bytes): ST_NO_MEMORY with the remedy if there is no room. */
status segment_commit(segment *s, size_t offset, size_t bytes);

/* Liveness between processes: each holds a lock on one byte of the object; the kernel drops it when the process ends, however it ends. */
status segment_mark_alive(segment *s, int index);
bool segment_is_alive(const segment *s, int index);

#endif
