# scan_json: looks at a body before it is parsed: how many values it holds, how deep they are, where lists of token ids are.
# It limits what the parse can cost; orjson decides whether the text is JSON.

cdef extern from *:
    """
    enum { FR_SCANNED, FR_TOO_MANY, FR_TOO_DEEP, FR_TOO_LONG, FR_TOO_MANY_ESCAPES, FR_NO_MEMORY };
    #define FR_LONGEST_WORD 1024  /* of a number; the time to read one grows faster than its length */
    #define FR_MOST_ESCAPES 1500000  /* reading and writing one takes as long as 20 plain characters; 8 MiB of \\uXXXX pass */
    #define FR_LEAST_IDS 32  /* for a shorter list a separate place is not worth the cost */
    typedef struct {
        Py_ssize_t num_values, max_values, max_depth;
        Py_ssize_t *spans;  /* start and end of each list of ids */
        Py_ssize_t num_spans, room;
    } fr_scan;

    static inline const unsigned char *fr_space(const unsigned char *at, const unsigned char *end) {
        while (at < end && (*at == ' ' || *at == '\\n' || *at == '\\r' || *at == '\\t')) at++;
        return at;
    }
    static inline int fr_ends_word(unsigned char c) {
        return c <= ' ' || c == ',' || c == ':' || c == '"' || c == '[' || c == ']' || c == '{' || c == '}';
    }
    /* The place after the closing quote of the string that begins at `at`; `end` if there is none. Each byte is read one or two times. */
    static const unsigned char *fr_string(const unsigned char *at, const unsigned char *end) {
        const unsigned char *start = ++at, *quote, *slash;
        while (at < end && (quote = (const unsigned char *)memchr(at, '"', end - at))) {
            for (slash = quote; slash > start && slash[-1] == '\\\\'; slash--) {}
            at = quote + 1;
            if ((quote - slash) % 2 == 0) return at;
            start = at;  /* an escaped quote: the backslashes do not continue before it */
        }
        return end;
    }
    /* The place after a list of FR_LEAST_IDS or more whole numbers from 0 to 2^31 - 1; NULL if this is not one. */
    static const unsigned char *fr_ids(const unsigned char *at, const unsigned char *end) {
        Py_ssize_t count = 0;
        do {
            const unsigned char *digits = at = fr_space(at + 1, end);
            unsigned long long value = 0;
            while (at < end && at - digits < 10 && *at >= '0' && *at <= '9') value = 10 * value + (*at++ - '0');
            if (at == digits || value > 0x7FFFFFFF || (*digits == '0' && at - digits > 1)) return NULL;
            at = fr_space(at, end);
            count++;
        } while (at < end && *at == ',');
        return at < end && *at == ']' && count >= FR_LEAST_IDS ? at + 1 : NULL;
    }
    /* `names`: each ended by a NUL, the last by two. */
    static int fr_is_one_of(const unsigned char *name, Py_ssize_t size, const char *names) {
        for (; *names; names += strlen(names) + 1)
            if (strlen(names) == (size_t)size && !memcmp(names, name, size)) return 1;
        return 0;
    }
    static int fr_add_span(fr_scan *scan, Py_ssize_t start, Py_ssize_t end) {
        if (scan->num_spans == scan->room) {
            Py_ssize_t room = scan->room ? 2 * scan->room : 8;
            Py_ssize_t *spans = (Py_ssize_t *)realloc(scan->spans, 2 * room * sizeof(Py_ssize_t));
            if (!spans) return 0;
            scan->spans = spans;
            scan->room = room;
        }
        scan->spans[2 * scan->num_spans] = start;
        scan->spans[2 * scan->num_spans++ + 1] = end;
        return 1;
    }
    static int fr_scan_json(fr_scan *scan, const unsigned char *body, Py_ssize_t size, const char *id_fields) {
        const unsigned char *at = body, *end = body + size, *next;
        Py_ssize_t depth = 0;
        int holds_ids = 0;  /* the member of the outer object that we are in is one of id_fields */
        unsigned char outer = 0;  /* what opened the second level */
        Py_ssize_t num_escapes = 0;
        for (at = body; at < end; at++) num_escapes += *at == '\\\\';
        if (num_escapes > FR_MOST_ESCAPES) return FR_TOO_MANY_ESCAPES;
        at = body;
        while (at < end) {
            switch (*at) {
            case ' ': case '\\n': case '\\r': case '\\t': case ',': case ':': at++; continue;
            case '}': case ']': depth--; at++; continue;
            case '{': case '[':
                if (*at == '[' && holds_ids && (depth == 1 || (depth == 2 && outer == '[')) && (next = fr_ids(at, end))) {
                    if (!fr_add_span(scan, at - body, next - body)) return FR_NO_MEMORY;
                    at = next;
                    break;
                }
                if (depth == 1) outer = *at;
                if (++depth > scan->max_depth) return FR_TOO_DEEP;
                at++;
                break;
            case '"':
                next = fr_string(at, end);
                if (depth == 1) {
                    const unsigned char *colon = fr_space(next, end);
                    if (colon < end && *colon == ':') holds_ids = fr_is_one_of(at + 1, next - at - 2, id_fields);
                }
                at = next;
                break;
            default:  /* a number or a word */
                next = at;
                do at++; while (at < end && !fr_ends_word(*at));
                if (at - next > FR_LONGEST_WORD) return FR_TOO_LONG;
            }
            if (++scan->num_values > scan->max_values) return FR_TOO_MANY;
        }
        return FR_SCANNED;
    }
    """
    enum:
        FR_SCANNED
        FR_TOO_MANY
        FR_TOO_DEEP
        FR_TOO_LONG
        FR_TOO_MANY_ESCAPES
        FR_NO_MEMORY
    ctypedef struct fr_scan:
        Py_ssize_t num_values
        Py_ssize_t max_values
        Py_ssize_t max_depth
        Py_ssize_t *spans
        Py_ssize_t num_spans
    int fr_scan_json(fr_scan *scan, const unsigned char *body, Py_ssize_t size, const char *id_fields) noexcept nogil


def scan_json(bytes body not None, bytes id_fields not None, *, Py_ssize_t max_values, Py_ssize_t max_depth):
    # `body` and `id_fields` are arguments, so they outlive the pointers; bytes never change, so the GIL is not needed to read them.
    cdef fr_scan scan
    cdef const unsigned char *at = <const unsigned char *>PyBytes_AS_STRING(body)
    cdef const char *names = PyBytes_AS_STRING(id_fields)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(body)
    cdef int result
    memset(&scan, 0, sizeof(scan))
    scan.max_values = max_values
    scan.max_depth = max_depth
    if not id_fields.endswith(b"\0\0"):
        raise ValueError("the names must end with two NULs")
    with nogil:
        result = fr_scan_json(&scan, at, size, names)
    try:
        if result == FR_TOO_MANY:
            raise InvalidRequest(f"the body holds more than {max_values} values (names, strings, numbers, lists and objects)")
        if result == FR_TOO_DEEP:
            raise InvalidRequest(f"the body is nested deeper than {max_depth} levels")
        if result == FR_TOO_LONG:
            raise InvalidRequest("the body holds a number of more than 1024 characters")
        if result == FR_TOO_MANY_ESCAPES:
            raise InvalidRequest("the body holds more than 1500000 backslashes")
        if result == FR_NO_MEMORY:
            raise MemoryError
        return [(scan.spans[2 * i], scan.spans[2 * i + 1]) for i in range(scan.num_spans)]
    finally:
        free(scan.spans)
