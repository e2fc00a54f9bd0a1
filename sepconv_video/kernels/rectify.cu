// What follows a convolution on NVIDIA GPUs: bias, rectifier, and what is added, in one pass over the
// maps. PyTorch takes one for each, and these passes take as long as the convolution.
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
    const Vector* base;  // as `maps`, or null
    double slope;        // of the rectifier below zero
    long long vectors;   // of a picture's maps
    long long channels;  // likewise of a pixel's
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
