/* Products of int8 rows: activations are quantised row by row, whole or in groups of inputs, and the sums of a group
 * are exact, so no row depends on its neighbours.
 */
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
 * weights is worth, `offset[g][n]` is -128 times the sum of its weights for the inputs of group g, `bias[n]` is added
 * if there are biases. `group` inputs share a scale of the activations. `outputs` is a multiple of 32 (what fills it up
 * has weights, scale and offset of 0), `group` of 16, and `inputs` of `group`.
 */
typedef struct {
  int64_t outputs, inputs, group;
  const int8_t *packed;
  const float *scale;
  const int32_t *offset;
  const float *bias;
} product_weights;

/* What becomes of the sums. */
typedef enum { STORE, ADD, GATE } product_end;

/* Quantises `count` floats group by group: `out[i] = round(x[i] / scale[g]) + 128`. */
void quantize_row(const float *x, int64_t count, int64_t group, uint8_t *out, float *scale);

/* `rows` quantised rows of `inputs` bytes with a scale for each group, times the weights, into `out` (`stride` floats
 * from row to row).
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

/* Lays out `rows` plain weights of a product as columns `first`, `first + step` … of `packed`, and their offsets; of the
 * product only the sizes are read.
 */
void pack_weights(const product_weights *, const int8_t *weights, int64_t rows, int64_t first, int64_t step,
                  int8_t *packed, int32_t *offset);

#endif
