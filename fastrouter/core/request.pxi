# Request: what a handler sees of a head and its body. HttpError: what ends a connection. BodyBuffer: where a body grows.

_LEAST_ROOM = 4096

cdef extern from "Python.h":
    PyObject *_new_bytes "PyBytes_FromStringAndSize"(const char *start, Py_ssize_t size) except NULL
    int _resize_bytes "_PyBytes_Resize"(PyObject **value, Py_ssize_t size) except -1
    char *_bytes_of "PyBytes_AS_STRING"(PyObject *value) noexcept


class HttpError(Exception):
    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


cdef class Request:
    cdef:
        readonly str method
        readonly str target
        public str path
        readonly str query
        readonly bytes body
        readonly Py_ssize_t num_body_bytes
        readonly bint keep_alive
        readonly int http_minor
        public object caller
        public bint is_checked
        public object denied
        public object json
        public object model
        public object sink  # takes the body; then `body` stays empty
        list _headers  # (name, value), bytes, names in lower case

    def __repr__(self):
        return f"<Request {self.method} {self.target} {len(self.body)} bytes>"

    def header(self, str name):
        wanted = name.encode("latin-1")
        values = [value for key, value in self._headers if key == wanted]
        return b", ".join(values).decode("latin-1") if values else None

    def headers(self):
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self._headers]

    def take_body(self):
        body, self.body = self.body, b""
        self.num_body_bytes += len(body)
        return body


cdef class BodyBuffer:
    """The bytes of a body as they come. The room grows with them, whatever length was announced, and is passed on without a copy."""

    cdef:
        PyObject *_bytes  # a bytes object of _room bytes that has no other owner: it is filled, then cut to size; NULL: none yet
        Py_ssize_t _room
        readonly Py_ssize_t num_bytes  # that have come
        public Py_ssize_t limit
        public bint is_dropped  # the body is not needed: its bytes are only counted
        public object sink  # takes the bytes instead; None: they are kept here

    def __dealloc__(self):
        Py_XDECREF(self._bytes)

    cdef int append(self, const char *data, Py_ssize_t size) except -1:
        cdef Py_ssize_t needed = self.num_bytes + size
        if self.sink is not None:
            self.sink.write(PyBytes_FromStringAndSize(<char *>data, size))
        elif not self.is_dropped:
            if self._bytes == NULL:
                self._room = max(needed, _LEAST_ROOM)
                self._bytes = _new_bytes(NULL, self._room)
            elif needed > self._room:
                self._room = max(needed, min(2 * self._room, self.limit))
                _resize_bytes(&self._bytes, self._room)
            memcpy(_bytes_of(self._bytes) + self.num_bytes, data, size)
        self.num_bytes = needed
        return 0

    cdef bytes take(self):
        cdef bytes body = b""
        if self._bytes != NULL:
            if self.num_bytes != self._room:
                _resize_bytes(&self._bytes, self.num_bytes)
            body = <bytes>self._bytes
        self.clear()
        return body

    cdef int clear(self) except -1:
        Py_XDECREF(self._bytes)
        self._bytes = NULL
        self.sink = None
        self._room = self.num_bytes = 0
        return 0
