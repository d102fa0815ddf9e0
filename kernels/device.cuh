// What emitted CUDA text calls: the twin of each name of nnx/kernels/runtime.py, and reductions
// over a warp, over a block, and over all blocks of a launch.
//
// It includes nothing, so that NVRTC compiles it without headers. Arithmetic is never contracted
// (--fmad=false): draws and elementwise results are those of the CPU wherever libm's are.

namespace nnx {

typedef bool b1;
typedef signed char i8;
typedef short i16;
typedef int i32;
typedef long long i64;
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef float f32;
typedef double f64;

#define NNX_INLINE __device__ __forceinline__

#define NNX_INF __longlong_as_double(0x7ff0000000000000LL)
#define NNX_NAN __longlong_as_double(0x7ff8000000000000LL)

template <class T> struct is_float { static constexpr bool value = false; };
template <> struct is_float<f32> { static constexpr bool value = true; };
template <> struct is_float<f64> { static constexpr bool value = true; };
// Numbers of 16 bits are kept so, and worked with as float32.
struct bf16 {
    u16 bits;
    bf16() = default;
    __device__ __forceinline__ bf16(f32 x) {
        const u32 b = u32(__float_as_int(x));
        bits = x != x ? u16(0x7fc0) : u16((b + 0x7fffu + ((b >> 16) & 1u)) >> 16);
    }
    __device__ __forceinline__ operator f32() const { return __int_as_float(int(u32(bits) << 16)); }
};
struct f16 {
    u16 bits;
    f16() = default;
    __device__ __forceinline__ f16(f32 x) {
#ifdef __CUDA_ARCH__
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
#else
        const u32 b = u32(__float_as_int(x)), sign = (b >> 16) & 0x8000u, size = b & 0x7fffffffu;
        u32 made;
        if (size > 0x7f800000u)
            made = 0x7fffu;
        else if (size >= 0x477ff000u)  // 65520 and more
            made = 0x7c00u;
        else if (size < 0x38800000u)  // subnormal: the sum's last place is 2**-24
            made = u32(__float_as_int(__int_as_float(int(size)) + 0.5f)) - 0x3f000000u;
        else
            made = (size - 0x38000000u + 0xfffu + ((size >> 13) & 1u)) >> 13;
        bits = u16(sign | made);
#endif
    }
    __device__ __forceinline__ operator f32() const {
#ifdef __CUDA_ARCH__
        f32 x;
        asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
        return x;
#else
        const u32 sign = u32(bits & 0x8000u) << 16, size = bits & 0x7fffu;
        if (size >= 0x7c00u) return __int_as_float(int(sign | 0x7f800000u | size << 13));
        const f32 x = __int_as_float(int(size << 13)) * 0x1p112f;
        return sign ? -x : x;
#endif
    }
};
template <> struct is_float<bf16> { static constexpr bool value = true; };
template <> struct is_float<f16> { static constexpr bool value = true; };

template <class T> struct is_bool { static constexpr bool value = false; };
template <> struct is_bool<b1> { static constexpr bool value = true; };

// Casts: whole numbers wrap, floats are cut towards 0; a narrow target goes by way of 32 bits.
template <class T, class S> static NNX_INLINE T cast(S x) {
    if constexpr (is_bool<T>::value)
        return x != S(0);
    else if constexpr (is_float<S>::value && !is_float<T>::value && sizeof(T) < 4)
        return T(i32(x));
    else if constexpr (is_float<T>::value && sizeof(T) < 4)
        return T(f32(x));
    else
        return T(x);
}

static NNX_INLINE f64 f64_of(i64 bits) { return __longlong_as_double(bits); }
static NNX_INLINE u32 bits_of(f32 x) { return u32(__float_as_int(x)); }
static NNX_INLINE u64 bits_of(f64 x) { return u64(__double_as_longlong(x)); }

static NNX_INLINE i64 floor_mod(i64 a, i64 b) {
    const i64 r = a % b;
    return r < 0 ? r + b : r;
}

// Elementary functions

#define NNX_UNARY(name, narrow, wide)                        \
    static NNX_INLINE f32 name(f32 x) { return narrow(x); }         \
    static NNX_INLINE f64 name(f64 x) { return wide(x); }
NNX_UNARY(exp, ::expf, ::exp)
NNX_UNARY(expm1, ::expm1f, ::expm1)
NNX_UNARY(log, ::logf, ::log)
NNX_UNARY(log1p, ::log1pf, ::log1p)
NNX_UNARY(log2, ::log2f, ::log2)
NNX_UNARY(log10, ::log10f, ::log10)
NNX_UNARY(sin, ::sinf, ::sin)
NNX_UNARY(cos, ::cosf, ::cos)
NNX_UNARY(tan, ::tanf, ::tan)
NNX_UNARY(asin, ::asinf, ::asin)
NNX_UNARY(acos, ::acosf, ::acos)
NNX_UNARY(atan, ::atanf, ::atan)
NNX_UNARY(sinh, ::sinhf, ::sinh)
NNX_UNARY(cosh, ::coshf, ::cosh)
NNX_UNARY(tanh, ::tanhf, ::tanh)
NNX_UNARY(asinh, ::asinhf, ::asinh)
NNX_UNARY(acosh, ::acoshf, ::acosh)
NNX_UNARY(atanh, ::atanhf, ::atanh)
NNX_UNARY(sqrt, ::sqrtf, ::sqrt)
NNX_UNARY(floor, ::floorf, ::floor)
NNX_UNARY(ceil, ::ceilf, ::ceil)
NNX_UNARY(trunc, ::truncf, ::trunc)
NNX_UNARY(round, ::rintf, ::rint)
static NNX_INLINE f32 erf(f32 x) { return f32(::erf(f64(x))); }
static NNX_INLINE f64 erf(f64 x) { return ::erf(x); }
static NNX_INLINE f32 erfc(f32 x) { return f32(::erfc(f64(x))); }
static NNX_INLINE f64 erfc(f64 x) { return ::erfc(x); }

static NNX_INLINE f32 atan2(f32 y, f32 x) { return ::atan2f(y, x); }
static NNX_INLINE f64 atan2(f64 y, f64 x) { return ::atan2(y, x); }
static NNX_INLINE f32 hypot(f32 x, f32 y) { return ::hypotf(x, y); }
static NNX_INLINE f64 hypot(f64 x, f64 y) { return ::hypot(x, y); }
static NNX_INLINE f32 copysign(f32 x, f32 y) { return ::copysignf(x, y); }
static NNX_INLINE f64 copysign(f64 x, f64 y) { return ::copysign(x, y); }
static NNX_INLINE f32 fmod_of(f32 x, f32 y) { return ::fmodf(x, y); }
static NNX_INLINE f64 fmod_of(f64 x, f64 y) { return ::fmod(x, y); }
static NNX_INLINE f32 fabs_of(f32 x) { return ::fabsf(x); }
static NNX_INLINE f64 fabs_of(f64 x) { return ::fabs(x); }

template <class T> static NNX_INLINE b1 isnan(T x) { return x != x; }
template <class T> static NNX_INLINE b1 isinf(T x) { return fabs_of(x) == NNX_INF; }
template <class T> static NNX_INLINE b1 isfinite(T x) { return fabs_of(x) < NNX_INF; }
static NNX_INLINE b1 signbit(f32 x) { return bits_of(x) >> 31; }
static NNX_INLINE b1 signbit(f64 x) { return bits_of(x) >> 63; }

template <class T> static NNX_INLINE T select(b1 condition, T a, T b) { return condition ? a : b; }
template <class T> static NNX_INLINE T maximum(T a, T b) {
    if constexpr (is_float<T>::value) {
        if (a != a) return a;
        return b != b ? b : (a > b ? a : b);
    } else
        return a > b ? a : b;
}
template <class T> static NNX_INLINE T minimum(T a, T b) {
    if constexpr (is_float<T>::value) {
        if (a != a) return a;
        return b != b ? b : (a < b ? a : b);
    } else
        return a < b ? a : b;
}
template <class T> static NNX_INLINE T max_reduce(T a, T b) { return maximum(a, b); }
template <class T> static NNX_INLINE T min_reduce(T a, T b) { return minimum(a, b); }
template <class T> static NNX_INLINE T sum_add(T a, T b) {
    if constexpr (is_bool<T>::value)
        return a || b;
    else
        return T(a + b);
}
template <class T> static NNX_INLINE T divide(T a, T b) { return T(a / b); }

static NNX_INLINE b1 logical_and(b1 a, b1 b) { return a && b; }
static NNX_INLINE b1 logical_or(b1 a, b1 b) { return a || b; }
static NNX_INLINE b1 logical_xor(b1 a, b1 b) { return a != b; }
static NNX_INLINE b1 logical_not(b1 a) { return !a; }

template <class T> static NNX_INLINE T abs(T x) {
    if constexpr (is_float<T>::value)
        return T(fabs_of(x));
    else
        return x < T(0) ? T(-x) : x;
}
template <class T> static NNX_INLINE T sign(T x) {
    if constexpr (is_float<T>::value)
        if (x != x) return x;
    return x > T(0) ? T(1) : (x < T(0) ? T(-1) : T(0));
}

static NNX_INLINE f64 logaddexp(f64 x, f64 y) {
    const f64 gap = x == y ? 0.0 : fabs_of(x - y);
    return maximum(x, y) + log1p(exp(-gap));
}
static NNX_INLINE f32 logaddexp(f32 x, f32 y) {
    const f32 gap = x == y ? 0.0f : fabs_of(x - y);
    return maximum(x, y) + log1p(exp(-gap));
}

// Division with the remainder's sign that of the divisor, as NumPy's npy_divmod does it.
template <class T> static NNX_INLINE T remainder(T x, T y) {
    if constexpr (is_float<T>::value) {
        const T rest = fmod_of(x, y);
        if (rest == T(0)) return T(copysign(T(0), y));
        return (y < T(0)) != (rest < T(0)) ? T(rest + y) : rest;
    } else {
        if (y == T(0) || y == T(-1)) return y == T(0) || T(-1) < T(0) ? T(0) : T(x % y);
        const T rest = T(x % y);
        return rest != T(0) && ((rest < T(0)) != (y < T(0))) ? T(rest + y) : rest;
    }
}
template <class T> static NNX_INLINE T floor_divide(T x, T y) {
    if constexpr (is_float<T>::value) {
        const T plain = T(x / y);
        if (y == T(0)) return plain;
        const T rest = T(fmod_of(x, y));
        T quotient = T(T(x - rest) / y);
        if (rest != T(0) && (y < T(0)) != (rest < T(0))) quotient = T(quotient - T(1));
        if (quotient == T(0)) return T(copysign(T(0), plain));
        const T whole = T(floor(quotient));
        return T(quotient - whole) > T(0.5f) ? T(whole + T(1)) : whole;
    } else {
        if (y == T(0)) return T(0);
        if (T(-1) < T(0) && y == T(-1)) return T(-u64(x));
        const T quotient = T(x / y), rest = T(x % y);
        return rest != T(0) && ((rest < T(0)) != (y < T(0))) ? T(quotient - 1) : quotient;
    }
}

static NNX_INLINE f32 pow(f32 x, f32 y) { return ::powf(x, y); }
static NNX_INLINE f64 pow(f64 x, f64 y) { return ::pow(x, y); }
template <class T> static NNX_INLINE T pow(T x, T y) {
    if constexpr (is_float<T>::value) {
        return T(::powf(f32(x), f32(y)));
    } else {
        if (T(-1) < T(0) && y < T(0)) {
            if (x == T(1)) return T(1);
            if (x == T(-1)) return y % T(2) ? T(-1) : T(1);
            return T(0);
        }
        u64 base = u64(x), left = u64(y), out = 1;
        for (; left; left >>= 1) {
            if (left & 1) out *= base;
            base *= base;
        }
        return T(out);
    }
}
template <class T, class N> static NNX_INLINE T shift_left(T x, N n) {
    return u64(n) < 8 * sizeof(T) ? T(u64(x) << u64(n)) : T(0);
}
template <class T, class N> static NNX_INLINE T shift_right(T x, N n) {
    if (u64(n) < 8 * sizeof(T)) return T(x >> n);
    return x < T(0) ? T(-1) : T(0);
}

// Random numbers: those of nnx.philox, bit for bit

struct Words { u32 a, b, c, d; };

static NNX_INLINE Words random_block(i64 seed, i64 stream, i64 block) {
    u32 k0 = u32(seed), k1 = u32(u64(seed) >> 32);
    u32 c0 = u32(block), c1 = u32(u64(block) >> 32), c2 = u32(stream), c3 = u32(u64(stream) >> 32);
    for (int i = 0; i < 10; i++) {
        const u32 high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        const u32 high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {c0, c1, c2, c3};
}
static NNX_INLINE b1 bernoulli_word(u32 word, i64 threshold) { return i64(word) < threshold; }
static NNX_INLINE u64 pair_u64(u32 low, u32 high) { return u64(high) << 32 | low; }
static NNX_INLINE f32 uniform_f32(u32 word) { return f32(word >> 8) * 0x1p-24f; }
static NNX_INLINE f64 uniform_f64(u32 low, u32 high) { return f64(pair_u64(low, high) >> 11) * 0x1p-53; }
static NNX_INLINE i64 scaled_i64(u64 low, u64 high, u64 span, u64 start) {
    if (span == 0) return i64(high + start);
    const u64 carry = __umul64hi(low, span), middle = high * span;
    return i64(__umul64hi(high, span) + (middle + carry < carry) + start);
}

template <int N> static NNX_INLINE f64 horner(const f64 (&c)[N], f64 x) {
    f64 total = c[0];
#pragma unroll
    for (int i = 1; i < N; i++) total = total * x + c[i];
    return total;
}
static NNX_INLINE f64 log_exact(f64 x) {
    const f64 series_of[] = {LOG_SERIES};
    const i64 bits = i64(bits_of(x)), k = (bits - SQRT_HALF_BITSLL) >> 52;
    const f64 f = f64_of(bits - i64(u64(k) << 52)) - 1.0;
    const f64 s = f / (2.0 + f), z = s * s, exponent = f64(k);
    const f64 series = horner(series_of, z) * z;
    return exponent * LN2_HIGH - ((s * (f - series) - exponent * LN2_LOW) - f);
}
static NNX_INLINE f64 normal_quantile(f64 q) {
    const f64 size = fabs_of(q);
    if (size <= 0.425) {
        const f64 over[] = {CENTRE_0}, under[] = {CENTRE_1};
        const f64 r = 0.180625 - q * q;
        return horner(over, r) * q / horner(under, r);
    }
    const f64 r = ::sqrt(-log_exact(0.5 - size));
    f64 tail;
    if (r > 5.0) {
        const f64 over[] = {FAR_TAIL_0}, under[] = {FAR_TAIL_1};
        tail = horner(over, r - 5.0) / horner(under, r - 5.0);
    } else {
        const f64 over[] = {TAIL_0}, under[] = {TAIL_1};
        tail = horner(over, r - 1.6) / horner(under, r - 1.6);
    }
    return copysign(tail, q);
}
static NNX_INLINE f64 normal_f32(u32 word) {
    return normal_quantile((f64(word) - (0x1p31 - 0.5)) * 0x1p-32);
}
static NNX_INLINE f64 normal_f64(u32 low, u32 high) {
    return normal_quantile((f64(pair_u64(low, high) >> 12) - (0x1p51 - 0.5)) * 0x1p-52);
}

// A launch: THREADS threads a block, some blocks for each part of a kernel

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;

template <class T> static NNX_INLINE T fresh(const T *p, i64 i) { return *(const volatile T *)(p + i); }
static NNX_INLINE b1 failed(const i64 *status) { return fresh(status, 0) != 0; }
// Only the first step that fails counts: those after it replace nothing.
static NNX_INLINE void fail(const i64 *call, i64 *status, i64 reason) {
    if (failed(status)) return;
    ((volatile i64 *)status)[1] = call[0];
    __threadfence();
    *(volatile i64 *)status = reason;
}

struct Sum { template <class T> static NNX_INLINE T of(T a, T b) { return sum_add(a, b); } };
struct Prod { template <class T> static NNX_INLINE T of(T a, T b) { return T(a * b); } };
struct Max { template <class T> static NNX_INLINE T of(T a, T b) { return maximum(a, b); } };
struct Min { template <class T> static NNX_INLINE T of(T a, T b) { return minimum(a, b); } };
struct Any { static NNX_INLINE b1 of(b1 a, b1 b) { return a || b; } };
struct All { static NNX_INLINE b1 of(b1 a, b1 b) { return a && b; } };

template <class T> static NNX_INLINE T shuffled(T x, int lanes) {
    if constexpr (sizeof(T) == 8) {
        const i64 bits = *(const i64 *)&x;
        const u32 low = __shfl_xor_sync(0xffffffffu, u32(bits), lanes);
        const u32 high = __shfl_xor_sync(0xffffffffu, u32(u64(bits) >> 32), lanes);
        const i64 joined = i64(pair_u64(low, high));
        return *(const T *)&joined;
    } else if constexpr (is_float<T>::value) {
        return __shfl_xor_sync(0xffffffffu, x, lanes);
    } else
        return T(__shfl_xor_sync(0xffffffffu, i32(x), lanes));
}

// Over the 32 lanes of a warp; all of them get the result.
template <class Op, class T> static NNX_INLINE T over_warp(T x) {
#pragma unroll
    for (int lanes = 16; lanes; lanes >>= 1) x = Op::of(x, shuffled(x, lanes));
    return x;
}
// Whether a number goes before another: NaN first, then the largest (or smallest), then the first.
template <bool LARGEST, class T> static NNX_INLINE b1 is_better(T x, i64 at, T best, i64 place) {
    if (at < 0 || place < 0) return at >= 0;
    const b1 is_nan = x != x, was_nan = best != best;
    if (is_nan || was_nan) return is_nan && (!was_nan || at < place);
    if (x != best) return LARGEST ? x > best : x < best;
    return at < place;
}
// The place of the best number of a warp; all lanes get it.
template <bool LARGEST, class T> static NNX_INLINE i64 place_over_warp(T best, i64 place) {
#pragma unroll
    for (int lanes = 16; lanes; lanes >>= 1) {
        const T x = shuffled(best, lanes);
        const i64 at = shuffled(place, lanes);
        if (is_better<LARGEST>(x, at, best, place)) {
            best = x;
            place = at;
        }
    }
    return place;
}
// Over the threads of a block; all of them get the result.
template <class Op, class T> static NNX_INLINE T over_block(T x) {
    __shared__ T parts[WARPS];
    x = over_warp<Op>(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    x = parts[0];
#pragma unroll
    for (int i = 1; i < WARPS; i++) x = Op::of(x, parts[i]);
    return x;
}
// Over the threads whose numbers are equal modulo WIDTH; the first of them get the result.
template <class Op, int WIDTH, class T> static NNX_INLINE T over_rows(T x) {
    __shared__ T parts[THREADS];
    __syncthreads();
    parts[threadIdx.x] = x;
    __syncthreads();
    if (threadIdx.x < WIDTH)
        for (int i = threadIdx.x + WIDTH; i < THREADS; i += WIDTH) x = Op::of(x, parts[i]);
    return x;
}
// Whether this block is the last of ``blocks`` to arrive at a ticket, which is 0 before and after.
static NNX_INLINE b1 is_last(u32 *ticket, i64 blocks) {
    __shared__ b1 last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(ticket, 1u) == u32(blocks - 1);
        if (last) *ticket = 0;
    }
    __syncthreads();
    if (last) __threadfence();
    return last;
}

// Four numbers that are read or written at once.
template <class T> struct alignas(4 * sizeof(T)) Four { T at[4]; };
template <class T> static NNX_INLINE Four<T> four(const T *p, i64 i) { return *(const Four<T> *)(p + i); }
template <class T> static NNX_INLINE void put_four(T *p, i64 i, Four<T> x) { *(Four<T> *)(p + i) = x; }
template <class T> static NNX_INLINE Four<T> any_four(const T *) { return Four<T>(); }
template <class T> static NNX_INLINE b1 in_fours(const T *p) { return u64(p) % (4 * sizeof(T)) == 0; }

// Eight numbers of which none is below 0, and bits that tell which are above; NaN stays, without one.
template <class T> static NNX_INLINE u8 relu_of_eight(const T *x, T *y) {
    u32 bits = 0;
    Four<T> part[2] = {four(x, 0), four(x, 4)};
#pragma unroll
    for (int j = 0; j < 8; j++) {
        T &value = part[j / 4].at[j % 4];
        const f32 number = f32(value);
        bits |= u32(number > 0.0f) << j;
        value = T(maximum(number, 0.0f));
    }
    put_four(y, 0, part[0]);
    put_four(y, 4, part[1]);
    return u8(bits);
}
template <class T> static NNX_INLINE void relu_mask(
    const T *x, T *y, u8 *mask, i64 n, i64 block, i64 blocks
) {
    for (i64 q = block * 256 + threadIdx.x; q < n / 8; q += blocks * 256)
        mask[q] = relu_of_eight(x + 8 * q, y + 8 * q);
}

}  // namespace nnx

// Rows of a table, by number, one after the other; width counts the bytes of one.
template <class T> static __device__ __forceinline__ void gather_of(
    T *__restrict__ target, const T *__restrict__ source, const long long *__restrict__ order,
    long long n, long long each
) {
    for (long long i = blockIdx.x * 256ll + threadIdx.x; i < n * each; i += gridDim.x * 256ll) {
        const long long row = i / each;
        target[i] = source[order[row] * each + (i - row * each)];
    }
}
extern "C" __global__ void __launch_bounds__(256) gather(
    char *target, const char *source, const long long *order, long long n, long long width
) {
    const unsigned long long low =
        (unsigned long long)width | (unsigned long long)target | (unsigned long long)source;
    if (low % 16 == 0)
        gather_of((nnx::Four<float> *)target, (const nnx::Four<float> *)source, order, n, width / 16);
    else if (low % 8 == 0)
        gather_of((double *)target, (const double *)source, order, n, width / 8);
    else if (low % 4 == 0)
        gather_of((float *)target, (const float *)source, order, n, width / 4);
    else
        gather_of(target, source, order, n, width);
}
