static __device__ __forceinline__ void part2(long long block, long long blocks, const long long *__restrict__ call, long long *status, const long long *__restrict__ x1, const float *__restrict__ w0, double *w1, double *w2, double *w3, bool *w4) {
    const auto k4 = call[5];
    auto fours = nnx::cast<nnx::i64>(0LL);
    if ((nnx::in_fours(w0) && nnx::in_fours(w1) && nnx::in_fours(w2) && nnx::in_fours(w3))) {
        fours = (k4 / 4LL);
    }
    for (long long f = block * 256 + threadIdx.x; f < fours; f += blocks * 256) {
        auto in_w0 = nnx::four(w0, (4LL * f));
        auto out_w1 = nnx::any_four(w1);
        auto out_w2 = nnx::any_four(w2);
        auto out_w3 = nnx::any_four(w3);
        _Pragma("unroll") for (int j = 0; j < 4; j++) {
            auto t9 = in_w0.at[j];
            // %1: f64[B, 8] = astype(%0, dtype=float64)
            auto t10 = nnx::cast<nnx::f64>(t9);
            // %3: f64[B, 8] = negative(%1)
            auto t11 = (-t10);
            // %4: f64[B, 8] = divide(%3, 1.4142135623730951)
            auto t12 = nnx::divide(t11, nnx::cast<nnx::f64>(1.4142135623730951));
            // %5: f64[B, 8] = abs(%4)
            auto t13 = nnx::abs(t12);
            // %114: bool[B, 8] = less_equal(%5, 0.5)
            auto t14 = (t13 <= nnx::cast<nnx::f64>(0.5));
            // %83: f64[B, 8] = maximum(%4, -1.0)
            auto t15 = nnx::maximum(t12, nnx::cast<nnx::f64>((-1.0)));
            // %84: f64[B, 8] = minimum(%83, 1.0)
            auto t16 = nnx::minimum(t15, nnx::cast<nnx::f64>(1.0));
            // %85: f64[B, 8] = multiply(%84, %84)
            auto t17 = (t16 * t16);
            // %86: f64[B, 8] = multiply(%85, -4.230945824295338e-12)
            auto t18 = (t17 * nnx::cast<nnx::f64>((-4.230945824295338e-12)));
            // %87: f64[B, 8] = add(%86, 8.709045129053106e-11)
            auto t19 = (t18 + nnx::cast<nnx::f64>(8.709045129053106e-11));
            // %88: f64[B, 8] = multiply(%87, %85)
            auto t20 = (t19 * t17);
            // %89: f64[B, 8] = add(%88, -1.216456005728345e-09)
            auto t21 = (t20 + nnx::cast<nnx::f64>((-1.216456005728345e-09)));
            // %90: f64[B, 8] = multiply(%89, %85)
            auto t22 = (t21 * t17);
            // %91: f64[B, 8] = add(%90, 1.4792401209404813e-08)
            auto t23 = (t22 + nnx::cast<nnx::f64>(1.4792401209404813e-08));
            // %92: f64[B, 8] = multiply(%91, %85)
            auto t24 = (t23 * t17);
            // %93: f64[B, 8] = add(%92, -1.6364642158167616e-07)
            auto t25 = (t24 + nnx::cast<nnx::f64>((-1.6364642158167616e-07)));
            // %94: f64[B, 8] = multiply(%93, %85)
            auto t26 = (t25 * t17);
            // %95: f64[B, 8] = add(%94, 1.6462045441468418e-06)
            auto t27 = (t26 + nnx::cast<nnx::f64>(1.6462045441468418e-06));
            // %96: f64[B, 8] = multiply(%95, %85)
            auto t28 = (t27 * t17);
            // %97: f64[B, 8] = add(%96, -1.4925647567519332e-05)
            auto t29 = (t28 + nnx::cast<nnx::f64>((-1.4925647567519332e-05)));
            // %98: f64[B, 8] = multiply(%97, %85)
            auto t30 = (t29 * t17);
            // %99: f64[B, 8] = add(%98, 0.00012055332902888736)
            auto t31 = (t30 + nnx::cast<nnx::f64>(0.00012055332902888736));
            // %100: f64[B, 8] = multiply(%99, %85)
            auto t32 = (t31 * t17);
            // %101: f64[B, 8] = add(%100, -0.000854832702193483)
            auto t33 = (t32 + nnx::cast<nnx::f64>((-0.000854832702193483)));
            // %102: f64[B, 8] = multiply(%101, %85)
            auto t34 = (t33 * t17);
            // %103: f64[B, 8] = add(%102, 0.0052239776254232985)
            auto t35 = (t34 + nnx::cast<nnx::f64>(0.0052239776254232985));
            // %104: f64[B, 8] = multiply(%103, %85)
            auto t36 = (t35 * t17);
            // %105: f64[B, 8] = add(%104, -0.02686617064512984)
            auto t37 = (t36 + nnx::cast<nnx::f64>((-0.02686617064512984)));
            // %106: f64[B, 8] = multiply(%105, %85)
            auto t38 = (t37 * t17);
            // %107: f64[B, 8] = add(%106, 0.1128379167095512)
            auto t39 = (t38 + nnx::cast<nnx::f64>(0.1128379167095512));
            // %108: f64[B, 8] = multiply(%107, %85)
            auto t40 = (t39 * t17);
            // %109: f64[B, 8] = add(%108, -0.37612638903183754)
            auto t41 = (t40 + nnx::cast<nnx::f64>((-0.37612638903183754)));
            // %110: f64[B, 8] = multiply(%109, %85)
            auto t42 = (t41 * t17);
            // %111: f64[B, 8] = add(%110, 1.1283791670955126)
            auto t43 = (t42 + nnx::cast<nnx::f64>(1.1283791670955126));
            // %112: f64[B, 8] = multiply(%84, %111)
            auto t44 = (t16 * t43);
            // %113: f64[B, 8] = subtract(1.0, %112)
            auto t45 = (nnx::cast<nnx::f64>(1.0) - t44);
            // %80: bool[B, 8] = less(%4, 0)
            auto t46 = (t12 < nnx::cast<nnx::f64>(0.0));
            // %6: f64[B, 8] = maximum(%5, 0.5)
            auto t47 = nnx::maximum(t13, nnx::cast<nnx::f64>(0.5));
            // %7: f64[B, 8] = minimum(%6, 30.0)
            auto t48 = nnx::minimum(t47, nnx::cast<nnx::f64>(30.0));
            // %8: f64[B, 8] = multiply(%7, 16.0)
            auto t49 = (t48 * nnx::cast<nnx::f64>(16.0));
            // %9: f64[B, 8] = floor(%8)
            auto t50 = nnx::floor(t49);
            // %10: f64[B, 8] = divide(%9, 16.0)
            auto t51 = nnx::divide(t50, nnx::cast<nnx::f64>(16.0));
            // %11: f64[B, 8] = negative(%10)
            auto t52 = (-t51);
            // %12: f64[B, 8] = multiply(%11, %10)
            auto t53 = (t52 * t51);
            // %13: f64[B, 8] = exp(%12)
            auto t54 = nnx::exp(t53);
            // %14: f64[B, 8] = subtract(%10, %7)
            auto t55 = (t51 - t48);
            // %15: f64[B, 8] = add(%10, %7)
            auto t56 = (t51 + t48);
            // %16: f64[B, 8] = multiply(%14, %15)
            auto t57 = (t55 * t56);
            // %17: f64[B, 8] = exp(%16)
            auto t58 = nnx::exp(t57);
            // %18: f64[B, 8] = multiply(%13, %17)
            auto t59 = (t54 * t58);
            // %19: f64[B, 8] = subtract(%7, 3.75)
            auto t60 = (t48 - nnx::cast<nnx::f64>(3.75));
            // %20: f64[B, 8] = add(%7, 3.75)
            auto t61 = (t48 + nnx::cast<nnx::f64>(3.75));
            // %21: f64[B, 8] = divide(%19, %20)
            auto t62 = nnx::divide(t60, t61);
            // %22: f64[B, 8] = multiply(%21, 1.573356801108122e-12)
            auto t63 = (t62 * nnx::cast<nnx::f64>(1.573356801108122e-12));
            // %23: f64[B, 8] = add(%22, -7.325109195169462e-11)
            auto t64 = (t63 + nnx::cast<nnx::f64>((-7.325109195169462e-11)));
            // %24: f64[B, 8] = multiply(%23, %21)
            auto t65 = (t64 * t62);
            // %25: f64[B, 8] = add(%24, -4.814480501731076e-11)
            auto t66 = (t65 + nnx::cast<nnx::f64>((-4.814480501731076e-11)));
            // %26: f64[B, 8] = multiply(%25, %21)
            auto t67 = (t66 * t62);
            // %27: f64[B, 8] = add(%26, 9.012777578546546e-10)
            auto t68 = (t67 + nnx::cast<nnx::f64>(9.012777578546546e-10));
            // %28: f64[B, 8] = multiply(%27, %21)
            auto t69 = (t68 * t62);
            // %29: f64[B, 8] = add(%28, 5.77532716341681e-10)
            auto t70 = (t69 + nnx::cast<nnx::f64>(5.77532716341681e-10));
            // %30: f64[B, 8] = multiply(%29, %21)
            auto t71 = (t70 * t62);
            // %31: f64[B, 8] = add(%30, -6.542861076136757e-09)
            auto t72 = (t71 + nnx::cast<nnx::f64>((-6.542861076136757e-09)));
            // %32: f64[B, 8] = multiply(%31, %21)
            auto t73 = (t72 * t62);
            // %33: f64[B, 8] = add(%32, -4.44514123205713e-09)
            auto t74 = (t73 + nnx::cast<nnx::f64>((-4.44514123205713e-09)));
            // %34: f64[B, 8] = multiply(%33, %21)
            auto t75 = (t74 * t62);
            // %35: f64[B, 8] = add(%34, 4.0966696513670466e-08)
            auto t76 = (t75 + nnx::cast<nnx::f64>(4.0966696513670466e-08));
            // %36: f64[B, 8] = multiply(%35, %21)
            auto t77 = (t76 * t62);
            // %37: f64[B, 8] = add(%36, 2.435345815508129e-08)
            auto t78 = (t77 + nnx::cast<nnx::f64>(2.435345815508129e-08));
            // %38: f64[B, 8] = multiply(%37, %21)
            auto t79 = (t78 * t62);
            // %39: f64[B, 8] = add(%38, -2.611421267797012e-07)
            auto t80 = (t79 + nnx::cast<nnx::f64>((-2.611421267797012e-07)));
            // %40: f64[B, 8] = multiply(%39, %21)
            auto t81 = (t80 * t62);
            // %41: f64[B, 8] = add(%40, -5.831227241796688e-08)
            auto t82 = (t81 + nnx::cast<nnx::f64>((-5.831227241796688e-08)));
            // %42: f64[B, 8] = multiply(%41, %21)
            auto t83 = (t82 * t62);
            // %43: f64[B, 8] = add(%42, 1.7534398492983322e-06)
            auto t84 = (t83 + nnx::cast<nnx::f64>(1.7534398492983322e-06));
            // %44: f64[B, 8] = multiply(%43, %21)
            auto t85 = (t84 * t62);
            // %45: f64[B, 8] = add(%44, -9.728229167464297e-07)
            auto t86 = (t85 + nnx::cast<nnx::f64>((-9.728229167464297e-07)));
            // %46: f64[B, 8] = multiply(%45, %21)
            auto t87 = (t86 * t62);
            // %47: f64[B, 8] = add(%46, -1.1445047333414064e-05)
            auto t88 = (t87 + nnx::cast<nnx::f64>((-1.1445047333414064e-05)));
            // %48: f64[B, 8] = multiply(%47, %21)
            auto t89 = (t88 * t62);
            // %49: f64[B, 8] = add(%48, 2.2383902048770412e-05)
            auto t90 = (t89 + nnx::cast<nnx::f64>(2.2383902048770412e-05));
            // %50: f64[B, 8] = multiply(%49, %21)
            auto t91 = (t90 * t62);
            // %51: f64[B, 8] = add(%50, 5.1649407160546035e-05)
            auto t92 = (t91 + nnx::cast<nnx::f64>(5.1649407160546035e-05));
            // %52: f64[B, 8] = multiply(%51, %21)
            auto t93 = (t92 * t62);
            // %53: f64[B, 8] = add(%52, -0.0002901539767306064)
            auto t94 = (t93 + nnx::cast<nnx::f64>((-0.0002901539767306064)));
            // %54: f64[B, 8] = multiply(%53, %21)
            auto t95 = (t94 * t62);
            // %55: f64[B, 8] = add(%54, 0.00029371359494706955)
            auto t96 = (t95 + nnx::cast<nnx::f64>(0.00029371359494706955));
            // %56: f64[B, 8] = multiply(%55, %21)
            auto t97 = (t96 * t62);
            // %57: f64[B, 8] = add(%56, 0.0017556258319879623)
            auto t98 = (t97 + nnx::cast<nnx::f64>(0.0017556258319879623));
            // %58: f64[B, 8] = multiply(%57, %21)
            auto t99 = (t98 * t62);
            // %59: f64[B, 8] = add(%58, -0.009746579547640485)
            auto t100 = (t99 + nnx::cast<nnx::f64>((-0.009746579547640485)));
            // %60: f64[B, 8] = multiply(%59, %21)
            auto t101 = (t100 * t62);
            // %61: f64[B, 8] = add(%60, 0.02836227742156145)
            auto t102 = (t101 + nnx::cast<nnx::f64>(0.02836227742156145));
            // %62: f64[B, 8] = multiply(%61, %21)
            auto t103 = (t102 * t62);
            // %63: f64[B, 8] = add(%62, -0.05869339859054579)
            auto t104 = (t103 + nnx::cast<nnx::f64>((-0.05869339859054579)));
            // %64: f64[B, 8] = multiply(%63, %21)
            auto t105 = (t104 * t62);
            // %65: f64[B, 8] = add(%64, 0.0923043211601956)
            auto t106 = (t105 + nnx::cast<nnx::f64>(0.0923043211601956));
            // %66: f64[B, 8] = multiply(%65, %21)
            auto t107 = (t106 * t62);
            // %67: f64[B, 8] = add(%66, -0.10880393014170754)
            auto t108 = (t107 + nnx::cast<nnx::f64>((-0.10880393014170754)));
            // %68: f64[B, 8] = multiply(%67, %21)
            auto t109 = (t108 * t62);
            // %69: f64[B, 8] = add(%68, 0.0822767384901511)
            auto t110 = (t109 + nnx::cast<nnx::f64>(0.0822767384901511));
            // %70: f64[B, 8] = multiply(%69, %21)
            auto t111 = (t110 * t62);
            // %71: f64[B, 8] = add(%70, 0.0035854154854636916)
            auto t112 = (t111 + nnx::cast<nnx::f64>(0.0035854154854636916));
            // %72: f64[B, 8] = multiply(%71, %21)
            auto t113 = (t112 * t62);
            // %73: f64[B, 8] = add(%72, -0.14024059858554702)
            auto t114 = (t113 + nnx::cast<nnx::f64>((-0.14024059858554702)));
            // %74: f64[B, 8] = multiply(%73, %21)
            auto t115 = (t114 * t62);
            // %75: f64[B, 8] = add(%74, 1.2375126308378275)
            auto t116 = (t115 + nnx::cast<nnx::f64>(1.2375126308378275));
            // %76: f64[B, 8] = multiply(%18, %75)
            auto t117 = (t59 * t116);
            // %77: f64[B, 8] = multiply(2.0, %7)
            auto t118 = (nnx::cast<nnx::f64>(2.0) * t48);
            // %78: f64[B, 8] = add(1.0, %77)
            auto t119 = (nnx::cast<nnx::f64>(1.0) + t118);
            // %79: f64[B, 8] = divide(%76, %78)
            auto t120 = nnx::divide(t117, t119);
            // %81: f64[B, 8] = subtract(2.0, %79)
            auto t121 = (nnx::cast<nnx::f64>(2.0) - t120);
            // %82: f64[B, 8] = where(%80, %81, %79)
            auto t122 = nnx::select(t46, t121, t120);
            // %115: f64[B, 8] = where(%114, %113, %82)
            auto t123 = nnx::select(t14, t45, t122);
            // %2: f64[B, 8] = multiply(0.5, %1)
            auto t124 = (nnx::cast<nnx::f64>(0.5) * t10);
            // %116: f64[B, 8] = multiply(%2, %115)
            auto t125 = (t124 * t123);
            // %117: f32[B, 8] = astype(%116, dtype=float32)
            auto t126 = nnx::cast<nnx::f32>(t125);
            // %118: f64[B, 8] = astype(%117, dtype=float64)
            auto t127 = nnx::cast<nnx::f64>(t126);
            out_w1.at[j] = t10;
            out_w2.at[j] = t123;
            out_w3.at[j] = t127;
        }
        nnx::put_four(w1, (4LL * f), out_w1);
        nnx::put_four(w2, (4LL * f), out_w2);
        nnx::put_four(w3, (4LL * f), out_w3);
    }
    for (long long i2 = (4LL * fours) + block * 256 + threadIdx.x; i2 < k4; i2 += blocks * 256) {
        auto t9 = w0[i2];
        // %1: f64[B, 8] = astype(%0, dtype=float64)
        auto t10 = nnx::cast<nnx::f64>(t9);
        // %3: f64[B, 8] = negative(%1)
        auto t11 = (-t10);
        // %4: f64[B, 8] = divide(%3, 1.4142135623730951)
        auto t12 = nnx::divide(t11, nnx::cast<nnx::f64>(1.4142135623730951));
        // %5: f64[B, 8] = abs(%4)
        auto t13 = nnx::abs(t12);
        // %114: bool[B, 8] = less_equal(%5, 0.5)
        auto t14 = (t13 <= nnx::cast<nnx::f64>(0.5));
        // %83: f64[B, 8] = maximum(%4, -1.0)
        auto t15 = nnx::maximum(t12, nnx::cast<nnx::f64>((-1.0)));
        // %84: f64[B, 8] = minimum(%83, 1.0)
        auto t16 = nnx::minimum(t15, nnx::cast<nnx::f64>(1.0));
        // %85: f64[B, 8] = multiply(%84, %84)
        auto t17 = (t16 * t16);
        // %86: f64[B, 8] = multiply(%85, -4.230945824295338e-12)
        auto t18 = (t17 * nnx::cast<nnx::f64>((-4.230945824295338e-12)));
        // %87: f64[B, 8] = add(%86, 8.709045129053106e-11)
        auto t19 = (t18 + nnx::cast<nnx::f64>(8.709045129053106e-11));
        // %88: f64[B, 8] = multiply(%87, %85)
        auto t20 = (t19 * t17);
        // %89: f64[B, 8] = add(%88, -1.216456005728345e-09)
        auto t21 = (t20 + nnx::cast<nnx::f64>((-1.216456005728345e-09)));
        // %90: f64[B, 8] = multiply(%89, %85)
        auto t22 = (t21 * t17);
        // %91: f64[B, 8] = add(%90, 1.4792401209404813e-08)
        auto t23 = (t22 + nnx::cast<nnx::f64>(1.4792401209404813e-08));
        // %92: f64[B, 8] = multiply(%91, %85)
        auto t24 = (t23 * t17);
        // %93: f64[B, 8] = add(%92, -1.6364642158167616e-07)
        auto t25 = (t24 + nnx::cast<nnx::f64>((-1.6364642158167616e-07)));
        // %94: f64[B, 8] = multiply(%93, %85)
        auto t26 = (t25 * t17);
        // %95: f64[B, 8] = add(%94, 1.6462045441468418e-06)
        auto t27 = (t26 + nnx::cast<nnx::f64>(1.6462045441468418e-06));
        // %96: f64[B, 8] = multiply(%95, %85)
        auto t28 = (t27 * t17);
        // %97: f64[B, 8] = add(%96, -1.4925647567519332e-05)
        auto t29 = (t28 + nnx::cast<nnx::f64>((-1.4925647567519332e-05)));
        // %98: f64[B, 8] = multiply(%97, %85)
        auto t30 = (t29 * t17);
        // %99: f64[B, 8] = add(%98, 0.00012055332902888736)
        auto t31 = (t30 + nnx::cast<nnx::f64>(0.00012055332902888736));
        // %100: f64[B, 8] = multiply(%99, %85)
        auto t32 = (t31 * t17);
        // %101: f64[B, 8] = add(%100, -0.000854832702193483)
        auto t33 = (t32 + nnx::cast<nnx::f64>((-0.000854832702193483)));
        // %102: f64[B, 8] = multiply(%101, %85)
        auto t34 = (t33 * t17);
        // %103: f64[B, 8] = add(%102, 0.0052239776254232985)
        auto t35 = (t34 + nnx::cast<nnx::f64>(0.0052239776254232985));
        // %104: f64[B, 8] = multiply(%103, %85)
        auto t36 = (t35 * t17);
        // %105: f64[B, 8] = add(%104, -0.02686617064512984)
        auto t37 = (t36 + nnx::cast<nnx::f64>((-0.02686617064512984)));
        // %106: f64[B, 8] = multiply(%105, %85)
        auto t38 = (t37 * t17);
        // %107: f64[B, 8] = add(%106, 0.1128379167095512)
        auto t39 = (t38 + nnx::cast<nnx::f64>(0.1128379167095512));
        // %108: f64[B, 8] = multiply(%107, %85)
        auto t40 = (t39 * t17);
        // %109: f64[B, 8] = add(%108, -0.37612638903183754)
        auto t41 = (t40 + nnx::cast<nnx::f64>((-0.37612638903183754)));
        // %110: f64[B, 8] = multiply(%109, %85)
        auto t42 = (t41 * t17);
        // %111: f64[B, 8] = add(%110, 1.1283791670955126)
        auto t43 = (t42 + nnx::cast<nnx::f64>(1.1283791670955126));
        // %112: f64[B, 8] = multiply(%84, %111)
        auto t44 = (t16 * t43);
        // %113: f64[B, 8] = subtract(1.0, %112)
        auto t45 = (nnx::cast<nnx::f64>(1.0) - t44);
        // %80: bool[B, 8] = less(%4, 0)
        auto t46 = (t12 < nnx::cast<nnx::f64>(0.0));
        // %6: f64[B, 8] = maximum(%5, 0.5)
        auto t47 = nnx::maximum(t13, nnx::cast<nnx::f64>(0.5));
        // %7: f64[B, 8] = minimum(%6, 30.0)
        auto t48 = nnx::minimum(t47, nnx::cast<nnx::f64>(30.0));
        // %8: f64[B, 8] = multiply(%7, 16.0)
        auto t49 = (t48 * nnx::cast<nnx::f64>(16.0));
        // %9: f64[B, 8] = floor(%8)
        auto t50 = nnx::floor(t49);
        // %10: f64[B, 8] = divide(%9, 16.0)
        auto t51 = nnx::divide(t50, nnx::cast<nnx::f64>(16.0));
        // %11: f64[B, 8] = negative(%10)
        auto t52 = (-t51);
        // %12: f64[B, 8] = multiply(%11, %10)
        auto t53 = (t52 * t51);
        // %13: f64[B, 8] = exp(%12)
        auto t54 = nnx::exp(t53);
        // %14: f64[B, 8] = subtract(%10, %7)
        auto t55 = (t51 - t48);
        // %15: f64[B, 8] = add(%10, %7)
        auto t56 = (t51 + t48);
        // %16: f64[B, 8] = multiply(%14, %15)
        auto t57 = (t55 * t56);
        // %17: f64[B, 8] = exp(%16)
        auto t58 = nnx::exp(t57);
        // %18: f64[B, 8] = multiply(%13, %17)
        auto t59 = (t54 * t58);
        // %19: f64[B, 8] = subtract(%7, 3.75)
        auto t60 = (t48 - nnx::cast<nnx::f64>(3.75));
        // %20: f64[B, 8] = add(%7, 3.75)
        auto t61 = (t48 + nnx::cast<nnx::f64>(3.75));
        // %21: f64[B, 8] = divide(%19, %20)
        auto t62 = nnx::divide(t60, t61);
        // %22: f64[B, 8] = multiply(%21, 1.573356801108122e-12)
        auto t63 = (t62 * nnx::cast<nnx::f64>(1.573356801108122e-12));
        // %23: f64[B, 8] = add(%22, -7.325109195169462e-11)
        auto t64 = (t63 + nnx::cast<nnx::f64>((-7.325109195169462e-11)));
        // %24: f64[B, 8] = multiply(%23, %21)
        auto t65 = (t64 * t62);
        // %25: f64[B, 8] = add(%24, -4.814480501731076e-11)
        auto t66 = (t65 + nnx::cast<nnx::f64>((-4.814480501731076e-11)));
        // %26: f64[B, 8] = multiply(%25, %21)
        auto t67 = (t66 * t62);
        // %27: f64[B, 8] = add(%26, 9.012777578546546e-10)
        auto t68 = (t67 + nnx::cast<nnx::f64>(9.012777578546546e-10));
        // %28: f64[B, 8] = multiply(%27, %21)
        auto t69 = (t68 * t62);
        // %29: f64[B, 8] = add(%28, 5.77532716341681e-10)
        auto t70 = (t69 + nnx::cast<nnx::f64>(5.77532716341681e-10));
        // %30: f64[B, 8] = multiply(%29, %21)
        auto t71 = (t70 * t62);
        // %31: f64[B, 8] = add(%30, -6.542861076136757e-09)
        auto t72 = (t71 + nnx::cast<nnx::f64>((-6.542861076136757e-09)));
        // %32: f64[B, 8] = multiply(%31, %21)
        auto t73 = (t72 * t62);
        // %33: f64[B, 8] = add(%32, -4.44514123205713e-09)
        auto t74 = (t73 + nnx::cast<nnx::f64>((-4.44514123205713e-09)));
        // %34: f64[B, 8] = multiply(%33, %21)
        auto t75 = (t74 * t62);
        // %35: f64[B, 8] = add(%34, 4.0966696513670466e-08)
        auto t76 = (t75 + nnx::cast<nnx::f64>(4.0966696513670466e-08));
        // %36: f64[B, 8] = multiply(%35, %21)
        auto t77 = (t76 * t62);
        // %37: f64[B, 8] = add(%36, 2.435345815508129e-08)
        auto t78 = (t77 + nnx::cast<nnx::f64>(2.435345815508129e-08));
        // %38: f64[B, 8] = multiply(%37, %21)
        auto t79 = (t78 * t62);
        // %39: f64[B, 8] = add(%38, -2.611421267797012e-07)
        auto t80 = (t79 + nnx::cast<nnx::f64>((-2.611421267797012e-07)));
        // %40: f64[B, 8] = multiply(%39, %21)
        auto t81 = (t80 * t62);
        // %41: f64[B, 8] = add(%40, -5.831227241796688e-08)
        auto t82 = (t81 + nnx::cast<nnx::f64>((-5.831227241796688e-08)));
        // %42: f64[B, 8] = multiply(%41, %21)
        auto t83 = (t82 * t62);
        // %43: f64[B, 8] = add(%42, 1.7534398492983322e-06)
        auto t84 = (t83 + nnx::cast<nnx::f64>(1.7534398492983322e-06));
        // %44: f64[B, 8] = multiply(%43, %21)
        auto t85 = (t84 * t62);
        // %45: f64[B, 8] = add(%44, -9.728229167464297e-07)
        auto t86 = (t85 + nnx::cast<nnx::f64>((-9.728229167464297e-07)));
        // %46: f64[B, 8] = multiply(%45, %21)
        auto t87 = (t86 * t62);
        // %47: f64[B, 8] = add(%46, -1.1445047333414064e-05)
        auto t88 = (t87 + nnx::cast<nnx::f64>((-1.1445047333414064e-05)));
        // %48: f64[B, 8] = multiply(%47, %21)
        auto t89 = (t88 * t62);
        // %49: f64[B, 8] = add(%48, 2.2383902048770412e-05)
        auto t90 = (t89 + nnx::cast<nnx::f64>(2.2383902048770412e-05));
        // %50: f64[B, 8] = multiply(%49, %21)
        auto t91 = (t90 * t62);
        // %51: f64[B, 8] = add(%50, 5.1649407160546035e-05)
        auto t92 = (t91 + nnx::cast<nnx::f64>(5.1649407160546035e-05));
        // %52: f64[B, 8] = multiply(%51, %21)
        auto t93 = (t92 * t62);
        // %53: f64[B, 8] = add(%52, -0.0002901539767306064)
        auto t94 = (t93 + nnx::cast<nnx::f64>((-0.0002901539767306064)));
        // %54: f64[B, 8] = multiply(%53, %21)
        auto t95 = (t94 * t62);
        // %55: f64[B, 8] = add(%54, 0.00029371359494706955)
        auto t96 = (t95 + nnx::cast<nnx::f64>(0.00029371359494706955));
        // %56: f64[B, 8] = multiply(%55, %21)
        auto t97 = (t96 * t62);
        // %57: f64[B, 8] = add(%56, 0.0017556258319879623)
        auto t98 = (t97 + nnx::cast<nnx::f64>(0.0017556258319879623));
        // %58: f64[B, 8] = multiply(%57, %21)
        auto t99 = (t98 * t62);
        // %59: f64[B, 8] = add(%58, -0.009746579547640485)
        auto t100 = (t99 + nnx::cast<nnx::f64>((-0.009746579547640485)));
        // %60: f64[B, 8] = multiply(%59, %21)
        auto t101 = (t100 * t62);
        // %61: f64[B, 8] = add(%60, 0.02836227742156145)
        auto t102 = (t101 + nnx::cast<nnx::f64>(0.02836227742156145));
        // %62: f64[B, 8] = multiply(%61, %21)
        auto t103 = (t102 * t62);
        // %63: f64[B, 8] = add(%62, -0.05869339859054579)
        auto t104 = (t103 + nnx::cast<nnx::f64>((-0.05869339859054579)));
        // %64: f64[B, 8] = multiply(%63, %21)
        auto t105 = (t104 * t62);
        // %65: f64[B, 8] = add(%64, 0.0923043211601956)
        auto t106 = (t105 + nnx::cast<nnx::f64>(0.0923043211601956));
        // %66: f64[B, 8] = multiply(%65, %21)
        auto t107 = (t106 * t62);
        // %67: f64[B, 8] = add(%66, -0.10880393014170754)
        auto t108 = (t107 + nnx::cast<nnx::f64>((-0.10880393014170754)));
        // %68: f64[B, 8] = multiply(%67, %21)
        auto t109 = (t108 * t62);
        // %69: f64[B, 8] = add(%68, 0.0822767384901511)
        auto t110 = (t109 + nnx::cast<nnx::f64>(0.0822767384901511));
        // %70: f64[B, 8] = multiply(%69, %21)
        auto t111 = (t110 * t62);
        // %71: f64[B, 8] = add(%70, 0.0035854154854636916)
        auto t112 = (t111 + nnx::cast<nnx::f64>(0.0035854154854636916));
        // %72: f64[B, 8] = multiply(%71, %21)
        auto t113 = (t112 * t62);
        // %73: f64[B, 8] = add(%72, -0.14024059858554702)
        auto t114 = (t113 + nnx::cast<nnx::f64>((-0.14024059858554702)));
        // %74: f64[B, 8] = multiply(%73, %21)
        auto t115 = (t114 * t62);
        // %75: f64[B, 8] = add(%74, 1.2375126308378275)
        auto t116 = (t115 + nnx::cast<nnx::f64>(1.2375126308378275));
        // %76: f64[B, 8] = multiply(%18, %75)
        auto t117 = (t59 * t116);
        // %77: f64[B, 8] = multiply(2.0, %7)
        auto t118 = (nnx::cast<nnx::f64>(2.0) * t48);
        // %78: f64[B, 8] = add(1.0, %77)
        auto t119 = (nnx::cast<nnx::f64>(1.0) + t118);
        // %79: f64[B, 8] = divide(%76, %78)
        auto t120 = nnx::divide(t117, t119);
        // %81: f64[B, 8] = subtract(2.0, %79)
        auto t121 = (nnx::cast<nnx::f64>(2.0) - t120);
        // %82: f64[B, 8] = where(%80, %81, %79)
        auto t122 = nnx::select(t46, t121, t120);
        // %115: f64[B, 8] = where(%114, %113, %82)
        auto t123 = nnx::select(t14, t45, t122);
        // %2: f64[B, 8] = multiply(0.5, %1)
        auto t124 = (nnx::cast<nnx::f64>(0.5) * t10);
        // %116: f64[B, 8] = multiply(%2, %115)
        auto t125 = (t124 * t123);
        // %117: f32[B, 8] = astype(%116, dtype=float32)
        auto t126 = nnx::cast<nnx::f32>(t125);
        // %118: f64[B, 8] = astype(%117, dtype=float64)
        auto t127 = nnx::cast<nnx::f64>(t126);
        w1[i2] = t10;
        w2[i2] = t123;
        w3[i2] = t127;
    }
}

