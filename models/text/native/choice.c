#include "choice.h"

#include <math.h>

#include "vector.h"

enum { LANES = 16 };

static void greatest_of_row(const float *x, int64_t count, float *number, int64_t *place) {
  __m512 most = _mm512_set1_ps(-INFINITY);
  __m512i step = _mm512_setzero_si512();
  __mmask16 nan = 0;
  int64_t whole = count / LANES;
  for (int64_t i = 0; i <= whole; i++) {
    __mmask16 inside = i < whole ? 0xffff : (__mmask16)((1u << (count % LANES)) - 1);
    __m512 v = _mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITY), inside, x + i * LANES);
    nan |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    __mmask16 greater = _mm512_cmp_ps_mask(v, most, _CMP_GT_OQ);
    most = _mm512_mask_mov_ps(most, greater, v);
    step = _mm512_mask_mov_epi32(step, greater, _mm512_set1_epi32((int32_t)i));
  }
  float lanes[LANES];
  int32_t steps[LANES];
  _mm512_storeu_ps(lanes, most);
  _mm512_storeu_si512(steps, step);
  int64_t best = -1;
  for (int lane = 0; lane < LANES; lane++) {
    int64_t at = (int64_t)steps[lane] * LANES + lane;
    if (at >= count) continue;
    if (best < 0 || lanes[lane] > *number || (lanes[lane] == *number && at < best)) {
      *number = lanes[lane];
      best = at;
    }
  }
  *place = best;
  if (nan) *number = NAN;
}

void greatest(const float *x, int64_t rows, int64_t count, float *number, int64_t *place) {
  for (int64_t row = 0; row < rows; row++) greatest_of_row(x + row * count, count, number + row, place + row);
}
