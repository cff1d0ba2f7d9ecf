/* sparse24.cuh - 2:4 weights: two kept codes of each 4 columns, and 2 bits for the place of each. */
#ifndef FL_CUDA_SPARSE24_CUH
#define FL_CUDA_SPARSE24_CUH

#include "cuda/device.cuh"

struct e4m3_24 { /* 2:4 codes */
    uint8_t code;
};

/* Two kept codes of 4 columns -> the 4 codes. */
__device__ __forceinline__ uint32_t spread(uint32_t two, uint32_t places) {
    return (two & 0xff) << (places & 3) * 8 | (two >> 8 & 0xff) << (places >> 2 & 3) * 8;
}

/* 16 columns: 8 kept codes and their places -> 16 codes. */
__device__ __forceinline__ uint4 expand(uint2 kept, uint32_t places) {
    return make_uint4(spread(kept.x, places), spread(kept.x >> 16, places >> 4), spread(kept.y, places >> 8),
                      spread(kept.y >> 16, places >> 12));
}

#endif
