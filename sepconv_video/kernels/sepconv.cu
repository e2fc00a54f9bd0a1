// The operator on NVIDIA GPUs: forward and the three gradients.
//
// Compiled by NVRTC with these macros, one module for each combination (see cuda.py):
//   K         number of taps
//   CHANNELS  channels handled by one launch: 1, 3 or 4; a launch may have fewer left to do
//   STORAGE   FLOAT, HALF, BFLOAT16 or DOUBLE; sums are kept in float, or double for DOUBLE
//   BACKWARD  if defined: the three gradients, which take seconds to compile; else forward
// Sizes and strides are arguments, so a new resolution compiles nothing. Offsets are 64 bits wide:
// a coefficient map has N*K*H*W elements, over 2^31 for a batch of six at 3840x2160.
//
// All kernels run in blocks of 32 x WARPS threads with blockIdx = (columns, rows, n). A block
// first copies the window it reads into shared memory, with zeros outside of the tensor. A thread
// works on a few pixels of one column, one above the other: they share each value of the window
// that is read, and neighbouring threads touch neighbouring addresses.
//
// The test suite compiles this very file for the CPU (tests/kernels/emulation.cpp).

#define FLOAT 0
#define HALF 1
#define BFLOAT16 2
#define DOUBLE 3

#define COLUMNS 32       // pixels of a block along x: one warp
#define WARPS 4
#define FORWARD_ROWS 4   // pixels of a thread, in forward and in the gradient of the image
#define MAPS_ROWS 2      // pixels of a thread, in the gradients of the coefficients

// Forward holds the horizontal taps of its pixels in registers, a chunk of at most 16 at a time.
// Chunks of one size, so that 51 taps take 4 * 13 and not 4 * 16.
#define CHUNKS ((K + 15) / 16)
#define CHUNK ((K + CHUNKS - 1) / CHUNKS)
#define WIDTH (COLUMNS - 1 + CHUNKS * CHUNK)  // columns of the window in shared memory

#if STORAGE == DOUBLE
typedef double Real;
#else
typedef float Real;
#endif

#if STORAGE == FLOAT || STORAGE == DOUBLE
typedef Real Stored;
__device__ __forceinline__ Real unpack(Stored value) { return value; }
__device__ __forceinline__ Stored pack(Real value) { return value; }
#elif STORAGE == BFLOAT16
typedef unsigned short Stored;
// By hand, as the headers of CUDA may not be installed: the upper half of a float.
__device__ __forceinline__ Real unpack(Stored value) {
    return __uint_as_float((unsigned int)value << 16);
}
__device__ __forceinline__ Stored pack(Real value) {
    const unsigned int bits = __float_as_uint(value);
    if (value != value) return 0x7fff;
    return (Stored)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);  // round to nearest even
}
#else
typedef unsigned short Stored;
#ifdef EMULATED
__device__ Real unpack(Stored value) { return half_to_float(value); }
__device__ Stored pack(Real value) { return float_to_half(value); }
#else
__device__ __forceinline__ Real unpack(Stored value) {
    Real result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value));
    return result;
}
__device__ __forceinline__ Stored pack(Real value) {
    Stored result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result) : "f"(value));
    return result;
}
#endif
#endif

// A tensor of four dimensions with any strides, counted in elements.
struct Tensor {
    const Stored* data;
    long long n, c, y, x;
    __device__ __forceinline__ const Stored* at(long long in, long long ic, long long iy,
                                                long long ix) const {
        return data + in * n + ic * c + iy * y + ix * x;
    }
};

// The one argument of every kernel; cuda.py packs it from 64-bit integers in this order.
struct Arguments {
    Tensor image;       // (N, C, H+K-1, W+K-1)
    Tensor vertical;    // (N, K, H, W)
    Tensor horizontal;  // (N, K, H, W)
    Tensor grad;        // (N, C, H, W); not used by forward
    void* result;       // contiguous; of Stored in forward, of Real in the gradients
    long long C, H, W;
    long long channel;  // the first channel of this launch
};

