#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "image/deflate.h"
#include "image/inflate.h"
#include "image/png.h"

#define SIZE_LIMIT 65535 /* pixels a side: more than any model's, and no size overflows */
#define WRITE_HINT "choose a folder that can be written to"

uint32_t tv_crc32(uint32_t crc, const void *data, size_t bytes)
{
    const uint8_t *next = data;
    crc = ~crc;
    for (; bytes > 0; bytes--, next++) {
        crc ^= *next;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0xEDB88320u & (0u - (crc & 1)));
    }
    return ~crc;
}

static void put_number(uint8_t *out, size_t number)
{
    for (int index = 0; index < 4; index++)
        out[index] = (uint8_t)(number >> (24 - 8 * index));
}

static bool write_chunk(FILE *file, const char *kind, const uint8_t *data, size_t bytes)
{
    uint8_t head[8], sum[4];
    put_number(head, bytes);
    memcpy(head + 4, kind, 4);
    put_number(sum, tv_crc32(tv_crc32(0, kind, 4), data, bytes));
    return fwrite(head, 1, sizeof head, file) == sizeof head && (bytes == 0 || fwrite(data, 1, bytes, file) == bytes) &&
           fwrite(sum, 1, sizeof sum, file) == sizeof sum;
}

/* Each byte less the one above it (filter 2), which smooth pictures pack well with. */
static void filter_rows(const uint8_t *pixels, size_t height, size_t row_bytes, uint8_t *out)
{
    for (size_t y = 0; y < height; y++) {
        *out++ = 2;
        for (size_t x = 0; x < row_bytes; x++)
            *out++ = (uint8_t)(pixels[y * row_bytes + x] - (y == 0 ? 0 : pixels[(y - 1) * row_bytes + x]));
    }
}

/* The stream of zlib that IDAT holds; NULL when there is no memory. */
static uint8_t *packed_pixels(const uint8_t *pixels, size_t height, size_t width, size_t *bytes)
{
    size_t row_bytes = 3 * width, plain_bytes = height * (row_bytes + 1);
    uint8_t *plain = malloc(plain_bytes), *packed = malloc(tv_deflate_bound(plain_bytes));
    if (plain != NULL && packed != NULL) {
        filter_rows(pixels, height, row_bytes, plain);
        *bytes = tv_zlib_deflate(plain, plain_bytes, packed);
    } else {
        free(packed);
        packed = NULL;
    }
    free(plain);
    return packed;
}

static bool write_png(FILE *file, const uint8_t *packed, size_t bytes, size_t height, size_t width)
{
    static const uint8_t signature[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};
    uint8_t head[13] = {0, 0, 0, 0, 0, 0, 0, 0, 8, 2, 0, 0, 0};
    put_number(head, width);
    put_number(head + 4, height);
    return fwrite(signature, 1, sizeof signature, file) == sizeof signature &&
           write_chunk(file, "IHDR", head, sizeof head) && write_chunk(file, "IDAT", packed, bytes) &&
           write_chunk(file, "IEND", NULL, 0) && fflush(file) == 0;
}

static int write_and_rename(const char *path, const uint8_t *packed, size_t bytes, size_t height, size_t width)
{
    size_t room = strlen(path) + 32;
    char *temporary = malloc(room);
    if (temporary == NULL)
        return tv_fail_memory();
    snprintf(temporary, room, "%s.%ld.part", path, (long)getpid());
    FILE *file = fopen(temporary, "wb");
    bool good = file != NULL && write_png(file, packed, bytes, height, width);
    int problem = errno;
    if (file != NULL && fclose(file) != 0 && good) {
        good = false;
        problem = errno;
    }
    if (good && rename(temporary, path) != 0) {
        good = false;
        problem = errno;
    }
    if (!good && file != NULL)
        remove(temporary);
    free(temporary);
    return good ? TV_OK : tv_fail(TV_FAILED, WRITE_HINT, "%s: %s", path, strerror(problem));
}

int tv_write_png(const char *path, const uint8_t *pixels, size_t height, size_t width)
{
    if (path == NULL || pixels == NULL || height - 1 >= SIZE_LIMIT || width - 1 >= SIZE_LIMIT ||
        height > SIZE_MAX / 2 / (3 * width + 1))
        return tv_fail(TV_USAGE, "give a path, pixels and their size", "no picture of %zu x %zu can be written",
                       height, width);
    size_t bytes = 0;
    uint8_t *packed = packed_pixels(pixels, height, width, &bytes);
    int status = packed == NULL ? tv_fail_memory() : write_and_rename(path, packed, bytes, height, width);
    free(packed);
    return status;
}
