#include "forward.h"

#include <math.h>
#include <string.h>

#include "vector.h"

/* Tokens of a prompt whose attention is one item of work. */
enum { TOKENS_AN_ITEM = 16 };

typedef struct {
  const decoder *model;
  const workspace *space;
  const batch *batch;
} work;

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

static attention_shape shape_of(const decoder *m, const decoder_layer *layer) {
  return (attention_shape){m->heads, m->kv_heads, m->dim, m->scale, layer != NULL ? layer->window : 0};
}

int64_t forward_scratch(const decoder *m, int64_t length) {
  attention_shape shape = shape_of(m, NULL);
  return (attention_scratch(&shape, length) + 63) / 64 * 64;
}

static void share(int64_t rows, int members, int me, int64_t *from, int64_t *to) {
  *from = rows * me / members;
  *to = rows * (me + 1) / members;
}

/* `out = x / rms(x) * weight`; `count` is a multiple of 16. Safe in place. */
static void rms_norm(const float *x, const float *weight, int64_t count, float eps, float *out) {
  __m512 squares = _mm512_setzero_ps();
  for (int64_t i = 0; i < count; i += 16) {
    __m512 v = _mm512_loadu_ps(x + i);
    squares = _mm512_fmadd_ps(v, v, squares);
  }
  __m512 by = _mm512_set1_ps(1.0f / sqrtf(_mm512_reduce_add_ps(squares) / (float)count + eps));
  for (int64_t i = 0; i < count; i += 16)
    _mm512_storeu_ps(out + i, _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(x + i), by), _mm512_loadu_ps(weight + i)));
}

static void embed(const work *w, int64_t from, int64_t to) {
  const decoder *m = w->model;
  for (int64_t t = from; t < to; t++)
    for (int64_t i = 0; i < m->width; i += 16)
      _mm512_storeu_ps(w->space->hidden + t * m->width + i,
                       load_bf16(m->embedding + w->batch->ids[t] * m->width + i));
}

/* Quantises row `row` of what `next` multiplies. */
static void quantize(const work *w, const product_weights *next, int64_t row, const float *x) {
  quantize_row(x, next->inputs, next->group, w->space->quantized + row * next->inputs,
               w->space->row_scale + row * (next->inputs / next->group));
}

/* Normalises and quantises row `row` of the hidden states for the product `next`. */
static void prepare(const work *w, int me, const float *weight, const product_weights *next, int64_t row) {
  const decoder *m = w->model;
  float *normed = w->space->normed + me * m->width;
  rms_norm(w->space->hidden + row * m->width, weight, m->width, m->eps, normed);
  quantize(w, next, row, normed);
}

/* Turns feature i and its partner i + rotated / 2 by the angle of the position. */
static void rotate(float *x, int64_t rotated, const float *cosine, const float *sine) {
  int64_t half = rotated / 2;
  for (int64_t i = 0; i < half; i++) {
    float a = x[i], b = x[i + half];
    x[i] = a * cosine[i] - b * sine[i];
    x[i + half] = b * cosine[i] + a * sine[i];
  }
}

/* Norms and turns queries and keys of one token, and puts keys and values into the cache. */
static void place(const work *w, const decoder_layer *layer, const span *sp, int64_t token) {
  const decoder *m = w->model;
  int64_t position = sp->position + token - sp->start, half = m->rotated / 2;
  float *mixed = w->space->mixed + token * (m->heads + 2 * m->kv_heads) * m->dim;
  for (int64_t h = 0; h < m->heads + m->kv_heads; h++) {
    float *head = mixed + h * m->dim;
    const float *norm = h < m->heads ? layer->norm_query : layer->norm_key;
    if (norm != NULL) rms_norm(head, norm, m->dim, m->eps, head);
    rotate(head, m->rotated, m->cosines + position * half, m->sines + position * half);
  }
  attention_shape shape = shape_of(m, layer);
  store_token(&shape, layer->cache, sp->blocks[position / BLOCK], position % BLOCK, mixed + m->heads * m->dim,
              mixed + (m->heads + m->kv_heads) * m->dim, token == sp->start + sp->count - 1);
}

static void place_share(const work *w, const decoder_layer *layer, int64_t from, int64_t to) {
  const batch *b = w->batch;
  for (int64_t s = 0; s < b->spans; s++) {
    const span *sp = &b->span[s];
    for (int64_t t = most(sp->start, from); t < sp->start + sp->count && t < to; t++) place(w, layer, sp, t);
  }
}

