// The four passes over data in a GPU's memory, compiled for one type of data: DATA is 16 (float16), 17 (bfloat16), 32
// or 64 (floats).
//
// The memory is (samples, rows, channels, length), without gaps. There are two ways to walk through it:
//
//   Planar       a team of threads shares a run, `length` neighbours that belong to one channel;
//   Interleaved  (length 1) a thread keeps to its channels and goes down the rows, in step with its neighbours.
//
// Long runs, and samples of many rows, are cut, so that there is work for every multiprocessor. What a team finds out
// about a channel is a part. Parts are merged in a fixed order: the same input gives the same bits.

typedef long long Index;

#if DATA == 64
typedef double Data;
typedef double Wide;
#elif DATA == 32
typedef float Data;
typedef float Wide;
#else
typedef unsigned short Data;  // the bits of half precision
typedef float Wide;
#endif

#if DATA == 16 && defined(__CUDACC__)
__device__ Wide wide(Data v) {
    Wide result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(v));
    return result;
}
__device__ Data narrow(Wide v) {
    Data result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result) : "f"(v));
    return result;
}
#elif DATA == 17
__device__ Wide wide(Data v) { return __uint_as_float((unsigned)v << 16); }
__device__ Data narrow(Wide v) {  // to the nearest, ties to even
    unsigned bits = __float_as_uint(v);
    return v != v ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
#elif DATA != 16
__device__ Wide wide(Data v) { return v; }
__device__ Data narrow(Wide v) { return v; }
#endif

constexpr int THREADS = 256;              // of a block
constexpr int WIDTH = 16 / sizeof(Data);  // elements of a load
constexpr int DEPTH = 4;                  // loads under way at once
constexpr float TINY = 1e-25f;            // below it, squares of float32 deviations may have underflowed

template <int N>
struct Count {
    static constexpr int value = N;
};

template <class T>
__device__ bool is_finite(T v) {
    return v - v == 0;
}

// --- elements to and from memory ----------------------------------------------------------------------------------

union Pack {
    uint4 bits;
    Data data[WIDTH];
};

// N elements from `from` on: W neighbours, then again W after every `step`.
template <int W, int N>
__device__ void load(Wide (&v)[N], const Data* from, Index step) {
#pragma unroll
    for (int k = 0; k < N / W; ++k) {
        if (W == 1) {
            v[k] = wide(from[k * step]);
        } else {
            Pack pack;
            pack.bits = *(const uint4*)(from + k * step);
#pragma unroll
            for (int i = 0; i < W; ++i) v[k * W + i] = wide(pack.data[i]);
        }
    }
}

template <int W, int N>
__device__ void store(Data* to, Index step, const Wide (&v)[N]) {
#pragma unroll
    for (int k = 0; k < N / W; ++k) {
        if (W == 1) {
            to[k * step] = narrow(v[k]);
        } else {
            Pack pack;
#pragma unroll
            for (int i = 0; i < W; ++i) pack.data[i] = narrow(v[k * W + i]);
            *(uint4*)(to + k * step) = pack.bits;
        }
    }
}

// --- two ways through memory --------------------------------------------------------------------------------------

// Visit `packs` packs of W elements, `step` apart, several at once: body(first element, step, W, elements).
template <int W, class Body>
__device__ void visit(Index at, Index step, Index packs, Body body) {
    for (; packs >= DEPTH; packs -= DEPTH, at += DEPTH * step) body(at, step, Count<W>(), Count<DEPTH * W>());
    for (; packs > 0; --packs, at += step) body(at, step, Count<W>(), Count<W>());
}

__device__ Index shares(Index total, Index first, Index step) {  // of first, first + step, ... below total
    return total > first ? (total - first + step - 1) / step : 0;
}

// What all kernels take: see `Grid` in cuda.py.
#define GRID Index rows, Index channels, Index length, Index size, Index cuts, Index team, Index parts
#define SIZES rows, channels, length, size, cuts, team, parts

struct Planar {
    static constexpr int LANES = 1;  // channels of a thread; element i is of lane i % LANES
    Index part, sample, channel, start, count;
    int position, members, stride;  // of the team: this thread's place, the threads, and how far apart they are
    bool works;

    __device__ Planar(GRID) {
        Index task = ((Index)blockIdx.x * THREADS + threadIdx.x) / team;
        Index cut = task % cuts, row = task / cuts / channels;
        channel = task / cuts % channels;
        part = row * cuts + cut;
        sample = row / rows;
        start = (row * channels + channel) * length + cut * size;
        count = min(size, length - cut * size);
        position = threadIdx.x % team, members = team, stride = 1;
        works = part < parts;
    }

    // Packs lie at multiples of 16 bytes; what is before the first and behind the last goes one by one.
    template <class Body>
    __device__ void each(const Data* x, const Data* y, const Data* z, Body body) const {
        Index bits = (Index)(x + start);
        bool alike = ((bits ^ (Index)(y + start)) & 15) == 0 && ((bits ^ (Index)(z + start)) & 15) == 0;
        Index head = alike ? min(count, (Index)((16 - (bits & 15)) % 16 / sizeof(Data))) : count;
        Index packs = (count - head) / WIDTH, tail = head + packs * WIDTH;
        visit<1>(start + position, members, shares(head, position, members), body);
        visit<WIDTH>(start + head + position * WIDTH, members * WIDTH, shares(packs, position, members), body);
        visit<1>(start + tail + position, members, shares(count - tail, position, members), body);
    }
};

template <int W>  // WIDTH, or 1 where rows do not begin at multiples of 16 bytes
struct Interleaved {
    static constexpr int LANES = W;
    Index part, sample, channel, start, count, across;
    int position, members, stride;
    bool works;

    __device__ Interleaved(GRID) {
        Index columns = channels / W, tiles = (columns + team - 1) / team;
        Index column = blockIdx.x % tiles * team + threadIdx.x % team;
        part = blockIdx.x / tiles;
        sample = part / cuts;
        channel = column * W;
        position = threadIdx.x / team, members = THREADS / team, stride = team;
        Index begin = part % cuts * size;
        count = shares(min(size, rows - begin), position, members);
        start = (sample * rows + begin + position) * channels + channel;
        across = members * channels;
        works = column < columns && position < members;
    }

    template <class Body>
    __device__ void each(const Data*, const Data*, const Data*, Body body) const {
        visit<W>(start, across, count, body);
    }
};

// What all kernels take: data to read and to write, vectors of channels one after the other, a vector for every sample
// (or null), and a place for what was found out.
#define ARRAYS const Data *__restrict__ x, const Data *__restrict__ g, Data *__restrict__ y, \
    const double *__restrict__ lines, const double *__restrict__ each_sample, double *__restrict__ found

// Every pass in its three forms.
#define PASS(name)                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS) name##_planar(GRID, ARRAYS) {          \
        name(Planar(SIZES), length, channels, parts, x, g, y, lines, each_sample, found);        \
    }                                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS) name##_interleaved(GRID, ARRAYS) {     \
        name(Interleaved<WIDTH>(SIZES), length, channels, parts, x, g, y, lines, each_sample, found); \
    }                                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS) name##_single(GRID, ARRAYS) {          \
        name(Interleaved<1>(SIZES), length, channels, parts, x, g, y, lines, each_sample, found); \
    }

