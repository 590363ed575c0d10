/* coordinator/cli/command.h - command lines of programs that we start: their words, and what Open MPI must be told. */
#ifndef COORDINATOR_CLI_COMMAND_H
#define COORDINATOR_CLI_COMMAND_H

#include <stdbool.h>

/* A list under construction, ended by NULL; its words are borrowed.  Caller frees `of`. */
typedef struct command_words {
    const char **of;
    int n;
    bool failed; /* no memory for one */
} command_words;

void command_word(command_words *w, const char *text);
void command_words_of(command_words *w, const char *const *list);

/* Entries "NAME=value" that Open MPI needs as root, with more ranks than cores (n_ranks: of all jobs at once), with several jobs on a machine, and in a container; what is set already
 * stays. */
void command_mpi_environment(int n_ranks, command_words *env);

#endif
