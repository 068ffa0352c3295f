// Fits SIRENs (small sine networks) to images: all Adam steps of one network at a time, out of the L1/L2 cache.
//
// Compiled on first use by nfbench/zoos/kernel.py and called through ctypes, from one thread per core; it has no
// global state, so any number of threads may call it. The result for a network depends on that network alone.
//
// Layout. Activations are stored as [pixel][neuron], neurons padded with zeros to the lanes of a vector, so that all
// three matrix products of a layer have the form C[m][n] += a[m][k] * B[k][n] with a scalar a and a vector over n:
//   forward   Z[p][j]  = sum_k H[p][k]  * Wt[k][j]      then H' = sin Z and cos Z in the epilogue
//   backward  dH[p][k] = sum_j dZ[p][j] * W[j][k]       then dZ_prev = dH * cos Z_prev in the epilogue
//   gradient  dWt[k][j] = sum_p H[p][k] * dZ[p][j]      (the a's are read down a column)
// No horizontal sums, and a register block of M x NV vectors does M*NV multiply-adds per M+NV loads. Pixels go in
// tiles small enough that every layer's sines and cosines of the tile stay in L1 from forward to backward.
// w0 is folded into working copies of weights and biases (w0*W, w0*b); gradients are scaled back by w0 in Adam.
// Padded weights have zero gradients and zero moments, so they stay exactly zero.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__AVX512F__)
enum { WIDE = 16, NARROW = 8, ROWS2 = 8, ROWS1 = 16 };
#elif defined(__AVX__)
enum { WIDE = 8, NARROW = 4, ROWS2 = 4, ROWS1 = 8 };
#else
enum { WIDE = 4, NARROW = 4, ROWS2 = 8, ROWS1 = 16 };
#endif
enum { MAX_LAYERS = 8, PIXEL_STEP = 16, ALIGN = 64, MAX_OUT = 4 };

template <int L> struct Lanes;
#define DEFINE_LANES(L)                                                                     \
    template <> struct Lanes<L> {                                                           \
        typedef float F __attribute__((vector_size(L * 4), may_alias));                     \
        typedef int32_t I __attribute__((vector_size(L * 4), may_alias));                   \
    };
DEFINE_LANES(4)
DEFINE_LANES(8)
DEFINE_LANES(16)

#define INLINE inline __attribute__((always_inline))

template <int L> INLINE typename Lanes<L>::F load(const float* p) { return *(const typename Lanes<L>::F*)p; }
template <int L> INLINE void store(float* p, typename Lanes<L>::F x) { *(typename Lanes<L>::F*)p = x; }

// sin and cos of x by one reduction to [-pi/2, pi/2]: x = n pi + r, sin x = (-1)^n sin r, cos x = (-1)^n cos r.
// Adding 1.5 * 2^23 rounds to the nearest integer and leaves its parity in the lowest bit; pi in three parts keeps
// r exact to float rounding for |x| up to some ten thousands. Minimax polynomials, absolute error below 1e-7.
template <int L> INLINE void sincos(typename Lanes<L>::F x, typename Lanes<L>::F& s, typename Lanes<L>::F& c) {
    typedef typename Lanes<L>::F F;
    typedef typename Lanes<L>::I I;
    const float magic = 12582912.0f;
    F shifted = x * 0.318309886183790671538f + magic;
    F n = shifted - magic;
    F r = x - n * 3.140625f;
    r = r - n * 9.675025939941406e-4f;
    r = r - n * 1.509957990978376e-7f;
    F r2 = r * r;
    F ps = r2 * 2.599903231838112e-06f + -1.980654709397272e-04f;
    ps = ps * r2 + 8.333016355246413e-03f;
    ps = ps * r2 + -1.6666657058582027e-01f;
    F sr = r + (r * r2) * ps;
    F pc = r2 * -2.6075662364066776e-07f + 2.476180814558679e-05f;
    pc = pc * r2 + -1.3888402069138694e-03f;
    pc = pc * r2 + 4.166664062521379e-02f;
    pc = pc * r2 + -4.9999999547320034e-01f;
    F cr = pc * r2 + 1.0f;
    I sign = (I)shifted << 31;
    s = (F)((I)sr ^ sign);
    c = (F)((I)cr ^ sign);
}

