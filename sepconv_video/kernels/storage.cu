// Values as they are stored, and as they are worked with: what comes first of every kernel's text.
//
// Compiled by NVRTC with the macro STORAGE: FLOAT, HALF, BFLOAT16 or DOUBLE. All arithmetic is done
// in `Real`: float, or double for DOUBLE.

#define FLOAT 0
#define HALF 1
#define BFLOAT16 2
#define DOUBLE 3

// IEEE half precision, as its bits.
#ifdef EMULATED
__device__ float from_half(unsigned short value) { return half_to_float(value); }
__device__ unsigned short to_half(float value) { return float_to_half(value); }
#else
__device__ __forceinline__ float from_half(unsigned short value) {
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value));
    return result;
}
__device__ __forceinline__ unsigned short to_half(float value) {
    unsigned short result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result) : "f"(value));
    return result;
}
#endif

#if STORAGE == DOUBLE
typedef double Real;
#else
typedef float Real;
#endif

#if STORAGE == FLOAT || STORAGE == DOUBLE
typedef Real Stored;
__device__ __forceinline__ Real unpack(Stored value) { return value; }
__device__ __forceinline__ Stored pack(Real value) { return value; }
#elif STORAGE == BFLOAT16
typedef unsigned short Stored;
// By hand, as the headers of CUDA may not be installed: the upper half of a float.
__device__ __forceinline__ Real unpack(Stored value) {
    return __uint_as_float((unsigned int)value << 16);
}
__device__ __forceinline__ Stored pack(Real value) {
    const unsigned int bits = __float_as_uint(value);
    if (value != value) return 0x7fff;
    return (Stored)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);  // round to nearest even
}
#else
typedef unsigned short Stored;
__device__ __forceinline__ Real unpack(Stored value) { return from_half(value); }
__device__ __forceinline__ Stored pack(Real value) { return to_half(value); }
#endif
