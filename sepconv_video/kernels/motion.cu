// Finding motion on NVIDIA GPUs: the steps of models/alignment.py, which explains them, each in one
// launch. With PyTorch's own operations a search is thousands of launches, and moves each frame
// through memory a hundred times.
//
// Compiled by NVRTC with these macros (see motion_cuda.py):
//   CHANNELS  of the frames
//   WINDOW    cells a side over which is summed; odd
//   REACH     cells that match seeks across and down, 15 at most
//
// Blocks of 32 x WARPS threads work on 32 x ROWS cells (match: SOUGHT x WARPS), blockIdx = (columns,
// rows, n). What they need around them is worked out again by each block; beyond the frame its edges
// are repeated.
//
// The test suite compiles this very text for the CPU (tests/kernels/emulation.cpp).

#define COLUMNS 32
#define WARPS 4
#define ROWS 16
#define LINES (ROWS / WARPS)  // cells of a thread, one above the other
#define SOUGHT 8
#define ALL 0xffffffffu
#define AROUND (WINDOW / 2)

// The one argument of every kernel; motion_cuda.py packs it from 64-bit words in this order. Tensors
// are contiguous.
struct Arguments {
    const float* left;    // (N, CHANNELS, H, W)
    const float* right;   // as `left`
    const float* motion;  // (N, 2, H, W)
    const float* weight;  // (N, 1, H, W), read by smooth; in match what is unexplained, or 0
    float* result;        // as `motion`
    float* weights;       // as `weight`, written by correct; in match whether something was found
    long long H, W;
    long long distance;   // cells, in choose
    double damping, robust;     // in correct
    double sharpness, least;    // in choose
    double outside_weight;      // in correct
    double outside_cost;        // in choose
    double share, penalty;      // in match, the latter by the cell
};

extern __shared__ __align__(16) unsigned char shared_bytes[];

__device__ __forceinline__ int within(int place, int size) {
    return min(max(place, 0), size - 1);
}

// Where in a plane to look, and the four cells around it.
struct Look {
    int at, right, below;
    float x, y;
    __device__ __forceinline__ Look(float column, float row, int H, int W) {
        const float place_x = min(max(column, 0.0f), (float)(W - 1));
        const float place_y = min(max(row, 0.0f), (float)(H - 1));
        const int left = (int)place_x, top = (int)place_y;
        x = place_x - left;
        y = place_y - top;
        at = top * W + left;
        right = left + 1 < W ? 1 : 0;
        below = top + 1 < H ? W : 0;
    }
    __device__ __forceinline__ float in(const float* plane) const {
        const float* cell = plane + at;
        const float above = cell[0] + x * (cell[right] - cell[0]);
        const float under = cell[below] + x * (cell[below + right] - cell[below]);
        return above + y * (under - above);
    }
};

// How far the motion (dx, dy) of cell (x, y) stays inside both frames: from 1 where it does to 0 where
// one of the two places lies a cell or more outside.
__device__ __forceinline__ float inside(int x, int y, float dx, float dy, int H, int W) {
    const float beyond_x = fabsf(dx) - min(x, W - 1 - x);
    const float beyond_y = fabsf(dy) - min(y, H - 1 - y);
    return 1 - min(max(max(beyond_x, beyond_y), 0.0f), 1.0f);
}

// Write the motion of a cell.
__device__ __forceinline__ void put(const Arguments& a, int y, int x, float across, float down) {
    const long long plane = a.H * a.W, at = blockIdx.z * 2 * plane + (long long)y * a.W + x;
    a.result[at] = across;
    a.result[at + plane] = down;
}

// Whether row i of those that the cells of a thread are summed over, from AROUND above the first cell
// on, is in the window of its cell r. They share the sums of a row: two fifths as much is read.
#define IN_WINDOW(i, r) ((r) <= (i) && (i) < (r) + WINDOW)
#define SUMMED (LINES + WINDOW - 1)

// The cells of a block and `around` more on each side.
#define WIDE(around) (COLUMNS + 2 * (around))
#define CELLS(around) ((ROWS + 2 * (around)) * WIDE(around))

