/* ops/cpu/emulate_tiles.h - the tile instructions that linear_amx.c uses, in software, for tests on machines that lack them.  Never part of the
 * program.  Follows the instructions' description; sizes that the configuration does not allow trap. */
#ifndef OPS_CPU_EMULATE_TILES_H
#define OPS_CPU_EMULATE_TILES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/half.h"

typedef struct emulate_tile {
    int rows, bytes;
    _Alignas(64) uint8_t data[16][64];
} emulate_tile;
static __thread emulate_tile emulate_tiles[8];

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbssd
#undef _tile_dpbf16ps
#define _tile_loadconfig emulate_tile_loadconfig
#define _tile_release emulate_tile_release
#define _tile_zero emulate_tile_zero
#define _tile_loadd emulate_tile_loadd
#define _tile_stored emulate_tile_stored
#define _tile_dpbssd emulate_tile_dpbssd
#define _tile_dpbf16ps emulate_tile_dpbf16ps

static inline void emulate_tile_check(int ok)
{
    if (!ok)
        __builtin_trap();
}

/* 64 bytes: palette, start row, 14 reserved, u16 bytes a row of each tile, then u8 rows of each at 48. */
static inline void emulate_tile_loadconfig(const void *config)
{
    const uint8_t *c = config;
    emulate_tile_check(c[0] == 1);
    for (int t = 0; t < 8; t++) {
        uint16_t bytes;
        memcpy(&bytes, c + 16 + 2 * t, 2);
        emulate_tile_check(bytes <= 64 && c[48 + t] <= 16 && (bytes == 0) == (c[48 + t] == 0));
        emulate_tiles[t] = (emulate_tile){.rows = c[48 + t], .bytes = bytes};
    }
}

static inline void emulate_tile_release(void)
{
    memset(emulate_tiles, 0, sizeof(emulate_tiles));
}

static inline void emulate_tile_zero(int t)
{
    emulate_tile_check(emulate_tiles[t].rows != 0);
    memset(emulate_tiles[t].data, 0, sizeof(emulate_tiles[t].data));
}

static inline void emulate_tile_loadd(int t, const void *base, size_t stride)
{
    emulate_tile_zero(t);
    for (int r = 0; r < emulate_tiles[t].rows; r++)
        memcpy(emulate_tiles[t].data[r], (const char *)base + (size_t)r * stride, (size_t)emulate_tiles[t].bytes);
}

static inline void emulate_tile_stored(int t, void *base, size_t stride)
{
    emulate_tile_check(emulate_tiles[t].rows != 0);
    for (int r = 0; r < emulate_tiles[t].rows; r++)
        memcpy((char *)base + (size_t)r * stride, emulate_tiles[t].data[r], (size_t)emulate_tiles[t].bytes);
}

/* c[m][n] (4 bytes) takes a[m][4k..] and b[k][4n..]: rows of b are as many as a has words. */
static inline void emulate_tile_check_product(int c, int a, int b)
{
    emulate_tile_check(emulate_tiles[c].rows == emulate_tiles[a].rows && emulate_tiles[c].bytes == emulate_tiles[b].bytes);
    emulate_tile_check(emulate_tiles[a].bytes / 4 == emulate_tiles[b].rows && c != a && c != b && a != b);
}

static inline void emulate_tile_dpbssd(int c, int a, int b)
{
    emulate_tile_check_product(c, a, b);
    for (int m = 0; m < emulate_tiles[c].rows; m++)
        for (int n = 0; n < emulate_tiles[c].bytes / 4; n++) {
            int32_t sum;
            memcpy(&sum, &emulate_tiles[c].data[m][4 * n], 4);
            for (int k = 0; k < emulate_tiles[a].bytes; k++)
                sum += (int8_t)emulate_tiles[a].data[m][k] * (int8_t)emulate_tiles[b].data[k / 4][4 * n + k % 4];
            memcpy(&emulate_tiles[c].data[m][4 * n], &sum, 4);
        }
}

static inline float emulate_tile_bf16(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    return half_bf16_to_f32(h);
}

/* Even and odd products are summed apart over the tile, then joined. */
static inline void emulate_tile_dpbf16ps(int c, int a, int b)
{
    emulate_tile_check_product(c, a, b);
    for (int m = 0; m < emulate_tiles[c].rows; m++)
        for (int n = 0; n < emulate_tiles[c].bytes / 4; n++) {
            float sum, part[2] = {0, 0};
            memcpy(&sum, &emulate_tiles[c].data[m][4 * n], 4);
            for (int k = 0; k < emulate_tiles[a].bytes / 2; k++)
                part[k % 2] = __builtin_fmaf(emulate_tile_bf16(&emulate_tiles[a].data[m][2 * k]), emulate_tile_bf16(&emulate_tiles[b].data[k / 2][4 * n + k % 2 * 2]), part[k % 2]);
            sum += part[0] + part[1];
            memcpy(&emulate_tiles[c].data[m][4 * n], &sum, 4);
        }
}

#endif
