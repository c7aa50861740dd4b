/* Compress as zlib's format (RFC 1950) wants it, with the fixed codes of DEFLATE (RFC 1951). */
#ifndef TV_DEFLATE_H
#define TV_DEFLATE_H

#include <stddef.h>
#include <stdint.h>

/* The most bytes that `bytes` bytes become. */
size_t tv_deflate_bound(size_t bytes);

/* Compress into `out`, which has room for the bound; the count of bytes written. */
size_t tv_zlib_deflate(const uint8_t *data, size_t bytes, uint8_t *out);

#endif
