#include "model/rope.h"

#include <math.h>

#include "util/mem.h"

static float llama3_scaled(float f, const fl_rope_config *c) {
    const float old_context = (float)c->original_max_position, factor = (float)c->factor;
    const float low = (float)c->low_freq_factor, high = (float)c->high_freq_factor;
    float wavelength = 2.0f * (float)M_PI / f;
    if (wavelength < old_context / high) return f;
    if (wavelength > old_context / low) return f / factor;
    float smooth = (old_context / wavelength - low) / (high - low);
    return (1.0f - smooth) * f / factor + smooth * f;
}

void fl_rope_frequencies(float *inv_freq, const fl_rope_config *c, int64_t head_dim) {
    for (int64_t i = 0; i < head_dim / 2; i++) {
        float f = 1.0f / powf((float)c->theta, (float)(2 * i) / (float)head_dim);
        if (c->type == FL_ROPE_LINEAR) f /= (float)c->factor;
        if (c->type == FL_ROPE_LLAMA3) f = llama3_scaled(f, c);
        inv_freq[i] = f;
    }
}

int fl_rope_table(float *table, const fl_rope_config *c, int64_t head_dim, int64_t n_pos,
                  fl_err *err) {
    int64_t half = head_dim / 2;
    float *inv_freq = fl_alloc_array((size_t)half, sizeof(*inv_freq));
    if (!inv_freq) return fl_fail(err, FL_E_NOMEM, "rope table");
    fl_rope_frequencies(inv_freq, c, head_dim);
    for (int64_t pos = 0; pos < n_pos; pos++) {
        float *row = table + pos * head_dim;
        for (int64_t i = 0; i < half; i++) {
            /* The angle is rounded to f32 as in the reference; its cosine is not. */
            float angle = (float)pos * inv_freq[i];
            row[i] = (float)cos((double)angle);
            row[half + i] = (float)sin((double)angle);
        }
    }
    fl_free(inv_freq);
    return FL_OK;
}
