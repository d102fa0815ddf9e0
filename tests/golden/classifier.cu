static __device__ __forceinline__ void part1(long long block, long long blocks, const long long *__restrict__ call, long long *status, const long long *__restrict__ x1, float *y8, const float *__restrict__ w1, double *w2, float *w3, double *s0, float *s1, unsigned int *tickets0) {
    const auto k0 = call[1];
    const auto k1 = nnx::cast<nnx::f32>(call[2]);
    __shared__ float c52[8 * 3];
    auto a40 = nnx::cast<nnx::f64>(0.0);
    for (long long c = threadIdx.x; c < 24LL; c += 256) {
        c52[c] = nnx::cast<nnx::f32>(0.0);
    }
    __syncthreads();
    // %37: f32[] = divide(%36, B)
    auto t41 = nnx::divide(nnx::cast<nnx::f32>(1.0), k1);
    for (long long i2 = block * 8 + threadIdx.x / 32; i2 < k0; i2 += blocks * 8) {
        auto a10 = nnx::cast<nnx::f32>((-NNX_INF));
        auto t11 = x1[i2];
        auto a15 = nnx::cast<nnx::f32>(0.0);
        for (long long i3 = threadIdx.x % 32; i3 < 3LL; i3 += 32) {
            auto t9 = w1[((i2 * 3LL) + i3)];
            // %6: f32[B, 1] = max(%1, axis=-1, keepdims=True)
            a10 = nnx::max_reduce(a10, t9);
            auto t12 = nnx::cast<nnx::i64>(i3);
            // %13: bool[B, 3] = equal(%7, %12)
            auto t13 = (t11 == t12);
            // %15: f32[B, 3] = where(%13, %1, %14)
            auto t14 = nnx::select(t13, t9, nnx::cast<nnx::f32>(0.0));
            // %16: f32[B, 1] = sum(%15, axis=-1, keepdims=True)
            a15 = nnx::sum_add(a15, t14);
        }
        a10 = nnx::over_warp<nnx::Max>(a10);
        a15 = nnx::over_warp<nnx::Sum>(a15);
        auto a19 = nnx::cast<nnx::f32>(0.0);
        auto a22 = nnx::cast<nnx::f32>(0.0);
        auto a24 = nnx::cast<nnx::f32>(0.0);
        for (long long i4 = threadIdx.x % 32; i4 < 3LL; i4 += 32) {
            auto t16 = w1[((i2 * 3LL) + i4)];
            // %18: bool[B, 3] = equal(%1, %6)
            auto t17 = (t16 == a10);
            // %24: f32[B, 3] = where(%18, %23, 0.0)
            auto t18 = nnx::select(t17, nnx::cast<nnx::f32>(1.0), nnx::cast<nnx::f32>(0.0));
            // %25: f32[B, 1] = sum(%24, axis=-1, keepdims=True)
            a19 = nnx::sum_add(a19, t18);
            // %19: f32[B, 3] = subtract(%1, %6)
            auto t20 = (t16 - a10);
            // %20: f32[B, 3] = exp(%19)
            auto t21 = nnx::exp(t20);
            // %38: f32[B, 1] = sum(%20, axis=-1, keepdims=True)
            a22 = nnx::sum_add(a22, t21);
            // %21: f32[B, 3] = where(%18, 0.0, %20)
            auto t23 = nnx::select(t17, nnx::cast<nnx::f32>(0.0), t21);
            // %22: f32[B, 1] = sum(%21, axis=-1, keepdims=True)
            a24 = nnx::sum_add(a24, t23);
        }
        a19 = nnx::over_warp<nnx::Sum>(a19);
        a22 = nnx::over_warp<nnx::Sum>(a22);
        a24 = nnx::over_warp<nnx::Sum>(a24);
        auto a32 = nnx::cast<nnx::f32>(0.0);
        for (long long i5 = threadIdx.x % 32; i5 < 3LL; i5 += 32) {
            auto t25 = nnx::cast<nnx::i64>(i5);
            // %13: bool[B, 3] = equal(%7, %12)
            auto t26 = (t11 == t25);
            auto t27 = w1[((i2 * 3LL) + i5)];
            // %19: f32[B, 3] = subtract(%1, %6)
            auto t28 = (t27 - a10);
            // %20: f32[B, 3] = exp(%19)
            auto t29 = nnx::exp(t28);
            // %39: f32[B, 3] = divide(%20, %38)
            auto t30 = nnx::divide(t29, a22);
            // %40: f32[B, 3] = where(%13, 0.0, %39)
            auto t31 = nnx::select(t26, nnx::cast<nnx::f32>(0.0), t30);
            // %41: f32[B, 1] = sum(%40, axis=-1, keepdims=True)
            a32 = nnx::sum_add(a32, t31);
        }
        a32 = nnx::over_warp<nnx::Sum>(a32);
        // %17: f32[B, 1] = subtract(%6, %16)
        auto t33 = (a10 - a15);
        // %26: f32[B, 1] = subtract(%25, 1.0)
        auto t34 = (a19 - nnx::cast<nnx::f32>(1.0));
        // %27: f32[B, 1] = maximum(%26, 0.0)
        auto t35 = nnx::maximum(t34, nnx::cast<nnx::f32>(0.0));
        // %28: f32[B, 1] = add(%22, %27)
        auto t36 = (a24 + t35);
        // %29: f32[B, 1] = log1p(%28)
        auto t37 = nnx::log1p(t36);
        // %30: f32[B, 1] = add(%17, %29)
        auto t38 = (t33 + t37);
        // %32: f64[B] = astype(%31, dtype=float64)
        auto t39 = nnx::cast<nnx::f64>(t38);
        // %33: f64[] = sum(%32)
        if (((threadIdx.x % 32) == 0LL)) {
            a40 = nnx::sum_add(a40, t39);
        }
        // %42: f32[B, 1] = negative(%41)
        auto t44 = (-a32);
        for (long long i6 = threadIdx.x % 32; i6 < 3LL; i6 += 32) {
            auto t42 = nnx::cast<nnx::i64>(i6);
            // %13: bool[B, 3] = equal(%7, %12)
            auto t43 = (t11 == t42);
            auto t45 = w1[((i2 * 3LL) + i6)];
            // %19: f32[B, 3] = subtract(%1, %6)
            auto t46 = (t45 - a10);
            // %20: f32[B, 3] = exp(%19)
            auto t47 = nnx::exp(t46);
            // %39: f32[B, 3] = divide(%20, %38)
            auto t48 = nnx::divide(t47, a22);
            // %40: f32[B, 3] = where(%13, 0.0, %39)
            auto t49 = nnx::select(t43, nnx::cast<nnx::f32>(0.0), t48);
            // %43: f32[B, 3] = where(%13, %42, %40)
            auto t50 = nnx::select(t43, t44, t49);
            // %44: f32[B, 3] = multiply(%37, %43)
            auto t51 = (t41 * t50);
            // %49: f32[3] = sum(%44, axis=0)
            c52[(((threadIdx.x / 32LL) * 3LL) + i6)] = nnx::sum_add(c52[(((threadIdx.x / 32LL) * 3LL) + i6)], t51);
            w3[((i2 * 3LL) + i6)] = t51;
        }
    }
    a40 = nnx::over_block<nnx::Sum>(a40);
    if ((threadIdx.x == 0LL)) {
        s0[block] = a40;
    }
    __syncthreads();
    for (long long c = threadIdx.x; c < 3LL; c += 256) {
        auto total = nnx::cast<nnx::f32>(0.0);
        for (long long team = 0; team < 8LL; team++) {
            total = nnx::sum_add(total, c52[((team * 3LL) + c)]);
        }
        s1[((block * 3LL) + c)] = total;
    }
    if (nnx::is_last(tickets0, blocks)) {
        a40 = nnx::cast<nnx::f64>(0.0);
        for (long long c = threadIdx.x; c < blocks; c += 256) {
            a40 = nnx::sum_add(a40, nnx::fresh(s0, c));
        }
        a40 = nnx::over_block<nnx::Sum>(a40);
        if ((threadIdx.x == 0LL)) {
            w2[0LL] = a40;
        }
        auto column = nnx::floor_mod(threadIdx.x, 4LL);
        auto total = nnx::cast<nnx::f32>(0.0);
        if ((column < 3LL)) {
            _Pragma("unroll 4") for (long long b = 0LL + threadIdx.x / 4LL; b < blocks; b += 256 / 4LL) {
                total = nnx::sum_add(total, nnx::fresh(s1, ((b * 3LL) + column)));
            }
        }
        total = nnx::over_rows<nnx::Sum, 4>(total);
        if ((threadIdx.x < 3LL)) {
            y8[threadIdx.x] = total;
        }
    }
}

