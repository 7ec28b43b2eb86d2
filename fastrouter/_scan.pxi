# scan_body: "model" and "stream" of a request body without a full parse.
# Invariant: never disagrees with orjson, which is asked whenever the body is invalid or anything in it is rare.

cdef extern from *:
    """
    /* ---- a strict reader of flat JSON facts. 1: valid, 0: ask orjson (invalid, or too rare to care). ---- */
    typedef struct { const unsigned char *at, *end; } fr_json;

    static inline void fr_space(fr_json *j) {
        while (j->at < j->end && (*j->at == ' ' || *j->at == '\\n' || *j->at == '\\r' || *j->at == '\\t')) j->at++;
    }
    /* One UTF-8 character of two bytes or more; its length, 0 when it is not one. */
    static int fr_utf8(const unsigned char *s, const unsigned char *end) {
        unsigned c = s[0];
        long left = end - s;
        if (c >= 0xC2 && c <= 0xDF) return left > 1 && (s[1] & 0xC0) == 0x80 ? 2 : 0;
        if (c >= 0xE0 && c <= 0xEF) {
            if (left < 3 || (s[1] & 0xC0) != 0x80 || (s[2] & 0xC0) != 0x80) return 0;
            if ((c == 0xE0 && s[1] < 0xA0) || (c == 0xED && s[1] > 0x9F)) return 0;
            return 3;
        }
        if (c >= 0xF0 && c <= 0xF4) {
            if (left < 4 || (s[1] & 0xC0) != 0x80 || (s[2] & 0xC0) != 0x80 || (s[3] & 0xC0) != 0x80) return 0;
            if ((c == 0xF0 && s[1] < 0x90) || (c == 0xF4 && s[1] > 0x8F)) return 0;
            return 4;
        }
        return 0;
    }
    /* At the opening quote; *has_escape is set when there is a backslash. */
    static int fr_string(fr_json *j, int *has_escape) {
        const unsigned char *s = j->at + 1, *end = j->end;
        while (s < end) {
            unsigned char c = *s;
            if (c == '"') { j->at = s + 1; return 1; }
            if (c == '\\\\') {
                *has_escape = 1;
                if (s + 1 >= end || !memchr("\\"\\\\/bfnrt", s[1], 8)) return 0;
                s += 2;
            } else if (c < 0x20) {
                return 0;
            } else if (c < 0x80) {
                s++;
            } else {
                int length = fr_utf8(s, end);
                if (!length) return 0;
                s += length;
            }
        }
        return 0;
    }
    static int fr_number(fr_json *j) {
        const unsigned char *s = j->at, *end = j->end, *start;
        int digits;
        if (s < end && *s == '-') s++;
        start = s;
        while (s < end && *s >= '0' && *s <= '9') s++;
        digits = (int)(s - start);
        if (!digits || digits > 15 || (*start == '0' && digits > 1)) return 0;
        if (s < end && *s == '.') {
            start = ++s;
            while (s < end && *s >= '0' && *s <= '9') s++;
            if (s == start || s - start > 15) return 0;
        }
        if (s < end && (*s == 'e' || *s == 'E')) return 0;
        j->at = s;
        return 1;
    }
    static int fr_word(fr_json *j, const char *word, int length) {
        if (j->end - j->at < length || memcmp(j->at, word, length)) return 0;
        j->at += length;
        return 1;
    }
    static int fr_value(fr_json *j, int depth) {
        int ignored = 0;
        char close;
        if (depth > 64 || j->at >= j->end) return 0;
        switch (*j->at) {
        case '"': return fr_string(j, &ignored);
        case 't': return fr_word(j, "true", 4);
        case 'f': return fr_word(j, "false", 5);
        case 'n': return fr_word(j, "null", 4);
        case '{': case '[':
            close = *j->at++ == '{' ? '}' : ']';
            fr_space(j);
            if (j->at < j->end && *j->at == close) { j->at++; return 1; }
            for (;;) {
                if (close == '}') {
                    fr_space(j);
                    if (j->at >= j->end || *j->at != '"' || !fr_string(j, &ignored)) return 0;
                    fr_space(j);
                    if (!fr_word(j, ":", 1)) return 0;
                }
                fr_space(j);
                if (!fr_value(j, depth + 1)) return 0;
                fr_space(j);
                if (j->at >= j->end) return 0;
                if (*j->at == close) { j->at++; return 1; }
                if (*j->at++ != ',') return 0;
            }
        default: return fr_number(j);
        }
    }
    /* The top-level "model" (without its quotes; NULL when it is no string) and "stream" of an object. */
    static int fr_scan(const char *body, Py_ssize_t size, const char **model, Py_ssize_t *model_size, int *stream) {
        fr_json j = {(const unsigned char *)body, (const unsigned char *)body + size};
        fr_space(&j);
        if (!fr_word(&j, "{", 1)) return 0;
        fr_space(&j);
        if (!fr_word(&j, "}", 1)) {
            for (;;) {
                const unsigned char *key, *value;
                Py_ssize_t key_size;
                int has_escape = 0;
                fr_space(&j);
                key = j.at + 1;
                if (j.at >= j.end || *j.at != '"' || !fr_string(&j, &has_escape) || has_escape) return 0;
                key_size = j.at - key - 1;
                fr_space(&j);
                if (!fr_word(&j, ":", 1)) return 0;
                fr_space(&j);
                value = j.at;
                if (value < j.end && *value == '"') {
                    if (!fr_string(&j, &has_escape)) return 0;
                } else if (!fr_value(&j, 1)) {
                    return 0;
                }
                if (key_size == 5 && !memcmp(key, "model", 5)) {
                    if (has_escape) return 0;
                    *model = *value == '"' ? (const char *)value + 1 : NULL;
                    *model_size = j.at - value - 2;
                } else if (key_size == 6 && !memcmp(key, "stream", 6)) {
                    *stream = *value == 't';
                }
                fr_space(&j);
                if (j.at >= j.end) return 0;
                if (*j.at == '}') { j.at++; break; }
                if (*j.at++ != ',') return 0;
            }
        }
        fr_space(&j);
        return j.at == j.end;
    }
    """
    int fr_scan(const char *body, Py_ssize_t size, const char **model, Py_ssize_t *model_size, int *stream) noexcept


def scan_body(bytes body not None):
    cdef const char *model = NULL
    cdef Py_ssize_t model_size = 0
    cdef int stream = 0
    if fr_scan(PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body), &model, &model_size, &stream):
        return (None if model == NULL else model[:model_size].decode("utf-8")), bool(stream)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None, False
    if not isinstance(value, dict):
        return None, False
    name = value.get("model")
    return (name if isinstance(name, str) else None), value.get("stream") is True
