# Sink: where one request's records go. SseWriter frames them as server-sent events, TextCollector keeps them for a whole answer.
# The caller encodes what surrounds the text once per request.
# Invariant: text costs no Python object, even when it is counted; all text of one drain leaves in one transport.write.

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
        """Room for `extra` more bytes after `size`."""
        cdef Py_ssize_t wanted = self.size + extra
        cdef char *grown
        if wanted <= self.capacity:
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


cdef class Sink:
    cdef:
        readonly uint32_t request_id  # 0: not attached
        readonly uint64_t num_tokens
        readonly long long first_text_ns
        long long _last_text_ns  # of choice 0
        public ItlHistogram itl
        bint is_dirty  # on the ring's list of sinks to flush after this drain

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

    def restart(self):
        return False

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


cdef class SseWriter(Sink):
    cdef:
        object _write  # transport.write
        bytes _head  # it is sent with the first event; None afterwards
        bint _is_chunked
        bint _has_events  # more than comments: the client has seen a part of the answer
        bint _is_paused
        bint _is_overflowing
        readonly bint is_finished
        _Buffer _events  # whole events, not yet written
        list _templates  # (prefix, suffix, end, EventLog | None) | None, at choice * 2 + kind - TEXT
        list _first  # bytes | None per choice
        readonly Py_ssize_t text_bytes
        readonly long long last_sent_ns
        Py_ssize_t _max_buffered

    def __init__(self, transport, bytes head, *, bint chunked=True, Py_ssize_t max_buffered=256 << 10):
        self._write = None if transport is None else transport.write
        self._head = head
        self._is_chunked = chunked
        self._max_buffered = max_buffered
        self._events = _Buffer()
        self._templates = []
        self._first = []

    def set_template(self, int kind, int choice, bytes prefix not None, bytes suffix not None, bytes end not None=b"", EventLog log=None):
        cdef Py_ssize_t index = choice * 2 + kind - TEXT
        if kind not in (TEXT, REASONING) or choice < 0:
            raise ValueError("templates are for text and reasoning")
        while len(self._templates) <= index:
            self._templates.append(None)
        self._templates[index] = (prefix, suffix, end, log)

    def drop_template(self, int kind, int choice):
        cdef Py_ssize_t index = choice * 2 + kind - TEXT
        if kind in (TEXT, REASONING) and 0 <= index < len(self._templates):
            self._templates[index] = None

    def set_first(self, int choice, bytes event not None):
        if choice < 0:
            raise ValueError("choices count from 0")
        while len(self._first) <= choice:
            self._first.append(None)
        self._first[choice] = event or None

    def take_first(self, int choice):
        """The choice's first event if it has not been sent, else b""; from now on it counts as sent."""
        if not 0 <= choice < len(self._first) or self._first[choice] is None:
            return b""
        event = self._first[choice]
        self._first[choice] = None
        return event

    @property
    def is_started(self):
        return self._head is None or self._events.size > 0

    def make_head(self, bytes head not None):  # a subclass may know more when it is sent
        return head

    def restart(self):
        if self._has_events:
            return False
        self.forget()
        return True

    cdef int take(self, int kind, int choice, int flags, const char *payload, Py_ssize_t size) except -1:
        cdef Py_ssize_t index = choice * 2 + kind - TEXT
        cdef tuple template
        cdef bytes prefix, suffix, tail, first
        cdef EventLog log
        cdef _Buffer events = self._events
        cdef char *end
        if self.is_finished:
            return 0
        if kind <= EVENT:
            self.note_text(choice)
        if kind > REASONING or index >= len(self._templates) or self._templates[index] is None:
            return Sink.take(self, kind, choice, flags, payload, size)
        self._has_events = True
        template = <tuple>self._templates[index]
        prefix = <bytes>template[0]
        suffix = <bytes>template[1]
        tail = <bytes>template[2]
        log = <EventLog>template[3]  # or None
        if choice < len(self._first) and self._first[choice] is not None:
            first = <bytes>self._first[choice]
            self._first[choice] = None
            events.append(PyBytes_AS_STRING(first), PyBytes_GET_SIZE(first))
        # An escaped byte takes six at most and a number twenty, so all that is written below stays inside what is reserved here.
        events.reserve(PyBytes_GET_SIZE(prefix) + 6 * size + PyBytes_GET_SIZE(suffix) + 20 + PyBytes_GET_SIZE(tail))
        end = events.bytes + events.size
        memcpy(end, PyBytes_AS_STRING(prefix), PyBytes_GET_SIZE(prefix))
        end = fr_escape_json(end + PyBytes_GET_SIZE(prefix), payload, size)
        memcpy(end, PyBytes_AS_STRING(suffix), PyBytes_GET_SIZE(suffix))
        end += PyBytes_GET_SIZE(suffix)
        if log is not None:
            log._text.append(payload, size)
            end = fr_digits(end, log._next)
            log._next += 1
            memcpy(end, PyBytes_AS_STRING(tail), PyBytes_GET_SIZE(tail))
            end += PyBytes_GET_SIZE(tail)
        events.size = end - events.bytes
        self.text_bytes += size
        return 0

    cdef int end_drain(self) except -1:
        self.flush()
        return 0

    def write_event(self, bytes event not None, *, bint is_answer=True):
        if not self.is_finished:
            self._has_events = self._has_events or is_answer
            self._events.append(PyBytes_AS_STRING(event), PyBytes_GET_SIZE(event))

    def write_ping(self, bytes event not None):
        if self.is_finished or self._is_paused or self._events.size:
            return
        self._events.append(PyBytes_AS_STRING(event), PyBytes_GET_SIZE(event))
        self._send(False)

    def flush(self):
        if not self._is_paused:
            self._send(False)
        elif self._events.size > self._max_buffered and not self._is_overflowing:
            self._is_overflowing = True
            self.on_overflow()

    def finish(self):
        if not self.is_finished:
            self._send(True)
            self.is_finished = True

    def cut(self):
        if not self.is_finished:
            self._send(False)
            self.is_finished = True

    cdef int _send(self, bint is_end) except -1:
        """The head, if it has not been sent, and all buffered events as one chunk, in one write."""
        cdef Py_ssize_t num_events = self._events.size
        cdef bytes head = b""
        cdef Py_ssize_t num_head
        cdef char line[20]
        cdef int num_line = 0
        cdef bint is_chunk = self._is_chunked and num_events > 0
        cdef bytes out
        cdef char *at
        if not num_events and not is_end:
            return 0
        if self._head is not None:
            head = self.make_head(self._head)
            self._head = None
        num_head = PyBytes_GET_SIZE(head)
        if is_chunk:
            num_line = fr_chunk_line(line, num_events)
        out = PyBytes_FromStringAndSize(NULL, num_head + num_line + num_events + (2 if is_chunk else 0) + (5 if is_end and self._is_chunked else 0))
        at = PyBytes_AS_STRING(out)
        if num_head:
            memcpy(at, PyBytes_AS_STRING(head), num_head)
            at += num_head
        if num_events:
            memcpy(at, line, num_line)
            at += num_line
            memcpy(at, self._events.bytes, num_events)
            at += num_events
        if is_chunk:
            memcpy(at, b"\r\n", 2)
            at += 2
        if is_end and self._is_chunked:
            memcpy(at, b"0\r\n\r\n", 5)
        self._events.size = 0
        self.last_sent_ns = fr_now_ns()
        if PyBytes_GET_SIZE(out) and self._write is not None:
            self._write(out)
        return 0

    def pause(self):
        self._is_paused = True

    def resume(self):
        self._is_paused = False
        self.flush()

    def on_overflow(self):  # only a subclass knows what to abort
        raise NotImplementedError
