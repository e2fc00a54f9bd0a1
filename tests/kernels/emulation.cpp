// Just enough of CUDA to run sepconv.cu on the CPU: a block's threads are real threads, which meet
// at `__syncthreads`; blocks run one after the other. Compiled by test_cuda_emulated.py with SOURCE
// naming sepconv.cu.

#include <pthread.h>  // rather than <thread> and <barrier>, which take seconds to compile

#include <cstring>

#define EMULATED
#define __global__
#define __device__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __align__(bytes) __attribute__((aligned(bytes)))

struct Index {
    unsigned int x, y, z;
};
static thread_local Index threadIdx, blockIdx;
static pthread_barrier_t barrier;
static void __syncthreads() { pthread_barrier_wait(&barrier); }

static float __uint_as_float(unsigned int bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
static unsigned int __float_as_uint(float value) {
    unsigned int bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
static float half_to_float(unsigned short bits) {
    _Float16 value;
    std::memcpy(&value, &bits, sizeof value);
    return (float)value;
}
static unsigned short float_to_half(float value) {
    const _Float16 half = (_Float16)value;
    unsigned short bits;
    std::memcpy(&bits, &half, sizeof bits);
    return bits;
}

#include SOURCE

const size_t CAPACITY = 228 * 1024;  // bytes of shared memory
unsigned char shared_bytes[CAPACITY] __attribute__((aligned(16)));

typedef void (*Kernel)(const Arguments);

static Kernel find(const char* name) {
#ifndef BACKWARD
    if (!std::strcmp(name, "forward")) return forward;
#else
    if (!std::strcmp(name, "backward_vertical")) return backward_vertical;
    if (!std::strcmp(name, "backward_horizontal")) return backward_horizontal;
    if (!std::strcmp(name, "backward_image")) return backward_image;
#endif
    return nullptr;
}

struct Launch {
    Kernel kernel;
    const unsigned int* grid;
    size_t shared;
    const Arguments* arguments;
    bool overrun;
};
struct Thread {
    Launch* launch;
    Index index;
};

// What one thread of a block does, for every block in turn.
static void* run(void* start) {
    threadIdx = ((Thread*)start)->index;
    Launch& launch = *((Thread*)start)->launch;
    const bool first = threadIdx.x == 0 && threadIdx.y == 0;
    const unsigned int* grid = launch.grid;
    for (unsigned int block = 0; block < grid[0] * grid[1] * grid[2]; ++block) {
        blockIdx = {block % grid[0], block / grid[0] % grid[1], block / grid[0] / grid[1]};
        if (first) std::memset(shared_bytes, 0xff, CAPACITY);  // NaN
        __syncthreads();
        launch.kernel(*launch.arguments);
        __syncthreads();
        for (size_t at = launch.shared; first && at < CAPACITY; ++at) {
            launch.overrun |= shared_bytes[at] != 0xff;
        }
    }
    return nullptr;
}

// Run a kernel; return 0, or 1 for an unknown name, 2 if it wrote past its `shared` bytes.
// Shared memory starts as NaN, so that reading what was never written shows in the result.
extern "C" int launch(const char* name, const unsigned int* grid, size_t shared,
                      const Arguments* arguments) {
    const unsigned int COUNT = COLUMNS * WARPS;
    Launch launch = {find(name), grid, shared, arguments, false};
    if (launch.kernel == nullptr || shared > CAPACITY) return 1;
    pthread_barrier_init(&barrier, nullptr, COUNT);
    pthread_t handles[COUNT];
    Thread threads[COUNT];
    for (unsigned int t = 0; t < COUNT; ++t) {
        threads[t] = {&launch, {t % COLUMNS, t / COLUMNS, 0}};
        pthread_create(&handles[t], nullptr, run, &threads[t]);
    }
    for (pthread_t handle : handles) pthread_join(handle, nullptr);
    pthread_barrier_destroy(&barrier);
    return launch.overrun ? 2 : 0;
}