static __device__ __forceinline__ void part0(long long block, long long blocks, const long long *__restrict__ call, long long *status, const long long *__restrict__ x1, const float *__restrict__ w0, double *w1, double *w2, double *w3, bool *w4) {
    const auto k0 = call[1];
    auto bad4 = nnx::cast<nnx::b1>(false);
    auto bad8 = nnx::cast<nnx::b1>(false);
    for (long long i0 = block * 8 + threadIdx.x / 32; i0 < k0; i0 += blocks * 8) {
        auto t0 = x1[i0];
        // %144: bool[B, 1] = less(%143, -3)
        auto t1 = (t0 < nnx::cast<nnx::i64>((-3LL)));
        // %145: bool[B, 1] = greater_equal(%143, 3)
        auto t2 = (t0 >= nnx::cast<nnx::i64>(3LL));
        // %146: bool[B, 1] = logical_or(%144, %145)
        auto t3 = nnx::logical_or(t1, t2);
        for (long long i1 = threadIdx.x % 32; i1 < 1LL; i1 += 32) {
            // %147: bool[B, 1] = check(%146)
            bad4 = nnx::logical_or(bad4, t3);
        }
        // %139: bool[B] = less(x1, 0)
        auto t5 = (t0 < nnx::cast<nnx::i64>(0LL));
        // %138: bool[B] = greater_equal(x1, 3)
        auto t6 = (t0 >= nnx::cast<nnx::i64>(3LL));
        // %140: bool[B] = logical_or(%139, %138)
        auto t7 = nnx::logical_or(t5, t6);
        // %141: bool[B] = check(%140)
        bad8 = nnx::logical_or(bad8, t7);
    }
    if (bad4) {
        nnx::fail(call, status, 2LL);
    }
    if (bad8) {
        nnx::fail(call, status, 2LL);
    }
}

