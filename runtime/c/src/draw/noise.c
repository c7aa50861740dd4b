#include "draw/noise.h"

#include <math.h>
#include <string.h>

#ifdef __FAST_MATH__
#error "compile without -ffast-math: the recipe's every rounding counts"
#endif
#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

#define CENTER_LIMIT 0.425
#define CENTER_SQUARE 0.180625
#define TAIL_SHIFT 1.6
#define SQRT_HALF 0.7071067811865476
#define LN_2 0.6931471805599453
#define TERMS 8
#define LOG_TERMS 11
#define STEP_BITS 20 /* of the counter's last word; above them is the tensor's number */
#define CHECKED_WORDS 256
#define CHECKED_STEP 16843009u /* over all words, tails included */
#define CHECKED_SUM UINT64_C(0x95f5129f75f81820)

/* Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. */
static void philox4x32_10(uint32_t counter[4], uint32_t key0, uint32_t key1)
{
    for (int round = 0; round < 10; round++) {
        uint64_t first = (uint64_t)0xD2511F53u * counter[0];
        uint64_t second = (uint64_t)0xCD9E8D57u * counter[2];
        counter[0] = (uint32_t)(second >> 32) ^ counter[1] ^ key0;
        counter[2] = (uint32_t)(first >> 32) ^ counter[3] ^ key1;
        counter[1] = (uint32_t)second;
        counter[3] = (uint32_t)first;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
}

/* Horner's rule; each product is rounded before the sum. Highest power first. */
static double polynomial(const double *coefficients, int count, double x)
{
    double total = coefficients[0];
    for (int index = 1; index < count; index++) {
        double product = total * x;
        total = product + coefficients[index];
    }
    return total;
}

/* e ln 2 + 2 artanh s with x = m 2^e and s = (m - 1) / (m + 1), as a series in s squared: libraries' log() differ. */
static double exact_log(double x)
{
    static const double coefficients[LOG_TERMS] = {1.0 / 21.0, 1.0 / 19.0, 1.0 / 17.0, 1.0 / 15.0,
                                                   1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0,  1.0 / 7.0,
                                                   1.0 / 5.0,  1.0 / 3.0,  1.0};
    int power;
    double m = frexp(x, &power);
    if (m < SQRT_HALF) {
        m = m * 2.0;
        power = power - 1;
    }
    double s = (m - 1.0) / (m + 1.0);
    double high = (double)power * LN_2;
    double square = s * s;
    double low = (s * 2.0) * polynomial(coefficients, LOG_TERMS, square);
    return high + low;
}

/* Wichura, "Algorithm AS 241: the percentage points of the normal distribution", PPND16, Appl. Statist. 37, 1988. */
static double center(double from_half)
{
    static const double numerator[TERMS] = {
        2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457,
        13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.387132872796366608};
    static const double denominator[TERMS] = {
        5226.495278852854561, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867,
        5394.1960214247511077, 687.1870074920579083, 42.313330701600911252, 1.0};
    double square = from_half * from_half;
    double r = CENTER_SQUARE - square;
    double top = polynomial(numerator, TERMS, r) * from_half;
    return top / polynomial(denominator, TERMS, r);
}

static double tail(double probability)
{
    static const double numerator[TERMS] = {
        7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258,
        3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734};
    static const double denominator[TERMS] = {
        1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459,
        0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1.0};
    double r = sqrt(-exact_log(probability)) - TAIL_SHIFT;
    return polynomial(numerator, TERMS, r) / polynomial(denominator, TERMS, r);
}

static double uniform_from_word(uint32_t word)
{
    return ((double)word + 0.5) * (1.0 / 4294967296.0);
}

static double normal_from_uniform(double uniform)
{
    double from_half = uniform - 0.5;
    if (fabs(from_half) <= CENTER_LIMIT)
        return center(from_half);
    double size = tail(from_half < 0.0 ? uniform : 1.0 - uniform);
    return from_half < 0.0 ? -size : size;
}

static double normal_from_word(uint32_t word)
{
    return normal_from_uniform(uniform_from_word(word));
}

float tv_noise_value(uint64_t seed, uint32_t image, uint64_t index)
{
    uint64_t block = index / 4;
    uint32_t words[4] = {(uint32_t)block, (uint32_t)(block >> 32), image, 0};
    philox4x32_10(words, (uint32_t)seed, (uint32_t)(seed >> 32));
    return (float)normal_from_word(words[index % 4]);
}

static float value_of_law(const tv_noise_law *law, uint32_t word)
{
    double uniform = uniform_from_word(word), width = 2.0 * law->tail, inside;
    switch (law->law) {
    case TV_LAW_UNIFORM:
        return (float)(((double)(word >> 9) + 0.5) * (1.0 / 8388608.0));
    case TV_LAW_TRUNCATED_NORMAL:
        width = 1.0 - width;
        inside = uniform * width;
        return (float)normal_from_uniform(law->tail + inside);
    case TV_LAW_GUMBEL:
        return (float)-exact_log(-exact_log(uniform));
    default:
        return (float)normal_from_uniform(uniform);
    }
}

void tv_noise_from_seed(const tv_noise_law *law, uint64_t seed, size_t count, float *out)
{
    uint32_t words[4] = {0, 0, 0, 0};
    for (size_t index = 0; index < count; index++) {
        if (index % 4 == 0) {
            uint64_t block = index / 4;
            words[0] = (uint32_t)block;
            words[1] = (uint32_t)(block >> 32);
            words[2] = 0;
            words[3] = law->tensor << STEP_BITS | law->step;
            philox4x32_10(words, (uint32_t)seed, (uint32_t)(seed >> 32));
        }
        float value = value_of_law(law, words[index % 4]);
        out[index] = value * law->scale;
    }
}

bool tv_noise_is_exact(void)
{
    /* A fused operation rarely changes a float32, but most of these doubles, whose bits are put together here. */
    uint64_t sum = 0;
    for (uint32_t index = 0; index < CHECKED_WORDS; index++) {
        double value = normal_from_word(index * CHECKED_STEP);
        uint64_t bits;
        memcpy(&bits, &value, sizeof bits);
        sum = sum * 31 + bits;
    }
    return sum == CHECKED_SUM;
}