// What the team found together, in a fixed order; in the end the thread at position 0 knows it.
template <class T>
__device__ void fold(T& mine, int position, int members, int stride) {
    __shared__ T shared[THREADS];
    shared[threadIdx.x] = mine;
    for (int n = members, half; n > 1; n = half) {
        half = (n + 1) / 2;
        __syncthreads();
        if (position + half < n) shared[threadIdx.x].add(shared[threadIdx.x + half * stride]);
    }
    mine = shared[threadIdx.x];
    __syncthreads();
}

// --- moments: reads x ---------------------------------------------------------------------------------------------

template <class T>
__device__ T lower(T a, T b) { return b < a || b != b ? b : a; }  // NaN if one of them is

template <class T>
__device__ T higher(T a, T b) { return b > a || b != b ? b : a; }

// Sums of deviations from a pivot that all parts of a channel share: its very first element. An element of the data
// cannot be so far away that float64 would lose digits of the variance, which that element itself makes large.
struct Sums {
    double total, squares;
    Wide low, high;

    __device__ void add(const Sums& other) {
        total += other.total;
        squares += other.squares;
        low = lower(low, other.low);
        high = higher(high, other.high);
    }
};

// N elements in registers, summed around their own mean in their own type. Where squares leave its range: in float64.
template <int N>
__device__ void absorb(Sums& sums, const Wide (&v)[N], double pivot) {
    Wide center = 0, t = 0, q = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) center += v[i] * (Wide)(1.0 / N);
    if (!is_finite(center)) center = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) {
        Wide d = v[i] - center;
        t += d;
        q += d * d;
        sums.low = lower(sums.low, v[i]);
        sums.high = higher(sums.high, v[i]);
    }
    double total = t, squares = q, shift = (double)center - pivot;
    if (sizeof(Wide) == 4 && N > 1 && !(q > TINY && is_finite(q))) {
        total = squares = 0;
#pragma unroll
        for (int i = 0; i < N; ++i) {
            double d = (double)v[i] - center;
            total += d;
            squares += d * d;
        }
    }
    sums.total += total + N * shift;
    sums.squares += squares + shift * (2 * total + N * shift);
}

