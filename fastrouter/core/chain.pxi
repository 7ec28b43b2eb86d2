# All other steps of a sampling chain in C, each on a list of candidates. They mean the same as in llama.cpp, without its array of the
# whole vocabulary when the first step already picks a few. Invariant: each step leaves at least one candidate.

cdef extern from *:
    """
    static float fr_most(const fr_candidate *c, int count) {
        float most = c[0].logit;
        for (int i = 1; i < count; i++) if (c[i].logit > most) most = c[i].logit;
        return most;
    }

    static float fr_sum(const fr_candidate *c, int count, float most) {
        float total = 0;
        for (int i = 0; i < count; i++) total += expf(c[i].logit - most);
        return total;
    }

    static void fr_sort(fr_candidate *c, int count) { qsort(c, count, sizeof(*c), fr_descending); }

    /* The candidates at or above `least`, in their order. */
    static int fr_keep(fr_candidate *c, int count, float least) {
        int keep = 0;
        for (int i = 0; i < count; i++) if (c[i].logit >= least) c[keep++] = c[i];
        return keep;
    }

    static int fr_top_k(fr_candidate *c, int count, int top_k) {
        if (count <= top_k) return count;
        fr_select(c, count, top_k);
        return top_k;
    }

    static int fr_top_p(fr_candidate *c, int count, float top_p, int min_keep) {
        float most = fr_most(c, count);
        return fr_nucleus(c, count, most, fr_sum(c, count, most), top_p, min_keep);
    }

    static int fr_min_p(fr_candidate *c, int count, float min_p, int min_keep) {
        float most = fr_most(c, count), least = fminf(most + logf(min_p), most);
        int keep = 0;
        for (int i = 0; i < count; i++) keep += c[i].logit >= least;
        if (keep >= min_keep) return fr_keep(c, count, least);
        return fr_top_k(c, count, min_keep);
    }

    static int fr_top_n_sigma(fr_candidate *c, int count, float num_sigmas) {
        double sum = 0, squares = 0;
        for (int i = 0; i < count; i++) sum += c[i].logit;
        for (int i = 0; i < count; i++) squares += (c[i].logit - sum / count) * (c[i].logit - sum / count);
        return fr_keep(c, count, fr_most(c, count) - num_sigmas * (float)sqrt(squares / count));
    }

    /* The fewest candidates, those with a surprise nearest to the mean first, whose probabilities exceed `typical_p`. `logits`: room for a
       float per token, because the candidates are sorted by another value for a while. */
    static int fr_typical(fr_candidate *c, int count, float typical_p, int min_keep, float *logits) {
        float most = fr_most(c, count), log_total = logf(fr_sum(c, count, most)), entropy = 0, sum = 0;
        int keep = 0;
        for (int i = 0; i < count; i++) entropy -= expf(c[i].logit - most - log_total) * (c[i].logit - most - log_total);
        for (int i = 0; i < count; i++) {
            float surprise = most + log_total - c[i].logit;
            logits[c[i].token] = c[i].logit;
            c[i].logit = -fabsf(surprise - entropy);
        }
        fr_sort(c, count);
        while (keep < count) {
            sum += expf(logits[c[keep++].token] - most - log_total);
            if (sum > typical_p && keep >= min_keep) break;
        }
        for (int i = 0; i < keep; i++) c[i].logit = logits[c[i].token];
        return keep;
    }

    /* Drops the candidates at or above the threshold, except the last of them. */
    static int fr_xtc(fr_candidate *c, int count, float threshold, int min_keep) {
        float most = fr_most(c, count), total = fr_sum(c, count, most);
        int drop = 0;
        fr_sort(c, count);
        while (drop + 1 < count && expf(c[drop + 1].logit - most) / total >= threshold) drop++;
        if (count - drop < min_keep) return count;
        memmove(c, c + drop, (count - drop) * sizeof(*c));
        return count - drop;
    }

    static int fr_temperature(fr_candidate *c, int count, float temperature, float range, float exponent) {
        float most = fr_most(c, count);
        if (range > 0) {
            float total = fr_sum(c, count, most), entropy = 0, low = fmaxf(0, temperature - range);
            if (count == 1) return 1;
            for (int i = 0; i < count; i++) {
                float p = expf(c[i].logit - most) / total;
                if (p > 0) entropy -= p * logf(p);
            }
            temperature = low + (temperature + range - low) * powf(entropy / logf(count), exponent);
        }
        if (!(temperature > 0) || !isfinite(most / temperature)) return fr_top_k(c, count, 1);
        for (int i = 0; i < count; i++) c[i].logit /= temperature;
        return count;
    }

    #define FR_MIROSTAT_SAMPLE 100  /* llama.cpp's m: how many of the best are used to estimate the slope */

    static int fr_mirostat(fr_candidate *c, int count, int n_vocab, float mu) {
        float above = 0, below = 0, slope, epsilon, k;
        int sample = count < FR_MIROSTAT_SAMPLE ? count : FR_MIROSTAT_SAMPLE;
        fr_select(c, count, sample);
        fr_sort(c, sample);
        for (int i = 0; i + 1 < sample; i++) {
            float t = logf((float)(i + 2) / (float)(i + 1));
            above += t * (c[i].logit - c[i + 1].logit);
            below += t * t;
        }
        slope = above / below;
        epsilon = slope - 1;
        k = powf((epsilon * powf(2, mu)) / (1 - powf(n_vocab, -epsilon)), 1 / slope);
        return fr_top_k(c, count, k >= count ? count : k >= 1 ? (int)k : 1);  /* NaN: 1 */
    }

    static int fr_mirostat_2(fr_candidate *c, int count, float mu) {
        float most = fr_most(c, count), least = most + logf(fr_sum(c, count, most)) - mu * (float)M_LN2;
        return least > most ? fr_top_k(c, count, 1) : fr_keep(c, count, least);
    }

    /* Logits by how near each probability is to the target; p[i] becomes the probability before. The constants are llama.cpp's. */
    static void fr_adaptive(fr_candidate *c, int count, float target, float *p) {
        float most = fr_most(c, count), sum = fr_sum(c, count, most);
        for (int i = 0; i < count; i++) {
            float distance;
            p[i] = expf(c[i].logit - most) / sum;
            distance = fabsf(p[i] - target) / 0.3f;
            if (c[i].logit > -INFINITY) c[i].logit = 5 - 10 * distance * distance / (1 + distance);
        }
    }

    static float fr_penalised(float logit, int times, float repeat_penalty, float frequency_penalty, float presence_penalty) {
        logit = logit <= 0 ? logit * repeat_penalty : logit / repeat_penalty;
        return logit - times * frequency_penalty - presence_penalty;
    }

    /* What a token loses if it would continue a repetition of `length` tokens. */
    static float fr_dry_loss(int length, float multiplier, float base, int allowed_length) {
        int exponent = length - allowed_length;
        if (base > 1.000001f) exponent = fminf(exponent, 88.7228391f / logf(base));  /* stays a float */
        return multiplier * powf(base, exponent);
    }

    #define FR_SINGLE 1  /* a breaker of one token */
    #define FR_HEAD 2  /* the first token of a longer one */

    typedef struct {
        uint8_t *kinds;  /* per token */
        int count;  /* of longer ones */
        int32_t *heads;
        int32_t *starts;  /* of each tail; one more for the end */
        int32_t *tails;
    } fr_breakers;

    /* How far back from the end of h[0..n) a repetition may reach: to the last breaker. */
    static int fr_dry_reach(const int32_t *h, int n, const fr_breakers *b) {
        for (int i = 0; i < n; i++) {
            int32_t token = h[n - 1 - i];
            int longest = b->kinds[token] & FR_SINGLE ? 0 : -1;
            if (b->kinds[token] & FR_HEAD) for (int j = 0; j < b->count; j++) {
                int size = b->starts[j + 1] - b->starts[j];
                if (b->heads[j] == token && size > longest && size <= i
                    && !memcmp(b->tails + b->starts[j], h + n - i, size * sizeof(*h))) longest = size;
            }
            if (longest >= 0) return i - longest;
        }
        return n;
    }

    /* longest[token] = 1 + the longest repetition that this token would continue, for the tokens of h[0..n) that would; the others stay
       unchanged. `z`: room for n; z[k] is how much of the end also ends k tokens before it (the Z algorithm, backwards). */
    static int fr_repetitions(const int32_t *h, int n, int allowed, const fr_breakers *b, int32_t *z, int32_t *longest) {
        int reach, left = 0, right = 0, last = n - 1;
        if (n <= allowed || (reach = fr_dry_reach(h, n, b)) < allowed) return 0;
        for (int k = 1; k < n; k++) {
            int size = 0;
            if (k <= right && z[k - left] < right - k + 1) {
                size = z[k - left];
            } else {
                size = k > right ? 0 : right - k + 1;
                while (size + k < n && h[last - size] == h[last - size - k]) size++;
                if (size > 0) { left = k; right = k + size - 1; }
            }
            z[k] = size < reach ? size : reach;
            if (z[k] >= allowed && z[k] + 1 > longest[h[n - k]]) longest[h[n - k]] = z[k] + 1;
        }
        return 1;
    }

    /* out[i] = logits[i] where bit i of the mask is set, else -inf. */
    static void fr_masked(const float *logits, int n, const uint32_t *mask, float *out) {
        for (int begin = 0; begin < n; begin += 32) {
            uint32_t word = mask[begin / 32];
            int end = begin + 32 < n ? begin + 32 : n;
            if (word == 0xFFFFFFFFu) memcpy(out + begin, logits + begin, (end - begin) * sizeof(float));
            else for (int i = begin; i < end; i++) out[i] = -INFINITY;
            if (word != 0xFFFFFFFFu) for (; word; word &= word - 1)
                if (begin + __builtin_ctz(word) < n) out[begin + __builtin_ctz(word)] = logits[begin + __builtin_ctz(word)];
        }
    }
    """
    ctypedef struct fr_breakers:
        uint8_t *kinds
        int count
        int32_t *heads
        int32_t *starts
        int32_t *tails
    float fr_most(const fr_candidate *c, int count) noexcept
    void fr_sort(fr_candidate *c, int count) noexcept
    int fr_top_k(fr_candidate *c, int count, int top_k) noexcept
    int fr_top_p(fr_candidate *c, int count, float top_p, int min_keep) noexcept
    int fr_min_p(fr_candidate *c, int count, float min_p, int min_keep) noexcept
    int fr_top_n_sigma(fr_candidate *c, int count, float num_sigmas) noexcept
    int fr_typical(fr_candidate *c, int count, float typical_p, int min_keep, float *logits) noexcept
    int fr_xtc(fr_candidate *c, int count, float threshold, int min_keep) noexcept
    int fr_temperature(fr_candidate *c, int count, float temperature, float range, float exponent) noexcept
    int fr_mirostat(fr_candidate *c, int count, int n_vocab, float mu) noexcept
    int fr_mirostat_2(fr_candidate *c, int count, float mu) noexcept
    void fr_adaptive(fr_candidate *c, int count, float target, float *p) noexcept
    float fr_penalised(float logit, int times, float repeat_penalty, float frequency_penalty, float presence_penalty) noexcept
    float fr_dry_loss(int length, float multiplier, float base, int allowed_length) noexcept
    int fr_repetitions(const int32_t *h, int n, int allowed, const fr_breakers *b, int32_t *z, int32_t *longest) noexcept
    void fr_masked(const float *logits, int n, const uint32_t *mask, float *out) noexcept


