#include "image/inflate.h"

#include <string.h>

#define LONGEST_CODE 15
#define LITERALS 288
#define DISTANCES 30

typedef struct {
    const uint8_t *data;
    size_t bytes, place;
    uint32_t bits; /* read but not used */
    unsigned bit_count;
    uint8_t *out;
    size_t out_bytes, written;
} stream;

/* Canonical Huffman codes: how many there are of each length, and their symbols in order. */
typedef struct {
    uint16_t counts[LONGEST_CODE + 1];
    uint16_t symbols[LITERALS];
} codes;

static bool read_bits(stream *self, unsigned count, unsigned *value)
{
    while (self->bit_count < count) {
        if (self->place == self->bytes)
            return false;
        self->bits |= (uint32_t)self->data[self->place++] << self->bit_count;
        self->bit_count += 8;
    }
    *value = self->bits & ((1u << count) - 1);
    self->bits >>= count;
    self->bit_count -= count;
    return true;
}

/* False when more codes are asked for than there are of their lengths; one alone may leave others unused. */
static bool make_codes(codes *made, const uint8_t *lengths, size_t count)
{
    uint16_t places[LONGEST_CODE + 2] = {0};
    int left = 1, used = 0;
    memset(made->counts, 0, sizeof made->counts);
    for (size_t index = 0; index < count; index++)
        made->counts[lengths[index]]++;
    for (int length = 1; length <= LONGEST_CODE; length++) {
        left = 2 * left - made->counts[length];
        used += made->counts[length];
        if (left < 0)
            return false;
        places[length + 1] = (uint16_t)(places[length] + made->counts[length]);
    }
    for (size_t index = 0; index < count; index++)
        if (lengths[index] != 0)
            made->symbols[places[lengths[index]]++] = (uint16_t)index;
    return left == 0 || used <= 1;
}

static bool read_symbol(stream *self, const codes *from, unsigned *symbol)
{
    int code = 0, first = 0, index = 0;
    for (int length = 1; length <= LONGEST_CODE; length++) {
        unsigned bit;
        if (!read_bits(self, 1, &bit))
            return false;
        code |= (int)bit;
        int count = from->counts[length];
        if (code - first < count) {
            *symbol = from->symbols[index + code - first];
            return true;
        }
        index += count;
        first = (first + count) << 1;
        code <<= 1;
    }
    return false;
}

