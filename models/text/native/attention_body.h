/* The body of `attend`, compiled once for CPUs that multiply bfloat16 and once for those that do not.
 *
 * NAME gives functions their name, TARGET their instructions; DOT(sums, a, b) adds to each of 16 floats the two
 * products of neighbouring bfloat16 numbers of `a` and `b`.
 */

#define INNER static inline __attribute__((always_inline)) TARGET

INNER __m512i NAME(pair)(const uint16_t *p) { return _mm512_set1_epi32(*(const int32_t *)p); }

INNER void NAME(score_block)(const int count, const uint16_t *queries, int64_t stride, int64_t dim,
                             const uint16_t *keys, float *scores, int64_t score_stride) {
  __m512 sums[QUERIES];
#pragma GCC unroll 8
  for (int q = 0; q < count; q++) sums[q] = _mm512_setzero_ps();
  for (int64_t d = 0; d < dim; d += 2) {
    __m512i key = _mm512_loadu_si512(keys + d * BLOCK);
#pragma GCC unroll 8
    for (int q = 0; q < count; q++) sums[q] = DOT(sums[q], key, NAME(pair)(queries + q * stride + d));
  }
#pragma GCC unroll 8
  for (int q = 0; q < count; q++) _mm512_storeu_ps(scores + q * score_stride, sums[q]);
}

/* Scores of one query to weights in bfloat16, the greatest 1; tokens outside of what it sees weigh nothing. */
static TARGET void NAME(weigh)(const float *scores, uint16_t *weights, int64_t from, int64_t to, look *l, float scale) {
  __m512 most = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();
  __m512 by = _mm512_set1_ps(scale * 1.44269504088896341f);
  for (int64_t t = from; t < to; t += BLOCK) {
    __m512 score = _mm512_mul_ps(_mm512_loadu_ps(scores + t - from), by);
    most = _mm512_mask_max_ps(most, lanes_within(l->begin - t, l->end - t), most, score);
  }
  __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(most));
  for (int64_t t = from; t < to; t += BLOCK) {
    __m512 score = _mm512_fmsub_ps(_mm512_loadu_ps(scores + t - from), by, top);
    __m512i weight = round_bf16(_mm512_maskz_mov_ps(lanes_within(l->begin - t, l->end - t), exp2_ps(score)));
    total = _mm512_add_ps(total, _mm512_castsi512_ps(_mm512_slli_epi32(weight, 16)));
    _mm256_storeu_si256((__m256i *)(weights + t - from), _mm512_cvtepi32_epi16(weight));
  }
  l->share = 1.0f / _mm512_reduce_add_ps(total);
}

/* `width` vectors of features of all queries' outputs, from `feature` on. */
INNER void NAME(mix)(const int count, const int width, const attention_shape *s, layer_cache cache, const span *sp,
                     int64_t kv_head, int64_t from, int64_t end, const uint16_t *weights, int64_t stride,
                     int64_t feature, const look *looks) {
  __m512 sums[QUERIES][2];
#pragma GCC unroll 8
  for (int q = 0; q < count; q++)
    for (int c = 0; c < width; c++) sums[q][c] = _mm512_setzero_ps();
  for (int64_t t = from; t < end; t += BLOCK) {
    const uint16_t *value = cache.values + (sp->blocks[t / BLOCK] * s->kv_heads + kv_head) * BLOCK * s->dim + 2 * feature;
    /* Beyond `end` the cache may hold anything, even NaN. */
    int64_t pairs = end - t >= BLOCK ? PAIRS : (end - t + 1) / 2;
    for (int64_t p = 0; p < pairs; p++, value += 2 * s->dim) {
      __m512i parts[2];
      for (int c = 0; c < width; c++) parts[c] = _mm512_loadu_si512(value + 32 * c);
#pragma GCC unroll 8
      for (int q = 0; q < count; q++) {
        __m512i weight = NAME(pair)(weights + q * stride + t - from + 2 * p);
        for (int c = 0; c < width; c++) sums[q][c] = DOT(sums[q][c], parts[c], weight);
      }
    }
  }
#pragma GCC unroll 8
  for (int q = 0; q < count; q++)
    for (int c = 0; c < width; c++)
      _mm512_storeu_ps(looks[q].out + feature + 16 * c, _mm512_mul_ps(sums[q][c], _mm512_set1_ps(looks[q].share)));
}

INNER void NAME(attend_together)(const int count, const attention_shape *s, layer_cache cache, const span *sp,
                                 int64_t kv_head, look *looks, void *scratch) {
  uint16_t *queries = scratch;
  int64_t query_stride = query_bytes(s) / QUERIES / 2, from = looks[0].begin, end = looks[0].end;
  for (int q = 0; q < count; q++) {
    for (int64_t d = 0; d < s->dim; d += 16)
      _mm256_storeu_si256((__m256i *)(queries + q * query_stride + d),
                          _mm512_cvtepi32_epi16(round_bf16(_mm512_loadu_ps(looks[q].query + d))));
    from = looks[q].begin < from ? looks[q].begin : from;
    end = looks[q].end > end ? looks[q].end : end;
  }
  from = from / BLOCK * BLOCK;
  int64_t stride = rounded_up(end - from, BLOCK);
  float *scores = (float *)((char *)scratch + query_bytes(s));
  uint16_t *weights = (uint16_t *)(scores + QUERIES * stride);
  for (int64_t t = from; t < end; t += BLOCK) {
    const uint16_t *keys = cache.keys + (sp->blocks[t / BLOCK] * s->kv_heads + kv_head) * s->dim * BLOCK;
    NAME(score_block)(count, queries, query_stride, s->dim, keys, scores + t - from, stride);
  }
  for (int q = 0; q < count; q++)
    NAME(weigh)(scores + q * stride, weights + q * stride, from, end, &looks[q], s->scale);
  int64_t d = 0;
  for (; d + 32 <= s->dim; d += 32)
    NAME(mix)(count, 2, s, cache, sp, kv_head, from, end, weights, stride, d, looks);
  for (; d < s->dim; d += 16) NAME(mix)(count, 1, s, cache, sp, kv_head, from, end, weights, stride, d, looks);
}

static TARGET void NAME(attend)(const attention_shape *s, layer_cache cache, const span *sp, int64_t kv_head,
                                int64_t first, int64_t count, const float *queries, int64_t query_stride, float *out,
                                int64_t out_stride, void *scratch) {
  int64_t group = s->heads / s->kv_heads, total = count * group;
  look looks[QUERIES];
  for (int64_t done = 0; done < total;) {
    int now = total - done < QUERIES ? (int)(total - done) : QUERIES;
    for (int q = 0; q < now; q++) {
      int64_t token = first + (done + q) / group, head = kv_head * group + (done + q) % group;
      int64_t row = sp->start + token, end = sp->position + token + 1;
      int64_t begin = s->window > 0 && end > s->window ? end - s->window : 0;
      looks[q] = (look){queries + row * query_stride + head * s->dim, out + row * out_stride + head * s->dim, begin,
                        end, 0};
    }
    switch (now) {
#define CASE(n) \
  case n: NAME(attend_together)(n, s, cache, sp, kv_head, looks, scratch); break;
      CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#undef CASE
    }
    done += now;
  }
}

#undef INNER
