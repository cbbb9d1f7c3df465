/* dw[g][k][r] = sum over m of y[g][k][m] * x[g][r][m], for every group g: long rows, small products. */

#include "common.h"

/* Adds A rows of y times B rows of x, lane by lane; A and B are constants to the compiler. */
INLINE void add_products(const int A, const int B, long M, long columns, const float *y, const float *x, vec *sums,
                         long ld) {
    vec sum[4][4];
    for (int a = 0; a < A; a++)
        for (int b = 0; b < B; b++) sum[a][b] = sums[a * ld + b];
    long m = 0;
    for (; m + LANES <= columns; m += LANES) {
        vec v[4];
        for (int b = 0; b < B; b++) v[b] = load(x + b * M + m);
        for (int a = 0; a < A; a++) {
            const vec u = load(y + a * M + m);
            for (int b = 0; b < B; b++) sum[a][b] += u * v[b];
        }
    }
    for (; m < columns; m++)
        for (int a = 0; a < A; a++)
            for (int b = 0; b < B; b++) sum[a][b][0] += y[a * M + m] * x[b * M + m];
    for (int a = 0; a < A; a++)
        for (int b = 0; b < B; b++) sums[a * ld + b] = sum[a][b];
}

FOR_EACH_CPU static void group_products_columns(long groups, long filters, long kept, long M, long from, long to,
                                                const float *y, const float *x, vec *sums, double *dw) {
    for (long g = 0; g < groups; g++, y += filters * M, x += kept * M, dw += filters * kept) {
        for (long i = 0; i < filters * kept; i++) sums[i] = (vec){0};
        for (long m = from; m < to; m += PRODUCT_SPAN) {
            const long columns = smaller(PRODUCT_SPAN, to - m);
            for (long k = 0; k < filters;) {
                const float *yk = y + k * M + m;
                const int rows = filters - k >= 4 ? 4 : 1;
                for (long r = 0; r < kept;) {
                    const float *xr = x + r * M + m;
                    const int inputs = kept - r >= 4 ? 4 : 1;
                    vec *to_sums = sums + k * kept + r;
                    if (rows == 4 && inputs == 4) add_products(4, 4, M, columns, yk, xr, to_sums, kept);
                    else if (rows == 4) add_products(4, 1, M, columns, yk, xr, to_sums, kept);
                    else if (inputs == 4) add_products(1, 4, M, columns, yk, xr, to_sums, kept);
                    else add_products(1, 1, M, columns, yk, xr, to_sums, kept);
                    r += inputs;
                }
                k += rows;
            }
        }
        for (long i = 0; i < filters * kept; i++) dw[i] = total(sums[i]);
    }
}

void group_products(int threads, long groups, long filters, long kept, long M, const float *y, const float *x,
                    double *dw) {
    const long count = groups * filters * kept;
    double *partial = calloc((size_t)threads * count, sizeof(double));
    vec *sums = aligned_alloc(sizeof(vec), (size_t)threads * filters * kept * sizeof(vec));
    BY_COLUMNS(group_products_columns(groups, filters, kept, M, from, to, y, x, sums + part * filters * kept,
                                      partial + part * count))
    add_parts(count, threads, partial, dw);
    free(sums);
    free(partial);
}
