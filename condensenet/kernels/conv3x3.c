/* 3x3 group convolution over BN and ReLU, and the way back: image by image, in a thread's own cache. */

#include "common.h"

/* One padded plane has H + 2 rows of W + 2 floats. With q = row * (W + 2) + column a tap (dy, dx) of the pixel q is
   plane[q + dy * (W + 2) + dx]: one run over all of an image, whose two last columns of each row come to nothing. */
typedef struct {
    long images, height, width, inputs, outputs, groups; /* N, H, W; K inputs and k outputs over all groups */
    long pitch, run, plane, bundle;                      /* W + 2; H * pitch; floats a plane; images at a time */
} shape;

static shape make_shape(long N, long H, long W, long K, long k, long groups) {
    shape s = {N, H, W, K, k, groups, W + 2, H * (W + 2), 0, 0};
    s.plane = ((H + 2) * (W + 2) + 2 * LANES - 1) / LANES * LANES + LANES;
    s.bundle = BUNDLE_PIXELS / s.run > 1 ? BUNDLE_PIXELS / s.run : 1;
    return s;
}

INLINE void copy_row(float *to, const float *from, long count) { /* a call to memcpy costs more than a short row */
    long i = 0;
    for (; i + LANES <= count; i += LANES) store(to + i, load(from + i));
    for (; i + LANES / 2 <= count; i += LANES / 2) *(half_u *)(to + i) = *(const half_u *)(from + i);
    for (; i < count; i++) to[i] = from[i];
}

INLINE void into_plane(const shape *s, const float *pixels, float *plane) {
    for (long h = 0; h < s->height; h++) copy_row(plane + (h + 1) * s->pitch + 1, pixels + h * s->width, s->width);
}

INLINE void out_of_run(const shape *s, const float *run, float *pixels) {
    for (long h = 0; h < s->height; h++) copy_row(pixels + h * s->width, run + h * s->pitch, s->width);
}

INLINE void pad_norm_relu(const shape *s, const float *x, float scale, float shift, float *pixels, float *plane) {
    for (long p = 0; p < s->height * s->width; p++) {
        float t = x[p] * scale + shift;
        pixels[p] = t > 0 ? t : 0;
    }
    into_plane(s, pixels, plane);
}

/* d becomes its part where the ReLU lets through; sums grow by it and by it times the normalised x. */
INLINE void relu_backward(long pixels, const float *x, float scale, float shift, float mean, float rstd, float *d,
                          double *sums) {
    vec a = {0}, ax = {0};
    long p = 0;
    for (; p + LANES <= pixels; p += LANES) {
        vec v = load(x + p), g = keep(v * scale + shift > 0, load(d + p));
        a += g;
        ax += g * ((v - mean) * rstd);
        store(d + p, g);
    }
    float sum = total(a), sum_x = total(ax);
    for (; p < pixels; p++) {
        d[p] = x[p] * scale + shift > 0 ? d[p] : 0;
        sum += d[p];
        sum_x += d[p] * ((x[p] - mean) * rstd);
    }
    sums[0] += sum;
    sums[1] += sum_x;
}

/* out[c][q] = sum over inputs i and taps t of w[c][i][t] * in[i][q + offset[t]], for C outputs and Q vectors of q.
   C and Q are constants to the compiler, which so keeps the sums in registers. */
INLINE void correlate_vectors(const int C, const int Q, long inputs, long plane, const float *in, const long *offset,
                              const float *w, long w_output, long w_input, float *out) {
    vec sum[16];
    for (int j = 0; j < C * Q; j++) sum[j] = (vec){0};
    for (long i = 0; i < inputs; i++) {
        const float *wi = w + i * w_input, *pixels = in + i * plane;
        for (int t = 0; t < 9; t++) {
            vec v[8];
            for (int q = 0; q < Q; q++) v[q] = load(pixels + offset[t] + q * LANES);
            for (int c = 0; c < C; c++) {
                const float weight = wi[c * w_output + t];
                for (int q = 0; q < Q; q++) sum[c * Q + q] += v[q] * weight;
            }
        }
    }
    for (int c = 0; c < C; c++)
        for (int q = 0; q < Q; q++) store(out + c * plane + q * LANES, sum[c * Q + q]);
}

