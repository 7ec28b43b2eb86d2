# skip_strings: walks over a GGUF array of strings without making one; a vocabulary of 150,000 tokens needs this loop.

def skip_strings(bytes content not None, int64_t at, int64_t count, int64_t end):
    cdef const char *start = PyBytes_AS_STRING(content)
    cdef int64_t last = <int64_t>PyBytes_GET_SIZE(content) - 8  # the last place where a length can be read
    cdef uint64_t length
    if at < 0 or end < 0:
        raise ValueError("before the beginning")
    # Each read is of 8 bytes at `at`, and 0 <= at <= last holds before it. Nothing overflows: at <= end <= 2**62, and a length that
    # goes beyond `end` is not added.
    end = min(end, <int64_t>1 << 62)
    while count > 0 and at <= last and at <= end - 8:
        memcpy(&length, start + at, 8)  # little-endian like the file, and like all machines that this runs on
        at += 8
        count -= 1
        if length > <uint64_t>(end - at):
            return end + 1, count
        at += <int64_t>length
    return at, count