/* Items of attention: each key head of each piece of each span. */
static void look_back(team *t, const work *w, const decoder_layer *layer, int me) {
  const decoder *m = w->model;
  attention_shape shape = shape_of(m, layer);
  int64_t mine = team_next(t), item = 0, mixed = (m->heads + 2 * m->kv_heads) * m->dim;
  char *scratch = (char *)w->space->scratch + me * forward_scratch(m, w->space->length);
  for (int64_t s = 0; s < w->batch->spans; s++) {
    const span *sp = &w->batch->span[s];
    for (int64_t first = 0; first < sp->count; first += TOKENS_AN_ITEM) {
      for (int64_t h = 0; h < m->kv_heads; h++, item++) {
        if (item != mine) continue;
        int64_t count = sp->count - first < TOKENS_AN_ITEM ? sp->count - first : TOKENS_AN_ITEM;
        attend(&shape, layer->cache, sp, h, first, count, w->space->mixed, mixed, w->space->seen, m->heads * m->dim,
               scratch);
        mine = team_next(t);
      }
    }
  }
}

/* Leaves only the kept rows in `hidden` and `seen`, at their beginning. Run by one member. */
static void keep_only(const work *w) {
  const decoder *m = w->model;
  for (int64_t k = 0; k < w->batch->kept; k++) {
    int64_t row = w->batch->keep[k];
    if (row == k) continue;
    memcpy(w->space->hidden + k * m->width, w->space->hidden + row * m->width, (size_t)m->width * sizeof(float));
    memcpy(w->space->seen + k * m->heads * m->dim, w->space->seen + row * m->heads * m->dim,
           (size_t)(m->heads * m->dim) * sizeof(float));
  }
}

static void times(team *t, const work *w, const product_weights *weights, int64_t rows, float *out, int64_t stride,
                  product_end end) {
  multiply(t, weights, w->space->quantized, w->space->row_scale, rows, out, stride, stride, end);
  team_barrier(t);
}

/* One layer; the last one goes on with the kept rows only. Returns how many rows there are now. */
static int64_t run_layer(team *t, const work *w, int64_t index, int me) {
  const decoder *m = w->model;
  const workspace *space = w->space;
  const decoder_layer *layer = &m->layer[index];
  int64_t rows = w->batch->tokens, from, to;
  share(rows, team_size(t), me, &from, &to);
  for (int64_t r = from; r < to; r++) prepare(w, me, layer->norm_in, &layer->qkv, r);
  team_barrier(t);
  times(t, w, &layer->qkv, rows, space->mixed, (m->heads + 2 * m->kv_heads) * m->dim, STORE);
  place_share(w, layer, from, to);
  team_barrier(t);
  look_back(t, w, layer, me);
  team_barrier(t);
  if (index == m->layers - 1) {
    if (me == 0) keep_only(w);
    team_barrier(t);
    rows = w->batch->kept;
    share(rows, team_size(t), me, &from, &to);
  }
  for (int64_t r = from; r < to; r++) quantize(w, &layer->out, r, space->seen + r * m->heads * m->dim);
  team_barrier(t);
  times(t, w, &layer->out, rows, space->hidden, m->width, ADD);
  for (int64_t r = from; r < to; r++) prepare(w, me, layer->norm_mid, &layer->gate_up, r);
  team_barrier(t);
  times(t, w, &layer->gate_up, rows, space->gated, m->inner, GATE);
  for (int64_t r = from; r < to; r++) quantize(w, &layer->down, r, space->gated + r * m->inner);
  team_barrier(t);
  times(t, w, &layer->down, rows, space->hidden, m->width, ADD);
  return rows;
}

static void forward_member(team *t, void *context, int me) {
  const work *w = context;
  const decoder *m = w->model;
  int64_t rows = w->batch->tokens, from, to;
  share(rows, team_size(t), me, &from, &to);
  embed(w, from, to);
  for (int64_t index = 0; index < m->layers; index++) rows = run_layer(t, w, index, me);
  share(rows, team_size(t), me, &from, &to);
  for (int64_t r = from; r < to; r++) {
    prepare(w, me, m->norm_out, &m->head, r);
    if (w->batch->states != NULL)
      memcpy(w->batch->states + r * m->width, w->space->normed + me * m->width, (size_t)m->width * sizeof(float));
  }
  team_barrier(t);
  multiply(t, &m->head, w->space->quantized, w->space->row_scale, rows, w->batch->logits, m->vocabulary,
           m->vocabulary, STORE);
}

void forward(team *t, const decoder *model, const workspace *space, const batch *b) {
  work w = {model, space, b};
  team_run(t, forward_member, &w);
}
