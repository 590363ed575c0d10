#include "tests/comm/cases.h"

#include <string.h>

#define TIMEOUT_MS 30000
#define EXCHANGE_BYTES 40000

/* A value that makes a different order of addition visible in the last bits. */
static float term(int member, size_t i, unsigned round)
{
    unsigned s = (unsigned)member * 2654435761u ^ (unsigned)i * 40503u ^ round * 97u;
    s ^= s >> 15;
    s *= 2246822519u;
    return ((float)(s % 20001) - 10000.0f) * (1.0f + 0.37f * (float)(s % 7)) / 3.0f;
}

/* The order the plan fixes: inside a host in group order, then hosts in the order of their first members. */
static float expected_sum(const comm_world *w, const int *ranks, int n, size_t i, unsigned round)
{
    float total = 0;
    bool first_host = true;
    for (int a = 0; a < n; a++) {
        bool seen = false;
        for (int b = 0; b < a; b++)
            seen |= comm_world_host(w, ranks[b]) == comm_world_host(w, ranks[a]);
        if (seen)
            continue;
        float part = term(a, i, round);
        for (int b = a + 1; b < n; b++)
            if (comm_world_host(w, ranks[b]) == comm_world_host(w, ranks[a]))
                part += term(b, i, round);
        total = first_host ? part : total + part;
        first_host = false;
    }
    return total;
}

static int all_group(comm_world *w, size_t exchange_bytes, int *ranks, comm_group **g)
{
    for (int i = 0; i < comm_world_size(w); i++)
        ranks[i] = i;
    CHECK_OK(comm_group_create(w, ranks, comm_world_size(w), exchange_bytes, TIMEOUT_MS, g));
    return 0;
}

static void skew(unsigned *state)
{
    if (next_random(state) % 16 == 0)
        nap_us(next_random(state) % 300);
}

static int exchange_once(comm_world *w, comm_group *g, const int *ranks, size_t n, unsigned round)
{
    void *slot;
    const float *const *parts;
    int n_parts, me = comm_group_rank(g);
    CHECK_OK(comm_exchange_begin(g, n * sizeof(float), &slot));
    CHECK((uintptr_t)slot % 64 == 0);
    for (size_t i = 0; i < n; i++)
        ((float *)slot)[i] = term(me, i, round);
    CHECK_OK(comm_exchange_end(g, n * sizeof(float), &parts, &n_parts));
    CHECK(n_parts >= 1);
    for (size_t i = 0; i < n; i += 1 + n / 500) {
        float sum = parts[0][i];
        for (int k = 1; k < n_parts; k++)
            sum += parts[k][i];
        CHECK(sum == expected_sum(w, ranks, comm_group_size(g), i, round));
    }
    return 0;
}

int case_exchange(comm_world *w)
{
    int ranks[64];
    comm_group *g;
    unsigned own = (unsigned)comm_world_rank(w) * 7 + 1, shared = 5;
    if (all_group(w, EXCHANGE_BYTES, ranks, &g))
        return 1;
    for (unsigned round = 0; round < 60; round++) {
        size_t n = next_random(&shared) % (EXCHANGE_BYTES / sizeof(float));
        skew(&own);
        if (exchange_once(w, g, ranks, n, round))
            return 1;
    }
    comm_stats stats;
    comm_group_stats(g, &stats);
    CHECK(stats.calls == 60);
    comm_group_destroy(&g);
    return 0;
}

static int sums_of(comm_world *w, size_t exchange_bytes, const size_t *sizes, unsigned n_sizes)
{
    int ranks[64];
    comm_group *g;
    unsigned own = (unsigned)comm_world_rank(w) + 3;
    if (all_group(w, exchange_bytes, ranks, &g))
        return 1;
    for (unsigned round = 0; round < n_sizes; round++) {
        size_t n = sizes[round];
        float *data = malloc((n + 1) * sizeof(float));
        CHECK(data != NULL);
        for (size_t i = 0; i < n; i++)
            data[i] = term(comm_group_rank(g), i, round);
        data[n] = 12345;
        skew(&own);
        CHECK_OK(comm_all_reduce(g, data, n));
        for (size_t i = 0; i < n; i += 1 + n / 700)
            CHECK(data[i] == expected_sum(w, ranks, comm_group_size(g), i, round));
        CHECK(data[n] == 12345);
        free(data);
    }
    comm_group_destroy(&g);
    return 0;
}

/* As sums of prompts are: some that cross between hosts in one piece, some in several. */
int case_all_reduce(comm_world *w)
{
    static const size_t small[] = {0, 1, 15, 16, 17, 4096, 4097, 9999, 10000, 10001, 65537, 200003}, large[] = {70001, 524289, 1048576, 1048577, 2200003};
    return sums_of(w, EXCHANGE_BYTES, small, ARRAY_LEN(small)) || sums_of(w, (size_t)9 << 20, large, ARRAY_LEN(large));
}

