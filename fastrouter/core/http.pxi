# RequestParser: bytes of a connection -> Requests. httptools reads the head; lines, limits and bodies are ours, because httptools
# has no limits, and accepts requests that two servers in a row would read differently.
# Invariant: the result depends only on the bytes, not on how they were split. After a refusal every later byte is refused. No byte of a
# body is kept before the gate allows it, and nothing here refers to the connection, so both are freed as soon as the client has left.

from urllib.parse import unquote as _unquote


cdef enum:  # what the next byte belongs to
    IN_HEAD
    IN_BODY  # of a known length
    IN_CHUNK_LINE
    IN_CHUNK
    IN_CHUNK_END
    IN_TRAILERS
    IS_ENDED  # the last request of the connection is complete, and later bytes are not read
    IS_BROKEN

_TOKEN_BYTES = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_NO_LIMIT = 1 << 62  # its sink has one
_MAX_DROPPED = 64 << 10  # bytes of an unneeded body that are read so that the connection can continue
_CONTROLS = bytes((*range(32), 127))
_SUPPORTED_METHODS = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE"))


cdef class _Head:
    """What httptools finds in a head. A separate object, because the parser would otherwise be in a reference cycle with httptools'."""

    cdef:
        bytes url
        list headers

    def on_url(self, bytes url):
        self.url = url if self.url is None else self.url + url

    def on_header(self, bytes name, bytes value):
        self.headers.append((name.lower(), value.rstrip(b" \t")))


