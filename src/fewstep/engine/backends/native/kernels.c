/* Networks on a processor: a list of operations over pictures that lie pixel by pixel, [height][width][channels], channels in whole blocks.
 * The modules beside this file write the list; it is compiled for the processor that it runs on (library.py). It allocates nothing:
 * who calls brings the memory, of the sizes that stats_of and scratch_of give.
 *
 * Convolutions of 3x3 over large pictures are Winograd's F(4x4, 3x3) (Lavin and Gray, arXiv 1509.09308, section 4.3): 36 products make 16 outputs where
 * the plain way needs 144. What comes before a convolution is done while its input is read (normalisation, activation, doubling), and what
 * comes after it while its output is written (bias, the sum with a residual, the statistics of the next normalisation), so that
 * nothing passes over a picture by itself. Neither the strips that statistics are gathered in nor any sum depends on the number of threads.
 */
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX__
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
enum { LANES = 16, ROWS = 12, FEWER = 8, UNIT = 4 }; /* numbers of a vector; rows of a product that fill the registers, and smaller ones */
#elif defined(__AVX__)
enum { LANES = 8, ROWS = 6, FEWER = 4, UNIT = 2 };
#else
enum { LANES = 4, ROWS = 6, FEWER = 4, UNIT = 2 };
#endif
enum { BLOCK = 16, SIDE = 4, EDGE = 6, POINTS = EDGE * EDGE };        /* channels of a block; a tile of outputs, and of inputs */
enum { TOKENS = 120, PATCHES = 24 };                                  /* pixels of a strip of CONV1 and DIRECT: multiples of ROWS */
enum { CACHE = 256 << 10 };                                           /* bytes that the transformed tiles of a chunk take, about */
enum { CONV3, DIRECT, CONV1, ATTENTION, CONCAT, SHUFFLE, PLANES, GUIDE }; /* kinds of operations; DIRECT is a 3x3 convolution the plain way */
enum { LINEAR, RELU, SILU, QUICK, GELU, GATED };                      /* activations of an input; GATED: times GELU of as many more channels */
enum { AHEAD = 24 * BLOCK }; /* numbers of a matrix from those that are multiplied to those that memory is asked for */
enum { ALONG_X = 1, ALONG_Y = 2 };
enum { MOST_THREADS = 256, MOST_CREWS = 64, PATIENCE = 1000, LINGER = 4000 }; /* the last two in turns of a waiting thread, some tens of nanoseconds */

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

typedef struct {
    int32_t kind, cin, cout, height, width; /* of the output */
    int32_t in_height, in_width, stride;    /* of the input; stride 2 halves it, and otherwise a convolution sees it as large as its output */
    int32_t activation, factor;             /* of the input; of a shuffle */
    int32_t groups, source;                 /* of group normalisation of the input, 0 is none; which operation made the input */
    int32_t layered;                        /* whether each pixel of the input is normalised by itself */
    int32_t heads, tokens, apart;           /* of attention; how many keys and values there are, and how many numbers lie from one to the next */
    int32_t causal;                         /* whether a query sees no keys behind its own */
    int32_t late;                           /* whether a convolution that halves sees pixels 2i to 2i + 2 instead of 2i - 1 to 2i + 1 */
    int32_t around;                         /* along what a convolution's input wraps around: ALONG_X, ALONG_Y, both or neither */
    float epsilon, further;                 /* further: of GUIDE, phi - 1 */
    const float *in, *other, *residual; /* other: keys, with values behind each, or what CONCAT and GUIDE put beside; residual: added to the output, or NULL */
    float *out, *stats;                 /* stats: NULL where nobody asks for them, else [strips][sums, sums of squares][cout] */
    const float *weight, *bias, *gamma, *beta;
} Operation;

typedef struct {
    const Operation *operations;
    int count, threads;
    float *scratch; /* [threads][each] */
    size_t each;
    int next, started, arrived, turn, left; /* next: the piece of work that nobody has taken yet */
    pthread_mutex_t lock;
    pthread_cond_t changed;
} Run;

static inline vec load(const float *from) { return *(const loose *)from; }
static inline void store(float *to, vec value) { *(loose *)to = value; }
static inline void add(float *to, vec value) { store(to, load(to) + value); }
static inline float sum_of(vec value) {
    float numbers[LANES];
    store(numbers, value);
    for (int half = LANES / 2; half; half /= 2) /* halves, whose sums do not wait for one another */
        for (int i = 0; i < half; i++) numbers[i] += numbers[i + half];
    return numbers[0];
}
static inline void pause_(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}
static inline int least(int a, int b) { return a < b ? a : b; }
static inline int parts(int all, int each) { return (all + each - 1) / each; }