static unsigned char byte_of(int member, size_t i, unsigned round)
{
    return (unsigned char)((unsigned)member * 31 + i * 7 + i / 251 + round);
}

static int gather_once(comm_group *g, const size_t *bytes, unsigned round)
{
    size_t total = 0, at = 0;
    int n = comm_group_size(g), me = comm_group_rank(g);
    for (int i = 0; i < n; i++)
        total += bytes[i];
    unsigned char *mine = malloc(bytes[me] + 1), *all = malloc(total + 1);
    CHECK(mine != NULL && all != NULL);
    for (size_t i = 0; i < bytes[me]; i++)
        mine[i] = byte_of(me, i, round);
    all[total] = 77;
    CHECK_OK(comm_all_gather(g, mine, bytes, all));
    for (int m = 0; m < n; m++)
        for (size_t i = 0; i < bytes[m]; i++, at++)
            CHECK(all[at] == byte_of(m, i, round));
    CHECK(all[total] == 77);
    free(mine);
    free(all);
    return 0;
}

int case_gather_broadcast(comm_world *w)
{
    int ranks[64];
    size_t bytes[64];
    comm_group *g;
    unsigned own = (unsigned)comm_world_rank(w) + 11, shared = 9;
    if (all_group(w, EXCHANGE_BYTES, ranks, &g))
        return 1;
    for (unsigned round = 0; round < 12; round++) {
        for (int i = 0; i < comm_group_size(g); i++)
            bytes[i] = next_random(&shared) % 4 == 0 ? 0 : next_random(&shared) % (round < 6 ? 300 : 150000);
        skew(&own);
        if (gather_once(g, bytes, round))
            return 1;
        CHECK_OK(comm_barrier(g));
    }
    for (int root = 0; root < comm_group_size(g); root++) {
        size_t n = 1 + (size_t)root * 60000;
        unsigned char *data = calloc(1, n);
        CHECK(data != NULL);
        for (size_t i = 0; i < n && comm_group_rank(g) == root; i++)
            data[i] = byte_of(root, i, 3);
        CHECK_OK(comm_broadcast(g, root, data, n));
        for (size_t i = 0; i < n; i++)
            CHECK(data[i] == byte_of(root, i, 3));
        free(data);
    }
    comm_group_destroy(&g);
    return 0;
}

/* Two groups that divide the world, one listed backwards; each rank works in its own and in the whole at once. */
int case_subgroups(comm_world *w)
{
    int ranks[64], all[64], n = 0, size = comm_world_size(w), parity = comm_world_rank(w) % 2;
    comm_group *g, *whole;
    if (all_group(w, EXCHANGE_BYTES, all, &whole))
        return 1;
    for (int r = 0; r < size; r++)
        if (r % 2 == parity)
            ranks[n++] = r;
    for (int i = 0; i < n / 2 && parity == 1; i++) {
        int t = ranks[i];
        ranks[i] = ranks[n - 1 - i];
        ranks[n - 1 - i] = t;
    }
    CHECK_OK(comm_group_create(w, ranks, n, 8192, TIMEOUT_MS, &g));
    for (unsigned round = 0; round < 20; round++) {
        if (exchange_once(w, g, ranks, 100 + round, round) || exchange_once(w, whole, all, 33 + round, round + 100))
            return 1;
    }
    comm_group_destroy(&g);
    comm_group_destroy(&whole);
    return 0;
}

/* Messages of megabytes: whole words and memcmp, since a thread sanitizer looks at each access. */
static void fill_message(unsigned char *data, size_t n, int from, unsigned round)
{
    uint64_t words[512];
    for (size_t at = 0; at < n; at += sizeof(words)) {
        for (size_t i = 0; i < ARRAY_LEN(words); i++)
            words[i] = (at + i) * 0x9E3779B97F4A7C15u ^ ((uint64_t)from << 40 | (uint64_t)round << 8);
        memcpy(data + at, words, n - at < sizeof(words) ? n - at : sizeof(words));
    }
}

static int check_message(const unsigned char *data, size_t n, int from, unsigned round)
{
    unsigned char *want = malloc(n + 1);
    CHECK(want != NULL);
    fill_message(want, n, from, round);
    CHECK(memcmp(data, want, n) == 0);
    free(want);
    return 0;
}

typedef status waiting(comm_world *w, comm_request **req, int timeout_ms, size_t *got);

/* To the next rank around, itself included: sizes from nothing to beyond any buffer, tags taken in another order than
 * sent. */
