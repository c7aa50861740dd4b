#include "text/decompose.h"

#include <stdlib.h>
#include <string.h>

#define CLASSES 256
#define SHORT_RUN 16
/* Unicode Standard, section 3.12: Hangul syllables decompose by arithmetic. */
enum { HANGUL = 0xAC00, HANGUL_COUNT = 11172, LEADING = 0x1100, VOWEL = 0x1161, TRAILING = 0x11A7, VOWELS = 21,
       TRAILINGS = 28 };

typedef struct {
    uint32_t code;
    uint8_t order; /* combining class */
    bool is_first; /* of the parts of its character */
} part;

typedef struct {
    part *parts;
    size_t count;
} parts_list;

bool tv_letters_add(tv_letters *text, tv_letter letter)
{
    if (text->count == text->room) {
        size_t room = text->room == 0 ? 64 : text->room * 2;
        tv_letter *letters = realloc(text->letters, room * sizeof *letters);
        if (letters == NULL)
            return false;
        text->letters = letters;
        text->room = room;
    }
    text->letters[text->count++] = letter;
    return true;
}

const tv_code_mapping *tv_mapping_of(uint32_t code, const tv_code_mapping *table, size_t count)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (table[middle].code < code)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && table[low].code == code ? &table[low] : NULL;
}

static uint8_t order_of(uint32_t code)
{
    size_t low = 0, high = tv_unicode_class_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (code > tv_unicode_class[middle].last)
            low = middle + 1;
        else if (code < tv_unicode_class[middle].first)
            high = middle;
        else
            return (uint8_t)tv_unicode_class[middle].order;
    }
    return 0;
}

/* The characters that `code` becomes, at most four, which is Unicode's longest; the count of them. */
static size_t decomposed(uint32_t code, uint32_t out[4])
{
    if (code >= HANGUL && code < HANGUL + HANGUL_COUNT) {
        uint32_t syllable = code - HANGUL, trailing = syllable % TRAILINGS;
        out[0] = LEADING + syllable / (VOWELS * TRAILINGS);
        out[1] = VOWEL + syllable % (VOWELS * TRAILINGS) / TRAILINGS;
        out[2] = TRAILING + trailing;
        return trailing == 0 ? 2 : 3;
    }
    const tv_code_mapping *mapping =
        tv_mapping_of(code, tv_unicode_decomposition, tv_unicode_decomposition_count);
    out[0] = code;
    for (size_t index = 0; mapping != NULL && index < mapping->length; index++)
        out[index] = tv_unicode_decomposition_characters[mapping->place + index];
    return mapping == NULL ? 1 : mapping->length;
}

static void sort_short(part *run, size_t count)
{
    for (size_t index = 1; index < count; index++) {
        part moved = run[index];
        size_t place = index;
        for (; place > 0 && run[place - 1].order > moved.order; place--)
            run[place] = run[place - 1];
        run[place] = moved;
    }
}

/* By counting: a prompt of nothing but marks must not take quadratic time. */
static bool sort_long(part *run, size_t count)
{
    size_t places[CLASSES + 1] = {0};
    part *sorted = malloc(count * sizeof *sorted);
    if (sorted == NULL)
        return false;
    for (size_t index = 0; index < count; index++)
        places[run[index].order + 1]++;
    for (size_t order = 1; order <= CLASSES; order++)
        places[order] += places[order - 1];
    for (size_t index = 0; index < count; index++)
        sorted[places[run[index].order]++] = run[index];
    memcpy(run, sorted, count * sizeof *sorted);
    free(sorted);
    return true;
}

/* Marks between two characters of class 0 stand in the order of their classes. */
static bool sort_marks(parts_list list)
{
    for (size_t start = 0; start < list.count; start++) {
        size_t end = start;
        while (end < list.count && list.parts[end].order != 0)
            end++;
        if (end - start <= SHORT_RUN)
            sort_short(list.parts + start, end - start);
        else if (!sort_long(list.parts + start, end - start))
            return false;
        start = end;
    }
    return true;
}

static bool split(const tv_letters *text, parts_list *list)
{
    uint32_t codes[4];
    size_t total = 0;
    for (size_t index = 0; index < text->count; index++)
        total += decomposed(text->letters[index].code, codes);
    list->parts = malloc((total + 1) * sizeof *list->parts);
    list->count = 0;
    for (size_t index = 0; list->parts != NULL && index < text->count; index++) {
        size_t count = decomposed(text->letters[index].code, codes);
        for (size_t place = 0; place < count; place++) {
            part made = {codes[place], order_of(codes[place]), place == 0};
            list->parts[list->count++] = made;
        }
    }
    return list->parts != NULL;
}

bool tv_decompose(tv_letters *text)
{
    parts_list list = {NULL, 0};
    tv_letters made = {NULL, 0, 0};
    bool good = split(text, &list) && sort_marks(list);
    size_t next = 0;
    for (size_t index = 0; index < list.count && good; index++) {
        tv_letter letter = {list.parts[index].code, 0, 0};
        size_t source = list.parts[index].is_first ? next++ : next - (next > 0);
        if (list.parts[index].is_first || next > 0) {
            letter.start = text->letters[source].start;
            letter.end = text->letters[source].end;
        }
        good = tv_letters_add(&made, letter);
    }
    free(list.parts);
    free(text->letters);
    *text = made;
    return good;
}
