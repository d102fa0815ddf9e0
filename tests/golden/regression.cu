static __device__ __forceinline__ void part0(long long block, long long blocks, const long long *__restrict__ call, long long *status, const double *__restrict__ x3, const double *__restrict__ w0, double *w1, double *w2) {
    const auto k0 = call[1];
    for (long long i0 = block * 256 + threadIdx.x; i0 < k0; i0 += blocks * 256) {
        auto i1 = (i0 / 6LL);
        auto i2 = nnx::floor_mod(i0, 6LL);
        auto t0 = w0[((i1 * 6LL) + i2)];
        auto t1 = x3[i2];
        // %1: f64[B, 6] = add(%0, captured1)
        auto t2 = (t0 + t1);
        // %2: f64[B, 6] = tanh(%1)
        auto t3 = nnx::tanh(t2);
        w1[((i1 * 6LL) + i2)] = t2;
        w2[((i1 * 6LL) + i2)] = t3;
    }
}

extern "C" __global__ void __launch_bounds__(256, 2) k1(const long long *__restrict__ call, long long *status, const double *__restrict__ x3, const double *__restrict__ w0, double *w1, double *w2) {
    part0(blockIdx.x, gridDim.x, call, status, x3, w0, w1, w2);
}

static __device__ __forceinline__ void part1(long long block, long long blocks, const long long *__restrict__ call, long long *status, const double *__restrict__ x1, const double *__restrict__ x5, double *y8, const double *__restrict__ w0, double *w3, double *w4, double *s0, unsigned int *tickets0, double *s1, unsigned int *tickets1) {
    const auto k1 = call[2];
    const auto k2 = call[3];
    const auto k3 = call[4];
    const auto k4 = call[5];
    const auto k5 = nnx::cast<nnx::f64>(call[6]);
    auto tile = nnx::floor_mod(block, k1);
    auto chunk = (block / k1);
    auto i3 = ((tile * 1LL) + nnx::floor_mod(threadIdx.x, 1LL));
    auto first = (chunk * k2);
    auto last = nnx::minimum((first + k2), nnx::cast<nnx::i64>(k4));
    auto a10 = nnx::cast<nnx::f64>(0.0);
    auto a14 = nnx::cast<nnx::f64>(0.0);
    auto t5 = x5[0LL];
    // %10: f64[] = divide(%9, B)
    auto t11 = nnx::divide(nnx::cast<nnx::f64>(1.0), k5);
    if ((i3 < 1LL)) {
        _Pragma("unroll 4") for (long long i4 = first + threadIdx.x / 1LL; i4 < last; i4 += 256 / 1LL) {
            auto t4 = w0[i4];
            // %4: f64[B, 1] = add(%3, captured3)
            auto t6 = (t4 + t5);
            auto t7 = x1[i4];
            // %5: f64[B, 1] = subtract(%4, x1)
            auto t8 = (t6 - t7);
            // %6: f64[B, 1] = multiply(%5, %5)
            auto t9 = (t8 * t8);
            // %7: f64[] = sum(%6)
            a10 = nnx::sum_add(a10, t9);
            // %11: f64[B, 1] = multiply(2.0, %5)
            auto t12 = (nnx::cast<nnx::f64>(2.0) * t8);
            // %12: f64[B, 1] = multiply(%10, %11)
            auto t13 = (t11 * t12);
            // %17: f64[1] = sum(%12, axis=0)
            a14 = nnx::sum_add(a14, t13);
            w4[i4] = t13;
        }
    }
    a14 = nnx::over_rows<nnx::Sum, 1>(a14);
    if (((threadIdx.x < 1LL) && (i3 < 1LL))) {
        s0[((chunk * 1LL) + i3)] = a14;
    }
    if (nnx::is_last((tickets0 + tile), k3)) {
        a14 = nnx::cast<nnx::f64>(0.0);
        if ((i3 < 1LL)) {
            _Pragma("unroll 4") for (long long c = 0LL + threadIdx.x / 1LL; c < k3; c += 256 / 1LL) {
                a14 = nnx::sum_add(a14, nnx::fresh(s0, ((c * 1LL) + i3)));
            }
        }
        a14 = nnx::over_rows<nnx::Sum, 1>(a14);
        if (((threadIdx.x < 1LL) && (i3 < 1LL))) {
            y8[i3] = a14;
        }
    }
    a10 = nnx::over_block<nnx::Sum>(a10);
    if ((threadIdx.x == 0LL)) {
        s1[block] = a10;
    }
    if (nnx::is_last(tickets1, blocks)) {
        a10 = nnx::cast<nnx::f64>(0.0);
        for (long long c = threadIdx.x; c < blocks; c += 256) {
            a10 = nnx::sum_add(a10, nnx::fresh(s1, c));
        }
        a10 = nnx::over_block<nnx::Sum>(a10);
        if ((threadIdx.x == 0LL)) {
            w3[0LL] = a10;
        }
    }
}

