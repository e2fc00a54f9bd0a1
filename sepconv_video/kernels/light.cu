// Light on NVIDIA GPUs: frames normalised, in full and as cells, brightened by maps that are enlarged
// on the way, and what stands held, in one launch each. PyTorch's operations make some thirty maps
// as large as the frames instead.
//
// Compiled by NVRTC with the macro STORAGE, after storage.cu, for every size at once (see
// light_cuda.py). A thread works on ROWS pixels, one above the other.
//
// The test suite compiles this very text for the CPU (tests/kernels/emulation.cpp).

#define COLUMNS 32
#define WARPS 4
#define ROWS 4
#define COLORS 3
#define LEAST 1e-3f  // keeps a share finite where nothing is allowed

// light_cuda.py packs it from 64-bit words in this order. Tensors are contiguous.
struct Arguments {
    Stored* made;             // (N, COLORS, H, W); of `reduce` float
    const Stored* frames[2];  // of `hold` likewise; of `normalise` and `reduce` one, (N, COLORS, h, w)
    const float* allowed;     // of `hold`: (N, 1, H/2, W/2)
    const float* light[4];    // gain and offset, (N, COLORS, h, w) each; of `hold` for either frame;
                              // of `normalise` and `reduce` mean and spread, (N,)
    long long H, W, h, w;
};

// Bring frames to mean 0 and spread 1, their last rows and columns repeated;
// blockIdx = (columns, rows, n * COLORS + color).
extern "C" __global__ void __launch_bounds__(COLUMNS * WARPS)
    normalise(const __grid_constant__ Arguments a) {
    const int x = blockIdx.x * COLUMNS + threadIdx.x;
    const int top = (blockIdx.y * WARPS + threadIdx.y) * ROWS;
    if (x >= a.W || top >= a.H) return;
    const Stored* from = a.frames[0] + blockIdx.z * a.h * a.w + min(x, (int)a.w - 1);
    Stored values[ROWS];
    // all are asked for before the first is used
#pragma unroll
    for (int k = 0; k < ROWS; ++k) values[k] = from[min(top + k, (int)a.h - 1) * a.w];
    const float mean = a.light[0][blockIdx.z / COLORS], spread = a.light[1][blockIdx.z / COLORS];
    Stored* to = a.made + blockIdx.z * a.H * a.W + x;
#pragma unroll
    for (int k = 0; k < ROWS; ++k) {
        if (top + k < a.H) to[(top + k) * a.W] = pack((unpack(values[k]) - mean) / spread);
    }
}

// The same, and the mean of 2x2 pixels.
extern "C" __global__ void __launch_bounds__(COLUMNS * WARPS)
    reduce(const __grid_constant__ Arguments a) {
    const int x = blockIdx.x * COLUMNS + threadIdx.x;
    const int top = (blockIdx.y * WARPS + threadIdx.y) * ROWS;
    if (x >= a.W || top >= a.H) return;
    const Stored* from = a.frames[0] + blockIdx.z * a.h * a.w;
    const int left = min(2 * x, (int)a.w - 1), right = min(2 * x + 1, (int)a.w - 1);
    Stored values[2 * ROWS][2];
#pragma unroll
    for (int k = 0; k < 2 * ROWS; ++k) {
        const Stored* line = from + min(2 * top + k, (int)a.h - 1) * a.w;
        values[k][0] = line[left];
        values[k][1] = line[right];
    }
    const float mean = a.light[0][blockIdx.z / COLORS], spread = a.light[1][blockIdx.z / COLORS];
    float* to = (float*)a.made + blockIdx.z * a.H * a.W + x;
#pragma unroll
    for (int k = 0; k < ROWS; ++k) {
        const Stored(*own)[2] = values + 2 * k;
        const float sum = unpack(own[0][0]) + unpack(own[0][1]) + unpack(own[1][0]) + unpack(own[1][1]);
        if (top + k < a.H) to[(top + k) * a.W] = (0.25f * sum - mean) / spread;
    }
}

// Between which two of `count` cells a pixel of `size` lies, as for F.interpolate.
struct Between {
    int first, second;
    float part;
    __device__ __forceinline__ Between(int pixel, int size, int count) {
        const float place = fmaxf((pixel + 0.5f) * ((float)count / size) - 0.5f, 0.0f);
        first = min((int)place, count - 1);
        second = min(first + 1, count - 1);
        part = place - first;
    }
};