# The tokens that end a repetition for DRY. Immutable, so that all samplers of one vocabulary share it.
cdef class Breakers:
    cdef:
        fr_breakers _all
        int _n_vocab

    def __init__(self, int n_vocab, list singles, list longer):
        cdef Py_ssize_t index = 0, offset = 0
        self._n_vocab = n_vocab
        self._all.kinds = <uint8_t *>_allocate(n_vocab)
        memset(self._all.kinds, 0, n_vocab)
        self._all.heads = <int32_t *>_allocate(len(longer) * sizeof(int32_t))
        self._all.starts = <int32_t *>_allocate((len(longer) + 1) * sizeof(int32_t))
        self._all.tails = <int32_t *>_allocate(sum([len(tail) for _, tail in longer]) * sizeof(int32_t))
        for token in [*singles, *[head for head, _ in longer]]:
            if not 0 <= token < n_vocab:
                raise ValueError(f"token {token} is outside the vocabulary")
        for token in singles:
            self._all.kinds[<Py_ssize_t>token] |= 1
        for index, (head, tail) in enumerate(longer):
            self._all.kinds[<Py_ssize_t>head] |= 2 if tail else 1
            self._all.heads[index] = head
            self._all.starts[index] = offset
            for token in tail:
                self._all.tails[offset] = token
                offset += 1
        self._all.starts[len(longer)] = offset
        self._all.count = len(longer)

    def __dealloc__(self):
        PyMem_Free(self._all.kinds)
        PyMem_Free(self._all.heads)
        PyMem_Free(self._all.starts)
        PyMem_Free(self._all.tails)
