// Forward in the precision of the sums, for every GPU, dtype and number of taps.

#if !defined(BACKWARD) && !defined(TENSOR)

// sums[p][c] += share * sum_i vertical[i] * sum_j image[c, y+p+i, x+j] * horizontal[j], with the
// taps of pixel (y + p, x), which stands at `window` in shared memory.
__device__ __forceinline__ void filter(const Arguments& a, int f, int y, int x,
                                       const Real* window, Real (&sums)[FORWARD_ROWS][CHANNELS]) {
    const int ROWS = FORWARD_ROWS;
    const int rows = WARPS * ROWS + K - 1;
    Column<ROWS> horizontal(a.frames[f].horizontal, a, y, x);
    Real share[ROWS];
#pragma unroll
    for (int p = 0; p < ROWS; ++p) share[p] = share_of(a, f, y + p, x);
    for (int first = 0; first < K; first += CHUNK) {
        Real h[ROWS][CHUNK];
#pragma unroll
        for (int j = 0; j < CHUNK; ++j) {
            Real taps[ROWS] = {};
            if (first + j < K) horizontal.next(taps);
#pragma unroll
            for (int p = 0; p < ROWS; ++p) h[p][j] = share[p] * taps[p];
        }
        // Row `row` of the window is tap `row - p` of pixel p: its tap `row` is held back p times.
        Real held[ROWS][ROWS] = {}, taps[ROWS];
        Column<ROWS> vertical(a.frames[f].vertical, a, y, x);
        vertical.next(taps);
// two at once, or a twentieth of the instructions would but move values on; few taps gain nothing
#pragma unroll(CHUNKS > 1 ? 2 : 1)
        for (int row = 0; row < K + ROWS - 1; ++row) {
#pragma unroll
            for (int p = 0; p < ROWS; ++p) {
#pragma unroll
                for (int age = p; age > 0; --age) held[p][age] = held[p][age - 1];
                held[p][0] = row < K ? taps[p] : Real(0);
            }
            // asked for a row ahead: they take as long to come as a row to be worked out
            if (row + 1 < K) vertical.next(taps);
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
                for (int p = 0; p < ROWS; ++p) sums[p][c] += held[p][p] * across[p];
            }
        }
    }
}

// out[c, y, x] = sum_f share_f * sum_ij vertical_f[i] * horizontal_f[j] * image_f[c, y+i, x+j]
extern "C" __global__ void __launch_bounds__(COLUMNS * WARPS)
    forward(const __grid_constant__ Arguments a) {
    const int ROWS = FORWARD_ROWS;
    const int left = blockIdx.x * COLUMNS, x = left + threadIdx.x;
    const int top = blockIdx.y * WARPS * ROWS, y = top + threadIdx.y * ROWS;
    const Real* window = (const Real*)shared_bytes + threadIdx.y * ROWS * WIDTH + threadIdx.x;
    Real sums[ROWS][CHANNELS] = {};
#pragma unroll 1
    for (int f = 0; f < FRAMES; ++f) {
        __syncthreads();  // or some may still read the frame before
        load_window(a.frames[f].image, a, WARPS * ROWS + K - 1, top, left, a.H + K - 1, a.W + K - 1);
        if (y < a.H) filter(a, f, y, x, window, sums);
    }
    Stored* result = (Stored*)a.result;
#pragma unroll
    for (int p = 0; p < ROWS; ++p) {
#pragma unroll
        for (int c = 0; c < CHANNELS; ++c) {
            if (x < a.W && y + p < a.H && a.channel + c < a.C) {
                result[((blockIdx.z * a.C + a.channel + c) * a.H + y + p) * a.W + x] =
                    pack(sums[p][c]);
            }
        }
    }
}

#endif