/* The larger and the smaller numbers of two; where one of y is none, it stays so. */
static inline vec larger(vec x, vec y) {
#if defined(__AVX512F__)
    return _mm512_max_ps(x, y);
#elif defined(__AVX__)
    return _mm256_max_ps(x, y);
#else
    return (vec)(((x > y) & (ivec)x) | (~(x > y) & (ivec)y));
#endif
}
static inline vec smaller(vec x, vec y) {
#if defined(__AVX512F__)
    return _mm512_min_ps(x, y);
#elif defined(__AVX__)
    return _mm256_min_ps(x, y);
#else
    return (vec)(((x < y) & (ivec)x) | (~(x < y) & (ivec)y));
#endif
}

/* e^x to seven digits (Cephes' expf), for x from -87 to 87 and beyond them as there. */
static inline vec power(vec x) {
    const vec half = (vec){0} + 12582912.0f; /* 1.5 * 2^23: a sum with it is rounded to a whole */
    x = smaller((vec){0} + 87.0f, larger((vec){0} - 87.0f, x));
    const vec shifted = x * 1.44269504088896341f + half, whole = shifted - half;
    const vec r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return (vec)((ivec)p + (((ivec)shifted - (ivec)half) << 23));
}

/* The error function to 1.5e-7 (Abramowitz and Stegun, 7.1.26). */
static inline vec error(vec x) {
    const ivec sign = (ivec)x & INT32_MIN;
    const vec z = (vec)((ivec)x ^ sign), t = 1.0f / (1.0f + 0.3275911f * z);
    const vec p = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
    return (vec)((ivec)(1.0f - p * power(-z * z)) ^ sign);
}

static inline vec gelu(vec x) { return x * 0.5f * (1.0f + error(x * 0.70710678f)); }

static inline vec activated(vec x, int kind) {
    if (kind == SILU) return x / (1.0f + power(-x));
    if (kind == QUICK) return x / (1.0f + power(-1.702f * x));
    if (kind == GELU) return gelu(x);
    if (kind == RELU) return (vec)(~(x < 0) & (ivec)x);
    return x;
}

/* One pixel of the input as a product sees it: normalised and activated. */
static inline void prepare(const Operation *op, const float *from, const float *scale, const float *shift, float *to) {
    int n = op->cin;
    if (op->layered) {
        vec sum = {0}, squares = {0};
        for (int c = 0; c < n; c += LANES) sum += load(from + c);
        float mean = sum_of(sum) / n;
        for (int c = 0; c < n; c += LANES) squares += (load(from + c) - mean) * (load(from + c) - mean);
        float rate = 1 / sqrtf(sum_of(squares) / n + op->epsilon);
        for (int c = 0; c < n; c += LANES) store(to + c, (load(from + c) - mean) * rate * load(op->gamma + c) + load(op->beta + c));
    } else if (op->activation == GATED) {
        for (int c = 0; c < n; c += LANES) store(to + c, load(from + c) * gelu(load(from + n + c)));
    } else {
        for (int c = 0; c < n; c += LANES) {
            vec value = load(from + c);
            if (op->groups) value = value * load(scale + c) + load(shift + c);
            store(to + c, activated(value, op->activation));
        }
    }
}

/* out[rows][wide vectors] = left[rows][depth] . right[depth][wide vectors]: how many numbers lie from one row of `left` to the next and from one of its
 * columns to the next, from one row of `right` to the next and from one of its blocks to the next, and from one row of `out` to the next. `next`: from
 * `right` to the matrix that is wanted after it, which comes out of memory meanwhile. */
static inline __attribute__((always_inline)) void panel(const float *left, size_t row, size_t column, const float *right, size_t below, size_t block,
                                                        size_t next, int depth, float *out, int n, int rows, int wide) {
    vec sums[ROWS][2 * BLOCK / LANES]; /* in registers */
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < wide; v++) sums[r][v] = (vec){0};
    for (int i = 0; i < depth; i++) {
        vec with[2 * BLOCK / LANES];
        for (int v = 0; v < wide; v++) {
            const float *from = right + v * LANES / BLOCK * block + i * below + v * LANES % BLOCK;
            with[v] = load(from);
            if (v * LANES % BLOCK == 0) __builtin_prefetch(from + AHEAD), __builtin_prefetch(from + next, 0, 2); /* the processor's own end with each page */
        }
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < wide; v++) sums[r][v] += left[r * row + i * column] * with[v];
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < wide; v++) store(out + (size_t)r * n + v * LANES, sums[r][v]);
}