extern "C" __global__ void __launch_bounds__(256, 2) k3(const long long *__restrict__ call, long long *status, const double *__restrict__ x1, const double *__restrict__ x5, double *y8, const double *__restrict__ w0, double *w3, double *w4, double *s0, unsigned int *tickets0, double *s1, unsigned int *tickets1) {
    part1(blockIdx.x, gridDim.x, call, status, x1, x5, y8, w0, w3, w4, s0, tickets0, s1, tickets1);
}

static __device__ __forceinline__ void part2(long long block, long long blocks, const long long *__restrict__ call, long long *status, double *x4, double *x5, double *x8, double *x9, double *y0, double *y4, const double *__restrict__ y6, const double *__restrict__ y8, const double *__restrict__ w0, const double *__restrict__ w1, double *w2, const double *__restrict__ w3, double *s2, unsigned int *tickets2) {
    const auto k5 = nnx::cast<nnx::f64>(call[6]);
    auto t15 = w3[0LL];
    // %8: f64[] = divide(%7, B)
    auto t16 = nnx::divide(t15, k5);
    for (long long i5 = block * 256 + threadIdx.x; i5 < 1LL; i5 += blocks * 256) {
        y0[0LL] = t16;
    }
}

static __device__ __forceinline__ void part3(long long block, long long blocks, const long long *__restrict__ call, long long *status, double *x4, double *x5, double *x8, double *x9, double *y0, double *y4, const double *__restrict__ y6, const double *__restrict__ y8, const double *__restrict__ w0, const double *__restrict__ w1, double *w2, const double *__restrict__ w3, double *s2, unsigned int *tickets2) {
    const auto k4 = call[5];
    const auto k6 = call[7];
    const auto k7 = call[8];
    const auto k8 = call[9];
    auto tile = nnx::floor_mod(block, k6);
    auto chunk = (block / k6);
    auto i6 = ((tile * 8LL) + nnx::floor_mod(threadIdx.x, 8LL));
    auto first = (chunk * k7);
    auto last = nnx::minimum((first + k7), nnx::cast<nnx::i64>(k4));
    auto a38 = nnx::cast<nnx::f64>(0.0);
    if ((i6 < 6LL)) {
        _Pragma("unroll 4") for (long long i7 = first + threadIdx.x / 8LL; i7 < last; i7 += 256 / 8LL) {
            auto t17 = w0[((i7 * 6LL) + i6)];
            // %18: f64[B, 6] = multiply(4.0, %14)
            auto t18 = (nnx::cast<nnx::f64>(4.0) * t17);
            auto t19 = w1[((i7 * 6LL) + i6)];
            // %19: f64[B, 6] = multiply(2.0, %1)
            auto t20 = (nnx::cast<nnx::f64>(2.0) * t19);
            // %23: bool[B, 6] = greater_equal(%19, 0)
            auto t21 = (t20 >= nnx::cast<nnx::f64>(0.0));
            // %20: f64[B, 6] = abs(%19)
            auto t22 = nnx::abs(t20);
            // %21: f64[B, 6] = negative(%20)
            auto t23 = (-t22);
            // %22: f64[B, 6] = exp(%21)
            auto t24 = nnx::exp(t23);
            // %24: f64[B, 6] = where(%23, 1.0, %22)
            auto t25 = nnx::select(t21, nnx::cast<nnx::f64>(1.0), t24);
            // %25: f64[B, 6] = add(1.0, %22)
            auto t26 = (nnx::cast<nnx::f64>(1.0) + t24);
            // %26: f64[B, 6] = divide(%24, %25)
            auto t27 = nnx::divide(t25, t26);
            // %27: f64[B, 6] = multiply(-2.0, %1)
            auto t28 = (nnx::cast<nnx::f64>((-2.0)) * t19);
            // %31: bool[B, 6] = greater_equal(%27, 0)
            auto t29 = (t28 >= nnx::cast<nnx::f64>(0.0));
            // %28: f64[B, 6] = abs(%27)
            auto t30 = nnx::abs(t28);
            // %29: f64[B, 6] = negative(%28)
            auto t31 = (-t30);
            // %30: f64[B, 6] = exp(%29)
            auto t32 = nnx::exp(t31);
            // %32: f64[B, 6] = where(%31, 1.0, %30)
            auto t33 = nnx::select(t29, nnx::cast<nnx::f64>(1.0), t32);
            // %33: f64[B, 6] = add(1.0, %30)
            auto t34 = (nnx::cast<nnx::f64>(1.0) + t32);
            // %34: f64[B, 6] = divide(%32, %33)
            auto t35 = nnx::divide(t33, t34);
            // %35: f64[B, 6] = multiply(%26, %34)
            auto t36 = (t27 * t35);
            // %36: f64[B, 6] = multiply(%18, %35)
            auto t37 = (t18 * t36);
            // %39: f64[6] = sum(%36, axis=0)
            a38 = nnx::sum_add(a38, t37);
            w2[((i7 * 6LL) + i6)] = t37;
        }
    }
    a38 = nnx::over_rows<nnx::Sum, 8>(a38);
    if (((threadIdx.x < 8LL) && (i6 < 6LL))) {
        s2[((chunk * 6LL) + i6)] = a38;
    }
    if (nnx::is_last((tickets2 + tile), k8)) {
        a38 = nnx::cast<nnx::f64>(0.0);
        if ((i6 < 6LL)) {
            _Pragma("unroll 4") for (long long c = 0LL + threadIdx.x / 8LL; c < k8; c += 256 / 8LL) {
                a38 = nnx::sum_add(a38, nnx::fresh(s2, ((c * 6LL) + i6)));
            }
        }
        a38 = nnx::over_rows<nnx::Sum, 8>(a38);
        if (((threadIdx.x < 8LL) && (i6 < 6LL))) {
            y4[i6] = a38;
        }
    }
}

