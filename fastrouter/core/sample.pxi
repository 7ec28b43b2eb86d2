# LogitSampler: the next token from one row of logits, through the same chain as llama.cpp's: bias and mask, then the samplers in the
# order asked for, then a draw. Penalties at the start change the logits in place; the usual other steps see only a few
# candidates. Invariant: the row of logits is unchanged afterwards (choices of one prompt share it).

cdef enum:
    _PENALTIES, _DRY, _TOP_N_SIGMA, _TOP_K, _TYPICAL, _TOP_P, _MIN_P, _XTC, _TEMPERATURE, _MIROSTAT, _MIROSTAT_2
    _ADAPTIVE  # of these, it is always the last one

SAMPLERS = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")
ADAPTIVE = "adaptive_p"  # a step that is only there when it is asked for

# Filled from a dict by name, see options/sampling.py; a missing field is a ValueError that names it.
cdef struct fr_settings:
    float temperature, dynatemp_range, dynatemp_exponent
    int top_k
    float top_p, min_p, top_n_sigma, xtc_probability, xtc_threshold, typical_p
    int repeat_last_n  # tokens that penalties look at; -1: all
    float repeat_penalty, presence_penalty, frequency_penalty
    float dry_multiplier, dry_base
    int dry_allowed_length, dry_penalty_last_n
    int mirostat
    float mirostat_tau, mirostat_eta
    float adaptive_target, adaptive_decay
    int min_keep

cdef fr_settings _no_settings
SAMPLER_SETTINGS = tuple(dict(_no_settings))


cdef inline float _penalised(const fr_settings *s, float logit, int times) noexcept:  # C only
    return fr_penalised(logit, times, s.repeat_penalty, s.frequency_penalty, s.presence_penalty)


cdef inline float _dry_loss(const fr_settings *s, int32_t length) noexcept:  # C only
    return fr_dry_loss(length, s.dry_multiplier, s.dry_base, s.dry_allowed_length)