INLINE void correlate(const int C, const int Q, long inputs, long run, long plane, const float *in, const long *offset,
                      const float *w, long w_output, long w_input, float *out) {
    long q = 0;
    for (; q + Q * LANES <= run; q += Q * LANES)
        correlate_vectors(C, Q, inputs, plane, in + q, offset, w, w_output, w_input, out + q);
    for (; q < run; q += LANES) correlate_vectors(C, 1, inputs, plane, in + q, offset, w, w_output, w_input, out + q);
}

/* The same for any number of outputs. */
INLINE void correlate_all(long outputs, long inputs, long run, long plane, const float *in, const long *offset,
                          const float *w, long w_output, long w_input, float *out) {
    long c = 0;
    for (; c + 8 <= outputs; c += 8)
        correlate(8, 2, inputs, run, plane, in, offset, w + c * w_output, w_output, w_input, out + c * plane);
    for (; c + 4 <= outputs; c += 4)
        correlate(4, 3, inputs, run, plane, in, offset, w + c * w_output, w_output, w_input, out + c * plane);
    for (; c + 2 <= outputs; c += 2)
        correlate(2, 4, inputs, run, plane, in, offset, w + c * w_output, w_output, w_input, out + c * plane);
    for (; c < outputs; c++)
        correlate(1, 8, inputs, run, plane, in, offset, w + c * w_output, w_output, w_input, out + c * plane);
}

FOR_EACH_CPU static void forward_images(const shape *s, long from, long to, const float *y, const long *row,
                                        const float *scale, const float *shift, const float *w, float *out) {
    const long pixels = s->height * s->width, M = s->images * pixels;
    const long in = s->inputs / s->groups, outs = s->outputs / s->groups;
    float *z = calloc((size_t)(s->inputs + s->outputs) * s->plane + pixels, sizeof(float));
    float *o = z + s->inputs * s->plane, *scratch = o + s->outputs * s->plane;
    long offset[9];
    for (int t = 0; t < 9; t++) offset[t] = t / 3 * s->pitch + t % 3;
    for (long n = from; n < to; n++) {
        for (long i = 0; i < s->inputs; i++)
            pad_norm_relu(s, y + row[i] * M + n * pixels, scale[i], shift[i], scratch, z + i * s->plane);
        for (long g = 0; g < s->groups; g++)
            correlate_all(outs, in, s->run, s->plane, z + g * in * s->plane, offset, w + g * outs * in * 9, in * 9, 9,
                          o + g * outs * s->plane);
        for (long c = 0; c < s->outputs; c++) out_of_run(s, o + c * s->plane, out + c * M + n * pixels);
    }
    free(z);
}

/* dw[c][t] += sum over q of g[c][q] * z[q + offset[t]], for C outputs and one input, over all images of a bundle */
INLINE void weight_gradient(const int C, const shape *s, long images, const float *g, long g_image, const float *z,
                            long z_image, const long *offset, double *dw, long dw_output) {
    vec sum[2][9];
    for (int c = 0; c < C; c++)
        for (int t = 0; t < 9; t++) sum[c][t] = (vec){0};
    for (long n = 0; n < images; n++)
        for (long q = 0; q < s->run; q += LANES) {
            vec gc[2];
            for (int c = 0; c < C; c++) gc[c] = load(g + n * g_image + c * s->plane + q + s->pitch + 1);
            for (int t = 0; t < 9; t++) {
                vec v = load(z + n * z_image + q + offset[t]);
                for (int c = 0; c < C; c++) sum[c][t] += gc[c] * v;
            }
        }
    for (int c = 0; c < C; c++)
        for (int t = 0; t < 9; t++) dw[c * dw_output + t] += total(sum[c][t]);
}

typedef struct {
    const float *y, *scale, *shift, *mean, *rstd, *w; /* of the inputs, and the weights (k, K / groups, 3, 3) */
    const long *row;                                  /* of y and dy, for each input */
    const float *xhat, *dxhat, *dout, *out_rstd, *mean_g, *mean_gx; /* of the outputs: see feature_gradient */
    float *dy;
} backward_arguments;

