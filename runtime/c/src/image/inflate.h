/* DEFLATE (RFC 1951) in zlib's wrapping (RFC 1950), into room of known size. */
#ifndef TV_INFLATE_H
#define TV_INFLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decompress into exactly `out_bytes` bytes; false when the stream is damaged or gives another number of them. */
bool tv_zlib_inflate(const uint8_t *data, size_t bytes, uint8_t *out, size_t out_bytes);

uint32_t tv_adler32(const uint8_t *data, size_t bytes);

#endif
