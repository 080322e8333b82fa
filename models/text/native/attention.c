#include "attention.h"

#include <math.h>

#include "vector.h"

/* Sums of so many queries at a time stay in registers. */
enum { QUERIES = 8 };

void store_token(const attention_shape *s, layer_cache cache, int32_t block, int64_t offset, const float *key,
                 const float *value) {
  for (int64_t h = 0; h < s->kv_heads; h++) {
    uint16_t *keys = cache.keys + (block * s->kv_heads + h) * s->dim * BLOCK + offset;
    uint16_t *values = cache.values + ((block * s->kv_heads + h) * BLOCK + offset) * s->dim;
    for (int64_t d = 0; d < s->dim; d++) {
      keys[d * BLOCK] = to_bf16(key[h * s->dim + d]);
      values[d] = to_bf16(value[h * s->dim + d]);
    }
  }
}

static int64_t rounded_up(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

int64_t attention_scratch(const attention_shape *s, int64_t length) {
  return QUERIES * (rounded_up(length, BLOCK) + s->dim);
}

/* One query: a head of a token. */
typedef struct {
  const float *query;
  float *out;
  int64_t begin, end; /* the tokens that it sees */
} look;

ALWAYS void score_block(const int count, const float *const *queries, int64_t dim, const uint16_t *keys, float *scores,
                        int64_t stride) {
  __m512 sums[QUERIES];
#pragma GCC unroll 8
  for (int q = 0; q < count; q++) sums[q] = _mm512_setzero_ps();
  for (int64_t d = 0; d < dim; d++) {
    __m512 key = load_bf16(keys + d * BLOCK);
#pragma GCC unroll 8
    for (int q = 0; q < count; q++) sums[q] = _mm512_fmadd_ps(_mm512_set1_ps(queries[q][d]), key, sums[q]);
  }
#pragma GCC unroll 8
  for (int q = 0; q < count; q++) _mm512_storeu_ps(scores + q * stride, sums[q]);
}

/* Scores of one query to weights that add up to 1; tokens outside of what it sees weigh nothing. */
static void weigh(float *scores, int64_t from, int64_t to, const look *l, float scale) {
  __m512 most = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps(), by = _mm512_set1_ps(scale);
  __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int64_t t = from; t < to; t += BLOCK) {
    __m512i token = _mm512_add_epi32(lane, _mm512_set1_epi32((int32_t)t));
    __mmask16 seen = _mm512_cmpge_epi32_mask(token, _mm512_set1_epi32((int32_t)l->begin)) &
                     _mm512_cmplt_epi32_mask(token, _mm512_set1_epi32((int32_t)l->end));
    __m512 score = _mm512_mul_ps(_mm512_loadu_ps(scores + t - from), by);
    score = _mm512_mask_blend_ps(seen, _mm512_set1_ps(-INFINITY), score);
    _mm512_storeu_ps(scores + t - from, score);
    most = _mm512_max_ps(most, score);
  }
  __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(most));
  for (int64_t t = from; t < to; t += BLOCK) {
    __m512 score = _mm512_loadu_ps(scores + t - from);
    __mmask16 seen = _mm512_cmpneq_ps_mask(score, _mm512_set1_ps(-INFINITY));
    __m512 weight = _mm512_maskz_mov_ps(seen, exp_ps(_mm512_sub_ps(score, top)));
    _mm512_storeu_ps(scores + t - from, weight);
    total = _mm512_add_ps(total, weight);
  }
  __m512 share = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(total));
  for (int64_t t = from; t < to; t += BLOCK)
    _mm512_storeu_ps(scores + t - from, _mm512_mul_ps(_mm512_loadu_ps(scores + t - from), share));
}

/* `width` vectors of features of all queries' outputs, from `feature` on. */
ALWAYS void mix(const int count, const int width, const attention_shape *s, layer_cache cache, const span *sp,
                int64_t kv_head, int64_t from, int64_t end, const float *weights, int64_t stride, int64_t feature,
                const look *looks) {
  __m512 sums[QUERIES][2];
#pragma GCC unroll 8
  for (int q = 0; q < count; q++)
    for (int c = 0; c < width; c++) sums[q][c] = _mm512_setzero_ps();
  for (int64_t t = from; t < end;) {
    const uint16_t *value =
        cache.values + (sp->blocks[t / BLOCK] * s->kv_heads + kv_head) * BLOCK * s->dim + feature;
    /* Beyond `end` the cache may hold anything, even NaN. */
    int64_t stop = t + BLOCK < end ? t + BLOCK : end;
    for (; t < stop; t++, value += s->dim) {
      __m512 parts[2];
      for (int c = 0; c < width; c++) parts[c] = load_bf16(value + 16 * c);
#pragma GCC unroll 8
      for (int q = 0; q < count; q++) {
        __m512 weight = _mm512_set1_ps(weights[q * stride + t - from]);
        for (int c = 0; c < width; c++) sums[q][c] = _mm512_fmadd_ps(weight, parts[c], sums[q][c]);
      }
    }
  }
#pragma GCC unroll 8
  for (int q = 0; q < count; q++)
    for (int c = 0; c < width; c++) _mm512_storeu_ps(looks[q].out + feature + 16 * c, sums[q][c]);
}

ALWAYS void attend_together(const int count, const attention_shape *s, layer_cache cache, const span *sp,
                            int64_t kv_head, const look *looks, float *scores) {
  const float *queries[QUERIES];
  int64_t from = looks[0].begin, end = looks[0].end;
  for (int q = 0; q < count; q++) {
    queries[q] = looks[q].query;
    from = looks[q].begin < from ? looks[q].begin : from;
    end = looks[q].end > end ? looks[q].end : end;
  }
  from = from / BLOCK * BLOCK;
  int64_t stride = rounded_up(end - from, BLOCK);
  for (int64_t t = from; t < end; t += BLOCK) {
    const uint16_t *keys = cache.keys + (sp->blocks[t / BLOCK] * s->kv_heads + kv_head) * s->dim * BLOCK;
    score_block(count, queries, s->dim, keys, scores + t - from, stride);
  }
  for (int q = 0; q < count; q++) weigh(scores + q * stride, from, end, &looks[q], s->scale);
  int64_t d = 0;
  for (; d + 32 <= s->dim; d += 32) mix(count, 2, s, cache, sp, kv_head, from, end, scores, stride, d, looks);
  for (; d < s->dim; d += 16) mix(count, 1, s, cache, sp, kv_head, from, end, scores, stride, d, looks);
}

void attend(const attention_shape *s, layer_cache cache, const span *sp, int64_t kv_head, int64_t first, int64_t count,
            const float *queries, int64_t query_stride, float *out, int64_t out_stride, float *scratch) {
  int64_t group = s->heads / s->kv_heads, total = count * group;
  look looks[QUERIES];
  for (int64_t done = 0; done < total;) {
    int now = total - done < QUERIES ? (int)(total - done) : QUERIES;
    for (int q = 0; q < now; q++) {
      int64_t token = first + (done + q) / group, head = kv_head * group + (done + q) % group;
      int64_t row = sp->start + token, end = sp->position + token + 1;
      looks[q] = (look){queries + row * query_stride + head * s->dim, out + row * out_stride + head * s->dim,
                        s->window > 0 && end > s->window ? end - s->window : 0, end};
    }
    switch (now) {
#define CASE(n) \
  case n: attend_together(n, s, cache, sp, kv_head, looks, scratch); break;
      CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#undef CASE
    }
    done += now;
  }
}