extern __shared__ __align__(16) unsigned char shared_bytes[];

// Copy `rows` x WIDTH values of each channel, from (y, x) on, into shared memory.
// `height` and `width` are the tensor's size; the window may leave it on any side.
__device__ __forceinline__ void load_window(const Tensor& source, const Arguments& a, int rows,
                                            long long y, long long x, long long height,
                                            long long width) {
    Real* window = (Real*)shared_bytes;
    for (int row = threadIdx.y; row < CHANNELS * rows; row += WARPS) {
        const long long channel = a.channel + row / rows;
        const long long from_y = y + row % rows;
        const bool inside = channel < a.C && from_y >= 0 && from_y < height;
        for (int column = threadIdx.x; column < WIDTH; column += COLUMNS) {
            const long long from_x = x + column;
            const bool valid = inside && from_x >= 0 && from_x < width;
            window[row * WIDTH + column] =
                valid ? unpack(*source.at(blockIdx.z, channel, from_y, from_x)) : Real(0);
        }
    }
    __syncthreads();
}

#ifndef BACKWARD

// out[c, y, x] = sum_i vertical[i, y, x] * sum_j image[c, y+i, x+j] * horizontal[j, y, x]
extern "C" __global__ void __launch_bounds__(COLUMNS * WARPS) forward(const Arguments a) {
    const int ROWS = FORWARD_ROWS;
    const int rows = WARPS * ROWS + K - 1;
    const long long n = blockIdx.z;
    const long long x = (long long)blockIdx.x * COLUMNS + threadIdx.x;
    const long long top = (long long)blockIdx.y * WARPS * ROWS;
    const long long y = top + threadIdx.y * ROWS;
    load_window(a.image, a, rows, top, x - threadIdx.x, a.H + K - 1, a.W + K - 1);
    if (x >= a.W || y >= a.H) return;

    const Real* window = (const Real*)shared_bytes + threadIdx.y * ROWS * WIDTH + threadIdx.x;
    const Stored* vertical = a.vertical.at(n, 0, y, x);
    const Stored* horizontal = a.horizontal.at(n, 0, y, x);
    Real sums[ROWS][CHANNELS] = {};
    for (int first = 0; first < K; first += CHUNK) {
        Real h[ROWS][CHUNK];
#pragma unroll
        for (int p = 0; p < ROWS; ++p) {
#pragma unroll
            for (int j = 0; j < CHUNK; ++j) {
                const bool valid = y + p < a.H && first + j < K;
                h[p][j] = valid ? unpack(horizontal[p * a.horizontal.y +
                                                    (first + j) * a.horizontal.c])
                                : Real(0);
            }
        }
        for (int row = 0; row < K + ROWS - 1; ++row) {  // row `row` is tap `row - p` of pixel p
            Real v[ROWS];
#pragma unroll
            for (int p = 0; p < ROWS; ++p) {
                const bool valid = y + p < a.H && row >= p && row - p < K;
                v[p] = valid ? unpack(vertical[p * a.vertical.y + (row - p) * a.vertical.c])
                             : Real(0);
            }
#pragma unroll
            for (int c = 0; c < CHANNELS; ++c) {
                const Real* values = window + (c * rows + row) * WIDTH + first;
                Real across[ROWS] = {};
#pragma unroll
                for (int j = 0; j < CHUNK; ++j) {
                    const Real value = values[j];
#pragma unroll
                    for (int p = 0; p < ROWS; ++p) across[p] += h[p][j] * value;
                }
#pragma unroll
                for (int p = 0; p < ROWS; ++p) sums[p][c] += v[p] * across[p];
            }
        }
    }
    Stored* result = (Stored*)a.result;
#pragma unroll
    for (int p = 0; p < ROWS; ++p) {
#pragma unroll
        for (int c = 0; c < CHANNELS; ++c) {
            if (y + p < a.H && a.channel + c < a.C) {
                result[((n * a.C + a.channel + c) * a.H + y + p) * a.W + x] = pack(sums[p][c]);
            }
        }
    }
}