__device__ __forceinline__ float enlarged(const float* map, int width, Between y, Between x) {
    const float* upper = map + (long long)y.first * width;
    const float* lower = map + (long long)y.second * width;
    const float above = upper[x.first] + x.part * (upper[x.second] - upper[x.first]);
    const float below = lower[x.first] + x.part * (lower[x.second] - lower[x.first]);
    return above + y.part * (below - above);
}

// Multiply by a gain, add an offset; blockIdx = (columns, rows, n * COLORS + color).
extern "C" __global__ void __launch_bounds__(COLUMNS * WARPS)
    relight(const __grid_constant__ Arguments a) {
    const int x = blockIdx.x * COLUMNS + threadIdx.x;
    const int top = (blockIdx.y * WARPS + threadIdx.y) * ROWS;
    if (x >= a.W || top >= a.H) return;
    Stored* plane = a.made + blockIdx.z * a.H * a.W + x;
    Stored values[ROWS];
    // all are asked for before the first is used
#pragma unroll
    for (int k = 0; k < ROWS; ++k) values[k] = plane[min(top + k, (int)a.H - 1) * a.W];
    const long long map = blockIdx.z * a.h * a.w;
    const Between across(x, a.W, a.w);
#pragma unroll
    for (int k = 0; k < ROWS; ++k) {
        if (top + k >= a.H) return;
        const Between down(top + k, a.H, a.h);
        const float gain = enlarged(a.light[0] + map, a.w, down, across);
        const float offset = enlarged(a.light[1] + map, a.w, down, across);
        plane[(top + k) * a.W] = pack(unpack(values[k]) * gain + offset);
    }
}

// A pixel of either frame as it was before `relight`.
__device__ __forceinline__ float own(const Arguments& a, int frame, long long pixel, long long map,
                                     Between down, Between across) {
    const float gain = enlarged(a.light[2 * frame] + map, a.w, down, across);
    const float offset = enlarged(a.light[2 * frame + 1] + map, a.w, down, across);
    return (unpack(a.frames[frame][pixel]) - offset) / gain;
}

// Write the mean of both frames over what was made, where they differ little.
__device__ __forceinline__ void hold_pixel(const Arguments& a, int y, int x, float allowed) {
    const Between down(y, a.H, a.h), across(x, a.W, a.w);
    float mean[COLORS], difference = 0;
#pragma unroll
    for (int c = 0; c < COLORS; ++c) {
        const long long plane = (long long)blockIdx.z * COLORS + c;
        const long long pixel = (plane * a.H + y) * a.W + x, map = plane * a.h * a.w;
        const float left = own(a, 0, pixel, map, down, across);
        const float right = own(a, 1, pixel, map, down, across);
        mean[c] = 0.5f * (left + right);
        difference += fabsf(left - right) / COLORS;
    }
    // all of it up to half of what is allowed
    const float share = fminf((allowed - difference) / (0.5f * allowed + LEAST), 1.0f);
    if (!(share > 0)) return;
#pragma unroll
    for (int c = 0; c < COLORS; ++c) {
        Stored* pixel = a.made + (((long long)blockIdx.z * COLORS + c) * a.H + y) * a.W + x;
        const float made = unpack(*pixel);
        *pixel = pack(made + share * (mean[c] - made));
    }
}

// blockIdx = (columns, rows, n).
extern "C" __global__ void __launch_bounds__(COLUMNS * WARPS)
    hold(const __grid_constant__ Arguments a) {
    const int x = blockIdx.x * COLUMNS + threadIdx.x;
    const int top = (blockIdx.y * WARPS + threadIdx.y) * ROWS;
    if (x >= a.W) return;
    const int height = a.H / 2, width = a.W / 2;
    const float* map = a.allowed + (long long)blockIdx.z * height * width;
    const Between across(x, a.W, width);
#pragma unroll 1
    for (int y = top; y < min(top + ROWS, (int)a.H); ++y) {
        const float allowed = enlarged(map, width, Between(y, a.H, height), across);
        if (allowed > 0) hold_pixel(a, y, x, allowed);  // most pixels end here
    }
}
