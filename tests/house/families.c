/* tests/house/families.c - prints the README's table of supported families, from the table the program itself goes by. */
#include <stdio.h>

#include "shard/arch.h"

/* Blanks between names become ", ". */
static void print_names(const char *names)
{
    if (names == NULL || names[0] == '\0')
        printf("-");
    for (const char *p = names; p != NULL && *p != '\0'; p++)
        *p == ' ' ? fputs(", ", stdout) : putchar(*p);
}

int main(void)
{
    shard_family_info f;
    printf("| family | checkpoints (`architectures` in config.json) | GGUF | notes |\n|---|---|---|---|\n");
    for (int i = 0; shard_family(i, &f); i++) {
        printf("| %s | ", f.title);
        print_names(f.hf_architectures);
        printf(" | ");
        print_names(f.gguf_names);
        printf(" | %s |\n", f.notes == NULL ? "" : f.notes);
    }
    return 0;
}
