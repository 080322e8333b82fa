#include "attention.h"

#include <math.h>

#include "vector.h"

enum { PAIRS = BLOCK / 2 };

static int64_t rounded_up(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

void store_token(const attention_shape *s, layer_cache cache, int32_t block, int64_t offset, const float *key,
                 const float *value, int last) {
  for (int64_t h = 0; h < s->kv_heads; h++) {
    int64_t head = (block * s->kv_heads + h) * s->dim * BLOCK;
    uint16_t *keys = cache.keys + head + 2 * offset;
    uint16_t *values = cache.values + head + offset / 2 * 2 * s->dim + offset % 2;
    for (int64_t d = 0; d < s->dim; d++) {
      keys[d / 2 * 2 * BLOCK + d % 2] = to_bf16(key[h * s->dim + d]);
      values[2 * d] = to_bf16(value[h * s->dim + d]);
    }
    /* The partner's weight will be 0, but 0 times whatever lies there may be NaN. */
    if (last && offset % 2 == 0)
      for (int64_t d = 0; d < s->dim; d++) values[2 * d + 1] = 0;
  }
}

/* Queries in pairs of features, scores, and weights in pairs of tokens, of so many queries at a time. */
enum { QUERIES = 8 };

static int64_t query_bytes(const attention_shape *s) { return QUERIES * rounded_up(s->dim * 2, 64); }

int64_t attention_scratch(const attention_shape *s, int64_t length) {
  return query_bytes(s) + QUERIES * rounded_up(length + BLOCK, 2 * BLOCK) * (int64_t)(sizeof(float) + sizeof(uint16_t));
}

/* One query: a head of a token. */
typedef struct {
  const float *query;
  float *out;
  int64_t begin, end; /* the tokens that it sees */
  float share;        /* one over the sum of its weights */
} look;

#define NAME(name) name##_float
#define TARGET
#define DOT dot_bf16_as_floats
#include "attention_body.h"
#undef NAME
#undef TARGET
#undef DOT

#define NAME(name) name##_bf16
#define TARGET __attribute__((target("avx512bf16")))
#define DOT(sums, a, b) _mm512_dpbf16_ps(sums, (__m512bh)(a), (__m512bh)(b))
#include "attention_body.h"

void attend(const attention_shape *s, layer_cache cache, const span *sp, int64_t kv_head, int64_t first, int64_t count,
            const float *queries, int64_t query_stride, float *out, int64_t out_stride, void *scratch) {
  (__builtin_cpu_supports("avx512bf16") ? attend_bf16 : attend_float)(s, cache, sp, kv_head, first, count, queries,
                                                                     query_stride, out, out_stride, scratch);
}
