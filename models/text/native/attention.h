/* Attention of each sequence over its own blocks of the cache; no row's sums depend on who else is there. */
#ifndef INGLE_ATTENTION_H
#define INGLE_ATTENTION_H

#include <stdint.h>

#include "team.h"

/* Tokens in a block of the cache. */
enum { BLOCK = 16 };

/* One layer's cache in bfloat16: keys [blocks][kv_heads][dim / 2][16 tokens][2], values [blocks][kv_heads]
 * [8 pairs of tokens][dim][2]: what is multiplied and added in one instruction lies in neighbouring pairs.
 */
typedef struct {
  uint16_t *keys, *values;
} layer_cache;

/* One sequence in a packed step: its tokens `start` to `start + count` there, whose positions begin at `position`;
 * `blocks` are its blocks in order.
 */
typedef struct {
  int64_t start, count, position;
  const int32_t *blocks;
} span;

typedef struct {
  int64_t heads, kv_heads, dim;
  float scale;
  int64_t window; /* how many tokens back a token sees, itself among them; 0 is all */
} attention_shape;

/* Puts keys and values of one token into its place. What follows the `last` token of a sequence is cleared as far as
 * it is read together with it.
 */
void store_token(const attention_shape *, layer_cache, int32_t block, int64_t offset, const float *key,
                 const float *value, int last);

/* Bytes that a member needs for itself, for sequences of up to `length` tokens. */
int64_t attention_scratch(const attention_shape *, int64_t length);

/* Lets `count` tokens of a span from `first` on (in the span) look back with all query heads of one key head.
 *
 * `queries` and `out` are rows of `query_stride` and `out_stride` floats, one for each token of the step. `scratch`
 * is 64-byte aligned.
 */
void attend(const attention_shape *, layer_cache, const span *, int64_t kv_head, int64_t first, int64_t count,
            const float *queries, int64_t query_stride, float *out, int64_t out_stride, void *scratch);

#endif
