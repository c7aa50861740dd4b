#include <stdlib.h>
#include <string.h>

#include "image/inflate.h"
#include "image/png.h"

#define CHANNELS 3
#define HEAD_BYTES 13

static const uint8_t signature[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};

typedef struct {
    const uint8_t *data; /* after the signature, moving */
    size_t left;
    uint8_t *packed; /* all IDAT chunks, one after the other */
    size_t packed_bytes;
    bool has_head, ended;
    const char *problem;
} reader;

static bool refuse(reader *self, const char *problem)
{
    self->problem = problem;
    return false;
}

static uint32_t number(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static bool read_head(reader *self, const uint8_t *data, size_t bytes, size_t height, size_t width)
{
    static const uint8_t kind[5] = {8, 2, 0, 0, 0}; /* bits, RGB, and the only compression, filter and interlace */
    if (bytes != HEAD_BYTES || self->has_head)
        return refuse(self, "not a PNG picture");
    if (number(data) != width || number(data + 4) != height)
        return refuse(self, "of another size than the model's pictures");
    self->has_head = true;
    return memcmp(data + 8, kind, sizeof kind) == 0 || refuse(self, "not an RGB PNG of eight bits");
}

static bool read_chunk(reader *self, size_t height, size_t width)
{
    if (self->left < 12 || number(self->data) > self->left - 12)
        return refuse(self, "not a PNG picture: it ends in the middle");
    size_t bytes = number(self->data);
    const uint8_t *kind = self->data + 4, *data = self->data + 8;
    if (tv_crc32(0, kind, bytes + 4) != number(data + bytes))
        return refuse(self, "not a PNG picture: a checksum is wrong");
    self->data += bytes + 12;
    self->left -= bytes + 12;
    if (memcmp(kind, "IHDR", 4) == 0)
        return read_head(self, data, bytes, height, width);
    if (!self->has_head || (memcmp(kind, "PLTE", 4) != 0 && memcmp(kind, "IDAT", 4) != 0 &&
                            memcmp(kind, "IEND", 4) != 0 && (kind[0] & 32) == 0))
        return refuse(self, "not a PNG picture: an unknown part");
    if (memcmp(kind, "IDAT", 4) == 0) {
        memcpy(self->packed + self->packed_bytes, data, bytes);
        self->packed_bytes += bytes;
    }
    self->ended = memcmp(kind, "IEND", 4) == 0;
    return true;
}

static int paeth(int left, int above, int corner)
{
    int guess = left + above - corner;
    int from_left = abs(guess - left), from_above = abs(guess - above), from_corner = abs(guess - corner);
    if (from_left <= from_above && from_left <= from_corner)
        return left;
    return from_above <= from_corner ? above : corner;
}

/* `rows` holds a filter's number before each row; `above` is NULL for the first. */
static bool unfilter_row(const uint8_t *row, const uint8_t *above, uint8_t *out, size_t bytes)
{
    for (size_t place = 0; place < bytes; place++) {
        int left = place < CHANNELS ? 0 : out[place - CHANNELS];
        int up = above == NULL ? 0 : above[place];
        int corner = above == NULL || place < CHANNELS ? 0 : above[place - CHANNELS];
        int guess;
        switch (row[0]) {
        case 0: guess = 0; break;
        case 1: guess = left; break;
        case 2: guess = up; break;
        case 3: guess = (left + up) / 2; break;
        case 4: guess = paeth(left, up, corner); break;
        default: return false;
        }
        out[place] = (uint8_t)(row[place + 1] + guess);
    }
    return true;
}

static bool decode(reader *self, size_t height, size_t width, uint8_t *pixels)
{
    size_t row_bytes = width * CHANNELS;
    uint8_t *rows = malloc(height * (row_bytes + 1));
    if (rows == NULL)
        return refuse(self, "not enough memory to read it");
    bool good = tv_zlib_inflate(self->packed, self->packed_bytes, rows, height * (row_bytes + 1));
    for (size_t y = 0; y < height && good; y++)
        good = unfilter_row(rows + y * (row_bytes + 1), y == 0 ? NULL : pixels + (y - 1) * row_bytes,
                            pixels + y * row_bytes, row_bytes);
    free(rows);
    return good || refuse(self, "not a PNG picture: its pixels are damaged");
}

bool tv_png_read(const void *data, size_t bytes, size_t height, size_t width, uint8_t *pixels, const char **problem)
{
    reader self = {NULL, 0, NULL, 0, false, false, "not a PNG picture"};
    *problem = self.problem;
    if (bytes < sizeof signature || memcmp(data, signature, sizeof signature) != 0)
        return false;
    self.data = (const uint8_t *)data + sizeof signature;
    self.left = bytes - sizeof signature;
    self.packed = malloc(bytes);
    bool good = self.packed != NULL || refuse(&self, "not enough memory to read it");
    while (good && !self.ended)
        good = read_chunk(&self, height, width);
    good = good && decode(&self, height, width, pixels);
    free(self.packed);
    *problem = self.problem;
    return good;
}
