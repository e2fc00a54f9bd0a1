// Just enough of CUDA to run our kernels on the CPU: a block's threads take turns on one, and change
// where they wait for each other; blocks run one after the other. Compiled by
// test_cuda_emulated.py with SOURCE naming the text of the kernels.

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#define EMULATED
#define __global__
#define __device__
#define __shared__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(threads)
#define __align__(bytes) __attribute__((aligned(bytes)))
using std::max;
using std::min;

struct Index {
    unsigned int x, y, z;
};
static Index threadIdx, blockIdx;

// A thread has a stack of its own; `resume` holds where it goes on.
struct Thread {
    ucontext_t start;
    jmp_buf resume;
    Index index;
    bool started, done;
    alignas(16) unsigned char stack[64 * 1024];
};
static jmp_buf scheduler;
static Thread* current;

static void yield() {
    if (!_setjmp(current->resume)) _longjmp(scheduler, 1);
    threadIdx = current->index;
}

struct Meeting {
    unsigned int arrived, round;
};
static Meeting block_meeting, warp_meetings[32];

static void meet(Meeting& meeting, unsigned int count) {
    const unsigned int round = meeting.round;
    if (++meeting.arrived == count) {
        meeting.arrived = 0;
        ++meeting.round;
    }
    while (meeting.round == round) yield();
}

static void __syncthreads();
static void __syncwarp() { meet(warp_meetings[threadIdx.y], 32); }

static float exchanged[32][32];  // by warp and lane
static float __shfl_sync(unsigned int, float value, int lane) {
    exchanged[threadIdx.y][threadIdx.x] = value;
    __syncwarp();
    const float result = exchanged[threadIdx.y][lane];
    __syncwarp();
    return result;
}
static float __shfl_xor_sync(unsigned int all, float value, int mask) {
    return __shfl_sync(all, value, threadIdx.x ^ mask);
}

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

// d += a * b by a warp, laid out as the PTX ISA says in the tables of mma.m16n8k16 for .f16:
// element i of a thread's fragment is at the row and column given below.
static float matrix_a[32][16][16], matrix_b[32][16][8];  // by warp
static void multiply_add(float (&d)[4], const unsigned int (&a)[4], const unsigned int (&b)[2]) {
    auto& A = matrix_a[threadIdx.y];
    auto& B = matrix_b[threadIdx.y];
    const int groupID = threadIdx.x >> 2, threadID_in_group = threadIdx.x % 4;
    for (int i = 0; i < 8; ++i) {
        const int row = i < 2 || (i >= 4 && i < 6) ? groupID : groupID + 8;
        const int column = threadID_in_group * 2 + (i & 1) + (i < 4 ? 0 : 8);
        A[row][column] = half_to_float(a[i / 2] >> 16 * (i % 2));
    }
    for (int i = 0; i < 4; ++i) {
        const int row = threadID_in_group * 2 + (i & 1) + (i < 2 ? 0 : 8);
        B[row][groupID] = half_to_float(b[i / 2] >> 16 * (i % 2));
    }
    __syncwarp();
    for (int i = 0; i < 4; ++i) {
        const int row = i < 2 ? groupID : groupID + 8;
        const int column = threadID_in_group * 2 + (i & 1);
        for (int k = 0; k < 16; ++k) d[i] += A[row][k] * B[k][column];
    }
    __syncwarp();
}

#include SOURCE

const size_t CAPACITY = 228 * 1024;  // bytes of shared memory
unsigned char shared_bytes[CAPACITY] __attribute__((aligned(16)));

static void __syncthreads() { meet(block_meeting, COLUMNS * WARPS); }

#ifdef TENSOR
// One product for the test of `multiply_add`: fragments of a, b and d of each lane, one after the
// other, at `other`; d comes back at `result`.
static void multiply_once(const Arguments given) {
    if (threadIdx.y > 0) return;
    const unsigned int* from = (const unsigned int*)given.other.data + 10 * threadIdx.x;
    unsigned int a[4], b[2];
    float d[4];
    std::memcpy(a, from, sizeof a);
    std::memcpy(b, from + 4, sizeof b);
    std::memcpy(d, from + 6, sizeof d);
    multiply_add(d, a, b);
    std::memcpy((float*)given.result + 4 * threadIdx.x, d, sizeof d);
}
#endif

