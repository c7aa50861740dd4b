/* tokenizer.json by tables. Everything that it may say is listed here; what the runtime sets itself is skipped. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "text/tokenizer.h"

#define VOCABULARY_LIMIT 1000000
#define WORD_LIMIT_CHARACTERS 1000
#define SPECIAL_LIMIT 64 /* around a prompt, and of added tokens */
#define KIND_HINT "draw with textual_vision.runtime in Python, which reads every kind of tokenizer"

typedef struct {
    tv_text type;
} plain_part;

typedef struct {
    tv_text type;
    bool clean_text, handle_chinese_chars, lowercase;
    const tv_json *strip_accents; /* null: as lowercase */
} normalizer_part;

typedef struct {
    int64_t id;
    tv_text content;
    bool single_word, lstrip, rstrip, normalized, special;
} added_token;

typedef struct {
    tv_text type, unk_token, continuing_subword_prefix;
    int64_t max_input_chars_per_word;
    tv_list vocab; /* map of int64_t */
} model_part;

typedef struct {
    tv_text version;
    const tv_json *truncation, *padding, *decoder, *post_processor;
    tv_list added_tokens;
    normalizer_part normalizer;
    plain_part pre_tokenizer;
    model_part model;
} tokenizer_file;

#define NEEDED(type, name, kind) {#name, offsetof(type, name), false, {kind, NULL, NULL}}
#define OPTIONAL(type, name, kind) {#name, offsetof(type, name), true, {kind, NULL, NULL}}
#define PART(type, name, record) {#name, offsetof(type, name), false, {TV_FIELD_RECORD, &record, NULL}}

static const tv_element integer_element = {TV_FIELD_INTEGER, NULL, NULL};

static const tv_field plain_fields[] = {NEEDED(plain_part, type, TV_FIELD_TEXT)};
static const tv_record plain_record = TV_RECORD(plain_fields, plain_part);

static const tv_field normalizer_fields[] = {
    NEEDED(normalizer_part, type, TV_FIELD_TEXT),
    NEEDED(normalizer_part, clean_text, TV_FIELD_BOOLEAN),
    NEEDED(normalizer_part, handle_chinese_chars, TV_FIELD_BOOLEAN),
    OPTIONAL(normalizer_part, strip_accents, TV_FIELD_ANY),
    NEEDED(normalizer_part, lowercase, TV_FIELD_BOOLEAN),
};
static const tv_record normalizer_record = TV_RECORD(normalizer_fields, normalizer_part);

static const tv_field added_fields[] = {
    NEEDED(added_token, id, TV_FIELD_INTEGER),           NEEDED(added_token, content, TV_FIELD_TEXT),
    NEEDED(added_token, single_word, TV_FIELD_BOOLEAN),  NEEDED(added_token, lstrip, TV_FIELD_BOOLEAN),
    NEEDED(added_token, rstrip, TV_FIELD_BOOLEAN),       NEEDED(added_token, normalized, TV_FIELD_BOOLEAN),
    NEEDED(added_token, special, TV_FIELD_BOOLEAN),
};
static const tv_record added_record = TV_RECORD(added_fields, added_token);
static const tv_element added_element = {TV_FIELD_RECORD, &added_record, NULL};

static const tv_field model_fields[] = {
    NEEDED(model_part, type, TV_FIELD_TEXT),
    NEEDED(model_part, unk_token, TV_FIELD_TEXT),
    NEEDED(model_part, continuing_subword_prefix, TV_FIELD_TEXT),
    NEEDED(model_part, max_input_chars_per_word, TV_FIELD_INTEGER),
    {"vocab", offsetof(model_part, vocab), false, {TV_FIELD_MAP, NULL, &integer_element}},
};
static const tv_record model_record = TV_RECORD(model_fields, model_part);

