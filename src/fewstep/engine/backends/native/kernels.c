/* A convolutional network on a processor: a list of operations over pictures that lie pixel by pixel, [height][width][channels], channels
 * in whole blocks. fewstep/engine/backends/native/networks.py writes the list; compiled for the processor that it runs on
 * (library.py). It allocates nothing: who calls brings the memory, of the sizes that stats_of and scratch_of give.
 *
 * Convolutions of 3x3 are Winograd's F(4x4, 3x3) (Lavin and Gray, arXiv 1509.09308, section 4.3): 36 products make 16 outputs where the plain way
 * needs 144. What comes before a convolution is done while its input is read (group normalisation, activation, doubling), and what comes
 * after it while its output is written (bias, the sum with a residual, the statistics of the next normalisation), so that
 * nothing passes over a picture by itself. Work is cut into strips that do not depend on the number of threads, nor do the results.
 */
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX__
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
enum { LANES = 16, ROWS = 12 };
#elif defined(__AVX__)
enum { LANES = 8, ROWS = 6 };
#else
enum { LANES = 4, ROWS = 6 };
#endif
enum { BLOCK = 16, SIDE = 4, EDGE = 6, POINTS = EDGE * EDGE }; /* channels of a block; a tile of outputs, and of inputs */
enum { PIXELS = 240 };                                         /* of a strip of a 1x1 convolution: a multiple of ROWS */
enum { CACHE = 256 << 10 };                                    /* bytes that the transformed tiles of a chunk take, about */
enum { CONV3, CONV1, ATTENTION, SHUFFLE, PLANES };             /* kinds of operations */
enum { LINEAR, RELU, SILU };                                   /* activations of an input */
enum { MOST_THREADS = 256 };

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

typedef struct {
    int32_t kind, cin, cout, height, width; /* of the output */
    int32_t activation, doubled, factor;    /* doubled: the input is half as large; factor: of a shuffle */
    int32_t groups, source;                 /* of the normalisation of the input, 0 is none; which operation made the input */
    float epsilon;
    const float *in, *residual; /* residual: added to the output, or NULL */
    float *out, *stats;         /* stats: NULL where nobody asks for them, else [strips][sums, sums of squares][cout] */
    const float *weight, *bias, *gamma, *beta;
} Operation;

typedef struct {
    const Operation *operations;
    int count, threads;
    float *scratch; /* [threads][each] */
    size_t each;
    int next, started, arrived, turn; /* next: the strip that nobody has taken yet */
    pthread_mutex_t lock;
    pthread_cond_t changed;
} Run;

static inline vec load(const float *from) { return *(const loose *)from; }
static inline void store(float *to, vec value) { *(loose *)to = value; }
static inline void add(float *to, vec value) { store(to, load(to) + value); }

/* x, or the nearest bound; what is no number stays none. */
static inline vec within(vec x, vec low, vec high) {
#if defined(__AVX512F__)
    return _mm512_min_ps(high, _mm512_max_ps(low, x));
#elif defined(__AVX__)
    return _mm256_min_ps(high, _mm256_max_ps(low, x));
#else
    const ivec under = x < low, over = x > high;
    return (vec)((under & (ivec)low) | (over & (ivec)high) | (~(under | over) & (ivec)x));
#endif
}

static inline int least(int a, int b) { return a < b ? a : b; }
static inline int parts(int all, int each) { return (all + each - 1) / each; }

/* e^x to seven digits (Cephes' expf), for x from -87 to 87 and beyond them as there. */
static inline vec power(vec x) {
    const vec half = (vec){0} + 12582912.0f; /* 1.5 * 2^23: a sum with it is rounded to a whole */
    x = within(x, (vec){0} - 87.0f, (vec){0} + 87.0f);
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

static inline vec activated(vec x, int kind) {
    if (kind == SILU) return x / (1.0f + power(-x));
    if (kind == RELU) return (vec)(~(x < 0) & (ivec)x);
    return x;
}

/* out[ROWS][wide vectors] = left[ROWS][depth] . right[depth][wide vectors], which lies in blocks [depth][BLOCK]; n: the numbers of a row of `out`. */
static inline __attribute__((always_inline)) void panel(const float *left, const float *right, int depth, float *out, int n, int wide) {
    vec sums[ROWS][2 * BLOCK / LANES]; /* in registers */
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < wide; v++) sums[r][v] = (vec){0};
    for (int i = 0; i < depth; i++) {
        vec column[2 * BLOCK / LANES];
        for (int v = 0; v < wide; v++) column[v] = load(right + ((size_t)(v * LANES / BLOCK) * depth + i) * BLOCK + v * LANES % BLOCK);
        for (int r = 0; r < ROWS; r++)
            for (int v = 0; v < wide; v++) sums[r][v] += left[(size_t)r * depth + i] * column[v];
    }
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < wide; v++) store(out + (size_t)r * n + v * LANES, sums[r][v]);
}

