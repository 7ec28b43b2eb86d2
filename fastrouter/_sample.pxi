# LogitSampler: the next token from one row of logits. Same chain as llama.cpp's default (penalties, top_k, top_p, min_p,
# temperature, draw), but picks the few candidates straight from the logits instead of building and sorting all of them.
# Knows no vocabulary but its size. Invariant: the row of logits is left as it was found (choices of one prompt share it).

cdef extern from *:
    """
    #include <math.h>
    #include <stdlib.h>
    #include <float.h>

    typedef struct { float logit; int32_t token; } fr_candidate;
    typedef int32_t fr_mask __attribute__((vector_size(64)));
    typedef float fr_floats __attribute__((vector_size(64)));
    typedef float fr_row __attribute__((vector_size(64), aligned(4)));
    #define FR_BLOCK 64

    #if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    #define FR_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
    #else
    #define FR_CLONES
    #endif

    /* Lane by lane; `b` where `a` is not larger, so a NaN in `a` is never picked. */
    static inline __attribute__((always_inline)) fr_floats fr_larger(fr_floats a, fr_floats b) {
        fr_mask mask = a > b;
        return (fr_floats)(((fr_mask)a & mask) | ((fr_mask)b & ~mask));
    }

    /* Largest of each block of 64 to `maxima`; the rest that fills no block is one more. Returns the number of blocks. */
    FR_CLONES static int fr_block_maxima(const float *logits, int n, float *maxima) {
        int blocks = 0, i = 0;
        for (; i + FR_BLOCK <= n; i += FR_BLOCK) {
            fr_floats most = {0};
            float lanes[16];
            most -= INFINITY;
            for (int j = 0; j < FR_BLOCK; j += 16) most = fr_larger(*(const fr_row *)(logits + i + j), most);
            memcpy(lanes, &most, sizeof(lanes));
            for (int k = 1; k < 16; k++) lanes[0] = lanes[k] > lanes[0] ? lanes[k] : lanes[0];
            maxima[blocks++] = lanes[0];
        }
        if (i < n) {
            float most = -INFINITY;
            for (; i < n; i++) most = logits[i] > most ? logits[i] : most;
            maxima[blocks++] = most;
        }
        return blocks;
    }

    /* `out`: the logits whose bit of `allowed` is set, -inf for the others. */
    FR_CLONES static void fr_mask_logits(const float *logits, int n, const uint32_t *allowed, float *out) {
        for (int word = 0; word < (n + 31) / 32; word++) {
            int first = word * 32, end = n - first < 32 ? n - first : 32;
            if (!allowed[word]) for (int i = 0; i < end; i++) out[first + i] = -INFINITY;
            else for (int i = 0; i < end; i++) out[first + i] = allowed[word] >> i & 1 ? logits[first + i] : -INFINITY;
        }
    }

    static int fr_argmax(const float *logits, int n, const float *maxima, int blocks) {
        int best = 0;
        for (int b = 1; b < blocks; b++) if (maxima[b] > maxima[best]) best = b;
        for (int i = best * FR_BLOCK; i < n && i < (best + 1) * FR_BLOCK; i++) if (logits[i] == maxima[best]) return i;
        return 0;  /* every logit is NaN or -inf */
    }

    /* Moves the k largest of v to its front, in no order. No NaN may be among them. */
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

    /* All tokens at or above `least` (no NaN is); `out` has room for n. */
    static int fr_collect(const float *logits, int n, const float *maxima, int blocks, float least, fr_candidate *out) {
        int count = 0;
        for (int b = 0; b < blocks; b++) {
            if (!(maxima[b] >= least)) continue;
            for (int i = b * FR_BLOCK; i < n && i < (b + 1) * FR_BLOCK; i++)
                if (logits[i] >= least) { out[count].logit = logits[i]; out[count].token = i; count++; }
        }
        return count;
    }

    /* The shortest run of best candidates whose probabilities reach top_p of `total` (sum of exp(logit - most)), sorted only as far
       as that. Returns its length. */
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

    /* `scratch`: one float per block; `c`: room for n candidates. temperature > 0. */
    static int fr_draw(const float *logits, int n, const float *maxima, int blocks, float *scratch, fr_candidate *c, int top_k,
                       float top_p, float min_p, int min_keep, float temperature, uint64_t *state) {
        int count, best = 0, has_k = top_k > 0 && top_k < n;
        float most, least = -FLT_MAX, total = 0, floor, point;
        for (int b = 1; b < blocks; b++) if (maxima[b] > maxima[best]) best = b;
        most = maxima[best];
        if (!isfinite(most)) return fr_argmax(logits, n, maxima, blocks);
        if (min_keep < 1) min_keep = 1;
        /* What is 40 * temperature below the best has a probability under 1e-17: less than a float can add to the sum. */
        floor = min_p > 0 ? fminf(most + logf(min_p), most) : most - 40 * fmaxf(temperature, 1);
        if (has_k && top_k < blocks) {
            memcpy(scratch, maxima, blocks * sizeof(float));
            fr_select_floats(scratch, blocks, top_k);
            least = most;
            for (int b = 0; b < top_k; b++) least = fminf(least, scratch[b]);
            /* top_k blocks have a maximum >= least, so at least top_k tokens are >= least. */
            if (least < -FLT_MAX) least = -FLT_MAX;
        } else if (!has_k && min_keep == 1) {
            least = floor;  /* what min_p drops is not collected; it still counts in the sum for top_p */
        }
        count = fr_collect(logits, n, maxima, blocks, least, c);
        if (has_k && count > top_k) {
            fr_select(c, count, top_k);
            count = top_k;
        }
        if (top_p < 1 || min_keep > 1) {
            if (has_k) for (int i = 0; i < count; i++) total += expf(c[i].logit - most);
            else for (int i = 0; i < n; i++) total += logits[i] > -INFINITY ? expf(logits[i] - most) : 0;
            count = fr_nucleus(c, count, most, total, top_p < 1 ? top_p : INFINITY, min_keep);  /* 1 keeps all, rounding or not */
        }
        if (min_p > 0) {
            int keep = 0;
            for (int i = 0; i < count; i++) if (c[i].logit >= floor || (min_keep > 1 && i < min_keep)) c[keep++] = c[i];
            count = keep;
        }
        total = 0;
        for (int i = 0; i < count; i++) total += c[i].logit = expf((c[i].logit - most) / temperature);  /* weights from here on */
        point = (float)((fr_random(state) >> 40) * (1.0 / (1 << 24))) * total;
        for (int i = 0; i < count; i++) {
            point -= c[i].logit;
            if (point < 0) return c[i].token;
        }
        return c[count - 1].token;
    }
    """
    ctypedef struct fr_candidate:
        float logit
        int32_t token
    int fr_block_maxima(const float *logits, int n, float *maxima) noexcept
    void fr_mask_logits(const float *logits, int n, const uint32_t *allowed, float *out) noexcept
    int fr_argmax(const float *logits, int n, const float *maxima, int blocks) noexcept
    int fr_draw(const float *logits, int n, const float *maxima, int blocks, float *scratch, fr_candidate *c, int top_k,
                float top_p, float min_p, int min_keep, float temperature, uint64_t *state) noexcept