static __device__ __forceinline__ void part0(long long block, long long blocks, const long long *__restrict__ call, long long *status, const long long *__restrict__ x1, float *y8, const float *__restrict__ w1, double *w2, float *w3, double *s0, float *s1, unsigned int *tickets0) {
    const auto k0 = call[1];
    auto bad4 = nnx::cast<nnx::b1>(false);
    auto bad8 = nnx::cast<nnx::b1>(false);
    for (long long i0 = block * 8 + threadIdx.x / 32; i0 < k0; i0 += blocks * 8) {
        auto t0 = x1[i0];
        // %8: bool[B, 1] = less(%7, -3)
        auto t1 = (t0 < nnx::cast<nnx::i64>((-3LL)));
        // %9: bool[B, 1] = greater_equal(%7, 3)
        auto t2 = (t0 >= nnx::cast<nnx::i64>(3LL));
        // %10: bool[B, 1] = logical_or(%8, %9)
        auto t3 = nnx::logical_or(t1, t2);
        for (long long i1 = threadIdx.x % 32; i1 < 1LL; i1 += 32) {
            // %11: bool[B, 1] = check(%10)
            bad4 = nnx::logical_or(bad4, t3);
        }
        // %3: bool[B] = less(x1, 0)
        auto t5 = (t0 < nnx::cast<nnx::i64>(0LL));
        // %2: bool[B] = greater_equal(x1, 3)
        auto t6 = (t0 >= nnx::cast<nnx::i64>(3LL));
        // %4: bool[B] = logical_or(%3, %2)
        auto t7 = nnx::logical_or(t5, t6);
        // %5: bool[B] = check(%4)
        bad8 = nnx::logical_or(bad8, t7);
    }
    if (bad4) {
        nnx::fail(call, status, 2LL);
    }
    if (bad8) {
        nnx::fail(call, status, 2LL);
    }
}