/* The same for any number of rows. */
static inline __attribute__((always_inline)) void panels(const float *left, size_t row, size_t column, int rows, const float *right, size_t below, size_t block,
                                                         int depth, float *out, int n, int wide) {
    for (int r = 0; r < rows;) {
        const float *from = left + r * row;
        float *to = out + (size_t)r * n;
        size_t next = r ? 0 : wide * LANES / BLOCK * block;
        int some = rows - r >= ROWS ? ROWS : rows - r >= FEWER ? FEWER : rows - r >= UNIT ? UNIT : 1;
        if (some == ROWS) panel(from, row, column, right, below, block, next, depth, to, n, ROWS, wide);
        if (some == FEWER) panel(from, row, column, right, below, block, next, depth, to, n, FEWER, wide);
        if (some == UNIT) panel(from, row, column, right, below, block, next, depth, to, n, UNIT, wide);
        if (some == 1) panel(from, row, column, right, below, block, next, depth, to, n, 1, wide);
        r += some;
    }
}

/* The columns from `first` to `last` of out[rows][n] = left[rows][depth] . right[n / BLOCK][depth][BLOCK]. */
static void multiply(const float *left, int rows, const float *right, int depth, int first, int last, float *out, int n) {
    size_t block = (size_t)depth * BLOCK;
    for (int column = first; column < last;) {
        const float *with = right + (size_t)column * depth;
        if ((int)LANES == (int)BLOCK && column + 2 * BLOCK <= last) { /* one vector a row would leave registers idle */
            panels(left, depth, 1, rows, with, BLOCK, block, depth, out + column, n, 2 * BLOCK / LANES);
            column += 2 * BLOCK;
        } else {
            panels(left, depth, 1, rows, with, BLOCK, block, depth, out + column, n, BLOCK / LANES);
            column += BLOCK;
        }
    }
}

/* How many rows of tiles CONV3 reads at once: some thirty tiles, and at least two halves of a picture. */
static int depth_of(const Operation *op) {
    int across = parts(op->width, SIDE), half = parts(op->height, SIDE) / 2;
    return across >= 32 || half < 1 ? 1 : least(32 / across, half);
}

/* How many rows of tiles a strip of it has, which are read one after the other: the rows of pixels beside a strip are read twice. */
static int strip_of(const Operation *op) {
    int depth = depth_of(op), fourth = parts(op->height, SIDE) / 8 / depth;
    return depth * (fourth < 1 ? 1 : least(fourth, 4));
}

/* How many of its tiles are transformed at once. */
static int chunk_of(const Operation *op) {
    int tiles = CACHE / (POINTS * (int)sizeof(float) * (op->cin + op->cout)) / ROWS * ROWS;
    return tiles < ROWS ? ROWS : least(tiles, 8 * ROWS);
}

/* How many pixels a strip of another operation has: for two threads there is as much for one as for the other. */
static int pixels_of(const Operation *op) {
    int pixels = op->height * op->width, pairs = parts(pixels, 2 * (op->kind == DIRECT ? PATCHES : TOKENS));
    return parts(pixels < 2 * ROWS ? pixels : parts(pixels, 2 * pairs), UNIT) * UNIT;
}

static int strips_of(const Operation *op) {
    return op->kind == CONV3 ? parts(parts(op->height, SIDE), strip_of(op)) : parts(op->height * op->width, pixels_of(op));
}

/* How many rows of the input DIRECT holds: all, with a row of zeros on either side, or, where it halves a picture, which may be large, those of a strip. */
static int rows_of(const Operation *op) {
    return op->stride == 2 ? least(op->in_height + 3, 2 * parts(pixels_of(op), op->width) + 3 + op->late) : op->height + 2;
}

/* How many numbers one of them has. */
static size_t line_of(const Operation *op) { return (size_t)((op->stride == 2 ? op->in_width : op->width) + 2 + op->late) * op->cin; }

/* Numbers that the statistics of an operation take. */
size_t stats_of(const Operation *op) { return (size_t)strips_of(op) * 2 * op->cout; }

/* Numbers that one thread needs beside the pictures. */
size_t scratch_of(const Operation *op) {
    size_t both = (size_t)op->cin + op->cout, scale = 2 * (size_t)op->cin;
    if (op->kind == CONV3) return scale + (size_t)(depth_of(op) * SIDE + 2) * (parts(op->width, SIDE) * SIDE + 2) * op->cin + POINTS * chunk_of(op) * both;
    if (op->kind == DIRECT) return scale + (size_t)rows_of(op) * line_of(op) + PATCHES * (9 * (size_t)op->cin + op->cout);
    if (op->kind == CONV1) return scale + TOKENS * both;
    if (op->kind != ATTENTION) return 0;
    return BLOCK * (2 * (size_t)op->cout / op->heads + op->tokens);
}

