#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "text/prompt_text.h"

#define EMPTY_HINT "say what to draw, for example \"dog wearing sunglasses\""

/* A word's letters as UTF-8, and where each of them begins: `starts[count]` is the word's end. */
typedef struct {
    char *bytes;
    size_t *starts;
    size_t count;
} word_text;

/* What is written while a prompt is encoded. */
typedef struct {
    const tv_tokenizer *tokenizer;
    tv_text given, prompt; /* the latter is its plain text */
    tv_encoding *out;
    size_t room; /* tokens that still fit */
    size_t last_end; /* byte of the prompt where the last token that fits ends */
    size_t unknown, tokens; /* of those that fit */
    bool overflow;
    char *candidate; /* the longest token's bytes */
    word_text word;
} encoder;

static bool is_delimiter(uint32_t code)
{
    return tv_in_ranges(code, tv_unicode_delimiter, tv_unicode_delimiter_count);
}

static bool is_punctuation(uint32_t code)
{
    return tv_in_ranges(code, tv_unicode_punctuation, tv_unicode_punctuation_count);
}

static void note_unknown(encoder *self, tv_text piece)
{
    tv_encoding *out = self->out;
    self->unknown++;
    for (size_t index = 0; index < out->unknown_count; index++)
        if (tv_text_equal(out->unknown[index], piece))
            return;
    out->unknown[out->unknown_count++] = piece;
}

/* A token that spans `letters`; the first that doesn't fit ends the prompt. */
static void add_token(encoder *self, int64_t id, const tv_letter *letters, size_t count)
{
    if (self->room == 0) {
        self->overflow = true;
        return;
    }
    size_t start = letters[0].start, end = letters[count - 1].end;
    tv_text piece = {self->prompt.data + start, end > start ? end - start : 0};
    self->room--;
    self->tokens++;
    self->out->ids[self->out->count++] = id;
    self->last_end = end > self->last_end ? end : self->last_end;
    if (id == self->tokenizer->unknown_id)
        note_unknown(self, piece);
}

/* The id of letters `first` to `last` of the word, -1 when they are no token. */
static int64_t id_of(const encoder *self, size_t first, size_t last)
{
    const tv_tokenizer *tokenizer = self->tokenizer;
    size_t prefix = first > 0 ? tokenizer->prefix.bytes : 0;
    size_t bytes = self->word.starts[last] - self->word.starts[first];
    if (prefix + bytes > tokenizer->longest)
        return -1;
    if (prefix > 0)
        memcpy(self->candidate, tokenizer->prefix.data, prefix);
    memcpy(self->candidate + prefix, self->word.bytes + self->word.starts[first], bytes);
    tv_vocabulary_entry key = {{self->candidate, prefix + bytes}, 0};
    const tv_vocabulary_entry *found =
        bsearch(&key, tokenizer->vocabulary, tokenizer->vocabulary_count, sizeof key, tv_text_compare);
    return found == NULL ? -1 : found->id;
}

static void write_word(word_text *word, const tv_letter *letters, size_t count)
{
    word->count = count;
    word->starts[0] = 0;
    for (size_t index = 0; index < count; index++)
        word->starts[index + 1] = word->starts[index] +
                                  tv_utf8_from_code_point(letters[index].code, word->bytes + word->starts[index]);
}

/* The longest piece first, again and again; a word with any part that is no piece is unknown as a whole. */
static bool split_word(encoder *self, size_t *ends, int64_t *ids, size_t *pieces)
{
    size_t first = 0;
    *pieces = 0;
    while (first < self->word.count) {
        size_t last = self->word.count;
        int64_t id;
        while ((id = id_of(self, first, last)) < 0)
            if (--last == first)
                return false;
        ids[*pieces] = id;
        ends[(*pieces)++] = last;
        first = last;
    }
    return true;
}

static bool add_word(encoder *self, const tv_letter *letters, size_t count)
{
    size_t pieces, start = 0;
    if (count > self->tokenizer->max_word_characters) {
        add_token(self, self->tokenizer->unknown_token, letters, count);
        return true;
    }
    size_t *ends = malloc(count * (sizeof *ends + sizeof(int64_t)));
    if (ends == NULL)
        return false;
    int64_t *ids = (int64_t *)(void *)(ends + count);
    write_word(&self->word, letters, count);
    if (!split_word(self, ends, ids, &pieces)) {
        add_token(self, self->tokenizer->unknown_token, letters, count);
    } else {
        for (size_t index = 0; index < pieces; index++) {
            add_token(self, ids[index], letters + start, ends[index] - start);
            start = ends[index];
        }
    }
    free(ends);
    return true;
}

