#include "draw/prompts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "draw/program.h"

#define SHOWN_PIECES 5
#define WARNING_BYTES (TV_SHOWN_BYTES * (SHOWN_PIECES + 2))

static int add_warning(tv_pictures *pictures, const char *text)
{
    size_t count = pictures->warning_count;
    char **grown = realloc(pictures->warnings, (count + 1) * sizeof *grown);
    if (grown == NULL)
        return tv_fail_memory();
    pictures->warnings = grown;
    grown[count] = malloc(strlen(text) + 1);
    if (grown[count] == NULL)
        return tv_fail_memory();
    strcpy(grown[count], text);
    pictures->warning_count++;
    return TV_OK;
}

static int warn_of_unknown(tv_text prompt, const tv_encoding *encoding, tv_pictures *pictures)
{
    char text[WARNING_BYTES], quoted[TV_SHOWN_BYTES];
    int used = snprintf(text, sizeof text, "prompt %s: not in the vocabulary:", tv_quoted(prompt, true, quoted));
    for (size_t index = 0; index < encoding->unknown_count && index < SHOWN_PIECES; index++)
        used += snprintf(text + used, sizeof text - (size_t)used, "%s %s", index == 0 ? "" : ",",
                         tv_quoted(encoding->unknown[index], true, quoted));
    if (encoding->unknown_count > SHOWN_PIECES)
        used += snprintf(text + used, sizeof text - (size_t)used, " and %zu more",
                         encoding->unknown_count - SHOWN_PIECES);
    if (encoding->nothing_known)
        snprintf(text + used, sizeof text - (size_t)used,
                 "; nothing in it is known, so expect an arbitrary picture");
    return add_warning(pictures, text);
}

static int warn(const tv_model *model, tv_text prompt, const tv_encoding *encoding, tv_pictures *pictures)
{
    char text[WARNING_BYTES], quoted[TV_SHOWN_BYTES], words[64];
    if (encoding->unknown_count > 0) {
        int status = warn_of_unknown(prompt, encoding, pictures);
        if (status != TV_OK)
            return status;
    }
    if (encoding->words_cut == 0)
        return TV_OK;
    snprintf(words, sizeof words, encoding->words_cut == 1 ? "1 word was" : "%zu words were", encoding->words_cut);
    snprintf(text, sizeof text, "prompt %s: longer than %zu tokens, the last %s cut",
             tv_quoted(prompt, true, quoted), model->tokenizer.max_tokens, words);
    return add_warning(pictures, text);
}

static int encode(const tv_model *model, const char *const *prompts, size_t count, tv_encoding *encodings,
                  tv_pictures *pictures)
{
    int status = TV_OK;
    for (size_t index = 0; index < count && status == TV_OK; index++) {
        if (prompts[index] == NULL)
            return tv_fail(TV_USAGE, "give the address of a text", "prompt %zu is NULL", index);
        tv_text prompt = tv_text_of(prompts[index]);
        status = tv_tokenizer_encode(&model->tokenizer, prompt, &encodings[index]);
        if (status == TV_OK)
            status = warn(model, prompt, &encodings[index], pictures);
    }
    return status;
}

/* An int64 tensor (rows, columns), or (rows,) when `columns` is 0. */
static int new_tensor(tv_tensors *tensors, const char *name, size_t rows, size_t columns, const tv_tensor **out)
{
    tv_tensor tensor;
    memset(&tensor, 0, sizeof tensor);
    tensor.name = tv_text_of(name);
    tensor.type = TV_ORT_INT64;
    tensor.rank = columns == 0 ? 1 : 2;
    tensor.shape[0] = (int64_t)rows;
    tensor.shape[1] = (int64_t)columns;
    int status = tv_tensor_create(tensors, &tensor);
    if (status == TV_OK)
        status = tv_tensors_put(tensors, tensor);
    *out = status == TV_OK ? tv_tensors_find(tensors, tensor.name) : NULL;
    return status;
}

