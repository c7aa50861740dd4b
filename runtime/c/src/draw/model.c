#define _POSIX_C_SOURCE 200809L
#include "draw/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "bundle/declaration_check.h"
#include "draw/noise.h"
#include "draw/session_options.h"
#include "graph/check.h"

#define CPU_ARENA_ALLOCATOR 1  /* OrtArenaAllocator */
#define DEFAULT_MEMORY 0       /* OrtMemTypeDefault */

static int check_options(const tv_options *options)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (options->threads < 0 || (cores > 0 && options->threads > cores))
        return tv_fail(TV_USAGE, "0 leaves the number to ONNX Runtime", "%d threads on %ld cores",
                       (int)options->threads, cores);
    return TV_OK;
}

static int choose_precision(tv_model *model, const char *asked)
{
    const tv_manifest *manifest = &model->bundle.manifest;
    model->precision = asked == NULL ? manifest->default_precision : tv_text_of(asked);
    model->precision_spec = tv_manifest_precision(manifest, model->precision);
    if (model->precision_spec != NULL)
        return TV_OK;
    char hint[400] = "there are:", quoted[TV_SHOWN_BYTES];
    for (size_t index = 0; index < manifest->precisions.count; index++) {
        tv_text name = tv_map_key(&manifest->precisions, sizeof(tv_precision_spec), index);
        size_t used = strlen(hint);
        snprintf(hint + used, sizeof hint - used, "%s %.*s", index == 0 ? "" : ",", (int)name.bytes, name.data);
    }
    return tv_fail(TV_USAGE, hint, "the bundle has no precision %s", tv_quoted(model->precision, true, quoted));
}

static int check_recipe(const tv_manifest *manifest)
{
    char quoted[TV_SHOWN_BYTES];
    if (!tv_noise_is_exact())
        return tv_fail(TV_FAILED, "compile it with -ffp-contract=off, and with SSE2 on a 32-bit x86",
                       "libtextualvision was compiled so that it rounds otherwise than the noise's recipe");
    const tv_noise_spec *noise = manifest->noise.items;
    for (size_t index = 0; index < manifest->noise.count; index++)
        if (noise[index].recipe.data != NULL && !tv_text_is(noise[index].recipe, TV_NOISE_RECIPE))
            return tv_fail(TV_INTEGRITY, "install a newer promptsprite", "manifest.noise: unknown recipe %s",
                           tv_quoted(noise[index].recipe, true, quoted));
    return TV_OK;
}

static int open_tokenizer(tv_model *model)
{
    size_t bytes;
    const tv_text_spec *spec = model->bundle.manifest.text;
    if (spec == NULL)
        return TV_OK;
    int status = tv_bundle_read(&model->bundle, spec->tokenizer, TV_TEXT_LIMIT_BYTES, &model->tokenizer_text, &bytes);
    if (status != TV_OK)
        return status;
    return tv_tokenizer_read(&model->tokenizer, &model->bundle.arena, model->tokenizer_text, bytes, spec);
}

static int open_onnxruntime(tv_model *model, const char *path)
{
    int result = tv_ort_load(&model->ort, path);
    if (result != TV_OK)
        return result;
    tv_ort_status *status = model->ort.create_env(TV_ORT_LOG_FATAL, "textual-vision", &model->env);
    if (status == NULL)
        status = model->ort.create_cpu_memory(CPU_ARENA_ALLOCATOR, DEFAULT_MEMORY, &model->memory);
    if (status == NULL)
        return TV_OK;
    char message[256];
    tv_ort_message(&model->ort, status, message, sizeof message);
    return tv_fail(TV_FAILED, "install another version of ONNX Runtime", "ONNX Runtime failed: %s", message);
}

static int open_stage(tv_model *model, size_t index, int threads)
{
    char *graph;
    size_t bytes;
    const tv_stage_spec *stage = (const tv_stage_spec *)model->bundle.manifest.stages.items + index;
    tv_text file = tv_stage_file(model->precision_spec, stage->name);
    int status = tv_bundle_read(&model->bundle, file, TV_GRAPH_LIMIT_BYTES, &graph, &bytes);
    if (status == TV_OK)
        status = tv_graph_check(graph, bytes, file);
    if (status == TV_OK)
        status = tv_session_open(&model->sessions[index], &model->ort, model->env, stage, file, graph, bytes, threads);
    free(graph);
    return status;
}

static int open_stages(tv_model *model, int threads)
{
    size_t count = model->bundle.manifest.stages.count;
    model->sessions = calloc(count, sizeof *model->sessions);
    int status = model->sessions == NULL ? tv_fail_memory() : TV_OK;
    for (size_t index = 0; index < count && status == TV_OK; index++)
        status = open_stage(model, index, threads);
    return status;
}