cdef class LogitSampler:
    cdef:
        int _n_vocab
        float _temperature
        int _top_k
        float _top_p
        float _min_p
        int _min_keep
        uint64_t _state
        float _repeat_penalty
        float _frequency_penalty
        float _presence_penalty
        bint _has_penalties
        Py_ssize_t _window  # tokens that penalties look back at; -1: all
        int32_t *_history  # a ring of _window tokens, or all so far
        Py_ssize_t _num_history
        Py_ssize_t _history_capacity
        Py_ssize_t _next  # where the ring goes on
        int32_t *_counts  # per token, how often it is in the window
        Py_ssize_t _num_bias
        int32_t *_bias_tokens
        float *_bias
        Py_ssize_t _num_saved  # logits that were changed for this sample, to be put back
        int32_t *_saved_tokens
        float *_saved
        float *_maxima  # per block, and a sorted copy
        fr_candidate *_candidates
        float *_masked  # the row without what a mask forbids; NULL until there is a mask

    def __init__(
        self, int n_vocab, *, float temperature, int top_k, float top_p, float min_p, int min_keep, seed, Py_ssize_t repeat_last_n,
        float repeat_penalty, float frequency_penalty, float presence_penalty, list bias,
    ):
        cdef Py_ssize_t index
        cdef int blocks = n_vocab // 64 + 1
        self._n_vocab = n_vocab
        self._temperature = temperature
        self._top_k = top_k
        self._top_p = top_p
        self._min_p = min_p
        self._min_keep = min_keep
        self._state = seed
        self._window = repeat_last_n
        self._repeat_penalty = repeat_penalty
        self._frequency_penalty = frequency_penalty
        self._presence_penalty = presence_penalty
        self._has_penalties = repeat_last_n != 0 and (repeat_penalty != 1 or frequency_penalty != 0 or presence_penalty != 0)
        self._maxima = <float *>_allocate(2 * blocks * sizeof(float))
        if temperature > 0:
            self._candidates = <fr_candidate *>_allocate(n_vocab * sizeof(fr_candidate))
        self._num_bias = len(bias)
        if bias:
            self._bias_tokens = <int32_t *>_allocate(len(bias) * sizeof(int32_t))
            self._bias = <float *>_allocate(len(bias) * sizeof(float))
            for index, (token, value) in enumerate(bias):
                if not 0 <= token < n_vocab:
                    raise ValueError(f"token {token} is outside the vocabulary")
                self._bias_tokens[index] = token
                self._bias[index] = value
        if self._has_penalties:
            self._counts = <int32_t *>_allocate(n_vocab * sizeof(int32_t))
            memset(self._counts, 0, n_vocab * sizeof(int32_t))

    def __dealloc__(self):
        for pointer in (
            <size_t>self._history, <size_t>self._counts, <size_t>self._bias_tokens, <size_t>self._bias,
            <size_t>self._saved_tokens, <size_t>self._saved, <size_t>self._maxima, <size_t>self._candidates,
            <size_t>self._masked,
        ):
            PyMem_Free(<void *><size_t>pointer)

    def prime(self, tokens):
        """The prompt: the window's worth of its end counts for the penalties."""
        if self._has_penalties:
            for token in tokens if self._window < 0 else tokens[max(0, len(tokens) - self._window):]:
                self.accept(token)

    def accept(self, int32_t token):
        if not self._has_penalties or not 0 <= token < self._n_vocab:
            return
        if self._num_history == self._window:  # full: the oldest leaves
            self._counts[self._history[self._next]] -= 1
        else:
            if self._num_history == self._history_capacity:
                self._grow_history()
            self._num_history += 1
        self._history[self._next] = token
        self._counts[token] += 1
        self._next += 1
        if self._next == self._window:
            self._next = 0

    cdef int _grow_history(self) except -1:
        cdef Py_ssize_t capacity = max(<Py_ssize_t>64, 2 * self._history_capacity)
        cdef void *grown = PyMem_Realloc(self._history, capacity * sizeof(int32_t))
        if grown == NULL:
            raise MemoryError()
        self._history = <int32_t *>grown
        self._history_capacity = capacity
        return 0

    def sample(self, size_t address, int n_vocab, size_t mask=0):
        """`address` of n_vocab float32 logits -> token id. `mask`: address of a bit per token, those that may be chosen; 0: all."""
        cdef float *logits = <float *>address
        cdef int blocks, token
        cdef bint is_changed = self._num_bias > 0 or self._num_history > 0
        if n_vocab != self._n_vocab or logits == NULL:
            raise ValueError("not a row of this vocabulary's logits")
        if mask:
            if self._masked == NULL:
                self._masked = <float *>_allocate(n_vocab * sizeof(float))
            fr_mask_logits(logits, n_vocab, <const uint32_t *>mask, self._masked)
            logits = self._masked
        if is_changed:
            self._change(logits)
        blocks = fr_block_maxima(logits, n_vocab, self._maxima)
        if self._temperature <= 0:
            token = fr_argmax(logits, n_vocab, self._maxima, blocks)
        else:
            token = fr_draw(
                logits, n_vocab, self._maxima, blocks, self._maxima + blocks, self._candidates, self._top_k, self._top_p, self._min_p,
                self._min_keep, self._temperature, &self._state,
            )
        if is_changed:
            self._restore(logits)
        return token

    cdef int _change(self, float *logits) except -1:
        """Bias, then penalties, in place; what was there is kept for `_restore`."""
        cdef Py_ssize_t index
        cdef Py_ssize_t wanted = self._num_bias + self._num_history
        cdef int32_t token, count
        cdef float value
        PyMem_Free(self._saved_tokens)
        PyMem_Free(self._saved)
        self._saved_tokens = NULL
        self._saved = NULL
        self._num_saved = 0
        self._saved_tokens = <int32_t *>_allocate(wanted * sizeof(int32_t))
        self._saved = <float *>_allocate(wanted * sizeof(float))
        for index in range(self._num_bias):
            self._save(logits, self._bias_tokens[index])
            logits[self._bias_tokens[index]] += self._bias[index]
        for index in range(self._num_history):
            token = self._history[index]
            count = self._counts[token]
            if count < 0:
                continue  # done: its count is negated until all are
            self._save(logits, token)
            value = logits[token]
            value = value * self._repeat_penalty if value <= 0 else value / self._repeat_penalty
            logits[token] = value - count * self._frequency_penalty - self._presence_penalty
            self._counts[token] = -count
        for index in range(self._num_history):
            token = self._history[index]
            if self._counts[token] < 0:
                self._counts[token] = -self._counts[token]
        return 0

    cdef void _save(self, float *logits, int32_t token) noexcept:
        # C only. Called at most once per bias and once per token of the window: inside what _change allocated.
        self._saved_tokens[self._num_saved] = token
        self._saved[self._num_saved] = logits[token]
        self._num_saved += 1

    cdef void _restore(self, float *logits) noexcept:  # C only
        cdef Py_ssize_t index
        for index in range(self._num_saved - 1, -1, -1):  # backwards: a token may have been saved twice
            logits[self._saved_tokens[index]] = self._saved[index]


cdef void *_allocate(size_t size) except NULL:
    cdef void *memory = PyMem_Malloc(max(size, <size_t>1))
    if memory == NULL:
        raise MemoryError()
    return memory


ctypedef uint8_t (*_Predicate)(void *, int32_t) noexcept


def find_tokens(size_t predicate, size_t vocab, int n_vocab):
    cdef _Predicate says_yes = <_Predicate>predicate
    cdef int32_t token
    return [token for token in range(n_vocab) if says_yes(<void *>vocab, token)]
