// Arithmetic on vectors of channels between the passes, for the rules of `Stein`: one block of threads, one launch.
//
// The formulas are those of vectors.py, which the tests compare them with. Rules are 0 (none), 1 (sampling),
// 2 (channel) and 3 (gamma). `batch` holds what `merge` in passes.cu found; the noise of the means is `factor` times
// row `noise` of it: 1, the squared deviations, or 4, those of the samples' means.

typedef long long Index;

constexpr int THREADS = 256;

// A sum, or the largest value, over all threads; all of them learn it.
template <bool LARGEST>
__device__ double together(double mine) {
    __shared__ double shared[THREADS];
    shared[threadIdx.x] = mine;
    for (int n = THREADS / 2; n > 0; n /= 2) {
        __syncthreads();
        if (threadIdx.x < n) {
            double other = shared[threadIdx.x + n], here = shared[threadIdx.x];
            shared[threadIdx.x] = !LARGEST ? here + other : other > here ? other : here;
        }
    }
    __syncthreads();
    mine = shared[0];
    __syncthreads();
    return mine;
}

template <class Value>
__device__ double sum(Index channels, Value value) {
    double mine = 0;
    for (Index c = threadIdx.x; c < channels; c += THREADS) mine += value(c);
    return together<false>(mine);
}

// One entry of a parameter of so many bytes, or what stands for a missing one.
__device__ double entry(const void* parameter, Index bytes, Index c, double missing) {
    if (!parameter) return missing;
    return bytes == 8 ? ((const double*)parameter)[c] : ((const float*)parameter)[c];
}

__device__ double cut(double ratio) { return ratio < 0 ? 1 : ratio > 1 ? 0 : 1 - ratio; }

constexpr double LARGEST = 1.7976931348623157e308;
constexpr int REACH = 1000;  // a power of two that is in range, as its inverse is

template <class Value>
struct Sized {  // values in a unit in which squares are in range, 2^power; infinity counts as the largest number
    Value value;
    int power;
    double unit;

    __device__ double operator()(Index i) const {
        double v = value(i);
        return (isinf(v) ? copysign(LARGEST, v) : v) * unit;
    }
};

template <class Value>
__device__ Sized<Value> sized(Index c, Value value) {
    double mine = 0;
    for (Index i = threadIdx.x; i < c; i += THREADS) mine = fabs(value(i)) > mine ? fabs(value(i)) : mine;
    double largest = together<true>(mine);
    int power = 0;
    frexp(isinf(largest) ? LARGEST : largest, &power);
    power = power > REACH ? REACH : power < -REACH ? -REACH : power;
    return {value, power, ldexp(1.0, -power)};
}

struct Shares {  // of the spread between channels in the sum of squares, times (c - 2)/(c + 1)
    double ratio, squares, center;
};

template <class Value>
__device__ Shares by_channels(Index c, Value m) {
    double center = sum(c, m) / c;
    double spread = sum(c, [&](Index i) { return (m(i) - center) * (m(i) - center); });
    double squares = sum(c, [&](Index i) { return m(i) * m(i); });
    return {squares != 0 ? (c - 2.0) / (c + 1.0) * spread / squares : 1, squares, center};
}

struct Bock {  // sum v - 2 max v over the sum of squares; that sum; the largest v and how often it occurs
    double ratio, squares, largest, ties;  // all but the ratio in the units of what is given
};

template <class Mean, class Noise>
__device__ Bock bock(Index c, Sized<Mean> m, Sized<Noise> v) {
    double squares = sum(c, [&](Index i) { return m(i) * m(i); });
    double total = sum(c, v), mine = v(0);
    for (Index i = threadIdx.x; i < c; i += THREADS) mine = v(i) > mine ? v(i) : mine;
    double largest = together<true>(mine);
    double ties = sum(c, [&](Index i) { return v(i) == largest ? 1.0 : 0.0; });
    double ratio = squares != 0 ? ldexp((total - 2 * largest) / squares, v.power - 2 * m.power) : 1;
    return {ratio, squares, largest, ties > 1 ? ties : 1};
}

template <class Value>
__device__ double geometric(Index c, Value var) {
    double zeros = sum(c, [&](Index i) { return var(i) == 0 ? 1.0 : 0.0; });
    double logs = sum(c, [&](Index i) { return var(i) == 0 ? 0.0 : log(var(i)); });
    return zeros > 0 && !isnan(logs) ? 0 : exp(logs / c);
}