static __device__ __forceinline__ void part5(long long block, long long blocks, const long long *__restrict__ call, long long *status, double *x4, double *x5, double *x8, double *x9, double *y0, double *y4, const double *__restrict__ y6, const double *__restrict__ y8, const double *__restrict__ w0, const double *__restrict__ w1, double *w2, const double *__restrict__ w3, double *s2, unsigned int *tickets2) {
    const auto k9 = nnx::cast<nnx::f64>(nnx::f64_of(call[10]));
    if (nnx::failed(status)) return;
    auto fours = nnx::cast<nnx::i64>(0LL);
    if ((nnx::in_fours(x8) && nnx::in_fours(y6) && nnx::in_fours(x4))) {
        fours = (6LL / 4LL);
    }
    for (long long f = block * 256 + threadIdx.x; f < fours; f += blocks * 256) {
        auto in_x8 = nnx::four(x8, (4LL * f));
        auto in_y6 = nnx::four(y6, (4LL * f));
        auto in_x4 = nnx::four(x4, (4LL * f));
        auto out_x8 = nnx::any_four(x8);
        auto out_x4 = nnx::any_four(x4);
        _Pragma("unroll") for (int j = 0; j < 4; j++) {
            auto t46 = in_x8.at[j];
            // %48: f64[6, 1] = multiply(0.9, captured6)
            auto t47 = (nnx::cast<nnx::f64>(0.9) * t46);
            auto t48 = in_y6.at[j];
            // %49: f64[6, 1] = add(%48, %16)
            auto t49 = (t47 + t48);
            auto t50 = in_x4.at[j];
            // %50: f64[6, 1] = multiply(n2, %49)
            auto t51 = (k9 * t49);
            // %51: f64[6, 1] = subtract(captured2, %50)
            auto t52 = (t50 - t51);
            out_x8.at[j] = t49;
            out_x4.at[j] = t52;
        }
        nnx::put_four(x8, (4LL * f), out_x8);
        nnx::put_four(x4, (4LL * f), out_x4);
    }
    for (long long i10 = (4LL * fours) + block * 256 + threadIdx.x; i10 < 6LL; i10 += blocks * 256) {
        auto t46 = x8[i10];
        // %48: f64[6, 1] = multiply(0.9, captured6)
        auto t47 = (nnx::cast<nnx::f64>(0.9) * t46);
        auto t48 = y6[i10];
        // %49: f64[6, 1] = add(%48, %16)
        auto t49 = (t47 + t48);
        auto t50 = x4[i10];
        // %50: f64[6, 1] = multiply(n2, %49)
        auto t51 = (k9 * t49);
        // %51: f64[6, 1] = subtract(captured2, %50)
        auto t52 = (t50 - t51);
        x8[i10] = t49;
        x4[i10] = t52;
    }
}

