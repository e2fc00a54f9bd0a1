// The operator on NVIDIA GPUs: forward for one frame or a pair, and the three gradients.
//
// Compiled by NVRTC with these macros, one module for each combination (see cuda.py):
//   K         number of taps
//   CHANNELS  channels handled by one launch: 1, 3 or 4; a launch may have fewer left to do
//   STORAGE   FLOAT, HALF, BFLOAT16 or DOUBLE; sums are kept in float, or double for DOUBLE
//   FRAMES    1, or 2: the sum of two frames, each with its own taps, optionally weighted
//   HALVED    if defined: the taps have half the resolution and are enlarged on the way
//   TENSOR    if defined: forward with matrix instructions
//   BACKWARD  if defined: the three gradients, which take seconds to compile; FRAMES is 1
// Sizes and strides are arguments, so a new resolution compiles nothing. Offsets are 64 bits wide:
// a coefficient map has N*K*H*W elements, over 2^31 for a batch of six at 3840x2160.
//
// All kernels run in blocks of 32 x WARPS threads with blockIdx = (columns, rows, n). A block
// first copies the window it reads into shared memory, with zeros outside of the tensor. A thread
// works on a few pixels of one column, one above the other: they share each value of the window
// that is read, and neighbouring threads touch neighbouring addresses.
//
// This file holds what the kernels share; cuda.py joins it with storage.cu before it, and
// sepconv_forward.cu, sepconv_tensor.cu and sepconv_backward.cu after it, of which the macros select
// one.
//
// The test suite compiles this very text for the CPU (tests/kernels/emulation.cpp).

#define COLUMNS 32       // pixels of a block along x: one warp
#define WARPS 4
#define FORWARD_ROWS 4   // pixels of a thread, in forward and in the gradient of the image
#define MAPS_ROWS 2      // pixels of a thread, in the gradients of the coefficients
#define LOADED 9         // rows of the window that a warp asks for at once

// Forward holds the horizontal taps of its pixels in registers, a chunk of at most 17 at a time:
// 51 taps are three. Chunks of one size, so that 52 take 4 * 13 and not 4 * 17.
#define CHUNKS ((K + 16) / 17)
#define CHUNK ((K + CHUNKS - 1) / CHUNKS)
#define WIDTH (COLUMNS - 1 + CHUNKS * CHUNK)  // columns of the window in shared memory

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
struct Frame {
    Tensor image;       // (N, C, H+K-1, W+K-1)
    Tensor vertical;    // (N, K, H, W), or (N, K, H/2, W/2) if HALVED
    Tensor horizontal;  // as `vertical`
};
struct Arguments {
    Frame frames[FRAMES];
    Tensor other;       // (N, C, H, W): the output's gradient, in backward
                        // (N, 1, H, W): the first frame's share, or null, in forward of a pair
    void* result;       // contiguous; of Stored in forward, of Real in the gradients
    long long C, H, W;
    long long channel;  // the first channel of this launch
};

extern __shared__ __align__(16) unsigned char shared_bytes[];

// What a thread copies of a window: one value in each 32 columns of LOADED rows at a time. All are
// asked for before the first is used, or each would cost the whole way to the memory and back:
// there is no branch between the loads, as what lies outside is looked up at the edge.
template <int COUNT>
struct Columns {
    static const int PARTS = (COUNT + COLUMNS - 1) / COLUMNS;
    const Stored* image;
    long long channel_step, row_step, places[PARTS];
    int height, top;
    bool valid[PARTS];

    // Of COUNT columns from (y, x) on; `rows` and `columns` are the tensor's size.
    __device__ __forceinline__ Columns(const Tensor& tensor, int y, int x, int rows, int columns)
        : image(tensor.at(blockIdx.z, 0, 0, 0)),
          channel_step(tensor.c),
          row_step(tensor.y),
          height(rows),
          top(y) {
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            const int from_x = x + COLUMNS * part + (int)threadIdx.x;
            valid[part] = from_x >= 0 && from_x < columns;
            places[part] = min(max(from_x, 0), columns - 1) * tensor.x;
        }
    }

    // Load a row of a channel; return whether it lies within the tensor.
    __device__ __forceinline__ bool load(int channel, int channels, int row,
                                         Stored (&values)[PARTS]) const {
        const int y = top + row;
        const Stored* line = image + min(channel, channels - 1) * channel_step +
                             min(max(y, 0), height - 1) * row_step;
#pragma unroll
        for (int part = 0; part < PARTS; ++part) values[part] = line[places[part]];
        return channel < channels && y >= 0 && y < height;
    }
};

