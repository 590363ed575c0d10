/* shard/checkpoint_read.c - slices of tensors from their files into packed matrices.
 *
 * A slice is read in chunks through a bounded scratch buffer: file rows [lo, hi) that hold a run of the role's rows.  Where the slice
 * leaves out columns, either the covering range is read at once (small gaps cost less than a call each) or each row on its own.
 * Row orders other than the file's (pairs of rotary rows, fused projections by head) are undone while packing, by strides. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "shard/checkpoint_internal.h"
#include "shard/pack.h"

enum {
    CHUNK_BYTES = 1 << 20, /* stays in a core's second-level cache between read and pack */
    GAP_BYTES = 4096,      /* skipping fewer bytes than this in a row costs more than reading them */
};

static status scratch_take(shard_checkpoint *c, size_t bytes, shard_scratch **out)
{
    pthread_mutex_lock(&c->lock);
    shard_scratch *s = c->scratch;
    if (s != NULL)
        c->scratch = s->next;
    pthread_mutex_unlock(&c->lock);
    if (s != NULL && s->bytes >= bytes) {
        *out = s;
        return ST_OK;
    }
    free(s);
    size_t size = mem_align(bytes < CHUNK_BYTES ? CHUNK_BYTES : bytes, 64);
    s = aligned_alloc(64, sizeof(*s) + size);
    if (s == NULL)
        return FAIL(ST_NO_MEMORY, "%s: no memory for a read buffer of %zu bytes", c->path, size);
    s->bytes = size;
    *out = s;
    return ST_OK;
}

static void scratch_give(shard_checkpoint *c, shard_scratch *s)
{
    pthread_mutex_lock(&c->lock);
    s->next = c->scratch;
    c->scratch = s;
    pthread_mutex_unlock(&c->lock);
}

status shard_checkpoint_read_bytes(shard_checkpoint *c, const shard_tensor *t, uint64_t offset, void *dst, size_t n)
{
    const shard_file *f = &c->files[t->file];
    status_mute();
    status st = file_read_at(f->fd, f->path, t->offset + offset, dst, n);
    status_unmute();
    if (st != ST_OK) {
        char cause[1024];
        snprintf(cause, sizeof(cause), "%s", status_message());
        return FAIL(st, "tensor %s: %s", t->name, cause);
    }
    atomic_fetch_add_explicit(&c->bytes_read, n, memory_order_relaxed);
    return ST_OK;
}

static void count(shard_checkpoint *c, uint64_t needed, bool tensor_done)
{
    atomic_fetch_add_explicit(&c->bytes_needed, needed, memory_order_relaxed);
    if (tensor_done)
        atomic_fetch_add_explicit(&c->tensors_read, 1, memory_order_relaxed);
}

static int64_t file_row(const shard_bound *b, int64_t r)
{
    switch (b->map) {
    case SHARD_ROWS_GROUPED:
        return b->row_begin + r / b->group_take * b->group_rows + b->group_begin + r % b->group_take;
    case SHARD_ROWS_ROTARY: {
        int64_t head = r / b->group_rows, j = r % b->group_rows, half = b->rotary / 2;
        if (j < b->rotary)
            j = j < half ? 2 * j : 2 * (j - half) + 1;
        return b->row_begin + head * b->group_rows + j;
    }
    case SHARD_ROWS_PLAIN:
        break;
    }
    return b->row_begin + r;
}

typedef struct span {
    int64_t lo, hi; /* file rows */
} span;

/* How many of the role's rows from r on (before `end`) lie together in the file, within at most max_rows file rows. */
static int64_t piece(const shard_bound *b, int64_t r, int64_t end, int64_t max_rows, span *out)
{
    int64_t n = end - r;
    if (b->map == SHARD_ROWS_GROUPED && n > b->group_take - r % b->group_take)
        n = b->group_take - r % b->group_take;
    if (b->map == SHARD_ROWS_ROTARY) {
        int64_t j = r % b->group_rows, limit = j < b->rotary ? b->rotary - j : b->group_rows - j;
        n = n < limit ? n : limit;
        if (j < b->rotary && !(n == b->rotary && n <= max_rows)) { /* a part of the permuted rows: every other file row */
            int64_t half = b->rotary / 2, half_left = j < half ? half - j : b->rotary - j;
            n = n < half_left ? n : half_left;
            n = n < max_rows / 2 ? n : (max_rows / 2 > 0 ? max_rows / 2 : 1);
            *out = (span){file_row(b, r), file_row(b, r + n - 1) + 1};
            return n;
        }
        if (j < b->rotary) {
            int64_t first = b->row_begin + r - j;
            *out = (span){first, first + b->rotary};
            return n;
        }
    }
    n = n < max_rows ? n : max_rows;
    *out = (span){file_row(b, r), file_row(b, r) + n};
    return n;
}