/* The piece of work that this thread does next. */
static int take(Run *run) { return __atomic_fetch_add(&run->next, 1, __ATOMIC_RELAXED); }

/* Group normalisation as one scale and one shift for each channel, from the sums that the operation before left.
 * Where a mean is a hundred deviations large, sums of squares in float32 leave three digits of the variance; trained networks keep far below. */
static void normalisation(const Run *run, const Operation *op, float *scale, float *shift) {
    if (!op->groups) return;
    const Operation *source = run->operations + op->source;
    int strips = strips_of(source), each = op->cin / op->groups, n = op->cin;
    double pixels = (double)source->height * source->width;
    for (int group = 0; group < op->groups; group++) {
        double sum = 0, squares = 0;
        for (int strip = 0; strip < strips; strip++)
            for (int c = group * each; c < (group + 1) * each; c++) sum += source->stats[2 * strip * n + c], squares += source->stats[(2 * strip + 1) * n + c];
        double mean = sum / (pixels * each), variance = squares / (pixels * each) - mean * mean;
        double rate = 1 / sqrt((variance < 0 ? 0 : variance) + op->epsilon);
        for (int c = group * each; c < (group + 1) * each; c++)
            scale[c] = (float)(op->gamma[c] * rate), shift[c] = (float)(op->beta[c] - mean * op->gamma[c] * rate);
    }
}

/* One row of the input as a 3x3 convolution sees it, `width` pixels of one of `height` rows, between a pixel of zeros and `behind` of them, or, where
 * it wraps around, between its last pixel and its first. */
static void fetch(const Operation *op, int y, int height, int width, int behind, const float *scale, const float *shift, float *to) {
    int n = op->cin;
    size_t pixel = sizeof(float) * n;
    memset(to, 0, pixel), memset(to + (size_t)(width + 1) * n, 0, pixel * behind), to += n;
    if (op->around & ALONG_Y) y = (y + height) % height;
    if (y < 0 || y >= height) {
        memset(to, 0, pixel * width);
        return;
    }
    const float *row = op->in + (size_t)(y * op->in_height / height) * op->in_width * n;
    if (width == op->in_width)
        for (int x = 0; x < width; x++) prepare(op, row + (size_t)x * n, scale, shift, to + (size_t)x * n);
    else
        for (int x = 0; x < width; x++) memcpy(to + (size_t)x * n, row + (size_t)(x * op->in_width / width) * n, pixel);
    if (op->around & ALONG_X) memcpy(to - n, to + (size_t)(width - 1) * n, pixel), memcpy(to + (size_t)width * n, to, pixel);
}

/* B^T d B of one tile d, 6x6 pixels of `stride` numbers a row: its value at each of the 36 points, `apart` numbers from each other. */
static inline void to_points(const float *from, size_t stride, int n, float *to, size_t apart) {
#define TRANSFORMED(o, i)                                                                   \
    do {                                                                                    \
        const vec a = i[4] - 4 * i[2], b = i[3] - 4 * i[1], c = i[4] - i[2], d = i[3] - i[1]; \
        o[0] = 4 * i[0] - 5 * i[2] + i[4], o[5] = 4 * i[1] - 5 * i[3] + i[5];               \
        o[1] = a + b, o[2] = a - b, o[3] = c + 2 * d, o[4] = c - 2 * d;                     \
    } while (0)
    vec half[EDGE][EDGE], in[EDGE], out[EDGE];
    for (int x = 0; x < EDGE; x++) {
        for (int y = 0; y < EDGE; y++) in[y] = load(from + y * stride + (size_t)x * n);
        TRANSFORMED(out, in);
        for (int y = 0; y < EDGE; y++) half[y][x] = out[y];
    }
    for (int y = 0; y < EDGE; y++) {
        TRANSFORMED(out, half[y]);
        for (int x = 0; x < EDGE; x++) store(to + (y * EDGE + x) * apart, out[x]);
    }
#undef TRANSFORMED
}