// found: (7, channels): center, variance, scale; the lines of the affine pass; the mean, rounded as data are.
extern "C" __global__ void stein(const double* batch, Index c, double count, Index noise, double factor, Index mean_rule,
                                 Index var_rule, double eps, const void* weight, Index weight_bytes, const void* bias,
                                 Index bias_bytes, Index single, double* found) {
    auto mean = [&](Index i) { return batch[i]; };
    auto var = [&](Index i) { return batch[c + i] / count; };
    double keep = 1, slope = 1, shift = 0;
    auto spread = [&](Index i) { return factor * batch[noise * c + i]; };
    if (mean_rule == 1 && c > 2) keep = cut(bock(c, sized(c, mean), sized(c, spread)).ratio);
    if (mean_rule == 2 && c > 2) keep = 1 - by_channels(c, sized(c, mean)).ratio;
    if (var_rule == 3) {
        slope = count / (count + 1);  // a channel alone has no share in a mean, which may be infinite
        if (c > 1) shift = 4 * (c - 1) * slope / ((count - 1) * c + 2) * geometric(c, var);
    }
    if (var_rule == 2 && c > 2) slope = 1 - by_channels(c, sized(c, var)).ratio;
    for (Index i = threadIdx.x; i < c; i += THREADS) {
        double center = keep * mean(i), variance = slope * var(i) + shift, scale = sqrt(variance + eps);
        double pivot = single ? (float)center : center;
        if (isinf(scale)) pivot = 0;  // times 0, a difference beyond the range is NaN
        double steep = entry(weight, weight_bytes, i, 1) / scale;
        found[i] = center;
        found[c + i] = variance;
        found[2 * c + i] = scale;
        found[3 * c + i] = pivot;
        found[4 * c + i] = steep;
        found[5 * c + i] = (pivot - center) * steep + entry(bias, bias_bytes, i, 0);
        found[6 * c + i] = single ? (float)mean(i) : mean(i);
    }
}

// The gradient for m from that for an estimate by channels: keep g + along m + across (m - center).
template <class Value>
struct Pull {
    double keep, along, across, center;
    Sized<Value> m;

    __device__ Pull(Index c, Sized<Value> m, const double* g) : keep(1), along(0), across(0), center(0), m(m) {
        if (c < 3) return;
        Shares shares = by_channels(c, m);
        double push = sum(c, [&](Index i) { return g[i] * m(i); });
        center = shares.center;
        if (shares.squares == 0) {
            keep = 0;
            return;
        }
        push *= 2 / shares.squares;
        keep = 1 - shares.ratio, along = push * shares.ratio, across = -push * (c - 2) / (c + 1);
    }

    __device__ double operator()(double g, Index i) const {
        return along == 0 && across == 0 ? keep * g : keep * g + along * m(i) + across * (m(i) - center);
    }
};

// sums: what reduce_grad found around the rounded mean; rule: what `stein` found; size: observations of a sample.
// lines: (5, channels), those of combine; gradients: (4, channels), of weight and bias, and room for two more.
extern "C" __global__ void stein_backward(const double* sums, const double* batch, const double* rule, Index c,
                                          double count, double size, Index noise, double factor, Index mean_rule,
                                          Index var_rule, double* lines, double* gradients) {
    auto mean = [&](Index i) { return batch[i]; };
    auto var = [&](Index i) { return batch[c + i] / count; };
    auto spread = [&](Index i) { return factor * batch[noise * c + i]; };
    double *d_center = gradients + 2 * c, *d_var = gradients + 3 * c;
    for (Index i = threadIdx.x; i < c; i += THREADS) {
        double total = sums[i], center = rule[i], scale = rule[2 * c + i], slope = rule[4 * c + i];
        double product = sums[c + i] - (mean(i) - rule[6 * c + i]) * total;
        double slant = (product + (mean(i) - center) * total) / scale;
        gradients[i] = slant;
        gradients[c + i] = total;
        d_center[i] = -slope * total;
        d_var[i] = -slope * slant * 0.5 / scale;
    }
    __syncthreads();
    Bock found = {1, 0, 0, 1};
    double keep = 1, push = 0;
    bool sampling = mean_rule == 1 && c > 2, pulls = false;
    auto m = sized(mean_rule ? c : 0, mean);
    auto v = sized(sampling ? c : 0, spread);
    if (sampling) {
        found = bock(c, m, v);
        pulls = found.squares != 0 && 0 < found.ratio && found.ratio < 1;  // the factor depends on the data
        keep = found.squares == 0 ? 0 : cut(found.ratio);
        push = sum(c, [&](Index i) { return d_center[i] * m(i); }) / found.squares;
    }
    Index by_mean = mean_rule == 2 ? c : 0, by_var = var_rule == 2 ? c : 0;
    Pull means(by_mean, m, d_center);
    Pull variances(by_var, sized(by_var, var), d_var);
    double weight = 1, middle = 0, pooled = 0;
    if (var_rule == 3) {
        weight = count / (count + 1);
        middle = geometric(c, var);
        pooled = 4 * (c - 1) * weight / ((count - 1) * c + 2) / c * middle * sum(c, [&](Index i) { return d_var[i]; });
    }
    for (Index i = threadIdx.x; i < c; i += THREADS) {
        double g_mean = means(d_center[i], i), g_noise = 0;
        if (sampling) {
            g_mean = keep * d_center[i];
            if (pulls) {
                g_mean += 2 * push * found.ratio * m(i);
                g_noise = -ldexp(push, -m.power) * (v(i) == found.largest ? 1 - 2 / found.ties : 1);
            }
        }
        double g_m2 = variances(d_var[i], i);
        if (var_rule == 3) g_m2 = weight * d_var[i] + (middle > 0 && !isinf(middle) ? pooled / var(i) : 0);
        g_m2 = g_m2 / count + (noise == 1 ? g_noise * factor : 0);
        double pivot = rule[6 * c + i], b = 2 * g_m2;
        lines[i] = pivot;
        lines[c + i] = rule[4 * c + i];
        lines[2 * c + i] = b;
        lines[3 * c + i] = g_mean / count - b * (mean(i) - pivot);
        lines[4 * c + i] = noise == 4 ? 2 * size * g_noise * factor : 0;
    }
}
