// Forward with matrix instructions (mma.sync, compute capability 8.0 and later), for half storage
// or bfloat16 and K = 17 to 57 taps. Products of halves, summed in float.
//
// A warp makes 32 neighbouring pixels of one row, in four groups of 8. For a group, the horizontal
// pass is a matrix product. A: the window's rows, one for each vertical tap and channel, times its
// columns; nothing is copied for it, as it is a view of the window in shared memory, and groups
// share most of it. B: the band of taps, column `pixel` holds its taps moved down by `pixel`.
// The product leaves in each thread a few (row, pixel) values, which it weights with the vertical
// taps and sums; at the end the eight threads that have values of a pixel add theirs.
//
// Precision: pictures are rounded to halves after a constant near their mean has been taken off,
// which then comes back as constant * sum(vertical) * sum(horizontal): exact whatever the sums are.

#ifdef TENSOR

#define STEPS ((K + 7 + 15) / 16)              // instructions across the band: 16 columns each
#define UNITS (2 * STEPS + 3)                  // of 8 columns: what four groups read
#define TILES ((K * CHANNELS + 15) / 16)       // instructions down the window: 16 rows each
#define LINES (WARPS * FORWARD_ROWS)           // rows of pixels of a block
#define WINDOW_ROWS ((LINES - 1) * CHANNELS + 16 * TILES)
#define TAP_ROWS ((16 * TILES - 1) / CHANNELS + 1)
// Words of 32 bits, that is two halves. Rows of the window and of taps start 4 * odd words after
// each other: so the 8 rows that a warp reads at once lie in different banks.
#define PITCH (4 * UNITS)
#define TAP_PITCH 20
#define BAND_PITCH 36                          // 64 halves for each pixel, and room for `shift`
#define GROUP_PITCH (8 * BAND_PITCH + 1)
#define BAND_WORDS (4 * GROUP_PITCH + 4)
#define TAP_WORDS (TAP_ROWS * TAP_PITCH)
#define STAGE_WORDS (BAND_WORDS > TAP_WORDS ? BAND_WORDS : TAP_WORDS)
#define SAMPLES 4                              // of each thread, for the picture's mean
#define ALL 0xffffffffu

static_assert(8 * STEPS + 3 <= BAND_PITCH, "the band of a pixel must fit");

// Two halves in a word, to and fro.
#ifdef EMULATED
__device__ unsigned int pack_two(float low, float high) {
    return to_half(low) | (unsigned int)to_half(high) << 16;
}
__device__ void unpack_two(unsigned int word, float& low, float& high) {
    low = from_half(word & 0xffff);
    high = from_half(word >> 16);
}
#else
__device__ __forceinline__ unsigned int pack_two(float low, float high) {
    unsigned int word;
    asm("cvt.rn.f16x2.f32 %0, %2, %1;" : "=r"(word) : "f"(low), "f"(high));
    return word;
}
__device__ __forceinline__ void unpack_two(unsigned int word, float& low, float& high) {
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}"
        : "=f"(low), "=f"(high)
        : "r"(word));
}
#endif

