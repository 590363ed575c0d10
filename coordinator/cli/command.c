#include "coordinator/cli/command.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/threads.h"

void command_word(command_words *w, const char *text)
{
    const char **grown = realloc(w->of, ((size_t)w->n + 2) * sizeof(*grown));
    w->failed = w->failed || grown == NULL || text == NULL;
    if (grown == NULL)
        return;
    w->of = grown;
    w->of[w->n++] = text;
    w->of[w->n] = NULL;
}

void command_words_of(command_words *w, const char *const *list)
{
    for (; *list != NULL; list++)
        command_word(w, *list);
}

void command_mpi_environment(int n_ranks, command_words *env)
{
    static const struct {
        const char *name, *entry;
    } as_root[] = {{"OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT=1"}, {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"}},
      always[] = {{"OMPI_MCA_rmaps_base_oversubscribe", "OMPI_MCA_rmaps_base_oversubscribe=1"},
                  {"OMPI_MCA_hwloc_base_binding_policy", "OMPI_MCA_hwloc_base_binding_policy=none"}, /* ranks of several jobs must not all sit on core 0 */
                  {"OMPI_MCA_btl_vader_single_copy_mechanism", "OMPI_MCA_btl_vader_single_copy_mechanism=none"}},
      crowded[] = {{"OMPI_MCA_mpi_yield_when_idle", "OMPI_MCA_mpi_yield_when_idle=1"}};
    for (size_t i = 0; i < ARRAY_LEN(as_root); i++) {
        if (geteuid() == 0 && getenv(as_root[i].name) == NULL)
            command_word(env, as_root[i].entry);
    }
    for (size_t i = 0; i < ARRAY_LEN(always); i++) {
        if (getenv(always[i].name) == NULL)
            command_word(env, always[i].entry);
    }
    if (n_ranks > threads_cores_granted() && getenv(crowded[0].name) == NULL)
        command_word(env, crowded[0].entry);
}