/* A chunk: pieces that follow one another in the file. */
static int64_t chunk(const shard_bound *b, int64_t r, int64_t end, int64_t max_rows, span *out)
{
    int64_t n = piece(b, r, end, max_rows, out);
    while (r + n < end) {
        span next;
        int64_t left = max_rows - (out->hi - out->lo), more = left > 0 ? piece(b, r + n, end, left, &next) : 0;
        if (more == 0 || next.lo != out->hi || next.hi - out->lo > max_rows)
            break;
        out->hi = next.hi;
        n += more;
    }
    return n;
}

/* One slice on its way: bytes [begin, begin + bytes) of each file row, `stride` bytes apart in the scratch buffer. */
typedef struct slice_read {
    const shard_bound *b;
    uint64_t row_bytes, begin;
    size_t bytes, stride;
    bool covering;
    int32_t skip;
    shard_scales scales; /* of file rows from scales_row on; values NULL: none */
    int64_t scales_row;
} slice_read;

static void slice_prepare(const shard_bound *b, int64_t first, int64_t end, slice_read *s)
{
    const shard_tensor *t = b->tensor;
    int64_t block = shard_dtype_block(t->dtype), block_bytes = shard_dtype_block_bytes(t->dtype);
    int64_t inner = t->n_dims > 0 ? t->dims[t->n_dims - 1] : 1;
    if (b->cols == 1 && !b->transposed)
        inner = 1; /* a vector: each element is a row */
    *s = (slice_read){.b = b, .row_bytes = (uint64_t)(inner / block * block_bytes), .begin = (uint64_t)(first / block * block_bytes)};
    s->skip = (int32_t)(first % block);
    s->bytes = (size_t)((end + block - 1) / block * block_bytes) - (size_t)s->begin;
    s->covering = s->row_bytes - s->bytes <= GAP_BYTES;
    s->stride = s->covering ? (size_t)s->row_bytes : s->bytes;
}

static status read_rows(shard_checkpoint *c, const slice_read *s, span rows, unsigned char *to)
{
    if (s->covering) {
        size_t n = (size_t)(rows.hi - rows.lo - 1) * s->stride + s->bytes;
        return shard_checkpoint_read_bytes(c, s->b->tensor, (uint64_t)rows.lo * s->row_bytes + s->begin, to, n);
    }
    for (int64_t r = rows.lo; r < rows.hi; r++)
        TRY(shard_checkpoint_read_bytes(c, s->b->tensor, (uint64_t)r * s->row_bytes + s->begin, to + (size_t)(r - rows.lo) * s->stride, s->bytes));
    return ST_OK;
}

/* Packs role rows [r, r + n), whose file rows start at `base` in the buffer: runs with one stride at a time. */
static status pack_chunk(const slice_read *s, const unsigned char *base, span rows, int64_t r, int64_t n, packed_shape shape, int32_t at, void *dst)
{
    for (int64_t i = 0; i < n;) {
        int64_t first = file_row(s->b, r + i), delta = i + 1 < n ? file_row(s->b, r + i + 1) - first : 1, run = 1;
        if (delta > 0) {
            while (i + run < n && file_row(s->b, r + i + run) == first + run * delta)
                run++;
        } else {
            delta = 1;
        }
        shard_scales scales = s->scales;
        scales.row = first - s->scales_row;
        scales.row_step = delta;
        status_mute();
        status st = shard_pack_rows(s->b->tensor->dtype, base + (size_t)(first - rows.lo) * s->stride, (size_t)delta * s->stride, s->skip, scales.values != NULL ? &scales : NULL,
                                    shape, at + (int32_t)i, (int32_t)run, dst);
        status_unmute();
        if (st != ST_OK) {
            char cause[1024];
            snprintf(cause, sizeof(cause), "%s", status_message());
            return FAIL(st, "tensor %s: %s", s->b->tensor->name, cause);
        }
        i += run;
    }
    return ST_OK;
}