FOR_EACH_CPU static void backward_images(const shape *s, long from, long to, const backward_arguments *a,
                                         const float *w_t, double *dw, double *sums) {
    const long pixels = s->height * s->width, M = s->images * pixels;
    const long in = s->inputs / s->groups, outs = s->outputs / s->groups;
    const long z_image = s->inputs * s->plane, g_image = s->outputs * s->plane;
    float *z = calloc((size_t)s->bundle * (z_image + g_image) + in * s->plane + pixels, sizeof(float));
    float *g = z + s->bundle * z_image, *dz = g + s->bundle * g_image, *scratch = dz + in * s->plane;
    long offset[9], mirrored[9];
    for (int t = 0; t < 9; t++) {
        offset[t] = t / 3 * s->pitch + t % 3;
        mirrored[t] = (2 - t / 3) * s->pitch + 2 - t % 3;
    }
    for (long first = from; first < to; first += s->bundle) {
        const long images = smaller(s->bundle, to - first);
        for (long b = 0; b < images; b++) {
            const long start = (first + b) * pixels;
            for (long i = 0; i < s->inputs; i++)
                pad_norm_relu(s, a->y + a->row[i] * M + start, a->scale[i], a->shift[i], scratch,
                              z + b * z_image + i * s->plane);
            for (long c = 0; c < s->outputs; c++) {
                const float *xj = a->xhat + c * M + start, *gj = a->dxhat + c * M + start;
                const float *oj = a->dout + c * M + start;
                const float r = a->out_rstd[c], mg = a->mean_g[c], mgx = a->mean_gx[c];
                for (long p = 0; p < pixels; p++) scratch[p] = oj[p] + r * (gj[p] - mg - xj[p] * mgx);
                into_plane(s, scratch, g + b * g_image + c * s->plane);
            }
        }
        for (long group = 0; group < s->groups; group++)
            for (long i = 0; i < in; i++) {
                const float *zi = z + (group * in + i) * s->plane;
                long c = 0;
                for (; c + 2 <= outs; c += 2)
                    weight_gradient(2, s, images, g + (group * outs + c) * s->plane, g_image, zi, z_image, offset,
                                    dw + ((group * outs + c) * in + i) * 9, in * 9);
                for (; c < outs; c++)
                    weight_gradient(1, s, images, g + (group * outs + c) * s->plane, g_image, zi, z_image, offset,
                                    dw + ((group * outs + c) * in + i) * 9, in * 9);
            }
        for (long b = 0; b < images; b++)
            for (long group = 0; group < s->groups; group++) {
                correlate_all(in, outs, s->run, s->plane, g + b * g_image + group * outs * s->plane, mirrored,
                              w_t + group * in * outs * 9, outs * 9, 9, dz);
                for (long i = 0; i < in; i++) {
                    const long k = group * in + i, start = a->row[k] * M + (first + b) * pixels;
                    out_of_run(s, dz + i * s->plane, a->dy + start);
                    relu_backward(pixels, a->y + start, a->scale[k], a->shift[k], a->mean[k], a->rstd[k],
                                  a->dy + start, sums + 2 * k);
                }
            }
    }
    free(z);
}

void conv3x3(int threads, long N, long H, long W, long K, long k, long groups, const float *y, const long *row,
             const float *scale, const float *shift, const float *w, float *out) {
    const shape s = make_shape(N, H, W, K, k, groups);
#pragma omp parallel num_threads(threads)
    {
        int part = omp_get_thread_num(), parts = omp_get_num_threads();
        forward_images(&s, N * part / parts, N * (part + 1) / parts, y, row, scale, shift, w, out);
    }
}

void conv3x3_backward(int threads, long N, long H, long W, long K, long k, long groups, const backward_arguments *a,
                      const float *w_t, double *dw, double *sums) {
    const shape s = make_shape(N, H, W, K, k, groups);
    const long weights = k * (K / groups) * 9, count = weights + 2 * K;
    double *partial = calloc((size_t)threads * count, sizeof(double));
#pragma omp parallel num_threads(threads)
    {
        int part = omp_get_thread_num(), parts = omp_get_num_threads();
        double *own = partial + part * count;
        backward_images(&s, N * part / parts, N * (part + 1) / parts, a, w_t, own, own + weights);
    }
    for (long i = 0; i < count; i++) {
        double sum = 0;
        for (int part = 0; part < threads; part++) sum += partial[part * count + i];
        if (i < weights) dw[i] = sum; else sums[i - weights] = sum;
    }
    free(partial);
}
