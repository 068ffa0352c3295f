// Trains CNNs 1-16-16-16-10 (3x3, stride 2, no padding, global average pool, dense): one network, out of the caches.
//
// Compiled on first use by nfbench/zoos/kernel.py and called through ctypes, from one thread per core; it has no
// global state, so any number of threads may call it. The result for a network depends on that network alone.
//
// Layout. Activations are [image][position][channel]: 16 channels are one AVX-512 register, two of AVX. A mini-batch
// goes through in tiles of a few images, forward and backward, so that their activations stay in L1/L2. All products
// have a scalar from one array times a vector over channels of another, and never sum across lanes:
//   forward   Z[p][r]    = b[r] + sum_k In[window(p) + k] * W[k][r]            k: kernel position, input channel
//   gradient  dW[k][r]   = sum_p In[window(p) + k] * dZ[p][r]
//   backward  dIn[window(p) + k][s] += sum_r dZ[p][r] * Wt[k][r][s]
// Each pass over a layer leaves H = dropout(f(Z)) and D = dH/dZ, so that dZ = dH * D. The dense layer is padded from 10
// to 16 outputs whose gradients are zero. Dropout draws from a hash of (seed, step, layer, element): see cnn_torch.py.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__AVX512F__)
enum { L = 16, TAPS = 24 };  // lanes; kernel taps that are accumulated in registers at once
#elif defined(__AVX__)
enum { L = 8, TAPS = 12 };
#else
enum { L = 4, TAPS = 12 };
#endif
enum { ROWS = 8, C = 16, OUT = 10, TILE = 4, ALIGN = 64, LAYERS = 3, PAD = ROWS };
enum { RELU = 0, TANH = 1, SGD = 0, ADAM = 1, RMSPROP = 2 };
// The parameter block: [tap][out] weights, then biases, of each layer.
enum { W1 = 0, B1 = 9 * C, W2 = B1 + C, B2 = W2 + 9 * C * C, W3 = B2 + C, B3 = W3 + 9 * C * C, WD = B3 + C,
       BD = WD + C * C, BLOCK = BD + C };
static const int WEIGHTS[] = {W1, W2, W3}, BIASES[] = {B1, B2, B3};

typedef float F __attribute__((vector_size(L * 4), may_alias));
typedef int32_t I __attribute__((vector_size(L * 4), may_alias));
typedef uint32_t U __attribute__((vector_size(L * 4), may_alias));
#define INLINE inline __attribute__((always_inline))

static INLINE F load(const float* p) { return *(const F*)p; }
static INLINE void store(float* p, F x) { *(F*)p = x; }
// e^x for |x| < 80: x = n ln 2 + r, a polynomial in r, and n added to the exponent.
static INLINE F exponential(F x) {
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer
    F shifted = x * 1.44269504088896341f + magic;
    F n = shifted - magic;
    F r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    F p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return (F)((I)p + ((I)shifted << 23));
}

static INLINE F tangent(F x) {  // tanh, absolute error below 2e-7
    F cut = x > 9.0f ? F{} + 9.0f : x;
    cut = cut < -9.0f ? F{} - 9.0f : cut;
    return x != x ? x : 1.0f - 2.0f / (exponential(2.0f * cut) + 1.0f);
}

template <class T> static INLINE T mix(T x) {  // an integer hash of 32 bits
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ (x >> 16);
}

struct Layer {
    int positions, across;  // outputs of one image; in a row
    int image, row;         // floats of one input image; of a row of it
    int* window;            // [TILE * positions + PAD] where in the tile's input each output's window begins
    float *H, *D, *G;       // [TILE * positions + PAD][C] output; its derivative; gradient
};

struct Network {
    Layer layer[LAYERS];
    int pixels;
    float *X, *p, *grad, *Wt;  // tile of images; parameters; gradients; transposed weights of layers 2 and 3
    void* memory;
};

