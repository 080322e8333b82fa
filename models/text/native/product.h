/* Products of int8 rows: activations are quantised row by row, sums are exact, so no row depends on its neighbours. */
#ifndef INGLE_PRODUCT_H
#define INGLE_PRODUCT_H

#include <stddef.h>
#include <stdint.h>

#include "team.h"

/* Outputs stand in columns of 16, columns in pairs; inputs in groups of 4. */
enum { COLUMN = 16, GROUP = 4, PAIR = 2 * COLUMN };

/* Weights of one product, or of two whose outputs take turns column by column (gate and up).
 *
 * `packed` is [outputs / 16][inputs / 4][16][4], 64-byte aligned. For output n: `scale[n]` is what one unit of its
 * weights is worth, `offset[n]` is -128 times the sum of its weights, `bias[n]` is added if there are biases.
 * `outputs` is a multiple of 32 (what fills it up has weights, scale and offset of 0), `inputs` of 16.
 */
typedef struct {
  int64_t outputs, inputs;
  const int8_t *packed;
  const float *scale;
  const int32_t *offset;
  const float *bias;
} product_weights;

/* What becomes of the sums. */
typedef enum { STORE, ADD, GATE } product_end;

/* Quantises `count` floats: `out[i] = round(x[i] / scale) + 128`; returns the scale. `count` is a multiple of 16. */
float quantize_row(const float *x, int64_t count, uint8_t *out);

/* `rows` quantised rows of `inputs` bytes, times the weights, into `out` (`stride` floats from row to row).
 *
 * STORE writes the products and ADD adds them to what is there; GATE writes silu(first column) * second column of
 * each pair, so half as many. Run by every member of a team between two barriers. Columns of `out` beyond `limit` are
 * left alone.
 */
void multiply(team *, const product_weights *, const uint8_t *x, const float *x_scale, int64_t rows, float *out,
              int64_t stride, int64_t limit, product_end);

/* `rows` rows of `inputs` floats, quantised into `quantized` and `row_scale`, times the weights. */
void product(team *, const product_weights *, const float *x, int64_t rows, uint8_t *quantized, float *row_scale,
             float *out);

/* Lays out `rows` of `inputs` plain weights as columns `first`, `first + step` … of `packed`, and their offsets. */
void pack_weights(const int8_t *weights, int64_t rows, int64_t inputs, int64_t first, int64_t step, int8_t *packed,
                  int32_t *offset);

#endif