/* The scales of the slice's rows [r, end), which caller frees. */
static status read_scales(shard_checkpoint *c, const shard_bound *b, int64_t r, int64_t end, int64_t col, slice_read *s, float **out)
{
    const shard_tensor *t = b->scale;
    *out = NULL;
    if (t == NULL || r >= end)
        return ST_OK;
    int64_t lo = file_row(b, r), hi = lo; /* maps need not keep the order */
    for (int64_t i = r; i < end; i++) {
        int64_t at = file_row(b, i);
        lo = at < lo ? at : lo;
        hi = at > hi ? at : hi;
    }
    int64_t each = (b->stored_cols + b->scale_cols - 1) / b->scale_cols, first = lo / b->scale_rows, n = (hi / b->scale_rows - first + 1) * each;
    size_t bytes = (size_t)shard_dtype_block_bytes(t->dtype);
    void *raw;
    TRY(mem_calloc((size_t)n, bytes, t->name, &raw));
    status st = mem_calloc((size_t)n, sizeof(float), t->name, out);
    if (st == ST_OK)
        st = shard_checkpoint_read_bytes(c, t, (uint64_t)(first * each) * bytes, raw, (size_t)n * bytes);
    if (st == ST_OK)
        st = shard_unpack_f32(t->dtype, raw, 0, n, *out);
    free(raw);
    for (int64_t i = 0; st == ST_OK && i < n; i++)
        if (!(fabsf((*out)[i]) < SHARD_F8_SCALE_LIMIT)) /* not a number neither */
            st = FAIL(ST_FORMAT, "%s: tensor %s: scale %lld is %g, which no weight can have", c->files[t->file].path, t->name, (long long)(first * each + i), (double)(*out)[i]);
    if (st != ST_OK) {
        free(*out);
        *out = NULL;
        return st;
    }
    count(c, (uint64_t)n * bytes, false);
    s->scales = (shard_scales){.values = *out, .rows = b->scale_rows, .cols = b->scale_cols, .stride = each, .col = col};
    s->scales_row = first * b->scale_rows;
    return ST_OK;
}

/* Rows [begin, end) of the slice (the matrix's own rows: logical row rows.begin + i). */
static status read_plain(shard_checkpoint *c, const shard_bound *b, shard_slice rows, shard_slice cols, packed_shape shape, int32_t begin, int32_t end,
                         void *dst)
{
    slice_read s;
    shard_scratch *scratch;
    slice_prepare(b, cols.begin, cols.end, &s);
    size_t least = s.stride * (size_t)(b->map == SHARD_ROWS_ROTARY && b->rotary > 32 ? b->rotary : 32);
    float *scales;
    TRY(read_scales(c, b, rows.begin + begin, rows.begin + end, cols.begin, &s, &scales));
    status st = scratch_take(c, least, &scratch);
    if (st != ST_OK) {
        free(scales);
        return st;
    }
    int64_t max_rows = (int64_t)(scratch->bytes / s.stride) / PACKED_ROWS * PACKED_ROWS;
    for (int64_t i = begin; st == ST_OK && i < end;) {
        span at;
        int64_t n = chunk(b, rows.begin + i, rows.begin + end, max_rows, &at);
        st = read_rows(c, &s, at, scratch->data);
        if (st == ST_OK)
            st = pack_chunk(&s, scratch->data, at, rows.begin + i, n, shape, (int32_t)i, dst);
        i += n;
    }
    scratch_give(c, scratch);
    free(scales);
    return st;
}