// Z of `count` positions; CI input channels.
template <int CI>
static void forward(int count, const float* in, const Layer& l, const float* W, const float* b) {
    for (int n = 0; n < C; n += L)
        for (int p = 0; p < count; p += ROWS) {
            const float* a[ROWS];
            F acc[ROWS];
            for (int m = 0; m < ROWS; m++) a[m] = in + l.window[p + m], acc[m] = load(b + n);
            for (int y = 0; y < 3; y++) {
                const float* w = W + y * 3 * CI * C + n;
                for (int k = 0; k < 3 * CI; k++) {
                    F wk = load(w + k * C);
                    for (int m = 0; m < ROWS; m++) acc[m] += a[m][k] * wk;
                }
                for (int m = 0; m < ROWS; m++) a[m] += l.row;
            }
            for (int m = 0; m < ROWS; m++) store(l.H + (p + m) * C + n, acc[m]);
        }
}

// Adds to dW; K taps of each of Y kernel rows at once.
template <int CI, int Y, int K>
static void weight_gradient(int count, const float* in, const Layer& l, float* dW) {
    for (int n = 0; n < C; n += L)
        for (int y0 = 0; y0 < 3; y0 += Y)
            for (int k0 = 0; k0 < 3 * CI; k0 += K) {
                F acc[Y][K];
                float* to = dW + (y0 * 3 * CI + k0) * C + n;
                for (int y = 0; y < Y; y++)
                    for (int k = 0; k < K; k++) acc[y][k] = load(to + (y * 3 * CI + k) * C);
                for (int p = 0; p < count; p++) {
                    F g = load(l.G + p * C + n);
                    const float* a = in + l.window[p] + y0 * l.row + k0;
                    for (int y = 0; y < Y; y++)
                        for (int k = 0; k < K; k++) acc[y][k] += a[y * l.row + k] * g;
                }
                for (int y = 0; y < Y; y++)
                    for (int k = 0; k < K; k++) store(to + (y * 3 * CI + k) * C, acc[y][k]);
            }
}

// Adds to dIn. Rows of G behind `count` are finite, and belong to images that are not there or are zero.
static void input_gradient(int count, const Layer& l, const float* Wt, float* dIn) {
    enum { M = 4 };
    for (int n = 0; n < C; n += L)
        for (int p = 0; p < count; p += M)
            for (int y = 0; y < 3; y++) {
                F acc[M][3] = {};
                const float *w = Wt + y * 3 * C * C + n, *g = l.G + p * C;
                for (int r = 0; r < C; r++)
                    for (int x = 0; x < 3; x++) {
                        F wx = load(w + (x * C + r) * C);
                        for (int m = 0; m < M; m++) acc[m][x] += g[m * C + r] * wx;
                    }
                for (int m = 0; m < M; m++)
                    for (int x = 0; x < 3; x++) {
                        float* to = dIn + l.window[p + m] + y * l.row + x * C + n;
                        store(to, load(to) + acc[m][x]);
                    }
            }
}

struct Noise { uint32_t key, first; float rate; };  // dropout of a layer in a step; the tile's first element

// H = f(Z) in place, and D; TRAIN: with dropout.
template <int ACT, bool TRAIN> static void activate(int count, const Layer& l, Noise noise) {
    U element = {};
    for (int i = 0; i < L; i++) element[i] = i;
    for (int i = 0; i < count * C; i += L) {
        F z = load(l.H + i), h, d;
        if (ACT == TANH) {
            h = tangent(z);
            d = 1.0f - h * h;
        } else {
            h = z < 0.0f ? F{} : z;
            d = z > 0.0f ? F{} + 1.0f : F{};
        }
        if (TRAIN && noise.rate > 0) {
            U hash = mix(element + (noise.key + noise.first + (uint32_t)i));
            F kept = __builtin_convertvector((I)(hash >> 8), F) * 0x1p-24f;
            F factor = kept >= noise.rate ? F{} + 1.0f / (1.0f - noise.rate) : F{};
            h *= factor;
            d *= factor;
        }
        store(l.H + i, h);
        if (TRAIN) store(l.D + i, d);
    }
}

