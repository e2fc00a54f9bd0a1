// Frames on NVIDIA GPUs: sampled where a motion leads to, laid out or compared on the way, or averaged,
// in one launch each. PyTorch's operations make the places in seven, and then read them again.
//
// Compiled by NVRTC with the macro STORAGE, after storage.cu, for every size and number of channels at
// once (see frames_cuda.py). A thread works on one pixel, blockIdx = (columns, rows, n).
//
// The test suite compiles this very text for the CPU (tests/kernels/emulation.cpp).

#define COLUMNS 32
#define WARPS 4
#define BILINEAR 0  // as in motion.MODES
#define BICUBIC 1
#define NEAREST 2
#define CUBIC -0.75f  // the free parameter of cubic convolution (Keys, 1981), PyTorch's choice

// frames_cuda.py packs it from 64-bit words in this order. Tensors are contiguous.
struct Arguments {
    const Stored* frames;  // (N, channels, H, W)
    const float* motion;   // (N, 2, rows / factor, columns / factor)
    Stored* result;        // (N, channels, rows, columns); of `gather` (N, rows / 2, columns / 2, step),
                           // of `differ` (N, rows, columns); of `box` as `frames`;
                           // of `halve` (N, 1, rows, columns)
    long long channels, H, W;
    long long rows, columns;
    long long mode, top, left, factor;  // as in motion.Warping
    long long step;       // of `gather`: channels of the result; of `differ`: from picture to picture;
                          // of `box`: side of the window
    const Stored* other;  // of `differ`: as `frames`
    double weights[4];    // of `halve`: of four cells, and in reverse of the next four
};

__device__ __forceinline__ int within(int place, int size) {
    return min(max(place, 0), size - 1);
}

// The motion of a pixel; of half the resolution it is enlarged bilinearly.
__device__ __forceinline__ float motion_at(const Arguments& a, const float* plane, int y, int x) {
    if (a.factor == 1) return plane[y * a.columns + x];
    const int height = a.rows / 2, width = a.columns / 2;
    const int own_y = y / 2, other_y = within(own_y + y % 2 * 2 - 1, height);
    const int own_x = x / 2, other_x = within(own_x + x % 2 * 2 - 1, width);
    const float* own = plane + (long long)own_y * width;
    const float* other = plane + (long long)other_y * width;
    const float near = 0.75f * own[own_x] + 0.25f * other[own_x];
    const float far = 0.75f * own[other_x] + 0.25f * other[other_x];
    return 0.75f * near + 0.25f * far;
}

// Weights of four cells in a row for a place so far after the second one, 0 to 1.
__device__ __forceinline__ void cubic_weights(float after, float weights[4]) {
    const float before = 1 - after, farther = 1 + after, farthest = 1 + before;
    weights[0] = ((CUBIC * farther - 5 * CUBIC) * farther + 8 * CUBIC) * farther - 4 * CUBIC;
    weights[1] = ((CUBIC + 2) * after - (CUBIC + 3)) * after * after + 1;
    weights[2] = ((CUBIC + 2) * before - (CUBIC + 3)) * before * before + 1;
    weights[3] = ((CUBIC * farthest - 5 * CUBIC) * farthest + 8 * CUBIC) * farthest - 4 * CUBIC;
}

__device__ __forceinline__ void warp_bicubic(
    const Arguments& a, const Stored* frame, Stored* result, float y, float x) {
    // farther out all is as at the edge
    y = min(max(y, -2.0f), a.H + 1.0f);
    x = min(max(x, -2.0f), a.W + 1.0f);
    const int row = (int)floorf(y), column = (int)floorf(x);
    float down[4], across[4];
    cubic_weights(y - row, down);
    cubic_weights(x - column, across);
    long long lines[4];
    int columns[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        lines[i] = within(row - 1 + i, a.H) * a.W;
        columns[i] = within(column - 1 + i, a.W);
    }
    for (int c = 0; c < a.channels; ++c) {
        const Stored* plane = frame + c * a.H * a.W;
        float total = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float sum = 0;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                sum += across[j] * unpack(plane[lines[i] + columns[j]]);
            }
            total += down[i] * sum;
        }
        result[c * a.rows * a.columns] = pack(total);
    }
}

// Between which cells a place lies, and how near to them.
struct Corners {
    long long first, right, below;
    float down, across;
    __device__ __forceinline__ Corners(const Arguments& a, float y, float x) {
        y = min(max(y, 0.0f), a.H - 1.0f);
        x = min(max(x, 0.0f), a.W - 1.0f);
        const int row = (int)y, column = (int)x;
        down = y - row;
        across = x - column;
        first = row * a.W + column;
        right = column + 1 < a.W ? 1 : 0;
        below = row + 1 < a.H ? a.W : 0;
    }
    __device__ __forceinline__ float of(const Stored* plane) const {
        const Stored* cell = plane + first;
        const float upper_left = unpack(cell[0]), lower_left = unpack(cell[below]);
        const float upper = upper_left + across * (unpack(cell[right]) - upper_left);
        const float lower = lower_left + across * (unpack(cell[below + right]) - lower_left);
        return upper + down * (lower - upper);
    }
};

// `step` is how far the channels of the result are from each other.
__device__ __forceinline__ void warp_bilinear(
    const Arguments& a, const Stored* frame, Stored* result, float y, float x, long long step) {
    if (a.mode == NEAREST) {
        y = rintf(min(max(y, 0.0f), a.H - 1.0f));
        x = rintf(min(max(x, 0.0f), a.W - 1.0f));
    }
    const Corners corners(a, y, x);
    for (int c = 0; c < a.channels; ++c) {
        result[c * step] = pack(corners.of(frame + c * a.H * a.W));
    }
}

