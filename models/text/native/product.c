#include "product.h"

#include <math.h>
#include <string.h>

#include "vector.h"

/* Eight rows and two columns keep 16 sums in registers, enough for a processor that begins two products a cycle and has
 * each after four, and the weights in the nearest cache for the next rows. STRIDE inputs of a pair of columns are LINES
 * lines of cache.
 */
enum { ROWS = 8, HALF = 4, STRIDE = 16, LINE = 64, LINES = 8, CHUNKS_A_MEMBER = 16 };

static float quantize_group(const float *x, int64_t count, uint8_t *out) {
  /* A row that holds NaN must not come out as numbers: max_ps drops NaN, so its sum is asked too. */
  __m512 most = _mm512_setzero_ps(), sum = _mm512_setzero_ps();
  for (int64_t i = 0; i < count; i += 16) {
    __m512 v = _mm512_loadu_ps(x + i);
    most = _mm512_max_ps(most, _mm512_abs_ps(v));
    sum = _mm512_add_ps(sum, v);
  }
  float largest = _mm512_reduce_max_ps(most), total = _mm512_reduce_add_ps(sum);
  __m512 inverse = _mm512_set1_ps(largest > 0 ? 127.0f / largest : 0.0f);
  __m512i zero = _mm512_set1_epi32(128);
  for (int64_t i = 0; i < count; i += 16) {
    __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), inverse));
    _mm_storeu_si128((__m128i *)(out + i), _mm512_cvtusepi32_epi8(_mm512_add_epi32(rounded, zero)));
  }
  return isfinite(total) ? largest / 127.0f : NAN;
}

void quantize_row(const float *x, int64_t count, int64_t group, uint8_t *out, float *scale) {
  for (int64_t start = 0; start < count; start += group) *scale++ = quantize_group(x + start, group, out + start);
}

typedef struct {
  const product_weights *weights;
  const uint8_t *x;
  const float *x_scale;
  int64_t rows;
  float *out;
  int64_t stride, limit;
  product_end end;
} operands;

ALWAYS void finish(const operands *o, int64_t row, int64_t pair, const __m512 totals[2]) {
  const product_weights *w = o->weights;
  __m512 value[2];
  for (int c = 0; c < 2; c++) {
    int64_t n = pair * PAIR + c * COLUMN;
    value[c] = _mm512_mul_ps(totals[c], _mm512_loadu_ps(w->scale + n));
    if (w->bias != NULL) value[c] = _mm512_add_ps(value[c], _mm512_loadu_ps(w->bias + n));
  }
  float *out = o->out + row * o->stride;
  if (o->end == GATE) {
    int64_t n = pair * COLUMN;
    if (n < o->limit) _mm512_storeu_ps(out + n, _mm512_mul_ps(silu_ps(value[0]), value[1]));
    return;
  }
  for (int c = 0; c < 2; c++) {
    int64_t n = pair * PAIR + c * COLUMN;
    if (n >= o->limit) return;
    __mmask16 inside = o->limit - n >= COLUMN ? 0xffff : (__mmask16)((1u << (o->limit - n)) - 1);
    if (o->end == ADD) value[c] = _mm512_add_ps(value[c], _mm512_maskz_loadu_ps(inside, out + n));
    _mm512_mask_storeu_ps(out + n, inside, value[c]);
  }
}

/* `rows` rows times a pair of columns. Meanwhile `lines` lines of cache for every STRIDE inputs are fetched from
 * `ahead` on, so that memory works while the sums do.
 */
ALWAYS void tile(const operands *o, int64_t row, int64_t pair, const int rows, const int lines, const int grouped,
                 const char *ahead) {
  const product_weights *w = o->weights;
  /* Said so that one group, the usual case, needs no registers for what the groups before it came to. */
  const int64_t inputs = w->inputs, size = grouped ? w->group : inputs, groups = grouped ? inputs / size : 1;
  const int8_t *left = w->packed + pair * PAIR * inputs, *right = left + COLUMN * inputs;
  const uint8_t *x = o->x + row * inputs;
  __m512 totals[ROWS][2];
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++) totals[r][0] = totals[r][1] = _mm512_setzero_ps();
  for (int64_t group = 0; group < groups; group++) {
    const int32_t *offset = w->offset + group * w->outputs + pair * PAIR;
    __m512i sums[ROWS][2];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
      for (int c = 0; c < 2; c++) sums[r][c] = _mm512_loadu_si512(offset + c * COLUMN);
    for (int64_t stride = group * size; stride < (group + 1) * size; stride += STRIDE) {
      for (int l = 0; l < lines; l++, ahead += LINE) _mm_prefetch(ahead, _MM_HINT_T1);
#pragma GCC unroll 4
      for (int64_t k = stride; k < stride + STRIDE; k += GROUP) {
        __m512i a = _mm512_load_si512(left + k * COLUMN), b = _mm512_load_si512(right + k * COLUMN);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
          int32_t four;
          memcpy(&four, x + r * inputs + k, sizeof four);
          __m512i all = _mm512_set1_epi32(four);
          sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], all, a);
          sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], all, b);
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
      __m512 scale = _mm512_set1_ps(o->x_scale[(row + r) * groups + group]);
      for (int c = 0; c < 2; c++)
        totals[r][c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r][c]), scale, totals[r][c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++) finish(o, row + r, pair, totals[r]);
}