static const tv_field file_fields[] = {
    NEEDED(tokenizer_file, version, TV_FIELD_TEXT),
    OPTIONAL(tokenizer_file, truncation, TV_FIELD_ANY), /* the manifest's max_tokens holds */
    OPTIONAL(tokenizer_file, padding, TV_FIELD_ANY),    /* by the runtime */
    {"added_tokens", offsetof(tokenizer_file, added_tokens), true, {TV_FIELD_LIST, NULL, &added_element}},
    PART(tokenizer_file, normalizer, normalizer_record),
    PART(tokenizer_file, pre_tokenizer, plain_record),
    NEEDED(tokenizer_file, post_processor, TV_FIELD_ANY),
    OPTIONAL(tokenizer_file, decoder, TV_FIELD_ANY), /* nothing is decoded */
    PART(tokenizer_file, model, model_record),
};
static const tv_record file_record = TV_RECORD(file_fields, tokenizer_file);

static int bad(const tv_tokenizer *self, const char *where, const char *problem)
{
    return tv_fail(TV_INTEGRITY, TV_HINT_EXPORT, "%.*s: %s: %s", (int)self->name.bytes, self->name.data, where,
                   problem);
}

static int check_kind(const tv_tokenizer *self, const char *where, tv_text found, const char *known)
{
    char quoted[TV_SHOWN_BYTES];
    if (tv_text_is(found, known))
        return TV_OK;
    return tv_fail(TV_INTEGRITY, KIND_HINT, "%.*s: %s is %s; this library reads %s", (int)self->name.bytes,
                   self->name.data, where, tv_quoted(found, false, quoted), known);
}

static int check_kinds(const tv_tokenizer *self, const tokenizer_file *file)
{
    int status = check_kind(self, "version", file->version, "1.0");
    if (status == TV_OK)
        status = check_kind(self, "normalizer.type", file->normalizer.type, "BertNormalizer");
    if (status == TV_OK)
        status = check_kind(self, "pre_tokenizer.type", file->pre_tokenizer.type, "BertPreTokenizer");
    return status == TV_OK ? check_kind(self, "model.type", file->model.type, "WordPiece") : status;
}

static int read_normalizer(tv_tokenizer *self, const normalizer_part *part)
{
    tv_json_kind strip = part->strip_accents == NULL ? TV_JSON_NULL : part->strip_accents->kind;
    if (strip != TV_JSON_NULL && strip != TV_JSON_TRUE && strip != TV_JSON_FALSE)
        return bad(self, "normalizer.strip_accents", "expected true, false or null");
    self->normalizer.clean_text = part->clean_text;
    self->normalizer.handle_chinese_chars = part->handle_chinese_chars;
    self->normalizer.lowercase = part->lowercase;
    self->normalizer.strip_accents = strip == TV_JSON_NULL ? part->lowercase : strip == TV_JSON_TRUE;
    return TV_OK;
}

static const tv_vocabulary_entry *entry_of(const tv_tokenizer *self, tv_text token)
{
    tv_vocabulary_entry key = {token, 0};
    return bsearch(&key, self->vocabulary, self->vocabulary_count, sizeof key, tv_text_compare);
}

static int read_vocabulary(tv_tokenizer *self, tv_arena *arena, const model_part *model)
{
    size_t count = model->vocab.count;
    if (count > VOCABULARY_LIMIT)
        return bad(self, "model.vocab", "more than 1000000 tokens");
    self->vocabulary = tv_arena_take(arena, count, sizeof *self->vocabulary);
    if (self->vocabulary == NULL)
        return tv_fail_memory();
    for (size_t index = 0; index < count; index++) {
        tv_vocabulary_entry *entry = &self->vocabulary[index];
        entry->token = tv_map_key(&model->vocab, sizeof(int64_t), index);
        entry->id = *(const int64_t *)tv_map_value(&model->vocab, sizeof(int64_t), index);
        if (entry->id < 0 || entry->id > UINT32_MAX)
            return bad(self, "model.vocab", "an id that is not of 32 bits");
        self->longest = entry->token.bytes > self->longest ? entry->token.bytes : self->longest;
    }
    self->vocabulary_count = count;
    qsort(self->vocabulary, count, sizeof *self->vocabulary, tv_text_compare);
    return TV_OK;
}

