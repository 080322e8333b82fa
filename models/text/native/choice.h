/* The greatest number of a row, which is what a greedy answer goes on with. */
#ifndef INGLE_CHOICE_H
#define INGLE_CHOICE_H

#include <stdint.h>

/* For each of `rows` rows of `count` floats its greatest number and where that stands first; NaN if the row holds
 * one.
 */
void greatest(const float *x, int64_t rows, int64_t count, float *number, int64_t *place);

#endif
