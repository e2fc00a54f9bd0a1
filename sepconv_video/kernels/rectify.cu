// What follows a convolution on NVIDIA GPUs: bias, rectifier, and what is added, in one pass over the
// maps; and maps enlarged on the way to those they are added to. PyTorch takes a pass for each, and
// these take as long as the convolution.
//
// Compiled by NVRTC with the macro STORAGE, after storage.cu, for every size at once (see
// convolution_cuda.py). Maps lie with all channels of a pixel side by side; a thread works on TAKEN
// times 16 bytes of them, blockIdx = (threads, 0, n).
//
// The test suite compiles this very text for the CPU (tests/kernels/emulation.cpp).

#define COLUMNS 32
#define WARPS 4
#define THREADS (COLUMNS * WARPS)
#define TAKEN 4
#define PER_VECTOR (16 / (int)sizeof(Stored))

struct __align__(16) Vector {
    Stored values[PER_VECTOR];
};

// convolution_cuda.py packs it from 64-bit words in this order.
struct Arguments {
    Vector* maps;        // (N, H, W, C), overwritten
    const Vector* bias;  // (C,)
    const Vector* base;  // as `maps`, or null; of `add_enlarged` (N, H/2, W/2, C)
    double slope;        // of the rectifier below zero
    long long vectors;   // of a picture's maps
    long long channels;  // likewise of a pixel's
    long long W;         // of `add_enlarged`
};

extern "C" __global__ void __launch_bounds__(THREADS)
    rectify(const __grid_constant__ Arguments a) {
    const int thread = threadIdx.y * COLUMNS + threadIdx.x;
    const int first = blockIdx.x * THREADS * TAKEN + thread, last = a.vectors - 1;
    Vector* maps = a.maps + blockIdx.z * a.vectors;
    const Vector* base = a.base ? a.base + blockIdx.z * a.vectors : nullptr;
    const float slope = a.slope;
    Vector values[TAKEN], added[TAKEN];
    // all are asked for before the first is used
#pragma unroll
    for (int k = 0; k < TAKEN; ++k) values[k] = maps[min(first + k * THREADS, last)];
    if (base) {
#pragma unroll
        for (int k = 0; k < TAKEN; ++k) added[k] = base[min(first + k * THREADS, last)];
    }
#pragma unroll
    for (int k = 0; k < TAKEN; ++k) {
        const int at = first + k * THREADS;
        if (at > last) return;
        const Vector bias = a.bias[at % (int)a.channels];
#pragma unroll
        for (int i = 0; i < PER_VECTOR; ++i) {
            float value = unpack(values[k].values[i]) + unpack(bias.values[i]);
            value = value > 0 ? value : slope * value;
            values[k].values[i] = pack(base ? value + unpack(added[k].values[i]) : value);
        }
        maps[at] = values[k];
    }
}

// A step of the enlargement: what lies nearer counts three times as much.
__device__ __forceinline__ float mixed(float near, float far) { return 0.75f * near + 0.25f * far; }

// Add maps of half the size, enlarged bilinearly.
extern "C" __global__ void __launch_bounds__(THREADS)
    add_enlarged(const __grid_constant__ Arguments a) {
    const int first = blockIdx.x * THREADS * TAKEN + threadIdx.y * COLUMNS + threadIdx.x;
    const int channels = a.channels, W = a.W, H = a.vectors / (channels * W);
    const Vector* base = a.base + blockIdx.z * (a.vectors / 4);
    Vector* maps = a.maps + blockIdx.z * a.vectors;
    for (int at = first; at < min((long long)first + TAKEN * THREADS, a.vectors); at += THREADS) {
        const int pixel = at / channels, c = at % channels, y = pixel / W, x = pixel % W;
        const int near_y = y / 2, far_y = min(max(near_y + y % 2 * 2 - 1, 0), H / 2 - 1);
        const int near_x = x / 2, far_x = min(max(near_x + x % 2 * 2 - 1, 0), W / 2 - 1);
        const Vector own = base[(near_y * (W / 2) + near_x) * channels + c];
        const Vector aside = base[(near_y * (W / 2) + far_x) * channels + c];
        const Vector above = base[(far_y * (W / 2) + near_x) * channels + c];
        const Vector across = base[(far_y * (W / 2) + far_x) * channels + c];
        Vector made = maps[at];
#pragma unroll
        for (int i = 0; i < PER_VECTOR; ++i) {
            const float near = mixed(unpack(own.values[i]), unpack(above.values[i]));
            const float far = mixed(unpack(aside.values[i]), unpack(across.values[i]));
            made.values[i] = pack(unpack(made.values[i]) + mixed(near, far));
        }
        maps[at] = made;
    }
}