/* A^T m A of the products m at the 36 points: 4x4 outputs. */
static inline void from_points(const float *from, size_t apart, vec to[SIDE][SIDE]) {
#define TRANSFORMED(o, i)                                                                   \
    do {                                                                                    \
        const vec a = i[1] + i[2], b = i[1] - i[2], c = i[3] + i[4], d = i[3] - i[4];       \
        o[0] = i[0] + a + c, o[1] = b + 2 * d, o[2] = a + 4 * c, o[3] = b + 8 * d + i[5];   \
    } while (0)
    vec half[SIDE][EDGE], in[EDGE], out[SIDE];
    for (int x = 0; x < EDGE; x++) {
        for (int y = 0; y < EDGE; y++) in[y] = load(from + (y * EDGE + x) * apart);
        TRANSFORMED(out, in);
        for (int y = 0; y < SIDE; y++) half[y][x] = out[y];
    }
    for (int y = 0; y < SIDE; y++) TRANSFORMED(to[y], half[y]);
#undef TRANSFORMED
}

/* One tile of outputs at (y, x) of `channel` and those beside it, and what it adds to the statistics of its strip. */
static inline void finish(const Operation *op, vec tile[SIDE][SIDE], int y, int x, int channel, float *stats) {
    const vec bias = load(op->bias + channel);
    vec sum = {0}, squares = {0};
    for (int row = 0; row < least(SIDE, op->height - y); row++)
        for (int column = 0; column < least(SIDE, op->width - x); column++) {
            size_t at = ((size_t)(y + row) * op->width + x + column) * op->cout + channel;
            vec value = tile[row][column] + bias;
            if (op->residual) value += load(op->residual + at);
            store(op->out + at, value);
            sum += value, squares += value * value;
        }
    if (stats) add(stats + channel, sum), add(stats + op->cout + channel, squares);
}

static void conv3(Run *run, const Operation *op, float *scratch) {
    int cin = op->cin, cout = op->cout, across = parts(op->width, SIDE), down = parts(op->height, SIDE), depth = depth_of(op), chunk = chunk_of(op);
    size_t stride = (size_t)(across * SIDE + 2) * cin;
    float *scale = scratch, *shift = scale + cin, *rows = shift + cin;
    float *points = rows + (depth * SIDE + 2) * stride, *made = points + (size_t)POINTS * chunk * cin;
    int behind = across * SIDE + 1 - op->width;
    normalisation(run, op, scale, shift);
    for (int strip; (strip = take(run)) < strips_of(op);) {
        int top = strip * strip_of(op), bottom = least(down, top + strip_of(op));
        float *stats = op->stats ? op->stats + (size_t)strip * 2 * cout : NULL;
        if (stats) memset(stats, 0, sizeof(float) * 2 * cout);
        for (int first = top; first < bottom; first += depth) {
            int tiles = least(depth, bottom - first) * across, there = first == top ? 0 : 2; /* rows that were read already */
            if (there) memmove(rows, rows + (size_t)depth * SIDE * stride, sizeof(float) * 2 * stride);
            for (int y = there; y < tiles / across * SIDE + 2; y++)
                fetch(op, first * SIDE + y - 1, op->height, op->width, behind, scale, shift, rows + y * stride);
            for (int begin = 0; begin < tiles; begin += chunk) {
                int some = least(chunk, tiles - begin), padded = parts(some, UNIT) * UNIT;
                for (int t = 0; t < padded; t++) { /* those behind the last are the first once more, and nobody reads them */
                    int tile = begin + (t < some ? t : 0);
                    const float *from = rows + (size_t)(tile / across) * SIDE * stride + (size_t)(tile % across) * SIDE * cin;
                    for (int c = 0; c < cin; c += LANES) to_points(from + c, stride, cin, points + (size_t)t * cin + c, (size_t)padded * cin);
                }
                for (size_t point = 0; point < POINTS; point++)
                    multiply(points + point * padded * cin, padded, op->weight + point * cin * cout, cin, 0, cout, made + point * padded * cout, cout);
                for (int t = 0; t < some; t++)
                    for (int c = 0; c < cout; c += LANES) {
                        vec tile[SIDE][SIDE];
                        from_points(made + (size_t)t * cout + c, (size_t)padded * cout, tile);
                        finish(op, tile, (first + (begin + t) / across) * SIDE, (begin + t) % across * SIDE, c, stats);
                    }
            }
        }
    }
}