static int put_tokens(const tv_model *model, const tv_encoding *encodings, size_t count, tv_tensors *tensors)
{
    const tv_text_spec *spec = model->bundle.manifest.text;
    const tv_tensor *tensor;
    size_t length = spec->fixed_length ? (size_t)spec->max_tokens : 0;
    for (size_t row = 0; row < count; row++)
        length = encodings[row].count > length ? encodings[row].count : length;
    int status = new_tensor(tensors, TV_INPUT_IDS, count, length, &tensor);
    int64_t *ids = status == TV_OK ? tensor->data : NULL;
    if (status == TV_OK)
        status = new_tensor(tensors, TV_ATTENTION_MASK, count, length, &tensor);
    int64_t *mask = status == TV_OK ? tensor->data : NULL;
    for (size_t place = 0; status == TV_OK && place < count * length; place++) {
        const tv_encoding *encoding = &encodings[place / length];
        bool inside = place % length < encoding->count;
        ids[place] = inside ? encoding->ids[place % length] : spec->pad_id;
        mask[place] = inside;
    }
    if (status == TV_OK)
        status = new_tensor(tensors, TV_LENGTHS, count, 0, &tensor);
    for (size_t row = 0; status == TV_OK && row < count; row++)
        ((int64_t *)tensor->data)[row] = (int64_t)encodings[row].count;
    return status;
}

/* The number of a label given by its name, or by the number itself; -1 when there is none. */
static int64_t label_number(const tv_label_spec *labels, tv_text given)
{
    const tv_text *names = labels->names.items;
    int64_t number = 0;
    for (size_t index = 0; index < labels->names.count; index++)
        if (tv_text_equal(names[index], given))
            return (int64_t)index;
    for (size_t place = 0; place < given.bytes; place++) {
        if (given.data[place] < '0' || given.data[place] > '9' || place == 9)
            return -1;
        number = 10 * number + (given.data[place] - '0');
    }
    return given.bytes > 0 && number < (int64_t)labels->names.count ? number : -1;
}

static int put_labels(const tv_label_spec *labels, const char *const *given, size_t count, tv_tensors *tensors)
{
    const tv_tensor *tensor;
    char quoted[TV_SHOWN_BYTES];
    int status = new_tensor(tensors, TV_LABEL, count, 0, &tensor);
    for (size_t row = 0; status == TV_OK && row < count; row++) {
        tv_text name = tv_text_of(given[row] == NULL ? "" : given[row]);
        int64_t number = label_number(labels, name);
        if (number < 0)
            return tv_fail(TV_USAGE, "give a label's name, or its number from 0 on", "no label %s",
                           tv_quoted(name, true, quoted));
        ((int64_t *)tensor->data)[row] = number;
    }
    return status;
}

static int put_prompts(const tv_model *model, const char *const *prompts, size_t count, tv_tensors *tensors,
                       tv_pictures *pictures)
{
    tv_encoding *encodings = calloc(count, sizeof *encodings);
    if (encodings == NULL)
        return tv_fail_memory();
    int status = encode(model, prompts, count, encodings, pictures);
    if (status == TV_OK)
        status = put_tokens(model, encodings, count, tensors);
    for (size_t index = 0; index < count; index++)
        tv_encoding_release(&encodings[index]);
    free(encodings);
    return status;
}

int tv_encode_prompts(const tv_model *model, const char *const *prompts, size_t count, tv_tensors *tensors,
                      tv_pictures *pictures)
{
    const tv_manifest *manifest = &model->bundle.manifest;
    int status = TV_OK;
    if (manifest->text != NULL)
        status = put_prompts(model, prompts, count, tensors, pictures);
    else if (manifest->labels != NULL)
        status = put_labels(manifest->labels, prompts, count, tensors);
    for (size_t index = 0; index < model->plan.count && status == TV_OK; index++)
        if (model->plan.units[index].by_prompt)
            status = tv_unit_run(model, &model->plan.units[index], tensors, (int64_t)count, NULL);
    return status;
}