#else

// Load the taps and the output's gradients of MAPS_ROWS pixels, with zeros below the last row.
__device__ __forceinline__ void load_pixels(const Arguments& a, const Tensor& taps, long long y,
                                            long long x, Real (&tap)[MAPS_ROWS][K],
                                            Real (&grad)[MAPS_ROWS][CHANNELS]) {
#pragma unroll
    for (int p = 0; p < MAPS_ROWS; ++p) {
        const bool inside = y + p < a.H;
#pragma unroll
        for (int k = 0; k < K; ++k) {
            tap[p][k] = inside ? unpack(*taps.at(blockIdx.z, k, y + p, x)) : Real(0);
        }
#pragma unroll
        for (int c = 0; c < CHANNELS; ++c) {
            const bool valid = inside && a.channel + c < a.C;
            grad[p][c] =
                valid ? unpack(*a.grad.at(blockIdx.z, a.channel + c, y + p, x)) : Real(0);
        }
    }
}

// Write one coefficient's gradient; later launches add their channels to the first one's.
__device__ __forceinline__ void store_tap(const Arguments& a, int k, long long y, long long x,
                                          Real value) {
    Real* target = (Real*)a.result + ((blockIdx.z * (long long)K + k) * a.H + y) * a.W + x;
    *target = a.channel == 0 ? value : *target + value;
}

// out[i, y, x] = sum_c grad[c, y, x] * sum_j image[c, y+i, x+j] * horizontal[j, y, x]
extern "C" __global__ void __launch_bounds__(COLUMNS * WARPS) backward_vertical(const Arguments a) {
    const int ROWS = MAPS_ROWS;
    const int rows = WARPS * ROWS + K - 1;
    const long long x = (long long)blockIdx.x * COLUMNS + threadIdx.x;
    const long long top = (long long)blockIdx.y * WARPS * ROWS;
    const long long y = top + threadIdx.y * ROWS;
    load_window(a.image, a, rows, top, x - threadIdx.x, a.H + K - 1, a.W + K - 1);
    if (x >= a.W || y >= a.H) return;

    const Real* window = (const Real*)shared_bytes + threadIdx.y * ROWS * WIDTH + threadIdx.x;
    Real h[ROWS][K], g[ROWS][CHANNELS];
    load_pixels(a, a.horizontal, y, x, h, g);
    for (int row = 0; row < K + ROWS - 1; ++row) {  // row `row` is tap `row - p` of pixel p
        Real sums[ROWS] = {};
#pragma unroll
        for (int c = 0; c < CHANNELS; ++c) {
            const Real* values = window + (c * rows + row) * WIDTH;
            Real across[ROWS] = {};
#pragma unroll
            for (int j = 0; j < K; ++j) {
                const Real value = values[j];
#pragma unroll
                for (int p = 0; p < ROWS; ++p) across[p] += h[p][j] * value;
            }
#pragma unroll
            for (int p = 0; p < ROWS; ++p) sums[p] += g[p][c] * across[p];
        }
#pragma unroll
        for (int p = 0; p < ROWS; ++p) {
            if (y + p < a.H && row >= p && row - p < K) store_tap(a, row - p, y + p, x, sums[p]);
        }
    }
}

