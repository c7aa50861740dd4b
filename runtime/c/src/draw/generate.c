/* From prompts and seeds to pictures, a batch at a time. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "bundle/declaration_check.h"
#include "draw/noise_law.h"
#include "draw/program.h"
#include "draw/prompts.h"

#define COUNT_LIMIT ((size_t)1 << 31)

typedef struct {
    const tv_model *model;
    const char *const *prompts;
    size_t prompt_count;
    const uint64_t *seeds;
    size_t seed_count;
    tv_pictures *pictures;
    tv_tensors text; /* of the prompts of this batch, or of the only prompt */
} drawing;

static tv_tensors no_tensors(const tv_model *model)
{
    tv_tensors tensors = {&model->ort, model->memory, NULL, 0, 0, NULL};
    return tensors;
}

static int check_counts(const drawing *self, size_t *count)
{
    size_t prompts = self->prompt_count, seeds = self->seed_count;
    *count = prompts > seeds ? prompts : seeds;
    if (prompts == 0)
        return tv_fail(TV_USAGE, "say what to draw, for example \"dog wearing sunglasses\"", "no prompt");
    if (seeds == 0 || (prompts != 1 && prompts != *count) || (seeds != 1 && seeds != *count))
        return tv_fail(TV_USAGE, "give as many of one as of the other, or one of one", "%zu prompts and %zu seeds",
                       prompts, seeds);
    if (*count > COUNT_LIMIT)
        return tv_fail(TV_USAGE, "draw them a part at a time", "%zu pictures at once", *count);
    return TV_OK;
}

static int take_pixels(const drawing *self, size_t count)
{
    tv_pictures *pictures = self->pictures;
    pictures->count = count;
    pictures->height = (size_t)self->model->bundle.manifest.image.height;
    pictures->width = (size_t)self->model->bundle.manifest.image.width;
    /* at most 2^31 pictures of 2^20 x 2^20 x 3 bytes: more than 64 bits */
    if (count > SIZE_MAX / 2 / 3 / pictures->height / pictures->width)
        return tv_fail_memory();
    pictures->pixels = malloc(count * pictures->height * pictures->width * 3);
    return pictures->pixels == NULL ? tv_fail_memory() : TV_OK;
}

/* The batch's rows of what is known of its prompts: row k of prompt k, or all of the only one. */
static int gather_text(const drawing *self, size_t count, tv_tensors *tensors)
{
    size_t *rows = calloc(count, sizeof *rows);
    int status = rows == NULL ? tv_fail_memory() : TV_OK;
    for (size_t index = 0; index < count && status == TV_OK; index++)
        rows[index] = self->prompt_count == 1 ? 0 : index;
    for (size_t index = 0; index < self->text.count && status == TV_OK; index++) {
        tv_tensor gathered;
        status = tv_tensor_gather(tensors, &self->text.items[index], rows, count, &gathered);
        if (status == TV_OK)
            status = tv_tensors_put(tensors, gathered);
    }
    free(rows);
    return status;
}

/* A batch of pictures, `count` from number `start` on. */
typedef struct {
    const drawing *drawing;
    size_t start, count;
} batch;

static int put_noise(const batch *self, size_t number, size_t step, tv_tensors *tensors)
{
    const drawing *all = self->drawing;
    const tv_noise_spec *spec = (const tv_noise_spec *)all->model->bundle.manifest.noise.items + number;
    tv_noise_law law = tv_law_of(spec, number);
    size_t values = tv_noise_count(spec);
    tv_tensor noise;
    law.step = (uint32_t)step;
    memset(&noise, 0, sizeof noise);
    noise.name = tv_noise_name(spec);
    noise.type = TV_ORT_FLOAT32;
    noise.rank = spec->shape.count + 1;
    noise.shape[0] = (int64_t)self->count;
    memcpy(noise.shape + 1, spec->shape.items, spec->shape.count * sizeof *noise.shape);
    int status = tv_tensor_create(tensors, &noise);
    if (status != TV_OK)
        return status;
    for (size_t row = 0; row < self->count; row++)
        tv_noise_from_seed(&law, all->seeds[all->seed_count == 1 ? 0 : self->start + row], values,
                           (float *)noise.data + row * values);
    return tv_tensors_put(tensors, noise);
}

/* A parameter's default in each row. */
static int put_parameter(const tv_parameter_spec *spec, size_t count, tv_tensors *tensors)
{
    tv_tensor parameter;
    memset(&parameter, 0, sizeof parameter);
    parameter.name = spec->name;
    parameter.type = TV_ORT_FLOAT32;
    parameter.rank = 1;
    parameter.shape[0] = (int64_t)count;
    int status = tv_tensor_create(tensors, &parameter);
    if (status != TV_OK)
        return status;
    for (size_t row = 0; row < count; row++)
        ((float *)parameter.data)[row] = (float)spec->initial;
    return tv_tensors_put(tensors, parameter);
}

/* The noise that a loop draws anew at each step, or the other. */
static int put_all_noise(const batch *self, bool per_step, size_t step, tv_tensors *tensors)
{
    const tv_manifest *manifest = &self->drawing->model->bundle.manifest;
    const tv_noise_spec *noise = manifest->noise.items;
    int status = TV_OK;
    for (size_t index = 0; index < manifest->noise.count && status == TV_OK; index++)
        if (noise[index].per_step == per_step)
            status = put_noise(self, index, step, tensors);
    return status;
}