// S = sin Z, C = cos Z of `count` numbers (a multiple of WIDE); S holds Z before.
static void sincos_pass(float* S, float* C, int count) {
    for (int i = 0; i < count; i += WIDE) {
        typename Lanes<WIDE>::F s, c;
        sincos<WIDE>(load<WIDE>(S + i), s, c);
        store<WIDE>(S + i, s);
        store<WIDE>(C + i, c);
    }
}

enum Epilogue { SINCOS, PLAIN, TIMES };

// Columns n0 .. n0 + NV*L of out[p][n] = bias[n] + sum_k A[p][k] B[k][n], then the epilogue:
// SINCOS: S = sin, C = cos; PLAIN: S = out; TIMES: S = S * out.
template <int L, int NV, int M, Epilogue E>
static INLINE void product_block(int P, int K, const float* A, int lda, const float* B, int N, const float* bias,
                                 float* S, float* C) {
    typedef typename Lanes<L>::F F;
    for (int p0 = 0; p0 < P; p0 += M) {
        F acc[M][NV];
        for (int m = 0; m < M; m++)
            for (int v = 0; v < NV; v++) acc[m][v] = bias ? load<L>(bias + v * L) : F{};
        const float* a = A + (size_t)p0 * lda;
        for (int k = 0; k < K; k++) {
            F b[NV];
            for (int v = 0; v < NV; v++) b[v] = load<L>(B + (size_t)k * N + v * L);
            for (int m = 0; m < M; m++)
                for (int v = 0; v < NV; v++) acc[m][v] += a[m * lda + k] * b[v];
        }
        for (int m = 0; m < M; m++)
            for (int v = 0; v < NV; v++) {
                float* out = S + (size_t)(p0 + m) * N + v * L;
                if (E == SINCOS) {
                    F s, c;
                    sincos<L>(acc[m][v], s, c);
                    store<L>(out, s);
                    store<L>(C + (size_t)(p0 + m) * N + v * L, c);
                } else if (E == PLAIN) {
                    store<L>(out, acc[m][v]);
                } else {
                    store<L>(out, load<L>(out) * acc[m][v]);
                }
            }
    }
}

template <int L, Epilogue E>
static void product(int P, int K, const float* A, int lda, const float* B, int N, const float* bias, float* S,
                    float* C) {
    int n = 0;
    for (; n + 2 * L <= N; n += 2 * L)
        product_block<L, 2, ROWS2, E>(P, K, A, lda, B + n, N, bias ? bias + n : nullptr, S + n, C ? C + n : nullptr);
    if (n < N)
        product_block<L, 1, ROWS1, E>(P, K, A, lda, B + n, N, bias ? bias + n : nullptr, S + n, C ? C + n : nullptr);
}

// Rows k0 .. k0 + M, columns of NV vectors, of G[k][n] += sum_p A[p][k] D[p][n]; with BIAS also gb[n] += sum_p D[p][n].
template <int L, int NV, int M, bool BIAS>
static INLINE void gradient_block(int P, const float* A, int lda, const float* D, int N, float* G, float* gb) {
    typedef typename Lanes<L>::F F;
    F acc[M][NV], sum[NV];
    for (int m = 0; m < M; m++)
        for (int v = 0; v < NV; v++) acc[m][v] = load<L>(G + (size_t)m * N + v * L);
    for (int v = 0; v < NV; v++) sum[v] = F{};
    for (int p = 0; p < P; p++) {
        F d[NV];
        for (int v = 0; v < NV; v++) {
            d[v] = load<L>(D + (size_t)p * N + v * L);
            if (BIAS) sum[v] += d[v];
        }
        const float* a = A + (size_t)p * lda;
        for (int m = 0; m < M; m++)
            for (int v = 0; v < NV; v++) acc[m][v] += a[m] * d[v];
    }
    for (int m = 0; m < M; m++)
        for (int v = 0; v < NV; v++) store<L>(G + (size_t)m * N + v * L, acc[m][v]);
    if (BIAS)
        for (int v = 0; v < NV; v++) store<L>(gb + v * L, load<L>(gb + v * L) + sum[v]);
}