// G *= D, and adds the bias gradient.
static void through(int count, const Layer& l, float* db) {
    for (int n = 0; n < C; n += L) {
        F sum = load(db + n);
        for (int p = 0; p < count; p++) {
            F g = load(l.G + p * C + n) * load(l.D + p * C + n);
            store(l.G + p * C + n, g);
            sum += g;
        }
        store(db + n, sum);
    }
}

template <int ACT, bool TRAIN>
static void features(Network& q, int images, const uint32_t* keys, uint32_t at, float rate) {
    const float* in = q.X;
    for (int i = 0; i < LAYERS; i++) {
        Layer& l = q.layer[i];
        const int count = images * l.positions;
        if (i == 0) forward<1>(count, in, l, q.p + W1, q.p + B1);
        else forward<C>(count, in, l, q.p + WEIGHTS[i], q.p + BIASES[i]);
        activate<ACT, TRAIN>(count, l, TRAIN ? Noise{keys[i], at * l.positions * C, rate} : Noise{});
        in = l.H;
    }
}

// Softmax of one image from its last features. Gives its cross-entropy, and whether its label is most probable.
static double classify(const Network& q, const float* H, int label, float* pooled, float* probability, bool* right) {
    const int positions = q.layer[2].positions;
    float logits[C];
    for (int c = 0; c < C; c++) pooled[c] = 0, logits[c] = q.p[BD + c];
    for (int p = 0; p < positions; p++)
        for (int c = 0; c < C; c++) pooled[c] += H[p * C + c];
    for (int c = 0; c < C; c++) {
        pooled[c] /= positions;
        for (int o = 0; o < C; o++) logits[o] += pooled[c] * q.p[WD + c * C + o];
    }
    int best = 0;
    float sum = 0;
    for (int o = 1; o < OUT; o++) best = logits[o] > logits[best] ? o : best;
    for (int o = 0; o < OUT; o++) sum += probability[o] = std::exp(logits[o] - logits[best]);
    for (int o = 0; o < OUT; o++) probability[o] /= sum;
    *right = best == label;
    return std::log((double)sum) - ((double)logits[label] - logits[best]);
}

static void head(Network& q, int images, const int32_t* labels, int batch) {
    Layer& l = q.layer[2];
    for (int i = 0; i < images; i++) {
        float pooled[C], d[C] = {}, dp[C] = {};
        bool right;
        classify(q, l.H + (size_t)i * l.positions * C, labels[i], pooled, d, &right);
        d[labels[i]] -= 1;
        for (int o = 0; o < OUT; o++) d[o] /= batch, q.grad[BD + o] += d[o];
        for (int c = 0; c < C; c++)
            for (int o = 0; o < C; o++)
                q.grad[WD + c * C + o] += pooled[c] * d[o], dp[c] += d[o] * q.p[WD + c * C + o];
        for (int p = 0; p < l.positions; p++)
            for (int c = 0; c < C; c++) l.G[(i * l.positions + p) * C + c] = dp[c] / l.positions;
    }
}

static void backward(Network& q, int images) {
    for (int i = LAYERS - 1; i >= 0; i--) {
        Layer& l = q.layer[i];
        const int count = images * l.positions;
        through(count, l, q.grad + BIASES[i]);
        if (i == 0) return weight_gradient<1, 3, 3>(count, q.X, l, q.grad + W1);
        Layer& below = q.layer[i - 1];
        weight_gradient<C, 1, TAPS>(count, below.H, l, q.grad + WEIGHTS[i]);
        memset(below.G, 0, (size_t)images * below.positions * C * sizeof(float));
        input_gradient(count, l, q.Wt + (i - 1) * 9 * C * C, below.G);
    }
}

struct Rule {
    int kind;
    float lr, l2, decay1, decay2, eps;  // Adam's betas; RMSprop's alpha is decay2
};

