// CUDA C++ for g++: what a kernel's text may name, on one fiber a thread (fibers.cpp).
//
// No #include, so that a module of ten kernels compiles in a fraction of a second. What is not
// here does not compile, which is how a text learns that nobody has tested the name.
#pragma once

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
// One section, so that all of it can be poisoned before each block.
#define __shared__ static __attribute__((section("cuda_shared")))

typedef decltype(sizeof(0)) size_t;
typedef unsigned long long cuda_u64;

// Vectors

#define CUDA_VECTORS(T, NAME, ALIGN)                                                             \
    struct __align__(2 * sizeof(T)) NAME##2 { T x, y; };                                         \
    struct NAME##3 { T x, y, z; };                                                               \
    struct __align__(ALIGN) NAME##4 { T x, y, z, w; };                                           \
    inline NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }                                   \
    inline NAME##3 make_##NAME##3(T x, T y, T z) { return {x, y, z}; }                           \
    inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }
CUDA_VECTORS(float, float, 16)
CUDA_VECTORS(double, double, 16)
CUDA_VECTORS(int, int, 16)
CUDA_VECTORS(unsigned, uint, 16)
CUDA_VECTORS(short, short, 8)
CUDA_VECTORS(unsigned short, ushort, 8)
CUDA_VECTORS(unsigned char, uchar, 4)
CUDA_VECTORS(long long, longlong, 16)
CUDA_VECTORS(cuda_u64, ulonglong, 16)
#undef CUDA_VECTORS

// What fibers.cpp gives

extern "C" {
extern uint3 threadIdx, blockIdx, blockDim, gridDim;
// Waits until the threads that the collective names are there; returns this thread's result.
cuda_u64 cuda_collective(int kind, int line, unsigned mask, cuda_u64 value, int lane, int width);
}
static const int warpSize = 32;

enum CudaCollective {
    CUDA_SYNCTHREADS, CUDA_SYNCTHREADS_OR, CUDA_SYNCTHREADS_AND, CUDA_SYNCTHREADS_COUNT,
    CUDA_SYNCWARP, CUDA_SHFL, CUDA_SHFL_UP, CUDA_SHFL_DOWN, CUDA_SHFL_XOR,
    CUDA_BALLOT, CUDA_ANY, CUDA_ALL,
};

// Collectives; the line says where threads that missed each other were.

#define CUDA_LINE int line = __builtin_LINE()
inline void __syncthreads(CUDA_LINE) { cuda_collective(CUDA_SYNCTHREADS, line, 0, 0, 0, 0); }
inline int __syncthreads_or(int p, CUDA_LINE) {
    return (int)cuda_collective(CUDA_SYNCTHREADS_OR, line, 0, p != 0, 0, 0);
}
inline int __syncthreads_and(int p, CUDA_LINE) {
    return (int)cuda_collective(CUDA_SYNCTHREADS_AND, line, 0, p != 0, 0, 0);
}
inline int __syncthreads_count(int p, CUDA_LINE) {
    return (int)cuda_collective(CUDA_SYNCTHREADS_COUNT, line, 0, p != 0, 0, 0);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, CUDA_LINE) {
    cuda_collective(CUDA_SYNCWARP, line, mask, 0, 0, 0);
}
inline unsigned __ballot_sync(unsigned mask, int p, CUDA_LINE) {
    return (unsigned)cuda_collective(CUDA_BALLOT, line, mask, p != 0, 0, 0);
}
inline int __any_sync(unsigned mask, int p, CUDA_LINE) {
    return (int)cuda_collective(CUDA_ANY, line, mask, p != 0, 0, 0);
}
inline int __all_sync(unsigned mask, int p, CUDA_LINE) {
    return (int)cuda_collective(CUDA_ALL, line, mask, p != 0, 0, 0);
}
template <class T> inline T cuda_shuffle(int kind, int line, unsigned mask, T value, int lane, int width) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    cuda_u64 bits = 0;
    __builtin_memcpy(&bits, &value, sizeof(T));
    bits = cuda_collective(kind, line, mask, bits, lane, width);
    __builtin_memcpy(&value, &bits, sizeof(T));
    return value;
}
#define CUDA_SHUFFLE(NAME, KIND)                                                                 \
    template <class T> inline T NAME(unsigned mask, T value, int lane, int width = 32, CUDA_LINE) { \
        return cuda_shuffle(KIND, line, mask, value, lane, width);                               \
    }
