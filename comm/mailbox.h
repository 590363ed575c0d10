/* comm/mailbox.h - messages between the ranks of one host, through shared memory.
 *
 * For each ordered pair there is a lane: a short ring of descriptors and an arena for their bytes.  The sender copies a message into
 * the arena (in fragments where it is large), publishes a descriptor and is done; the receiver copies it out and hands the space back in
 * order.  An arena that has drained starts again at its beginning, so a lane of small messages touches few pages; pages
 * are committed up to the high-water mark.  Messages nobody has asked for yet are kept aside by the receiver. */
#ifndef COMM_MAILBOX_H
#define COMM_MAILBOX_H

#include "comm/host.h"
#include "comm/wire.h"

typedef struct mailbox mailbox;

typedef struct mail_request {
    struct mail_request *next;
    uint64_t key;         /* channel and tag */
    int peer;             /* local rank */
    bool send, done, failed; /* failed: longer than max_bytes */
    char *data;
    size_t bytes;         /* to send; room of a receive */
    size_t moved;         /* sent so far; length of what came */
} mail_request;

/* Bytes of the segment, after host_shared_bytes, that the lanes of `size` ranks take. */
size_t mailbox_bytes(int size);
status mailbox_create(host *h, mailbox **out);
void mailbox_destroy(mailbox **box);

/* Starts a request the caller filled in (peer, key, data, bytes); it may be done at once. */
status mailbox_send(mailbox *box, mail_request *request);
status mailbox_recv(mailbox *box, mail_request *request);
/* Moves everything that can move; cheap when there is nothing. */
status mailbox_progress(mailbox *box);
bool mailbox_sending(const mailbox *box); /* something waits for room */
void mailbox_cancel(mailbox *box, mail_request *request);

#endif
