/* base/hash.h - SHA-256 (OpenSSL) for identity, XXH3 (xxHash) for tables, and an order-free hash of floats. */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define HASH_SHA256_BYTES 32
#define HASH_SHA256_HEX 65 /* with the final NUL */

typedef struct hash_sha256 hash_sha256;
status hash_sha256_create(hash_sha256 **out);
void hash_sha256_update(hash_sha256 *h, const void *data, size_t n);
void hash_sha256_final(hash_sha256 *h, uint8_t digest[HASH_SHA256_BYTES]); /* may be reused afterwards from empty */
void hash_sha256_destroy(hash_sha256 **h);
status hash_sha256_of(const void *data, size_t n, uint8_t digest[HASH_SHA256_BYTES]);
void hash_hex(const uint8_t *digest, size_t n, char *out /* 2n + 1 */);

/* Fast, not for hostile collisions. */
uint64_t hash_fast(const void *data, size_t n, uint64_t seed);

/* A good mix of 64 bits (the finaliser of splitmix64). */
static inline uint64_t hash_mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

#endif