static int messages_by(comm_world *w, waiting *wait)
{
    static const size_t sizes[] = {0, 1, 64, 1000, 70000, 1500000, 4500001};
    enum { N = ARRAY_LEN(sizes) };
    int me = comm_world_rank(w), size = comm_world_size(w), to = (me + 1) % size, from = (me + size - 1) % size;
    comm_request *sends[N], *recv;
    unsigned char *out[N], *in = malloc(sizes[N - 1]);
    CHECK(in != NULL);
    for (int k = 0; k < N; k++) {
        out[k] = malloc(sizes[k] + 1);
        CHECK(out[k] != NULL);
        fill_message(out[k], sizes[k], me, (unsigned)k);
        CHECK_OK(comm_send(w, to, 100 + k % 3, out[k], sizes[k], &sends[k]));
    }
    /* Tag by tag: inside a tag in the order sent. */
    for (int tag = 2; tag >= 0; tag--) {
        for (int k = tag; k < N; k += 3) {
            size_t got = 99;
            CHECK_OK(comm_recv(w, from, 100 + tag, in, sizes[N - 1], &recv));
            CHECK_OK(wait(w, &recv, TIMEOUT_MS, &got));
            CHECK(recv == NULL && got == sizes[k]);
            if (check_message(in, got, from, (unsigned)k))
                return 1;
        }
    }
    for (int k = 0; k < N; k++) {
        CHECK_OK(wait(w, &sends[k], TIMEOUT_MS, NULL));
        free(out[k]);
    }
    /* Posted before it is sent, found by testing. */
    bool done = false;
    size_t got = 0;
    CHECK_OK(comm_recv(w, from, 7, in, 100, &recv));
    CHECK_OK(comm_send(w, to, 7, "hello", 5, &sends[0]));
    while (!done)
        CHECK_OK(comm_test(w, &recv, &done, &got));
    CHECK(got == 5 && memcmp(in, "hello", 5) == 0);
    CHECK_OK(wait(w, &sends[0], TIMEOUT_MS, NULL));
    /* Longer than the receiver's room: refused, and what follows is whole. */
    CHECK_OK(comm_send(w, to, 8, "0123456789", 10, &sends[0]));
    CHECK_OK(comm_send(w, to, 8, "after", 5, &sends[1]));
    status_mute();
    CHECK_OK(comm_recv(w, from, 8, in, 4, &recv));
    CHECK(wait(w, &recv, TIMEOUT_MS, &got) == ST_LIMIT);
    status_unmute();
    CHECK_OK(comm_recv(w, from, 8, in, 100, &recv));
    CHECK_OK(wait(w, &recv, TIMEOUT_MS, &got));
    CHECK(got == 5 && memcmp(in, "after", 5) == 0);
    for (int k = 0; k < 2; k++)
        CHECK_OK(wait(w, &sends[k], TIMEOUT_MS, NULL));
    /* Nothing comes before it is asked for: the request outlives its timeout. */
    comm_request *go;
    char asked;
    CHECK_OK(comm_recv(w, from, 9, in, 4, &recv));
    CHECK(wait(w, &recv, 20, NULL) == ST_TIMEOUT && recv != NULL);
    CHECK_OK(comm_send(w, from, 10, "?", 1, &sends[0]));
    CHECK_OK(comm_recv(w, to, 10, &asked, 1, &go));
    CHECK_OK(wait(w, &go, TIMEOUT_MS, NULL));
    CHECK_OK(comm_send(w, to, 9, "late", 4, &sends[1]));
    CHECK_OK(wait(w, &recv, TIMEOUT_MS, &got));
    for (int k = 0; k < 2; k++)
        CHECK_OK(wait(w, &sends[k], TIMEOUT_MS, NULL));
    free(in);
    return 0;
}

int case_messages(comm_world *w)
{
    return messages_by(w, comm_wait) != 0 || messages_by(w, comm_wait_lending) != 0;
}

/* As a pipeline does: many large messages on their way while the sender is busy in a group with others. */
int case_messages_while_exchanging(comm_world *w)
{
    enum { ROUNDS = 6, BYTES = 1500000 };
    int ranks[64], me = comm_world_rank(w), size = comm_world_size(w);
    comm_group *g;
    comm_request *sends[ROUNDS], *recv;
    if (all_group(w, EXCHANGE_BYTES, ranks, &g))
        return 1;
    unsigned char *out = malloc(BYTES), *in = malloc(BYTES);
    CHECK(out != NULL && in != NULL);
    fill_message(out, BYTES, me, 1);
    for (int k = 0; k < ROUNDS; k++)
        CHECK_OK(comm_send(w, (me + 1) % size, 5, out, BYTES, &sends[k]));
    for (unsigned round = 0; round < 5; round++)
        if (exchange_once(w, g, ranks, 500, round))
            return 1;
    for (int k = 0; k < ROUNDS; k++) {
        size_t got;
        CHECK_OK(comm_recv(w, (me + size - 1) % size, 5, in, BYTES, &recv));
        CHECK_OK(comm_wait(w, &recv, TIMEOUT_MS, &got));
        CHECK(got == BYTES);
        if (check_message(in, BYTES, (me + size - 1) % size, 1))
            return 1;
    }
    for (int k = 0; k < ROUNDS; k++)
        CHECK_OK(comm_wait(w, &sends[k], TIMEOUT_MS, NULL));
    CHECK_OK(comm_barrier(g));
    free(out);
    free(in);
    comm_group_destroy(&g);
    return 0;
}