// d += a * b for a 16x16 and a 16x8 matrix, spread over the 32 threads of a warp.
// With group = lane / 4 and pair = lane % 4, a thread holds (PTX ISA, m16n8k16):
//   a  two halves each at (group, 2 * pair), (group + 8, 2 * pair),
//                         (group, 2 * pair + 8), (group + 8, 2 * pair + 8)
//   b  two halves each, one below the other, at (2 * pair, group), (2 * pair + 8, group)
//   d  (group, 2 * pair), (group, 2 * pair + 1), (group + 8, 2 * pair), (group + 8, 2 * pair + 1)
#ifndef EMULATED
__device__ __forceinline__ void multiply_add(float (&d)[4], const unsigned int (&a)[4],
                                             const unsigned int (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

// A value near the mean of the block's window, for each channel: every warp finds the same.
__device__ __forceinline__ void find_centre(const Arguments& a, const Tensor& image, long long top,
                                            long long left, float (&centre)[CHANNELS]) {
    const long long y = min(top + threadIdx.x * (LINES + K - 1) / 32, a.H + K - 2);
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c) {
        float sum = 0;
        const long long channel = min(a.channel + c, a.C - 1);
#pragma unroll
        for (int s = 0; s < SAMPLES; ++s) {
            const int column = (2 * s + 1) * (31 + K) / (2 * SAMPLES);
            sum += unpack(*image.at(blockIdx.z, channel, y, min(left + column, a.W + K - 2)));
        }
#pragma unroll
        for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(ALL, sum, mask);
        const float mean = sum / (32 * SAMPLES);
        // pictures lie within a few units: no mean of an infinite or huge value is worth its harm
        centre[c] = mean > -1024 && mean < 1024 ? mean : 0;
    }
}

// Copy the window's rows, channel by channel within a row, without their centre, as halves.
// What lies outside of the tensor is zero: it meets zero taps only.
__device__ __forceinline__ void load_centred(const Arguments& a, const Tensor& image,
                                             long long top, long long left,
                                             const float (&centre)[CHANNELS]) {
    unsigned short* window = (unsigned short*)shared_bytes;
    const int PARTS = Columns<2 * PITCH>::PARTS;
    const Columns<2 * PITCH> columns(image, top, left, a.H + K - 1, a.W + K - 1);
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c) {
        const int lines = (WINDOW_ROWS - c + CHANNELS - 1) / CHANNELS;
        for (int first = threadIdx.y; first < lines; first += WARPS * LOADED) {
            Stored values[LOADED][PARTS];
            bool inside[LOADED];
#pragma unroll
            for (int k = 0; k < LOADED; ++k) {
                inside[k] = columns.load((int)a.channel + c, a.C, first + k * WARPS, values[k]);
            }
            __syncwarp();  // or the compiler mixes the two
#pragma unroll
            for (int k = 0; k < LOADED; ++k) {
                const int line = first + k * WARPS;
                unsigned short* row = window + (line * CHANNELS + c) * 2 * PITCH;
#pragma unroll
                for (int part = 0; part < PARTS; ++part) {
                    const int column = COLUMNS * part + threadIdx.x;
                    const bool valid = inside[k] && columns.valid[part];
                    const float value = valid ? unpack(values[k][part]) - centre[c] : 0;
                    const unsigned short half = to_half(value);
                    if (line < lines && column < 2 * PITCH) row[column] = half;
                }
            }
        }
    }
}

// Where the band of a pixel begins: reading it meets no bank conflicts, writing it few.
__device__ __forceinline__ int band_place(int pixel) {
    return pixel / 8 * GROUP_PITCH + pixel % 8 * BAND_PITCH + 3;
}

// Write the band of horizontal taps, each thread those of its pixel; return their sum.
// Pixel `x` of a group starts `x` halves later, so for odd `x` a word is made of the later tap of
// one pair and the earlier tap of the next. Words before the first and after the last one fall
// between the bands of two pixels.
__device__ __forceinline__ float stage_horizontal(Column<1> taps, unsigned int* band) {
    const bool odd = threadIdx.x & 1;
    band += band_place(threadIdx.x) + (threadIdx.x & 7) / 2;
    float sum = 0, before = 0;
#pragma unroll
    for (int pair = -3; pair < 8 * STEPS; ++pair) {
        float first[1] = {}, second[1] = {};
        if (pair >= 0 && 2 * pair < K) taps.next(first);
        if (pair >= 0 && 2 * pair + 1 < K) taps.next(second);
        const unsigned int word =
            pack_two(odd ? before : first[0], odd ? first[0] : second[0]);
        band[pair] = word;
        float low, high;
        unpack_two(word, low, high);
        sum += low + high;  // of the taps as the matrix instructions see them
        before = second[0];
    }
    return sum;
}