static __device__ __forceinline__ void part7(long long block, long long blocks, const long long *__restrict__ call, long long *status, double *x4, double *x5, double *x8, double *x9, double *y0, double *y4, const double *__restrict__ y6, const double *__restrict__ y8, const double *__restrict__ w0, const double *__restrict__ w1, double *w2, const double *__restrict__ w3, double *s2, unsigned int *tickets2) {
    const auto k9 = nnx::cast<nnx::f64>(nnx::f64_of(call[10]));
    if (nnx::failed(status)) return;
    auto t60 = x9[0LL];
    // %52: f64[1] = multiply(0.9, captured7)
    auto t61 = (nnx::cast<nnx::f64>(0.9) * t60);
    auto t62 = y8[0LL];
    // %53: f64[1] = add(%52, %17)
    auto t63 = (t61 + t62);
    auto t64 = x5[0LL];
    // %54: f64[1] = multiply(n2, %53)
    auto t65 = (k9 * t63);
    // %55: f64[1] = subtract(captured3, %54)
    auto t66 = (t64 - t65);
    for (long long i12 = block * 256 + threadIdx.x; i12 < 1LL; i12 += blocks * 256) {
        x9[0LL] = t63;
        x5[0LL] = t66;
    }
}

extern "C" __global__ void __launch_bounds__(256, 2) k6(const long long *__restrict__ call, long long *status, double *x4, double *x5, double *x8, double *x9, double *y0, double *y4, const double *__restrict__ y6, const double *__restrict__ y8, const double *__restrict__ w0, const double *__restrict__ w1, double *w2, const double *__restrict__ w3, double *s2, unsigned int *tickets2) {
    long long block = blockIdx.x, blocks;
    blocks = call[11];
    if (block < blocks) return part2(block, blocks, call, status, x4, x5, x8, x9, y0, y4, y6, y8, w0, w1, w2, w3, s2, tickets2);
    block -= blocks;
    blocks = call[12];
    if (block < blocks) return part3(block, blocks, call, status, x4, x5, x8, x9, y0, y4, y6, y8, w0, w1, w2, w3, s2, tickets2);
    block -= blocks;
    blocks = call[13];
    if (block < blocks) return part5(block, blocks, call, status, x4, x5, x8, x9, y0, y4, y6, y8, w0, w1, w2, w3, s2, tickets2);
    block -= blocks;
    blocks = call[14];
    if (block < blocks) return part7(block, blocks, call, status, x4, x5, x8, x9, y0, y4, y6, y8, w0, w1, w2, w3, s2, tickets2);
}

static __device__ __forceinline__ void part4(long long block, long long blocks, const long long *__restrict__ call, long long *status, double *x2, double *x3, double *x6, double *x7, const double *__restrict__ y2, const double *__restrict__ y4) {
    const auto k9 = nnx::cast<nnx::f64>(nnx::f64_of(call[10]));
    if (nnx::failed(status)) return;
    auto fours = nnx::cast<nnx::i64>(0LL);
    if ((nnx::in_fours(x6) && nnx::in_fours(y2) && nnx::in_fours(x2))) {
        fours = (12LL / 4LL);
    }
    for (long long f = block * 256 + threadIdx.x; f < fours; f += blocks * 256) {
        auto in_x6 = nnx::four(x6, (4LL * f));
        auto in_y2 = nnx::four(y2, (4LL * f));
        auto in_x2 = nnx::four(x2, (4LL * f));
        auto out_x6 = nnx::any_four(x6);
        auto out_x2 = nnx::any_four(x2);
        _Pragma("unroll") for (int j = 0; j < 4; j++) {
            auto t39 = in_x6.at[j];
            // %40: f64[2, 6] = multiply(0.9, captured4)
            auto t40 = (nnx::cast<nnx::f64>(0.9) * t39);
            auto t41 = in_y2.at[j];
            // %41: f64[2, 6] = add(%40, %38)
            auto t42 = (t40 + t41);
            auto t43 = in_x2.at[j];
            // %42: f64[2, 6] = multiply(n2, %41)
            auto t44 = (k9 * t42);
            // %43: f64[2, 6] = subtract(captured0, %42)
            auto t45 = (t43 - t44);
            out_x6.at[j] = t42;
            out_x2.at[j] = t45;
        }
        nnx::put_four(x6, (4LL * f), out_x6);
        nnx::put_four(x2, (4LL * f), out_x2);
    }
    for (long long i9 = (4LL * fours) + block * 256 + threadIdx.x; i9 < 12LL; i9 += blocks * 256) {
        auto t39 = x6[i9];
        // %40: f64[2, 6] = multiply(0.9, captured4)
        auto t40 = (nnx::cast<nnx::f64>(0.9) * t39);
        auto t41 = y2[i9];
        // %41: f64[2, 6] = add(%40, %38)
        auto t42 = (t40 + t41);
        auto t43 = x2[i9];
        // %42: f64[2, 6] = multiply(n2, %41)
        auto t44 = (k9 * t42);
        // %43: f64[2, 6] = subtract(captured0, %42)
        auto t45 = (t43 - t44);
        x6[i9] = t42;
        x2[i9] = t45;
    }
}