CUDA_SHUFFLE(__shfl_sync, CUDA_SHFL)
CUDA_SHUFFLE(__shfl_up_sync, CUDA_SHFL_UP)
CUDA_SHUFFLE(__shfl_down_sync, CUDA_SHFL_DOWN)
CUDA_SHUFFLE(__shfl_xor_sync, CUDA_SHFL_XOR)
#undef CUDA_SHUFFLE
#undef CUDA_LINE

// Memory: threads run one at a time, so every access is atomic and every store is seen.

inline void __threadfence() { asm volatile("" ::: "memory"); }
inline void __threadfence_block() { __threadfence(); }
inline void __threadfence_system() { __threadfence(); }
template <class T> inline T __ldg(const T* p) { return *p; }
template <class T> inline T __ldcg(const T* p) { return *(const volatile T*)p; }
template <class T> inline T __ldcs(const T* p) { return *p; }
template <class T> inline void __stcs(T* p, T value) { *p = value; }
template <class T> inline void __stcg(T* p, T value) { *p = value; }

#define CUDA_ATOMIC(NAME, T, NEW)                                                                \
    inline T NAME(T* p, T value) { T old = *(volatile T*)p; *(volatile T*)p = NEW; return old; }
#define CUDA_ATOMICS(T)                                                                          \
    CUDA_ATOMIC(atomicAdd, T, old + value)                                                       \
    CUDA_ATOMIC(atomicExch, T, value)
#define CUDA_INTEGER_ATOMICS(T)                                                                  \
    CUDA_ATOMIC(atomicMin, T, old < value ? old : value)                                         \
    CUDA_ATOMIC(atomicMax, T, old > value ? old : value)                                         \
    CUDA_ATOMIC(atomicAnd, T, old & value)                                                       \
    CUDA_ATOMIC(atomicOr, T, old | value)                                                        \
    CUDA_ATOMIC(atomicXor, T, old ^ value)                                                       \
    inline T atomicCAS(T* p, T compare, T value) {                                               \
        T old = *(volatile T*)p;                                                                 \
        if (old == compare) *(volatile T*)p = value;                                             \
        return old;                                                                              \
    }
CUDA_ATOMICS(int) CUDA_ATOMICS(unsigned) CUDA_ATOMICS(cuda_u64) CUDA_ATOMICS(float)
CUDA_ATOMIC(atomicAdd, double, old + value)
CUDA_INTEGER_ATOMICS(int) CUDA_INTEGER_ATOMICS(unsigned) CUDA_INTEGER_ATOMICS(cuda_u64)
CUDA_ATOMIC(atomicSub, int, old - value)
CUDA_ATOMIC(atomicSub, unsigned, old - value)
CUDA_ATOMIC(atomicInc, unsigned, old >= value ? 0 : old + 1)
#undef CUDA_ATOMICS
#undef CUDA_INTEGER_ATOMICS
#undef CUDA_ATOMIC

// Bits

#define CUDA_CAST(NAME, TO, FROM)                                                                \
    inline TO NAME(FROM x) { TO out; __builtin_memcpy(&out, &x, sizeof out); return out; }
