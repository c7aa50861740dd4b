#include "draw/noise_law.h"

tv_noise_law tv_law_of(const tv_noise_spec *spec, size_t number)
{
    tv_noise_law law = {(uint32_t)number, 0, TV_LAW_NORMAL, 0.0, 1.0f};
    if (tv_text_is(spec->law, "truncated_normal"))
        law.law = TV_LAW_TRUNCATED_NORMAL;
    if (tv_text_is(spec->law, "uniform"))
        law.law = TV_LAW_UNIFORM;
    if (tv_text_is(spec->law, "gumbel"))
        law.law = TV_LAW_GUMBEL;
    if (law.law == TV_LAW_TRUNCATED_NORMAL)
        law.tail = spec->tail->number;
    if (spec->scale != NULL)
        law.scale = (float)spec->scale->number;
    return law;
}
