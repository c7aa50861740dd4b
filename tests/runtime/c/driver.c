/*
 * What the tests ask the C library, one mode for each of its parts. Standard input holds records, each of them four
 * bytes of length (little-endian) and so many bytes; the answers go to standard output in the same order.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "graph/check.h"
#include "bundle/manifest.h"
#include "bundle/sha256.h"
#include "draw/noise.h"
#include "image/png.h"
#include "text/tokenizer.h"

/* In memory of just its size, so that a sanitizer sees every byte that is read behind it. */
static char *read_record(size_t *bytes)
{
    unsigned char head[4];
    if (fread(head, 1, 4, stdin) != 4)
        return NULL;
    *bytes = head[0] | (size_t)head[1] << 8 | (size_t)head[2] << 16 | (size_t)head[3] << 24;
    char *record = malloc(*bytes == 0 ? 1 : *bytes);
    if (record == NULL || fread(record, 1, *bytes, stdin) != *bytes)
        exit(99);
    return record;
}

static char *zero_terminated(char *record, size_t bytes)
{
    char *text = realloc(record, bytes + 1);
    if (text == NULL)
        exit(99);
    text[bytes] = '\0';
    return text;
}

static void print_status(int status)
{
    if (status == TV_OK)
        printf("0\n");
    else
        printf("%d\t%s\t%s\n", status, tv_error(), tv_hint());
}

static void print_hex(tv_text text)
{
    for (size_t place = 0; place < text.bytes; place++)
        printf("%02x", (unsigned)(unsigned char)text.data[place]);
}

static int manifests(void)
{
    size_t bytes;
    char *record;
    while ((record = read_record(&bytes)) != NULL) {
        tv_arena arena = {NULL, 0, 0};
        tv_manifest manifest;
        print_status(tv_manifest_parse(&arena, record, bytes, &manifest));
        tv_arena_release(&arena);
        free(record);
    }
    return 0;
}

static int graphs(void)
{
    size_t bytes;
    char *record;
    while ((record = read_record(&bytes)) != NULL) {
        print_status(tv_graph_check(record, bytes, tv_text_of("x.onnx")));
        free(record);
    }
    return 0;
}

static void print_encoding(const tv_encoding *encoding)
{
    printf("0\t");
    for (size_t index = 0; index < encoding->count; index++)
        printf("%s%" PRId64, index == 0 ? "" : " ", encoding->ids[index]);
    printf("\t%zu\t%d\t", encoding->words_cut, encoding->nothing_known);
    for (size_t index = 0; index < encoding->unknown_count; index++) {
        printf("%s", index == 0 ? "" : " ");
        print_hex(encoding->unknown[index]);
    }
    printf("\n");
}

/* The first record is tokenizer.json, the others are prompts. */
static int tokens(char **arguments)
{
    tv_arena arena = {NULL, 0, 0};
    tv_tokenizer tokenizer;
    tv_text_spec spec = {tv_text_of("tokenizer.json"), 0, 0, 0, false, false};
    size_t bytes;
    char *record, *file = read_record(&bytes);
    spec.max_tokens = atoi(arguments[0]);
    spec.pad_id = atoi(arguments[1]);
    spec.unknown_id = atoi(arguments[2]);
    int status = file == NULL ? 99 : tv_tokenizer_read(&tokenizer, &arena, file, bytes, &spec);
    print_status(status);
    while (status == TV_OK && (record = read_record(&bytes)) != NULL) {
        tv_text prompt = {record, bytes};
        tv_encoding encoding;
        int result = tv_tokenizer_encode(&tokenizer, prompt, &encoding);
        if (result == TV_OK)
            print_encoding(&encoding);
        else
            print_status(result);
        tv_encoding_release(&encoding);
        free(record);
    }
    tv_arena_release(&arena);
    free(file);
    return 0;
}