// Write the vertical taps, one row of 32 pixels for each; return the sum of the thread's own.
__device__ __forceinline__ float stage_vertical(Column<1> taps, unsigned int* words) {
    unsigned short* place = (unsigned short*)words + threadIdx.x;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < TAP_ROWS; ++i) {
        float tap[1] = {};
        if (i < K) taps.next(tap);
        const unsigned short half = to_half(tap[0]);
        place[i * 2 * TAP_PITCH] = half;
        sum += from_half(half);
    }
    return sum;
}

// What a thread reads of the band: its part of B, for each group and each unit of 8 rows.
__device__ __forceinline__ void read_band(const unsigned int* band,
                                          unsigned int (&b)[4][2 * STEPS]) {
    const int group = threadIdx.x / 4, pair = threadIdx.x % 4;
#pragma unroll
    for (int q = 0; q < 4; ++q) {
#pragma unroll
        for (int unit = 0; unit < 2 * STEPS; ++unit) {
            b[q][unit] = band[band_place(8 * q + group) + 4 * unit + pair];
        }
    }
}

// Both passes for the 32 pixels of a warp. Row r of A is tap r / CHANNELS of channel r % CHANNELS;
// a thread has row `group` of each half tile, so sums[k] belongs to channel (k + group) % CHANNELS.
__device__ __forceinline__ void filter(const unsigned int* window, const unsigned int* taps,
                                       const unsigned int (&b)[4][2 * STEPS],
                                       float (&sums)[CHANNELS][4][2]) {
    const int group = threadIdx.x / 4, pair = threadIdx.x % 4;
    window += group * PITCH + pair;
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
        unsigned int a[UNITS][2];
#pragma unroll
        for (int unit = 0; unit < UNITS; ++unit) {
            a[unit][0] = window[16 * tile * PITCH + 4 * unit];
            a[unit][1] = window[(16 * tile + 8) * PITCH + 4 * unit];
        }
        float d[4][4] = {};
#pragma unroll
        for (int s = 0; s < STEPS; ++s) {
#pragma unroll
            for (int q = 0; q < 4; ++q) {
                const int unit = q + 2 * s;
                const unsigned int rows[4] = {a[unit][0], a[unit][1], a[unit + 1][0],
                                              a[unit + 1][1]};
                const unsigned int columns[2] = {b[q][2 * s], b[q][2 * s + 1]};
                multiply_add(d[q], rows, columns);
            }
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = 16 * tile + 8 * half;
            // (row + group) / CHANNELS, in two parts: few values of the first, the other constant
            const int tap = (row % CHANNELS + group) / CHANNELS + row / CHANNELS;
            const unsigned int* line = taps + tap * TAP_PITCH + pair;
#pragma unroll
            for (int q = 0; q < 4; ++q) {
                float low, high;
                unpack_two(line[4 * q], low, high);
                float(&sum)[2] = sums[row % CHANNELS][q];
                sum[0] += low * d[q][2 * half];
                sum[1] += high * d[q][2 * half + 1];
            }
        }
    }
}

// Add up the threads with the same `pair`; each is left with the pixel that `own_pixel` names.
// A step of three halves what a thread has: it sends the half that its partner keeps.
__device__ __forceinline__ float add_up(const float (&sums)[4][2]) {
    const int group = threadIdx.x / 4;
    float four[2][2], two[2];
#pragma unroll
    for (int q = 0; q < 2; ++q) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const float kept = group & 4 ? sums[q + 2][e] : sums[q][e];
            const float sent = group & 4 ? sums[q][e] : sums[q + 2][e];
            four[q][e] = kept + __shfl_xor_sync(ALL, sent, 16);
        }
    }
#pragma unroll
    for (int e = 0; e < 2; ++e) {
        const float kept = group & 2 ? four[1][e] : four[0][e];
        two[e] = kept + __shfl_xor_sync(ALL, group & 2 ? four[0][e] : four[1][e], 8);
    }
    return (group & 1 ? two[1] : two[0]) +
           __shfl_xor_sync(ALL, group & 1 ? two[0] : two[1], 4);
}

