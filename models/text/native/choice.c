#include "choice.h"

#include <math.h>

#include "vector.h"

/* A block is looked at as a whole, and searched only if its greatest number is that of the row so far: so the
 * processor waits for memory, and not for the comparison before.
 */
enum { LANES = 16, VECTORS = 16, WAYS = 4, A_BLOCK = LANES * VECTORS };

/* The first place of `number` in `x`, which holds it. */
static int64_t place_of(const float *x, float number) {
  __m512 all = _mm512_set1_ps(number);
  for (int64_t i = 0;; i += LANES) {
    __mmask16 same = _mm512_cmp_ps_mask(_mm512_loadu_ps(x + i), all, _CMP_EQ_OQ);
    if (same) return i + __builtin_ctz(same);
  }
}

static void greatest_of_row(const float *x, int64_t count, float *number, int64_t *place) {
  __mmask16 nan = 0;
  int64_t at = 0, i = 0;
  float best = x[0];
  for (; i + A_BLOCK <= count; i += A_BLOCK) {
    __m512 most[WAYS];
    for (int way = 0; way < WAYS; way++) most[way] = _mm512_set1_ps(-INFINITY);
#pragma GCC unroll 16
    for (int v = 0; v < VECTORS; v++) {
      __m512 numbers = _mm512_loadu_ps(x + i + v * LANES);
      nan |= _mm512_cmp_ps_mask(numbers, numbers, _CMP_UNORD_Q);
      most[v % WAYS] = _mm512_max_ps(most[v % WAYS], numbers);
    }
    __m512 halves = _mm512_max_ps(_mm512_max_ps(most[0], most[1]), _mm512_max_ps(most[2], most[3]));
    float here = _mm512_reduce_max_ps(halves);
    if (here > best) {
      best = here;
      at = i;
    }
  }
  int64_t found = i > 0 && !nan ? at + place_of(x + at, best) : 0;
  for (; i < count; i++) {
    if (isnan(x[i])) nan = 1;
    if (x[i] > best) {
      best = x[i];
      found = i;
    }
  }
  *number = nan ? NAN : best;
  *place = found;
}

void greatest(const float *x, int64_t rows, int64_t count, float *number, int64_t *place) {
  for (int64_t row = 0; row < rows; row++) greatest_of_row(x + row * count, count, number + row, place + row);
}