static int read_model(tv_tokenizer *self, tv_arena *arena, const model_part *model)
{
    int status = read_vocabulary(self, arena, model);
    if (status != TV_OK)
        return status;
    const tv_vocabulary_entry *unknown = entry_of(self, model->unk_token);
    if (unknown == NULL)
        return bad(self, "model.unk_token", "missing from the vocabulary");
    if (model->max_input_chars_per_word < 1 || model->max_input_chars_per_word > WORD_LIMIT_CHARACTERS)
        return bad(self, "model.max_input_chars_per_word", "not between 1 and 1000");
    if (model->continuing_subword_prefix.bytes > WORD_LIMIT_CHARACTERS)
        return bad(self, "model.continuing_subword_prefix", "longer than 1000 bytes");
    self->unknown_token = unknown->id;
    self->prefix = model->continuing_subword_prefix;
    self->max_word_characters = (size_t)model->max_input_chars_per_word;
    return TV_OK;
}

/* Every added token must be special: those are text when a user types them, so a prompt is never cut at one. */
static int check_added(const tv_tokenizer *self, const tv_list *added)
{
    const added_token *tokens = added->items;
    for (size_t index = 0; index < added->count; index++)
        if (!tokens[index].special || tokens[index].id < 0)
            return tv_fail(TV_INTEGRITY, KIND_HINT, "%.*s: added_tokens[%zu] is not a special token with an id",
                           (int)self->name.bytes, self->name.data, index);
    return added->count <= SPECIAL_LIMIT ? TV_OK : bad(self, "added_tokens", "more than 64");
}

static bool has_id(const tv_tokenizer *self, const tv_list *added, int64_t id)
{
    const added_token *tokens = added->items;
    for (size_t index = 0; index < added->count; index++)
        if (tokens[index].id == id)
            return true;
    for (size_t index = 0; index < self->vocabulary_count; index++)
        if (self->vocabulary[index].id == id)
            return true;
    return false;
}

static bool add_special(int64_t *ids, size_t *count, const tv_json *id)
{
    return *count < SPECIAL_LIMIT && tv_json_integer(id, 0, UINT32_MAX, &ids[(*count)++]);
}

/* {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]} */
static bool read_bert_processing(tv_tokenizer *self, const tv_json *part)
{
    const tv_json *cls = tv_json_get(part, "cls"), *sep = tv_json_get(part, "sep");
    return part->count == 3 && cls != NULL && sep != NULL && cls->kind == TV_JSON_LIST && cls->count == 2 &&
           sep->kind == TV_JSON_LIST && sep->count == 2 &&
           add_special(self->before, &self->before_count, cls->item->next) &&
           add_special(self->after, &self->after_count, sep->item->next);
}

/* {"SpecialToken": {"id": "[CLS]", ...}} of a template: its ids are looked up in special_tokens. */
static bool read_template_token(tv_tokenizer *self, const tv_json *part, const tv_json *piece, bool after)
{
    const tv_json *name = tv_json_get(piece, "id"), *specials = tv_json_get(part, "special_tokens");
    const tv_json *special = specials == NULL || specials->kind != TV_JSON_OBJECT ? NULL : specials->item;
    while (special != NULL && !(name != NULL && name->kind == TV_JSON_STRING && tv_text_equal(special->key, name->text)))
        special = special->next;
    const tv_json *ids = tv_json_get(special, "ids");
    if (ids == NULL || ids->kind != TV_JSON_LIST)
        return false;
    for (const tv_json *id = ids->item; id != NULL; id = id->next)
        if (!add_special(after ? self->after : self->before, after ? &self->after_count : &self->before_count, id))
            return false;
    return true;
}