extern "C" __global__ void __launch_bounds__(256, 2) k2(const long long *__restrict__ call, long long *status, const long long *__restrict__ x1, float *y8, const float *__restrict__ w1, double *w2, float *w3, double *s0, float *s1, unsigned int *tickets0) {
    long long block = blockIdx.x, blocks;
    blocks = call[8];
    if (block < blocks) return part1(block, blocks, call, status, x1, y8, w1, w2, w3, s0, s1, tickets0);
    block -= blocks;
    blocks = call[9];
    if (block < blocks) return part0(block, blocks, call, status, x1, y8, w1, w2, w3, s0, s1, tickets0);
}

static __device__ __forceinline__ void part2(long long block, long long blocks, const long long *__restrict__ call, long long *status, float *x4, float *x5, float *y0, float *y4, const float *__restrict__ y6, const float *__restrict__ y8, const float *__restrict__ w0, const float *__restrict__ w1, const double *__restrict__ w2, float *w3, float *s2, unsigned int *tickets1) {
    const auto k2 = nnx::cast<nnx::f64>(call[3]);
    auto t53 = w2[0LL];
    // %34: f64[] = divide(%33, B)
    auto t54 = nnx::divide(t53, k2);
    // %35: f32[] = astype(%34, dtype=float32)
    auto t55 = nnx::cast<nnx::f32>(t54);
    for (long long i7 = block * 256 + threadIdx.x; i7 < 1LL; i7 += blocks * 256) {
        y0[0LL] = t55;
    }
}

