/* A prompt as plain text: emoji by their names, then NFKC, as textual_vision.runtime.text.prompt_text makes it. */
#ifndef TV_PROMPT_TEXT_H
#define TV_PROMPT_TEXT_H

#include "text/tokenizer.h"

/*
 * The plain text of `prompt` for the caller to free; emoji that the vocabulary has stay. TV_USAGE when it is not
 * UTF-8 or longer than a million characters; TV_FAILED.
 */
int tv_plain_prompt(const tv_tokenizer *tokenizer, tv_text prompt, char **data, tv_text *text);

#endif
