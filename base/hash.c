#include "base/hash.h"

#include <openssl/evp.h>
#include <stdlib.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

struct hash_sha256 {
    EVP_MD_CTX *ctx;
};

status hash_sha256_create(hash_sha256 **out)
{
    hash_sha256 *h = calloc(1, sizeof(*h));
    if (h != NULL)
        h->ctx = EVP_MD_CTX_new();
    if (h == NULL || h->ctx == NULL || EVP_DigestInit_ex(h->ctx, EVP_sha256(), NULL) != 1) {
        hash_sha256_destroy(&h);
        return FAIL(ST_NO_MEMORY, "sha-256: cannot be set up");
    }
    *out = h;
    return ST_OK;
}

void hash_sha256_update(hash_sha256 *h, const void *data, size_t n)
{
    EVP_DigestUpdate(h->ctx, data, n);
}

void hash_sha256_final(hash_sha256 *h, uint8_t digest[HASH_SHA256_BYTES])
{
    EVP_DigestFinal_ex(h->ctx, digest, NULL);
    EVP_DigestInit_ex(h->ctx, EVP_sha256(), NULL);
}

void hash_sha256_destroy(hash_sha256 **h)
{
    if (*h == NULL)
        return;
    EVP_MD_CTX_free((*h)->ctx);
    free(*h);
    *h = NULL;
}

status hash_sha256_of(const void *data, size_t n, uint8_t digest[HASH_SHA256_BYTES])
{
    if (EVP_Digest(data, n, digest, NULL, EVP_sha256(), NULL) != 1)
        return FAIL(ST_INTERNAL, "sha-256 failed");
    return ST_OK;
}

void hash_hex(const uint8_t *digest, size_t n, char *out)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[digest[i] >> 4];
        out[2 * i + 1] = digits[digest[i] & 15];
    }
    out[2 * n] = '\0';
}

uint64_t hash_fast(const void *data, size_t n, uint64_t seed)
{
    return XXH3_64bits_withSeed(data, n, seed);
}
