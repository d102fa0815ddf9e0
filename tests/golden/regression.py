from nnx.kernels.runtime import (
    abs,
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
    w5 = f64_slot(table, 33)
    B = table[1]
    k1 = B
    k2 = f64(B)
    n2 = f64_at(table[0])[4]
    k4 = f64(n2)
    # %0: f64[B, 6] = matmul(x0, captured0)
    f64_gemm(0, 0, k1, 6, 2, x0, 2, x2, 6, w0, 6)
    for i0 in range(k1):
        for i1 in range(6):
            t0 = w0[i0 * 6 + i1]
            t1 = x3[i1]
            # %1: f64[B, 6] = add(%0, captured1)
            t2 = (t0 + t1)
            # %2: f64[B, 6] = tanh(%1)
            t3 = tanh(t2)
            w1[i0 * 6 + i1] = t2
            w2[i0 * 6 + i1] = t3
    # %3: f64[B, 1] = matmul(%2, captured2)
    f64_gemm(0, 0, k1, 1, 6, w2, 6, x4, 1, w0, 1)
    a11 = f64(0.0)
    t5 = x5[0]
    for i2 in range(k1):
        t4 = w0[i2]
        # %4: f64[B, 1] = add(%3, captured3)
        t6 = (t4 + t5)
        t7 = x1[i2]
        # %5: f64[B, 1] = subtract(%4, x1)
        t8 = (t6 - t7)
        # %11: f64[B, 1] = multiply(2.0, %5)
        t9 = (f64(2.0) * t8)
        # %6: f64[B, 1] = multiply(%5, %5)
        t10 = (t8 * t8)
        # %7: f64[] = sum(%6)
        a11 = sum_add(a11, t10)
        w4[i2] = t9
    w3[0] = a11
    # %10: f64[] = divide(%9, B)
    t12 = divide(f64(1.0), k2)
    w5[0] = t12
    for c in range(1):
        y8[c] = f64(0.0)
    t13 = w5[0]
    for i3 in range(k1):
        t14 = w4[i3]
        # %12: f64[B, 1] = multiply(%10, %11)
        t15 = (t13 * t14)
        # %17: f64[1] = sum(%12, axis=0)
        y8[0] = sum_add(y8[0], t15)
        w0[i3] = t15
    # %14: f64[B, 6] = matmul(%12, %13)
    f64_gemm(0, 1, k1, 6, 1, w0, 1, x4, 1, w4, 6)
    # %16: f64[6, 1] = matmul(%15, %12)
    f64_gemm(1, 0, 6, 1, k1, w2, 6, w0, 1, y6, 1)
    t17 = w3[0]
    # %8: f64[] = divide(%7, B)
    t18 = divide(t17, k2)
    y0[0] = t18
    for c in range(6):
        y4[c] = f64(0.0)
    for i4 in range(k1):
        for i5 in range(6):
            t19 = w4[i4 * 6 + i5]
            # %18: f64[B, 6] = multiply(4.0, %14)
            t20 = (f64(4.0) * t19)
            t21 = w1[i4 * 6 + i5]
            # %19: f64[B, 6] = multiply(2.0, %1)
            t22 = (f64(2.0) * t21)
            # %23: bool[B, 6] = greater_equal(%19, 0)
            t23 = (t22 >= f64(0.0))
            # %20: f64[B, 6] = abs(%19)
            t24 = abs(t22)
            # %21: f64[B, 6] = negative(%20)
            t25 = (-t24)
            # %22: f64[B, 6] = exp(%21)
            t26 = exp(t25)
            # %24: f64[B, 6] = where(%23, 1.0, %22)
            t27 = select(t23, f64(1.0), t26)
            # %25: f64[B, 6] = add(1.0, %22)
            t28 = (f64(1.0) + t26)
            # %26: f64[B, 6] = divide(%24, %25)
            t29 = divide(t27, t28)
            # %27: f64[B, 6] = multiply(-2.0, %1)
            t30 = (f64(-2.0) * t21)
            # %31: bool[B, 6] = greater_equal(%27, 0)
            t31 = (t30 >= f64(0.0))
            # %28: f64[B, 6] = abs(%27)
            t32 = abs(t30)
            # %29: f64[B, 6] = negative(%28)
            t33 = (-t32)
            # %30: f64[B, 6] = exp(%29)
            t34 = exp(t33)
            # %32: f64[B, 6] = where(%31, 1.0, %30)
            t35 = select(t31, f64(1.0), t34)
            # %33: f64[B, 6] = add(1.0, %30)
            t36 = (f64(1.0) + t34)
            # %34: f64[B, 6] = divide(%32, %33)
            t37 = divide(t35, t36)
            # %35: f64[B, 6] = multiply(%26, %34)
            t38 = (t29 * t37)
            # %36: f64[B, 6] = multiply(%18, %35)
            t39 = (t20 * t38)
            # %39: f64[6] = sum(%36, axis=0)
            y4[i5] = sum_add(y4[i5], t39)
            w2[i4 * 6 + i5] = t39
    # %38: f64[2, 6] = matmul(%37, %36)
    f64_gemm(1, 0, 2, 6, k1, x0, 2, w2, 6, y2, 6)
    for i6 in range(12):
        t41 = x6[i6]
        # %40: f64[2, 6] = multiply(0.9, captured4)
        t42 = (f64(0.9) * t41)
        t43 = y2[i6]
        # %41: f64[2, 6] = add(%40, %38)
        t44 = (t42 + t43)
        t45 = x2[i6]
        # %42: f64[2, 6] = multiply(n2, %41)
        t46 = (k4 * t44)
        # %43: f64[2, 6] = subtract(captured0, %42)
        t47 = (t45 - t46)
        x6[i6] = t44
        x2[i6] = t47
    for i7 in range(6):
        t48 = x8[i7]
        # %48: f64[6, 1] = multiply(0.9, captured6)
        t49 = (f64(0.9) * t48)
        t50 = y6[i7]
        # %49: f64[6, 1] = add(%48, %16)
        t51 = (t49 + t50)
        t52 = x4[i7]
        # %50: f64[6, 1] = multiply(n2, %49)
        t53 = (k4 * t51)
        # %51: f64[6, 1] = subtract(captured2, %50)
        t54 = (t52 - t53)
        x8[i7] = t51
        x4[i7] = t54
        t55 = x7[i7]
        # %44: f64[6] = multiply(0.9, captured5)
        t56 = (f64(0.9) * t55)
        t57 = y4[i7]
        # %45: f64[6] = add(%44, %39)
        t58 = (t56 + t57)
        t59 = x3[i7]
        # %46: f64[6] = multiply(n2, %45)
        t60 = (k4 * t58)
        # %47: f64[6] = subtract(captured1, %46)
        t61 = (t59 - t60)
        x7[i7] = t58
        x3[i7] = t61
    t62 = x9[0]
    # %52: f64[1] = multiply(0.9, captured7)
    t63 = (f64(0.9) * t62)
    t64 = y8[0]
    # %53: f64[1] = add(%52, %17)
    t65 = (t63 + t64)
    t66 = x5[0]
    # %54: f64[1] = multiply(n2, %53)
    t67 = (k4 * t65)
    # %55: f64[1] = subtract(captured3, %54)
    t68 = (t66 - t67)
    x9[0] = t65
    x5[0] = t68
    return 0