/* CONV1 and DIRECT: a product of the input's pixels, or of its patches of 3x3 pixels, and a matrix. */
static void dense(Run *run, const Operation *op, float *scratch) {
    int cin = op->cin, cout = op->cout, patches = op->kind == DIRECT, depth = patches ? 9 * cin : cin, pixels = op->height * op->width, most = pixels_of(op);
    int strips = strips_of(op), pieces = strips >= 4 * run->threads || strips % run->threads == 0 ? 1 : least(cout / BLOCK, run->threads);
    int columns = parts(cout / BLOCK, pieces) * BLOCK, row = op->activation == GATED ? 2 * cin : cin;
    int height = op->stride == 2 ? op->in_height : op->height, width = op->stride == 2 ? op->in_width : op->width; /* as a convolution sees the input */
    size_t line = line_of(op);
    float *scale = scratch, *shift = scale + cin, *rows = shift + cin, *made = rows + (size_t)most * depth, *picture = made + (size_t)most * cout;
    int top = -1; /* the first row in `picture`; none yet */
    normalisation(run, op, scale, shift);
    for (int piece; (piece = take(run)) < strips * pieces;) {
        int strip = piece / pieces, left = piece % pieces * columns, right = least(cout, left + columns);
        int first = strip * most, begin = op->stride == 2 ? first / op->width * 2 : 0, some = least(most, pixels - first), padded = parts(some, UNIT) * UNIT;
        const float *from = op->in + (size_t)first * row;
        if (patches) {
            for (int y = 0; y < rows_of(op) && top != begin; y++) fetch(op, begin + y - 1, height, width, 1 + op->late, scale, shift, picture + y * line);
            top = begin;
            for (int t = 0; t < some; t++) {
                int down = (first + t) / op->width * op->stride + op->late - begin, across = (first + t) % op->width * op->stride + op->late;
                const float *corner = picture + down * line + (size_t)across * cin;
                for (int y = 0; y < 3; y++) memcpy(rows + (size_t)t * depth + (size_t)y * 3 * cin, corner + y * line, sizeof(float) * 3 * cin);
            }
        } else if (op->groups || op->activation || op->layered || padded > some) {
            for (int t = 0; t < some; t++) prepare(op, from + (size_t)t * row, scale, shift, rows + (size_t)t * cin);
        }
        if (patches || op->groups || op->activation || op->layered || padded > some) from = rows;
        if (from == rows) memset(rows + (size_t)some * depth, 0, sizeof(float) * (padded - some) * depth);
        multiply(from, padded, op->weight, depth, left, right, made, cout);
        float *stats = op->stats ? op->stats + (size_t)strip * 2 * cout : NULL;
        for (int c = left; stats && c < right; c += LANES) store(stats + c, (vec){0}), store(stats + cout + c, (vec){0});
        for (int t = 0; t < some; t++)
            for (int c = left; c < right; c += LANES) {
                size_t at = (size_t)(first + t) * cout + c;
                vec value = load(made + (size_t)t * cout + c) + load(op->bias + c);
                if (op->residual) value += load(op->residual + at);
                store(op->out + at, value);
                if (stats) add(stats + c, value), add(stats + cout + c, value * value);
            }
    }
}

/* The softmax of scores[keys][BLOCK], for each query by itself; where `causal`, the first query sees the keys to number `first`, each next one more. */
static void softmax(float *scores, int keys, int causal, int first) {
    for (int v = 0; v < BLOCK; v += LANES) {
        vec top = load(scores + v), sum = {0};
        for (int t = 0; t < keys; t++) {
            for (int q = 0; causal && q < least(LANES, t - first - v); q++) scores[t * BLOCK + v + q] = -INFINITY;
            top = larger(top, load(scores + t * BLOCK + v));
        }
        for (int t = 0; t < keys; t++) {
            const vec score = load(scores + t * BLOCK + v), value = (vec)((ivec)power(score - top) & ~(score == -INFINITY));
            store(scores + t * BLOCK + v, value), sum += value;
        }
        for (int t = 0; t < keys; t++) store(scores + t * BLOCK + v, load(scores + t * BLOCK + v) / sum);
    }
}

/* The input is [pixels][queries, ...]; of `other` each key is followed by its value, of cout numbers for all heads. Queries are laid side by side,
 * [channels][BLOCK], and so are their scores, [keys][BLOCK]: keys and values stay where they are. */