/* Copies n x m elements (file row k, file column j) to out[j][k]; out's rows are `cols` elements long. */
static void transpose(const unsigned char *in, size_t in_stride, size_t width, int64_t n, int64_t m, unsigned char *out, size_t out_stride)
{
    for (int64_t j = 0; j < m; j++) {
        const unsigned char *p = in + (size_t)j * width;
        unsigned char *q = out + (size_t)j * out_stride;
        for (int64_t k = 0; k < n; k++, p += in_stride, q += width) {
            if (width == 2)
                memcpy(q, p, 2);
            else if (width == 4)
                memcpy(q, p, 4);
            else
                memcpy(q, p, width);
        }
    }
}

/* A tensor stored [cols, rows]: a tile of role rows is a range of file columns, gathered from all wanted file rows. */
static status read_tile(shard_checkpoint *c, const shard_bound *b, shard_slice cols, span at, int64_t r, int64_t n, packed_shape shape, int32_t row,
                        shard_scratch *part, shard_scratch *tile, void *dst)
{
    slice_read s; /* of the file's rows */
    size_t width = (size_t)shard_dtype_block_bytes(b->tensor->dtype), out_stride = (size_t)(cols.end - cols.begin) * width;
    slice_prepare(b, at.lo, at.hi, &s);
    int64_t step = (int64_t)(part->bytes / s.stride);
    for (int64_t k = cols.begin; k < cols.end;) {
        int64_t m = cols.end - k < step ? cols.end - k : step;
        TRY(read_rows(c, &s, (span){k, k + m}, part->data));
        transpose(part->data, s.stride, width, m, at.hi - at.lo, tile->data + (size_t)(k - cols.begin) * width, out_stride);
        k += m;
    }
    slice_read packed = {.b = b, .stride = out_stride};
    return pack_chunk(&packed, tile->data, at, r, n, shape, row, dst);
}

static status read_transposed(shard_checkpoint *c, const shard_bound *b, shard_slice rows, shard_slice cols, packed_shape shape, int32_t begin,
                              int32_t end, void *dst)
{
    shard_scratch *part, *tile;
    size_t width = (size_t)shard_dtype_block_bytes(b->tensor->dtype), row_bytes = (size_t)(cols.end - cols.begin) * width;
    TRY(scratch_take(c, row_bytes * 2 * PACKED_ROWS > 4 * CHUNK_BYTES ? row_bytes * 2 * PACKED_ROWS : 4 * CHUNK_BYTES, &tile));
    status st = scratch_take(c, (size_t)b->stored_rows * width, &part);
    if (st != ST_OK) {
        scratch_give(c, tile);
        return st;
    }
    int64_t max_rows = (int64_t)(tile->bytes / row_bytes) / PACKED_ROWS * PACKED_ROWS;
    for (int64_t i = begin; st == ST_OK && i < end;) {
        span at;
        int64_t n = chunk(b, rows.begin + i, rows.begin + end, max_rows, &at);
        st = read_tile(c, b, cols, at, rows.begin + i, n, shape, (int32_t)i, part, tile, dst);
        i += n;
    }
    scratch_give(c, part);
    scratch_give(c, tile);
    return st;
}

static status check_slice(const shard_checkpoint *c, const shard_bound *b, shard_role role, int32_t layer, shard_slice rows, shard_slice cols)
{
    if (!c->has_weights)
        return FAIL(ST_INVALID, "%s: a configuration without weights: name a folder that has them", c->path);
    if (b == NULL || b->tensor == NULL)
        return FAIL(ST_INTERNAL, "%s: %s of layer %d: the architecture has none", c->path, shard_role_name(role), layer);
    if (rows.begin < 0 || rows.end < rows.begin || rows.end > b->rows || cols.begin < 0 || cols.end < cols.begin || cols.end > b->cols)
        return FAIL(ST_INTERNAL, "%s: %s: slice [%lld, %lld) x [%lld, %lld) of %lld x %lld", c->path, b->tensor->name, (long long)rows.begin,
                    (long long)rows.end, (long long)cols.begin, (long long)cols.end, (long long)b->rows, (long long)b->cols);
    return ST_OK;
}