static void update(Network& q, int from, int count, float l2, const Rule& rule, double power1, double power2,
                   float* state) {
    float *__restrict__ p = q.p + from, *__restrict__ m = state + from, *__restrict__ v = state + BLOCK + from;
    const float* __restrict__ grad = q.grad + from;
    const float step = (float)(rule.lr / (1 - power1)), inv = (float)(1 / std::sqrt(1 - power2));
    for (int i = 0; i < count; i++) {
        float g = grad[i] + 2 * l2 * p[i];
        if (rule.kind == SGD) {
            p[i] -= rule.lr * g;
        } else if (rule.kind == ADAM) {
            m[i] += (g - m[i]) * (1 - rule.decay1);
            v[i] = v[i] * rule.decay2 + g * g * (1 - rule.decay2);
            p[i] -= step * (m[i] / (std::sqrt(v[i]) * inv + rule.eps));
        } else {
            v[i] = v[i] * rule.decay2 + g * g * (1 - rule.decay2);
            p[i] -= rule.lr * g / (std::sqrt(v[i]) + rule.eps);
        }
    }
}

// Between torch's order and the block: conv (out, in, 3, 3) and dense (out, in), each before its biases.
template <class Copy> static void each_parameter(Copy copy) {
    int at = 0;
    for (int i = 0; i < LAYERS; i++) {
        const int in = i ? C : 1;
        for (int r = 0; r < C; r++)
            for (int s = 0; s < in; s++)
                for (int k = 0; k < 9; k++) copy(at++, WEIGHTS[i] + (k * in + s) * C + r);
        for (int r = 0; r < C; r++) copy(at++, BIASES[i] + r);
    }
    for (int o = 0; o < OUT; o++)
        for (int c = 0; c < C; c++) copy(at++, WD + c * C + o);
    for (int o = 0; o < OUT; o++) copy(at++, BD + o);
}

static void transpose_weights(Network& q) {  // [tap][in][out] -> [tap][out][in]
    for (int i = 1; i < LAYERS; i++)
        for (int k = 0; k < 9; k++)
            for (int s = 0; s < C; s++)
                for (int r = 0; r < C; r++)
                    q.Wt[(((i - 1) * 9 + k) * C + r) * C + s] = q.p[WEIGHTS[i] + (k * C + s) * C + r];
}

// Gives 0, 1 for images that are too small, 2 without memory.
static int open(Network& q, int height, int width, const float* flat) {
    q.pixels = height * width;
    size_t size = 0, sizes[LAYERS];
    for (int i = 0, h = height, w = width; i < LAYERS; i++) {
        q.layer[i].row = w * (i ? C : 1);
        q.layer[i].image = h * q.layer[i].row;
        h = (h - 1) / 2, w = (w - 1) / 2;
        if (h < 1 || w < 1) return 1;
        q.layer[i].positions = h * w, q.layer[i].across = w;
        sizes[i] = ((size_t)TILE * h * w + PAD) * C;
        size += 4 * sizes[i];  // H, D, G, and windows, which take less
    }
    const size_t images = ((size_t)TILE * q.pixels / ALIGN + 2) * ALIGN;
    size = (size + images + 2 * BLOCK + 2 * 9 * C * C) * sizeof(float);
    if (posix_memalign(&q.memory, 4096, size)) return 2;
    memset(q.memory, 0, size);
    float* at = (float*)q.memory;
    auto take = [&at](size_t count) { float* p = at; at += count; return p; };
    q.p = take(BLOCK), q.grad = take(BLOCK), q.Wt = take(2 * 9 * C * C), q.X = take(images);
    for (int i = 0; i < LAYERS; i++) {
        Layer& l = q.layer[i];
        l.H = take(sizes[i]), l.D = take(sizes[i]), l.G = take(sizes[i]), l.window = (int*)take(sizes[i]);
        for (int p = 0; p < TILE * l.positions; p++) {
            const int own = p % l.positions;
            l.window[p] = p / l.positions * l.image + own / l.across * 2 * l.row + own % l.across * 2 * (i ? C : 1);
        }
    }
    each_parameter([&](int from, int to) { q.p[to] = flat[from]; });
    transpose_weights(q);
    return 0;
}

