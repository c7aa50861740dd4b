/* PNG files of RGB pictures, eight bits a channel (ISO/IEC 15948). */
#ifndef TV_PNG_H
#define TV_PNG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* CRC-32 of `bytes`, going on from `crc` (0 at first). */
uint32_t tv_crc32(uint32_t crc, const void *data, size_t bytes);

/*
 * Decode a picture of known size into `pixels`, height x width x 3 bytes. False with a `problem` unless it is an RGB
 * PNG of eight bits, not interlaced, of just that size: what tv-export writes.
 */
bool tv_png_read(const void *data, size_t bytes, size_t height, size_t width, uint8_t *pixels, const char **problem);

#endif