template <int L, int NV, int M>
static void gradient_columns(int P, int K, const float* A, int lda, const float* D, int N, float* G, float* gb) {
    int k = 0;
    if (K % M) {  // a few rows first: 4 at a time (K is a multiple of 4)
        for (; k < K % M; k += 4) {
            if (k == 0)
                gradient_block<L, NV, 4, true>(P, A, lda, D, N, G, gb);
            else
                gradient_block<L, NV, 4, false>(P, A + k, lda, D, N, G + (size_t)k * N, gb);
        }
    }
    for (; k < K; k += M) {
        if (k == 0)
            gradient_block<L, NV, M, true>(P, A, lda, D, N, G, gb);
        else
            gradient_block<L, NV, M, false>(P, A + k, lda, D, N, G + (size_t)k * N, gb);
    }
}

template <int L>
static void gradient(int P, int K, const float* A, int lda, const float* D, int N, float* G, float* gb) {
    int n = 0;
    for (; n + 2 * L <= N; n += 2 * L) gradient_columns<L, 2, ROWS2>(P, K, A, lda, D + n, N, G + n, gb + n);
    if (n < N) gradient_columns<L, 1, ROWS2>(P, K, A, lda, D + n, N, G + n, gb + n);
}

// One hidden layer: N outputs padded to NARROW lanes, K inputs (true) and KP (padded: the stride of its input).
struct Layer {
    int out, N, in, KP;
    float w0;
    bool wide;                                      // N is a multiple of WIDE
    size_t offset;                                  // of this layer's weights in the parameter block; biases follow
    size_t flat;                                    // of this layer's weights in torch's order
    float *Wt, *b, *W, *S, *C, *gW, *gb;            // w0*W transposed [in][out], w0*b, w0*W; sines, cosines; gradients
};

static size_t round_up(size_t x, size_t to) { return (x + to - 1) / to * to; }

struct Arena {  // one aligned allocation, handed out in order
    char* base;
    size_t used, size;
    float* take(size_t count) {
        float* p = (float*)(base + used);
        used += round_up(count * sizeof(float), ALIGN);
        return used <= size ? p : nullptr;
    }
};

struct Problem {
    int layers, in, out, pixels, padded, tile;      // `layers` counts hidden layers
    size_t params, block;                           // torch's count; the padded block
    Layer hidden[MAX_LAYERS];
    int KL;                                         // padded width of the last hidden layer
    size_t last_offset, last_flat;
    float *coords, *weight, *target, *error;        // weight: 1 on real pixels, 0 on padding
    float *p, *m, *v, *work, *grad;                 // parameters, Adam moments, w0-scaled copy, gradients
};

