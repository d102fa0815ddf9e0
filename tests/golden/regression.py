from nnx.kernels.runtime import (
    abs,
    blas_threads,
    divide,
    exp,
    f64,
    f64_at,
    f64_gemm,
    f64_slot,
    select,
    sum_add,
    tanh,
)

inf = 1e999
nan = inf - inf


def step(table):
    x0 = f64_slot(table, 5)
    x1 = f64_slot(table, 6)
    x2 = f64_slot(table, 7)
    x3 = f64_slot(table, 8)
    x4 = f64_slot(table, 9)
    x5 = f64_slot(table, 10)
    x6 = f64_slot(table, 11)
    x7 = f64_slot(table, 12)
    x8 = f64_slot(table, 13)
    x9 = f64_slot(table, 14)
    y0 = f64_slot(table, 15)
    y2 = f64_slot(table, 17)
    y4 = f64_slot(table, 19)
    y6 = f64_slot(table, 21)
    y8 = f64_slot(table, 23)
    w0 = f64_slot(table, 28)
    w1 = f64_slot(table, 29)
    w2 = f64_slot(table, 30)
    w3 = f64_slot(table, 31)
    w4 = f64_slot(table, 32)
    threads = table[33]
    B = table[1]
    k1 = B
    k2 = (B * 12)
    k3 = (B * 6)
    k4 = f64(B)
    n2 = f64_at(table[0])[4]
    k6 = f64(n2)
    # %0: f64[B, 6] = matmul(x0, captured0)
    if threads != 1:
        blas_threads(select(k2 < 4194304, 1, threads))
    f64_gemm(0, 0, k1, 6, 2, x0, 2, x2, 6, w0, 6)
    for i0 in range(k1):
        for i1 in range(6):
            t0 = w0[i0 * 6 + i1]
            t1 = x3[i1]
            # %1: f64[B, 6] = add(%0, captured1)
            t2 = (t0 + t1)
            # %2: f64[B, 6] = tanh(%1)
            t3 = tanh(t2)
            w0[i0 * 6 + i1] = t2
            w1[i0 * 6 + i1] = t3
    # %3: f64[B, 1] = matmul(%2, captured2)
    if threads != 1:
        blas_threads(select(k3 < 4194304, 1, threads))
    f64_gemm(0, 0, k1, 1, 6, w1, 6, x4, 1, w2, 1)
    a10 = f64(0.0)
    for c in range(1):
        y8[c] = f64(0.0)
    t5 = x5[0]
    # %10: f64[] = divide(%9, B)
    t11 = divide(f64(1.0), k4)
    for i2 in range(k1):
        t4 = w2[i2]
        # %4: f64[B, 1] = add(%3, captured3)
        t6 = (t4 + t5)
        t7 = x1[i2]
        # %5: f64[B, 1] = subtract(%4, x1)
        t8 = (t6 - t7)
        # %6: f64[B, 1] = multiply(%5, %5)
        t9 = (t8 * t8)
        # %11: f64[B, 1] = multiply(2.0, %5)
        t12 = (f64(2.0) * t8)
        # %12: f64[B, 1] = multiply(%10, %11)
        t13 = (t11 * t12)
        # %7: f64[] = sum(%6)
        a10 = sum_add(a10, t9)
        # %17: f64[1] = sum(%12, axis=0)
        y8[0] = sum_add(y8[0], t13)
        w2[i2] = t13
    w3[0] = a10
    # %14: f64[B, 6] = matmul(%12, %13)
    f64_gemm(0, 1, k1, 6, 1, w2, 1, x4, 1, w4, 6)
    # %16: f64[6, 1] = matmul(%15, %12)
    f64_gemm(1, 0, 6, 1, k1, w1, 6, w2, 1, y6, 1)
    t15 = w3[0]
    # %8: f64[] = divide(%7, B)
    t16 = divide(t15, k4)
    y0[0] = t16
    for c in range(6):
        y4[c] = f64(0.0)
    for i3 in range(k1):
        for i4 in range(6):
            t17 = w4[i3 * 6 + i4]
            # %18: f64[B, 6] = multiply(4.0, %14)
            t18 = (f64(4.0) * t17)
            t19 = w0[i3 * 6 + i4]
            # %19: f64[B, 6] = multiply(2.0, %1)
            t20 = (f64(2.0) * t19)
            # %23: bool[B, 6] = greater_equal(%19, 0)
            t21 = (t20 >= f64(0.0))
            # %20: f64[B, 6] = abs(%19)
            t22 = abs(t20)
            # %21: f64[B, 6] = negative(%20)
            t23 = (-t22)
            # %22: f64[B, 6] = exp(%21)
            t24 = exp(t23)
            # %24: f64[B, 6] = where(%23, 1.0, %22)
            t25 = select(t21, f64(1.0), t24)
            # %25: f64[B, 6] = add(1.0, %22)
            t26 = (f64(1.0) + t24)
            # %26: f64[B, 6] = divide(%24, %25)
            t27 = divide(t25, t26)
            # %27: f64[B, 6] = multiply(-2.0, %1)
            t28 = (f64(-2.0) * t19)
            # %31: bool[B, 6] = greater_equal(%27, 0)
            t29 = (t28 >= f64(0.0))
            # %28: f64[B, 6] = abs(%27)
            t30 = abs(t28)
            # %29: f64[B, 6] = negative(%28)
            t31 = (-t30)
            # %30: f64[B, 6] = exp(%29)
            t32 = exp(t31)
            # %32: f64[B, 6] = where(%31, 1.0, %30)
            t33 = select(t29, f64(1.0), t32)
            # %33: f64[B, 6] = add(1.0, %30)
            t34 = (f64(1.0) + t32)
            # %34: f64[B, 6] = divide(%32, %33)
            t35 = divide(t33, t34)
            # %35: f64[B, 6] = multiply(%26, %34)
            t36 = (t27 * t35)
            # %36: f64[B, 6] = multiply(%18, %35)
            t37 = (t18 * t36)
            # %39: f64[6] = sum(%36, axis=0)
            y4[i4] = sum_add(y4[i4], t37)
            w4[i3 * 6 + i4] = t37
    # %38: f64[2, 6] = matmul(%37, %36)
    if threads != 1:
        blas_threads(select(k2 < 4194304, 1, threads))
    f64_gemm(1, 0, 2, 6, k1, x0, 2, w4, 6, y2, 6)
    for i5 in range(12):
        t39 = x6[i5]
        # %40: f64[2, 6] = multiply(0.9, captured4)
        t40 = (f64(0.9) * t39)
        t41 = y2[i5]
        # %41: f64[2, 6] = add(%40, %38)
        t42 = (t40 + t41)
        t43 = x2[i5]
        # %42: f64[2, 6] = multiply(n2, %41)
        t44 = (k6 * t42)
        # %43: f64[2, 6] = subtract(captured0, %42)
        t45 = (t43 - t44)
        x6[i5] = t42
        x2[i5] = t45
    for i6 in range(6):
        t46 = x8[i6]
        # %48: f64[6, 1] = multiply(0.9, captured6)
        t47 = (f64(0.9) * t46)
        t48 = y6[i6]
        # %49: f64[6, 1] = add(%48, %16)
        t49 = (t47 + t48)
        t50 = x4[i6]
        # %50: f64[6, 1] = multiply(n2, %49)
        t51 = (k6 * t49)
        # %51: f64[6, 1] = subtract(captured2, %50)
        t52 = (t50 - t51)
        x8[i6] = t49
        x4[i6] = t52
    for i7 in range(6):
        t53 = x7[i7]
        # %44: f64[6] = multiply(0.9, captured5)
        t54 = (f64(0.9) * t53)
        t55 = y4[i7]
        # %45: f64[6] = add(%44, %39)
        t56 = (t54 + t55)
        t57 = x3[i7]
        # %46: f64[6] = multiply(n2, %45)
        t58 = (k6 * t56)
        # %47: f64[6] = subtract(captured1, %46)
        t59 = (t57 - t58)
        x7[i7] = t56
        x3[i7] = t59
    t60 = x9[0]
    # %52: f64[1] = multiply(0.9, captured7)
    t61 = (f64(0.9) * t60)
    t62 = y8[0]
    # %53: f64[1] = add(%52, %17)
    t63 = (t61 + t62)
    t64 = x5[0]
    # %54: f64[1] = multiply(n2, %53)
    t65 = (k6 * t63)
    # %55: f64[1] = subtract(captured3, %54)
    t66 = (t64 - t65)
    x9[0] = t63
    x5[0] = t66
    if threads != 1:
        blas_threads(threads)
    return 0