/* out[rows][n] = left[rows][depth] . right[n / BLOCK][depth][BLOCK]; rows is a multiple of ROWS. */
static void multiply(const float *left, int rows, const float *right, int depth, int n, float *out) {
    for (int column = 0; column < n;) {
        int wide = (int)LANES == (int)BLOCK && column + 2 * BLOCK <= n ? 2 : 1; /* blocks: one vector a row leaves registers idle */
        for (int r = 0; r < rows; r += ROWS) {
            const float *from = left + (size_t)r * depth, *with = right + (size_t)column * depth;
            float *to = out + (size_t)r * n + column;
            if (wide == 2)
                panel(from, with, depth, to, n, 2 * BLOCK / LANES);
            else
                panel(from, with, depth, to, n, BLOCK / LANES);
        }
        column += wide * BLOCK;
    }
}

/* How many rows of tiles a 3x3 convolution reads at once: some thirty tiles, and at least two halves of a picture. */
static int depth_of(const Operation *op) {
    int across = parts(op->width, SIDE), half = parts(op->height, SIDE) / 2;
    return across >= 32 || half < 1 ? 1 : least(32 / across, half);
}

/* How many rows of tiles a strip has, which are read one after the other: the rows of pixels beside a strip are read twice. */
static int strip_of(const Operation *op) {
    int depth = depth_of(op), fourth = parts(op->height, SIDE) / 8 / depth;
    return depth * (fourth < 1 ? 1 : least(fourth, 4));
}

/* How many tiles are transformed at once. */
static int chunk_of(const Operation *op) {
    int tiles = CACHE / (POINTS * (int)sizeof(float) * (op->cin + op->cout)) / ROWS * ROWS;
    return tiles < ROWS ? ROWS : least(tiles, 8 * ROWS);
}

static int strips_of(const Operation *op) {
    if (op->kind == CONV3) return parts(parts(op->height, SIDE), strip_of(op));
    return parts(op->height * op->width, op->kind == ATTENTION ? ROWS : PIXELS);
}

/* Numbers that the statistics of an operation take. */
size_t stats_of(const Operation *op) { return (size_t)strips_of(op) * 2 * op->cout; }

/* Numbers that one thread needs beside the pictures. */
size_t scratch_of(const Operation *op) {
    size_t pixels = (size_t)op->height * op->width, both = (size_t)op->cin + op->cout, scale = 2 * (size_t)op->cin;
    if (op->kind == CONV3) return scale + (size_t)(depth_of(op) * SIDE + 2) * (parts(op->width, SIDE) * SIDE + 2) * op->cin + POINTS * chunk_of(op) * both;
    if (op->kind == CONV1) return scale + PIXELS * both;
    return op->kind == ATTENTION ? (pixels + BLOCK) * op->cout * 2 + ROWS * (2 * (size_t)op->cout + pixels + BLOCK) : 0;
}

/* The strip that this thread does next. */
static int take(Run *run) { return __atomic_fetch_add(&run->next, 1, __ATOMIC_RELAXED); }

/* Group normalisation as one scale and one shift for each channel, from the sums that the operation before left. */
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