// One pass over all pixels: mean squared error, and with GRAD the gradients of all w0-scaled parameters.
template <int O> static double pass(Problem& q, bool with_grad, float offset) {
    typedef typename Lanes<NARROW>::F F;
    const int H = q.layers;
    double loss = 0;
    if (with_grad) memset(q.grad, 0, q.block * sizeof(float));
    float* Wl = q.work + q.last_offset;             // [O][KL], then O biases
    float* bl = Wl + (size_t)O * q.KL;
    float* gWl = q.grad + q.last_offset;
    float* gbl = gWl + (size_t)O * q.KL;
    const float scale = 2.0f / ((float)q.pixels * O);
    for (int t0 = 0; t0 < q.padded; t0 += q.tile) {
        const int P = q.padded - t0 < q.tile ? q.padded - t0 : q.tile;
        const float* X = q.coords + (size_t)t0 * 4;
        for (int i = 0; i < H; i++) {
            Layer& l = q.hidden[i];
            const float* A = i ? q.hidden[i - 1].S : X;
            if (l.wide) {
                product<WIDE, SINCOS>(P, l.in, A, l.KP, l.Wt, l.N, l.b, l.S, l.C);
            } else {
                product<NARROW, PLAIN>(P, l.in, A, l.KP, l.Wt, l.N, l.b, l.S, nullptr);
                sincos_pass(l.S, l.C, P * l.N);
            }
        }
        Layer& z = q.hidden[H - 1];
        for (int o = 0; o < O; o++) {
            float* e = q.error + (size_t)o * q.tile;
            const float* target = q.target + (size_t)o * q.padded + t0;
            for (int p = 0; p < P; p++) {
                F acc = load<NARROW>(z.S + (size_t)p * z.N) * load<NARROW>(Wl + (size_t)o * z.N);
                for (int n = NARROW; n < z.N; n += NARROW)
                    acc += load<NARROW>(z.S + (size_t)p * z.N + n) * load<NARROW>(Wl + (size_t)o * z.N + n);
                float y = 0;
                for (int i = 0; i < NARROW; i++) y += acc[i];
                e[p] = y;
            }
            typename Lanes<WIDE>::F sum = {}, grad_sum = {};
            const float shift = bl[o] + offset;
            for (int p = 0; p < P; p += WIDE) {
                typename Lanes<WIDE>::F d = load<WIDE>(e + p) + shift - load<WIDE>(target + p);
                d *= load<WIDE>(q.weight + t0 + p);
                sum += d * d;
                d *= scale;
                grad_sum += d;
                store<WIDE>(e + p, d);
            }
            float total = 0, total_grad = 0;
            for (int i = 0; i < WIDE; i++) total += sum[i], total_grad += grad_sum[i];
            loss += total;
            gbl[o] += total_grad;
        }
        if (!with_grad) continue;
        for (int n = 0; n < z.N; n += NARROW) {     // dZ of the last hidden layer, over its cosines
            F w[O], g[O];
            for (int o = 0; o < O; o++) w[o] = load<NARROW>(Wl + (size_t)o * z.N + n), g[o] = F{};
            for (int p = 0; p < P; p++) {
                F d = q.error[p] * w[0], s = load<NARROW>(z.S + (size_t)p * z.N + n);
                g[0] += q.error[p] * s;
                for (int o = 1; o < O; o++) {
                    d += q.error[(size_t)o * q.tile + p] * w[o];
                    g[o] += q.error[(size_t)o * q.tile + p] * s;
                }
                store<NARROW>(z.C + (size_t)p * z.N + n, load<NARROW>(z.C + (size_t)p * z.N + n) * d);
            }
            for (int o = 0; o < O; o++) {
                float* to = gWl + (size_t)o * z.N + n;
                store<NARROW>(to, load<NARROW>(to) + g[o]);
            }
        }
        for (int i = H - 1; i >= 0; i--) {
            Layer& l = q.hidden[i];
            const float* A = i ? q.hidden[i - 1].S : X;
            const int rows = (int)round_up(l.in, 4);
            if (l.wide)
                gradient<WIDE>(P, rows, A, l.KP, l.C, l.N, l.gW, l.gb);
            else
                gradient<NARROW>(P, rows, A, l.KP, l.C, l.N, l.gW, l.gb);
            if (i == 0) continue;
            Layer& k = q.hidden[i - 1];             // dH of the layer below, times its cosines
            if (k.wide)
                product<WIDE, TIMES>(P, l.out, l.C, l.N, l.W, k.N, nullptr, k.C, nullptr);
            else
                product<NARROW, TIMES>(P, l.out, l.C, l.N, l.W, k.N, nullptr, k.C, nullptr);
        }
    }
    return loss / ((double)q.pixels * O);
}

// torch.optim.Adam on `count` numbers from `at`; the gradient is of w0 * parameter. Also refreshes the scaled copy.
static void adam(Problem& q, size_t at, size_t count, float w0, float step_size, float inv_sqrt_bc2, float beta1,
                 float beta2, float eps) {
    float *__restrict__ p = q.p + at, *__restrict__ m = q.m + at, *__restrict__ v = q.v + at;
    float* __restrict__ work = q.work + at;
    const float* __restrict__ grad = q.grad + at;
    for (size_t i = 0; i < count; i++) {
        float g = grad[i] * w0;
        m[i] += (g - m[i]) * (1.0f - beta1);
        v[i] = v[i] * beta2 + g * g * (1.0f - beta2);
        p[i] -= step_size * (m[i] / (std::sqrt(v[i]) * inv_sqrt_bc2 + eps));
        work[i] = p[i] * w0;
    }
}

