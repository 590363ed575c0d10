/* comm/choice.c - the table that says by size how a sum over devices goes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/device.h"

comm_choice comm_choice_default(int n_members)
{
    /* Two ranks: both read as much as they would in two rounds.  More: reading everything of everybody costs more than a second meeting from some size on. */
    uint64_t one = n_members <= 2 ? 8 << 20 : n_members <= 4 ? 512 << 10 : 256 << 10;
    return (comm_choice){.one_shot = one, .two_shot = 8 << 20};
}

static const char *size_parse(const char *text, uint64_t *out)
{
    char *end;
    if (strncmp(text, "max", 3) == 0) {
        *out = UINT64_MAX;
        return text + 3;
    }
    if (*text < '0' || *text > '9')
        return NULL;
    uint64_t v = strtoull(text, &end, 10);
    int shift = *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
    if (v > UINT64_MAX >> shift)
        return NULL;
    *out = v << shift;
    return end + (shift > 0);
}

status comm_choice_parse(const char *text, comm_choice *out)
{
    static const char one[] = "one-shot=", two[] = "two-shot=";
    comm_choice c = *out;
    for (const char *at = text; at != NULL && *at != '\0';) {
        bool first = strncmp(at, one, strlen(one)) == 0;
        if (!first && strncmp(at, two, strlen(two)) != 0)
            at = NULL;
        else
            at = size_parse(at + strlen(one), first ? &c.one_shot : &c.two_shot);
        if (at == NULL || (*at != ',' && *at != '\0'))
            return FAIL(ST_INVALID, "\"%s\": sizes of collectives are given as one-shot=256K,two-shot=8M", text);
        at += *at == ',';
    }
    *out = c;
    return ST_OK;
}

static void size_print(uint64_t v, char *out, size_t bytes)
{
    static const char units[] = {'\0', 'K', 'M', 'G'};
    int u = 0;
    while (v > 0 && v != UINT64_MAX && v % 1024 == 0 && u < 3) {
        v /= 1024;
        u++;
    }
    if (v == UINT64_MAX)
        snprintf(out, bytes, "max");
    else
        snprintf(out, bytes, u > 0 ? "%llu%c" : "%llu", (unsigned long long)v, units[u]);
}

void comm_choice_print(const comm_choice *c, char *out, size_t bytes)
{
    char one[32], two[32];
    size_print(c->one_shot, one, sizeof(one));
    size_print(c->two_shot, two, sizeof(two));
    snprintf(out, bytes, "one-shot=%s,two-shot=%s", one, two);
}
