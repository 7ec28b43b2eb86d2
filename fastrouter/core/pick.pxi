# The usual chain (top_k, top_p, min_p, temperature, draw) in C: picks the few candidates straight from the logits instead of
# building and sorting all of them. Invariant: the logits are only read.

cdef extern from *:
    """
    #include <math.h>
    #include <stdlib.h>
    #include <float.h>

    typedef struct { float logit; int32_t token; } fr_candidate;
    typedef int32_t fr_mask __attribute__((vector_size(64)));
    typedef float fr_floats __attribute__((vector_size(64)));
    typedef float fr_row __attribute__((vector_size(64), aligned(4)));
    typedef int32_t fr_mask8 __attribute__((vector_size(32)));
    typedef float fr_floats8 __attribute__((vector_size(32)));
    typedef int32_t fr_mask4 __attribute__((vector_size(16)));
    typedef float fr_floats4 __attribute__((vector_size(16)));
    #define FR_BLOCK 64

    #if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    #define FR_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
    #else
    #define FR_CLONES
    #endif

    /* For each lane: `b` if `a` is not larger, so a NaN in `a` is never picked. */
    static inline __attribute__((always_inline)) fr_floats fr_larger(fr_floats a, fr_floats b) {
        fr_mask mask = a > b;
        return (fr_floats)(((fr_mask)a & mask) | ((fr_mask)b & ~mask));
    }

    /* The largest lane; none is NaN. It compares halves: one lane after the other would take longer than reading the block. */
    static inline __attribute__((always_inline)) float fr_largest_lane(fr_floats v) {
        fr_floats8 low8, high8;
        fr_floats4 low4, high4;
        float lanes[4];
        memcpy(&low8, &v, 32);
        memcpy(&high8, (char *)&v + 32, 32);
        fr_mask8 mask8 = low8 > high8;
        low8 = (fr_floats8)(((fr_mask8)low8 & mask8) | ((fr_mask8)high8 & ~mask8));
        memcpy(&low4, &low8, 16);
        memcpy(&high4, (char *)&low8 + 16, 16);
        fr_mask4 mask4 = low4 > high4;
        low4 = (fr_floats4)(((fr_mask4)low4 & mask4) | ((fr_mask4)high4 & ~mask4));
        memcpy(lanes, &low4, 16);
        lanes[0] = lanes[0] > lanes[1] ? lanes[0] : lanes[1];
        lanes[2] = lanes[2] > lanes[3] ? lanes[2] : lanes[3];
        return lanes[0] > lanes[2] ? lanes[0] : lanes[2];
    }

    /* Writes the largest of each block of 64 to `maxima`; an incomplete last block counts too. Returns the number of blocks. */
    FR_CLONES static int fr_block_maxima(const float *logits, int n, float *maxima) {
        int blocks = 0, i = 0;
        for (; i + FR_BLOCK <= n; i += FR_BLOCK) {
            fr_floats most = {0};
            most -= INFINITY;
            for (int j = 0; j < FR_BLOCK; j += 16) most = fr_larger(*(const fr_row *)(logits + i + j), most);
            maxima[blocks++] = fr_largest_lane(most);
        }
        if (i < n) {
            float most = -INFINITY;
            for (; i < n; i++) most = logits[i] > most ? logits[i] : most;
            maxima[blocks++] = most;
        }
        return blocks;
    }

    /* Largest of v; none is NaN. */
    FR_CLONES static float fr_largest(const float *v, int n) {
        fr_floats most = {0};
        float found;
        int i = 0;
        most -= INFINITY;
        for (; i + 16 <= n; i += 16) most = fr_larger(*(const fr_row *)(v + i), most);
        found = fr_largest_lane(most);
        for (; i < n; i++) found = v[i] > found ? v[i] : found;
        return found;
    }

    static int fr_argmax(const float *logits, int n, const float *maxima, int blocks) {
        float most = fr_largest(maxima, blocks);
        int best = 0;
        while (best < blocks - 1 && maxima[best] != most) best++;
        for (int i = best * FR_BLOCK; i < n && i < (best + 1) * FR_BLOCK; i++) if (logits[i] == most) return i;
        return 0;  /* every logit is NaN or -inf */
    }

    /* Moves the k largest of v to its front, in any order. v must not contain NaN. */
    #define FR_SELECT(NAME, TYPE, KEY) \\
        static void NAME(TYPE *v, int n, int k) { \\
            int low = 0, high = n - 1; \\
            while (low < high && k > 0 && k < n) { \\
                float pivot = KEY(v[low + (high - low) / 2]); \\
                int i = low, j = high; \\
                while (i <= j) { \\
                    while (KEY(v[i]) > pivot) i++; \\
                    while (KEY(v[j]) < pivot) j--; \\
                    if (i <= j) { TYPE swapped = v[i]; v[i++] = v[j]; v[j--] = swapped; } \\
                } \\
                if (k - 1 <= j) high = j; \\
                else if (k - 1 >= i) low = i; \\
                else break; \\
            } \\
        }
    #define FR_SELF(x) (x)
    #define FR_LOGIT(x) ((x).logit)
    FR_SELECT(fr_select_floats, float, FR_SELF)
    FR_SELECT(fr_select, fr_candidate, FR_LOGIT)

    static int fr_descending(const void *a, const void *b) {
        const fr_candidate *x = a, *y = b;
        if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
        return x->token - y->token;
    }

    /* All tokens at or above `least` (a NaN never is); `out` has room for n. */
    static int fr_collect(const float *logits, int n, const float *maxima, int blocks, float least, fr_candidate *out) {
        int count = 0;
        for (int b = 0; b < blocks; b++) {
            if (!(maxima[b] >= least)) continue;
            for (int i = b * FR_BLOCK; i < n && i < (b + 1) * FR_BLOCK; i++)
                if (logits[i] >= least) { out[count].logit = logits[i]; out[count].token = i; count++; }
        }
        return count;
    }

    /* The fewest best candidates whose probabilities reach top_p of `total` (sum of exp(logit - most)), sorted only
       up to there. Returns its length. */
    static int fr_nucleus(fr_candidate *c, int count, float most, float total, float top_p, int min_keep) {
        int keep = 0, sorted = 0;
        float sum = 0;
        while (sorted < count) {
            int more = sorted ? 3 * sorted : 64;
            if (more > count - sorted) more = count - sorted;
            fr_select(c + sorted, count - sorted, more);
            qsort(c + sorted, more, sizeof(*c), fr_descending);
            for (sorted += more; keep < sorted; ) {
                sum += expf(c[keep++].logit - most);
                if (sum >= top_p * total && keep >= min_keep) return keep;
            }
        }
        return count;
    }

    static uint64_t fr_random(uint64_t *state) {  /* splitmix64 */
        uint64_t z = (*state += 0x9E3779B97F4A7C15ull);
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
        return z ^ (z >> 31);
    }

    /* The state before the draws of the token after `num_tokens`: each token has 256 numbers of the sequence for itself. */
    static uint64_t fr_state_at(uint64_t seed, uint64_t num_tokens) { return seed + num_tokens * 256 * 0x9E3779B97F4A7C15ull; }

    static float fr_unit(uint64_t *state) { return (float)((fr_random(state) >> 40) * (1.0 / (1 << 24))); }

    /* Writes the top_k best to `c`; `scratch`: one float per block. 0 < top_k < n; `most` is finite. */
    static int fr_best(const float *logits, int n, const float *maxima, int blocks, float *scratch, fr_candidate *c, int top_k, float most) {
        float least = -FLT_MAX;
        int count;
        if (top_k < blocks) {
            memcpy(scratch, maxima, blocks * sizeof(float));
            fr_select_floats(scratch, blocks, top_k);
            least = most;
            for (int b = 0; b < top_k; b++) least = fminf(least, scratch[b]);
            /* top_k blocks have a maximum >= least, so at least top_k tokens are >= least. */
            if (least < -FLT_MAX) least = -FLT_MAX;
        }
        count = fr_collect(logits, n, maxima, blocks, least, c);
        if (count > top_k) {
            fr_select(c, count, top_k);
            count = top_k;
        }
        return count;
    }

    /* Draws a candidate by its weight, exp((logit - most) / temperature), which replaces its logit. */
    static int fr_choose(fr_candidate *c, int count, float most, float temperature, uint64_t *state, float *sum) {
        float total = 0, point;
        for (int i = 0; i < count; i++) total += c[i].logit = expf((c[i].logit - most) / temperature);
        *sum = total;
        point = fr_unit(state) * total;
        for (int i = 0; i < count; i++) {
            point -= c[i].logit;
            if (point < 0) return c[i].token;
        }
        return c[count - 1].token;
    }

    /* `scratch`: one float per block; `c`: room for n candidates. temperature > 0. `kept`, `sum`: how many candidates were left, and
       the sum of their weights; `kept` is 0 if nothing could be drawn. */
    static int fr_draw(const float *logits, int n, const float *maxima, int blocks, float *scratch, fr_candidate *c, int top_k,
                       float top_p, float min_p, int min_keep, float temperature, uint64_t *state, int *kept, float *sum) {
        int count, has_k = top_k > 0 && top_k < n;
        float most = fr_largest(maxima, blocks), total = 0, floor;
        *kept = 0;
        if (!isfinite(most)) return fr_argmax(logits, n, maxima, blocks);
        if (min_keep < 1) min_keep = 1;
        /* A logit 40 * temperature below the best has a probability under 1e-17: less than a float can add to the sum. */
        floor = min_p > 0 ? fminf(most + logf(min_p), most) : most - 40 * fmaxf(temperature, 1);
        if (has_k) count = fr_best(logits, n, maxima, blocks, scratch, c, top_k, most);
        /* Tokens that min_p drops are not collected, but count in the sum for top_p. */
        else count = fr_collect(logits, n, maxima, blocks, min_keep == 1 ? floor : -FLT_MAX, c);
        if (top_p < 1 || min_keep > 1) {
            if (has_k) for (int i = 0; i < count; i++) total += expf(c[i].logit - most);
            else for (int i = 0; i < n; i++) total += logits[i] > -INFINITY ? expf(logits[i] - most) : 0;
            count = fr_nucleus(c, count, most, total, top_p < 1 ? top_p : INFINITY, min_keep);  /* 1 keeps all, whatever the rounding */
        }
        if (min_p > 0) {
            int keep = 0;
            for (int i = 0; i < count; i++) if (c[i].logit >= floor || (min_keep > 1 && i < min_keep)) c[keep++] = c[i];
            count = keep;
        }
        *kept = count;
        return fr_choose(c, count, most, temperature, state, sum);
    }
    """
    ctypedef struct fr_candidate:
        float logit
        int32_t token
    int fr_block_maxima(const float *logits, int n, float *maxima) noexcept
    int fr_argmax(const float *logits, int n, const float *maxima, int blocks) noexcept
    uint64_t fr_state_at(uint64_t seed, uint64_t num_tokens) noexcept
    float fr_unit(uint64_t *state) noexcept
    float fr_largest(const float *maxima, int blocks) noexcept
    int fr_collect(const float *logits, int n, const float *maxima, int blocks, float least, fr_candidate *out) noexcept
    int fr_best(const float *logits, int n, const float *maxima, int blocks, float *scratch, fr_candidate *c, int top_k, float most) noexcept
    int fr_choose(fr_candidate *c, int count, float most, float temperature, uint64_t *state, float *sum) noexcept
    int fr_draw(const float *logits, int n, const float *maxima, int blocks, float *scratch, fr_candidate *c, int top_k,
                float top_p, float min_p, int min_keep, float temperature, uint64_t *state, int *kept, float *sum) noexcept