static int noise(char **arguments)
{
    uint64_t seed = strtoull(arguments[0], NULL, 10);
    uint32_t count = (uint32_t)strtoul(arguments[1], NULL, 10);
    uint64_t dim = strtoull(arguments[2], NULL, 10);
    for (uint32_t image = 0; image < count; image++)
        for (uint64_t index = 0; index < dim; index++) {
            float value = tv_noise_value(seed, image, index);
            uint32_t bits;
            memcpy(&bits, &value, sizeof bits);
            printf("%08" PRIx32 "\n", bits);
        }
    return tv_noise_is_exact() ? 0 : 1;
}

static int digests(void)
{
    size_t bytes;
    char *record, digits[65];
    while ((record = read_record(&bytes)) != NULL) {
        tv_sha256 hash;
        tv_sha256_begin(&hash);
        for (size_t place = 0; place < bytes; place += 37) /* in pieces that fit no block */
            tv_sha256_add(&hash, record + place, bytes - place < 37 ? bytes - place : 37);
        tv_sha256_end(&hash, digits);
        printf("%s\n", digits);
        free(record);
    }
    return 0;
}

static int pngs(char **arguments)
{
    size_t bytes, height = (size_t)atoi(arguments[0]), width = (size_t)atoi(arguments[1]);
    tv_text pixels = {malloc(height * width * 3), height * width * 3};
    char *record;
    while ((record = read_record(&bytes)) != NULL) {
        const char *problem;
        if (tv_png_read(record, bytes, height, width, (uint8_t *)(void *)(size_t)pixels.data, &problem)) {
            printf("0\t");
            print_hex(pixels);
            printf("\n");
        } else {
            printf("7\t%s\n", problem);
        }
        free(record);
    }
    free((void *)(size_t)pixels.data);
    return 0;
}

/* Pixels of height x width x 3 bytes in, the file at the path out. */
static int write_png(char **arguments)
{
    size_t bytes;
    char *record = read_record(&bytes);
    print_status(tv_write_png(arguments[2], (const uint8_t *)record, (size_t)atoi(arguments[0]),
                              (size_t)atoi(arguments[1])));
    free(record);
    return 0;
}

static void print_pictures(const tv_pictures *pictures)
{
    printf("0\t%zu %zu %zu %zu %zu %zu\n", pictures->count, pictures->height, pictures->width, pictures->code_rows,
           pictures->code_columns, pictures->warning_count);
    for (size_t index = 0; index < pictures->warning_count; index++)
        printf("%s\n", pictures->warnings[index]);
    fwrite(pictures->pixels, 1, pictures->count * pictures->height * pictures->width * 3, stdout);
    if (pictures->codes != NULL)
        fwrite(pictures->codes, sizeof(int64_t), pictures->count * pictures->code_rows * pictures->code_columns, stdout);
}

/* The first record is the seeds in decimal with spaces between, the others are prompts. */
static int draw(char **arguments)
{
    tv_options options = {arguments[1][0] == '-' ? NULL : arguments[1], NULL, atoi(arguments[2])};
    tv_model *model;
    tv_pictures pictures;
    size_t bytes, prompt_count = 0, seed_count = 0;
    char *record = read_record(&bytes), *prompts[4096];
    uint64_t seeds[4096];
    char *text = record = zero_terminated(record, bytes);
    for (char *end; seed_count < 4096 && *text != '\0'; text = end + (*end == ' '))
        seeds[seed_count++] = strtoull(text, &end, 10);
    free(record);
    while (prompt_count < 4096 && (record = read_record(&bytes)) != NULL)
        prompts[prompt_count++] = zero_terminated(record, bytes);
    int status = tv_open(arguments[0], &options, &model);
    if (status == TV_OK)
        status = tv_generate(model, (const char *const *)prompts, prompt_count, seeds, seed_count, &pictures);
    if (status == TV_OK) {
        print_pictures(&pictures);
        tv_free(&pictures);
    } else {
        print_status(status);
    }
    tv_close(model);
    while (prompt_count > 0)
        free(prompts[--prompt_count]);
    return 0;
}

enum { THREADS = 4, TURNS = 20 };