// Sums over the windows of a thread's cells of maps (COUNT or more, CELLS(AROUND)) in shared memory.
template <int COUNT>
__device__ __forceinline__ void sum_windows(float (&totals)[LINES][COUNT], const float* maps) {
    const float* start = maps + threadIdx.y * LINES * WIDE(AROUND) + threadIdx.x;
#pragma unroll
    for (int r = 0; r < LINES; ++r) {
#pragma unroll
        for (int k = 0; k < COUNT; ++k) totals[r][k] = 0;
    }
#pragma unroll
    for (int i = 0; i < SUMMED; ++i) {
#pragma unroll
        for (int k = 0; k < COUNT; ++k) {
            const float* cell = start + k * CELLS(AROUND) + i * WIDE(AROUND);
            float sum = 0;
#pragma unroll
            for (int j = 0; j < WINDOW; ++j) sum += cell[j];
#pragma unroll
            for (int r = 0; r < LINES; ++r) {
                if (IN_WINDOW(i, r)) totals[r][k] += sum;
            }
        }
    }
}

// One correction, not smoothed yet, and how well the frames agree.
extern "C" __global__ void __launch_bounds__(COLUMNS * WARPS)
    correct(const __grid_constant__ Arguments a) {
    const int SEEN = CELLS(AROUND + 1), TAKEN = CELLS(AROUND), TERMS = 6;
    float* sums = (float*)shared_bytes;             // CHANNELS x SEEN
    float* differences = sums + CHANNELS * SEEN;    // CHANNELS x SEEN
    float* terms = differences + CHANNELS * SEEN;   // TERMS x TAKEN
    const int H = a.H, W = a.W, thread = threadIdx.y * COLUMNS + threadIdx.x;
    const int top = blockIdx.y * ROWS - AROUND - 1, start = blockIdx.x * COLUMNS - AROUND - 1;
    const long long plane = a.H * a.W, n = blockIdx.z;
    const float* motion = a.motion + n * 2 * plane;

    for (int i = thread; i < SEEN; i += COLUMNS * WARPS) {
        const int y = within(top + i / WIDE(AROUND + 1), H);
        const int x = within(start + i % WIDE(AROUND + 1), W);
        const float dx = motion[y * W + x], dy = motion[plane + y * W + x];
        const Look before(x + dx, y + dy, H, W), after(x - dx, y - dy, H, W);
        for (int c = 0; c < CHANNELS; ++c) {
            const float left = before.in(a.left + (n * CHANNELS + c) * plane);
            const float right = after.in(a.right + (n * CHANNELS + c) * plane);
            sums[c * SEEN + i] = left + right;
            differences[c * SEEN + i] = left - right;
        }
    }
    __syncthreads();

    for (int i = thread; i < TAKEN; i += COLUMNS * WARPS) {
        const int cell_y = within(top + 1 + i / WIDE(AROUND), H);
        const int cell_x = within(start + 1 + i % WIDE(AROUND), W);
        const int at = (cell_y - top) * WIDE(AROUND + 1) + cell_x - start;
        float xx = 0, xy = 0, yy = 0, x = 0, y = 0, square = 0;
        for (int c = 0; c < CHANNELS; ++c) {
            const float* sum = sums + c * SEEN + at;
            const float across = (sum[1] - sum[-1]) / 2;
            const float down = (sum[WIDE(AROUND + 1)] - sum[-WIDE(AROUND + 1)]) / 2;
            const float difference = differences[c * SEEN + at];
            xx += across * across;
            xy += across * down;
            yy += down * down;
            x += across * difference;
            y += down * difference;
            square += difference * difference;
        }
        const float robust = a.robust, *moved = motion + cell_y * W + cell_x;
        const float known = inside(cell_x, cell_y, moved[0], moved[plane], H, W);
        const float weight = max(known, (float)a.outside_weight) /
                             sqrtf(square / CHANNELS + robust * robust);
        const float found[TERMS] = {xx * weight, xy * weight, yy * weight,
                                    x * weight,  y * weight,  weight};
        for (int term = 0; term < TERMS; ++term) terms[term * TAKEN + i] = found[term];
    }
    __syncthreads();

    const int first = threadIdx.y * LINES;
    float totals[LINES][TERMS - 1];
    sum_windows(totals, terms);
    const int column = blockIdx.x * COLUMNS + threadIdx.x;
#pragma unroll
    for (int r = 0; r < LINES; ++r) {
        const int row = first + r, y = blockIdx.y * ROWS + row;
        if (y >= H || column >= W) continue;
        const float share = 1.0f / (WINDOW * WINDOW);
        const float xx = totals[r][0] * share + (float)a.damping, xy = totals[r][1] * share;
        const float yy = totals[r][2] * share + (float)a.damping;
        const float xd = totals[r][3] * share, yd = totals[r][4] * share;
        const float determinant = xx * yy - xy * xy;
        const float across = (xy * yd - yy * xd) / determinant;
        const float down = (xy * xd - xx * yd) / determinant;
        const long long at = (long long)y * W + column;
        put(a, y, column, motion[at] + min(max(across, -1.0f), 1.0f),
            motion[plane + at] + min(max(down, -1.0f), 1.0f));
        a.weights[n * plane + at] =
            terms[5 * TAKEN + (row + AROUND) * WIDE(AROUND) + threadIdx.x + AROUND];
    }
}