static __device__ __forceinline__ void part3(long long block, long long blocks, const long long *__restrict__ call, long long *status, float *x4, float *x5, float *y0, float *y4, const float *__restrict__ y6, const float *__restrict__ y8, const float *__restrict__ w0, const float *__restrict__ w1, const double *__restrict__ w2, float *w3, float *s2, unsigned int *tickets1) {
    const auto k0 = call[1];
    const auto k3 = call[4];
    const auto k4 = call[5];
    const auto k5 = call[6];
    auto tile = nnx::floor_mod(block, k3);
    auto chunk = (block / k3);
    auto i9 = ((tile * 8LL) + nnx::floor_mod(threadIdx.x, 8LL));
    auto first = (chunk * k4);
    auto last = nnx::minimum((first + k4), nnx::cast<nnx::i64>(k0));
    auto a60 = nnx::cast<nnx::f32>(0.0);
    if ((i9 < 8LL)) {
        _Pragma("unroll 4") for (long long i10 = first + threadIdx.x / 8LL; i10 < last; i10 += 256 / 8LL) {
            auto t56 = w0[((i10 * 8LL) + i9)];
            // %50: bool[B, 8] = greater(%0, 0)
            auto t57 = (t56 > nnx::cast<nnx::f32>(0.0));
            auto t58 = w1[((i10 * 8LL) + i9)];
            // %51: f32[B, 8] = where(%50, %46, 0.0)
            auto t59 = nnx::select(t57, t58, nnx::cast<nnx::f32>(0.0));
            // %54: f32[8] = sum(%51, axis=0)
            a60 = nnx::sum_add(a60, t59);
            w3[((i10 * 8LL) + i9)] = t59;
        }
    }
    a60 = nnx::over_rows<nnx::Sum, 8>(a60);
    if (((threadIdx.x < 8LL) && (i9 < 8LL))) {
        s2[((chunk * 8LL) + i9)] = a60;
    }
    if (nnx::is_last((tickets1 + tile), k5)) {
        a60 = nnx::cast<nnx::f32>(0.0);
        if ((i9 < 8LL)) {
            _Pragma("unroll 4") for (long long c = 0LL + threadIdx.x / 8LL; c < k5; c += 256 / 8LL) {
                a60 = nnx::sum_add(a60, nnx::fresh(s2, ((c * 8LL) + i9)));
            }
        }
        a60 = nnx::over_rows<nnx::Sum, 8>(a60);
        if (((threadIdx.x < 8LL) && (i9 < 8LL))) {
            y4[i9] = a60;
        }
    }
}

static __device__ __forceinline__ void part5(long long block, long long blocks, const long long *__restrict__ call, long long *status, float *x4, float *x5, float *y0, float *y4, const float *__restrict__ y6, const float *__restrict__ y8, const float *__restrict__ w0, const float *__restrict__ w1, const double *__restrict__ w2, float *w3, float *s2, unsigned int *tickets1) {
    const auto k6 = nnx::cast<nnx::f32>(nnx::f64_of(call[7]));
    if (nnx::failed(status)) return;
    auto fours = nnx::cast<nnx::i64>(0LL);
    if ((nnx::in_fours(x4) && nnx::in_fours(y6))) {
        fours = (24LL / 4LL);
    }
    for (long long f = block * 256 + threadIdx.x; f < fours; f += blocks * 256) {
        auto in_x4 = nnx::four(x4, (4LL * f));
        auto in_y6 = nnx::four(y6, (4LL * f));
        auto out_x4 = nnx::any_four(x4);
        _Pragma("unroll") for (int j = 0; j < 4; j++) {
            auto t65 = in_x4.at[j];
            auto t66 = in_y6.at[j];
            // %59: f32[8, 3] = multiply(n2, %48)
            auto t67 = (k6 * t66);
            // %60: f32[8, 3] = subtract(captured2, %59)
            auto t68 = (t65 - t67);
            out_x4.at[j] = t68;
        }
        nnx::put_four(x4, (4LL * f), out_x4);
    }
    for (long long i12 = (4LL * fours) + block * 256 + threadIdx.x; i12 < 24LL; i12 += blocks * 256) {
        auto t65 = x4[i12];
        auto t66 = y6[i12];
        // %59: f32[8, 3] = multiply(n2, %48)
        auto t67 = (k6 * t66);
        // %60: f32[8, 3] = subtract(captured2, %59)
        auto t68 = (t65 - t67);
        x4[i12] = t68;
    }
}

