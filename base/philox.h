/* base/philox.h - Philox4x32-10 (Salmon et al., SC'11): counter-based noise, the same on every rank and device. */
#ifndef BASE_PHILOX_H
#define BASE_PHILOX_H

#include <stdint.h>

void philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

#endif
