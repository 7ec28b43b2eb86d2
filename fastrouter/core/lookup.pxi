# Lookup: where the last few tokens of a text stood before, and what followed them there.
#
# A table, by the hash of n tokens in a row, holds where their latest occurrence ends; a rolling hash makes the cost of each token constant.
# N-grams with the same entry take the next few entries, and then replace each other: an occurrence may be missed, but a found one
# is right, because the tokens themselves are compared.

cdef enum:
    _SPREAD_BITS = 32
    _NUM_PROBES = 16

cdef uint64_t _BASE = 0x9E3779B97F4A7C15


cdef class Lookup:
    cdef:
        Py_ssize_t _n  # tokens that must be the same
        int32_t _min_hits  # how often they must have occurred before
        int32_t *_tokens
        Py_ssize_t _num
        Py_ssize_t _capacity  # of _tokens, a power of two; both tables have twice as many entries
        int32_t *_ends  # by hash: one past the latest n-gram; 0: there was none
        int32_t *_hits  # by hash: how often it occurred
        uint64_t _hash  # of the last n tokens
        uint64_t _oldest  # _BASE ** n, the factor of a token that leaves
        Py_ssize_t _match  # one past the earlier occurrence of the last n tokens; 0: none

    def __init__(self, Py_ssize_t n, int32_t min_hits=1):
        if n < 1:
            raise ValueError("an n-gram has one token or more")
        self._n = n
        self._min_hits = min_hits
        self._oldest = 1
        for _ in range(n):
            self._oldest *= _BASE

    def __dealloc__(self):
        PyMem_Free(self._tokens)
        PyMem_Free(self._ends)
        PyMem_Free(self._hits)

    def __len__(self):
        return self._num

    def guess(self, held, int32_t next_token, Py_ssize_t most):
        """At most `most` tokens that may follow `held`, an array of int32, and `next_token`; empty without a match."""
        cdef Py_buffer view
        cdef Py_ssize_t count, index, source
        cdef const int32_t *tokens
        PyObject_GetBuffer(held, &view, PyBUF_SIMPLE)
        try:
            if view.len % sizeof(int32_t):
                raise ValueError("not an array of int32")
            count = view.len // <Py_ssize_t>sizeof(int32_t)
            tokens = <const int32_t *>view.buf
            if not self._is_start_of(tokens, count, next_token):
                self._clear()
            self._reserve(count + 1)
            for index in range(self._num, count):
                self._append(tokens[index])
        finally:
            PyBuffer_Release(&view)
        if self._num == count:
            self._append(next_token)
        if not self._match:
            return []
        found = []
        for index in range(most):  # past the end of the text it continues with the tokens it found: a period repeats
            source = self._match + index
            found.append(self._tokens[source] if source < self._num else found[source - self._num])
        return found

    cdef bint _is_start_of(self, const int32_t *tokens, Py_ssize_t count, int32_t next_token) noexcept:  # C only
        # Whether the known tokens are a start of the text, judged by their end; a text that was shifted is another one.
        if not self._num:
            return True
        if self._num > count + 1:
            return False
        return self._tokens[self._num - 1] == (next_token if self._num == count + 1 else tokens[self._num - 1])

    cdef void _clear(self) noexcept:  # C only
        self._num, self._hash, self._match = 0, 0, 0
        if self._capacity:
            memset(self._ends, 0, 2 * self._capacity * sizeof(int32_t))
            memset(self._hits, 0, 2 * self._capacity * sizeof(int32_t))

    cdef int _reserve(self, Py_ssize_t wanted) except -1:
        """Room for more tokens; the tables are filled again when they grow."""
        cdef Py_ssize_t capacity = max(<Py_ssize_t>256, self._capacity)
        cdef Py_ssize_t index, count = self._num
        if wanted <= self._capacity:
            return 0
        while capacity < wanted:
            capacity *= 2
        self._tokens = <int32_t *>_resized(self._tokens, capacity)
        self._ends = <int32_t *>_resized(self._ends, 2 * capacity)
        self._hits = <int32_t *>_resized(self._hits, 2 * capacity)
        self._capacity = capacity
        self._clear()
        for index in range(count):
            self._append(self._tokens[index])
        return 0

    cdef void _append(self, int32_t token) noexcept:  # C only
        # _reserve has made room, and an entry is below 2 * _capacity, a power of two.
        cdef uint64_t first, entry = 0
        cdef Py_ssize_t end
        cdef int probe
        self._tokens[self._num] = token
        self._num += 1
        self._hash = self._hash * _BASE + <uint64_t>(<uint32_t>token) + 1
        if self._num > self._n:
            self._hash -= self._oldest * (<uint64_t>(<uint32_t>self._tokens[self._num - 1 - self._n]) + 1)
        self._match = 0
        if self._num < self._n:
            return
        first = (self._hash ^ (self._hash >> _SPREAD_BITS)) * _BASE >> _SPREAD_BITS
        for probe in range(_NUM_PROBES):
            entry = (first + <uint64_t>probe) & <uint64_t>(2 * self._capacity - 1)
            end = self._ends[entry]
            if not end:
                break
            if not memcmp(self._tokens + end - self._n, self._tokens + self._num - self._n, self._n * sizeof(int32_t)):
                if self._hits[entry] >= self._min_hits:
                    self._match = end
                self._hits[entry] += 1
                self._ends[entry] = <int32_t>self._num
                return
        self._hits[entry] = 1
        self._ends[entry] = <int32_t>self._num


cdef void *_resized(void *memory, Py_ssize_t count) except NULL:
    cdef void *grown = PyMem_Realloc(memory, count * sizeof(int32_t))
    if grown == NULL:
        raise MemoryError()
    return grown