// out[j, y, x] = sum_c grad[c, y, x] * sum_i image[c, y+i, x+j] * vertical[i, y, x]
extern "C" __global__ void __launch_bounds__(COLUMNS * WARPS)
    backward_horizontal(const Arguments a) {
    const int ROWS = MAPS_ROWS;
    const int rows = WARPS * ROWS + K - 1;
    const long long x = (long long)blockIdx.x * COLUMNS + threadIdx.x;
    const long long top = (long long)blockIdx.y * WARPS * ROWS;
    const long long y = top + threadIdx.y * ROWS;
    load_window(a.image, a, rows, top, x - threadIdx.x, a.H + K - 1, a.W + K - 1);
    if (x >= a.W || y >= a.H) return;

    const Real* window = (const Real*)shared_bytes + threadIdx.y * ROWS * WIDTH + threadIdx.x;
    Real v[ROWS][K], g[ROWS][CHANNELS];
    load_pixels(a, a.vertical, y, x, v, g);
    for (int j = 0; j < K; ++j) {
        Real sums[ROWS] = {};
#pragma unroll
        for (int c = 0; c < CHANNELS; ++c) {
            const Real* values = window + c * rows * WIDTH + j;
            Real down[ROWS] = {};
#pragma unroll
            for (int row = 0; row < K + ROWS - 1; ++row) {
                const Real value = values[row * WIDTH];
#pragma unroll
                for (int p = 0; p < ROWS; ++p) {
                    if (row >= p && row - p < K) down[p] += v[p][row - p] * value;
                }
            }
#pragma unroll
            for (int p = 0; p < ROWS; ++p) sums[p] += g[p][c] * down[p];
        }
#pragma unroll
        for (int p = 0; p < ROWS; ++p) {
            if (y + p < a.H) store_tap(a, j, y + p, x, sums[p]);
        }
    }
}

// out[c, y, x] = sum_ij (grad[c] * vertical[i] * horizontal[j])[y-i, x-j]
// Gathered, so that there are no atomics and the result is the same on every run.
extern "C" __global__ void __launch_bounds__(COLUMNS * WARPS) backward_image(const Arguments a) {
    const int ROWS = FORWARD_ROWS;
    const int rows = WARPS * ROWS + K - 1;
    const long long n = blockIdx.z;
    const long long x = (long long)blockIdx.x * COLUMNS + threadIdx.x;
    const long long top = (long long)blockIdx.y * WARPS * ROWS;
    const long long y = top + threadIdx.y * ROWS;
    load_window(a.grad, a, rows, top - (K - 1), x - threadIdx.x - (K - 1), a.H, a.W);
    if (x >= a.W + K - 1 || y >= a.H + K - 1) return;

    const Real* window = (const Real*)shared_bytes + threadIdx.y * ROWS * WIDTH + threadIdx.x;
    Real sums[ROWS][CHANNELS] = {};
    for (int row = 0; row < K + ROWS - 1; ++row) {
        const long long from_y = y + row - (K - 1);
        if (from_y < 0 || from_y >= a.H) continue;
        for (int column = 0; column < K; ++column) {
            const int j = K - 1 - column;
            const long long from_x = x - j;
            if (from_x < 0 || from_x >= a.W) continue;
            const Real h = unpack(*a.horizontal.at(n, j, from_y, from_x));
            Real v[ROWS];
#pragma unroll
            for (int p = 0; p < ROWS; ++p) {
                const int i = p + K - 1 - row;
                v[p] = i >= 0 && i < K ? unpack(*a.vertical.at(n, i, from_y, from_x)) : Real(0);
            }
#pragma unroll
            for (int c = 0; c < CHANNELS; ++c) {
                const Real value = h * window[(c * rows + row) * WIDTH + column];
#pragma unroll
                for (int p = 0; p < ROWS; ++p) sums[p][c] += v[p] * value;
            }
        }
    }
    const long long height = a.H + K - 1, width = a.W + K - 1;
#pragma unroll
    for (int p = 0; p < ROWS; ++p) {
#pragma unroll
        for (int c = 0; c < CHANNELS; ++c) {
            if (y + p < height && a.channel + c < a.C) {
                const long long at = ((n * a.C + a.channel + c) * height + y + p) * width + x;
                ((Real*)a.result)[at] = sums[p][c];
            }
        }
    }
}

#endif