/* Words end at white space; a punctuation mark is a word of its own. */
static bool add_words(encoder *self, const tv_letters *text)
{
    size_t start = 0;
    for (size_t place = 0; place <= text->count && !self->overflow; place++) {
        bool alone = place < text->count && is_punctuation(text->letters[place].code);
        if (place < text->count && !alone && !is_delimiter(text->letters[place].code))
            continue;
        if (place > start && !add_word(self, text->letters + start, place - start))
            return false;
        if (alone && !self->overflow && !add_word(self, text->letters + place, 1))
            return false;
        start = place + 1;
    }
    return true;
}

/* The words that Python's str.split() would give. */
static size_t count_words(tv_text text)
{
    size_t words = 0, place = 0;
    bool inside = false;
    while (place < text.bytes) {
        int32_t code = tv_next_code_point(text, &place);
        bool space =
            code < 0 || tv_in_ranges((uint32_t)code, tv_unicode_python_space, tv_unicode_python_space_count);
        words += !space && !inside;
        inside = !space;
        place += code < 0;
    }
    return words;
}

static bool take_memory(encoder *self)
{
    const tv_tokenizer *tokenizer = self->tokenizer;
    size_t letters = tokenizer->max_word_characters;
    self->out->ids = malloc(tokenizer->max_tokens * sizeof *self->out->ids);
    self->out->unknown = malloc(tokenizer->max_tokens * sizeof *self->out->unknown);
    self->candidate = malloc(tokenizer->longest + 1);
    self->word.bytes = malloc(letters * 4);
    self->word.starts = malloc((letters + 1) * sizeof *self->word.starts);
    return self->out->ids != NULL && self->out->unknown != NULL && self->candidate != NULL &&
           self->word.bytes != NULL && self->word.starts != NULL;
}

static void add_special(tv_encoding *out, const int64_t *ids, size_t count)
{
    for (size_t index = 0; index < count; index++)
        out->ids[out->count++] = ids[index];
}

static int encode(encoder *self, const tv_letters *text)
{
    const tv_tokenizer *tokenizer = self->tokenizer;
    char quoted[TV_SHOWN_BYTES];
    if (!take_memory(self))
        return tv_fail_memory();
    self->room = tokenizer->max_tokens - tokenizer->before_count - tokenizer->after_count;
    add_special(self->out, tokenizer->before, tokenizer->before_count);
    if (!add_words(self, text))
        return tv_fail_memory();
    add_special(self->out, tokenizer->after, tokenizer->after_count);
    if (self->tokens == 0 || count_words(self->prompt) == 0)
        return tv_fail(TV_USAGE, EMPTY_HINT, "the prompt %s is empty", tv_quoted(self->given, true, quoted));
    tv_text rest = {self->prompt.data + self->last_end, self->prompt.bytes - self->last_end};
    self->out->words_cut = self->overflow ? count_words(rest) : 0;
    self->out->nothing_known = self->unknown == self->tokens;
    return TV_OK;
}

int tv_tokenizer_encode(const tv_tokenizer *tokenizer, tv_text prompt, tv_encoding *out)
{
    tv_letters text = {NULL, 0, 0};
    encoder self;
    memset(out, 0, sizeof *out);
    memset(&self, 0, sizeof self);
    self.tokenizer = tokenizer;
    self.given = prompt;
    self.out = out;
    int status = tv_plain_prompt(tokenizer, prompt, &out->text, &self.prompt);
    if (status == TV_OK)
        status = tv_normalize(&tokenizer->normalizer, self.prompt, &text);
    if (status == TV_OK)
        status = encode(&self, &text);
    free(text.letters);
    free(self.candidate);
    free(self.word.bytes);
    free(self.word.starts);
    return status;
}

void tv_encoding_release(tv_encoding *encoding)
{
    free(encoding->ids);
    free(encoding->text);
    free(encoding->unknown);
    memset(encoding, 0, sizeof *encoding);
}