/* Each member writes its piece of what all have in common, and after a barrier reads everybody's; an exchange beside it disturbs nothing. */
int case_common(comm_world *w)
{
    enum { PIECE = 5000 };
    int ranks[64], size = comm_world_size(w);
    bool one_host = true;
    comm_group *g;
    for (int i = 0; i < size; i++) {
        ranks[i] = i;
        one_host = one_host && comm_world_host(w, i) == comm_world_host(w, 0);
    }
    CHECK_OK(comm_group_create_common(w, ranks, size, EXCHANGE_BYTES, (size_t)size * PIECE, TIMEOUT_MS, &g));
    unsigned char *common = comm_group_common(g);
    CHECK((common != NULL) == one_host);
    CHECK(common == NULL || ((uintptr_t)common & 4095) == 0);
    for (unsigned round = 0; round < 20 && one_host; round++) {
        for (size_t i = 0; i < PIECE; i++)
            common[(size_t)comm_group_rank(g) * PIECE + i] = byte_of(comm_group_rank(g), i, round);
        CHECK_OK(comm_barrier(g));
        for (int r = 0; r < size; r++) {
            for (size_t i = 0; i < PIECE; i++)
                CHECK(common[(size_t)r * PIECE + i] == byte_of(r, i, round));
        }
        if (exchange_once(w, g, ranks, 500, round)) /* nobody writes the next round before all have read this one */
            return 1;
    }
    comm_group_destroy(&g);
    CHECK_OK(comm_group_create(w, ranks, size, EXCHANGE_BYTES, TIMEOUT_MS, &g));
    CHECK(comm_group_common(g) == NULL);
    comm_group_destroy(&g);
    return 0;
}

int case_agree(comm_world *w)
{
    int failed = 99, me = comm_world_rank(w), size = comm_world_size(w);
    CHECK_OK(comm_agree(w, ST_OK, TIMEOUT_MS, &failed));
    CHECK(failed == -1);
    /* The last two fail in different ways: the lower rank's tale is told. */
    status mine = ST_OK, want = ST_CORRUPT;
    char text[64];
    snprintf(text, sizeof(text), "rank %d: tensor x.weight is bad", me);
    if (me >= size - 2) {
        mine = me == size - 1 && size > 1 ? ST_IO : ST_CORRUPT;
        status_message_set(text);
    }
    nap_us((unsigned)(size - me) * 300);
    CHECK(comm_agree(w, mine, TIMEOUT_MS, &failed) == want);
    int first = size > 1 ? size - 2 : 0;
    snprintf(text, sizeof(text), "rank %d: tensor x.weight is bad", first);
    CHECK(failed == first);
    CHECK(strcmp(status_message(), text) == 0);
    /* And life goes on. */
    CHECK_OK(comm_agree(w, ST_OK, TIMEOUT_MS, &failed));
    return 0;
}

int case_refusals(comm_world *w)
{
    int size = comm_world_size(w), me = comm_world_rank(w);
    int twice[2] = {me, me}, outside[1] = {size}, ranks[64];
    comm_group *g = NULL;
    comm_request *r = NULL;
    void *slot;
    status_mute();
    CHECK(comm_group_create(w, outside, 1, 0, 1000, &g) == ST_INVALID && g == NULL);
    CHECK(comm_group_create(w, twice, 2, 0, 1000, &g) == ST_INVALID && g == NULL);
    CHECK(comm_send(w, size, 0, "x", 1, &r) == ST_INVALID && r == NULL);
    CHECK(comm_recv(w, -1, 0, ranks, 1, &r) == ST_INVALID && r == NULL);
    CHECK(comm_send(w, me, -5, "x", 1, &r) == ST_INVALID && r == NULL);
    status_unmute();
    if (all_group(w, EXCHANGE_BYTES, ranks, &g))
        return 1;
    status_mute();
    CHECK(comm_exchange_begin(g, EXCHANGE_BYTES + 64, &slot) == ST_INVALID);
    CHECK(comm_broadcast(g, size, ranks, 4) == ST_INVALID);
    status_unmute();
    CHECK_OK(comm_barrier(g));
    comm_group_destroy(&g);
    return 0;
}
