// What the benchmark compares with: the operator in the most straightforward way, as the first
// implementations of this network had it. One thread makes one element of the output from K * K
// values and 2 * K coefficients, all read from global memory, again for each channel; nothing is
// shared between threads. The sum is compensated (Kahan, 1965). Launched in blocks of 512 threads
// over the N * C * H * W elements; all tensors are contiguous:
//   image (N, C, H+K-1, W+K-1), vertical and horizontal (N, K, H, W), out (N, C, H, W)

extern "C" __global__ void __launch_bounds__(512)
    baseline(const float* image, const float* vertical, const float* horizontal, float* out, int N,
             int C, int H, int W, int K) {
    const long long element = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (element >= (long long)N * C * H * W) return;
    const int x = element % W;
    const int y = element / W % H;
    const long long plane = element / W / H;  // n * C + c
    const long long n = plane / C;
    float sum = 0, lost = 0;
    for (int i = 0; i < K; ++i) {
        for (int j = 0; j < K; ++j) {
            const float value = image[(plane * (H + K - 1) + y + i) * (W + K - 1) + x + j] *
                                vertical[((n * K + i) * H + y) * W + x] *
                                horizontal[((n * K + j) * H + y) * W + x];
            const float corrected = value - lost;
            const float total = sum + corrected;
            lost = (total - sum) - corrected;
            sum = total;
        }
    }
    out[element] = sum;
}