struct Images { const float* pixels; const int32_t* labels; };

static int load_tile(Network& q, int64_t left, Images from, const int32_t* order, int32_t* labels) {
    const int images = left < TILE ? (int)left : TILE;
    for (int i = 0; i < images; i++) {
        memcpy(q.X + i * q.pixels, from.pixels + (size_t)order[i] * q.pixels, q.pixels * sizeof(float));
        labels[i] = from.labels[order[i]];
    }
    return images;
}

template <int ACT>
static void train(Network& q, int64_t steps, int batch, Images from, const int32_t* order, const Rule& rule,
                  float dropout, uint32_t seed, int64_t first_step, float* state) {
    for (int64_t step = first_step; step < first_step + steps; step++, order += batch) {
        uint32_t keys[LAYERS];
        for (int i = 0; i < LAYERS; i++) keys[i] = mix(mix(seed) + (uint32_t)(step * LAYERS + i));
        memset(q.grad, 0, BLOCK * sizeof(float));
        for (int at = 0; at < batch; at += TILE) {
            int32_t labels[TILE];
            const int images = load_tile(q, batch - at, from, order + at, labels);
            features<ACT, true>(q, images, keys, at, dropout);
            head(q, images, labels, batch);
            backward(q, images);
        }
        const double power1 = std::pow((double)rule.decay1, step + 1), power2 = std::pow((double)rule.decay2, step + 1);
        const int ends[] = {W1, B1, W2, B2, W3, B3, WD, BD, BLOCK};  // weights, biases, weights, ...
        for (int i = 0; i < 8; i++)
            update(q, ends[i], ends[i + 1] - ends[i], i % 2 ? 0 : rule.l2, rule, power1, power2, state);
        transpose_weights(q);
    }
}

// Takes `steps` mini-batches of `batch` images: order (steps * batch) says which. flat (4970) in torch's order and
// state (2 * 5072; zeros before step 0) are changed in place. Gives 0, 1 for bad sizes, 2 without memory.
extern "C" int nfbench_train_cnn(int64_t height, int64_t width, const float* pixels, const int32_t* labels,
                                 const int32_t* order, int64_t steps, int64_t batch, int64_t activation,
                                 int64_t optimizer, double lr, double l2, double decay1, double decay2, double eps,
                                 double dropout, int64_t seed, int64_t first_step, float* flat, float* state) {
    Network q;
    if (int status = open(q, (int)height, (int)width, flat)) return status;
    const Rule rule = {(int)optimizer, (float)lr, (float)l2, (float)decay1, (float)decay2, (float)eps};
    auto run = activation == TANH ? train<TANH> : train<RELU>;
    run(q, steps, (int)batch, {pixels, labels}, order, rule, (float)dropout, (uint32_t)seed, first_step, state);
    each_parameter([&](int to, int from) { flat[to] = q.p[from]; });
    free(q.memory);
    return 0;
}

// The sum of cross-entropies and the number of right answers on the images order (count).
extern "C" int nfbench_evaluate_cnn(int64_t height, int64_t width, const float* pixels, const int32_t* labels,
                                    const int32_t* order, int64_t count, int64_t activation, const float* flat,
                                    double* loss, int64_t* correct) {
    Network q;
    *loss = 0, *correct = 0;
    if (int status = open(q, (int)height, (int)width, flat)) return status;
    for (int64_t at = 0; at < count; at += TILE) {
        int32_t mine[TILE];
        const int images = load_tile(q, count - at, {pixels, labels}, order + at, mine);
        (activation == TANH ? features<TANH, false> : features<RELU, false>)(q, images, nullptr, 0, 0);
        for (int i = 0; i < images; i++) {
            float pooled[C], probability[C];
            bool right;
            const float* H = q.layer[2].H + (size_t)i * q.layer[2].positions * C;
            *loss += classify(q, H, mine[i], pooled, probability, &right);
            *correct += right;
        }
    }
    free(q.memory);
    return 0;
}
