# Sink: where the records of one request go. TextCollector keeps them for a whole answer; SseWriter, in sse.pxi, frames them as events.
# Knows no model and no API flavour. Invariant: text costs no Python object, also where it is counted.

cdef extern from *:
    """
    #include <time.h>

    /* 0: copied as it is; otherwise the letter after the backslash, 'u' for a six-byte escape. */
    static const unsigned char fr_escape[256] = {
        'u','u','u','u','u','u','u','u','b','t','n','u','f','r','u','u',
        'u','u','u','u','u','u','u','u','u','u','u','u','u','u','u','u',
        ['"'] = '"', ['\\\\'] = '\\\\',
    };

    /* JSON-escapes `size` bytes of UTF-8 to `out`, which has room for 6 * size. Returns the end. Reads each byte once:
       the source may be memory that another process can still write. */
    static char *fr_escape_json(char *out, const char *text, Py_ssize_t size) {
        static const char hex[] = "0123456789abcdef";
        for (Py_ssize_t i = 0; i < size; i++) {
            unsigned char byte = ((volatile const unsigned char *)text)[i];
            unsigned char escape = fr_escape[byte];
            if (!escape) {
                *out++ = (char)byte;
            } else {
                *out++ = '\\\\';
                *out++ = (char)escape;
                if (escape == 'u') {
                    *out++ = '0';
                    *out++ = '0';
                    *out++ = hex[byte >> 4];
                    *out++ = hex[byte & 15];
                }
            }
        }
        return out;
    }

    static long long fr_now_ns(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return now.tv_sec * 1000000000LL + now.tv_nsec;
    }

    /* Upper bounds of the buckets of an ItlHistogram. */
    static const long long fr_gap_bounds_us[] = {
        500, 1000, 2000, 5000, 10000, 20000, 35000, 50000, 75000, 100000, 150000, 250000, 500000, 1000000, 5000000,
    };

    /* "1a2b\\r\\n" to `out` (at most 18 bytes). Returns its length. */
    static int fr_chunk_line(char *out, size_t size) {
        return snprintf(out, 20, "%zx\\r\\n", size);
    }

    /* `value` in decimal digits to `out` (at most 20 bytes). Returns the end. */
    static char *fr_digits(char *out, unsigned long long value) {
        char digits[20];
        int size = 0;
        do {
            digits[size++] = (char)('0' + value % 10);
            value /= 10;
        } while (value);
        while (size)
            *out++ = digits[--size];
        return out;
    }
    """
    const long long *fr_gap_bounds_us
    long long fr_now_ns() noexcept
    char *fr_escape_json(char *out, const char *text, Py_ssize_t size) noexcept
    int fr_chunk_line(char *out, size_t size) noexcept
    char *fr_digits(char *out, unsigned long long value) noexcept


cdef class _Buffer:
    """Bytes that grow. `bytes` is valid until the next `reserve`."""

    cdef:
        char *bytes
        Py_ssize_t size
        Py_ssize_t capacity

    def __dealloc__(self):
        PyMem_Free(self.bytes)

    cdef int reserve(self, Py_ssize_t extra) except -1:
        """Room for `extra` more bytes after `size`, and a place for them even if there are none: C's memcpy takes no NULL."""
        cdef Py_ssize_t wanted = self.size + extra
        cdef char *grown
        if wanted <= self.capacity and self.bytes != NULL:
            return 0
        wanted = max(wanted, 2 * self.capacity, <Py_ssize_t>1024)
        grown = <char *>PyMem_Realloc(self.bytes, wanted)
        if grown == NULL:
            raise MemoryError()
        self.bytes = grown
        self.capacity = wanted
        return 0

    cdef int append(self, const char *source, Py_ssize_t size) except -1:
        self.reserve(size)
        memcpy(self.bytes + self.size, source, size)
        self.size += size
        return 0

    cdef bytes copy(self):
        return PyBytes_FromStringAndSize(self.bytes, self.size)


cdef class EventLog:
    cdef:
        uint64_t _next
        _Buffer _text

    def __init__(self):
        self._text = _Buffer()

    def take_number(self):
        number = self._next
        self._next += 1
        return number

    def keep(self, bytes text not None):
        self._text.append(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))

    def take_text(self):
        text = self._text.copy()
        self._text.size = 0
        return text


cdef enum:
    NUM_GAPS = 16  # buckets of an ItlHistogram; the last has no upper bound


cdef class ItlHistogram:
    cdef:
        uint64_t _counts[NUM_GAPS]  # zeroed with the object
        long long _sum_ns

    cdef void add(self, long long gap_ns) noexcept:  # C only: nothing in it can raise
        cdef int bucket = 0
        while bucket < NUM_GAPS - 1 and gap_ns > 1000 * fr_gap_bounds_us[bucket]:
            bucket += 1
        self._counts[bucket] += 1
        self._sum_ns += gap_ns

    @property
    def bounds(self):
        return tuple([fr_gap_bounds_us[i] / 1e6 for i in range(NUM_GAPS - 1)])

    @property
    def counts(self):
        return [self._counts[i] for i in range(NUM_GAPS)]

    @property
    def sum(self):
        return self._sum_ns / 1e9


cdef long long fr_drain_ns = 0  # when the ring took the records that it is delivering


cdef enum:
    MAX_WORDS = 1 << 18  # of one request, 1 MiB: with more, another worker cannot continue it


# What came for one choice: all that another worker needs to continue it.
cdef struct fr_trail:
    int32_t *words
    Py_ssize_t num_words
    Py_ssize_t capacity
    uint32_t num_records  # TEXT, REASONING and EVENT
    bint is_over