extern "C" __global__ void __launch_bounds__(COLUMNS * WARPS)
    warp(const __grid_constant__ Arguments a) {
    const int x = blockIdx.x * COLUMNS + threadIdx.x, y = blockIdx.y * WARPS + threadIdx.y;
    if (y >= a.rows || x >= a.columns) return;
    const long long n = blockIdx.z, cells = a.rows / a.factor * (a.columns / a.factor);
    const float* motion = a.motion + n * 2 * cells;
    const float to_x = x + a.left + motion_at(a, motion, y, x);
    const float to_y = y + a.top + motion_at(a, motion + cells, y, x);
    const Stored* frame = a.frames + n * a.channels * a.H * a.W;
    Stored* result = a.result + (n * a.channels * a.rows + y) * a.columns + x;
    if (a.mode == BICUBIC) {
        warp_bicubic(a, frame, result, to_y, to_x);
    } else {
        warp_bilinear(a, frame, result, to_y, to_x, a.rows * a.columns);
    }
}

// Frames moved by a motion of half their resolution, bilinearly, the 2x2 pixels of a cell side by side
// as F.pixel_unshuffle has them: what a network looks at. A thread works on one cell.
extern "C" __global__ void __launch_bounds__(COLUMNS * WARPS)
    gather(const __grid_constant__ Arguments a) {
    const int x = blockIdx.x * COLUMNS + threadIdx.x, y = blockIdx.y * WARPS + threadIdx.y;
    const int height = a.rows / 2, width = a.columns / 2;
    if (y >= height || x >= width) return;
    const long long n = blockIdx.z, cells = (long long)height * width;
    const float* motion = a.motion + n * 2 * cells;
    const Stored* frame = a.frames + n * a.channels * a.H * a.W;
    Stored* result = a.result + (n * cells + (long long)y * width + x) * a.step;
    for (int k = 0; k < 4; ++k) {
        const int own_y = 2 * y + k / 2, own_x = 2 * x + k % 2;
        const float to_x = own_x + a.left + motion_at(a, motion, own_y, own_x);
        const float to_y = own_y + a.top + motion_at(a, motion + cells, own_y, own_x);
        warp_bilinear(a, frame, result + k, to_y, to_x, 4);
    }
}

// How much two frames differ where a motion leads to in one of them, and its opposite in the other.
extern "C" __global__ void __launch_bounds__(COLUMNS * WARPS)
    differ(const __grid_constant__ Arguments a) {
    const int x = blockIdx.x * COLUMNS + threadIdx.x, y = blockIdx.y * WARPS + threadIdx.y;
    if (y >= a.H || x >= a.W) return;
    const long long n = blockIdx.z, size = a.H * a.W, cell = y * a.W + x;
    const float* motion = a.motion + n * 2 * size + cell;
    const Corners there(a, y + motion[size], x + motion[0]);
    const Corners back(a, y - motion[size], x - motion[0]);
    float total = 0;
#pragma unroll 1  // or they take too many registers
    for (int c = 0; c < a.channels; ++c) {
        const long long plane = (n * a.channels + c) * size;
        total += fabsf(there.of(a.frames + plane) - back.of(a.other + plane));
    }
    a.result[n * a.step + cell] = pack(total / a.channels);
}

// Mean of `step` x `step` cells around each, edges repeated; blockIdx = (columns, rows, plane).
extern "C" __global__ void __launch_bounds__(COLUMNS * WARPS)
    box(const __grid_constant__ Arguments a) {
    const int x = blockIdx.x * COLUMNS + threadIdx.x, y = blockIdx.y * WARPS + threadIdx.y;
    if (y >= a.H || x >= a.W) return;
    const int height = a.H, width = a.W, radius = a.step / 2;
    const Stored* plane = a.frames + blockIdx.z * a.H * a.W;
    float total = 0;
    for (int i = y - radius; i <= y + radius; ++i) {
        const Stored* row = plane + (long long)within(i, height) * width;
        float sum = 0;
        for (int j = x - radius; j <= x + radius; ++j) sum += unpack(row[within(j, width)]);
        total += sum;
    }
    a.result[(blockIdx.z * a.H + y) * a.W + x] = pack(total / (a.step * a.step));
}

// Half of a plane, rounded up, edges repeated; blockIdx = (columns, rows, plane) of the result.
extern "C" __global__ void __launch_bounds__(COLUMNS * WARPS)
    halve(const __grid_constant__ Arguments a) {
    const int x = blockIdx.x * COLUMNS + threadIdx.x, y = blockIdx.y * WARPS + threadIdx.y;
    if (y >= a.rows || x >= a.columns) return;
    const int height = a.H, width = a.W;
    const Stored* plane = a.frames + blockIdx.z * a.H * a.W;
    float total = 0;
#pragma unroll 1  // or they take too many registers
    for (int i = 0; i < 8; ++i) {
        const Stored* row = plane + (long long)within(2 * y - 3 + i, height) * width;
        float sum = 0;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            sum += (float)a.weights[min(j, 7 - j)] * unpack(row[within(2 * x - 3 + j, width)]);
        }
        total += (float)a.weights[min(i, 7 - i)] * sum;
    }
    a.result[(blockIdx.z * a.rows + y) * a.columns + x] = pack(total);
}
