#include "text/prompt_text.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/prompt_tables.h"
#include "text/nfkc.h"

#define PROMPT_LIMIT_CHARACTERS 1000000
#define FIRST_EMOJI 0xA9
#define LONGEST_EMOJI 10 /* characters */

static size_t count_characters(tv_text text)
{
    size_t count = 0;
    for (size_t place = 0; place < text.bytes; place++)
        count += ((unsigned char)text.data[place] & 0xC0) != 0x80;
    return count;
}

/* Variation selectors and skin tones. */
static bool is_dropped(uint32_t code)
{
    return code == 0xFE0F || (code >= 0x1F3FB && code <= 0x1F3FF);
}

static int read_codes(tv_text prompt, tv_codes *out)
{
    size_t place = 0, characters = count_characters(prompt);
    char quoted[TV_SHOWN_BYTES];
    if (characters > PROMPT_LIMIT_CHARACTERS || prompt.bytes > 4 * PROMPT_LIMIT_CHARACTERS)
        return tv_fail(TV_USAGE, "shorten it: the model reads a few dozen words",
                       "a prompt of %zu characters; at most %d are read", characters, PROMPT_LIMIT_CHARACTERS);
    while (place < prompt.bytes) {
        int32_t code = tv_next_code_point(prompt, &place);
        if (code < 0)
            return tv_fail(TV_USAGE, "pass it as UTF-8", "the prompt %s is not valid text",
                           tv_quoted(prompt, true, quoted));
        if (!is_dropped((uint32_t)code) && !tv_codes_add(out, (uint32_t)code))
            return tv_fail_memory();
    }
    return TV_OK;
}

static int by_sequence(const void *first, const void *second)
{
    return strcmp(((const tv_emoji_name *)first)->sequence, ((const tv_emoji_name *)second)->sequence);
}

static bool has_token(const tv_tokenizer *tokenizer, const char *text)
{
    tv_vocabulary_entry key = {tv_text_of(text), 0};
    return bsearch(&key, tokenizer->vocabulary, tokenizer->vocabulary_count, sizeof key, tv_text_compare) != NULL;
}

/* The name of the longest emoji that begins at `place`, and its length; NULL when there is none. */
static const char *emoji_at(const tv_tokenizer *tokenizer, const tv_codes *text, size_t place, size_t *length)
{
    char bytes[4 * LONGEST_EMOJI + 1];
    size_t ends[LONGEST_EMOJI + 1] = {0};
    size_t left = text->count - place, most = left < LONGEST_EMOJI ? left : LONGEST_EMOJI;
    if (text->codes[place] < FIRST_EMOJI)
        return NULL;
    for (size_t index = 0; index < most; index++)
        if (text->codes[place + index] == 0) /* it would end the sequence */
            most = index;
    for (size_t index = 0; index < most; index++)
        ends[index + 1] = ends[index] + tv_utf8_from_code_point(text->codes[place + index], bytes + ends[index]);
    for (*length = most; *length > 0; --*length) {
        bytes[ends[*length]] = '\0';
        tv_emoji_name key = {bytes, NULL};
        const tv_emoji_name *found =
            bsearch(&key, tv_emoji_names, tv_emoji_names_count, sizeof key, by_sequence);
        if (found != NULL)
            return has_token(tokenizer, bytes) ? NULL : found->name;
    }
    return NULL;
}

static bool add_name(tv_codes *out, const char *name)
{
    bool good = out->count == 0 || out->codes[out->count - 1] == ' ' || tv_codes_add(out, ' ');
    tv_text text = tv_text_of(name);
    for (size_t place = 0; place < text.bytes && good;)
        good = tv_codes_add(out, (uint32_t)tv_next_code_point(text, &place));
    return good;
}

/* A space stands between a name and what is beside it. */
static bool name_emoji(const tv_tokenizer *tokenizer, tv_codes *text)
{
    tv_codes named = {NULL, 0, 0};
    bool good = true, after_name = false;
    for (size_t place = 0; place < text->count && good;) {
        size_t length = 1;
        const char *name = emoji_at(tokenizer, text, place, &length);
        if (name != NULL) {
            good = add_name(&named, name);
            place += length;
        } else {
            uint32_t code = text->codes[place++];
            good = (!after_name || code == ' ' || tv_codes_add(&named, ' ')) && tv_codes_add(&named, code);
        }
        after_name = name != NULL;
    }
    free(text->codes);
    *text = named;
    return good;
}

int tv_plain_prompt(const tv_tokenizer *tokenizer, tv_text prompt, char **data, tv_text *text)
{
    tv_codes codes = {NULL, 0, 0};
    int status = read_codes(prompt, &codes);
    *data = NULL;
    text->data = "";
    text->bytes = 0;
    if (status == TV_OK && !(name_emoji(tokenizer, &codes) && tv_nfkc(&codes)))
        status = tv_fail_memory();
    if (status == TV_OK && (*data = malloc(4 * codes.count + 1)) == NULL)
        status = tv_fail_memory();
    for (size_t index = 0; status == TV_OK && index < codes.count; index++)
        text->bytes += tv_utf8_from_code_point(codes.codes[index], *data + text->bytes);
    if (status == TV_OK)
        text->data = *data;
    free(codes.codes);
    return status;
}