/* One row of the input as a convolution sees it, with a pixel of zeros before it and as many behind it as the last tile reaches. */
static void fetch(const Operation *op, int y, const float *scale, const float *shift, float *to) {
    int n = op->cin, width = op->width, behind = parts(width, SIDE) * SIDE + 1 - width;
    size_t pixel = sizeof(float) * n;
    memset(to, 0, pixel), memset(to + (size_t)(width + 1) * n, 0, pixel * behind), to += n;
    if (y < 0 || y >= op->height) {
        memset(to, 0, pixel * width);
    } else if (op->doubled) {
        const float *row = op->in + (size_t)(y / 2) * (width / 2) * n;
        for (int x = 0; x < width; x++) memcpy(to + (size_t)x * n, row + (size_t)(x / 2) * n, pixel);
    } else {
        const float *row = op->in + (size_t)y * width * n;
        for (int x = 0; x < width; x++, to += n, row += n)
            for (int c = 0; c < n; c += LANES) {
                vec value = load(row + c);
                if (op->groups) value = value * load(scale + c) + load(shift + c);
                store(to + c, activated(value, op->activation));
            }
    }
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
    normalisation(run, op, scale, shift);
    for (int strip; (strip = take(run)) < strips_of(op);) {
        int top = strip * strip_of(op), bottom = least(down, top + strip_of(op));
        float *stats = op->stats ? op->stats + (size_t)strip * 2 * cout : NULL;
        if (stats) memset(stats, 0, sizeof(float) * 2 * cout);
        for (int first = top; first < bottom; first += depth) {
            int tiles = least(depth, bottom - first) * across, there = first == top ? 0 : 2; /* rows that were read already */
            if (there) memmove(rows, rows + (size_t)depth * SIDE * stride, sizeof(float) * 2 * stride);
            for (int y = there; y < tiles / across * SIDE + 2; y++) fetch(op, first * SIDE + y - 1, scale, shift, rows + y * stride);
            for (int begin = 0; begin < tiles; begin += chunk) {
                int some = least(chunk, tiles - begin), padded = parts(some, ROWS) * ROWS;
                for (int t = 0; t < padded; t++) { /* those behind the last are the first once more, and nobody reads them */
                    int tile = begin + (t < some ? t : 0);
                    const float *from = rows + (size_t)(tile / across) * SIDE * stride + (size_t)(tile % across) * SIDE * cin;
                    for (int c = 0; c < cin; c += LANES) to_points(from + c, stride, cin, points + (size_t)t * cin + c, (size_t)padded * cin);
                }
                for (size_t point = 0; point < POINTS; point++)
                    multiply(points + point * padded * cin, padded, op->weight + point * cin * cout, cin, cout, made + point * padded * cout);
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

static void conv1(Run *run, const Operation *op, float *scratch) {
    int cin = op->cin, cout = op->cout, pixels = op->height * op->width;
    float *scale = scratch, *shift = scale + cin, *rows = shift + cin, *made = rows + (size_t)PIXELS * cin;
    normalisation(run, op, scale, shift);
    for (int strip; (strip = take(run)) < strips_of(op);) {
        size_t first = (size_t)strip * PIXELS;
        int some = least(PIXELS, pixels - (int)first), padded = parts(some, ROWS) * ROWS;
        const float *left = op->in + first * cin;
        if (op->groups || op->activation || padded > some) {
            memset(rows + (size_t)some * cin, 0, sizeof(float) * (padded - some) * cin);
            for (int t = 0; t < some; t++)
                for (int c = 0; c < cin; c += LANES) {
                    vec value = load(left + (size_t)t * cin + c);
                    if (op->groups) value = value * load(scale + c) + load(shift + c);
                    store(rows + (size_t)t * cin + c, activated(value, op->activation));
                }
            left = rows;
        }
        multiply(left, padded, op->weight, cin, cout, made);
        for (int c = 0; c < cout; c += LANES) {
            const vec bias = load(op->bias + c);
            vec sum = {0}, squares = {0};
            for (int t = 0; t < some; t++) {
                size_t at = (first + t) * cout + c;
                vec value = load(made + (size_t)t * cout + c) + bias;
                if (op->residual) value += load(op->residual + at);
                store(op->out + at, value);
                sum += value, squares += value * value;
            }
            if (op->stats) store(op->stats + (size_t)strip * 2 * cout + c, sum), store(op->stats + ((size_t)strip * 2 + 1) * cout + c, squares);
        }
    }
}

/* Attention of one head over all pixels; the input is [pixels][queries, keys, values], of cout channels each. */
static void attention(Run *run, const Operation *op, float *scratch) {
    int n = op->height * op->width, padded = parts(n, BLOCK) * BLOCK, c = op->cout;
    float *keys = scratch, *values = keys + (size_t)padded * c, *queries = values + (size_t)n * c;
    float *scores = queries + ROWS * c, *made = scores + (size_t)ROWS * padded;
    float rate = 1 / sqrtf((float)c);
    memset(keys, 0, sizeof(float) * padded * c);
    for (int t = 0; t < n; t++)
        for (int i = 0; i < c; i++) {
            const float *from = op->in + (size_t)t * op->cin + i;
            keys[((size_t)(t / BLOCK) * c + i) * BLOCK + t % BLOCK] = from[c];
            values[((size_t)(i / BLOCK) * n + t) * BLOCK + i % BLOCK] = from[2 * c];
        }
    for (int strip; (strip = take(run)) < strips_of(op);) {
        int first = strip * ROWS, some = least(ROWS, n - first);
        memset(queries, 0, sizeof(float) * ROWS * c);
        for (int r = 0; r < some; r++) memcpy(queries + (size_t)r * c, op->in + (size_t)(first + r) * op->cin, sizeof(float) * c);
        multiply(queries, ROWS, keys, c, padded, scores);
        for (int r = 0; r < ROWS; r++) {
            float *row = scores + (size_t)r * padded, top = row[0], total = 0;
            for (int t = 1; t < n; t++) top = row[t] > top ? row[t] : top;
            for (int t = 0; t < padded; t += LANES) store(row + t, power((load(row + t) - top) * rate));
            for (int t = 0; t < n; t++) total += row[t];
            for (int t = 0; t < padded; t += LANES) store(row + t, load(row + t) / total);
            memmove(scores + (size_t)r * n, row, sizeof(float) * n);
        }
        multiply(scores, ROWS, values, n, c, made);
        memcpy(op->out + (size_t)first * c, made, sizeof(float) * some * c);
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

/* Waits for the other threads, that all begin the next operation together. */
static void meet(Run *run) {
    pthread_mutex_lock(&run->lock);
    int turn = run->turn;
    if (++run->arrived == run->threads) {
        run->arrived = 0, run->next = 0, run->turn++;
        pthread_cond_broadcast(&run->changed);
    }
    while (run->turn == turn) pthread_cond_wait(&run->changed, &run->lock);
    pthread_mutex_unlock(&run->lock);
}

static void *work(void *argument) {
    Run *run = argument;
    pthread_mutex_lock(&run->lock); /* until all are there */
    float *scratch = run->scratch + run->each * run->started++;
    pthread_mutex_unlock(&run->lock);
    for (int i = 0; i < run->count; i++) {
        const Operation *op = run->operations + i;
        if (op->kind == CONV3) conv3(run, op, scratch);
        if (op->kind == CONV1) conv1(run, op, scratch);
        if (op->kind == ATTENTION) attention(run, op, scratch);
        if (op->kind == SHUFFLE) shuffle(run, op);
        if (op->kind == PLANES) planes(run, op);
        meet(run);
    }
    return NULL;
}

/* Does the operations, one after the other, on as many threads as can be had. `scratch` holds `threads` times the most that any operation needs. */
void compute(const Operation *operations, int count, float *scratch, size_t each, int threads) {
    Run run = {.operations = operations, .count = count, .threads = 1, .scratch = scratch, .each = each};
    pthread_t helpers[MOST_THREADS];
    pthread_mutex_init(&run.lock, NULL), pthread_cond_init(&run.changed, NULL);
    pthread_mutex_lock(&run.lock);
    while (run.threads < least(threads, MOST_THREADS) && !pthread_create(helpers + run.threads, NULL, work, &run)) run.threads++;
    pthread_mutex_unlock(&run.lock);
    work(&run);
    for (int i = 1; i < run.threads; i++) pthread_join(helpers[i], NULL);
    pthread_mutex_destroy(&run.lock), pthread_cond_destroy(&run.changed);
}