__device__ double pivot_of(const Data* x, Index channel, Index length) {
    Wide first = wide(x[channel * length]);
    return is_finite(first) ? first : 0;
}

// found: (4, parts, channels), the total, the squares, the minimum and the maximum.
template <class Walk>
__device__ void moments(Walk walk, Index length, Index channels, Index parts, const Data* x, const Data*, Data*,
                        const double*, const double*, double* found) {
    constexpr int L = Walk::LANES;
    Sums sums[L];
    if (walk.works) {
        double pivot[L];
#pragma unroll
        for (int j = 0; j < L; ++j) {
            Wide first = wide(x[(walk.channel + j) * length]);
            sums[j] = {0, 0, first, first};
            pivot[j] = pivot_of(x, walk.channel + j, length);
        }
        walk.each(x, x, x, [&](Index at, Index step, auto width, auto elements) {
            constexpr int W = decltype(width)::value, N = decltype(elements)::value;
            Wide v[N];
            load<W>(v, x + at, step);
#pragma unroll
            for (int j = 0; j < L; ++j) {
                Wide lane[N / L];
#pragma unroll
                for (int i = 0; i < N / L; ++i) lane[i] = v[i * L + j];
                absorb(sums[j], lane, pivot[j]);
            }
        });
    }
    for (int j = 0; j < L; ++j) {
        fold(sums[j], walk.position, walk.members, walk.stride);
        if (!walk.works || walk.position != 0) continue;
        double* to = found + walk.part * channels + walk.channel + j;
        Index next = parts * channels;
        to[0] = sums[j].total;
        to[next] = sums[j].squares;
        to[2 * next] = sums[j].low;
        to[3 * next] = sums[j].high;
    }
}
PASS(moments)

// --- affine: reads x, writes y ------------------------------------------------------------------------------------

// lines: pivot, a, b. y = a (x - pivot) + b
template <class Walk>
__device__ void affine(Walk walk, Index, Index channels, Index, const Data* x, const Data*, Data* y,
                       const double* lines, const double*, double*) {
    if (!walk.works) return;
    constexpr int L = Walk::LANES;
    Wide pivot[L], a[L], b[L];
#pragma unroll
    for (int j = 0; j < L; ++j) {
        const double* line = lines + walk.channel + j;
        pivot[j] = line[0], a[j] = line[channels], b[j] = line[2 * channels];
    }
    walk.each(x, y, x, [&](Index at, Index step, auto width, auto elements) {
        constexpr int W = decltype(width)::value, N = decltype(elements)::value;
        Wide v[N];
        load<W>(v, x + at, step);
#pragma unroll
        for (int i = 0; i < N; ++i) v[i] = (v[i] - pivot[i % L]) * a[i % L] + b[i % L];
        store<W>(y + at, step, v);
    });
}
PASS(affine)

// --- reduce_grad: reads g and x -----------------------------------------------------------------------------------

struct Products {
    double total, product;

    __device__ void add(const Products& other) {
        total += other.total;
        product += other.product;
    }
};

// lines: a pivot. found: (2, parts, channels), the sums of g and of g (x - pivot).
template <class Walk>
__device__ void reduce_grad(Walk walk, Index, Index channels, Index parts, const Data* x, const Data* g, Data*,
                            const double* lines, const double*, double* found) {
    constexpr int L = Walk::LANES;
    Products sums[L];
    if (walk.works) {
        Wide pivot[L];
#pragma unroll
        for (int j = 0; j < L; ++j) {
            pivot[j] = lines[walk.channel + j];
            sums[j] = {0, 0};
        }
        walk.each(x, g, x, [&](Index at, Index step, auto width, auto elements) {
            constexpr int W = decltype(width)::value, N = decltype(elements)::value;
            Wide v[N], w[N];
            load<W>(v, x + at, step);
            load<W>(w, g + at, step);
#pragma unroll
            for (int j = 0; j < L; ++j) {
                Wide total = 0, product = 0;
#pragma unroll
                for (int i = j; i < N; i += L) {
                    total += w[i];
                    product += w[i] * (v[i] - pivot[j]);
                }
                sums[j].add({total, product});
            }
        });
    }
    for (int j = 0; j < L; ++j) {
        fold(sums[j], walk.position, walk.members, walk.stride);
        if (!walk.works || walk.position != 0) continue;
        double* to = found + walk.part * channels + walk.channel + j;
        to[0] = sums[j].total;
        to[parts * channels] = sums[j].product;
    }
}
PASS(reduce_grad)

