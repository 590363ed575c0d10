/* tests/comm/cases.h - what any world must do, whatever carries it. */
#ifndef TESTS_COMM_CASES_H
#define TESTS_COMM_CASES_H

#include "tests/comm/ranks.h"

int case_exchange(comm_world *w);
int case_all_reduce(comm_world *w);
int case_gather_broadcast(comm_world *w);
int case_subgroups(comm_world *w);
int case_messages(comm_world *w);
int case_messages_while_exchanging(comm_world *w);
int case_agree(comm_world *w);
int case_common(comm_world *w);
int case_refusals(comm_world *w);

#endif
