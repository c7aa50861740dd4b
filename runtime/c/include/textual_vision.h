/*
 * libtextualvision: pictures from prompts with an exported bundle, in C.
 *
 *     tv_model *model;
 *     tv_pictures pictures;
 *     const char *prompt = "dog wearing sunglasses";
 *     uint64_t seed = 7;
 *     if (tv_open("emoji.tv", NULL, &model) == TV_OK
 *             && tv_generate(model, &prompt, 1, &seed, 1, &pictures) == TV_OK)
 *         tv_write_png("dog.png", pictures.pixels, pictures.height, pictures.width);
 *
 * It loads ONNX Runtime when a bundle is opened, and gives the pictures that textual_vision.runtime gives in
 * Python with the same ONNX Runtime, bit by bit.
 *
 * A function that returns an int returns TV_OK or one of the errors below; tv_error() and tv_hint() say more.
 * A model may be used by several threads at once; only tv_close must be the last.
 */
#ifndef TEXTUAL_VISION_H
#define TEXTUAL_VISION_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define TV_API __attribute__((visibility("default")))
#else
#define TV_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The numbers are the exit codes of the Python commands. */
enum {
    TV_OK = 0,
    TV_FAILED = 1,          /* ONNX Runtime or the system failed */
    TV_USAGE = 2,           /* what was asked for does not make sense */
    TV_PARITY = 3,          /* a golden picture is not drawn as it must be */
    TV_BACKEND_MISSING = 6, /* ONNX Runtime is not there, or too old */
    TV_INTEGRITY = 7        /* a file of the bundle is damaged, or is not what it claims to be */
};

typedef struct tv_model tv_model;

/* How to open a bundle. Zero and NULL are the defaults. */
typedef struct tv_options {
    const char *precision;   /* "fp32", "fp16", "int8", ...; NULL: the bundle's default */
    const char *onnxruntime; /* the file of ONNX Runtime's shared library; NULL: the file that the environment
                                variable TV_ONNXRUNTIME names, else libonnxruntime where the system looks */
    int32_t threads;         /* that compute one picture; 0: one for each core */
} tv_options;

/* What was opened. The texts belong to the model. */
typedef struct tv_description {
    const char *name;
    const char *license;
    const char *precision;
    const char *verdict;              /* of that precision: "pass", "fail" or "unchecked" */
    const char *onnxruntime_version;
    size_t height, width;             /* of a picture, in pixels */
    size_t max_tokens;                /* of a prompt; the rest of it is cut. 0: the model takes labels, or nothing */
    size_t noise_count;               /* values that a seed becomes */
    size_t batch;                     /* pictures that are computed at once */
    const char *const *warnings;      /* what the bundle's maker found wrong */
    size_t warning_count;
} tv_description;

/* Pictures in the order of prompts and seeds. Given back by tv_free. */
typedef struct tv_pictures {
    size_t count, height, width;
    uint8_t *pixels;            /* count x height x width x 3, RGB */
    size_t code_rows, code_columns;
    int64_t *codes;             /* count x code_rows x code_columns: rows of the image codebook */
    char **warnings;            /* words of the prompts that the vocabulary lacks, or that were cut */
    size_t warning_count;
} tv_pictures;

/* How the golden pictures of a bundle were met. */
typedef struct tv_verification {
    size_t pictures;       /* compared */
    size_t equal;          /* of them, bit by bit */
    double code_agreement; /* the least share of equal codes, 0 ... 1 */
    double psnr_db;        /* the least; infinite when all pictures are equal */
} tv_verification;

/*
 * Open the bundle in `folder`; `options` may be NULL. On an error `*model` is NULL.
 * Reads the manifest, the tokenizer and the graphs of one precision, and refuses what is not exactly as listed.
 * TV_USAGE, TV_BACKEND_MISSING, TV_INTEGRITY, TV_FAILED.
 */
TV_API int tv_open(const char *folder, const tv_options *options, tv_model **model);

TV_API void tv_describe(const tv_model *model, tv_description *description);

/*
 * A model with labels takes a label's name or number in the place of a prompt; one without a condition takes "".
 *
 * Picture k from prompt k and seed k; one prompt with many seeds, or many prompts with one seed, also goes.
 * Prompts are UTF-8 and end with a zero byte. On an error `*pictures` is all zero.
 * TV_USAGE (an empty prompt, counts that do not fit), TV_INTEGRITY (the graphs give something else than the
 * manifest says), TV_FAILED.
 */
TV_API int tv_generate(tv_model *model, const char *const *prompts, size_t prompt_count, const uint64_t *seeds,
                       size_t seed_count, tv_pictures *pictures);

/* Give back what tv_generate made. All zero is fine. */
TV_API void tv_free(tv_pictures *pictures);

/*
 * Check the digest of every file of the bundle, draw its golden pictures, and compare. `result` may be NULL.
 * TV_PARITY when a picture is farther from its golden one than the bundle allows; TV_INTEGRITY; TV_USAGE when the
 * bundle has no golden pictures; TV_FAILED.
 */
TV_API int tv_verify(tv_model *model, tv_verification *result);

/* Give back everything. NULL is fine. */
TV_API void tv_close(tv_model *model);

/* The last error of this thread in one line, and what to do about it; "" before the first. */
TV_API const char *tv_error(void);
TV_API const char *tv_hint(void);

/* Write height x width x 3 bytes of RGB as a PNG file: under another name first, then renamed. */
TV_API int tv_write_png(const char *path, const uint8_t *pixels, size_t height, size_t width);

#ifdef __cplusplus
}
#endif

#endif
