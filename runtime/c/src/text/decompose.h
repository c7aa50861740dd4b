/* Unicode's canonical decomposition (NFD) of letters that know their place in the prompt. */
#ifndef TV_DECOMPOSE_H
#define TV_DECOMPOSE_H

#include "text/normalizer.h"

bool tv_letters_add(tv_letters *text, tv_letter letter);

/* What `code` becomes by a table; NULL when it stays. */
const tv_code_mapping *tv_mapping_of(uint32_t code, const tv_code_mapping *table, size_t count);

/*
 * Decompose `text` in place. The places follow the library's rule: the first part of a character stands for it and
 * takes the next place in order, the others take that of what stands before them. False when there is no memory.
 */
bool tv_decompose(tv_letters *text);

#endif
