#include "base/text.h"

#include <stdio.h>
#include <string.h>

#define NO_QUOTE '\n' /* escaped anyway */
#define LONGEST_ESCAPE 11 /* bytes, with a zero byte */

tv_text tv_text_of(const char *zero_terminated)
{
    tv_text text = {zero_terminated, strlen(zero_terminated)};
    return text;
}

bool tv_text_equal(tv_text first, tv_text second)
{
    return first.bytes == second.bytes && (first.bytes == 0 || memcmp(first.data, second.data, first.bytes) == 0);
}

bool tv_text_is(tv_text text, const char *zero_terminated)
{
    return tv_text_equal(text, tv_text_of(zero_terminated));
}

int tv_text_compare(const void *first, const void *second)
{
    const tv_text *a = first, *b = second;
    size_t shared = a->bytes < b->bytes ? a->bytes : b->bytes;
    int order = shared == 0 ? 0 : memcmp(a->data, b->data, shared);
    return order != 0 ? order : (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

int32_t tv_next_code_point(tv_text text, size_t *place)
{
    if (*place >= text.bytes)
        return -1;
    const unsigned char *bytes = (const unsigned char *)text.data + *place;
    size_t left = text.bytes - *place;
    if (bytes[0] < 0x80) {
        *place += 1;
        return bytes[0];
    }
    size_t length = bytes[0] >= 0xF0 ? 4 : bytes[0] >= 0xE0 ? 3 : 2;
    static const int32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000};
    if (bytes[0] < 0xC2 || bytes[0] > 0xF4 || left < length)
        return -1;
    int32_t code = bytes[0] & (0xFF >> (length + 1));
    for (size_t index = 1; index < length; index++) {
        if ((bytes[index] & 0xC0) != 0x80)
            return -1;
        code = code << 6 | (bytes[index] & 0x3F);
    }
    if (code < smallest[length] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF))
        return -1;
    *place += length;
    return code;
}

size_t tv_utf8_from_code_point(uint32_t code, char *out)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    size_t length = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char heads[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t index = length - 1; index > 0; index--) {
        out[index] = (char)(0x80 | (code & 0x3F));
        code >>= 6;
    }
    out[0] = (char)(heads[length] | code);
    return length;
}

bool tv_is_utf8(tv_text text)
{
    size_t place = 0;
    while (place < text.bytes)
        if (tv_next_code_point(text, &place) < 0)
            return false;
    return true;
}

bool tv_in_ranges(uint32_t code, const tv_code_range *ranges, size_t count)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (code > ranges[middle].last)
            low = middle + 1;
        else if (code < ranges[middle].first)
            high = middle;
        else
            return true;
    }
    return false;
}

static bool is_printable(int32_t code)
{
    return code >= 0 && !tv_in_ranges((uint32_t)code, tv_unicode_unprintable, tv_unicode_unprintable_count);
}

bool tv_is_printable(tv_text text)
{
    size_t place = 0;
    while (place < text.bytes)
        if (!is_printable(tv_next_code_point(text, &place)))
            return false;
    return true;
}

/* One character as it stands between `quote`s; an invalid byte (code -1) as \xNN. At most ten bytes. */
static size_t escape(int32_t code, unsigned char byte, char quote, bool printable, char *out)
{
    const char *letter = code == '\n' ? "n" : code == '\r' ? "r" : code == '\t' ? "t" : NULL;
    if (letter != NULL)
        return (size_t)sprintf(out, "\\%s", letter);
    if (code == '\\' || code == quote)
        return (size_t)sprintf(out, "\\%c", (char)code);
    if (code >= 0 && (code < 0x80 || printable) && is_printable(code))
        return tv_utf8_from_code_point((uint32_t)code, out);
    if (code < 0x100)
        return (size_t)sprintf(out, "\\x%02x", code < 0 ? (unsigned)byte : (unsigned)code);
    return (size_t)sprintf(out, code < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)code);
}

const char *tv_quoted(tv_text text, bool printable, char out[TV_SHOWN_BYTES])
{
    bool single = text.bytes != 0 && memchr(text.data, '\'', text.bytes) != NULL;
    bool twofold = text.bytes != 0 && memchr(text.data, '"', text.bytes) != NULL;
    char quote = single && !twofold ? '"' : '\'';
    size_t used = 0, place = 0, characters = 0;
    out[used++] = quote;
    for (; place < text.bytes && characters < TV_SHOWN_CHARACTERS; characters++) {
        unsigned char byte = (unsigned char)text.data[place];
        int32_t code = tv_next_code_point(text, &place);
        if (code < 0)
            place++;
        used += escape(code, byte, quote, printable, out + used);
    }
    const char *end = place < text.bytes ? "\xE2\x80\xA6" : "";
    sprintf(out + used, "%s%c", end, quote);
    return out;
}

void tv_printable(tv_text text, char *out, size_t room)
{
    size_t used = 0, place = 0;
    while (place < text.bytes && room - used > LONGEST_ESCAPE) {
        unsigned char byte = (unsigned char)text.data[place];
        int32_t code = tv_next_code_point(text, &place);
        if (code < 0)
            place++;
        used += escape(code, byte, NO_QUOTE, true, out + used);
    }
    out[used] = '\0';
}