static __device__ __forceinline__ void part1(long long block, long long blocks, const long long *__restrict__ call, long long *status, const long long *__restrict__ x1, const float *__restrict__ w0, double *w1, double *w2, double *w3, bool *w4) {
    const auto k1 = call[2];
    const auto k2 = call[3];
    const auto k3 = call[4];
    const auto k4 = call[5];
    // %134: bool[B, 8] = draw(seed=g0_seed, stream=g0_stream, block=g0_block, kind='bernoulli', settings=(0.75,), shape=(B, 8), dtype=bool)
    for (long long q = block * 256 + threadIdx.x; q < ((k4 + 3LL) / 4LL); q += blocks * 256) {
        const auto [r0, r1, r2, r3] = nnx::random_block(k1, k2, (k3 + q));
        if ((((4LL * q) + 0LL) < k4)) {
            w4[((4LL * q) + 0LL)] = nnx::bernoulli_word(r0, 3221225472LL);
        }
        if ((((4LL * q) + 1LL) < k4)) {
            w4[((4LL * q) + 1LL)] = nnx::bernoulli_word(r1, 3221225472LL);
        }
        if ((((4LL * q) + 2LL) < k4)) {
            w4[((4LL * q) + 2LL)] = nnx::bernoulli_word(r2, 3221225472LL);
        }
        if ((((4LL * q) + 3LL) < k4)) {
            w4[((4LL * q) + 3LL)] = nnx::bernoulli_word(r3, 3221225472LL);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256, 2) k1(const long long *__restrict__ call, long long *status, const long long *__restrict__ x1, const float *__restrict__ w0, double *w1, double *w2, double *w3, bool *w4) {
    long long block = blockIdx.x, blocks;
    blocks = call[10];
    if (block < blocks) return part2(block, blocks, call, status, x1, w0, w1, w2, w3, w4);
    block -= blocks;
    blocks = call[11];
    if (block < blocks) return part0(block, blocks, call, status, x1, w0, w1, w2, w3, w4);
    block -= blocks;
    blocks = call[12];
    if (block < blocks) return part1(block, blocks, call, status, x1, w0, w1, w2, w3, w4);
}

static __device__ __forceinline__ void part3(long long block, long long blocks, const long long *__restrict__ call, long long *status, const float *__restrict__ x4, const float *__restrict__ x5, float *w0, const double *__restrict__ w3, const bool *__restrict__ w4, double *w5, double *w6, float *w7) {
    const auto k0 = call[1];
    for (long long i3 = block * 8 + threadIdx.x / 32; i3 < k0; i3 += blocks * 8) {
        auto t129 = w3[((i3 * 8LL) + (0LL + 0LL))];
        auto a131 = nnx::cast<nnx::f64>(0.0);
        for (long long i4 = threadIdx.x % 32; i4 < 8LL; i4 += 32) {
            auto t128 = w3[((i3 * 8LL) + i4)];
            // %120: f64[B, 8] = subtract(%118, %119)
            auto t130 = (t128 - t129);
            // %121: f64[B, 1] = sum(%120, axis=-1, keepdims=True)
            a131 = nnx::sum_add(a131, t130);
        }
        a131 = nnx::over_warp<nnx::Sum>(a131);
        // %122: f64[B, 1] = divide(%121, 8)
        auto t134 = nnx::divide(a131, nnx::cast<nnx::f64>(8.0));
        auto a137 = nnx::cast<nnx::f64>(0.0);
        for (long long i5 = threadIdx.x % 32; i5 < 8LL; i5 += 32) {
            auto t132 = w3[((i3 * 8LL) + i5)];
            // %120: f64[B, 8] = subtract(%118, %119)
            auto t133 = (t132 - t129);
            // %123: f64[B, 8] = subtract(%120, %122)
            auto t135 = (t133 - t134);
            // %124: f64[B, 8] = multiply(%123, %123)
            auto t136 = (t135 * t135);
            // %125: f64[B, 1] = sum(%124, axis=-1, keepdims=True)
            a137 = nnx::sum_add(a137, t136);
        }
        a137 = nnx::over_warp<nnx::Sum>(a137);
        // %126: f64[B, 1] = divide(%125, 8)
        auto t141 = nnx::divide(a137, nnx::cast<nnx::f64>(8.0));
        // %127: f64[B, 1] = add(%126, 1e-05)
        auto t142 = (t141 + nnx::cast<nnx::f64>(1e-05));
        // %128: f64[B, 1] = sqrt(%127)
        auto t143 = nnx::sqrt(t142);
        // %129: f64[B, 1] = divide(1.0, %128)
        auto t144 = nnx::divide(nnx::cast<nnx::f64>(1.0), t143);
        for (long long i6 = threadIdx.x % 32; i6 < 8LL; i6 += 32) {
            auto t138 = w3[((i3 * 8LL) + i6)];
            // %120: f64[B, 8] = subtract(%118, %119)
            auto t139 = (t138 - t129);
            // %123: f64[B, 8] = subtract(%120, %122)
            auto t140 = (t139 - t134);
            // %130: f64[B, 8] = multiply(%123, %129)
            auto t145 = (t140 * t144);
            // %131: f32[B, 8] = astype(%130, dtype=float32)
            auto t146 = nnx::cast<nnx::f32>(t145);
            auto t147 = w4[((i3 * 8LL) + i6)];
            auto t148 = x4[i6];
            // %132: f32[B, 8] = multiply(%131, captured2)
            auto t149 = (t146 * t148);
            auto t150 = x5[i6];
            // %133: f32[B, 8] = add(%132, captured3)
            auto t151 = (t149 + t150);
            // %135: f32[B, 8] = multiply(%133, 1.3333333333333333)
            auto t152 = (t151 * nnx::cast<nnx::f32>(1.3333333333333333));
            // %136: f32[B, 8] = where(%134, %135, 0.0)
            auto t153 = nnx::select(t147, t152, nnx::cast<nnx::f32>(0.0));
            w6[((i3 * 8LL) + i6)] = t145;
            w0[((i3 * 8LL) + i6)] = t146;
            w7[((i3 * 8LL) + i6)] = t153;
        }
        if (((threadIdx.x % 32) == 0LL)) {
            w5[i3] = t144;
        }
    }
}

extern "C" __global__ void __launch_bounds__(256, 2) k2(const long long *__restrict__ call, long long *status, const float *__restrict__ x4, const float *__restrict__ x5, float *w0, const double *__restrict__ w3, const bool *__restrict__ w4, double *w5, double *w6, float *w7) {
    part3(blockIdx.x, gridDim.x, call, status, x4, x5, w0, w3, w4, w5, w6, w7);
}

static __device__ __forceinline__ void part4(long long block, long long blocks, const long long *__restrict__ call, long long *status, const long long *__restrict__ x1, float *y12, const float *__restrict__ w8, double *w9, float *w10, double *s0, float *s1, unsigned int *tickets0) {
    const auto k0 = call[1];
    const auto k5 = nnx::cast<nnx::f32>(call[6]);
    __shared__ float c197[8 * 3];
    auto a185 = nnx::cast<nnx::f64>(0.0);
    for (long long c = threadIdx.x; c < 24LL; c += 256) {
        c197[c] = nnx::cast<nnx::f32>(0.0);
    }
    __syncthreads();
    // %173: f32[] = divide(%172, B)
    auto t186 = nnx::divide(nnx::cast<nnx::f32>(1.0), k5);
    for (long long i7 = block * 8 + threadIdx.x / 32; i7 < k0; i7 += blocks * 8) {
        auto a155 = nnx::cast<nnx::f32>((-NNX_INF));
        auto t156 = x1[i7];
        auto a160 = nnx::cast<nnx::f32>(0.0);
        for (long long i9 = threadIdx.x % 32; i9 < 3LL; i9 += 32) {
            auto t154 = w8[((i7 * 3LL) + i9)];
            // %142: f32[B, 1] = max(%137, axis=-1, keepdims=True)
            a155 = nnx::max_reduce(a155, t154);
            auto t157 = nnx::cast<nnx::i64>(i9);
            // %149: bool[B, 3] = equal(%143, %148)
            auto t158 = (t156 == t157);
            // %151: f32[B, 3] = where(%149, %137, %150)
            auto t159 = nnx::select(t158, t154, nnx::cast<nnx::f32>(0.0));
            // %152: f32[B, 1] = sum(%151, axis=-1, keepdims=True)
            a160 = nnx::sum_add(a160, t159);
        }
        a155 = nnx::over_warp<nnx::Max>(a155);
        a160 = nnx::over_warp<nnx::Sum>(a160);
        auto a164 = nnx::cast<nnx::f32>(0.0);
        auto a167 = nnx::cast<nnx::f32>(0.0);
        auto a169 = nnx::cast<nnx::f32>(0.0);
        for (long long i10 = threadIdx.x % 32; i10 < 3LL; i10 += 32) {
            auto t161 = w8[((i7 * 3LL) + i10)];
            // %154: bool[B, 3] = equal(%137, %142)
            auto t162 = (t161 == a155);
            // %160: f32[B, 3] = where(%154, %159, 0.0)
            auto t163 = nnx::select(t162, nnx::cast<nnx::f32>(1.0), nnx::cast<nnx::f32>(0.0));
            // %161: f32[B, 1] = sum(%160, axis=-1, keepdims=True)
            a164 = nnx::sum_add(a164, t163);
            // %155: f32[B, 3] = subtract(%137, %142)
            auto t165 = (t161 - a155);
            // %156: f32[B, 3] = exp(%155)
            auto t166 = nnx::exp(t165);
            // %174: f32[B, 1] = sum(%156, axis=-1, keepdims=True)
            a167 = nnx::sum_add(a167, t166);
            // %157: f32[B, 3] = where(%154, 0.0, %156)
            auto t168 = nnx::select(t162, nnx::cast<nnx::f32>(0.0), t166);
            // %158: f32[B, 1] = sum(%157, axis=-1, keepdims=True)
            a169 = nnx::sum_add(a169, t168);
        }
        a164 = nnx::over_warp<nnx::Sum>(a164);
        a167 = nnx::over_warp<nnx::Sum>(a167);
        a169 = nnx::over_warp<nnx::Sum>(a169);
        auto a177 = nnx::cast<nnx::f32>(0.0);
        for (long long i11 = threadIdx.x % 32; i11 < 3LL; i11 += 32) {
            auto t170 = nnx::cast<nnx::i64>(i11);
            // %149: bool[B, 3] = equal(%143, %148)
            auto t171 = (t156 == t170);
            auto t172 = w8[((i7 * 3LL) + i11)];
            // %155: f32[B, 3] = subtract(%137, %142)
            auto t173 = (t172 - a155);
            // %156: f32[B, 3] = exp(%155)
            auto t174 = nnx::exp(t173);
            // %175: f32[B, 3] = divide(%156, %174)
            auto t175 = nnx::divide(t174, a167);
            // %176: f32[B, 3] = where(%149, 0.0, %175)
            auto t176 = nnx::select(t171, nnx::cast<nnx::f32>(0.0), t175);
            // %177: f32[B, 1] = sum(%176, axis=-1, keepdims=True)
            a177 = nnx::sum_add(a177, t176);
        }
        a177 = nnx::over_warp<nnx::Sum>(a177);
        // %153: f32[B, 1] = subtract(%142, %152)
        auto t178 = (a155 - a160);
        // %162: f32[B, 1] = subtract(%161, 1.0)
        auto t179 = (a164 - nnx::cast<nnx::f32>(1.0));
        // %163: f32[B, 1] = maximum(%162, 0.0)
        auto t180 = nnx::maximum(t179, nnx::cast<nnx::f32>(0.0));
        // %164: f32[B, 1] = add(%158, %163)
        auto t181 = (a169 + t180);
        // %165: f32[B, 1] = log1p(%164)
        auto t182 = nnx::log1p(t181);
        // %166: f32[B, 1] = add(%153, %165)
        auto t183 = (t178 + t182);
        // %168: f64[B] = astype(%167, dtype=float64)
        auto t184 = nnx::cast<nnx::f64>(t183);
        // %169: f64[] = sum(%168)
        if (((threadIdx.x % 32) == 0LL)) {
            a185 = nnx::sum_add(a185, t184);
        }
        // %178: f32[B, 1] = negative(%177)
        auto t189 = (-a177);
        for (long long i12 = threadIdx.x % 32; i12 < 3LL; i12 += 32) {
            auto t187 = nnx::cast<nnx::i64>(i12);
            // %149: bool[B, 3] = equal(%143, %148)
            auto t188 = (t156 == t187);
            auto t190 = w8[((i7 * 3LL) + i12)];
            // %155: f32[B, 3] = subtract(%137, %142)
            auto t191 = (t190 - a155);
            // %156: f32[B, 3] = exp(%155)
            auto t192 = nnx::exp(t191);
            // %175: f32[B, 3] = divide(%156, %174)
            auto t193 = nnx::divide(t192, a167);
            // %176: f32[B, 3] = where(%149, 0.0, %175)
            auto t194 = nnx::select(t188, nnx::cast<nnx::f32>(0.0), t193);
            // %179: f32[B, 3] = where(%149, %178, %176)
            auto t195 = nnx::select(t188, t189, t194);
            // %180: f32[B, 3] = multiply(%173, %179)
            auto t196 = (t186 * t195);
            // %185: f32[3] = sum(%180, axis=0)
            c197[(((threadIdx.x / 32LL) * 3LL) + i12)] = nnx::sum_add(c197[(((threadIdx.x / 32LL) * 3LL) + i12)], t196);
            w10[((i7 * 3LL) + i12)] = t196;
        }
    }
    a185 = nnx::over_block<nnx::Sum>(a185);
    if ((threadIdx.x == 0LL)) {
        s0[block] = a185;
    }
    __syncthreads();
    for (long long c = threadIdx.x; c < 3LL; c += 256) {
        auto total = nnx::cast<nnx::f32>(0.0);
        for (long long team = 0; team < 8LL; team++) {
            total = nnx::sum_add(total, c197[((team * 3LL) + c)]);
        }
        s1[((block * 3LL) + c)] = total;
    }
    if (nnx::is_last(tickets0, blocks)) {
        a185 = nnx::cast<nnx::f64>(0.0);
        for (long long c = threadIdx.x; c < blocks; c += 256) {
            a185 = nnx::sum_add(a185, nnx::fresh(s0, c));
        }
        a185 = nnx::over_block<nnx::Sum>(a185);
        if ((threadIdx.x == 0LL)) {
            w9[0LL] = a185;
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
            y12[threadIdx.x] = total;
        }
    }
}

extern "C" __global__ void __launch_bounds__(256, 2) k4(const long long *__restrict__ call, long long *status, const long long *__restrict__ x1, float *y12, const float *__restrict__ w8, double *w9, float *w10, double *s0, float *s1, unsigned int *tickets0) {
    part4(blockIdx.x, gridDim.x, call, status, x1, y12, w8, w9, w10, s0, s1, tickets0);
}

static __device__ __forceinline__ void part5(long long block, long long blocks, const long long *__restrict__ call, long long *status, const float *__restrict__ x4, float *x6, float *x7, float *x16, float *x17, float *x18, float *x19, float *y0, float *y4, const float *__restrict__ y10, const float *__restrict__ y12, const float *__restrict__ w0, const double *__restrict__ w1, const double *__restrict__ w2, const bool *__restrict__ w4, const double *__restrict__ w5, const double *__restrict__ w6, float *w7, const float *__restrict__ w8, const double *__restrict__ w9, float *w11, float *w12, float *s2, float *s3, float *s4, unsigned int *tickets1) {
    const auto k6 = nnx::cast<nnx::f64>(call[7]);
    auto t198 = w9[0LL];
    // %170: f64[] = divide(%169, B)
    auto t199 = nnx::divide(t198, k6);
    // %171: f32[] = astype(%170, dtype=float32)
    auto t200 = nnx::cast<nnx::f32>(t199);
    for (long long i13 = block * 256 + threadIdx.x; i13 < 1LL; i13 += blocks * 256) {
        y0[0LL] = t200;
    }
}

static __device__ __forceinline__ void part6(long long block, long long blocks, const long long *__restrict__ call, long long *status, const float *__restrict__ x4, float *x6, float *x7, float *x16, float *x17, float *x18, float *x19, float *y0, float *y4, const float *__restrict__ y10, const float *__restrict__ y12, const float *__restrict__ w0, const double *__restrict__ w1, const double *__restrict__ w2, const bool *__restrict__ w4, const double *__restrict__ w5, const double *__restrict__ w6, float *w7, const float *__restrict__ w8, const double *__restrict__ w9, float *w11, float *w12, float *s2, float *s3, float *s4, unsigned int *tickets1) {
    const auto k0 = call[1];
    __shared__ float c205[8 * 8];
    __shared__ float c208[8 * 8];
    __shared__ float c243[8 * 8];
    for (long long c = threadIdx.x; c < 64LL; c += 256) {
        c205[c] = nnx::cast<nnx::f32>(0.0);
    }
    __syncthreads();
    for (long long c = threadIdx.x; c < 64LL; c += 256) {
        c208[c] = nnx::cast<nnx::f32>(0.0);
    }
    __syncthreads();
    for (long long c = threadIdx.x; c < 64LL; c += 256) {
        c243[c] = nnx::cast<nnx::f32>(0.0);
    }
    __syncthreads();
    for (long long i14 = block * 8 + threadIdx.x / 32; i14 < k0; i14 += blocks * 8) {
        auto a212 = nnx::cast<nnx::f64>(0.0);
        auto a215 = nnx::cast<nnx::f64>(0.0);
        for (long long i15 = threadIdx.x % 32; i15 < 8LL; i15 += 32) {
            auto t201 = w4[((i14 * 8LL) + i15)];
            auto t202 = w8[((i14 * 8LL) + i15)];
            // %186: f32[B, 8] = where(%134, %182, 0.0)
            auto t203 = nnx::select(t201, t202, nnx::cast<nnx::f32>(0.0));
            // %187: f32[B, 8] = multiply(%186, 1.3333333333333333)
            auto t204 = (t203 * nnx::cast<nnx::f32>(1.3333333333333333));
            // %203: f32[1, 8] = sum(%187, axis=(0,), keepdims=True)
            c205[(((threadIdx.x / 32LL) * 8LL) + i15)] = nnx::sum_add(c205[(((threadIdx.x / 32LL) * 8LL) + i15)], t204);
            auto t206 = w0[((i14 * 8LL) + i15)];
            // %200: f32[B, 8] = multiply(%187, %131)
            auto t207 = (t204 * t206);
            // %201: f32[1, 8] = sum(%200, axis=(0,), keepdims=True)
            c208[(((threadIdx.x / 32LL) * 8LL) + i15)] = nnx::sum_add(c208[(((threadIdx.x / 32LL) * 8LL) + i15)], t207);
            auto t209 = x4[i15];
            // %188: f32[B, 8] = multiply(%187, captured2)
            auto t210 = (t204 * t209);
            // %189: f64[B, 8] = astype(%188, dtype=float64)
            auto t211 = nnx::cast<nnx::f64>(t210);
            // %193: f64[B, 1] = sum(%189, axis=-1, keepdims=True)
            a212 = nnx::sum_add(a212, t211);
            auto t213 = w6[((i14 * 8LL) + i15)];
            // %190: f64[B, 8] = multiply(%189, %130)
            auto t214 = (t211 * t213);
            // %191: f64[B, 1] = sum(%190, axis=-1, keepdims=True)
            a215 = nnx::sum_add(a215, t214);
        }
        a212 = nnx::over_warp<nnx::Sum>(a212);
        a215 = nnx::over_warp<nnx::Sum>(a215);
        auto t216 = w5[i14];
        // %194: f64[B, 1] = divide(%193, 8)
        auto t224 = nnx::divide(a212, nnx::cast<nnx::f64>(8.0));
        // %192: f64[B, 1] = divide(%191, 8)
        auto t227 = nnx::divide(a215, nnx::cast<nnx::f64>(8.0));
        for (long long i17 = threadIdx.x % 32; i17 < 8LL; i17 += 32) {
            auto t217 = w4[((i14 * 8LL) + i17)];
            auto t218 = w8[((i14 * 8LL) + i17)];
            // %186: f32[B, 8] = where(%134, %182, 0.0)
            auto t219 = nnx::select(t217, t218, nnx::cast<nnx::f32>(0.0));
            // %187: f32[B, 8] = multiply(%186, 1.3333333333333333)
            auto t220 = (t219 * nnx::cast<nnx::f32>(1.3333333333333333));
            auto t221 = x4[i17];
            // %188: f32[B, 8] = multiply(%187, captured2)
            auto t222 = (t220 * t221);
            // %189: f64[B, 8] = astype(%188, dtype=float64)
            auto t223 = nnx::cast<nnx::f64>(t222);
            // %195: f64[B, 8] = subtract(%189, %194)
            auto t225 = (t223 - t224);
            auto t226 = w6[((i14 * 8LL) + i17)];
            // %196: f64[B, 8] = multiply(%130, %192)
            auto t228 = (t226 * t227);
            // %197: f64[B, 8] = subtract(%195, %196)
            auto t229 = (t225 - t228);
            // %198: f64[B, 8] = multiply(%129, %197)
            auto t230 = (t216 * t229);
            // %199: f32[B, 8] = astype(%198, dtype=float32)
            auto t231 = nnx::cast<nnx::f32>(t230);
            auto t232 = w2[((i14 * 8LL) + i17)];
            // %209: f64[B, 8] = multiply(0.5, %115)
            auto t233 = (nnx::cast<nnx::f64>(0.5) * t232);
            auto t234 = w1[((i14 * 8LL) + i17)];
            // %205: f64[B, 8] = multiply(-0.5, %1)
            auto t235 = (nnx::cast<nnx::f64>((-0.5)) * t234);
            // %206: f64[B, 8] = multiply(%205, %1)
            auto t236 = (t235 * t234);
            // %207: f64[B, 8] = exp(%206)
            auto t237 = nnx::exp(t236);
            // %208: f64[B, 8] = divide(%207, 2.5066282746310002)
            auto t238 = nnx::divide(t237, nnx::cast<nnx::f64>(2.5066282746310002));
            // %210: f64[B, 8] = multiply(%1, %208)
            auto t239 = (t234 * t238);
            // %211: f64[B, 8] = add(%209, %210)
            auto t240 = (t233 + t239);
            // %212: f32[B, 8] = astype(%211, dtype=float32)
            auto t241 = nnx::cast<nnx::f32>(t240);
            // %213: f32[B, 8] = multiply(%199, %212)
            auto t242 = (t231 * t241);
            // %216: f32[8] = sum(%213, axis=0)
            c243[(((threadIdx.x / 32LL) * 8LL) + i17)] = nnx::sum_add(c243[(((threadIdx.x / 32LL) * 8LL) + i17)], t242);
            w7[((i14 * 8LL) + i17)] = t242;
        }
    }
    __syncthreads();
    for (long long c = threadIdx.x; c < 8LL; c += 256) {
        auto total = nnx::cast<nnx::f32>(0.0);
        for (long long team = 0; team < 8LL; team++) {
            total = nnx::sum_add(total, c205[((team * 8LL) + c)]);
        }
        s2[((block * 8LL) + c)] = total;
    }
    __syncthreads();
    for (long long c = threadIdx.x; c < 8LL; c += 256) {
        auto total = nnx::cast<nnx::f32>(0.0);
        for (long long team = 0; team < 8LL; team++) {
            total = nnx::sum_add(total, c208[((team * 8LL) + c)]);
        }
        s3[((block * 8LL) + c)] = total;
    }
    __syncthreads();
    for (long long c = threadIdx.x; c < 8LL; c += 256) {
        auto total = nnx::cast<nnx::f32>(0.0);
        for (long long team = 0; team < 8LL; team++) {
            total = nnx::sum_add(total, c243[((team * 8LL) + c)]);
        }
        s4[((block * 8LL) + c)] = total;
    }
    if (nnx::is_last(tickets1, blocks)) {
        auto column = nnx::floor_mod(threadIdx.x, 8LL);
        auto total = nnx::cast<nnx::f32>(0.0);
        if ((column < 8LL)) {
            _Pragma("unroll 4") for (long long b = 0LL + threadIdx.x / 8LL; b < blocks; b += 256 / 8LL) {
                total = nnx::sum_add(total, nnx::fresh(s2, ((b * 8LL) + column)));
            }
        }
        total = nnx::over_rows<nnx::Sum, 8>(total);
        if ((threadIdx.x < 8LL)) {
            w12[threadIdx.x] = total;
        }
        column = nnx::floor_mod(threadIdx.x, 8LL);
        total = nnx::cast<nnx::f32>(0.0);
        if ((column < 8LL)) {
            _Pragma("unroll 4") for (long long b = 0LL + threadIdx.x / 8LL; b < blocks; b += 256 / 8LL) {
                total = nnx::sum_add(total, nnx::fresh(s3, ((b * 8LL) + column)));
            }
        }
        total = nnx::over_rows<nnx::Sum, 8>(total);
        if ((threadIdx.x < 8LL)) {
            w11[threadIdx.x] = total;
        }
        column = nnx::floor_mod(threadIdx.x, 8LL);
        total = nnx::cast<nnx::f32>(0.0);
        if ((column < 8LL)) {
            _Pragma("unroll 4") for (long long b = 0LL + threadIdx.x / 8LL; b < blocks; b += 256 / 8LL) {
                total = nnx::sum_add(total, nnx::fresh(s4, ((b * 8LL) + column)));
            }
        }
        total = nnx::over_rows<nnx::Sum, 8>(total);
        if ((threadIdx.x < 8LL)) {
            y4[threadIdx.x] = total;
        }
    }
}

static __device__ __forceinline__ void part8(long long block, long long blocks, const long long *__restrict__ call, long long *status, const float *__restrict__ x4, float *x6, float *x7, float *x16, float *x17, float *x18, float *x19, float *y0, float *y4, const float *__restrict__ y10, const float *__restrict__ y12, const float *__restrict__ w0, const double *__restrict__ w1, const double *__restrict__ w2, const bool *__restrict__ w4, const double *__restrict__ w5, const double *__restrict__ w6, float *w7, const float *__restrict__ w8, const double *__restrict__ w9, float *w11, float *w12, float *s2, float *s3, float *s4, unsigned int *tickets1) {
    const auto k7 = nnx::cast<nnx::f32>(nnx::f64_of(call[8]));
    const auto k8 = nnx::cast<nnx::f32>(nnx::f64_of(call[9]));
    if (nnx::failed(status)) return;
    auto fours = nnx::cast<nnx::i64>(0LL);
    if ((nnx::in_fours(x16) && nnx::in_fours(y10) && nnx::in_fours(x17) && nnx::in_fours(x6))) {
        fours = (24LL / 4LL);
    }
    for (long long f = block * 256 + threadIdx.x; f < fours; f += blocks * 256) {
        auto in_x16 = nnx::four(x16, (4LL * f));
        auto in_y10 = nnx::four(y10, (4LL * f));
        auto in_x17 = nnx::four(x17, (4LL * f));
        auto in_x6 = nnx::four(x6, (4LL * f));
        auto out_x16 = nnx::any_four(x16);
        auto out_x17 = nnx::any_four(x17);
        auto out_x6 = nnx::any_four(x6);
        _Pragma("unroll") for (int j = 0; j < 4; j++) {
            auto t261 = in_x16.at[j];
            // %269: f32[8, 3] = multiply(0.9, captured14)
            auto t262 = (nnx::cast<nnx::f32>(0.9) * t261);
            auto t263 = in_y10.at[j];
            // %270: f32[8, 3] = multiply(0.09999999999999998, %184)
            auto t264 = (nnx::cast<nnx::f32>(0.09999999999999998) * t263);
            // %271: f32[8, 3] = add(%269, %270)
            auto t265 = (t262 + t264);
            auto t266 = in_x17.at[j];
            // %272: f32[8, 3] = multiply(0.999, captured15)
            auto t267 = (nnx::cast<nnx::f32>(0.999) * t266);
            // %273: f32[8, 3] = multiply(%184, %184)
            auto t268 = (t263 * t263);
            // %274: f32[8, 3] = multiply(0.0010000000000000009, %273)
            auto t269 = (nnx::cast<nnx::f32>(0.0010000000000000009) * t268);
            // %275: f32[8, 3] = add(%272, %274)
            auto t270 = (t267 + t269);
            auto t271 = in_x6.at[j];
            // %276: f32[8, 3] = sqrt(%275)
            auto t272 = nnx::sqrt(t270);
            // %277: f32[8, 3] = multiply(%276, ((1.0 - (0.999 ** (n0 + 1))) ** -0.5))
            auto t273 = (t272 * k8);
            // %278: f32[8, 3] = add(%277, 1e-08)
            auto t274 = (t273 + nnx::cast<nnx::f32>(1e-08));
            // %279: f32[8, 3] = divide(%271, %278)
            auto t275 = nnx::divide(t265, t274);
            // %280: f32[8, 3] = multiply((n2 / (1.0 - (0.9 ** (n0 + 1)))), %279)
            auto t276 = (k7 * t275);
            // %281: f32[8, 3] = subtract(captured4, %280)
            auto t277 = (t271 - t276);
            out_x16.at[j] = t265;
            out_x17.at[j] = t270;
            out_x6.at[j] = t277;
        }
        nnx::put_four(x16, (4LL * f), out_x16);
        nnx::put_four(x17, (4LL * f), out_x17);
        nnx::put_four(x6, (4LL * f), out_x6);
    }
    for (long long i19 = (4LL * fours) + block * 256 + threadIdx.x; i19 < 24LL; i19 += blocks * 256) {
        auto t261 = x16[i19];
        // %269: f32[8, 3] = multiply(0.9, captured14)
        auto t262 = (nnx::cast<nnx::f32>(0.9) * t261);
        auto t263 = y10[i19];
        // %270: f32[8, 3] = multiply(0.09999999999999998, %184)
        auto t264 = (nnx::cast<nnx::f32>(0.09999999999999998) * t263);
        // %271: f32[8, 3] = add(%269, %270)
        auto t265 = (t262 + t264);
        auto t266 = x17[i19];
        // %272: f32[8, 3] = multiply(0.999, captured15)
        auto t267 = (nnx::cast<nnx::f32>(0.999) * t266);
        // %273: f32[8, 3] = multiply(%184, %184)
        auto t268 = (t263 * t263);
        // %274: f32[8, 3] = multiply(0.0010000000000000009, %273)
        auto t269 = (nnx::cast<nnx::f32>(0.0010000000000000009) * t268);
        // %275: f32[8, 3] = add(%272, %274)
        auto t270 = (t267 + t269);
        auto t271 = x6[i19];
        // %276: f32[8, 3] = sqrt(%275)
        auto t272 = nnx::sqrt(t270);
        // %277: f32[8, 3] = multiply(%276, ((1.0 - (0.999 ** (n0 + 1))) ** -0.5))
        auto t273 = (t272 * k8);
        // %278: f32[8, 3] = add(%277, 1e-08)
        auto t274 = (t273 + nnx::cast<nnx::f32>(1e-08));
        // %279: f32[8, 3] = divide(%271, %278)
        auto t275 = nnx::divide(t265, t274);
        // %280: f32[8, 3] = multiply((n2 / (1.0 - (0.9 ** (n0 + 1)))), %279)
        auto t276 = (k7 * t275);
        // %281: f32[8, 3] = subtract(captured4, %280)
        auto t277 = (t271 - t276);
        x16[i19] = t265;
        x17[i19] = t270;
        x6[i19] = t277;
    }
}

static __device__ __forceinline__ void part10(long long block, long long blocks, const long long *__restrict__ call, long long *status, const float *__restrict__ x4, float *x6, float *x7, float *x16, float *x17, float *x18, float *x19, float *y0, float *y4, const float *__restrict__ y10, const float *__restrict__ y12, const float *__restrict__ w0, const double *__restrict__ w1, const double *__restrict__ w2, const bool *__restrict__ w4, const double *__restrict__ w5, const double *__restrict__ w6, float *w7, const float *__restrict__ w8, const double *__restrict__ w9, float *w11, float *w12, float *s2, float *s3, float *s4, unsigned int *tickets1) {
    const auto k7 = nnx::cast<nnx::f32>(nnx::f64_of(call[8]));
    const auto k8 = nnx::cast<nnx::f32>(nnx::f64_of(call[9]));
    if (nnx::failed(status)) return;
    auto fours = nnx::cast<nnx::i64>(0LL);
    if ((nnx::in_fours(x18) && nnx::in_fours(y12) && nnx::in_fours(x19) && nnx::in_fours(x7))) {
        fours = (3LL / 4LL);
    }
    for (long long f = block * 256 + threadIdx.x; f < fours; f += blocks * 256) {
        auto in_x18 = nnx::four(x18, (4LL * f));
        auto in_y12 = nnx::four(y12, (4LL * f));
        auto in_x19 = nnx::four(x19, (4LL * f));
        auto in_x7 = nnx::four(x7, (4LL * f));
        auto out_x18 = nnx::any_four(x18);
        auto out_x19 = nnx::any_four(x19);
        auto out_x7 = nnx::any_four(x7);
        _Pragma("unroll") for (int j = 0; j < 4; j++) {
            auto t329 = in_x18.at[j];
            // %282: f32[3] = multiply(0.9, captured16)
            auto t330 = (nnx::cast<nnx::f32>(0.9) * t329);
            auto t331 = in_y12.at[j];
            // %283: f32[3] = multiply(0.09999999999999998, %185)
            auto t332 = (nnx::cast<nnx::f32>(0.09999999999999998) * t331);
            // %284: f32[3] = add(%282, %283)
            auto t333 = (t330 + t332);
            auto t334 = in_x19.at[j];
            // %285: f32[3] = multiply(0.999, captured17)
            auto t335 = (nnx::cast<nnx::f32>(0.999) * t334);
            // %286: f32[3] = multiply(%185, %185)
            auto t336 = (t331 * t331);
            // %287: f32[3] = multiply(0.0010000000000000009, %286)
            auto t337 = (nnx::cast<nnx::f32>(0.0010000000000000009) * t336);
            // %288: f32[3] = add(%285, %287)
            auto t338 = (t335 + t337);
            auto t339 = in_x7.at[j];
            // %289: f32[3] = sqrt(%288)
            auto t340 = nnx::sqrt(t338);
            // %290: f32[3] = multiply(%289, ((1.0 - (0.999 ** (n0 + 1))) ** -0.5))
            auto t341 = (t340 * k8);
            // %291: f32[3] = add(%290, 1e-08)
            auto t342 = (t341 + nnx::cast<nnx::f32>(1e-08));
            // %292: f32[3] = divide(%284, %291)
            auto t343 = nnx::divide(t333, t342);
            // %293: f32[3] = multiply((n2 / (1.0 - (0.9 ** (n0 + 1)))), %292)
            auto t344 = (k7 * t343);
            // %294: f32[3] = subtract(captured5, %293)
            auto t345 = (t339 - t344);
            out_x18.at[j] = t333;
            out_x19.at[j] = t338;
            out_x7.at[j] = t345;
        }
        nnx::put_four(x18, (4LL * f), out_x18);
        nnx::put_four(x19, (4LL * f), out_x19);
        nnx::put_four(x7, (4LL * f), out_x7);
    }
    for (long long i21 = (4LL * fours) + block * 256 + threadIdx.x; i21 < 3LL; i21 += blocks * 256) {
        auto t329 = x18[i21];
        // %282: f32[3] = multiply(0.9, captured16)
        auto t330 = (nnx::cast<nnx::f32>(0.9) * t329);
        auto t331 = y12[i21];
        // %283: f32[3] = multiply(0.09999999999999998, %185)
        auto t332 = (nnx::cast<nnx::f32>(0.09999999999999998) * t331);
        // %284: f32[3] = add(%282, %283)
        auto t333 = (t330 + t332);
        auto t334 = x19[i21];
        // %285: f32[3] = multiply(0.999, captured17)
        auto t335 = (nnx::cast<nnx::f32>(0.999) * t334);
        // %286: f32[3] = multiply(%185, %185)
        auto t336 = (t331 * t331);
        // %287: f32[3] = multiply(0.0010000000000000009, %286)
        auto t337 = (nnx::cast<nnx::f32>(0.0010000000000000009) * t336);
        // %288: f32[3] = add(%285, %287)
        auto t338 = (t335 + t337);
        auto t339 = x7[i21];
        // %289: f32[3] = sqrt(%288)
        auto t340 = nnx::sqrt(t338);
        // %290: f32[3] = multiply(%289, ((1.0 - (0.999 ** (n0 + 1))) ** -0.5))
        auto t341 = (t340 * k8);
        // %291: f32[3] = add(%290, 1e-08)
        auto t342 = (t341 + nnx::cast<nnx::f32>(1e-08));
        // %292: f32[3] = divide(%284, %291)
        auto t343 = nnx::divide(t333, t342);
        // %293: f32[3] = multiply((n2 / (1.0 - (0.9 ** (n0 + 1)))), %292)
        auto t344 = (k7 * t343);
        // %294: f32[3] = subtract(captured5, %293)
        auto t345 = (t339 - t344);
        x18[i21] = t333;
        x19[i21] = t338;
        x7[i21] = t345;
    }
}

extern "C" __global__ void __launch_bounds__(256, 2) k7(const long long *__restrict__ call, long long *status, const float *__restrict__ x4, float *x6, float *x7, float *x16, float *x17, float *x18, float *x19, float *y0, float *y4, const float *__restrict__ y10, const float *__restrict__ y12, const float *__restrict__ w0, const double *__restrict__ w1, const double *__restrict__ w2, const bool *__restrict__ w4, const double *__restrict__ w5, const double *__restrict__ w6, float *w7, const float *__restrict__ w8, const double *__restrict__ w9, float *w11, float *w12, float *s2, float *s3, float *s4, unsigned int *tickets1) {
    long long block = blockIdx.x, blocks;
    blocks = call[13];
    if (block < blocks) return part5(block, blocks, call, status, x4, x6, x7, x16, x17, x18, x19, y0, y4, y10, y12, w0, w1, w2, w4, w5, w6, w7, w8, w9, w11, w12, s2, s3, s4, tickets1);
    block -= blocks;
    blocks = call[14];
    if (block < blocks) return part6(block, blocks, call, status, x4, x6, x7, x16, x17, x18, x19, y0, y4, y10, y12, w0, w1, w2, w4, w5, w6, w7, w8, w9, w11, w12, s2, s3, s4, tickets1);
    block -= blocks;
    blocks = call[15];
    if (block < blocks) return part8(block, blocks, call, status, x4, x6, x7, x16, x17, x18, x19, y0, y4, y10, y12, w0, w1, w2, w4, w5, w6, w7, w8, w9, w11, w12, s2, s3, s4, tickets1);
    block -= blocks;
    blocks = call[16];
    if (block < blocks) return part10(block, blocks, call, status, x4, x6, x7, x16, x17, x18, x19, y0, y4, y10, y12, w0, w1, w2, w4, w5, w6, w7, w8, w9, w11, w12, s2, s3, s4, tickets1);
}

static __device__ __forceinline__ void part7(long long block, long long blocks, const long long *__restrict__ call, long long *status, float *x2, float *x3, float *x4, float *x5, float *x8, float *x9, float *x10, float *x11, float *x12, float *x13, float *x14, float *x15, const float *__restrict__ y2, const float *__restrict__ y4, float *y6, float *y8, const float *__restrict__ w11, const float *__restrict__ w12) {
    const auto k7 = nnx::cast<nnx::f32>(nnx::f64_of(call[8]));
    const auto k8 = nnx::cast<nnx::f32>(nnx::f64_of(call[9]));
    if (nnx::failed(status)) return;
    auto fours = nnx::cast<nnx::i64>(0LL);
    if ((nnx::in_fours(x8) && nnx::in_fours(y2) && nnx::in_fours(x9) && nnx::in_fours(x2))) {
        fours = (40LL / 4LL);
    }
    for (long long f = block * 256 + threadIdx.x; f < fours; f += blocks * 256) {
        auto in_x8 = nnx::four(x8, (4LL * f));
        auto in_y2 = nnx::four(y2, (4LL * f));
        auto in_x9 = nnx::four(x9, (4LL * f));
        auto in_x2 = nnx::four(x2, (4LL * f));
        auto out_x8 = nnx::any_four(x8);
        auto out_x9 = nnx::any_four(x9);
        auto out_x2 = nnx::any_four(x2);
        _Pragma("unroll") for (int j = 0; j < 4; j++) {
            auto t244 = in_x8.at[j];
            // %217: f32[5, 8] = multiply(0.9, captured6)
            auto t245 = (nnx::cast<nnx::f32>(0.9) * t244);
            auto t246 = in_y2.at[j];
            // %218: f32[5, 8] = multiply(0.09999999999999998, %215)
            auto t247 = (nnx::cast<nnx::f32>(0.09999999999999998) * t246);
            // %219: f32[5, 8] = add(%217, %218)
            auto t248 = (t245 + t247);
            auto t249 = in_x9.at[j];
            // %220: f32[5, 8] = multiply(0.999, captured7)
            auto t250 = (nnx::cast<nnx::f32>(0.999) * t249);
            // %221: f32[5, 8] = multiply(%215, %215)
            auto t251 = (t246 * t246);
            // %222: f32[5, 8] = multiply(0.0010000000000000009, %221)
            auto t252 = (nnx::cast<nnx::f32>(0.0010000000000000009) * t251);
            // %223: f32[5, 8] = add(%220, %222)
            auto t253 = (t250 + t252);
            auto t254 = in_x2.at[j];
            // %224: f32[5, 8] = sqrt(%223)
            auto t255 = nnx::sqrt(t253);
            // %225: f32[5, 8] = multiply(%224, ((1.0 - (0.999 ** (n0 + 1))) ** -0.5))
            auto t256 = (t255 * k8);
            // %226: f32[5, 8] = add(%225, 1e-08)
            auto t257 = (t256 + nnx::cast<nnx::f32>(1e-08));
            // %227: f32[5, 8] = divide(%219, %226)
            auto t258 = nnx::divide(t248, t257);
            // %228: f32[5, 8] = multiply((n2 / (1.0 - (0.9 ** (n0 + 1)))), %227)
            auto t259 = (k7 * t258);
            // %229: f32[5, 8] = subtract(captured0, %228)
            auto t260 = (t254 - t259);
            out_x8.at[j] = t248;
            out_x9.at[j] = t253;
            out_x2.at[j] = t260;
        }
        nnx::put_four(x8, (4LL * f), out_x8);
        nnx::put_four(x9, (4LL * f), out_x9);
        nnx::put_four(x2, (4LL * f), out_x2);
    }
    for (long long i18 = (4LL * fours) + block * 256 + threadIdx.x; i18 < 40LL; i18 += blocks * 256) {
        auto t244 = x8[i18];
        // %217: f32[5, 8] = multiply(0.9, captured6)
        auto t245 = (nnx::cast<nnx::f32>(0.9) * t244);
        auto t246 = y2[i18];
        // %218: f32[5, 8] = multiply(0.09999999999999998, %215)
        auto t247 = (nnx::cast<nnx::f32>(0.09999999999999998) * t246);
        // %219: f32[5, 8] = add(%217, %218)
        auto t248 = (t245 + t247);
        auto t249 = x9[i18];
        // %220: f32[5, 8] = multiply(0.999, captured7)
        auto t250 = (nnx::cast<nnx::f32>(0.999) * t249);
        // %221: f32[5, 8] = multiply(%215, %215)
        auto t251 = (t246 * t246);
        // %222: f32[5, 8] = multiply(0.0010000000000000009, %221)
        auto t252 = (nnx::cast<nnx::f32>(0.0010000000000000009) * t251);
        // %223: f32[5, 8] = add(%220, %222)
        auto t253 = (t250 + t252);
        auto t254 = x2[i18];
        // %224: f32[5, 8] = sqrt(%223)
        auto t255 = nnx::sqrt(t253);
        // %225: f32[5, 8] = multiply(%224, ((1.0 - (0.999 ** (n0 + 1))) ** -0.5))
        auto t256 = (t255 * k8);
        // %226: f32[5, 8] = add(%225, 1e-08)
        auto t257 = (t256 + nnx::cast<nnx::f32>(1e-08));
        // %227: f32[5, 8] = divide(%219, %226)
        auto t258 = nnx::divide(t248, t257);
        // %228: f32[5, 8] = multiply((n2 / (1.0 - (0.9 ** (n0 + 1)))), %227)
        auto t259 = (k7 * t258);
        // %229: f32[5, 8] = subtract(captured0, %228)
        auto t260 = (t254 - t259);
        x8[i18] = t248;
        x9[i18] = t253;
        x2[i18] = t260;
    }
}

static __device__ __forceinline__ void part9(long long block, long long blocks, const long long *__restrict__ call, long long *status, float *x2, float *x3, float *x4, float *x5, float *x8, float *x9, float *x10, float *x11, float *x12, float *x13, float *x14, float *x15, const float *__restrict__ y2, const float *__restrict__ y4, float *y6, float *y8, const float *__restrict__ w11, const float *__restrict__ w12) {
    const auto k7 = nnx::cast<nnx::f32>(nnx::f64_of(call[8]));
    const auto k8 = nnx::cast<nnx::f32>(nnx::f64_of(call[9]));
    if (nnx::failed(status)) return;
    auto fours = nnx::cast<nnx::i64>(0LL);
    if ((nnx::in_fours(x10) && nnx::in_fours(y4) && nnx::in_fours(x12) && nnx::in_fours(w11) && nnx::in_fours(x14) && nnx::in_fours(w12) && nnx::in_fours(x11) && nnx::in_fours(x13) && nnx::in_fours(x15) && nnx::in_fours(x3) && nnx::in_fours(x4) && nnx::in_fours(x5))) {
        fours = (8LL / 4LL);
    }
    for (long long f = block * 256 + threadIdx.x; f < fours; f += blocks * 256) {
        auto in_x10 = nnx::four(x10, (4LL * f));
        auto in_y4 = nnx::four(y4, (4LL * f));
        auto in_x12 = nnx::four(x12, (4LL * f));
        auto in_w11 = nnx::four(w11, (4LL * f));
        auto in_x14 = nnx::four(x14, (4LL * f));
        auto in_w12 = nnx::four(w12, (4LL * f));
        auto in_x11 = nnx::four(x11, (4LL * f));
        auto in_x13 = nnx::four(x13, (4LL * f));
        auto in_x15 = nnx::four(x15, (4LL * f));
        auto in_x3 = nnx::four(x3, (4LL * f));
        auto in_x4 = nnx::four(x4, (4LL * f));
        auto in_x5 = nnx::four(x5, (4LL * f));
        auto out_x10 = nnx::any_four(x10);
        auto out_x12 = nnx::any_four(x12);
        auto out_x14 = nnx::any_four(x14);
        auto out_x11 = nnx::any_four(x11);
        auto out_x13 = nnx::any_four(x13);
        auto out_x15 = nnx::any_four(x15);
        auto out_x3 = nnx::any_four(x3);
        auto out_x4 = nnx::any_four(x4);
        auto out_x5 = nnx::any_four(x5);
        _Pragma("unroll") for (int j = 0; j < 4; j++) {
            auto t278 = in_x10.at[j];
            // %230: f32[8] = multiply(0.9, captured8)
            auto t279 = (nnx::cast<nnx::f32>(0.9) * t278);
            auto t280 = in_y4.at[j];
            // %231: f32[8] = multiply(0.09999999999999998, %216)
            auto t281 = (nnx::cast<nnx::f32>(0.09999999999999998) * t280);
            // %232: f32[8] = add(%230, %231)
            auto t282 = (t279 + t281);
            auto t283 = in_x12.at[j];
            // %243: f32[8] = multiply(0.9, captured10)
            auto t284 = (nnx::cast<nnx::f32>(0.9) * t283);
            auto t285 = in_w11.at[j];
            // %244: f32[8] = multiply(0.09999999999999998, %202)
            auto t286 = (nnx::cast<nnx::f32>(0.09999999999999998) * t285);
            // %245: f32[8] = add(%243, %244)
            auto t287 = (t284 + t286);
            auto t288 = in_x14.at[j];
            // %256: f32[8] = multiply(0.9, captured12)
            auto t289 = (nnx::cast<nnx::f32>(0.9) * t288);
            auto t290 = in_w12.at[j];
            // %257: f32[8] = multiply(0.09999999999999998, %204)
            auto t291 = (nnx::cast<nnx::f32>(0.09999999999999998) * t290);
            // %258: f32[8] = add(%256, %257)
            auto t292 = (t289 + t291);
            auto t293 = in_x11.at[j];
            // %233: f32[8] = multiply(0.999, captured9)
            auto t294 = (nnx::cast<nnx::f32>(0.999) * t293);
            // %234: f32[8] = multiply(%216, %216)
            auto t295 = (t280 * t280);
            // %235: f32[8] = multiply(0.0010000000000000009, %234)
            auto t296 = (nnx::cast<nnx::f32>(0.0010000000000000009) * t295);
            // %236: f32[8] = add(%233, %235)
            auto t297 = (t294 + t296);
            auto t298 = in_x13.at[j];
            // %246: f32[8] = multiply(0.999, captured11)
            auto t299 = (nnx::cast<nnx::f32>(0.999) * t298);
            // %247: f32[8] = multiply(%202, %202)
            auto t300 = (t285 * t285);
            // %248: f32[8] = multiply(0.0010000000000000009, %247)
            auto t301 = (nnx::cast<nnx::f32>(0.0010000000000000009) * t300);
            // %249: f32[8] = add(%246, %248)
            auto t302 = (t299 + t301);
            auto t303 = in_x15.at[j];
            // %259: f32[8] = multiply(0.999, captured13)
            auto t304 = (nnx::cast<nnx::f32>(0.999) * t303);
            // %260: f32[8] = multiply(%204, %204)
            auto t305 = (t290 * t290);
            // %261: f32[8] = multiply(0.0010000000000000009, %260)
            auto t306 = (nnx::cast<nnx::f32>(0.0010000000000000009) * t305);
            // %262: f32[8] = add(%259, %261)
            auto t307 = (t304 + t306);
            auto t308 = in_x3.at[j];
            // %237: f32[8] = sqrt(%236)
            auto t309 = nnx::sqrt(t297);
            // %238: f32[8] = multiply(%237, ((1.0 - (0.999 ** (n0 + 1))) ** -0.5))
            auto t310 = (t309 * k8);
            // %239: f32[8] = add(%238, 1e-08)
            auto t311 = (t310 + nnx::cast<nnx::f32>(1e-08));
            // %240: f32[8] = divide(%232, %239)
            auto t312 = nnx::divide(t282, t311);
            // %241: f32[8] = multiply((n2 / (1.0 - (0.9 ** (n0 + 1)))), %240)
            auto t313 = (k7 * t312);
            // %242: f32[8] = subtract(captured1, %241)
            auto t314 = (t308 - t313);
            auto t315 = in_x4.at[j];
            // %250: f32[8] = sqrt(%249)
            auto t316 = nnx::sqrt(t302);
            // %251: f32[8] = multiply(%250, ((1.0 - (0.999 ** (n0 + 1))) ** -0.5))
            auto t317 = (t316 * k8);
            // %252: f32[8] = add(%251, 1e-08)
            auto t318 = (t317 + nnx::cast<nnx::f32>(1e-08));
            // %253: f32[8] = divide(%245, %252)
            auto t319 = nnx::divide(t287, t318);
            // %254: f32[8] = multiply((n2 / (1.0 - (0.9 ** (n0 + 1)))), %253)
            auto t320 = (k7 * t319);
            // %255: f32[8] = subtract(captured2, %254)
            auto t321 = (t315 - t320);
            auto t322 = in_x5.at[j];
            // %263: f32[8] = sqrt(%262)
            auto t323 = nnx::sqrt(t307);
            // %264: f32[8] = multiply(%263, ((1.0 - (0.999 ** (n0 + 1))) ** -0.5))
            auto t324 = (t323 * k8);
            // %265: f32[8] = add(%264, 1e-08)
            auto t325 = (t324 + nnx::cast<nnx::f32>(1e-08));
            // %266: f32[8] = divide(%258, %265)
            auto t326 = nnx::divide(t292, t325);
            // %267: f32[8] = multiply((n2 / (1.0 - (0.9 ** (n0 + 1)))), %266)
            auto t327 = (k7 * t326);
            // %268: f32[8] = subtract(captured3, %267)
            auto t328 = (t322 - t327);
            out_x10.at[j] = t282;
            out_x12.at[j] = t287;
            out_x14.at[j] = t292;
            out_x11.at[j] = t297;
            out_x13.at[j] = t302;
            out_x15.at[j] = t307;
            out_x3.at[j] = t314;
            out_x4.at[j] = t321;
            out_x5.at[j] = t328;
        }
        nnx::put_four(x10, (4LL * f), out_x10);
        nnx::put_four(x12, (4LL * f), out_x12);
        nnx::put_four(x14, (4LL * f), out_x14);
        nnx::put_four(x11, (4LL * f), out_x11);
        nnx::put_four(x13, (4LL * f), out_x13);
        nnx::put_four(x15, (4LL * f), out_x15);
        nnx::put_four(x3, (4LL * f), out_x3);
        nnx::put_four(x4, (4LL * f), out_x4);
        nnx::put_four(x5, (4LL * f), out_x5);
    }
    for (long long i20 = (4LL * fours) + block * 256 + threadIdx.x; i20 < 8LL; i20 += blocks * 256) {
        auto t278 = x10[i20];
        // %230: f32[8] = multiply(0.9, captured8)
        auto t279 = (nnx::cast<nnx::f32>(0.9) * t278);
        auto t280 = y4[i20];
        // %231: f32[8] = multiply(0.09999999999999998, %216)
        auto t281 = (nnx::cast<nnx::f32>(0.09999999999999998) * t280);
        // %232: f32[8] = add(%230, %231)
        auto t282 = (t279 + t281);
        auto t283 = x12[i20];
        // %243: f32[8] = multiply(0.9, captured10)
        auto t284 = (nnx::cast<nnx::f32>(0.9) * t283);
        auto t285 = w11[i20];
        // %244: f32[8] = multiply(0.09999999999999998, %202)
        auto t286 = (nnx::cast<nnx::f32>(0.09999999999999998) * t285);
        // %245: f32[8] = add(%243, %244)
        auto t287 = (t284 + t286);
        auto t288 = x14[i20];
        // %256: f32[8] = multiply(0.9, captured12)
        auto t289 = (nnx::cast<nnx::f32>(0.9) * t288);
        auto t290 = w12[i20];
        // %257: f32[8] = multiply(0.09999999999999998, %204)
        auto t291 = (nnx::cast<nnx::f32>(0.09999999999999998) * t290);
        // %258: f32[8] = add(%256, %257)
        auto t292 = (t289 + t291);
        auto t293 = x11[i20];
        // %233: f32[8] = multiply(0.999, captured9)
        auto t294 = (nnx::cast<nnx::f32>(0.999) * t293);
        // %234: f32[8] = multiply(%216, %216)
        auto t295 = (t280 * t280);
        // %235: f32[8] = multiply(0.0010000000000000009, %234)
        auto t296 = (nnx::cast<nnx::f32>(0.0010000000000000009) * t295);
        // %236: f32[8] = add(%233, %235)
        auto t297 = (t294 + t296);
        auto t298 = x13[i20];
        // %246: f32[8] = multiply(0.999, captured11)
        auto t299 = (nnx::cast<nnx::f32>(0.999) * t298);
        // %247: f32[8] = multiply(%202, %202)
        auto t300 = (t285 * t285);
        // %248: f32[8] = multiply(0.0010000000000000009, %247)
        auto t301 = (nnx::cast<nnx::f32>(0.0010000000000000009) * t300);
        // %249: f32[8] = add(%246, %248)
        auto t302 = (t299 + t301);
        auto t303 = x15[i20];
        // %259: f32[8] = multiply(0.999, captured13)
        auto t304 = (nnx::cast<nnx::f32>(0.999) * t303);
        // %260: f32[8] = multiply(%204, %204)
        auto t305 = (t290 * t290);
        // %261: f32[8] = multiply(0.0010000000000000009, %260)
        auto t306 = (nnx::cast<nnx::f32>(0.0010000000000000009) * t305);
        // %262: f32[8] = add(%259, %261)
        auto t307 = (t304 + t306);
        auto t308 = x3[i20];
        // %237: f32[8] = sqrt(%236)
        auto t309 = nnx::sqrt(t297);
        // %238: f32[8] = multiply(%237, ((1.0 - (0.999 ** (n0 + 1))) ** -0.5))
        auto t310 = (t309 * k8);
        // %239: f32[8] = add(%238, 1e-08)
        auto t311 = (t310 + nnx::cast<nnx::f32>(1e-08));
        // %240: f32[8] = divide(%232, %239)
        auto t312 = nnx::divide(t282, t311);
        // %241: f32[8] = multiply((n2 / (1.0 - (0.9 ** (n0 + 1)))), %240)
        auto t313 = (k7 * t312);
        // %242: f32[8] = subtract(captured1, %241)
        auto t314 = (t308 - t313);
        auto t315 = x4[i20];
        // %250: f32[8] = sqrt(%249)
        auto t316 = nnx::sqrt(t302);
        // %251: f32[8] = multiply(%250, ((1.0 - (0.999 ** (n0 + 1))) ** -0.5))
        auto t317 = (t316 * k8);
        // %252: f32[8] = add(%251, 1e-08)
        auto t318 = (t317 + nnx::cast<nnx::f32>(1e-08));
        // %253: f32[8] = divide(%245, %252)
        auto t319 = nnx::divide(t287, t318);
        // %254: f32[8] = multiply((n2 / (1.0 - (0.9 ** (n0 + 1)))), %253)
        auto t320 = (k7 * t319);
        // %255: f32[8] = subtract(captured2, %254)
        auto t321 = (t315 - t320);
        auto t322 = x5[i20];
        // %263: f32[8] = sqrt(%262)
        auto t323 = nnx::sqrt(t307);
        // %264: f32[8] = multiply(%263, ((1.0 - (0.999 ** (n0 + 1))) ** -0.5))
        auto t324 = (t323 * k8);
        // %265: f32[8] = add(%264, 1e-08)
        auto t325 = (t324 + nnx::cast<nnx::f32>(1e-08));
        // %266: f32[8] = divide(%258, %265)
        auto t326 = nnx::divide(t292, t325);
        // %267: f32[8] = multiply((n2 / (1.0 - (0.9 ** (n0 + 1)))), %266)
        auto t327 = (k7 * t326);
        // %268: f32[8] = subtract(captured3, %267)
        auto t328 = (t322 - t327);
        x10[i20] = t282;
        x12[i20] = t287;
        x14[i20] = t292;
        x11[i20] = t297;
        x13[i20] = t302;
        x15[i20] = t307;
        x3[i20] = t314;
        x4[i20] = t321;
        x5[i20] = t328;
    }
}

static __device__ __forceinline__ void part11(long long block, long long blocks, const long long *__restrict__ call, long long *status, float *x2, float *x3, float *x4, float *x5, float *x8, float *x9, float *x10, float *x11, float *x12, float *x13, float *x14, float *x15, const float *__restrict__ y2, const float *__restrict__ y4, float *y6, float *y8, const float *__restrict__ w11, const float *__restrict__ w12) {
    for (long long i22 = block * 256 + threadIdx.x; i22 < 8LL; i22 += blocks * 256) {
        auto t346 = w11[i22];
        y6[i22] = t346;
    }
}

static __device__ __forceinline__ void part12(long long block, long long blocks, const long long *__restrict__ call, long long *status, float *x2, float *x3, float *x4, float *x5, float *x8, float *x9, float *x10, float *x11, float *x12, float *x13, float *x14, float *x15, const float *__restrict__ y2, const float *__restrict__ y4, float *y6, float *y8, const float *__restrict__ w11, const float *__restrict__ w12) {
    for (long long i23 = block * 256 + threadIdx.x; i23 < 8LL; i23 += blocks * 256) {
        auto t347 = w12[i23];
        y8[i23] = t347;
    }
}

extern "C" __global__ void __launch_bounds__(256, 2) k9(const long long *__restrict__ call, long long *status, float *x2, float *x3, float *x4, float *x5, float *x8, float *x9, float *x10, float *x11, float *x12, float *x13, float *x14, float *x15, const float *__restrict__ y2, const float *__restrict__ y4, float *y6, float *y8, const float *__restrict__ w11, const float *__restrict__ w12) {
    long long block = blockIdx.x, blocks;
    blocks = call[17];
    if (block < blocks) return part7(block, blocks, call, status, x2, x3, x4, x5, x8, x9, x10, x11, x12, x13, x14, x15, y2, y4, y6, y8, w11, w12);
    block -= blocks;
    blocks = call[18];
    if (block < blocks) return part9(block, blocks, call, status, x2, x3, x4, x5, x8, x9, x10, x11, x12, x13, x14, x15, y2, y4, y6, y8, w11, w12);
    block -= blocks;
    blocks = call[19];
    if (block < blocks) return part11(block, blocks, call, status, x2, x3, x4, x5, x8, x9, x10, x11, x12, x13, x14, x15, y2, y4, y6, y8, w11, w12);
    block -= blocks;
    blocks = call[20];
    if (block < blocks) return part12(block, blocks, call, status, x2, x3, x4, x5, x8, x9, x10, x11, x12, x13, x14, x15, y2, y4, y6, y8, w11, w12);
}