static __device__ __forceinline__ void part7(long long block, long long blocks, const long long *__restrict__ call, long long *status, float *x4, float *x5, float *y0, float *y4, const float *__restrict__ y6, const float *__restrict__ y8, const float *__restrict__ w0, const float *__restrict__ w1, const double *__restrict__ w2, float *w3, float *s2, unsigned int *tickets1) {
    const auto k6 = nnx::cast<nnx::f32>(nnx::f64_of(call[7]));
    if (nnx::failed(status)) return;
    auto fours = nnx::cast<nnx::i64>(0LL);
    if ((nnx::in_fours(x5) && nnx::in_fours(y8))) {
        fours = (3LL / 4LL);
    }
    for (long long f = block * 256 + threadIdx.x; f < fours; f += blocks * 256) {
        auto in_x5 = nnx::four(x5, (4LL * f));
        auto in_y8 = nnx::four(y8, (4LL * f));
        auto out_x5 = nnx::any_four(x5);
        _Pragma("unroll") for (int j = 0; j < 4; j++) {
            auto t73 = in_x5.at[j];
            auto t74 = in_y8.at[j];
            // %61: f32[3] = multiply(n2, %49)
            auto t75 = (k6 * t74);
            // %62: f32[3] = subtract(captured3, %61)
            auto t76 = (t73 - t75);
            out_x5.at[j] = t76;
        }
        nnx::put_four(x5, (4LL * f), out_x5);
    }
    for (long long i14 = (4LL * fours) + block * 256 + threadIdx.x; i14 < 3LL; i14 += blocks * 256) {
        auto t73 = x5[i14];
        auto t74 = y8[i14];
        // %61: f32[3] = multiply(n2, %49)
        auto t75 = (k6 * t74);
        // %62: f32[3] = subtract(captured3, %61)
        auto t76 = (t73 - t75);
        x5[i14] = t76;
    }
}

extern "C" __global__ void __launch_bounds__(256, 2) k5(const long long *__restrict__ call, long long *status, float *x4, float *x5, float *y0, float *y4, const float *__restrict__ y6, const float *__restrict__ y8, const float *__restrict__ w0, const float *__restrict__ w1, const double *__restrict__ w2, float *w3, float *s2, unsigned int *tickets1) {
    long long block = blockIdx.x, blocks;
    blocks = call[10];
    if (block < blocks) return part2(block, blocks, call, status, x4, x5, y0, y4, y6, y8, w0, w1, w2, w3, s2, tickets1);
    block -= blocks;
    blocks = call[11];
    if (block < blocks) return part3(block, blocks, call, status, x4, x5, y0, y4, y6, y8, w0, w1, w2, w3, s2, tickets1);
    block -= blocks;
    blocks = call[12];
    if (block < blocks) return part5(block, blocks, call, status, x4, x5, y0, y4, y6, y8, w0, w1, w2, w3, s2, tickets1);
    block -= blocks;
    blocks = call[13];
    if (block < blocks) return part7(block, blocks, call, status, x4, x5, y0, y4, y6, y8, w0, w1, w2, w3, s2, tickets1);
}

