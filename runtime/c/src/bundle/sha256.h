/* SHA-256 (FIPS 180-4), in pieces. */
#ifndef TV_SHA256_H
#define TV_SHA256_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint32_t state[8];
    uint64_t bytes;
    unsigned char block[64];
} tv_sha256;

void tv_sha256_begin(tv_sha256 *hash);
void tv_sha256_add(tv_sha256 *hash, const void *data, size_t bytes);

/* 64 lower-case hexadecimal digits and a zero byte. */
void tv_sha256_end(tv_sha256 *hash, char out[65]);

#endif