// --- combine: reads g and x, writes y -----------------------------------------------------------------------------

// lines: pivot, a, b, d, e. y = a g + b (x - pivot) + d + e each_sample[sample]
template <class Walk>
__device__ void combine(Walk walk, Index, Index channels, Index, const Data* x, const Data* g, Data* y,
                        const double* lines, const double* each_sample, double*) {
    if (!walk.works) return;
    constexpr int L = Walk::LANES;
    Wide pivot[L], a[L], b[L], d[L];
#pragma unroll
    for (int j = 0; j < L; ++j) {
        const double* line = lines + walk.channel + j;
        pivot[j] = line[0], a[j] = line[channels], b[j] = line[2 * channels];
        double of_sample = each_sample ? line[4 * channels] * each_sample[walk.sample * channels + walk.channel + j] : 0;
        d[j] = line[3 * channels] + of_sample;
    }
    walk.each(x, g, y, [&](Index at, Index step, auto width, auto elements) {
        constexpr int W = decltype(width)::value, N = decltype(elements)::value;
        Wide v[N], w[N];
        load<W>(v, x + at, step);
        load<W>(w, g + at, step);
#pragma unroll
        for (int i = 0; i < N; ++i) v[i] = a[i % L] * w[i] + (b[i % L] * (v[i] - pivot[i % L]) + d[i % L]);
        store<W>(y + at, step, v);
    });
}
PASS(combine)

// --- parts and samples, merged ------------------------------------------------------------------------------------

constexpr int ACROSS = 8, DOWN = THREADS / ACROSS;  // a block merges so many channels, with so many threads for each

struct Entry {  // the total, or squares, of several parts; their minimum; or their maximum
    double value;
    int field;

    __device__ void add(const Entry& other) {
        value = field < 2 ? value + other.value : field == 2 ? lower(value, other.value) : higher(value, other.value);
    }
};

// (fields, samples * cuts, channels) to (fields, samples, channels).
extern "C" __global__ void gather(const double* parts, Index samples, Index channels, Index cuts, double* found) {
    Index tiles = (channels + ACROSS - 1) / ACROSS, row = blockIdx.x / tiles;
    Index channel = blockIdx.x % tiles * ACROSS + threadIdx.x % ACROSS;
    int position = threadIdx.x / ACROSS, members = min(cuts, (Index)DOWN);
    Entry mine = {0, (int)(row / samples)};
    if (channel < channels && position < members) {
        const double* from = parts + row * cuts * channels + channel;
        mine.value = from[position * channels];
        for (Index i = position + DOWN; i < cuts; i += DOWN) mine.add({from[i * channels], 0});
    }
    fold(mine, position, members, ACROSS);
    if (channel < channels && position == 0) found[row * channels + channel] = mine.value;
}

// sums: (4, samples, channels) around the pivots, `size` elements in each sample.
// found: (5, channels), mean, squared deviations, minimum, maximum, squared deviations of the samples' means times
// `weight`; deviations: (samples, channels), of the samples' means from the mean.
extern "C" __global__ void merge(const Data* x, Index length, const double* sums, Index samples, Index channels,
                                 Index size, double weight, double* found, double* deviations) {
    Index channel = (Index)blockIdx.x * ACROSS + threadIdx.x % ACROSS, next = samples * channels;
    int position = threadIdx.x / ACROSS, members = min(samples, (Index)DOWN);
    bool works = channel < channels && position < members;
    __shared__ double center[ACROSS];
    Entry entry[4];
    for (int field = 0; field < 4; ++field) {
        entry[field] = {0, field};
        if (works) {
            const double* from = sums + field * next + channel;
            entry[field].value = from[position * channels];
            for (Index s = position + DOWN; s < samples; s += DOWN) entry[field].add({from[s * channels], 0});
        }
        fold(entry[field], position, members, ACROSS);
    }
    double count = (double)samples * size, shift = entry[0].value / count;
    if (position == 0) center[threadIdx.x] = shift;
    __syncthreads();
    Entry between = {0, 0};
    if (works) {
        for (Index s = position; s < samples; s += DOWN) {
            double d = sums[s * channels + channel] / size - center[threadIdx.x % ACROSS];
            between.value += d * d;
            deviations[s * channels + channel] = d;
        }
    }
    fold(between, position, members, ACROSS);
    if (!works || position != 0) return;
    double squares = entry[1].value - entry[0].value * shift;
    found[channel] = pivot_of(x, channel, length) + shift;
    found[channels + channel] = squares < 0 ? 0 : squares;
    found[2 * channels + channel] = entry[2].value;
    found[3 * channels + channel] = entry[3].value;
    found[4 * channels + channel] = between.value * weight;
}