static int put_step_noise(const void *self, size_t step, tv_tensors *tensors)
{
    return put_all_noise(self, true, step, tensors);
}

static int put_inputs(const batch *self, tv_tensors *tensors)
{
    const tv_manifest *manifest = &self->drawing->model->bundle.manifest;
    const tv_parameter_spec *parameters = manifest->parameters.items;
    int status = put_all_noise(self, false, 0, tensors);
    for (size_t index = 0; index < manifest->parameters.count && status == TV_OK; index++)
        status = put_parameter(&parameters[index], self->count, tensors);
    return status;
}

static int keep_image(const drawing *self, size_t start, size_t count, const tv_tensor *image)
{
    const tv_pictures *pictures = self->pictures;
    size_t bytes = pictures->height * pictures->width * 3;
    if (image->type != TV_ORT_UINT8 || image->rank != 4 || image->shape[0] != (int64_t)count ||
        image->shape[1] != (int64_t)pictures->height || image->shape[2] != (int64_t)pictures->width ||
        image->shape[3] != 3)
        return tv_fail(TV_INTEGRITY, TV_HINT_EXPORT, "the pictures are not uint8 of %zu x %zu", pictures->height,
                       pictures->width);
    memcpy(pictures->pixels + start * bytes, image->data, count * bytes);
    return TV_OK;
}

static int keep_codes(const drawing *self, size_t start, size_t count, const tv_tensor *codes)
{
    tv_pictures *pictures = self->pictures;
    if (codes->type != TV_ORT_INT64 || codes->rank != 3 || codes->shape[0] != (int64_t)count)
        return tv_fail(TV_INTEGRITY, TV_HINT_EXPORT, "the codes are not int64 of rows and columns");
    size_t cells = codes->bytes / sizeof(int64_t) / count;
    if (pictures->codes == NULL) {
        pictures->code_rows = (size_t)codes->shape[1];
        pictures->code_columns = (size_t)codes->shape[2];
        pictures->codes = calloc(pictures->count, cells * sizeof(int64_t) + 1);
    }
    if (pictures->codes == NULL)
        return tv_fail_memory();
    if (pictures->code_rows != (size_t)codes->shape[1] || pictures->code_columns != (size_t)codes->shape[2])
        return tv_fail(TV_INTEGRITY, TV_HINT_EXPORT, "the codes of two batches are not of one size");
    memcpy(pictures->codes + start * cells, codes->data, codes->bytes);
    return TV_OK;
}

static int draw_batch(const drawing *self, size_t start, size_t count, tv_tensors *tensors)
{
    const tv_model *model = self->model;
    int status = gather_text(self, count, tensors);
    batch all = {self, start, count};
    tv_step_noise noise = {put_step_noise, &all};
    if (status == TV_OK)
        status = put_inputs(&all, tensors);
    for (size_t index = 0; index < model->plan.count && status == TV_OK; index++)
        if (!model->plan.units[index].by_prompt)
            status = tv_unit_run(model, &model->plan.units[index], tensors, (int64_t)count, &noise);
    if (status == TV_OK)
        status = keep_image(self, start, count, tv_tensors_find(tensors, tv_text_of(TV_IMAGE)));
    const tv_tensor *codes = status == TV_OK ? tv_tensors_find(tensors, tv_text_of(TV_CODES)) : NULL;
    if (codes != NULL)
        status = keep_codes(self, start, count, codes);
    return status;
}

/* A long prompt pads only its own batch, and many prompts take no more memory than a batch of them. */
static int draw_all(drawing *self, size_t count)
{
    size_t most = (size_t)self->model->bundle.manifest.batch.max;
    int status = take_pixels(self, count);
    for (size_t start = 0; start < count && status == TV_OK; start += most) {
        size_t size = count - start < most ? count - start : most;
        tv_tensors tensors = no_tensors(self->model);
        if (start == 0 || self->prompt_count > 1) {
            tv_tensors_release(&self->text);
            status = tv_encode_prompts(self->model, self->prompts + start, self->prompt_count == 1 ? 1 : size,
                                       &self->text, self->pictures);
        }
        if (status == TV_OK)
            status = draw_batch(self, start, size, &tensors);
        tv_tensors_release(&tensors);
    }
    return status;
}

int tv_generate(tv_model *model, const char *const *prompts, size_t prompt_count, const uint64_t *seeds,
                size_t seed_count, tv_pictures *pictures)
{
    size_t count;
    if (model == NULL || prompts == NULL || seeds == NULL || pictures == NULL)
        return tv_fail(TV_USAGE, "give a model, prompts, seeds and where to put the pictures",
                       "a NULL where tv_generate needs a pointer");
    memset(pictures, 0, sizeof *pictures);
    drawing self = {model, prompts, prompt_count, seeds, seed_count, pictures, no_tensors(model)};
    int status = check_counts(&self, &count);
    if (status == TV_OK)
        status = draw_all(&self, count);
    tv_tensors_release(&self.text);
    if (status != TV_OK)
        tv_free(pictures);
    return status;
}

void tv_free(tv_pictures *pictures)
{
    if (pictures == NULL)
        return;
    for (size_t index = 0; index < pictures->warning_count; index++)
        free(pictures->warnings[index]);
    free(pictures->warnings);
    free(pictures->pixels);
    free(pictures->codes);
    memset(pictures, 0, sizeof *pictures);
}