typedef void (*Kernel)(const Arguments);

static Kernel find(const char* name) {
#ifdef MOTION
    if (!std::strcmp(name, "correct")) return correct;
    if (!std::strcmp(name, "smooth")) return smooth;
    if (!std::strcmp(name, "choose")) return choose;
    if (!std::strcmp(name, "match")) return match;
#elif defined(MOVED)
    if (!std::strcmp(name, "warp")) return warp;
    if (!std::strcmp(name, "gather")) return gather;
    if (!std::strcmp(name, "differ")) return differ;
    if (!std::strcmp(name, "box")) return box;
    if (!std::strcmp(name, "halve")) return halve;
#elif defined(LIGHT)
    if (!std::strcmp(name, "normalise")) return normalise;
    if (!std::strcmp(name, "reduce")) return reduce;
    if (!std::strcmp(name, "relight")) return relight;
    if (!std::strcmp(name, "hold")) return hold;
#elif defined(RECTIFY)
    if (!std::strcmp(name, "rectify")) return rectify;
    if (!std::strcmp(name, "add_enlarged")) return add_enlarged;
#elif defined(TAPS)
    if (!std::strcmp(name, "shape_taps")) return shape_taps;
#elif defined(PLANAR)
    if (!std::strcmp(name, "planar")) return planar;
#elif defined(BACKWARD)
    if (!std::strcmp(name, "backward_vertical")) return backward_vertical;
    if (!std::strcmp(name, "backward_horizontal")) return backward_horizontal;
    if (!std::strcmp(name, "backward_image")) return backward_image;
#elif defined(TENSOR)
    if (!std::strcmp(name, "forward_tensor")) return forward_tensor;
    if (!std::strcmp(name, "multiply_once")) return multiply_once;
#else
    if (!std::strcmp(name, "forward")) return forward;
#endif
    return nullptr;
}

static Kernel kernel;
static const Arguments* arguments;

static void run_thread() {
    kernel(*arguments);
    current->done = true;
    _longjmp(scheduler, 1);
}

// Go on with a thread until it has to wait or is done.
static void turn(Thread& thread) {
    current = &thread;
    threadIdx = thread.index;
    if (_setjmp(scheduler)) return;
    if (thread.started) _longjmp(thread.resume, 1);
    thread.started = true;
    setcontext(&thread.start);
}

static void run_block(Thread* threads, unsigned int count) {
    for (unsigned int t = 0; t < count; ++t) {
        Thread& thread = threads[t];
        thread.index = {t % COLUMNS, t / COLUMNS, 0};
        thread.started = thread.done = false;
        getcontext(&thread.start);
        thread.start.uc_stack = {thread.stack, 0, sizeof thread.stack};
        makecontext(&thread.start, run_thread, 0);
    }
    for (unsigned int left = count; left > 0;) {
        left = 0;
        for (unsigned int t = 0; t < count; ++t) {
            if (!threads[t].done) turn(threads[t]);
            left += !threads[t].done;
        }
    }
}

// Run a kernel; return 0, or 1 for an unknown name, 2 if it wrote past its `shared` bytes.
// Shared memory starts as NaN, so that reading what was never written shows in the result.
extern "C" int launch(const char* name, const unsigned int* grid, size_t shared,
                      const Arguments* given) {
    static Thread threads[COLUMNS * WARPS];
    kernel = find(name);
    arguments = given;
    if (kernel == nullptr || shared > CAPACITY) return 1;
    for (unsigned int block = 0; block < grid[0] * grid[1] * grid[2]; ++block) {
        blockIdx = {block % grid[0], block / grid[0] % grid[1], block / grid[0] / grid[1]};
        std::memset(shared_bytes, 0xff, CAPACITY);  // NaN
        run_block(threads, COLUMNS * WARPS);
        for (size_t at = shared; at < CAPACITY; ++at) {
            if (shared_bytes[at] != 0xff) return 2;
        }
    }
    return 0;
}
