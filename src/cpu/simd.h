/* simd.h - how kernels are written as templates.  For *_avx2.c and *_avx512.c. */
#ifndef FL_CPU_SIMD_H
#define FL_CPU_SIMD_H

/* Number of rows and types are constants after inlining. */
#define INLINE static inline __attribute__((always_inline))
/* Registers have no index: loops over them must vanish, also where the compiler finds it long. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#endif