static __device__ __forceinline__ void part4(long long block, long long blocks, const long long *__restrict__ call, long long *status, float *x2, float *x3, const float *__restrict__ y2, const float *__restrict__ y4) {
    const auto k6 = nnx::cast<nnx::f32>(nnx::f64_of(call[7]));
    if (nnx::failed(status)) return;
    auto fours = nnx::cast<nnx::i64>(0LL);
    if ((nnx::in_fours(x2) && nnx::in_fours(y2))) {
        fours = (40LL / 4LL);
    }
    for (long long f = block * 256 + threadIdx.x; f < fours; f += blocks * 256) {
        auto in_x2 = nnx::four(x2, (4LL * f));
        auto in_y2 = nnx::four(y2, (4LL * f));
        auto out_x2 = nnx::any_four(x2);
        _Pragma("unroll") for (int j = 0; j < 4; j++) {
            auto t61 = in_x2.at[j];
            auto t62 = in_y2.at[j];
            // %55: f32[5, 8] = multiply(n2, %53)
            auto t63 = (k6 * t62);
            // %56: f32[5, 8] = subtract(captured0, %55)
            auto t64 = (t61 - t63);
            out_x2.at[j] = t64;
        }
        nnx::put_four(x2, (4LL * f), out_x2);
    }
    for (long long i11 = (4LL * fours) + block * 256 + threadIdx.x; i11 < 40LL; i11 += blocks * 256) {
        auto t61 = x2[i11];
        auto t62 = y2[i11];
        // %55: f32[5, 8] = multiply(n2, %53)
        auto t63 = (k6 * t62);
        // %56: f32[5, 8] = subtract(captured0, %55)
        auto t64 = (t61 - t63);
        x2[i11] = t64;
    }
}

static __device__ __forceinline__ void part6(long long block, long long blocks, const long long *__restrict__ call, long long *status, float *x2, float *x3, const float *__restrict__ y2, const float *__restrict__ y4) {
    const auto k6 = nnx::cast<nnx::f32>(nnx::f64_of(call[7]));
    if (nnx::failed(status)) return;
    auto fours = nnx::cast<nnx::i64>(0LL);
    if ((nnx::in_fours(x3) && nnx::in_fours(y4))) {
        fours = (8LL / 4LL);
    }
    for (long long f = block * 256 + threadIdx.x; f < fours; f += blocks * 256) {
        auto in_x3 = nnx::four(x3, (4LL * f));
        auto in_y4 = nnx::four(y4, (4LL * f));
        auto out_x3 = nnx::any_four(x3);
        _Pragma("unroll") for (int j = 0; j < 4; j++) {
            auto t69 = in_x3.at[j];
            auto t70 = in_y4.at[j];
            // %57: f32[8] = multiply(n2, %54)
            auto t71 = (k6 * t70);
            // %58: f32[8] = subtract(captured1, %57)
            auto t72 = (t69 - t71);
            out_x3.at[j] = t72;
        }
        nnx::put_four(x3, (4LL * f), out_x3);
    }
    for (long long i13 = (4LL * fours) + block * 256 + threadIdx.x; i13 < 8LL; i13 += blocks * 256) {
        auto t69 = x3[i13];
        auto t70 = y4[i13];
        // %57: f32[8] = multiply(n2, %54)
        auto t71 = (k6 * t70);
        // %58: f32[8] = subtract(captured1, %57)
        auto t72 = (t69 - t71);
        x3[i13] = t72;
    }
}

extern "C" __global__ void __launch_bounds__(256, 2) k7(const long long *__restrict__ call, long long *status, float *x2, float *x3, const float *__restrict__ y2, const float *__restrict__ y4) {
    long long block = blockIdx.x, blocks;
    blocks = call[14];
    if (block < blocks) return part4(block, blocks, call, status, x2, x3, y2, y4);
    block -= blocks;
    blocks = call[15];
    if (block < blocks) return part6(block, blocks, call, status, x2, x3, y2, y4);
}