static char *copy_of(tv_arena *arena, tv_text text)
{
    char *copy = tv_arena_take(arena, text.bytes + 1, 1);
    if (copy != NULL)
        memcpy(copy, text.data, text.bytes);
    return copy;
}

/* What the bundle's maker found wrong, and what the verdict on the precision means. */
static int copy_texts(tv_model *model)
{
    char verdict[256] = "";
    tv_arena *arena = &model->bundle.arena;
    const tv_manifest *manifest = &model->bundle.manifest;
    const tv_text *warnings = manifest->warnings.items;
    tv_text found = model->precision_spec->verdict;
    model->name = copy_of(arena, manifest->name);
    model->license = copy_of(arena, manifest->license);
    model->precision_name = copy_of(arena, model->precision);
    model->verdict = copy_of(arena, found);
    model->warnings = tv_arena_take(arena, manifest->warnings.count + 1, sizeof *model->warnings);
    if (model->name == NULL || model->license == NULL || model->precision_name == NULL || model->verdict == NULL ||
        model->warnings == NULL)
        return tv_fail_memory();
    model->precision = tv_text_of(model->precision_name); /* the option's text is the caller's */
    for (size_t index = 0; index < manifest->warnings.count; index++)
        model->warnings[model->warning_count++] = copy_of(arena, warnings[index]);
    if (!tv_text_is(found, "pass")) {
        snprintf(verdict, sizeof verdict, "precision '%s' %s with the trained model", model->precision_name,
                 tv_text_is(found, "fail") ? "failed its comparison" : "was never compared");
        model->warnings[model->warning_count++] = copy_of(arena, tv_text_of(verdict));
    }
    for (size_t index = 0; index < model->warning_count; index++)
        if (model->warnings[index] == NULL)
            return tv_fail_memory();
    return TV_OK;
}

static int open_model(tv_model *model, const char *folder, const tv_options *options)
{
    int status = check_options(options);
    if (status == TV_OK)
        status = tv_bundle_open(&model->bundle, folder);
    if (status == TV_OK)
        status = choose_precision(model, options->precision);
    if (status == TV_OK)
        status = check_recipe(&model->bundle.manifest);
    if (status == TV_OK)
        status = copy_texts(model);
    if (status == TV_OK)
        status = tv_plan_make(&model->bundle.arena, &model->bundle.manifest, &model->plan);
    if (status == TV_OK)
        status = open_tokenizer(model);
    if (status == TV_OK)
        status = open_onnxruntime(model, options->onnxruntime);
    return status == TV_OK ? open_stages(model, options->threads) : status;
}

int tv_open(const char *folder, const tv_options *options, tv_model **model)
{
    static const tv_options defaults = {NULL, NULL, 0};
    if (model == NULL || folder == NULL)
        return tv_fail(TV_USAGE, "give a folder and where to put the model", "a NULL where tv_open needs a pointer");
    *model = calloc(1, sizeof **model);
    if (*model == NULL)
        return tv_fail_memory();
    (*model)->bundle.root = -1;
    int status = open_model(*model, folder, options == NULL ? &defaults : options);
    if (status != TV_OK) {
        tv_close(*model);
        *model = NULL;
    }
    return status;
}

void tv_describe(const tv_model *model, tv_description *description)
{
    const tv_manifest *manifest = &model->bundle.manifest;
    memset(description, 0, sizeof *description);
    description->name = model->name;
    description->license = model->license;
    description->precision = model->precision_name;
    description->verdict = model->verdict;
    description->onnxruntime_version = model->ort.version;
    description->height = (size_t)manifest->image.height;
    description->width = (size_t)manifest->image.width;
    description->max_tokens = manifest->text == NULL ? 0 : (size_t)manifest->text->max_tokens;
    for (size_t index = 0; index < manifest->noise.count; index++)
        description->noise_count += tv_noise_count((const tv_noise_spec *)manifest->noise.items + index);
    description->batch = (size_t)manifest->batch.max;
    description->warnings = (const char *const *)model->warnings;
    description->warning_count = model->warning_count;
}

void tv_close(tv_model *model)
{
    if (model == NULL)
        return;
    for (size_t index = 0; model->sessions != NULL && index < model->bundle.manifest.stages.count; index++)
        tv_session_close(&model->sessions[index]);
    free(model->sessions);
    if (model->memory != NULL)
        model->ort.release_memory(model->memory);
    if (model->env != NULL)
        model->ort.release_env(model->env);
    free(model->tokenizer_text);
    tv_bundle_close(&model->bundle);
    free(model);
}
