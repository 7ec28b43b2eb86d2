# SseWriter: the sink that frames records as server-sent events.
# Knows no model and no API flavour: what surrounds the text is encoded once per request by the caller.
# Invariant: text costs no Python object; all text of one drain leaves in one transport.write.


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
