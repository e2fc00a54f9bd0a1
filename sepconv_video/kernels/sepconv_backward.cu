// The gradients of forward for one frame.

#ifdef BACKWARD

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
                valid ? unpack(*a.other.at(blockIdx.z, a.channel + c, y + p, x)) : Real(0);
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
extern "C" __global__ void __launch_bounds__(COLUMNS * WARPS)
    backward_vertical(const __grid_constant__ Arguments a) {
    const int ROWS = MAPS_ROWS;
    const int rows = WARPS * ROWS + K - 1;
    const long long x = (long long)blockIdx.x * COLUMNS + threadIdx.x;
    const long long top = (long long)blockIdx.y * WARPS * ROWS;
    const long long y = top + threadIdx.y * ROWS;
    load_window(a.frames[0].image, a, rows, top, x - threadIdx.x, a.H + K - 1, a.W + K - 1);
    if (x >= a.W || y >= a.H) return;

    const Real* window = (const Real*)shared_bytes + threadIdx.y * ROWS * WIDTH + threadIdx.x;
    Real h[ROWS][K], g[ROWS][CHANNELS];
    load_pixels(a, a.frames[0].horizontal, y, x, h, g);
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
    backward_horizontal(const __grid_constant__ Arguments a) {
    const int ROWS = MAPS_ROWS;
    const int rows = WARPS * ROWS + K - 1;
    const long long x = (long long)blockIdx.x * COLUMNS + threadIdx.x;
    const long long top = (long long)blockIdx.y * WARPS * ROWS;
    const long long y = top + threadIdx.y * ROWS;
    load_window(a.frames[0].image, a, rows, top, x - threadIdx.x, a.H + K - 1, a.W + K - 1);
    if (x >= a.W || y >= a.H) return;

    const Real* window = (const Real*)shared_bytes + threadIdx.y * ROWS * WIDTH + threadIdx.x;
    Real v[ROWS][K], g[ROWS][CHANNELS];
    load_pixels(a, a.frames[0].vertical, y, x, v, g);
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
extern "C" __global__ void __launch_bounds__(COLUMNS * WARPS)
    backward_image(const __grid_constant__ Arguments a) {
    const int ROWS = FORWARD_ROWS;
    const int rows = WARPS * ROWS + K - 1;
    const long long n = blockIdx.z;
    const long long x = (long long)blockIdx.x * COLUMNS + threadIdx.x;
    const long long top = (long long)blockIdx.y * WARPS * ROWS;
    const long long y = top + threadIdx.y * ROWS;
    load_window(a.other, a, rows, top - (K - 1), x - threadIdx.x - (K - 1), a.H, a.W);
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
            const Real h = unpack(*a.frames[0].horizontal.at(n, j, from_y, from_x));
            Real v[ROWS];
#pragma unroll
            for (int p = 0; p < ROWS; ++p) {
                const int i = p + K - 1 - row;
                const Tensor& taps = a.frames[0].vertical;
                v[p] = i >= 0 && i < K ? unpack(*taps.at(n, i, from_y, from_x)) : Real(0);
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
