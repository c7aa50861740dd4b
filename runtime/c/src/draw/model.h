/* An opened bundle: what tv_open makes. Nothing in it changes until tv_close. */
#ifndef TV_MODEL_H
#define TV_MODEL_H

#include "bundle/bundle.h"
#include "draw/plan.h"
#include "draw/session.h"
#include "text/tokenizer.h"
#include "textual_vision.h"

struct tv_model {
    tv_bundle bundle;
    char *tokenizer_text;
    tv_tokenizer tokenizer;
    tv_text precision;
    const tv_precision_spec *precision_spec;
    tv_plan plan;
    tv_ort ort;
    tv_ort_env *env;
    tv_ort_memory *memory;
    tv_session *sessions; /* one for each stage */
    char *name, *license, *precision_name, *verdict; /* with zero bytes at their ends, for tv_describe */
    char **warnings;
    size_t warning_count;
};

#endif
