/* rope.h - rotary position embedding tables, incl. linear and llama3 scaling. */
#ifndef FL_MODEL_ROPE_H
#define FL_MODEL_ROPE_H

#include "formats/hf_config.h"

/* inv_freq[i] = theta^(-2i/d), i < head_dim/2, scaled as the config says, in f32 like the
 * reference.  llama3: wavelengths above original_max_position / low_freq_factor are
 * divided by factor, those below original_max_position / high_freq_factor kept, the band
 * between blended (source: Llama 3.1 reference code, as in transformers). */
void fl_rope_frequencies(float *inv_freq, const fl_rope_config *c, int64_t head_dim);

/* table[n_pos, head_dim]: cosines of pos * inv_freq (head_dim/2), then sines. */
int fl_rope_table(float *table, const fl_rope_config *c, int64_t head_dim, int64_t n_pos,
                  fl_err *err);

#endif
