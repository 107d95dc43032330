// As much of CUDA as the kernels use, on the CPU: threads of a block are fibers that take turns at every barrier.
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#define __global__
#define __device__ inline
#define __shared__ static
#define __launch_bounds__(n)
#define __restrict__

struct Triple {
    unsigned x, y, z;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
static Triple blockIdx, threadIdx, blockDim, gridDim;

static float __uint_as_float(unsigned bits) {
    float v;
    std::memcpy(&v, &bits, 4);
    return v;
}
static unsigned __float_as_uint(float v) {
    unsigned bits;
    std::memcpy(&bits, &v, 4);
    return bits;
}
using std::isinf;
using std::isnan;
using std::min;

#if DATA == 16  // GCC's own half precision stands in for the GPU's conversions
static float wide(unsigned short v) {
    _Float16 half;
    std::memcpy(&half, &v, 2);
    return half;
}
static unsigned short narrow(float v) {
    _Float16 half = v;
    unsigned short bits;
    std::memcpy(&bits, &half, 2);
    return bits;
}
#endif

static ucontext_t scheduler;
static std::vector<ucontext_t> fibers;
static std::vector<char> done;
static std::function<void()> body;

static void __syncthreads() { swapcontext(&fibers[threadIdx.x], &scheduler); }

static void fiber() {
    unsigned me = threadIdx.x;
    body();
    done[me] = 1;
}

static void run_block(unsigned threads) {
    static std::vector<char> stacks;
    const size_t size = 1 << 16;
    stacks.resize(threads * size);
    fibers.assign(threads, ucontext_t());
    done.assign(threads, 0);
    for (unsigned t = 0; t < threads; ++t) {
        getcontext(&fibers[t]);
        fibers[t].uc_stack.ss_sp = &stacks[t * size];
        fibers[t].uc_stack.ss_size = size;
        fibers[t].uc_link = &scheduler;
        makecontext(&fibers[t], fiber, 0);
    }
    for (unsigned finished = 0; finished < threads;) {
        // Backwards and forwards: a result that depends on who comes first at a barrier is a race.
        static bool backwards;
        backwards = !backwards;
        unsigned before = finished;
        for (unsigned i = 0; i < threads; ++i) {
            threadIdx = {backwards ? threads - 1 - i : i, 0, 0};
            if (!done[threadIdx.x]) {
                unsigned me = threadIdx.x;
                swapcontext(&scheduler, &fibers[me]);
                finished += done[me];
            }
        }
        if (finished != before && finished != threads) {
            std::fprintf(stderr, "a barrier that %u of %u threads never reach\n", finished, threads);
            std::abort();
        }
    }
}

template <class... A, size_t... I>
static void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*(std::remove_const_t<A>*)arguments[I]...);
}

template <class... A>
static void launch(void (*kernel)(A...), const unsigned* grid, unsigned threads, void** arguments) {
    body = [=] { call(kernel, arguments, std::index_sequence_for<A...>()); };
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {threads, 1, 1};
    for (unsigned z = 0; z < grid[2]; ++z)
        for (unsigned y = 0; y < grid[1]; ++y)
            for (unsigned x = 0; x < grid[0]; ++x) {
                blockIdx = {x, y, z};
                run_block(threads);
            }
}

#define LAUNCHER(kernel)                                                                                 \
    extern "C" __attribute__((visibility("default"))) void launch_##kernel(                              \
        const unsigned* grid, unsigned threads, void** arguments) {                                      \
        launch(kernel, grid, threads, arguments);                                                        \
    }