static void attention(Run *run, const Operation *op, float *scratch) {
    int n = op->height * op->width, keys = op->tokens, d = op->cout / op->heads, strips = parts(n, BLOCK);
    float *queries = scratch, *scores = queries + (size_t)BLOCK * d, *made = scores + (size_t)BLOCK * keys, rate = 1 / sqrtf((float)d);
    for (int piece; (piece = take(run)) < strips * op->heads;) {
        int head = piece / strips, first = piece % strips * BLOCK, some = least(BLOCK, n - first);
        const float *with = op->other + head * d;
        for (int q = 0; q < BLOCK; q++) { /* those behind the last are the last once more, and nobody reads them */
            const float *from = op->in + (size_t)(first + least(q, some - 1)) * op->cin + head * d;
            for (int i = 0; i < d; i++) queries[i * BLOCK + q] = from[i] * rate;
        }
        panels(with, op->apart, 1, keys, queries, BLOCK, 0, d, scores, BLOCK, BLOCK / LANES);
        softmax(scores, keys, op->causal, first);
        for (int c = 0; c < d; c += BLOCK) panels(scores, 1, BLOCK, BLOCK, with + op->cout + c, op->apart, 0, keys, made + c, d, BLOCK / LANES);
        for (int q = 0; q < some; q++) memcpy(op->out + (size_t)(first + q) * op->cout + head * d, made + (size_t)q * d, sizeof(float) * d);
    }
}

/* Attention led away from what a negative prompt, `other`, makes of it: Normalized Attention Guidance (arXiv 2505.21179), as fewstep.models.attention
 * says it, pixel by pixel. */
static void guide(Run *run, const Operation *op) {
    const float tau = 2.5f, alpha = 0.5f, smallest = 1e-12f;
    int n = op->cout, pixels = op->height * op->width, most = pixels_of(op);
    for (int strip; (strip = take(run)) < strips_of(op);)
        for (int t = strip * most; t < least(pixels, (strip + 1) * most); t++) {
            const float *with = op->in + (size_t)t * n, *without = op->other + (size_t)t * n;
            float *to = op->out + (size_t)t * n;
            vec own = {0}, led = {0};
            for (int c = 0; c < n; c += LANES) {
                const vec there = load(with + c), guided = there + op->further * (there - load(without + c));
                own += larger(there, -there), led += larger(guided, -guided), store(to + c, guided);
            }
            float length = sum_of(led), bound = tau * sum_of(own) / (length < smallest ? smallest : length), rate = bound < 1 ? bound : 1;
            for (int c = 0; c < n; c += LANES) store(to + c, load(with + c) + alpha * (load(to + c) * rate - load(with + c)));
        }
}

/* Channels of `other` behind those of the input. */
static void concat(Run *run, const Operation *op) {
    int n = op->cin, more = op->cout - n, pixels = op->height * op->width, most = pixels_of(op);
    for (int strip; (strip = take(run)) < strips_of(op);) {
        float *stats = op->stats + (size_t)strip * 2 * op->cout;
        if (op->stats) memset(stats, 0, sizeof(float) * 2 * op->cout);
        for (int t = strip * most; t < least(pixels, (strip + 1) * most); t++)
            for (int c = 0; c < op->cout; c += LANES) {
                vec value = load(c < n ? op->in + (size_t)t * n + c : op->other + (size_t)t * more + c - n);
                store(op->out + (size_t)t * op->cout + c, value);
                if (op->stats) add(stats + c, value), add(stats + op->cout + c, value * value);
            }
    }
}

/* A picture `factor` times as large, from pixels of [factor][factor][cout] channels. */
static void shuffle(Run *run, const Operation *op) {
    int f = op->factor, width = op->width / f, row = f * op->cout;
    for (int y; (y = take(run)) < op->height;)
        for (int x = 0; x < width; x++) {
            const float *from = op->in + ((size_t)(y / f) * width + x) * op->cin + (size_t)(y % f) * row;
            memcpy(op->out + ((size_t)y * width + x) * row, from, sizeof(float) * row);
        }
}

/* The same, to planes [cout][height][width]. */
static void planes(Run *run, const Operation *op) {
    int f = op->factor, width = op->width / f;
    for (int y; (y = take(run)) < op->height;)
        for (int c = 0; c < op->cout; c++) {
            float *to = op->out + ((size_t)c * op->height + y) * op->width;
            for (int x = 0; x < op->width; x++) to[x] = op->in[((size_t)(y / f) * width + x / f) * op->cin + ((y % f) * f + x % f) * op->cout + c];
        }
}

/* Waits for the other threads, that all begin the next operation together: awake for some microseconds, as long as most waits are, then asleep. */
static void meet(Run *run) {
    int turn = __atomic_load_n(&run->turn, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&run->arrived, 1, __ATOMIC_ACQ_REL) == run->threads) {
        run->arrived = 0, run->next = 0;
        pthread_mutex_lock(&run->lock);
        __atomic_store_n(&run->turn, turn + 1, __ATOMIC_RELEASE);
        pthread_cond_broadcast(&run->changed);
        pthread_mutex_unlock(&run->lock);
        return;
    }
    for (int i = 0; i < PATIENCE && __atomic_load_n(&run->turn, __ATOMIC_ACQUIRE) == turn; i++) pause_();
    if (__atomic_load_n(&run->turn, __ATOMIC_ACQUIRE) != turn) return;
    pthread_mutex_lock(&run->lock);
    while (run->turn == turn) pthread_cond_wait(&run->changed, &run->lock);
    pthread_mutex_unlock(&run->lock);
}

