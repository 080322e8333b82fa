/* What several kernels do with 16 floats at a time. */
#ifndef INGLE_VECTOR_H
#define INGLE_VECTOR_H

#include <immintrin.h>
#include <stdint.h>

#define ALWAYS static inline __attribute__((always_inline))

/* e to the power of x to about 1e-7 of itself: 2^n times a polynomial in the rest (Cephes). 0 far below, inf far above. */
ALWAYS __m512 exp_ps(__m512 x) {
  x = _mm512_max_ps(_mm512_min_ps(x, _mm512_set1_ps(88.7f)), _mm512_set1_ps(-104.0f));
  __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)), 0);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
  p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, n);
}

ALWAYS __m512 silu_ps(__m512 x) {
  return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), exp_ps(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

/* 2 to the power of x, x at most 0, to about 1e-6 of itself. 0 far below. */
ALWAYS __m512 exp2_ps(__m512 x) {
  x = _mm512_max_ps(x, _mm512_set1_ps(-150.0f));
  __m512 n = _mm512_roundscale_ps(x, 0), r = _mm512_sub_ps(x, n);
  __m512 p = _mm512_set1_ps(1.3399859e-3f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.6184136e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.5503380e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.4022649e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.9314718e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, n);
}

/* Which of 16 lanes are at least `begin` and below `end`. */
ALWAYS __mmask16 lanes_within(int64_t begin, int64_t end) {
  __mmask16 below = end >= 16 ? 0xffff : end <= 0 ? 0 : (__mmask16)((1u << end) - 1);
  return begin <= 0 ? below : begin >= 16 ? 0 : below & (__mmask16)(0xffffu << begin);
}

/* Floats as bfloat16 in the lower halves, rounded to the nearest, ties to even; NaN stays NaN. */
ALWAYS __m512i round_bf16(__m512 x) {
  __m512i bits = _mm512_castps_si512(x);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), 16);
  __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc0));
}

/* To each of 16 floats, the two products of neighbouring bfloat16 numbers of `a` and `b`. */
ALWAYS __m512 dot_bf16_as_floats(__m512 sums, __m512i a, __m512i b) {
  __m512i high = _mm512_set1_epi32((int32_t)0xffff0000);
  __m512 even_a = _mm512_castsi512_ps(_mm512_slli_epi32(a, 16)), even_b = _mm512_castsi512_ps(_mm512_slli_epi32(b, 16));
  __m512 odd_a = _mm512_castsi512_ps(_mm512_and_si512(a, high)), odd_b = _mm512_castsi512_ps(_mm512_and_si512(b, high));
  return _mm512_fmadd_ps(even_a, even_b, _mm512_fmadd_ps(odd_a, odd_b, sums));
}

/* 16 bfloat16 numbers as floats. */
ALWAYS __m512 load_bf16(const uint16_t *p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}

/* A float as bfloat16, rounded to the nearest, ties to even. */
ALWAYS uint16_t to_bf16(float x) {
  union {
    float f;
    uint32_t u;
  } v = {x};
  if (x != x) return 0x7fc0;
  return (uint16_t)((v.u + 0x7fff + ((v.u >> 16) & 1)) >> 16);
}

#endif
