/* A whole step of a decoder: token ids in, logits out. What Python calls. */
#ifndef INGLE_FORWARD_H
#define INGLE_FORWARD_H

#include <stdint.h>

#include "attention.h"
#include "product.h"
#include "team.h"

/* Pre-norm layers with grouped-query attention, rotary positions and a gated SiLU network. */
typedef struct {
  product_weights qkv, out, gate_up, down;
  const float *norm_in, *norm_mid;      /* [width] */
  const float *norm_query, *norm_key;   /* [dim], or NULL */
  layer_cache cache;
  int64_t window;
} decoder_layer;

typedef struct {
  int64_t layers, width, inner, vocabulary, heads, kv_heads, dim, rotated;
  float eps, scale;
  const decoder_layer *layer;
  const uint16_t *embedding;  /* [vocabulary][width], bfloat16 */
  const float *norm_out;      /* [width] */
  product_weights head;
  const float *cosines, *sines; /* [positions][rotated / 2] */
} decoder;

/* What stands between the products: room for `rows` tokens and sequences of `length`, and a member's own room. */
typedef struct {
  int64_t rows, length;
  float *hidden;        /* [rows][width] */
  float *mixed;         /* [rows][(heads + 2 kv_heads) dim] */
  float *seen;          /* [rows][heads dim] */
  float *gated;         /* [rows][inner] */
  float *normed;        /* [members][width] */
  uint8_t *quantized;   /* [rows][most of width, heads dim, inner] */
  float *row_scale;     /* [rows][most groups of a product] */
  void *scratch;        /* [members][forward_scratch bytes] */
} workspace;

/* `tokens` tokens of `spans` sequences. The logits of the `kept` rows, in ascending order, go to `logits`
 * ([kept][vocabulary]), and what these are made of, the normed hidden states, to `states` ([kept][width]) unless that
 * is NULL. Ids, positions and blocks must have been checked.
 */
typedef struct {
  int64_t tokens, spans, kept;
  const int32_t *ids;
  const span *span;
  const int32_t *keep;
  float *logits, *states;
} batch;

/* Bytes of a member's own room for sequences of up to `length` tokens. */
int64_t forward_scratch(const decoder *, int64_t length);

void forward(team *, const decoder *, const workspace *, const batch *);

#endif