__device__ __forceinline__ int own_pixel() {
    const int group = threadIdx.x / 4, pair = threadIdx.x % 4;
    return 8 * (group / 2) + 2 * pair + (group & 1);
}

// Bring the sums of a thread in the order of the channels, and add them up over the warp.
__device__ __forceinline__ void gather(const float (&sums)[CHANNELS][4][2],
                                       float (&values)[CHANNELS]) {
    const int group = threadIdx.x / 4;
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c) {
        float own[4][2] = {};
#pragma unroll
        for (int k = 0; k < CHANNELS; ++k) {
#pragma unroll
            for (int q = 0; q < 4; ++q) {
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    if ((k + group) % CHANNELS == c) own[q][e] = sums[k][q][e];
                }
            }
        }
        values[c] = add_up(own);
    }
}

// One row of 32 pixels of frame `f`; each thread gets the values of its own pixel.
__device__ __forceinline__ void filter_row(const Arguments& a, int f, long long y, long long left,
                                           const float (&centre)[CHANNELS],
                                           float (&values)[CHANNELS]) {
    const unsigned int* window = (const unsigned int*)shared_bytes;
    unsigned int* stage =
        (unsigned int*)shared_bytes + WINDOW_ROWS * PITCH + threadIdx.y * STAGE_WORDS;
    const Frame& frame = a.frames[f];
    unsigned int b[4][2 * STEPS];
    float sums[CHANNELS][4][2] = {};
    __syncwarp();  // or some may still read what is staged for the row before
    float scale = stage_horizontal(Column<1>(frame.horizontal, a, y, left + threadIdx.x), stage);
    __syncwarp();
    read_band(stage, b);
    __syncwarp();
    scale *= stage_vertical(Column<1>(frame.vertical, a, y, left + threadIdx.x), stage);
    __syncwarp();
    filter(window + y % LINES * CHANNELS * PITCH, stage, b, sums);
    gather(sums, values);
    scale = __shfl_sync(ALL, scale, own_pixel());
    const float share = share_of(a, f, y, left + own_pixel());
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c) values[c] = share * (values[c] + centre[c] * scale);
}

// As `forward` in sepconv_forward.cu.
extern "C" __global__ void __launch_bounds__(COLUMNS * WARPS)
    forward_tensor(const __grid_constant__ Arguments a) {
    const long long left = (long long)blockIdx.x * COLUMNS, x = left + own_pixel();
    const long long top = (long long)blockIdx.y * LINES;
    // the first frame's values wait here for the second's
    float* kept = (float*)shared_bytes + WINDOW_ROWS * PITCH + WARPS * STAGE_WORDS +
                  threadIdx.y * 32 + threadIdx.x;
#pragma unroll 1
    for (int f = 0; f < FRAMES; ++f) {
        float centre[CHANNELS], values[CHANNELS];
        find_centre(a, a.frames[f].image, top, left, centre);
        __syncthreads();  // or some may still read the frame before
        load_centred(a, a.frames[f].image, top, left, centre);
        __syncthreads();
#pragma unroll 1
        for (int line = threadIdx.y; line < LINES && top + line < a.H; line += WARPS) {
            filter_row(a, f, top + line, left, centre, values);
            Stored* result = (Stored*)a.result +
                             ((blockIdx.z * a.C + a.channel) * a.H + top + line) * a.W + x;
#pragma unroll
            for (int c = 0; c < CHANNELS; ++c) {
                float* waiting = kept + (c * LINES + line - threadIdx.y) * 32;
                if (f > 0) values[c] += *waiting;
                if (f < FRAMES - 1) {
                    *waiting = values[c];
                } else if (x < a.W && a.channel + c < a.C) {
                    result[c * a.H * a.W] = pack(values[c]);
                }
            }
        }
    }
}

#endif