cdef class RequestParser:
    cdef:
        # limits, bytes or counts
        Py_ssize_t _max_line
        Py_ssize_t _max_field
        Py_ssize_t _max_head
        Py_ssize_t _max_headers
        Py_ssize_t _max_chunk_extension
        Py_ssize_t _max_body
        _Head _head
        object _parser  # httptools'; a new one after a request with a body, because it has not seen the body
        object _gate  # while data is fed
        int _state
        bytearray _pending  # bytes of an incomplete head or line
        Py_ssize_t _scanned  # bytes of _pending that hold no end of a line
        Py_ssize_t _line_start  # where the current line of the head starts
        Py_ssize_t _num_lines  # of this head
        bint _has_skipped  # the one empty line that is allowed before a request line (RFC 9112 2.2)
        Py_ssize_t _num_trailers
        Py_ssize_t _num_trailer_bytes
        BodyBuffer _body
        Py_ssize_t _remaining  # bytes of the body, or of this chunk, that are still to come
        Request _request
        public bint owes_continue
        readonly object error

    def __init__(
        self,
        *,
        max_line=8192,
        max_field=8192,
        max_head=32768,
        max_headers=100,
        max_chunk_extension=1024,
        max_body=64 << 20,
    ):
        self._max_line = max_line
        self._max_field = max_field
        self._max_head = max_head
        self._max_headers = max_headers
        self._max_chunk_extension = max_chunk_extension
        self._max_body = max_body
        self._pending = bytearray()
        self._head = _Head()
        self._body = BodyBuffer()

    def close(self):
        self._state = IS_ENDED
        self._pending = bytearray()
        self._body.clear()
        self._request = self._parser = self.error = None

    @property
    def is_idle(self):
        return self._state == IN_HEAD and not self._pending

    @property
    def in_body(self):
        return self._state != IN_HEAD

    @property
    def is_ended(self):
        return self._state == IS_ENDED

    @property
    def num_body_bytes(self):
        return self._body.num_bytes

    @property
    def num_held_bytes(self):
        return self._body.num_bytes if self._body.sink is None else 0

    @property
    def sink(self):
        return self._body.sink

    def feed(self, bytes data not None, gate=None):
        requests = []
        if self._state == IS_BROKEN:
            raise self.error
        self._gate = gate
        try:
            self._feed_or_refuse(data, requests)
        except HttpError as error:
            self._state = IS_BROKEN
            self._body.clear()
            self.error = error.with_traceback(None)  # its frames would keep the data alive
            if not requests:
                raise
        finally:
            self._gate = None
        return requests

    cdef int _feed_or_refuse(self, bytes data, list requests) except -1:
        try:
            return self._feed(data, requests)
        except MemoryError:
            raise HttpError(503, "there is not enough memory for this body now; try again later") from None

    cdef int _feed(self, bytes data, list requests) except -1:
        """Consume all of `data`. Bytes of an incomplete head or line wait in _pending."""
        cdef Py_ssize_t start = 0
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        cdef Py_ssize_t taken
        cdef const char *bytes_ = PyBytes_AS_STRING(data)
        while start < size and self._state != IS_ENDED:
            if self._state == IN_BODY or self._state == IN_CHUNK:
                taken = min(self._remaining, size - start)
                self._body.append(bytes_ + start, taken)
                self._remaining -= taken
                start += taken
                if not self._remaining:
                    if self._state == IN_BODY:
                        self._finish(requests)
                    else:
                        self._state = IN_CHUNK_END
            elif self._state == IN_HEAD:
                start = self._feed_head(data, start, requests)
            else:
                start = self._feed_line(data, start, requests)
        return 0

    # ---------------------------------------------------------------- head

    cdef Py_ssize_t _feed_head(self, bytes data, Py_ssize_t start, list requests) except -1:
        """Lines up to the empty one; each is checked at its end. Returns where `data` continues."""
        cdef Py_ssize_t before = len(self._pending)
        cdef bytes head
        cdef const char *at
        cdef const char *end
        cdef Py_ssize_t position, size
        if before:
            self._pending += data[start:]
            head = bytes(self._pending)
        else:
            head = data[start:] if start else data
        at = PyBytes_AS_STRING(head)
        size = PyBytes_GET_SIZE(head)
        position = self._scanned
        while True:
            end = <const char *>memchr(at + position, 10, size - position)
            if end == NULL:
                self._check_line_size(size - self._line_start, size)
                if not before:
                    self._pending += head
                self._scanned = size
                if self._line_start == 0:
                    self._check_first_byte(at, size)
                return PyBytes_GET_SIZE(data)
            position = end - at + 1
            if self._line_start == 0:
                self._check_first_byte(at, size)
            self._check_line_size(position - self._line_start, position)
            if position - self._line_start < 2 or at[position - 2] != 13:
                raise HttpError(400, "a line must end with CR LF")
            if position - self._line_start == 2:
                self._pending = bytearray()
                self._scanned = self._line_start = self._num_lines = 0
                if position == 2:
                    self._has_skipped = True
                    return start + position - before
                self._has_skipped = False
                self._read_head(head if position == size else head[:position], requests)
                return start + position - before
            self._num_lines += 1
            if self._num_lines - 1 > self._max_headers:
                raise HttpError(431, f"more than {self._max_headers} header fields")
            self._line_start = position

    cdef int _check_first_byte(self, const char *at, Py_ssize_t size) except -1:
        """Refuse TLS and binary bytes immediately instead of waiting for a line."""
        if size and at[0] == 13 and not self._has_skipped and (size == 1 or at[1] == 10):
            return 0
        if size and not (65 <= at[0] <= 90 or 97 <= at[0] <= 122):
            raise HttpError(400, "this is not an HTTP request")
        return 0

    cdef int _check_line_size(self, Py_ssize_t line, Py_ssize_t head) except -1:
        if self._num_lines == 0 and line > self._max_line:
            raise HttpError(414, f"the request line is longer than {self._max_line} bytes")
        if self._num_lines and line > self._max_field:
            raise HttpError(431, f"a header field is longer than {self._max_field} bytes")
        if head > self._max_head:
            raise HttpError(431, f"the head is longer than {self._max_head} bytes")
        return 0

    cdef int _read_head(self, bytes head, list requests) except -1:
        cdef Request request = Request()
        cdef bytes line = head[: head.index(b"\r\n")]
        self._check_request_line(line)
        if b"\n " in head or b"\n\t" in head:
            raise HttpError(400, "a header field is folded over lines")
        if self._parser is None:
            self._parser = httptools.HttpRequestParser(self._head)
        self._head.url = None
        self._head.headers = []
        try:
            self._parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            raise HttpError(501, "upgrades are not supported") from None
        except httptools.HttpParserError as error:
            raise HttpError(400, f"malformed request: {error}") from None
        method = self._parser.get_method()
        if method not in _SUPPORTED_METHODS:
            raise HttpError(501, "this method is not supported")
        request.method = method.decode("ascii")
        request.http_minor = 1 if line.endswith(b"1") else 0
        request._headers = self._head.headers
        request.keep_alive = self._will_keep_alive(request)
        request.body = b""
        self._set_target(request)
        self._request = request
        self._start_body(self._check_headers(request), requests)
        return 0

    cdef int _check_request_line(self, bytes line) except -1:
        """Check `METHOD target HTTP/1.1`: one blank between them, and no other character that a reader could take for a blank."""
        words = line.split(b" ")
        version = words[len(words) - 1]
        if len(words) != 3 or not words[1] or not version.startswith(b"HTTP/") or len(line.translate(None, _CONTROLS)) != len(line):
            raise HttpError(400, "the request line must be METHOD, one blank, URL, one blank, HTTP version")
        if version not in (b"HTTP/1.1", b"HTTP/1.0"):
            raise HttpError(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
        return 0

    cdef bint _will_keep_alive(self, Request request) except -1:
        options = (request.header("connection") or "").lower().split(",")
        names = {option.strip(" \t") for option in options}
        return "close" not in names and (request.http_minor == 1 or "keep-alive" in names)

    cdef int _set_target(self, Request request) except -1:
        if not self._head.url.isascii():
            raise HttpError(400, "the URL holds bytes that must be percent-encoded")
        target = self._head.url.decode("ascii")
        path = target
        if not target.startswith("/"):
            if target == "*" and request.method == "OPTIONS":
                path = "/"
            elif target[:7].lower() == "http://":
                authority, slash, path = target[7:].partition("/")
                path = slash + path or "/"
                if [value.lower() for name, value in request._headers if name == b"host"] != [authority.lower().encode()]:
                    raise HttpError(400, "the URL and the Host header disagree")
            else:
                raise HttpError(400, "the URL must start with a slash")
        request.target = target
        path, _, request.query = path.partition("?")
        request.path = _unquote(path) if "%" in path else path
        return 0

    cdef object _check_headers(self, Request request):
        """The body's length, -1 for chunks. Refuses requests that can be read in two ways."""
        hosts = 0
        length = None
        is_chunked = False
        for name, value in request._headers:
            if name == b"host":
                hosts += 1
            elif name == b"content-length":
                if length is not None or not value.isdigit():
                    raise HttpError(400, "bad Content-Length")
                length = int(value) if len(value) < 20 else 1 << 64
            elif name == b"transfer-encoding":
                if is_chunked or value.lower() != b"chunked":
                    raise HttpError(501, "only the transfer encoding chunked is supported")
                is_chunked = True
            elif name == b"upgrade":
                raise HttpError(501, "upgrades are not supported")
        if hosts > 1 or (hosts == 0 and request.http_minor == 1):
            raise HttpError(400, "a request needs exactly one Host header")
        if is_chunked and (request.http_minor == 0 or length is not None):
            raise HttpError(400, "Transfer-Encoding does not go with HTTP/1.0 or Content-Length")
        return -1 if is_chunked else (length or 0)

    cdef int _start_body(self, length, list requests) except -1:
        expect = self._request.header("expect")
        waits = expect is not None and self._request.http_minor == 1
        if waits and expect.lower() != "100-continue":
            raise HttpError(417, "this expectation cannot be met")
        if length == 0:
            return self._complete(b"", requests)
        self._body.limit = min(self._max_body, self._gate(self._request, length)) if self._gate is not None else self._max_body
        self._body.sink = self._request.sink
        if self._body.sink is not None:
            self._body.limit = _NO_LIMIT
        elif length > self._max_body:
            raise HttpError(413, f"the body is larger than {self._max_body} bytes")
        self._body.is_dropped = self._request.denied is not None
        if self._body.is_dropped and (waits or not 0 < length <= _MAX_DROPPED):
            self._parser = None
            self._request.keep_alive = False
            self._complete(b"", requests)
            self._state = IS_ENDED
        elif length < 0:
            self._num_trailers = self._num_trailer_bytes = 0
            self._state = IN_CHUNK_LINE
        else:
            self._remaining = length
            self._state = IN_BODY
        self.owes_continue = waits and self._state != IS_ENDED
        return 0

    cdef int _finish(self, list requests) except -1:
        """A request with a body is complete. httptools still waits for that body, so the next head gets a new parser."""
        self._parser = None
        return self._complete(self._body.take(), requests)

    cdef int _complete(self, bytes body, list requests) except -1:
        self._request.body = body
        requests.append(self._request)
        self._request = None
        self.owes_continue = False
        self._state = IN_HEAD
        return 0

    # ---------------------------------------------------------------- lines of a chunked body

    cdef Py_ssize_t _feed_line(self, bytes data, Py_ssize_t start, list requests) except -1:
        """One line of the chunk framing. Returns where `data` continues."""
        cdef Py_ssize_t end = data.find(b"\n", start)
        cdef Py_ssize_t limit = self._max_field
        cdef Py_ssize_t stop = PyBytes_GET_SIZE(data) if end < 0 else end + 1
        if self._state == IN_CHUNK_LINE:
            limit = self._max_chunk_extension + 18
        elif self._state == IN_CHUNK_END:
            limit = 2
        # Cut to one byte over the limit, so that a line that is too long is refused at the same byte, however it was split.
        if len(self._pending) + stop - start > limit:
            raise HttpError(431 if self._state == IN_TRAILERS else 400, "a line of the chunked body is too long")
        self._pending += data[start:stop]
        if end < 0:
            return stop
        line = bytes(self._pending)
        self._pending = bytearray()
        if not line.endswith(b"\r\n"):
            raise HttpError(400, "a line must end with CR LF")
        self._read_line(line[: len(line) - 2], requests)
        return stop

    cdef int _read_line(self, bytes line, list requests) except -1:
        if self._state == IN_CHUNK_END:
            if line:
                raise HttpError(400, "a chunk is longer than its size")
            self._state = IN_CHUNK_LINE
        elif self._state == IN_CHUNK_LINE:
            digits, _, extension = line.partition(b";")
            digits = digits.rstrip(b" \t") if extension else digits
            if not 0 < len(digits) <= 16 or digits.strip(b"0123456789abcdefABCDEF") or b"\r" in extension:
                raise HttpError(400, "bad chunk size")
            size = int(digits, 16)
            if size > self._body.limit - self._body.num_bytes:
                raise HttpError(413, f"the body is larger than {self._body.limit} bytes")
            self._remaining = size
            self._state = IN_CHUNK if size else IN_TRAILERS
        elif line:
            self._check_trailer(line)
        else:
            self._finish(requests)
        return 0

    cdef int _check_trailer(self, bytes line) except -1:
        """Trailers are counted and dropped."""
        name, colon, _ = line.partition(b":")
        if not colon or not name or not _TOKEN_BYTES.issuperset(name) or b"\r" in line or b"\0" in line:
            raise HttpError(400, "bad trailer")
        self._num_trailers += 1
        self._num_trailer_bytes += len(line) + 2
        if len(self._request._headers) + self._num_trailers > self._max_headers or self._num_trailer_bytes > self._max_head:
            raise HttpError(431, "too many trailers")
        return 0