static void tile_of(const operands *o, int64_t row, int64_t pair, int64_t rows, int64_t lines, const char *ahead) {
  int grouped = o->weights->group < o->weights->inputs;
  switch ((rows * 16 + lines) * 2 + grouped) {
#define CASE(r, l, g) \
  case (r * 16 + l) * 2 + g: tile(o, row, pair, r, l, g, ahead); break;
#define CASES(r) CASE(r, 0, 0) CASE(r, 1, 0) CASE(r, 2, 0) CASE(r, 3, 0) CASE(r, 4, 0) \
                 CASE(r, 0, 1) CASE(r, 1, 1) CASE(r, 2, 1) CASE(r, 3, 1) CASE(r, 4, 1)
    CASES(1) CASES(2) CASES(3) CASES(4) CASES(5) CASES(6) CASES(7) CASES(8)
#undef CASES
#undef CASE
  }
}

/* All rows times a pair of columns, in tiles of about as many rows each. The first rows wait for the weights to come from
 * memory; while the others are computed, those of the next pair are fetched, a share with each. Lone rows leave that to
 * the processor, which sees what is coming.
 */
static void multiply_pair(const operands *o, int64_t pair) {
  int64_t size = PAIR * o->weights->inputs, fetched = 0;
  int64_t tiles = o->rows <= HALF ? 1 : o->rows <= ROWS ? 2 : (o->rows + ROWS - 1) / ROWS;
  const char *next = (const char *)(o->weights->packed + (pair + 1) * size);
  int is_last = (pair + 1) * PAIR >= o->weights->outputs;
  int64_t share = tiles == 1 || is_last ? 0 : (LINES + tiles - 1) / tiles;
  for (int64_t t = 0, row = 0; t < tiles; t++) {
    int64_t rows = (o->rows - row) / (tiles - t), lines = fetched < size ? share : 0;
    tile_of(o, row, pair, rows, lines, next + fetched);
    fetched += lines * LINE * (o->weights->inputs / STRIDE);
    row += rows;
  }
}

void multiply(team *t, const product_weights *weights, const uint8_t *x, const float *x_scale, int64_t rows, float *out,
              int64_t stride, int64_t limit, product_end end) {
  operands o = {weights, x, x_scale, rows, out, stride, limit, end};
  int64_t pairs = weights->outputs / PAIR;
  int64_t chunk = pairs / (team_size(t) * CHUNKS_A_MEMBER) + 1;
  for (int64_t first; (first = team_next(t) * chunk) < pairs;)
    for (int64_t pair = first; pair < first + chunk && pair < pairs; pair++) multiply_pair(&o, pair);
}

typedef struct {
  const product_weights *weights;
  const float *x;
  int64_t rows;
  uint8_t *quantized;
  float *row_scale, *out;
} whole_product;

static void product_member(team *t, void *context, int me) {
  const whole_product *p = context;
  const product_weights *w = p->weights;
  for (int64_t row = me; row < p->rows; row += team_size(t))
    quantize_row(p->x + row * w->inputs, w->inputs, w->group, p->quantized + row * w->inputs,
                 p->row_scale + row * (w->inputs / w->group));
  team_barrier(t);
  multiply(t, w, p->quantized, p->row_scale, p->rows, p->out, w->outputs, w->outputs, STORE);
}

void product(team *t, const product_weights *weights, const float *x, int64_t rows, uint8_t *quantized,
             float *row_scale, float *out) {
  whole_product p = {weights, x, rows, quantized, row_scale, out};
  team_run(t, product_member, &p);
}

void pack_weights(const product_weights *w, const int8_t *weights, int64_t rows, int64_t first, int64_t step,
                  int8_t *packed, int32_t *offset) {
  for (int64_t n = 0; n < rows; n++) {
    int64_t column = first + n / COLUMN * step, lane = n % COLUMN;
    int8_t *into = packed + column * COLUMN * w->inputs + lane * GROUP;
    for (int64_t start = 0; start < w->inputs; start += w->group) {
      int32_t sum = 0;
      for (int64_t k = start; k < start + w->group; k += GROUP) {
        memcpy(into + k * COLUMN, weights + n * w->inputs + k, GROUP);
        for (int g = 0; g < GROUP; g++) sum += weights[n * w->inputs + k + g];
      }
      offset[start / w->group * w->outputs + column * COLUMN + lane] = -128 * sum;
    }
  }
}
