#include "model/draws.h"

#include <string.h>

enum {
    ROW_INTS = sizeof(fl_sample_row) / sizeof(int32_t),
    EDIT_INTS = sizeof(fl_sample_edit) / sizeof(int32_t),
};

/* Rows, then edits: the same layout on both sides. */
static fl_sample_row *rows_of(const fl_model *m) {
    return (fl_sample_row *)m->step.draws;
}

/* The ids a row may become, one bit each. */
static int write_mask(fl_model *m, const fl_step_draw *d, int64_t row, fl_err *err) {
    const int64_t words = m->scratch.mask.dim[1];
    const int64_t n = d->n_allowed < words ? d->n_allowed : words;
    fl_tensor to = fl_rows(m->scratch.mask, 1);
    to.data = (int32_t *)to.data + row * words;
    memset(m->step.mask, 0, (size_t)words * sizeof(*m->step.mask));
    memcpy(m->step.mask, d->allowed, (size_t)n * sizeof(*m->step.mask));
    return m->ops->write(m->be, &to, m->step.mask, err);
}

int fl_draws_write(fl_model *m, const fl_step_entry *const *entry, int64_t n, int64_t rows,
                   fl_err *err) {
    const bool before = m->step.drawn;
    fl_sample_row *row = rows_of(m);
    fl_sample_edit *edit = (fl_sample_edit *)(row + m->scratch.logit_rows);
    int64_t edits = 0;
    int rc = FL_OK;
    if (!m->scratch.draws.data) return FL_OK;
    m->step.drawn = false;
    for (int64_t j = 0; j < rows && !rc; j++) {
        const fl_step_draw *d = j < n ? entry[j]->draw : NULL;
        row[j] = (fl_sample_row){.mode = FL_SAMPLE_NONE};
        if (!d || edits + d->row.n_edits > FL_STEP_EDITS) continue;
        row[j] = d->row;
        row[j].first_edit = (int32_t)edits;
        if (d->row.n_edits) memcpy(edit + edits, d->edits, (size_t)d->row.n_edits * sizeof(*edit));
        edits += d->row.n_edits;
        m->step.drawn = true;
        if (d->row.masked) rc = write_mask(m, d, j, err);
    }
    if (rc || (!before && !m->step.drawn)) return rc; /* the device has no row to draw already */
    fl_tensor used =
        fl_rows(m->scratch.draws, m->scratch.logit_rows * ROW_INTS + edits * EDIT_INTS);
    return m->ops->write(m->be, &used, m->step.draws, err);
}

bool fl_draws_any(const fl_model *m) {
    return m->step.drawn;
}

int fl_draws_run(fl_model *m, int64_t rows, fl_err *err) {
    if (!m->scratch.draws.data) return FL_OK;
    const fl_sample_row *row = m->scratch.draws.data;
    fl_sample s = {.logits = fl_columns(&m->scratch.logits, 0, m->config.vocab_size),
                   .rows = row,
                   .edits = (fl_sample_edit *)(uintptr_t)(row + m->scratch.logit_rows),
                   .mask = m->scratch.mask,
                   .out = m->scratch.sampled.data};
    s.logits = fl_rows(s.logits, rows);
    return m->ops->sample(m->be, &s, err);
}

int fl_draws_read(fl_model *m, int64_t n, fl_err *err) {
    fl_tensor from = fl_rows(m->scratch.sampled, n);
    int rc = m->ops->read(m->be, m->step.sampled, &from, err);
    for (int64_t j = 0; j < n && !rc; j++)
        if (rows_of(m)[j].mode == FL_SAMPLE_NONE) m->step.sampled[j].id = FL_SAMPLED_NOTHING;
    return rc;
}
