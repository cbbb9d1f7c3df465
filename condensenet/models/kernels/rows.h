/* Elementwise work on planar rows, and sums along them: columns [from, to) are a thread's own. Sums are taken in float
   over SPAN elements and in double beyond. */

#include "threads.h"

static void sums_columns(long rows, long M, long from, long to, const float *x, double *sums) {
    for (long j = 0; j < rows; j++) {
        const float *xj = x + j * M, pivot = xj[0];
        double sum = 0, squares = 0;
        for (long m = from; m < to;) {
            long end = smaller(to, m + SPAN);
            vec a = {0}, aa = {0};
            for (; m + LANES <= end; m += LANES) {
                vec v = load(xj + m) - pivot;
                a += v;
                aa += v * v;
            }
            float ra = total(a), raa = total(aa);
            for (; m < end; m++) {
                float v = xj[m] - pivot;
                ra += v;
                raa += v * v;
            }
            sum += ra;
            squares += raa;
        }
        sums[2 * j] = sum;
        sums[2 * j + 1] = squares;
    }
}

static void standardise_columns(long rows, long M, long from, long to, const float *x, const float *mean,
                                             const float *rstd, float *out) {
    for (long j = 0; j < rows; j++) {
        const float *xj = x + j * M, mu = mean[j], r = rstd[j];
        float *oj = out + j * M;
        for (long m = from; m < to; m++) oj[m] = (xj[m] - mu) * r;
    }
}

static void norm_backward_columns(long rows, long M, long from, long to, const float *x, const float *mean,
                                               const float *rstd, const float *scale, const float *mean_g,
                                               const float *mean_gx, float *g) {
    for (long j = 0; j < rows; j++) {
        const float *xj = x + j * M, mu = mean[j], r = rstd[j], s = scale[j], a = mean_g[j], ax = mean_gx[j];
        float *gj = g + j * M;
        for (long m = from; m < to; m++) gj[m] = s * (gj[m] - a - (xj[m] - mu) * r * ax);
    }
}

static void feature_gradient_columns(long rows, long M, long from, long to, const float *xhat,
                                                  const float *dxhat, const float *dout, const float *rstd,
                                                  const float *mean_g, const float *mean_gx, float *out) {
    for (long j = 0; j < rows; j++) {
        const float *xj = xhat + j * M, *gj = dxhat + j * M, *oj = dout + j * M;
        const float r = rstd[j], a = mean_g[j], ax = mean_gx[j];
        float *to_j = out + j * M;
        for (long m = from; m < to; m++) to_j[m] = oj[m] + r * (gj[m] - a - xj[m] * ax);
    }
}

void NAME(row_statistics)(int threads, long rows, long M, const float *x, float *mean, float *variance) {
    double *partial = zeros((size_t)threads * 2 * rows + 2 * rows, sizeof(double));
    double *sums = partial + (size_t)threads * 2 * rows;
    BY_COLUMNS(sums_columns(rows, M, from, to, x, partial + part * 2 * rows))
    add_parts(2 * rows, threads, partial, sums);
    for (long j = 0; j < rows; j++) {
        double offset = sums[2 * j] / M, square = sums[2 * j + 1] / M - offset * offset;
        mean[j] = (float)(x[j * M] + offset);
        variance[j] = (float)(square < 0 ? 0 : square);
    }
    free(partial);
}

void NAME(standardise)(int threads, long rows, long M, const float *x, const float *mean, const float *rstd, float *out) {
    BY_COLUMNS(standardise_columns(rows, M, from, to, x, mean, rstd, out))
}

void NAME(norm_backward)(int threads, long rows, long M, const float *x, const float *mean, const float *rstd,
                   const float *scale, const float *mean_g, const float *mean_gx, float *g) {
    BY_COLUMNS(norm_backward_columns(rows, M, from, to, x, mean, rstd, scale, mean_g, mean_gx, g))
}

void NAME(feature_gradient)(int threads, long rows, long M, const float *xhat, const float *dxhat, const float *dout,
                      const float *rstd, const float *mean_g, const float *mean_gx, float *out) {
    BY_COLUMNS(feature_gradient_columns(rows, M, from, to, xhat, dxhat, dout, rstd, mean_g, mean_gx, out))
}