cdef class LogitSampler:
    cdef:
        int _n_vocab
        fr_settings _s
        uint64_t _seed
        uint64_t _num_accepted  # tokens of the answer
        uint64_t _state  # of the random numbers: each token has its own range of them
        public float mu  # from token to token: mirostat's, or the sum of adaptive_p's probabilities, each older one counting less
        list _head  # steps that change the logits in place: penalties and dry before all others
        list _steps  # all others, without those that do nothing
        bint _is_greedy
        bint _is_usual  # fr_draw does all the others
        bint _has_penalties
        bint _has_dry
        int32_t *_history  # all tokens since the windows of the prompt
        Py_ssize_t _num_history
        Py_ssize_t _history_capacity
        int32_t *_counts  # per token, how often it is in the window
        int32_t *_repeats  # DRY: scratch for its window
        Py_ssize_t _repeats_capacity
        int32_t *_longest  # DRY: per token, zero between samples
        Breakers _breakers
        Py_ssize_t _num_bias
        int32_t *_bias_tokens
        float *_bias
        Py_ssize_t _num_saved  # logits that were changed for this sample, to be restored
        Py_ssize_t _saved_capacity
        int32_t *_saved_tokens
        float *_saved
        float *_maxima  # per block, and a sorted copy
        fr_candidate *_candidates
        float *_row  # of the typical step, or the masked logits
        int _num_kept  # candidates after the chain, with weights for logits; 0: nothing was drawn
        float _sum  # of their weights
        int _num_probs  # -1: none are kept
        bint _is_after  # probabilities of after the chain
        public object probabilities  # of the last sample: (the token's own, [(token, probability), ...] best first)

    def __init__(
        self, int n_vocab, dict settings, *, seed, list bias, Breakers breakers=None, int num_probs=-1, bint is_after=False,
    ):
        self._n_vocab = n_vocab
        self._s = settings
        self._s.dry_allowed_length = max(self._s.dry_allowed_length, 0)
        self._seed = self._state = seed
        self.mu = 2 * self._s.mirostat_tau
        if ADAPTIVE in settings["samplers"] and not self._s.mirostat:
            self.mu = self._s.adaptive_target / (1 - self._s.adaptive_decay)
        self._num_probs = num_probs
        self._is_after = is_after
        self._plan([_ADAPTIVE if name == ADAPTIVE else SAMPLERS.index(name) for name in settings["samplers"]])
        self._maxima = <float *>_allocate(2 * (n_vocab // 64 + 1) * sizeof(float))
        if not self._is_greedy or num_probs >= 0:
            self._candidates = <fr_candidate *>_allocate(n_vocab * sizeof(fr_candidate))
        if _TYPICAL in self._steps or _ADAPTIVE in self._steps:
            self._row = <float *>_allocate(n_vocab * sizeof(float))
        self._set_bias(bias)
        if self._has_penalties:
            self._counts = <int32_t *>_allocate(n_vocab * sizeof(int32_t))
            memset(self._counts, 0, n_vocab * sizeof(int32_t))
        if self._has_dry:
            self._longest = <int32_t *>_allocate(n_vocab * sizeof(int32_t))
            memset(self._longest, 0, n_vocab * sizeof(int32_t))
            self._breakers = Breakers(n_vocab, [], []) if breakers is None else breakers
            if self._breakers._n_vocab != n_vocab:
                raise ValueError("breakers of another vocabulary")

    def _plan(self, list steps):
        """Which steps of the chain have an effect, and how they are done."""
        if self._s.mirostat:
            steps = [_TEMPERATURE, _MIROSTAT if self._s.mirostat == 1 else _MIROSTAT_2]
        steps = sorted([step for step in steps if self._is_active(step)], key=lambda step: step == _ADAPTIVE)
        self._has_penalties = _PENALTIES in steps
        self._has_dry = _DRY in steps
        head = []
        while steps and steps[0] in (_PENALTIES, _DRY):
            head.append(steps.pop(0))
        usual = [_TOP_K, _TOP_P, _MIN_P, _TEMPERATURE]
        self._head, self._steps = head, steps
        self._is_usual = steps == [step for step in usual if step in steps] and self._s.dynatemp_range <= 0
        self._is_greedy = self._is_usual and _TEMPERATURE in steps and self._s.temperature <= 0
        if self._is_usual:  # steps that are not in the chain are off in fr_draw
            self._s.top_k = self._s.top_k if _TOP_K in steps else 0
            self._s.top_p = self._s.top_p if _TOP_P in steps else 1
            self._s.min_p = self._s.min_p if _MIN_P in steps else 0
            self._s.temperature = self._s.temperature if _TEMPERATURE in steps else 1

    cdef bint _is_active(self, int step) noexcept:  # C only
        cdef fr_settings *s = &self._s
        if step == _PENALTIES:
            return s.repeat_last_n != 0 and (s.repeat_penalty != 1 or s.frequency_penalty != 0 or s.presence_penalty != 0)
        if step == _DRY:
            return s.dry_multiplier != 0 and s.dry_base >= 1 and s.dry_penalty_last_n != 0
        if step == _TOP_N_SIGMA:
            return s.top_n_sigma > 0
        if step == _TOP_K:
            return s.top_k > 0
        if step == _TYPICAL:
            return s.typical_p < 1
        if step == _TOP_P:
            return s.top_p < 1
        if step == _MIN_P:
            return s.min_p > 0
        if step == _XTC:
            return s.xtc_probability > 0 and s.xtc_threshold <= 0.5
        if step == _TEMPERATURE:
            return s.temperature != 1 or s.dynatemp_range > 0
        if step == _ADAPTIVE:
            return s.adaptive_target >= 0
        return True

    def _set_bias(self, list bias):
        cdef Py_ssize_t index
        self._bias_tokens = <int32_t *>_allocate(len(bias) * sizeof(int32_t))
        self._bias = <float *>_allocate(len(bias) * sizeof(float))
        for index, (token, value) in enumerate(bias):
            if not 0 <= token < self._n_vocab:
                raise ValueError(f"token {token} is outside the vocabulary")
            self._bias_tokens[index] = token
            self._bias[index] = value
        self._num_bias = len(bias)

    def __dealloc__(self):
        for pointer in (
            <size_t>self._history, <size_t>self._counts, <size_t>self._bias_tokens, <size_t>self._bias, <size_t>self._repeats,
            <size_t>self._saved_tokens, <size_t>self._saved, <size_t>self._maxima, <size_t>self._candidates, <size_t>self._longest,
            <size_t>self._row,
        ):
            PyMem_Free(<void *><size_t>pointer)

    # ------------------------------------------------------------ the text so far

    def prime(self, tokens):
        """The prompt: its end, as far as any step looks back."""
        cdef Py_ssize_t window = 0
        if self._has_penalties:
            window = len(tokens) if self._s.repeat_last_n < 0 else self._s.repeat_last_n
        if self._has_dry:
            window = max(window, len(tokens) if self._s.dry_penalty_last_n < 0 else self._s.dry_penalty_last_n)
        if window:
            for token in tokens[max(0, len(tokens) - window):]:
                self._remember(token)

    def accept(self, int32_t token):
        self._num_accepted += 1
        self._state = fr_state_at(self._seed, self._num_accepted)
        self._remember(token)

    cdef int _remember(self, int32_t token) except -1:
        if not (self._has_penalties or self._has_dry) or not 0 <= token < self._n_vocab:
            return 0
        self._history = <int32_t *>_grown(self._history, &self._history_capacity, self._num_history + 1, sizeof(int32_t))
        self._history[self._num_history] = token
        self._num_history += 1
        if self._has_penalties:
            self._counts[token] += 1
            if 0 <= self._s.repeat_last_n < self._num_history:  # the oldest leaves
                self._counts[self._history[self._num_history - 1 - self._s.repeat_last_n]] -= 1
        return 0

    # ------------------------------------------------------------ a sample

    def sample(self, size_t address, int n_vocab, size_t mask=0):
        """`address` of n_vocab float32 logits -> token id. `mask`: address of ceil(n_vocab / 32) uint32, a bit for each token allowed."""
        cdef float *logits = <float *>address
        cdef float *row = logits
        cdef int blocks, token
        cdef bint is_changed = self._num_bias > 0 or (self._num_history > 0 and self._head)
        if n_vocab != self._n_vocab or logits == NULL:
            raise ValueError("not a row of this vocabulary's logits")
        if mask:
            row = <float *>_allocate(n_vocab * sizeof(float))
            fr_masked(logits, n_vocab, <const uint32_t *>mask, row)
        try:
            if is_changed:
                self._change(row)
            blocks = fr_block_maxima(row, n_vocab, self._maxima)
            if self._is_greedy:
                token = fr_argmax(row, n_vocab, self._maxima, blocks)
            elif self._is_usual:
                token = fr_draw(
                    row, n_vocab, self._maxima, blocks, self._maxima + blocks, self._candidates, self._s.top_k, self._s.top_p,
                    self._s.min_p, self._s.min_keep, self._s.temperature, &self._state, &self._num_kept, &self._sum,
                )
            else:
                token = self._follow(row, blocks)
        finally:
            if is_changed:
                self._restore(row)
            if mask:
                PyMem_Free(row)
        if self._num_probs >= 0:
            self.probabilities = self._after(token) if self._is_after else self._before(logits, token)
        return token

    cdef int _follow(self, float *row, int blocks) except -1:
        """Any chain, step by step."""
        cdef fr_candidate *c = self._candidates
        cdef fr_settings *s = &self._s
        cdef float most = fr_largest(self._maxima, blocks)
        cdef int step, token, index, count
        self._num_kept = 0
        if not isfinite(most):
            return fr_argmax(row, self._n_vocab, self._maxima, blocks)
        if self._steps and self._steps[0] == _TOP_K and s.top_k < self._n_vocab:
            count = fr_best(row, self._n_vocab, self._maxima, blocks, self._maxima + blocks, c, s.top_k, most)
        else:
            count = fr_collect(row, self._n_vocab, self._maxima, blocks, -FLT_MAX, c)
        for step in self._steps:
            if step == _PENALTIES:
                for index in range(count):
                    if self._counts[c[index].token]:
                        c[index].logit = _penalised(s, c[index].logit, self._counts[c[index].token])
            elif step == _DRY:
                self._dry_candidates(c, count)
            elif step == _TOP_N_SIGMA:
                count = fr_top_n_sigma(c, count, s.top_n_sigma)
            elif step == _TOP_K:
                count = fr_top_k(c, count, s.top_k)
            elif step == _TYPICAL:
                count = fr_typical(c, count, s.typical_p, s.min_keep, self._row)
            elif step == _TOP_P:
                count = fr_top_p(c, count, s.top_p, s.min_keep)
            elif step == _MIN_P:
                count = fr_min_p(c, count, s.min_p, s.min_keep)
            elif step == _XTC:
                if count > 1 and fr_unit(&self._state) <= s.xtc_probability:
                    count = fr_xtc(c, count, s.xtc_threshold, s.min_keep)
            elif step == _TEMPERATURE:
                count = fr_temperature(c, count, s.temperature, s.dynatemp_range, s.dynatemp_exponent)
            elif step == _MIROSTAT:
                count = fr_mirostat(c, count, self._n_vocab, self.mu)
            elif step == _MIROSTAT_2:
                count = fr_mirostat_2(c, count, self.mu)
            else:  # what was chosen so far moves the target to the other side
                fr_adaptive(c, count, min(max(2 * s.adaptive_target - self.mu * (1 - s.adaptive_decay), 0), 1), self._row)
        token = fr_choose(c, count, fr_most(c, count), 1, &self._state, &self._sum)
        self._num_kept = count
        step = self._steps[len(self._steps) - 1] if self._steps else 0
        if step == _ADAPTIVE:
            for index in range(count):
                if c[index].token == token:
                    self.mu = self._row[index] + s.adaptive_decay * self.mu
                    break
        elif step >= _MIROSTAT:
            self.mu -= s.mirostat_eta * (-log2(self._chance(token)) - s.mirostat_tau)
        return token

    # ------------------------------------------------------------ in place, and back

    cdef int _change(self, float *logits) except -1:
        """Bias, then the penalties at the start; the old values are kept for `_restore`."""
        cdef Py_ssize_t index
        cdef Py_ssize_t wanted = self._num_bias + len(self._head) * self._num_history
        cdef Py_ssize_t capacity = self._saved_capacity
        self._num_saved = 0
        self._saved_tokens = <int32_t *>_grown(self._saved_tokens, &capacity, wanted, sizeof(int32_t))
        self._saved = <float *>_grown(self._saved, &self._saved_capacity, wanted, sizeof(float))
        for index in range(self._num_bias):
            self._save(logits, self._bias_tokens[index])
            logits[self._bias_tokens[index]] += self._bias[index]
        for step in self._head:
            if step == _PENALTIES:
                self._penalise(logits)
            else:
                self._dry_logits(logits)
        return 0

    cdef void _penalise(self, float *logits) noexcept:  # C only
        cdef Py_ssize_t window = self._s.repeat_last_n
        cdef Py_ssize_t first = 0 if window < 0 else max(<Py_ssize_t>0, self._num_history - window)
        cdef Py_ssize_t index
        cdef int32_t token
        for index in range(first, self._num_history):
            token = self._history[index]
            if self._counts[token] > 0:
                self._save(logits, token)
                logits[token] = _penalised(&self._s, logits[token], self._counts[token])
                self._counts[token] = -self._counts[token]  # done: negated until all are
        for index in range(first, self._num_history):
            token = self._history[index]
            if self._counts[token] < 0:
                self._counts[token] = -self._counts[token]

    cdef Py_ssize_t _find_repetitions(self) except -1:
        """Fills `_longest`; returns where its window starts in the history."""
        cdef Py_ssize_t window = self._s.dry_penalty_last_n
        cdef Py_ssize_t first = 0 if window < 0 else max(<Py_ssize_t>0, self._num_history - window)
        cdef Py_ssize_t size = self._num_history - first
        self._repeats = <int32_t *>_grown(self._repeats, &self._repeats_capacity, size, sizeof(int32_t))
        fr_repetitions(self._history + first, size, self._s.dry_allowed_length, &self._breakers._all, self._repeats, self._longest)
        return first

    cdef int _dry_logits(self, float *logits) except -1:
        cdef Py_ssize_t index
        cdef int32_t token
        for index in range(self._find_repetitions(), self._num_history):
            token = self._history[index]
            if self._longest[token] and not self._breakers._all.kinds[token] & 1:
                self._save(logits, token)
                logits[token] -= _dry_loss(&self._s, self._longest[token] - 1)
            self._longest[token] = 0
        return 0

    cdef int _dry_candidates(self, fr_candidate *c, int count) except -1:
        cdef Py_ssize_t index
        cdef Py_ssize_t first = self._find_repetitions()
        cdef int32_t token
        for index in range(count):
            token = c[index].token
            if self._longest[token] and not self._breakers._all.kinds[token] & 1:
                c[index].logit -= _dry_loss(&self._s, self._longest[token] - 1)
        for index in range(first, self._num_history):
            self._longest[self._history[index]] = 0
        return 0

    cdef void _save(self, float *logits, int32_t token) noexcept:  # C only
        # At most once per bias, and per step and token of the history, so _change has room for all of them.
        self._saved_tokens[self._num_saved] = token
        self._saved[self._num_saved] = logits[token]
        self._num_saved += 1

    cdef void _restore(self, float *logits) noexcept:  # C only
        cdef Py_ssize_t index
        for index in range(self._num_saved - 1, -1, -1):  # backwards: a token may have been saved twice
            logits[self._saved_tokens[index]] = self._saved[index]

    # ------------------------------------------------------------ probabilities

    def measure(self, size_t address, int n_vocab, int token):
        cdef float mu = self.mu
        if not 0 <= token < self._n_vocab:
            raise ValueError(f"token {token} is outside the vocabulary")
        self.sample(address, n_vocab)
        self.mu = mu
        self._state = fr_state_at(self._seed, self._num_accepted)
        if self._num_probs >= 0:
            self.probabilities = self._after(token) if self._is_after else self._before(<float *>address, token)

    cdef float _chance(self, int token) noexcept:  # C only
        cdef int index
        for index in range(self._num_kept):
            if self._candidates[index].token == token:
                return self._candidates[index].logit / self._sum
        return 1  # it was the only one

    cdef tuple _after(self, int token):
        """Of the candidates that are left after the chain."""
        cdef int index
        cdef float own = self._chance(token)
        if self._is_greedy or not self._num_kept:
            return 1.0, [(token, 1.0)][: self._num_probs]
        fr_sort(self._candidates, self._num_kept)
        return own, [
            (self._candidates[index].token, self._candidates[index].logit / self._sum)
            for index in range(min(self._num_probs, self._num_kept))
            if self._candidates[index].logit > 0
        ]

    cdef tuple _before(self, float *logits, int token):
        """Of all tokens, as the model says."""
        cdef int n = self._n_vocab
        cdef int index, count
        cdef int blocks = fr_block_maxima(logits, n, self._maxima)
        cdef float most = fr_largest(self._maxima, blocks)
        cdef double total = 0
        if not isfinite(most):
            return 1.0, [(token, 1.0)][: self._num_probs]
        for index in range(n):
            if logits[index] > -INFINITY:
                total += exp(logits[index] - most)
        count = min(self._num_probs, n)
        if 0 < count < n:
            count = fr_best(logits, n, self._maxima, blocks, self._maxima + blocks, self._candidates, count, most)
        elif count:
            count = fr_collect(logits, n, self._maxima, blocks, -FLT_MAX, self._candidates)
        fr_sort(self._candidates, count)
        return exp(logits[token] - most) / total, [
            (self._candidates[index].token, exp(self._candidates[index].logit - most) / total) for index in range(count)
        ]