static __device__ __forceinline__ void part6(long long block, long long blocks, const long long *__restrict__ call, long long *status, double *x2, double *x3, double *x6, double *x7, const double *__restrict__ y2, const double *__restrict__ y4) {
    const auto k9 = nnx::cast<nnx::f64>(nnx::f64_of(call[10]));
    if (nnx::failed(status)) return;
    auto fours = nnx::cast<nnx::i64>(0LL);
    if ((nnx::in_fours(x7) && nnx::in_fours(y4) && nnx::in_fours(x3))) {
        fours = (6LL / 4LL);
    }
    for (long long f = block * 256 + threadIdx.x; f < fours; f += blocks * 256) {
        auto in_x7 = nnx::four(x7, (4LL * f));
        auto in_y4 = nnx::four(y4, (4LL * f));
        auto in_x3 = nnx::four(x3, (4LL * f));
        auto out_x7 = nnx::any_four(x7);
        auto out_x3 = nnx::any_four(x3);
        _Pragma("unroll") for (int j = 0; j < 4; j++) {
            auto t53 = in_x7.at[j];
            // %44: f64[6] = multiply(0.9, captured5)
            auto t54 = (nnx::cast<nnx::f64>(0.9) * t53);
            auto t55 = in_y4.at[j];
            // %45: f64[6] = add(%44, %39)
            auto t56 = (t54 + t55);
            auto t57 = in_x3.at[j];
            // %46: f64[6] = multiply(n2, %45)
            auto t58 = (k9 * t56);
            // %47: f64[6] = subtract(captured1, %46)
            auto t59 = (t57 - t58);
            out_x7.at[j] = t56;
            out_x3.at[j] = t59;
        }
        nnx::put_four(x7, (4LL * f), out_x7);
        nnx::put_four(x3, (4LL * f), out_x3);
    }
    for (long long i11 = (4LL * fours) + block * 256 + threadIdx.x; i11 < 6LL; i11 += blocks * 256) {
        auto t53 = x7[i11];
        // %44: f64[6] = multiply(0.9, captured5)
        auto t54 = (nnx::cast<nnx::f64>(0.9) * t53);
        auto t55 = y4[i11];
        // %45: f64[6] = add(%44, %39)
        auto t56 = (t54 + t55);
        auto t57 = x3[i11];
        // %46: f64[6] = multiply(n2, %45)
        auto t58 = (k9 * t56);
        // %47: f64[6] = subtract(captured1, %46)
        auto t59 = (t57 - t58);
        x7[i11] = t56;
        x3[i11] = t59;
    }
}

extern "C" __global__ void __launch_bounds__(256, 2) k8(const long long *__restrict__ call, long long *status, double *x2, double *x3, double *x6, double *x7, const double *__restrict__ y2, const double *__restrict__ y4) {
    long long block = blockIdx.x, blocks;
    blocks = call[15];
    if (block < blocks) return part4(block, blocks, call, status, x2, x3, x6, x7, y2, y4);
    block -= blocks;
    blocks = call[16];
    if (block < blocks) return part6(block, blocks, call, status, x2, x3, x6, x7, y2, y4);
}

