/* comm/comm_internal.h - what world.c, wait.c, p2p.c, agree.c and group.c share. */
#ifndef COMM_COMM_INTERNAL_H
#define COMM_COMM_INTERNAL_H

#include "comm/comm.h"
#include "comm/host.h"
#include "comm/mailbox.h"
#include "comm/wire.h"

/* Tags of COMM_CHANNEL_CONTROL. */
enum { CONTROL_ABORT = 1, CONTROL_AGREE, CONTROL_GROUP, CONTROL_GROUP_AGREE };

#define NEVER_NS INT64_MAX
#define SPIN_GROUP_NS 100000 /* a peer inside a step is a little behind; longer than that it was not running, and spinning would keep it so */
#define SPIN_P2P_NS 100000    /* between steps nothing may come for long */
#define YIELD_LENT_NS 100000  /* a core that was lent is not left to halt before its borrower is there: waking a halted one takes as long */

typedef struct abort_message {
    int32_t rank;
    char text[HOST_ABORT_TEXT];
} abort_message;

struct comm_world {
    int rank, size;
    int n_hosts, my_host;
    int *host_of;       /* [size] */
    int *local_of;      /* [size] place among the ranks of its host */
    int *first_of_host; /* [n_hosts] world rank of each host's first rank */
    int *on_my_host;    /* [host.size] world ranks */
    host host;
    mailbox *box;
    const comm_wire_ops *ops; /* NULL: one host, no wire */
    comm_wire *wire;
    void *plugin;             /* dlopen handle */
    bool spin;
    int n_wire_pending;       /* requests on the wire: waiting means polling */
    bool abort_posted;        /* the receive for other hosts' abort */
    comm_wire_request abort_request;
    abort_message abort_in, abort_out;
    comm_request *free_requests;
    uint32_t agree_phase, group_count;
    uintptr_t owner;          /* the thread that alone may use the wire; 0: any (threads) */
};

struct comm_request {
    comm_request *next; /* free list */
    bool wire, done;
    int peer, tag;
    mail_request mail;
    comm_wire_request on_wire;
    size_t got;
    status st;
};

/* world.c: ranks' hosts are known (host_of filled in by whoever boots); makes the tables. */
status world_create(int rank, int size, comm_world **out);
status world_set_hosts(comm_world *w, const uint64_t (*host_key)[2]);
/* Pretend hosts for tests: TRIREME_TEST_HOSTS is a number of hosts (ranks dealt out in blocks) or a list "0,1,0,1". */
status world_test_hosts(int size, uint64_t (*host_key)[2]);
size_t world_segment_bytes(const comm_world *w);
/* Takes this rank's place on its host; w->host.segment is set. */
status world_join(comm_world *w);

/* wait.c */
typedef bool (*wait_fn)(void *arg);
/* Until ready(arg): ST_OK; ST_TIMEOUT (no message); ST_ABORTED or ST_PEER (with the reason as message, not logged).
 * on_wire: what is waited for comes over the wire, which is then polled. */
status world_wait(comm_world *w, wait_fn ready, void *arg, int64_t deadline_ns, int64_t spin_ns, int64_t yield_ns, bool on_wire);
status world_progress(comm_world *w);
int64_t world_deadline(int timeout_ms);
status world_aborted(const comm_world *w); /* ST_ABORTED with the reason as this thread's message */
/* Aborts because of `st`, whose message is set here (logged once for the whole job).  Returns st, or ST_ABORTED if another cause came first. */
status world_break(comm_world *w, status st, int rank, const char *format, ...) __attribute__((format(printf, 4, 5)));
void world_forward_abort(comm_world *w);

/* p2p.c */
status p2p_send(comm_world *w, int to, comm_channel channel, int tag, const void *data, size_t bytes, comm_request **out);
status p2p_recv(comm_world *w, int from, comm_channel channel, int tag, void *data, size_t max_bytes, comm_request **out);
/* As comm_wait; on ST_TIMEOUT the request is still pending. */
status p2p_wait(comm_world *w, comm_request **request, int64_t deadline_ns, size_t *got);
void p2p_cancel(comm_world *w, comm_request **request);
status wire_status(const comm_world *w, status st, const char *what, int peer);

/* agree.c: over ranks[0..n), ranks[0] deciding; *value: ranks[0]'s, given to all. */
status agree_over(comm_world *w, const int *ranks, int n, int tag, status mine, int timeout_ms, int *failed_rank, uint32_t *value);

/* wire_threads.c: mailboxes between threads of one process. */
typedef struct thread_wires thread_wires;
status thread_wires_create(int n, thread_wires **out);
void thread_wires_release(thread_wires **wires); /* the creator's hold; each wire has one of its own */
status thread_wire_open(thread_wires *wires, int rank, comm_wire **out);
extern const comm_wire_ops thread_wire_ops;

#endif