static void transpose_weights(Problem& q) {         // w0*Wt [in][N] -> w0*W [out][N of the layer below]
    for (int i = 1; i < q.layers; i++) {
        Layer& l = q.hidden[i];
        const int stride = l.KP;
        for (int k0 = 0; k0 < l.in; k0 += 8)
            for (int j = 0; j < l.out; j++)
                for (int k = k0; k < k0 + 8 && k < l.in; k++) l.W[(size_t)j * stride + k] = l.Wt[(size_t)k * l.N + j];
    }
}

// A network's parameters in torch's order, and its target (pixels, O), into the layout of `pass`.
template <int O> static void load_problem(Problem& q, const float* theta, const float* target) {
    for (int i = 0; i < q.layers; i++) {
        const Layer& l = q.hidden[i];
        float *W = q.p + l.offset, *b = W + round_up(l.in, 4) * l.N;
        for (int j = 0; j < l.out; j++)
            for (int k = 0; k < l.in; k++) W[(size_t)k * l.N + j] = theta[l.flat + (size_t)j * l.in + k];
        for (int j = 0; j < l.out; j++) b[j] = theta[l.flat + (size_t)l.out * l.in + j];
    }
    const Layer& z = q.hidden[q.layers - 1];
    float* Wl = q.p + q.last_offset;
    for (int o = 0; o < O; o++)
        for (int k = 0; k < z.out; k++) Wl[(size_t)o * z.N + k] = theta[q.last_flat + (size_t)o * z.out + k];
    for (int o = 0; o < O; o++) Wl[(size_t)O * z.N + o] = theta[q.last_flat + (size_t)O * z.out + o];
    for (int i = 0; i <= q.layers; i++) {
        const size_t from = i < q.layers ? q.hidden[i].offset : q.last_offset;
        const size_t to = i + 1 < q.layers ? q.hidden[i + 1].offset : i < q.layers ? q.last_offset : q.block;
        const float w0 = i < q.layers ? q.hidden[i].w0 : 1.0f;
        for (size_t k = from; k < to; k++) q.work[k] = q.p[k] * w0;
    }
    transpose_weights(q);
    for (int o = 0; o < O; o++)
        for (int p = 0; p < q.pixels; p++) q.target[(size_t)o * q.padded + p] = target[(size_t)p * O + o];
}

// The mean squared error of each network and, unless `grad` is null, its gradient in torch's order.
template <int O>
static void differentiate(Problem& q, int64_t count, const float* targets, const float* flat, float offset, double* mse,
                          float* grad) {
    for (int64_t net = 0; net < count; net++) {
        load_problem<O>(q, flat + net * q.params, targets + net * q.pixels * O);
        mse[net] = pass<O>(q, grad != nullptr, offset);
        if (!grad) continue;
        float* g = grad + net * q.params;
        for (int i = 0; i < q.layers; i++) {        // gradients are of w0-scaled parameters
            const Layer& l = q.hidden[i];
            for (int j = 0; j < l.out; j++)
                for (int k = 0; k < l.in; k++) g[l.flat + (size_t)j * l.in + k] = l.gW[(size_t)k * l.N + j] * l.w0;
            for (int j = 0; j < l.out; j++) g[l.flat + (size_t)l.out * l.in + j] = l.gb[j] * l.w0;
        }
        const Layer& z = q.hidden[q.layers - 1];
        const float* gWl = q.grad + q.last_offset;
        for (int o = 0; o < O; o++)
            for (int k = 0; k < z.out; k++) g[q.last_flat + (size_t)o * z.out + k] = gWl[(size_t)o * z.N + k];
        for (int o = 0; o < O; o++) g[q.last_flat + (size_t)O * z.out + o] = gWl[(size_t)O * z.N + o];
    }
}

