// Taps of what a network predicted, on NVIDIA GPUs: maps laid out one after the other, of which the
// last 4 * K become taps that sum to one. By PyTorch's operations all of them are read and written
// five times.
//
// Compiled by NVRTC with the macros STORAGE, K, and LEAD, the number of maps that are no taps, after
// storage.cu (see taps_cuda.py). A block of 32 x WARPS threads works on PIXELS of them,
// blockIdx = (pixels, 0, n).
//
// The test suite compiles this very text for the CPU (tests/kernels/emulation.cpp).

#define COLUMNS 32
#define WARPS 4
#define PIXELS 64
#define LOADED 8  // pixels that a warp asks for at once
#define QUARTERS 4
#define MAPS (LEAD + QUARTERS * K)
#define PARTS ((MAPS + COLUMNS - 1) / COLUMNS)
// From one pixel to the next in shared memory: an odd number, so that they lie in different banks.
#define PITCH (MAPS | 1)

// taps_cuda.py packs it from 64-bit words in this order; strides are counted in elements.
struct Arguments {
    const Stored* maps;   // (N, MAPS, pixels), channels side by side
    long long n, pixel;   // strides
    const float* change;  // (N, pixels)
    Stored* result;       // (N, MAPS, pixels), contiguous
    long long pixels;
    double most;
};

extern __shared__ __align__(16) unsigned char shared_bytes[];

// The unit impulse, and so much of what was predicted less its mean.
__device__ __forceinline__ void make_taps(float* taps, float change, float most) {
    float mean = 0, size = 0;
#pragma unroll
    for (int k = 0; k < K; ++k) mean += taps[k];
    mean /= K;
#pragma unroll
    for (int k = 0; k < K; ++k) size += fabsf(taps[k] - mean);
    const float share = fminf(change, most / size);
#pragma unroll
    for (int k = 0; k < K; ++k) taps[k] = share * (taps[k] - mean) + (k == K / 2 ? 1 : 0);
}

extern "C" __global__ void __launch_bounds__(COLUMNS * WARPS)
    shape_taps(const __grid_constant__ Arguments a) {
    float* turned = (float*)shared_bytes;
    const long long first = (long long)blockIdx.x * PIXELS;
    const int pixels = min(a.pixels - first, (long long)PIXELS);
    const Stored* from = a.maps + blockIdx.z * a.n + first * a.pixel;
    for (int p = threadIdx.y; p < pixels; p += WARPS * LOADED) {
        Stored values[LOADED][PARTS];
        // without branches, so that all are on their way at once
#pragma unroll
        for (int k = 0; k < LOADED; ++k) {
            const Stored* line = from + min(p + k * WARPS, pixels - 1) * a.pixel;
#pragma unroll
            for (int part = 0; part < PARTS; ++part) {
                values[k][part] = line[min((int)threadIdx.x + COLUMNS * part, MAPS - 1)];
            }
        }
#pragma unroll
        for (int k = 0; k < LOADED; ++k) {
#pragma unroll
            for (int part = 0; part < PARTS; ++part) {
                const int own = p + k * WARPS, c = threadIdx.x + COLUMNS * part;
                if (own < pixels && c < MAPS) turned[own * PITCH + c] = unpack(values[k][part]);
            }
        }
    }
    __syncthreads();
    const int thread = threadIdx.y * COLUMNS + threadIdx.x, own = thread % PIXELS;
    if (own < pixels) {
        const float change = a.change[blockIdx.z * a.pixels + first + own];
        for (int q = thread / PIXELS; q < QUARTERS; q += COLUMNS * WARPS / PIXELS) {
            make_taps(turned + own * PITCH + LEAD + q * K, change, a.most);
        }
    }
    __syncthreads();
    Stored* to = a.result + blockIdx.z * MAPS * a.pixels + first;
    for (int c = threadIdx.y; c < MAPS; c += WARPS) {
        for (int p = threadIdx.x; p < pixels; p += COLUMNS) {
            to[c * a.pixels + p] = pack(turned[p * PITCH + c]);
        }
    }
}
