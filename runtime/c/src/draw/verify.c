/* A bundle tests itself: every file's digest, then each golden picture is drawn and compared. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "bundle/declaration_check.h"
#include "draw/golden.h"
#include "draw/model.h"
#include "draw/noise_law.h"
#include "image/png.h"

#define NOISE_HEAD 8
#define SAVED_LIMIT_BYTES ((int64_t)64 << 20)

static bool noise_is_equal(const tv_model *model, const tv_golden_picture *expected)
{
    const tv_text *bits = expected->noise_bits.items;
    const tv_manifest *manifest = &model->bundle.manifest;
    const tv_noise_spec *noise = manifest->noise.items;
    float head[NOISE_HEAD];
    size_t count = 0;
    for (size_t index = 0; index < manifest->noise.count && count < NOISE_HEAD; index++) {
        size_t values = tv_noise_count(&noise[index]), left = NOISE_HEAD - count;
        tv_noise_law law = tv_law_of(&noise[index], index);
        values = values < left ? values : left;
        tv_noise_from_seed(&law, expected->seed, values, head + count);
        count += values;
    }
    bool equal = expected->noise_bits.count == count;
    for (size_t index = 0; index < count && equal; index++) {
        char digits[16];
        uint32_t word;
        memcpy(&word, &head[index], sizeof word);
        snprintf(digits, sizeof digits, "%08lx", (unsigned long)word);
        equal = tv_text_is(bits[index], digits);
    }
    return equal;
}

static int compare_codes(const tv_golden_picture *expected, const tv_pictures *drawn, double *agreement)
{
    const tv_list *rows = expected->codes.items;
    size_t equal = 0, cells = drawn->code_rows * drawn->code_columns;
    *agreement = 1.0;
    if (expected->codes.count == 0 && cells == 0)
        return TV_OK;
    size_t columns = expected->codes.count == 0 ? 0 : rows[0].count;
    if (expected->codes.count != drawn->code_rows || columns != drawn->code_columns || cells == 0)
        return tv_fail(TV_INTEGRITY, TV_HINT_EXPORT, "golden.json: codes of %zu x %zu, the model's are %zu x %zu",
                       expected->codes.count, columns, drawn->code_rows, drawn->code_columns);
    for (size_t cell = 0; cell < cells; cell++) {
        const int64_t *row = rows[cell / drawn->code_columns].items;
        equal += row[cell % drawn->code_columns] == drawn->codes[cell];
    }
    *agreement = (double)equal / (double)cells;
    return TV_OK;
}

static double psnr_db(const uint8_t *first, const uint8_t *second, size_t bytes)
{
    uint64_t squares = 0;
    for (size_t place = 0; place < bytes; place++) {
        int difference = first[place] - second[place];
        squares += (uint64_t)(difference * difference);
    }
    return squares == 0 ? HUGE_VAL : 10.0 * log10(255.0 * 255.0 * (double)bytes / (double)squares);
}

static int read_saved(const tv_model *model, tv_text path, const tv_pictures *drawn, uint8_t *pixels)
{
    char *data;
    size_t bytes;
    const char *problem;
    tv_text suffix = {path.data + (path.bytes < 4 ? 0 : path.bytes - 4), path.bytes < 4 ? path.bytes : 4};
    char quoted[TV_SHOWN_BYTES];
    if (tv_manifest_file(&model->bundle.manifest, path) == NULL || !tv_text_is(suffix, ".png"))
        return tv_fail(TV_INTEGRITY, TV_HINT_EXPORT, "golden.json: %s is not a PNG of the bundle",
                       tv_quoted(path, false, quoted));
    int status = tv_bundle_read(&model->bundle, path, SAVED_LIMIT_BYTES, &data, &bytes);
    if (status == TV_OK && !tv_png_read(data, bytes, drawn->height, drawn->width, pixels, &problem))
        status = tv_fail(TV_INTEGRITY, TV_HINT_EXPORT, "%.*s: %s", (int)path.bytes, path.data, problem);
    free(data);
    return status;
}

/* Draw one golden picture; what it gave goes into `result`, the first that fails is the error. */
static int compare(tv_model *model, const tv_golden_picture *expected, const tv_golden_budget *budget,
                   tv_verification *result)
{
    char quoted[TV_SHOWN_BYTES];
    tv_pictures drawn;
    double agreement = 0.0, psnr = 0.0;
    char *prompt = calloc(expected->prompt.bytes + 1, 1);
    if (prompt == NULL)
        return tv_fail_memory();
    memcpy(prompt, expected->prompt.data, expected->prompt.bytes);
    const char *const prompts[1] = {prompt};
    int status = tv_generate(model, prompts, 1, &expected->seed, 1, &drawn);
    free(prompt);
    size_t bytes = drawn.height * drawn.width * 3;
    uint8_t *saved = malloc(bytes + 1);
    if (status == TV_OK && saved == NULL)
        status = tv_fail_memory();
    if (status == TV_OK)
        status = read_saved(model, expected->picture, &drawn, saved);
    if (status == TV_OK)
        status = compare_codes(expected, &drawn, &agreement);
    if (status == TV_OK) {
        psnr = psnr_db(saved, drawn.pixels, bytes);
        result->pictures++;
        result->equal += agreement == 1.0 && isinf(psnr);
        result->code_agreement = agreement < result->code_agreement ? agreement : result->code_agreement;
        result->psnr_db = psnr < result->psnr_db ? psnr : result->psnr_db;
        if (!noise_is_equal(model, expected) || agreement < budget->code_agreement || psnr < budget->psnr_db)
            status = tv_fail(TV_PARITY, "draw with another version of ONNX Runtime, or export the bundle again",
                             "golden picture %s, seed %llu: %.4f of the codes are equal, %.2f dB; it must be %.4f and "
                             "%.2f dB%s",
                             tv_quoted(expected->prompt, true, quoted), (unsigned long long)expected->seed, agreement,
                             psnr, budget->code_agreement, budget->psnr_db,
                             noise_is_equal(model, expected) ? "" : "; its noise is another");
    }
    free(saved);
    tv_free(&drawn);
    return status;
}

static int compare_all(tv_model *model, const tv_golden *golden, tv_verification *result)
{
    const tv_golden_picture *pictures = golden->pictures.items;
    const tv_golden_budget *budget = tv_map_find(&golden->budgets, sizeof(tv_golden_budget), model->precision);
    if (budget == NULL)
        return tv_fail(TV_INTEGRITY, TV_HINT_EXPORT, "golden.budgets: none for '%s'", model->precision_name);
    int status = TV_OK;
    for (size_t index = 0; index < golden->pictures.count && status == TV_OK; index++)
        status = compare(model, &pictures[index], budget, result);
    return status;
}

int tv_verify(tv_model *model, tv_verification *result)
{
    tv_verification found = {0, 0, 1.0, HUGE_VAL};
    tv_golden golden;
    tv_arena arena = {NULL, 0, 0};
    char *text = NULL;
    if (model == NULL)
        return tv_fail(TV_USAGE, "open a model first", "a NULL where tv_verify needs a model");
    int status = tv_bundle_verify(&model->bundle);
    if (status == TV_OK)
        status = tv_golden_read(&model->bundle, &arena, &golden, &text);
    if (status == TV_OK)
        status = compare_all(model, &golden, &found);
    tv_arena_release(&arena);
    free(text);
    if (result != NULL)
        *result = found;
    return status;
}