template <int O>
static int fit(Problem& q, int64_t count, const float* targets, float* flat, float offset, double lr, double beta1,
               double beta2, double eps, int64_t steps, double stop_mse, double* mse, int64_t* steps_taken) {
    for (int64_t net = 0; net < count; net++) {
        memset(q.p, 0, q.block * sizeof(float));
        memset(q.m, 0, q.block * sizeof(float));
        memset(q.v, 0, q.block * sizeof(float));
        float* theta = flat + net * q.params;
        load_problem<O>(q, theta, targets + net * q.pixels * O);
        const Layer& z = q.hidden[q.layers - 1];
        float* Wl = q.p + q.last_offset;

        int64_t step = 0;
        double power1 = 1, power2 = 1, error = -1;
        while (step < steps) {
            error = pass<O>(q, true, offset);
            if (error <= stop_mse) break;
            step++;
            power1 *= beta1;
            power2 *= beta2;
            const float step_size = (float)(lr / (1 - power1)), inv = (float)(1 / std::sqrt(1 - power2));
            for (int i = 0; i <= q.layers; i++) {
                const size_t from = i < q.layers ? q.hidden[i].offset : q.last_offset;
                const size_t to = i + 1 < q.layers ? q.hidden[i + 1].offset : i < q.layers ? q.last_offset : q.block;
                const float w0 = i < q.layers ? q.hidden[i].w0 : 1.0f;
                adam(q, from, to - from, w0, step_size, inv, (float)beta1, (float)beta2, (float)eps);
            }
            transpose_weights(q);
            error = -1;
        }
        mse[net] = error >= 0 ? error : pass<O>(q, false, offset);
        steps_taken[net] = step;

        for (int i = 0; i < q.layers; i++) {
            const Layer& l = q.hidden[i];
            const float *W = q.p + l.offset, *b = W + round_up(l.in, 4) * l.N;
            for (int j = 0; j < l.out; j++)
                for (int k = 0; k < l.in; k++) theta[l.flat + (size_t)j * l.in + k] = W[(size_t)k * l.N + j];
            for (int j = 0; j < l.out; j++) theta[l.flat + (size_t)l.out * l.in + j] = b[j];
        }
        for (int o = 0; o < O; o++)
            for (int k = 0; k < z.out; k++) theta[q.last_flat + (size_t)o * z.out + k] = Wl[(size_t)o * z.N + k];
        for (int o = 0; o < O; o++) theta[q.last_flat + (size_t)O * z.out + o] = Wl[(size_t)O * z.N + o];
    }
    return 0;
}

// Lays out a problem in memory that the caller frees (arena.base). Returns 0, 1 for sizes out of range, 2 without memory.
static int prepare(Problem& q, Arena& arena, int64_t num_sizes, const int64_t* sizes, int64_t pixels,
                   const float* coords, double w0_first, double w0_hidden, int64_t tile_bytes) {
    q.layers = (int)num_sizes - 2;
    if (q.layers < 1 || q.layers > MAX_LAYERS || pixels < 1) return 1;
    q.in = (int)sizes[0];
    q.out = (int)sizes[num_sizes - 1];
    if (q.in < 1 || q.in > 3 || q.out < 1 || q.out > MAX_OUT) return 1;
    q.pixels = (int)pixels;
    q.padded = (int)round_up(pixels, PIXEL_STEP);
    size_t at = 0, flat_at = 0, per_pixel = 0, transposed = 0;
    for (int i = 0; i < q.layers; i++) {
        Layer& l = q.hidden[i];
        l.in = (int)sizes[i];
        l.out = (int)sizes[i + 1];
        if (l.out < 1 || l.out > 4096) return 1;
        l.KP = i ? q.hidden[i - 1].N : 4;
        l.N = (int)round_up(l.out, NARROW);
        l.wide = l.N % WIDE == 0;
        l.w0 = (float)(i ? w0_hidden : w0_first);
        l.offset = at;
        l.flat = flat_at;
        at += round_up(round_up(l.in, 4) * l.N + l.N, WIDE);
        flat_at += (size_t)l.out * l.in + l.out;
        per_pixel += 2 * (size_t)l.N;
        if (i) transposed += round_up((size_t)l.out * l.KP, WIDE);
    }
    q.KL = q.hidden[q.layers - 1].N;
    q.last_offset = at;
    q.last_flat = flat_at;
    q.block = round_up(at + (size_t)q.out * q.KL + q.out, WIDE);
    q.params = flat_at + (size_t)q.out * sizes[num_sizes - 2] + q.out;

    size_t most = tile_bytes / (per_pixel * sizeof(float));
    if (most < PIXEL_STEP) most = PIXEL_STEP;
    const size_t tiles = (q.padded + most - 1) / most;
    q.tile = (int)round_up((q.padded + tiles - 1) / tiles, PIXEL_STEP);

    const size_t floats = 5 * (q.block + WIDE) + transposed + 6 * (size_t)q.padded + (size_t)q.out * q.padded +
                          (size_t)q.out * q.tile + per_pixel * q.tile;
    arena.size = round_up(floats * sizeof(float) + 64 * ALIGN, ALIGN);
    if (posix_memalign((void**)&arena.base, 4096, arena.size)) return 2;
    memset(arena.base, 0, arena.size);
    q.work = arena.take(q.block);
    q.grad = arena.take(q.block);
    for (int i = 0; i < q.layers; i++) {
        Layer& l = q.hidden[i];
        l.Wt = q.work + l.offset;
        l.b = l.Wt + round_up(l.in, 4) * l.N;
        l.gW = q.grad + l.offset;
        l.gb = l.gW + round_up(l.in, 4) * l.N;
        l.S = arena.take((size_t)l.N * q.tile);
        l.C = arena.take((size_t)l.N * q.tile);
        l.W = i ? arena.take((size_t)l.out * l.KP) : nullptr;
    }
    q.error = arena.take((size_t)q.out * q.tile);
    q.p = arena.take(q.block);
    q.m = arena.take(q.block);
    q.v = arena.take(q.block);
    q.coords = arena.take((size_t)q.padded * 4);
    q.weight = arena.take(q.padded);
    q.target = arena.take((size_t)q.out * q.padded);
    for (int p = 0; p < q.pixels; p++) {
        for (int k = 0; k < q.in; k++) q.coords[(size_t)p * 4 + k] = coords[(size_t)p * q.in + k];
        q.weight[p] = 1.0f;
    }
    return 0;
}