static bool read_template(tv_tokenizer *self, const tv_json *part)
{
    const tv_json *single = tv_json_get(part, "single");
    size_t sequences = 0;
    if (single == NULL || single->kind != TV_JSON_LIST)
        return false;
    for (const tv_json *piece = single->item; piece != NULL; piece = piece->next) {
        const tv_json *token = tv_json_get(piece, "SpecialToken"), *sequence = tv_json_get(piece, "Sequence");
        const tv_json *id = tv_json_get(sequence, "id");
        if (piece->count != 1 || (token == NULL) == (sequence == NULL))
            return false;
        if (token != NULL && !read_template_token(self, part, token, sequences > 0))
            return false;
        if (sequence != NULL && (id == NULL || id->kind != TV_JSON_STRING || !tv_text_is(id->text, "A")))
            return false;
        sequences += sequence != NULL;
    }
    return sequences == 1;
}

static int read_post_processor(tv_tokenizer *self, tv_arena *arena, const tv_json *part)
{
    const tv_json *type = tv_json_get(part, "type");
    self->before = tv_arena_take(arena, SPECIAL_LIMIT, sizeof *self->before);
    self->after = tv_arena_take(arena, SPECIAL_LIMIT, sizeof *self->after);
    if (self->before == NULL || self->after == NULL)
        return tv_fail_memory();
    if (type == NULL || type->kind != TV_JSON_STRING)
        return bad(self, "post_processor", "expected an object with a type");
    bool is_bert = tv_text_is(type->text, "BertProcessing");
    if (!is_bert && !tv_text_is(type->text, "TemplateProcessing"))
        return check_kind(self, "post_processor.type", type->text, "TemplateProcessing");
    if (!(is_bert ? read_bert_processing(self, part) : read_template(self, part)))
        return bad(self, "post_processor", "not special tokens around one prompt");
    if (self->before_count + self->after_count >= self->max_tokens)
        return bad(self, "post_processor", "its tokens leave no room for a prompt");
    return TV_OK;
}

int tv_tokenizer_read(tv_tokenizer *self, tv_arena *arena, char *data, size_t bytes, const tv_text_spec *spec)
{
    int status;
    char name[128];
    tokenizer_file file;
    memset(self, 0, sizeof *self);
    memset(&file, 0, sizeof file);
    self->name = spec->tokenizer;
    self->max_tokens = (size_t)spec->max_tokens;
    self->unknown_id = spec->unknown_id;
    size_t shown = spec->tokenizer.bytes < sizeof name ? spec->tokenizer.bytes : sizeof name - 1;
    memcpy(name, spec->tokenizer.data, shown);
    name[shown] = '\0';
    if (self->max_tokens > TV_TOKENS_LIMIT)
        return tv_fail(TV_INTEGRITY, KIND_HINT, "manifest.text.max_tokens: %zu; this library reads at most %d",
                       self->max_tokens, TV_TOKENS_LIMIT);
    const tv_json *value = tv_json_parse(arena, data, bytes, name, &status);
    if (status == TV_OK)
        status = tv_record_decode(arena, &file_record, value, name, &file);
    if (status == TV_OK)
        status = check_kinds(self, &file);
    if (status == TV_OK)
        status = read_normalizer(self, &file.normalizer);
    if (status == TV_OK)
        status = check_added(self, &file.added_tokens);
    if (status == TV_OK)
        status = read_model(self, arena, &file.model);
    if (status == TV_OK)
        status = read_post_processor(self, arena, file.post_processor);
    if (status == TV_OK && !(has_id(self, &file.added_tokens, spec->pad_id) &&
                             (spec->unknown_id == TV_NO_ID || has_id(self, &file.added_tokens, spec->unknown_id))))
        status = tv_fail(TV_INTEGRITY, TV_HINT_EXPORT, "%s: it has no token %d", name,
                         (int)(has_id(self, &file.added_tokens, spec->pad_id) ? spec->unknown_id : spec->pad_id));
    return status;
}