CUDA_CAST(__float_as_int, int, float)
CUDA_CAST(__float_as_uint, unsigned, float)
CUDA_CAST(__int_as_float, float, int)
CUDA_CAST(__uint_as_float, float, unsigned)
CUDA_CAST(__double_as_longlong, long long, double)
CUDA_CAST(__longlong_as_double, double, long long)
#undef CUDA_CAST
inline unsigned __umulhi(unsigned x, unsigned y) { return (unsigned)((cuda_u64)x * y >> 32); }
inline int __mulhi(int x, int y) { return (int)((long long)x * y >> 32); }
inline cuda_u64 __umul64hi(cuda_u64 x, cuda_u64 y) {
    return (cuda_u64)((unsigned __int128)x * y >> 64);
}
inline long long __mul64hi(long long x, long long y) { return (long long)((__int128)x * y >> 64); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(cuda_u64 x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }

// Arithmetic rounded once, as g++ does it under -ffp-contract=off

#define CUDA_ROUNDED(TAG, T, S)                                                                  \
    inline T __##TAG##add_rn(T x, T y) { return x + y; }                                         \
    inline T __##TAG##sub_rn(T x, T y) { return x - y; }                                         \
    inline T __##TAG##mul_rn(T x, T y) { return x * y; }                                         \
    inline T __##TAG##div_rn(T x, T y) { return x / y; }                                         \
    inline T __##TAG##rcp_rn(T x) { return 1 / x; }                                              \
    inline T __##TAG##sqrt_rn(T x) { return __builtin_sqrt##S(x); }
CUDA_ROUNDED(f, float, f)
CUDA_ROUNDED(d, double, )
#undef CUDA_ROUNDED
inline float __fmaf_rn(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
inline double __fma_rn(double x, double y, double z) { return __builtin_fma(x, y, z); }
inline float __double2float_rn(double x) { return (float)x; }
inline float __int2float_rn(int x) { return (float)x; }
inline float __uint2float_rn(unsigned x) { return (float)x; }
inline float __ll2float_rn(long long x) { return (float)x; }
inline float __ull2float_rn(cuda_u64 x) { return (float)x; }
inline double __ll2double_rn(long long x) { return (double)x; }
inline double __ull2double_rn(cuda_u64 x) { return (double)x; }

// Mathematics: libm, and each name in float as CUDA has it

#define CUDA_MATH1(NAME)                                                                         \
    extern "C" double NAME(double);                                                              \
    extern "C" float NAME##f(float);                                                             \
    inline float NAME(float x) { return NAME##f(x); }
#define CUDA_MATH2(NAME)                                                                         \
    extern "C" double NAME(double, double);                                                      \
    extern "C" float NAME##f(float, float);                                                      \
    inline float NAME(float x, float y) { return NAME##f(x, y); }
CUDA_MATH1(exp) CUDA_MATH1(exp2) CUDA_MATH1(expm1)
CUDA_MATH1(log) CUDA_MATH1(log2) CUDA_MATH1(log10) CUDA_MATH1(log1p) CUDA_MATH1(logb)
CUDA_MATH1(sqrt) CUDA_MATH1(cbrt) CUDA_MATH1(fabs)
CUDA_MATH1(sin) CUDA_MATH1(cos) CUDA_MATH1(tan) CUDA_MATH1(asin) CUDA_MATH1(acos) CUDA_MATH1(atan)
CUDA_MATH1(sinh) CUDA_MATH1(cosh) CUDA_MATH1(tanh)
CUDA_MATH1(asinh) CUDA_MATH1(acosh) CUDA_MATH1(atanh)
CUDA_MATH1(erf) CUDA_MATH1(erfc) CUDA_MATH1(tgamma) CUDA_MATH1(lgamma)
CUDA_MATH1(floor) CUDA_MATH1(ceil) CUDA_MATH1(trunc) CUDA_MATH1(round)
CUDA_MATH1(rint) CUDA_MATH1(nearbyint)
CUDA_MATH2(pow) CUDA_MATH2(atan2) CUDA_MATH2(hypot) CUDA_MATH2(copysign) CUDA_MATH2(nextafter)
CUDA_MATH2(fmod) CUDA_MATH2(remainder) CUDA_MATH2(fmin) CUDA_MATH2(fmax) CUDA_MATH2(fdim)
#undef CUDA_MATH1
#undef CUDA_MATH2
extern "C" {
double fma(double, double, double);
float fmaf(float, float, float);
double ldexp(double, int);
float ldexpf(float, int);
double frexp(double, int*);
float frexpf(float, int*);
double modf(double, double*);
float modff(float, float*);
void sincos(double, double*, double*);
void sincosf(float, float*, float*);
int abs(int);
long long llabs(long long);
}
inline float fma(float x, float y, float z) { return fmaf(x, y, z); }
inline float ldexp(float x, int n) { return ldexpf(x, n); }
inline float frexp(float x, int* n) { return frexpf(x, n); }
inline float abs(float x) { return __builtin_fabsf(x); }
inline double abs(double x) { return __builtin_fabs(x); }
inline long long abs(long long x) { return llabs(x); }
inline double rsqrt(double x) { return 1.0 / __builtin_sqrt(x); }
// Through double: rounded once, where CUDA's own is within 2 units in the last place.
inline float rsqrtf(float x) { return (float)(1.0 / __builtin_sqrt((double)x)); }
inline float rsqrt(float x) { return rsqrtf(x); }
// The fast forms are approximations on a GPU; here they are as good as the others.
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __fdividef(float x, float y) { return x / y; }

#define CUDA_TESTS(T)                                                                            \
    inline bool isnan(T x) { return __builtin_isnan(x); }                                        \
    inline bool isinf(T x) { return __builtin_isinf(x); }                                        \
    inline bool isfinite(T x) { return __builtin_isfinite(x); }                                  \
    inline bool signbit(T x) { return __builtin_signbit(x); }
CUDA_TESTS(float)
CUDA_TESTS(double)
#undef CUDA_TESTS
#define CUDA_ORDER(T)                                                                            \
    inline T min(T x, T y) { return x < y ? x : y; }                                             \
    inline T max(T x, T y) { return x > y ? x : y; }
CUDA_ORDER(int) CUDA_ORDER(unsigned) CUDA_ORDER(long long) CUDA_ORDER(cuda_u64)
#undef CUDA_ORDER
inline float min(float x, float y) { return fminf(x, y); }
inline float max(float x, float y) { return fmaxf(x, y); }
inline double min(double x, double y) { return fmin(x, y); }
inline double max(double x, double y) { return fmax(x, y); }

// The table of kernels that follows a module's text

template <class T> struct CudaParameter {
    static_assert(sizeof(T) == 8, "parameters of kernels are pointers or 64-bit integers");
    static_assert((T)0.5 == (T)0, "parameters of kernels are not floating-point");
    static const char code = 'i';
};
template <class T> struct CudaParameter<T*> { static const char code = 'p'; };
template <int... I> struct CudaIndices {};
template <int N, int... I> struct CudaCount : CudaCount<N - 1, N - 1, I...> {};
template <int... I> struct CudaCount<0, I...> { typedef CudaIndices<I...> type; };
template <auto kernel, class F> struct CudaKernel;
template <auto kernel, class... P> struct CudaKernel<kernel, void (*)(P...)> {
    static constexpr char parameters[] = {CudaParameter<P>::code..., 0};
    template <int... I> static void call(const cuda_u64* a, CudaIndices<I...>) {
        kernel((P)a[I]...);
    }
    static void run(const cuda_u64* a) { call(a, typename CudaCount<sizeof...(P)>::type()); }
};
struct CudaEntry {
    const char* parameters;
    void (*run)(const cuda_u64*);
};
#define CUDA_ENTRY(NAME)                                                                         \
    extern "C" __attribute__((visibility("default"))) const CudaEntry cuda_entry_##NAME = {      \
        CudaKernel<&NAME, decltype(&NAME)>::parameters, CudaKernel<&NAME, decltype(&NAME)>::run};
extern "C" char __start_cuda_shared[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_cuda_shared[] __attribute__((weak, visibility("hidden")));
struct CudaShared {
    char *start, *stop;
};
#define CUDA_SHARED                                                                              \
    extern "C" __attribute__((visibility("default"))) const CudaShared cuda_shared_range = {     \
        __start_cuda_shared, __stop_cuda_shared};
