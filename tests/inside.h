/* What tests call of the insides of latticequant.h, by functions: so that they can be linked with
   the implementation that run.sh compiles once. Include it after header.h. */
#ifndef INSIDE_H
#define INSIDE_H

int32_t lq_inside_fixed_of_bits(uint32_t bits, int32_t exponent);
int32_t lq_inside_dead_zone_q12(const lq_tables *tables, uint32_t class_);
double lq_inside_sqrt(double x);
size_t lq_inside_eigen_workspace_bytes(size_t n);
int lq_inside_eigen(double *a, double *values, size_t n, void *workspace);
void lq_inside_dense_pairs(int16_t *pairs, uint8_t *shift, const int32_t *rows, size_t count);
size_t lq_inside_codec_rows(const lq_codec *codec);
size_t lq_inside_codec_alive(const lq_codec *codec);
const lq_rans_plan *lq_inside_codec_plan(const lq_codec *codec);
int32_t lq_inside_codec_gain_mean(const lq_codec *codec, size_t slice);

#if !defined(LQ_LINKED)
int32_t lq_inside_fixed_of_bits(uint32_t bits, int32_t exponent)
{
    return lq__fixed_of_bits(bits, exponent);
}

int32_t lq_inside_dead_zone_q12(const lq_tables *tables, uint32_t class_)
{
    return lq__dead_zone_q12(tables, class_);
}

double lq_inside_sqrt(double x)
{
    return lq__sqrt_f64(x);
}

size_t lq_inside_eigen_workspace_bytes(size_t n)
{
    return lq__eigen_workspace_bytes(n);
}

int lq_inside_eigen(double *a, double *values, size_t n, void *workspace)
{
    return lq__eigen_symmetric(a, values, n, workspace);
}

void lq_inside_dense_pairs(int16_t *pairs, uint8_t *shift, const int32_t *rows, size_t count)
{
    lq__dense_pairs(pairs, shift, rows, count);
}

size_t lq_inside_codec_rows(const lq_codec *codec)
{
    return codec->matrix_rows;
}

size_t lq_inside_codec_alive(const lq_codec *codec)
{
    return codec->alive;
}

const lq_rans_plan *lq_inside_codec_plan(const lq_codec *codec)
{
    return &codec->plan;
}

int32_t lq_inside_codec_gain_mean(const lq_codec *codec, size_t slice)
{
    return codec->gain_mean[slice];
}
#endif

#endif