cdef class Sink:
    cdef:
        readonly uint32_t request_id  # 0: not attached
        readonly uint64_t num_tokens
        readonly long long first_text_ns
        long long _last_text_ns  # of choice 0
        public ItlHistogram itl
        public object on_drain  # called once, after the next records have been delivered
        bint is_dirty  # on the ring's list of sinks to flush after this drain
        fr_trail *_trails  # per choice
        Py_ssize_t _num_trails
        Py_ssize_t _num_words  # of all choices
        bint _has_lost_words  # there were too many
        long long _trail_ns  # when the first of these records came

    def __dealloc__(self):
        self._free_trails()

    cdef void _free_trails(self) noexcept:  # C only, as __dealloc__ needs it
        cdef Py_ssize_t choice
        for choice in range(self._num_trails):
            PyMem_Free(self._trails[choice].words)
        PyMem_Free(self._trails)
        self._trails = NULL
        self._num_trails = 0
        self._num_words = 0

    cdef int keep(self, int kind, int choice, const char *words, Py_ssize_t num_words) except -1:
        """Note a record for `trail`. `words` is memory that another process can still write; they are copied, and not read here."""
        cdef fr_trail *trail
        if self._has_lost_words or (kind > EVENT and kind != FINISH):
            return 0
        if choice >= self._num_trails:
            self._add_trails(choice + 1)
        if self._num_words + num_words > MAX_WORDS:
            self._free_trails()
            self._has_lost_words = True
            return 0
        trail = &self._trails[choice]
        if kind == FINISH:
            trail.is_over = True
            return 0
        if not self._trail_ns:
            self._trail_ns = fr_drain_ns
        trail.num_records += 1
        if num_words:
            trail.words = <int32_t *>_grown(trail.words, &trail.capacity, trail.num_words + num_words, sizeof(int32_t))
            memcpy(trail.words + trail.num_words, words, num_words * sizeof(int32_t))
            trail.num_words += num_words
            self._num_words += num_words
        return 0

    cdef int _add_trails(self, Py_ssize_t count) except -1:
        cdef fr_trail *trails = <fr_trail *>PyMem_Realloc(self._trails, count * sizeof(fr_trail))
        if trails == NULL:
            raise MemoryError()
        memset(trails + self._num_trails, 0, (count - self._num_trails) * sizeof(fr_trail))
        self._trails = trails
        self._num_trails = count
        return 0

    def trail(self):
        cdef Py_ssize_t choice
        cdef fr_trail *trail
        if self._has_lost_words:
            return None
        found = []
        for choice in range(self._num_trails):
            trail = &self._trails[choice]
            words = PyBytes_FromStringAndSize(<char *>trail.words, trail.num_words * sizeof(int32_t)) if trail.num_words else b""
            found.append((words, trail.num_records, bool(trail.is_over)))
        return found

    def drop_trail(self):
        self._free_trails()
        self._has_lost_words = False
        self._trail_ns = 0

    @property
    def trail_ns(self):
        return self._trail_ns

    cdef int tell(self) except -1:
        if self.on_drain is not None:
            action, self.on_drain = self.on_drain, None
            action()
        return 0

    cdef int take(self, int kind, int choice, int flags, const char *payload, Py_ssize_t size) except -1:
        """One record. `payload` is invalid after the call."""
        self.on_record(kind, choice, flags, PyBytes_FromStringAndSize(payload, size))
        return 0

    cdef int end_drain(self) except -1:
        """All records of this drain have been delivered."""
        return 0

    cdef void note_text(self, int choice) noexcept:  # C only: nothing in it can raise
        if not self.first_text_ns:
            self.first_text_ns = fr_drain_ns
        if choice == 0:  # the choices of a request take turns: there is no wait between two of them
            if self._last_text_ns and self.itl is not None:
                self.itl.add(fr_drain_ns - self._last_text_ns)
            self._last_text_ns = fr_drain_ns

    cdef void forget(self) noexcept:  # C only
        self.num_tokens = 0
        self.first_text_ns = 0
        self._last_text_ns = 0
        self._free_trails()
        self._has_lost_words = False
        self._trail_ns = 0

    def restart(self):
        return False

    def suspend(self):
        pass

    # A subclass implements these two; a missing one is a mistake that the ring reports through on_sink_error.

    def on_record(self, int kind, int choice, int flags, bytes payload):
        raise NotImplementedError

    def fail(self, error):
        raise NotImplementedError


cdef class TextCollector(Sink):
    cdef:
        list _text  # _Buffer per choice
        list _reasoning

    def __init__(self):
        self._text = []
        self._reasoning = []

    cdef int take(self, int kind, int choice, int flags, const char *payload, Py_ssize_t size) except -1:
        cdef list buffers
        if kind <= EVENT:
            self.note_text(choice)
        if kind > REASONING:
            return Sink.take(self, kind, choice, flags, payload, size)
        buffers = self._text if kind == TEXT else self._reasoning
        while len(buffers) <= choice:  # the ring limits choice
            buffers.append(_Buffer())
        (<_Buffer>buffers[choice]).append(payload, size)
        return 0

    def restart(self):
        self._text = []
        self._reasoning = []
        self.forget()
        return True

    def text(self, int choice=0):
        return (<_Buffer>self._text[choice]).copy() if 0 <= choice < len(self._text) else b""

    def reasoning(self, int choice=0):
        return (<_Buffer>self._reasoning[choice]).copy() if 0 <= choice < len(self._reasoning) else b""