static bool copy_match(stream *self, unsigned symbol, const codes *distances)
{
    static const uint16_t length_starts[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                               31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    static const uint8_t length_bits[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                            2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
    static const uint16_t distance_starts[DISTANCES] = {1,   2,   3,   4,   5,   7,    9,    13,   17,   25,
                                                        33,  49,  65,  97,  129, 193,  257,  385,  513,  769,
                                                        1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
    static const uint8_t distance_bits[DISTANCES] = {0, 0, 0, 0, 1, 1, 2, 2,  3,  3,  4,  4,  5,  5,  6,
                                                     6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13};
    unsigned extra, place;
    if (symbol > 285 || !read_bits(self, length_bits[symbol - 257], &extra))
        return false;
    size_t length = length_starts[symbol - 257] + extra;
    if (!read_symbol(self, distances, &place) || place >= DISTANCES || !read_bits(self, distance_bits[place], &extra))
        return false;
    size_t distance = distance_starts[place] + extra;
    if (distance > self->written || length > self->out_bytes - self->written)
        return false;
    for (; length > 0; length--, self->written++)
        self->out[self->written] = self->out[self->written - distance];
    return true;
}

static bool read_block(stream *self, const codes *literals, const codes *distances)
{
    unsigned symbol;
    while (read_symbol(self, literals, &symbol)) {
        if (symbol == 256)
            return true;
        if (symbol > 256) {
            if (!copy_match(self, symbol, distances))
                return false;
        } else {
            if (self->written == self->out_bytes)
                return false;
            self->out[self->written++] = (uint8_t)symbol;
        }
    }
    return false;
}

static bool read_fixed(stream *self)
{
    codes literals, distances;
    uint8_t lengths[LITERALS];
    memset(lengths, 8, 144);
    memset(lengths + 144, 9, 112);
    memset(lengths + 256, 7, 24);
    memset(lengths + 280, 8, 8);
    make_codes(&literals, lengths, LITERALS);
    memset(lengths, 5, DISTANCES);
    make_codes(&distances, lengths, DISTANCES);
    return read_block(self, &literals, &distances);
}

/* Lengths of codes, of which 16, 17 and 18 repeat the one before or zero. */
static bool read_lengths(stream *self, const codes *from, uint8_t *lengths, size_t count)
{
    size_t done = 0;
    while (done < count) {
        unsigned symbol, extra = 0;
        if (!read_symbol(self, from, &symbol))
            return false;
        if (symbol < 16) {
            lengths[done++] = (uint8_t)symbol;
            continue;
        }
        if (!read_bits(self, symbol == 16 ? 2 : symbol == 17 ? 3 : 7, &extra) || (symbol == 16 && done == 0))
            return false;
        size_t times = extra + (symbol == 18 ? 11 : 3);
        if (times > count - done)
            return false;
        memset(lengths + done, symbol == 16 ? lengths[done - 1] : 0, times);
        done += times;
    }
    return true;
}

static bool read_dynamic(stream *self)
{
    static const uint8_t order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    codes lengths_codes, literals, distances;
    uint8_t lengths[LITERALS + 32] = {0};
    unsigned literal_count, distance_count, length_count, length;
    if (!read_bits(self, 5, &literal_count) || !read_bits(self, 5, &distance_count) ||
        !read_bits(self, 4, &length_count))
        return false;
    literal_count += 257;
    distance_count += 1;
    if (literal_count > 286 || distance_count > DISTANCES)
        return false;
    for (unsigned index = 0; index < length_count + 4; index++) {
        if (!read_bits(self, 3, &length))
            return false;
        lengths[order[index]] = (uint8_t)length;
    }
    if (!make_codes(&lengths_codes, lengths, 19))
        return false;
    if (!read_lengths(self, &lengths_codes, lengths, literal_count + distance_count) || lengths[256] == 0)
        return false;
    return make_codes(&literals, lengths, literal_count) &&
           make_codes(&distances, lengths + literal_count, distance_count) &&
           read_block(self, &literals, &distances);
}

static bool read_stored(stream *self)
{
    self->bits = self->bit_count = 0;
    if (self->bytes - self->place < 4)
        return false;
    const uint8_t *head = self->data + self->place;
    size_t length = head[0] | (size_t)head[1] << 8, inverse = head[2] | (size_t)head[3] << 8;
    self->place += 4;
    if (length != (inverse ^ 0xFFFF) || length > self->bytes - self->place ||
        length > self->out_bytes - self->written)
        return false;
    memcpy(self->out + self->written, self->data + self->place, length);
    self->place += length;
    self->written += length;
    return true;
}

uint32_t tv_adler32(const uint8_t *data, size_t bytes)
{
    uint32_t low = 1, high = 0;
    for (size_t place = 0; place < bytes; place++) {
        low = (low + data[place]) % 65521;
        high = (high + low) % 65521;
    }
    return high << 16 | low;
}

bool tv_zlib_inflate(const uint8_t *data, size_t bytes, uint8_t *out, size_t out_bytes)
{
    stream self = {data, bytes, 2, 0, 0, out, out_bytes, 0};
    unsigned last = 0, kind;
    /* method 8, no preset dictionary, a window of at most 32 KiB */
    if (bytes < 6 || (data[0] & 15) != 8 || data[0] >> 4 > 7 || (data[1] & 32) != 0 || (data[0] << 8 | data[1]) % 31 != 0)
        return false;
    while (!last) {
        if (!read_bits(&self, 1, &last) || !read_bits(&self, 2, &kind) || kind == 3)
            return false;
        if (!(kind == 0 ? read_stored(&self) : kind == 1 ? read_fixed(&self) : read_dynamic(&self)))
            return false;
    }
    if (self.written != out_bytes || bytes - self.place < 4)
        return false;
    const uint8_t *sum = data + self.place;
    uint32_t expected = (uint32_t)sum[0] << 24 | (uint32_t)sum[1] << 16 | (uint32_t)sum[2] << 8 | sum[3];
    return expected == tv_adler32(out, out_bytes);
}
