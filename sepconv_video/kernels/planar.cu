// Laying maps out one after the other on NVIDIA GPUs. Convolutions make them with all channels of a
// pixel side by side. PyTorch turns them around one map at a time, and as no map is fetched without
// the others it reads them all many times over.
//
// Compiled by NVRTC with the macro BYTES, the size of an element, 2, 4 or 8 (see cuda.py). A block of
// 32 x WARPS threads turns TURNED pixels of TURNED channels, blockIdx = (pixels, channels, n).
//
// The test suite compiles this very text for the CPU (tests/kernels/emulation.cpp).

#define COLUMNS 32
#define WARPS 4
#define TURNED 64
#define LOADED 8  // pixels that a warp asks for at once

#if BYTES == 2
typedef unsigned short Element;
#elif BYTES == 4
typedef unsigned int Element;
#else
typedef unsigned long long Element;
#endif

// Elements from one pixel to the next in shared memory: words of 32 bits an odd number apart lie in
// different banks.
#define PITCH (TURNED + 4 / BYTES)

// cuda.py packs it from 64-bit words in this order; strides are counted in elements.
struct Arguments {
    const Element* maps;  // (N, C, pixels), channels side by side
    long long n, pixel;   // strides
    Element* result;      // (N, C, pixels), pixels side by side, one map after the other
    long long result_n;
    long long C, pixels;
};

extern __shared__ __align__(16) unsigned char shared_bytes[];

extern "C" __global__ void __launch_bounds__(COLUMNS * WARPS)
    planar(const __grid_constant__ Arguments a) {
    Element* turned = (Element*)shared_bytes;
    const long long pixel = (long long)blockIdx.x * TURNED, channel = (long long)blockIdx.y * TURNED;
    const int pixels = min(a.pixels - pixel, (long long)TURNED);
    const int channels = min(a.C - channel, (long long)TURNED);
    const Element* from = a.maps + blockIdx.z * a.n + pixel * a.pixel + channel;
    for (int first = threadIdx.y; first < pixels; first += WARPS * LOADED) {
        Element values[LOADED][TURNED / COLUMNS];
        // without branches, so that all are on their way at once
#pragma unroll
        for (int k = 0; k < LOADED; ++k) {
            const Element* line = from + min(first + k * WARPS, pixels - 1) * a.pixel;
#pragma unroll
            for (int part = 0; part < TURNED / COLUMNS; ++part) {
                values[k][part] = line[min((int)threadIdx.x + COLUMNS * part, channels - 1)];
            }
        }
#pragma unroll
        for (int k = 0; k < LOADED; ++k) {
#pragma unroll
            for (int part = 0; part < TURNED / COLUMNS; ++part) {
                const int p = first + k * WARPS, c = threadIdx.x + COLUMNS * part;
                if (p < pixels && c < channels) turned[p * PITCH + c] = values[k][part];
            }
        }
    }
    __syncthreads();
    Element* to = a.result + blockIdx.z * a.result_n + channel * a.pixels + pixel;
    for (int c = threadIdx.y; c < channels; c += WARPS) {
        for (int p = threadIdx.x; p < pixels; p += COLUMNS) {
            to[c * a.pixels + p] = turned[p * PITCH + c];
        }
    }
}