// Copy `rows` x WIDTH values of each channel, from (y, x) on, into shared memory, with zeros
// outside of the tensor, whose size is `height` x `width`.
__device__ __forceinline__ void load_window(const Tensor& source, const Arguments& a, int rows,
                                            int y, int x, int height, int width) {
    Real* window = (Real*)shared_bytes;
    const int all = CHANNELS * rows, PARTS = Columns<WIDTH>::PARTS;
    const Columns<WIDTH> columns(source, y, x, height, width);
    for (int first = threadIdx.y; first < all; first += WARPS * LOADED) {
        Stored values[LOADED][PARTS];
        bool inside[LOADED];
#pragma unroll
        for (int k = 0; k < LOADED; ++k) {
            const int row = min(first + k * WARPS, all - 1);
            inside[k] = columns.load((int)a.channel + row / rows, a.C, row % rows, values[k]);
        }
        __syncwarp();  // or the compiler mixes the two
#pragma unroll
        for (int k = 0; k < LOADED; ++k) {
            const int row = first + k * WARPS;
#pragma unroll
            for (int part = 0; part < PARTS; ++part) {
                const int column = COLUMNS * part + threadIdx.x;
                const bool valid = inside[k] && columns.valid[part];
                const Real value = valid ? unpack(values[k][part]) : Real(0);
                if (row < all && column < WIDTH) window[row * WIDTH + column] = value;
            }
        }
    }
    __syncthreads();
}

#ifndef BACKWARD

// Where the taps of ROWS pixels lie, one above the other. Places below the last row or right of
// the last column are moved onto it: what is computed there is not stored. Where in its map a pixel
// lies takes 32 bits (cuda.py sees to it): 64 would take a third of the registers.
template <int ROWS>
struct Column {
#ifdef HALVED
    // Pixel p is 3/4 of the nearer line and 1/4 of the next one: above for even rows, else below.
    static const int LINES = ROWS == 1 ? 2 : ROWS / 2 + 2;
    unsigned int asides[LINES];  // in the column next to it
#else
    static const int LINES = ROWS;
#endif
    const Stored* map;  // of the next tap
    unsigned int lines[LINES];
    long long step;  // from one map to the next

    // The first row `y` must be even for ROWS > 1.
    __device__ __forceinline__ Column(const Tensor& taps, const Arguments& a, int y, int x)
        : map(taps.at(blockIdx.z, 0, 0, 0)), step(taps.c) {
        const unsigned int down = taps.y, across = taps.x;
#ifdef HALVED
        const int width = a.W / 2, height = a.H / 2;
        const int near_x = min(x / 2, width - 1), near_y = min(y / 2, height - 1);
        const int next_x = min(max(near_x + x % 2 * 2 - 1, 0), width - 1);
#pragma unroll
        for (int line = 0; line < LINES; ++line) {
            const int from_y = near_y + (ROWS > 1 ? line - 1 : line == 0 ? 0 : y % 2 * 2 - 1);
            const unsigned int start = min(max(from_y, 0), height - 1) * down;
            lines[line] = start + near_x * across;
            asides[line] = start + next_x * across;
        }
#else
#pragma unroll
        for (int line = 0; line < LINES; ++line) {
            lines[line] = min(y + line, (int)a.H - 1) * down + min(x, (int)a.W - 1) * across;
        }
#endif
    }

    // The next tap of each pixel, beginning with the first.
    __device__ __forceinline__ void next(Real (&values)[ROWS]) {
        Real across[LINES];
#pragma unroll
        for (int line = 0; line < LINES; ++line) {
            across[line] = unpack(map[lines[line]]);
#ifdef HALVED
            across[line] = Real(0.75) * across[line] + Real(0.25) * unpack(map[asides[line]]);
#endif
        }
        map += step;
#pragma unroll
        for (int p = 0; p < ROWS; ++p) {
#ifdef HALVED
            const int near = ROWS == 1 ? 0 : p / 2 + 1, next = near + (p & 1 || ROWS == 1 ? 1 : -1);
            values[p] = Real(0.75) * across[near] + Real(0.25) * across[next];
#else
            values[p] = across[p];
#endif
        }
    }
};

// What frame `f` counts at a pixel.
__device__ __forceinline__ Real share_of(const Arguments& a, int f, long long y, long long x) {
    if (FRAMES == 1 || a.other.data == nullptr) return 1;
    const Real share = unpack(*a.other.at(blockIdx.z, 0, min(y, a.H - 1), min(x, a.W - 1)));
    return f == 0 ? share : 1 - share;
}

#endif