typedef struct {
    tv_model *model;
    uint64_t seed;
    const tv_pictures *expected;
    int different; /* pictures, or errors that are not this thread's own */
} worker;

static void *work(void *argument)
{
    worker *self = argument;
    const char *prompt = "dog wearing sunglasses", *empty = self->seed % 2 == 0 ? "" : " ";
    for (int turn = 0; turn < TURNS; turn++) {
        tv_pictures pictures;
        const char *problem = self->seed % 2 == 0 ? "the prompt '' is empty" : "the prompt ' ' is empty";
        int status = tv_generate(self->model, &prompt, 1, &self->seed, 1, &pictures);
        self->different += status != TV_OK || memcmp(pictures.pixels, self->expected->pixels, 8 * 8 * 3) != 0;
        tv_free(&pictures);
        status = tv_generate(self->model, &empty, 1, &self->seed, 1, &pictures);
        self->different += status != TV_USAGE || strcmp(tv_error(), problem) != 0;
    }
    return NULL;
}

/* Threads of one model draw what it draws alone, and each sees its own errors. */
static int threads(char **arguments)
{
    tv_model *model;
    pthread_t handles[THREADS];
    worker workers[THREADS];
    tv_pictures expected[THREADS];
    const char *prompt = "dog wearing sunglasses";
    int status = tv_open(arguments[0], NULL, &model), different = 0;
    for (uint64_t index = 0; index < THREADS && status == TV_OK; index++) {
        worker made = {model, index, &expected[index], 0};
        workers[index] = made;
        status = tv_generate(model, &prompt, 1, &index, 1, &expected[index]);
    }
    for (int index = 0; index < THREADS && status == TV_OK; index++)
        if (pthread_create(&handles[index], NULL, work, &workers[index]) != 0)
            return 1;
    for (int index = 0; index < THREADS && status == TV_OK; index++) {
        pthread_join(handles[index], NULL);
        different += workers[index].different;
        tv_free(&expected[index]);
    }
    tv_close(model);
    print_status(status);
    return different;
}

/* Each record is a bundle's folder: opened, verified if asked for, and drawn from. */
static int bundles(int verify)
{
    static const char *const prompts[] = {"a dog, wearing x\xc3\xa9!", "cat"};
    static const uint64_t seeds[] = {1, 2};
    size_t bytes;
    char *record;
    while ((record = read_record(&bytes)) != NULL) {
        tv_model *model;
        tv_pictures pictures;
        record = zero_terminated(record, bytes);
        int status = tv_open(record, NULL, &model);
        if (status == TV_OK && verify)
            status = tv_verify(model, NULL);
        if (status == TV_OK) {
            status = tv_generate(model, prompts, 2, seeds, 2, &pictures);
            tv_free(&pictures);
        }
        print_status(status);
        fflush(stdout);
        tv_close(model);
        free(record);
    }
    return 0;
}

int main(int count, char **arguments)
{
    const char *mode = count > 1 ? arguments[1] : "";
    if (strcmp(mode, "manifests") == 0)
        return manifests();
    if (strcmp(mode, "graphs") == 0)
        return graphs();
    if (strcmp(mode, "digests") == 0)
        return digests();
    if (strcmp(mode, "bundles") == 0)
        return bundles(1);
    if (strcmp(mode, "unverified-bundles") == 0)
        return bundles(0);
    if (strcmp(mode, "threads") == 0 && count == 3)
        return threads(arguments + 2);
    if (strcmp(mode, "tokens") == 0 && count == 5)
        return tokens(arguments + 2);
    if (strcmp(mode, "noise") == 0 && count == 5)
        return noise(arguments + 2);
    if (strcmp(mode, "draw") == 0 && count == 5)
        return draw(arguments + 2);
    if (strcmp(mode, "pngs") == 0 && count == 4)
        return pngs(arguments + 2);
    if (strcmp(mode, "write-png") == 0 && count == 5)
        return write_png(arguments + 2);
    return 2;
}