// Mean motion around, where the frames agree above all.
extern "C" __global__ void __launch_bounds__(COLUMNS * WARPS)
    smooth(const __grid_constant__ Arguments a) {
    const int H = a.H, W = a.W, x = blockIdx.x * COLUMNS + threadIdx.x;
    const long long plane = a.H * a.W, n = blockIdx.z;
    const float* motion = a.motion + n * 2 * plane;
    const float* weight = a.weight + n * plane;
    const int first = blockIdx.y * ROWS + threadIdx.y * LINES;
    if (x >= W) return;
    float across[LINES] = {}, down[LINES] = {}, total[LINES] = {};
#pragma unroll
    for (int i = 0; i < SUMMED; ++i) {
        const long long line = (long long)within(first + i - AROUND, H) * W;
        float sum_x = 0, sum_y = 0, sum = 0;
#pragma unroll
        for (int j = 0; j < WINDOW; ++j) {
            const long long at = line + within(x + j - AROUND, W);
            const float trust = weight[at] * weight[at] * weight[at];
            sum_x += trust * motion[at];
            sum_y += trust * motion[plane + at];
            sum += trust;
        }
#pragma unroll
        for (int r = 0; r < LINES; ++r) {
            if (!IN_WINDOW(i, r)) continue;
            across[r] += sum_x;
            down[r] += sum_y;
            total[r] += sum;
        }
    }
#pragma unroll
    for (int r = 0; r < LINES; ++r) {
        if (first + r < H) put(a, first + r, x, across[r] / total[r], down[r] / total[r]);
    }
}

// Take the better one of a cell's motion and those of four others, `distance` cells away.
extern "C" __global__ void __launch_bounds__(COLUMNS * WARPS)
    choose(const __grid_constant__ Arguments a) {
    const int CANDIDATES = 5, TAKEN = CELLS(AROUND);
    float* costs = (float*)shared_bytes;  // CANDIDATES x TAKEN
    const int H = a.H, W = a.W, thread = threadIdx.y * COLUMNS + threadIdx.x;
    const int distance = a.distance;
    const int steps_y[CANDIDATES] = {0, -distance, distance, 0, 0};
    const int steps_x[CANDIDATES] = {0, 0, 0, -distance, distance};
    const long long plane = a.H * a.W, n = blockIdx.z;
    const float* motion = a.motion + n * 2 * plane;

    for (int i = thread; i < TAKEN; i += COLUMNS * WARPS) {
        const int y = within((int)(blockIdx.y * ROWS) - AROUND + i / WIDE(AROUND), H);
        const int x = within((int)(blockIdx.x * COLUMNS) - AROUND + i % WIDE(AROUND), W);
#pragma unroll
        for (int k = 0; k < CANDIDATES; ++k) {
            const int from = within(y + steps_y[k], H) * W + within(x + steps_x[k], W);
            const float dx = motion[from], dy = motion[plane + from];
            const Look before(x + dx, y + dy, H, W), after(x - dx, y - dy, H, W);
            float cost = 0;
            for (int c = 0; c < CHANNELS; ++c) {
                const float left = before.in(a.left + (n * CHANNELS + c) * plane);
                const float right = after.in(a.right + (n * CHANNELS + c) * plane);
                cost += left > right ? left - right : right - left;
            }
            const float outside = a.outside_cost, known = inside(x, y, dx, dy, H, W);
            costs[k * TAKEN + i] = outside + known * (cost / CHANNELS - outside);
        }
    }
    __syncthreads();

    const int x = blockIdx.x * COLUMNS + threadIdx.x, first = threadIdx.y * LINES;
    float totals[LINES][CANDIDATES];
    sum_windows(totals, costs);
#pragma unroll
    for (int r = 0; r < LINES; ++r) {
        const int y = blockIdx.y * ROWS + first + r;
        if (y >= H || x >= W) continue;
        const float share = 1.0f / (WINDOW * WINDOW);
        float mean = 0, least = totals[r][0];
#pragma unroll
        for (int k = 0; k < CANDIDATES; ++k) {
            mean += totals[r][k] * share / CANDIDATES;
            least = min(least, totals[r][k]);
        }
        const float scale = (float)a.sharpness * share / (mean + (float)a.least);
        float across = 0, down = 0, total = 0;
#pragma unroll
        for (int k = 0; k < CANDIDATES; ++k) {
            const int from = within(y + steps_y[k], H) * W + within(x + steps_x[k], W);
            const float likelihood = expf(scale * (least - totals[r][k]));
            across += likelihood * motion[from];
            down += likelihood * motion[plane + from];
            total += likelihood;
        }
        put(a, y, x, across / total, down / total);
    }
}

