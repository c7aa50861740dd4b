#include "text/normalizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "text/decompose.h"

static bool is_chinese(uint32_t code)
{
    static const tv_code_range blocks[] = {
        {0x3400, 0x4DBF},   {0x4E00, 0x9FFF},   {0xF900, 0xFAFF},   {0x20000, 0x2A6DF},
        {0x2A700, 0x2B73F}, {0x2B740, 0x2B81F}, {0x2B920, 0x2CEAF}, {0x2F800, 0x2FA1F},
    };
    return tv_in_ranges(code, blocks, sizeof blocks / sizeof blocks[0]);
}

static int read_prompt(tv_text prompt, tv_letters *out)
{
    size_t place = 0;
    char quoted[TV_SHOWN_BYTES];
    while (place < prompt.bytes) {
        tv_letter letter;
        letter.start = (uint32_t)place;
        int32_t code = tv_next_code_point(prompt, &place);
        if (code < 0)
            return tv_fail(TV_USAGE, "pass it as UTF-8", "the prompt %s is not valid text",
                           tv_quoted(prompt, true, quoted));
        letter.code = (uint32_t)code;
        letter.end = (uint32_t)place;
        if (!tv_letters_add(out, letter))
            return tv_fail_memory();
    }
    return TV_OK;
}

static void clean(tv_letters *text)
{
    size_t kept = 0;
    for (size_t index = 0; index < text->count; index++) {
        tv_letter letter = text->letters[index];
        if (tv_in_ranges(letter.code, tv_unicode_removed, tv_unicode_removed_count))
            continue;
        if (tv_in_ranges(letter.code, tv_unicode_space, tv_unicode_space_count))
            letter.code = ' ';
        text->letters[kept++] = letter;
    }
    text->count = kept;
}

static bool space_out_chinese(tv_letters *text)
{
    tv_letters spaced = {NULL, 0, 0};
    bool good = true;
    for (size_t index = 0; index < text->count && good; index++) {
        tv_letter letter = text->letters[index], space = letter;
        bool chinese = is_chinese(letter.code);
        space.code = ' ';
        good = (!chinese || tv_letters_add(&spaced, space)) && tv_letters_add(&spaced, letter) &&
               (!chinese || tv_letters_add(&spaced, space));
    }
    free(text->letters);
    *text = spaced;
    return good;
}

static void strip_marks(tv_letters *text)
{
    size_t kept = 0;
    for (size_t index = 0; index < text->count; index++)
        if (!tv_in_ranges(text->letters[index].code, tv_unicode_mark, tv_unicode_mark_count))
            text->letters[kept++] = text->letters[index];
    text->count = kept;
}

static bool lower(tv_letters *text)
{
    tv_letters lowered = {NULL, 0, 0};
    bool good = true;
    for (size_t index = 0; index < text->count && good; index++) {
        tv_letter letter = text->letters[index];
        const tv_code_mapping *mapping = tv_mapping_of(letter.code, tv_unicode_lower, tv_unicode_lower_count);
        if (mapping == NULL)
            good = tv_letters_add(&lowered, letter);
        for (size_t place = 0; mapping != NULL && place < mapping->length && good; place++) {
            letter.code = tv_unicode_lower_characters[mapping->place + place];
            good = tv_letters_add(&lowered, letter);
        }
    }
    free(text->letters);
    *text = lowered;
    return good;
}

int tv_normalize(const tv_normalizer *normalizer, tv_text prompt, tv_letters *out)
{
    memset(out, 0, sizeof *out);
    int status = read_prompt(prompt, out);
    if (status != TV_OK)
        return status;
    if (normalizer->clean_text)
        clean(out);
    bool good = !normalizer->handle_chinese_chars || space_out_chinese(out);
    if (normalizer->strip_accents) {
        good = good && tv_decompose(out);
        strip_marks(out);
    }
    good = good && (!normalizer->lowercase || lower(out));
    return good ? TV_OK : tv_fail_memory();
}
