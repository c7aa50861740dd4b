/* tv-draw: pictures from a bundle on the command line. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "textual_vision.h"

static const char usage[] =
    "usage: tv-draw BUNDLE PROMPT [--seed N] [--count N] [--output FILE.png] [options]\n"
    "       tv-draw BUNDLE --verify [options]\n"
    "\n"
    "  --seed N            the first picture's seed (0)\n"
    "  --count N           pictures, of seeds N, N+1, ...: FILE-N.png each (1)\n"
    "  --output FILE.png   (picture.png)\n"
    "  --precision NAME    fp32, fp16, int8, ... (the bundle's default)\n"
    "  --threads N         (one for each core)\n"
    "  --onnxruntime FILE  libonnxruntime to load ($TV_ONNXRUNTIME, or where the system looks)\n";

typedef struct {
    const char *bundle, *prompt, *output;
    uint64_t seed, count;
    int verify;
    tv_options options;
} arguments;

static int fail(void)
{
    fprintf(stderr, "error: %s\nhint: %s\n", tv_error(), tv_hint());
    return 1;
}

static int read_number(const char *text, uint64_t highest, uint64_t *out)
{
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    *out = number;
    return text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0 && number <= highest;
}

/* 0 when the options make no sense. */
static int read_option(arguments *self, const char *name, const char *value)
{
    uint64_t threads;
    if (strcmp(name, "--seed") == 0)
        return read_number(value, UINT64_MAX, &self->seed);
    if (strcmp(name, "--count") == 0)
        return read_number(value, 1000000, &self->count) && self->count > 0;
    if (strcmp(name, "--output") == 0 || strcmp(name, "-o") == 0)
        return (self->output = value)[0] != '\0';
    if (strcmp(name, "--precision") == 0)
        return (self->options.precision = value) != NULL;
    if (strcmp(name, "--onnxruntime") == 0)
        return (self->options.onnxruntime = value) != NULL;
    if (strcmp(name, "--threads") != 0 || !read_number(value, INT32_MAX, &threads))
        return 0;
    self->options.threads = (int32_t)threads;
    return 1;
}

static int read_arguments(arguments *self, int count, char **values)
{
    for (int index = 1; index < count; index++) {
        const char *value = values[index];
        if (strcmp(value, "--verify") == 0)
            self->verify = 1;
        else if (value[0] == '-' && value[1] != '\0') {
            if (index + 1 == count || !read_option(self, value, values[index + 1]))
                return 0;
            index++;
        } else if (self->bundle == NULL)
            self->bundle = value;
        else if (self->prompt == NULL)
            self->prompt = value;
        else
            return 0;
    }
    return self->bundle != NULL && (self->prompt == NULL) == (self->verify != 0);
}

static int verify(tv_model *model)
{
    tv_verification result;
    int status = tv_verify(model, &result);
    if (status == TV_OK)
        printf("%zu golden pictures, %zu of them equal; at least %.4f of the codes, %.1f dB\n", result.pictures,
               result.equal, result.code_agreement, result.psnr_db);
    return status;
}

static int write_picture(const arguments *self, const tv_pictures *pictures, size_t index)
{
    char path[4096];
    size_t stem = strlen(self->output);
    if (stem > 4 && strcmp(self->output + stem - 4, ".png") == 0)
        stem -= 4;
    if (self->count == 1)
        snprintf(path, sizeof path, "%s", self->output);
    else
        snprintf(path, sizeof path, "%.*s-%llu.png", (int)stem, self->output,
                 (unsigned long long)(self->seed + index));
    int status = tv_write_png(path, pictures->pixels + index * pictures->height * pictures->width * 3,
                              pictures->height, pictures->width);
    if (status == TV_OK)
        printf("%s\n", path);
    return status;
}

static int draw(tv_model *model, const arguments *self)
{
    tv_pictures pictures;
    uint64_t *seeds = malloc((size_t)self->count * sizeof *seeds);
    if (seeds == NULL)
        return TV_FAILED;
    for (uint64_t index = 0; index < self->count; index++)
        seeds[index] = self->seed + index;
    int status = tv_generate(model, &self->prompt, 1, seeds, (size_t)self->count, &pictures);
    free(seeds);
    for (size_t index = 0; index < pictures.warning_count; index++)
        fprintf(stderr, "warning: %s\n", pictures.warnings[index]);
    for (size_t index = 0; index < pictures.count && status == TV_OK; index++)
        status = write_picture(self, &pictures, index);
    tv_free(&pictures);
    return status;
}

int main(int count, char **values)
{
    arguments self = {NULL, NULL, "picture.png", 0, 1, 0, {NULL, NULL, 0}};
    tv_description description;
    tv_model *model;
    if (!read_arguments(&self, count, values)) {
        fputs(usage, stderr);
        return TV_USAGE;
    }
    int status = tv_open(self.bundle, &self.options, &model);
    if (status == TV_OK) {
        tv_describe(model, &description);
        for (size_t index = 0; index < description.warning_count; index++)
            fprintf(stderr, "warning: bundle '%s': %s\n", description.name, description.warnings[index]);
        status = self.verify ? verify(model) : draw(model, &self);
    }
    if (status != TV_OK)
        fail();
    tv_close(model);
    return status;
}