// Seek a cell of the left frame all around in the right one, where `motion`, here from the one to the
// other, does not explain it. Few cells are sought, so a warp takes one at a time, and each lane a
// column of the places to try.
extern "C" __global__ void __launch_bounds__(COLUMNS * WARPS)
    match(const __grid_constant__ Arguments a) {
    const int H = a.H, W = a.W, lane = threadIdx.x, PLACES = 2 * REACH + 1;
    const int y = blockIdx.y * WARPS + threadIdx.y, start = blockIdx.x * SOUGHT;
    const long long plane = a.H * a.W, n = blockIdx.z;
    const float* motion = a.motion + n * 2 * plane;
    if (y >= H) return;
    for (int x = start; x < min(start + SOUGHT, W); ++x) {
        const long long at = (long long)y * W + x;
        const float known_x = motion[at], known_y = motion[plane + at];
        const float unexplained = a.weight[n * plane + at];
        float found = 0, across = known_x, down = known_y;
        if (unexplained > 0) {
            const float step = lane - REACH, away_x = step - known_x;
            float best = (float)a.share * unexplained, place = PLACES * PLACES;
            for (int dy = -REACH; dy <= REACH && lane < PLACES; ++dy) {
                float cost = 0;
                for (int c = 0; c < CHANNELS; ++c) {
                    const float* own = a.left + (n * CHANNELS + c) * plane;
                    const float* other = a.right + (n * CHANNELS + c) * plane;
// a row of the window is on its way at once: more takes registers that other warps need
#pragma unroll 1
                    for (int i = -AROUND; i <= AROUND; ++i) {
                        const int row = within(y + i, H);
                        const float* line = other + (long long)within(row + dy, H) * W;
#pragma unroll
                        for (int j = -AROUND; j <= AROUND; ++j) {
                            const int column = within(x + j, W);
                            const float value = own[(long long)row * W + column];
                            cost += fabsf(value - line[within(column + lane - REACH, W)]);
                        }
                    }
                }
                const float away_y = dy - known_y;
                cost = cost / (CHANNELS * WINDOW * WINDOW) +
                       (float)a.penalty * sqrtf(away_x * away_x + away_y * away_y);
                if (cost < best) {
                    best = cost;
                    place = (dy + REACH) * PLACES + lane;
                }
            }
            // of equals the first one, as on a CPU
            for (int other = 1; other < COLUMNS; other *= 2) {
                const float cost = __shfl_xor_sync(ALL, best, other);
                const float where = __shfl_xor_sync(ALL, place, other);
                if (cost < best || (cost == best && where < place)) {
                    best = cost;
                    place = where;
                }
            }
            if (place < PLACES * PLACES) {
                found = 1;
                across = (int)place % PLACES - REACH;
                down = (int)place / PLACES - REACH;
            }
        }
        if (lane == 0) {
            put(a, y, x, across, down);
            a.weights[n * plane + at] = found;
        }
    }
}
