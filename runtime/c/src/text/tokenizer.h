/*
 * Prompts into token ids: a tokenizer.json of the BERT kind (BertNormalizer, BertPreTokenizer, WordPiece), read
 * strictly. Special tokens that a user types are text. Other kinds are refused with their name.
 */
#ifndef TV_TOKENIZER_H
#define TV_TOKENIZER_H

#include "bundle/manifest.h"
#include "text/normalizer.h"

#define TV_TOKENS_LIMIT 4096 /* of a prompt */

typedef struct {
    tv_text token; /* first: sorted and found by tv_text_compare */
    int64_t id;
} tv_vocabulary_entry;

typedef struct {
    tv_normalizer normalizer;
    tv_text name; /* of the file */
    tv_text prefix; /* of a piece that continues a word */
    tv_vocabulary_entry *vocabulary; /* sorted */
    size_t vocabulary_count, longest; /* bytes of the longest token */
    size_t max_word_characters;
    int64_t unknown_token; /* what a word that has no pieces becomes */
    int64_t unknown_id; /* the manifest's */
    int64_t *before, *after; /* what the post-processor puts around a prompt */
    size_t before_count, after_count, max_tokens;
} tv_tokenizer;

typedef struct {
    int64_t *ids; /* with the special tokens */
    size_t count;
    char *text; /* the prompt's plain text, which `unknown` points into */
    tv_text *unknown; /* the pieces of the prompt that the vocabulary lacks, each once */
    size_t unknown_count, words_cut;
    bool nothing_known;
} tv_encoding;

/*
 * Read tokenizer.json; `data` is overwritten, and must live as long as the tokenizer, as `arena` must.
 * TV_INTEGRITY when it is no tokenizer, or not of a kind that is known here; TV_FAILED.
 */
int tv_tokenizer_read(tv_tokenizer *tokenizer, tv_arena *arena, char *data, size_t bytes, const tv_text_spec *spec);

/* Encode one prompt; release it in any case. TV_USAGE when it has no text or is not UTF-8; TV_FAILED. */
int tv_tokenizer_encode(const tv_tokenizer *tokenizer, tv_text prompt, tv_encoding *out);

void tv_encoding_release(tv_encoding *encoding);

#endif