// sizes: num_sizes layer widths from the 1..3 coordinates to the 1..4 outputs. coords (pixels, in); targets
// (count, pixels, out); flat (count, T) in torch's order, changed in place. mse and steps_taken: one a network.
// Returns 0, 1 for sizes out of range, 2 without memory.
extern "C" int nfbench_fit_sirens(int64_t count, int64_t num_sizes, const int64_t* sizes, int64_t pixels,
                                  const float* coords, const float* targets, float* flat, double w0_first,
                                  double w0_hidden, double offset, double lr, double beta1, double beta2, double eps,
                                  int64_t steps, double stop_mse, int64_t tile_bytes, double* mse,
                                  int64_t* steps_taken) {
    Problem q = {};
    Arena arena = {};
    int status = prepare(q, arena, num_sizes, sizes, pixels, coords, w0_first, w0_hidden, tile_bytes);
    if (status) return status;
#define FIT(O)                                                                                                      \
    case O:                                                                                                         \
        status = fit<O>(q, count, targets, flat, (float)offset, lr, beta1, beta2, eps, steps, stop_mse, mse,        \
                        steps_taken);                                                                               \
        break;
    switch (q.out) { FIT(1) FIT(2) FIT(3) FIT(4) }
    free(arena.base);
    return status;
}

// As above, for one pass: mse (count,) and, unless it is null, grad (count, T), the gradient of each network's own mse.
extern "C" int nfbench_siren_errors(int64_t count, int64_t num_sizes, const int64_t* sizes, int64_t pixels,
                                    const float* coords, const float* targets, const float* flat, double w0_first,
                                    double w0_hidden, double offset, int64_t tile_bytes, double* mse, float* grad) {
    Problem q = {};
    Arena arena = {};
    int status = prepare(q, arena, num_sizes, sizes, pixels, coords, w0_first, w0_hidden, tile_bytes);
    if (status) return status;
    switch (q.out) {
        case 1: differentiate<1>(q, count, targets, flat, (float)offset, mse, grad); break;
        case 2: differentiate<2>(q, count, targets, flat, (float)offset, mse, grad); break;
        case 3: differentiate<3>(q, count, targets, flat, (float)offset, mse, grad); break;
        case 4: differentiate<4>(q, count, targets, flat, (float)offset, mse, grad); break;
    }
    free(arena.base);
    return 0;
}
