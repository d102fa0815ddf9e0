from nnx.kernels.runtime import (
    b1,
    blas_threads,
    divide,
    exp,
    f32,
    f32_gemm,
    f32_slot,
    f64,
    f64_at,
    f64_slot,
    i64,
    i64_slot,
    log1p,
    logical_or,
    max_reduce,
    maximum,
    select,
    sum_add,
)

inf = 1e999
nan = inf - inf


def step(table):
    x0 = f32_slot(table, 5)
    x1 = i64_slot(table, 6)
    x2 = f32_slot(table, 7)
    x3 = f32_slot(table, 8)
    x4 = f32_slot(table, 9)
    x5 = f32_slot(table, 10)
    y0 = f32_slot(table, 11)
    y2 = f32_slot(table, 13)
    y4 = f32_slot(table, 15)
    y6 = f32_slot(table, 17)
    y8 = f32_slot(table, 19)
    w0 = f32_slot(table, 20)
    w1 = f32_slot(table, 21)
    w2 = f64_slot(table, 22)
    w3 = f32_slot(table, 23)
    threads = table[24]
    B = table[1]
    k1 = B
    k2 = (B * 40)
    k3 = (B * 24)
    k4 = f32(B)
    k5 = f64(B)
    n2 = f64_at(table[0])[4]
    k7 = f32(n2)
    bad4 = b1(False)
    bad8 = b1(False)
    for i0 in range(k1):
        t0 = x1[i0]
        # %11: bool[B, 1] = less(%10, -3)
        t1 = (t0 < i64(-3))
        # %12: bool[B, 1] = greater_equal(%10, 3)
        t2 = (t0 >= i64(3))
        # %13: bool[B, 1] = logical_or(%11, %12)
        t3 = logical_or(t1, t2)
        # %14: bool[B, 1] = check(%13)
        bad4 = logical_or(bad4, t3)
        # %6: bool[B] = less(x1, 0)
        t5 = (t0 < i64(0))
        # %5: bool[B] = greater_equal(x1, 3)
        t6 = (t0 >= i64(3))
        # %7: bool[B] = logical_or(%6, %5)
        t7 = logical_or(t5, t6)
        # %8: bool[B] = check(%7)
        bad8 = logical_or(bad8, t7)
    if bad4:
        return 2
    if bad8:
        return 2
    # %0: f32[B, 8] = matmul(x0, captured0)
    if threads != 1:
        blas_threads(select(k2 < 4194304, 1, threads))
    f32_gemm(0, 0, k1, 8, 5, x0, 5, x2, 8, w0, 8)
    for i1 in range(k1):
        for i2 in range(8):
            t9 = w0[i1 * 8 + i2]
            t10 = x3[i2]
            # %1: f32[B, 8] = add(%0, captured1)
            t11 = (t9 + t10)
            # %2: f32[B, 8] = maximum(%1, 0)
            t12 = maximum(t11, f32(0.0))
            w0[i1 * 8 + i2] = t12
    # %3: f32[B, 3] = matmul(%2, captured2)
    if threads != 1:
        blas_threads(select(k3 < 4194304, 1, threads))
    f32_gemm(0, 0, k1, 3, 8, w0, 8, x4, 3, w1, 3)
    a50 = f64(0.0)
    for c in range(3):
        y8[c] = f32(0.0)
    # %40: f32[] = divide(%39, B)
    t51 = divide(f32(1.0), k4)
    for i3 in range(k1):
        t17 = x1[i3]
        a16 = f32(-inf)
        a21 = f32(0.0)
        for i4 in range(3):
            t13 = w1[i3 * 3 + i4]
            t14 = x5[i4]
            # %4: f32[B, 3] = add(%3, captured3)
            t15 = (t13 + t14)
            # %9: f32[B, 1] = max(%4, axis=-1, keepdims=True)
            a16 = max_reduce(a16, t15)
            t18 = i64(i4)
            # %16: bool[B, 3] = equal(%10, %15)
            t19 = (t17 == t18)
            # %18: f32[B, 3] = where(%16, %4, %17)
            t20 = select(t19, t15, f32(0.0))
            # %19: f32[B, 1] = sum(%18, axis=-1, keepdims=True)
            a21 = sum_add(a21, t20)
        a27 = f32(0.0)
        a30 = f32(0.0)
        a32 = f32(0.0)
        for i5 in range(3):
            t22 = w1[i3 * 3 + i5]
            t23 = x5[i5]
            # %4: f32[B, 3] = add(%3, captured3)
            t24 = (t22 + t23)
            # %21: bool[B, 3] = equal(%4, %9)
            t25 = (t24 == a16)
            # %27: f32[B, 3] = where(%21, %26, 0.0)
            t26 = select(t25, f32(1.0), f32(0.0))
            # %28: f32[B, 1] = sum(%27, axis=-1, keepdims=True)
            a27 = sum_add(a27, t26)
            # %22: f32[B, 3] = subtract(%4, %9)
            t28 = (t24 - a16)
            # %23: f32[B, 3] = exp(%22)
            t29 = exp(t28)
            # %41: f32[B, 1] = sum(%23, axis=-1, keepdims=True)
            a30 = sum_add(a30, t29)
            # %24: f32[B, 3] = where(%21, 0.0, %23)
            t31 = select(t25, f32(0.0), t29)
            # %25: f32[B, 1] = sum(%24, axis=-1, keepdims=True)
            a32 = sum_add(a32, t31)
        a42 = f32(0.0)
        for i6 in range(3):
            t33 = i64(i6)
            # %16: bool[B, 3] = equal(%10, %15)
            t34 = (t17 == t33)
            t35 = w1[i3 * 3 + i6]
            t36 = x5[i6]
            # %4: f32[B, 3] = add(%3, captured3)
            t37 = (t35 + t36)
            # %22: f32[B, 3] = subtract(%4, %9)
            t38 = (t37 - a16)
            # %23: f32[B, 3] = exp(%22)
            t39 = exp(t38)
            # %42: f32[B, 3] = divide(%23, %41)
            t40 = divide(t39, a30)
            # %43: f32[B, 3] = where(%16, 0.0, %42)
            t41 = select(t34, f32(0.0), t40)
            # %44: f32[B, 1] = sum(%43, axis=-1, keepdims=True)
            a42 = sum_add(a42, t41)
        # %20: f32[B, 1] = subtract(%9, %19)
        t43 = (a16 - a21)
        # %29: f32[B, 1] = subtract(%28, 1.0)
        t44 = (a27 - f32(1.0))
        # %30: f32[B, 1] = maximum(%29, 0.0)
        t45 = maximum(t44, f32(0.0))
        # %31: f32[B, 1] = add(%25, %30)
        t46 = (a32 + t45)
        # %32: f32[B, 1] = log1p(%31)
        t47 = log1p(t46)
        # %33: f32[B, 1] = add(%20, %32)
        t48 = (t43 + t47)
        # %35: f64[B] = astype(%34, dtype=float64)
        t49 = f64(t48)
        # %36: f64[] = sum(%35)
        a50 = sum_add(a50, t49)
        # %45: f32[B, 1] = negative(%44)
        t54 = (-a42)
        for i7 in range(3):
            t52 = i64(i7)
            # %16: bool[B, 3] = equal(%10, %15)
            t53 = (t17 == t52)
            t55 = w1[i3 * 3 + i7]
            t56 = x5[i7]
            # %4: f32[B, 3] = add(%3, captured3)
            t57 = (t55 + t56)
            # %22: f32[B, 3] = subtract(%4, %9)
            t58 = (t57 - a16)
            # %23: f32[B, 3] = exp(%22)
            t59 = exp(t58)
            # %42: f32[B, 3] = divide(%23, %41)
            t60 = divide(t59, a30)
            # %43: f32[B, 3] = where(%16, 0.0, %42)
            t61 = select(t53, f32(0.0), t60)
            # %46: f32[B, 3] = where(%16, %45, %43)
            t62 = select(t53, t54, t61)
            # %47: f32[B, 3] = multiply(%40, %46)
            t63 = (t51 * t62)
            # %52: f32[3] = sum(%47, axis=0)
            y8[i7] = sum_add(y8[i7], t63)
            w3[i3 * 3 + i7] = t63
    w2[0] = a50
    # %49: f32[B, 8] = matmul(%47, %48)
    f32_gemm(0, 1, k1, 8, 3, w3, 3, x4, 3, w1, 8)
    # %51: f32[8, 3] = matmul(%50, %47)
    f32_gemm(1, 0, 8, 3, k1, w0, 8, w3, 3, y6, 3)
    t65 = w2[0]
    # %37: f64[] = divide(%36, B)
    t66 = divide(t65, k5)
    # %38: f32[] = astype(%37, dtype=float32)
    t67 = f32(t66)
    y0[0] = t67
    for c in range(8):
        y4[c] = f32(0.0)
    for i9 in range(k1):
        for i10 in range(8):
            t68 = w0[i9 * 8 + i10]
            # %53: bool[B, 8] = greater(%2, 0)
            t69 = (t68 > f32(0.0))
            t70 = w1[i9 * 8 + i10]
            # %54: f32[B, 8] = where(%53, %49, 0.0)
            t71 = select(t69, t70, f32(0.0))
            # %57: f32[8] = sum(%54, axis=0)
            y4[i10] = sum_add(y4[i10], t71)
            w1[i9 * 8 + i10] = t71
    # %56: f32[5, 8] = matmul(%55, %54)
    if threads != 1:
        blas_threads(select(k2 < 4194304, 1, threads))
    f32_gemm(1, 0, 5, 8, k1, x0, 5, w1, 8, y2, 8)
    for i11 in range(40):
        t73 = x2[i11]
        t74 = y2[i11]
        # %58: f32[5, 8] = multiply(n2, %56)
        t75 = (k7 * t74)
        # %59: f32[5, 8] = subtract(captured0, %58)
        t76 = (t73 - t75)
        x2[i11] = t76
    for i12 in range(24):
        t77 = x4[i12]
        t78 = y6[i12]
        # %62: f32[8, 3] = multiply(n2, %51)
        t79 = (k7 * t78)
        # %63: f32[8, 3] = subtract(captured2, %62)
        t80 = (t77 - t79)
        x4[i12] = t80
    for i13 in range(8):
        t81 = x3[i13]
        t82 = y4[i13]
        # %60: f32[8] = multiply(n2, %57)
        t83 = (k7 * t82)
        # %61: f32[8] = subtract(captured1, %60)
        t84 = (t81 - t83)
        x3[i13] = t84
    for i14 in range(3):
        t85 = x5[i14]
        t86 = y8[i14]
        # %64: f32[3] = multiply(n2, %52)
        t87 = (k7 * t86)
        # %65: f32[3] = subtract(captured3, %64)
        t88 = (t85 - t87)
        x5[i14] = t88
    if threads != 1:
        blas_threads(threads)
    return 0