status shard_checkpoint_read_part(shard_checkpoint *c, shard_role role, int32_t layer, shard_slice rows, shard_slice cols, packed_shape shape,
                                  int32_t row_begin, int32_t row_end, void *dst)
{
    if (c->cut != NULL)
        return shard_cut_read_matrix(c, role, layer, rows, cols, shape, row_begin, row_end, dst);
    const shard_bound *b = shard_checkpoint_bound(c, role, layer);
    TRY(check_slice(c, b, role, layer, rows, cols));
    if (shape.rows != rows.end - rows.begin || shape.cols != cols.end - cols.begin || row_begin < 0 || row_end > shape.rows ||
        row_begin > row_end || row_begin % PACKED_ROWS != 0)
        return FAIL(ST_INTERNAL, "%s: %s: shape %d x %d does not fit its slice", c->path, b->tensor->name, shape.rows, shape.cols);
    if (!shard_pack_possible(b->tensor->dtype, shape.type))
        return FAIL(ST_UNSUPPORTED, "%s: tensor %s is %s and cannot be packed as %s", c->files[b->tensor->file].path, b->tensor->name,
                    shard_dtype_name(b->tensor->dtype), packed_format_of(shape.type)->name);
    if (row_begin == row_end || shape.cols == 0)
        return ST_OK;
    TRY(b->transposed ? read_transposed(c, b, rows, cols, shape, row_begin, row_end, dst)
                      : read_plain(c, b, rows, cols, shape, row_begin, row_end, dst));
    int64_t block = shard_dtype_block(b->tensor->dtype), row_need = ((cols.end - cols.begin) * shard_dtype_block_bytes(b->tensor->dtype) + block - 1) / block;
    count(c, (uint64_t)row_need * (uint64_t)(row_end - row_begin), row_end == shape.rows);
    return ST_OK;
}

status shard_checkpoint_read_matrix(shard_checkpoint *c, shard_role role, int32_t layer, shard_slice rows, shard_slice cols, packed_shape shape, void *dst)
{
    return shard_checkpoint_read_part(c, role, layer, rows, cols, shape, 0, shape.rows, dst);
}

/* Rows [rows.begin, rows.end) of a vector that is one tensor. */
static status read_vector(shard_checkpoint *c, const shard_bound *b, shard_slice rows, float *dst)
{
    slice_read s;
    shard_scratch *scratch;
    slice_prepare(b, 0, 1, &s);
    TRY(scratch_take(c, s.stride * 1024, &scratch));
    status st = ST_OK;
    for (int64_t r = rows.begin; st == ST_OK && r < rows.end;) {
        span at;
        int64_t n = chunk(b, r, rows.end, (int64_t)(scratch->bytes / s.stride), &at);
        st = read_rows(c, &s, at, scratch->data);
        for (int64_t i = 0; st == ST_OK && i < n; i++) {
            float *to = &dst[r - rows.begin + i];
            st = shard_unpack_f32(b->tensor->dtype, scratch->data + (size_t)(file_row(b, r + i) - at.lo) * s.stride, 0, 1, to);
            *to += b->add;
        }
        r += n;
    }
    scratch_give(c, scratch);
    if (st == ST_OK)
        count(c, (uint64_t)(rows.end - rows.begin) * s.bytes, rows.end > rows.begin);
    return st;
}

static status read_pieces(shard_checkpoint *c, const shard_bound *b, shard_slice rows, float *dst)
{
    for (int64_t r = rows.begin; r < rows.end;) {
        int64_t i = r / b->stored_rows, first = i * b->stored_rows, end = rows.end < first + b->stored_rows ? rows.end : first + b->stored_rows;
        shard_bound one = *b;
        one.tensor = b->piece[i];
        one.rows = b->stored_rows;
        TRY(read_vector(c, &one, (shard_slice){r - first, end - first}, dst + (r - rows.begin)));
        r = end;
    }
    return ST_OK;
}

status shard_checkpoint_read_vector(shard_checkpoint *c, shard_role role, int32_t layer, shard_slice rows, float *dst)
{
    if (c->cut != NULL)
        return shard_cut_read_vector(c, role, layer, rows, dst);
    const shard_bound *b = shard_checkpoint_bound(c, role, layer);
    TRY(check_slice(c, b, role, layer, rows, (shard_slice){0, 1}));
    return b->pieces > 0 ? read_pieces(c, b, rows, dst) : read_vector(c, b, rows, dst);
}
