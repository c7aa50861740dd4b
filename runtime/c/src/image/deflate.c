#include "image/deflate.h"

#include <stdbool.h>
#include <string.h>

#include "image/inflate.h"

#define WINDOW 32768
#define HASH_BITS 13
#define SHORTEST 3
#define LONGEST 258

typedef struct {
    uint8_t *out;
    size_t written;
    uint32_t bits;
    unsigned bit_count;
} writer;

static void put_bits(writer *self, uint32_t value, unsigned count)
{
    self->bits |= value << self->bit_count;
    self->bit_count += count;
    for (; self->bit_count >= 8; self->bit_count -= 8, self->bits >>= 8)
        self->out[self->written++] = (uint8_t)self->bits;
}

/* Huffman codes are written from their highest bit. */
static void put_code(writer *self, uint32_t code, unsigned count)
{
    uint32_t reversed = 0;
    for (unsigned bit = 0; bit < count; bit++)
        reversed |= (code >> bit & 1) << (count - 1 - bit);
    put_bits(self, reversed, count);
}

static void put_symbol(writer *self, unsigned symbol)
{
    if (symbol < 144)
        put_code(self, 0x30 + symbol, 8);
    else if (symbol < 256)
        put_code(self, 0x190 + symbol - 144, 9);
    else if (symbol < 280)
        put_code(self, symbol - 256, 7);
    else
        put_code(self, 0xC0 + symbol - 280, 8);
}

/* The bytes `distance` before, `length` of them: a symbol for the length, a code for the distance, their extra bits. */
static void put_match(writer *self, size_t length, size_t distance)
{
    static const uint16_t lengths[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                         31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    unsigned code = 28, extra;
    while (lengths[code] > length)
        code--;
    extra = code < 8 || code == 28 ? 0 : code / 4 - 1;
    put_symbol(self, 257 + code);
    put_bits(self, (uint32_t)(length - lengths[code]), extra);
    /* distances: two codes for each power of two */
    unsigned power = 0;
    while ((distance - 1) >> (power + 1) != 0)
        power++;
    unsigned high = power == 0 ? (unsigned)(distance - 1) : 2 * power + (unsigned)((distance - 1) >> (power - 1) & 1);
    extra = power == 0 ? 0 : power - 1;
    put_code(self, high, 5);
    put_bits(self, (uint32_t)((distance - 1) & (((size_t)1 << extra) - 1)), extra);
}

static unsigned hash_of(const uint8_t *data)
{
    uint32_t word = data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16;
    return word * 2654435761u >> (32 - HASH_BITS);
}

static size_t match_length(const uint8_t *first, const uint8_t *second, size_t limit)
{
    size_t length = 0;
    while (length < limit && first[length] == second[length])
        length++;
    return length;
}

size_t tv_deflate_bound(size_t bytes)
{
    return bytes + bytes / 8 + 16; /* nine bits a byte at worst, and head, end and sum */
}

size_t tv_zlib_deflate(const uint8_t *data, size_t bytes, uint8_t *out)
{
    size_t latest[1 << HASH_BITS]; /* one after the place where three bytes of this hash were last seen */
    writer self = {out, 0, 0, 0};
    memset(latest, 0, sizeof latest);
    out[self.written++] = 0x78;
    out[self.written++] = 0x01;
    put_bits(&self, 1, 1); /* the last block */
    put_bits(&self, 1, 2); /* of fixed codes */
    size_t place = 0;
    while (place < bytes) {
        size_t left = bytes - place, length = 0, distance = 0;
        if (left >= SHORTEST) {
            unsigned hash = hash_of(data + place);
            distance = place + 1 - latest[hash];
            if (latest[hash] != 0 && distance <= WINDOW)
                length = match_length(data + place - distance, data + place, left < LONGEST ? left : LONGEST);
            latest[hash] = place + 1;
        }
        if (length >= SHORTEST)
            put_match(&self, length, distance);
        else
            put_symbol(&self, data[place]);
        place += length >= SHORTEST ? length : 1;
    }
    put_symbol(&self, 256);
    put_bits(&self, 0, (8 - self.bit_count % 8) % 8);
    uint32_t sum = tv_adler32(data, bytes);
    for (int index = 0; index < 4; index++)
        out[self.written++] = (uint8_t)(sum >> (24 - 8 * index));
    return self.written;
}