static void work(Run *run) {
    float *scratch = run->scratch + run->each * __atomic_fetch_add(&run->started, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < run->count; i++) {
        const Operation *op = run->operations + i;
        if (op->kind == CONV3) conv3(run, op, scratch);
        if (op->kind == CONV1 || op->kind == DIRECT) dense(run, op, scratch);
        if (op->kind == ATTENTION) attention(run, op, scratch);
        if (op->kind == CONCAT) concat(run, op);
        if (op->kind == GUIDE) guide(run, op);
        if (op->kind == SHUFFLE) shuffle(run, op);
        if (op->kind == PLANES) planes(run, op);
        meet(run);
    }
    __atomic_add_fetch(&run->left, 1, __ATOMIC_RELEASE); /* who called takes the run away when all have left */
}

/* Threads that help whoever has them, and stay: to begin one takes a fiftieth of an evaluation. They wait awake for the next call as long as it
 * takes from one evaluation of a picture to the next, and then asleep. */
typedef struct {
    pthread_mutex_t busy, lock; /* busy: held by who has them; lock: over the rest */
    pthread_cond_t called;
    Run *run;
    int helpers, places, calls; /* places: in this run, that nobody has taken yet */
} Crew;

static Crew crews[MOST_CREWS];

/* When the kernels are loaded, and in a child, which has none of its parent's threads. */
static void form(void) {
    for (Crew *crew = crews; crew < crews + MOST_CREWS; crew++) {
        *crew = (Crew){.helpers = 0};
        pthread_mutex_init(&crew->busy, NULL), pthread_mutex_init(&crew->lock, NULL), pthread_cond_init(&crew->called, NULL);
    }
}
static __attribute__((constructor)) void loaded(void) { form(), pthread_atfork(NULL, NULL, form); }

static void *help(void *argument) {
    Crew *crew = argument;
    for (int seen = 0;;) { /* of what was called before there was this helper, all places are taken */
        for (int i = 0; i < LINGER && __atomic_load_n(&crew->calls, __ATOMIC_ACQUIRE) == seen; i++) pause_();
        pthread_mutex_lock(&crew->lock);
        while (crew->calls == seen) pthread_cond_wait(&crew->called, &crew->lock);
        seen = crew->calls;
        Run *run = crew->places > 0 ? crew->run : NULL;
        crew->places -= run != NULL;
        pthread_mutex_unlock(&crew->lock);
        if (run) work(run);
    }
    return NULL;
}

/* Has a crew's helpers, `wanted` of them or as many as can be had, do `run` as well. */
static void call(Crew *crew, Run *run, int wanted) {
    sigset_t all, before;
    pthread_t helper;
    sigfillset(&all), pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the threads of who called */
    pthread_mutex_lock(&crew->lock);
    while (crew->helpers < wanted && !pthread_create(&helper, NULL, help, crew)) pthread_detach(helper), crew->helpers++;
    crew->run = run, crew->places = least(wanted, crew->helpers), run->threads += crew->places;
    __atomic_add_fetch(&crew->calls, 1, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&crew->called);
    pthread_mutex_unlock(&crew->lock);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Does the operations, one after the other, on as many threads as can be had. `scratch` holds `threads` times the most that any operation needs. */
void compute(const Operation *operations, int count, float *scratch, size_t each, int threads) {
    Run run = {.operations = operations, .count = count, .threads = 1, .scratch = scratch, .each = each};
    Crew *crew = threads > 1 ? crews : crews + MOST_CREWS;
    pthread_mutex_init(&run.lock, NULL), pthread_cond_init(&run.changed, NULL);
    while (crew < crews + MOST_CREWS && pthread_mutex_trylock(&crew->busy)) crew++;
    if (crew < crews + MOST_CREWS) call(crew, &run, least(threads, MOST_THREADS) - 1);
    work(&run);
    for (int i = 0; __atomic_load_n(&run.left, __ATOMIC_ACQUIRE) < run.threads; i++) i < PATIENCE ? pause_() : (void)sched_yield();
    if (crew < crews + MOST_CREWS) pthread_mutex_unlock(&crew->busy);
    pthread_mutex_destroy(&run.lock), pthread_cond_destroy(&run.changed);
}
