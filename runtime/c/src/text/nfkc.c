#include "text/nfkc.h"

#include <stdlib.h>
#include <string.h>

#include "base/prompt_tables.h"
#include "text/decompose.h"

/* Unicode Standard, section 3.12: Hangul syllables by arithmetic. */
enum { HANGUL = 0xAC00, HANGUL_COUNT = 11172, LEADING = 0x1100, LEADINGS = 19, VOWEL = 0x1161, VOWELS = 21,
       TRAILING = 0x11A7, TRAILINGS = 28 };

typedef struct {
    uint32_t code;
    uint32_t order; /* combining class */
    size_t place;   /* so that qsort keeps the order of equal classes */
} mark;

bool tv_codes_add(tv_codes *codes, uint32_t code)
{
    if (codes->count == codes->room) {
        size_t room = codes->room == 0 ? 64 : codes->room * 2;
        uint32_t *grown = realloc(codes->codes, room * sizeof *grown);
        if (grown == NULL)
            return false;
        codes->codes = grown;
        codes->room = room;
    }
    codes->codes[codes->count++] = code;
    return true;
}

static uint32_t order_of(uint32_t code)
{
    size_t low = 0, high = tv_nfkc_class_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (code > tv_nfkc_class[middle].last)
            low = middle + 1;
        else if (code < tv_nfkc_class[middle].first)
            high = middle;
        else
            return tv_nfkc_class[middle].order;
    }
    return 0;
}

static bool decompose(const tv_codes *text, tv_codes *out)
{
    bool good = true;
    for (size_t index = 0; index < text->count && good; index++) {
        uint32_t code = text->codes[index];
        if (code >= HANGUL && code < HANGUL + HANGUL_COUNT) {
            uint32_t syllable = code - HANGUL, trailing = syllable % TRAILINGS;
            good = tv_codes_add(out, LEADING + syllable / (VOWELS * TRAILINGS)) &&
                   tv_codes_add(out, VOWEL + syllable % (VOWELS * TRAILINGS) / TRAILINGS) &&
                   (trailing == 0 || tv_codes_add(out, TRAILING + trailing));
            continue;
        }
        const tv_code_mapping *mapping = tv_mapping_of(code, tv_nfkc_decomposition, tv_nfkc_decomposition_count);
        if (mapping == NULL)
            good = tv_codes_add(out, code);
        for (size_t place = 0; mapping != NULL && place < mapping->length && good; place++)
            good = tv_codes_add(out, tv_nfkc_decomposition_characters[mapping->place + place]);
    }
    return good;
}

static int by_order(const void *first, const void *second)
{
    const mark *a = first, *b = second;
    if (a->order != b->order)
        return a->order < b->order ? -1 : 1;
    return a->place < b->place ? -1 : a->place > b->place;
}

/* Marks between two characters of class 0 stand in the order of their classes. */
static bool sort_marks(tv_codes *text)
{
    mark *marks = malloc((text->count + 1) * sizeof *marks);
    if (marks == NULL)
        return false;
    for (size_t index = 0; index < text->count; index++) {
        mark one = {text->codes[index], order_of(text->codes[index]), index};
        marks[index] = one;
    }
    for (size_t start = 0; start < text->count; start++) {
        size_t end = start;
        while (end < text->count && marks[end].order != 0)
            end++;
        if (end > start + 1)
            qsort(marks + start, end - start, sizeof *marks, by_order);
        start = end;
    }
    for (size_t index = 0; index < text->count; index++)
        text->codes[index] = marks[index].code;
    free(marks);
    return true;
}

static int by_pair(const void *first, const void *second)
{
    const tv_code_pair *a = first, *b = second;
    if (a->first != b->first)
        return a->first < b->first ? -1 : 1;
    return a->second < b->second ? -1 : a->second > b->second;
}

/* What two characters compose to; 0 when they do not. */
static uint32_t composed(uint32_t first, uint32_t second)
{
    if (first >= LEADING && first < LEADING + LEADINGS && second >= VOWEL && second < VOWEL + VOWELS)
        return HANGUL + ((first - LEADING) * VOWELS + (second - VOWEL)) * TRAILINGS;
    bool pair = first >= HANGUL && first < HANGUL + HANGUL_COUNT && (first - HANGUL) % TRAILINGS == 0;
    if (pair && second > TRAILING && second < TRAILING + TRAILINGS)
        return first + (second - TRAILING);
    tv_code_pair key = {first, second, 0};
    const tv_code_pair *found = bsearch(&key, tv_nfkc_pair, tv_nfkc_pair_count, sizeof key, by_pair);
    return found == NULL ? 0 : found->composed;
}

/* A character joins the last one of class 0, unless one between them has its class, or none. */
static void compose(tv_codes *text)
{
    size_t kept = 0, starter = 0;
    bool has_starter = false;
    uint32_t last = 0; /* class of what was kept last after the starter */
    for (size_t index = 0; index < text->count; index++) {
        uint32_t code = text->codes[index], order = order_of(code);
        bool next = has_starter && kept == starter + 1;
        uint32_t made = has_starter && (next || (last != 0 && last < order)) ? composed(text->codes[starter], code) : 0;
        if (made != 0) {
            text->codes[starter] = made;
            continue;
        }
        if (order == 0) {
            has_starter = true;
            starter = kept;
        }
        last = order;
        text->codes[kept++] = code;
    }
    text->count = kept;
}

bool tv_nfkc(tv_codes *codes)
{
    tv_codes apart = {NULL, 0, 0};
    bool good = decompose(codes, &apart) && sort_marks(&apart);
    if (good)
        compose(&apart);
    free(codes->codes);
    *codes = apart;
    return good;
}
