# CancelWatch: lets llama.cpp ask, in the middle of a decode, whether its request was cancelled. It counts as progress too. The memory
# is that of a TokenRing, and its C functions are there, because the router writes what they read.

cdef class CancelWatch:
    cdef:
        fr_watch _watch
        TokenRing _ring  # its mapping is read

    def __cinit__(self, TokenRing ring not None):
        if ring._control == NULL:
            raise ValueError("the ring is closed")
        self._ring = ring
        self._watch.cancelled = <const uint64_t *>(ring._control + CANCELLED)
        self._watch.progress = <uint64_t *>(ring._control + PROGRESS_AT)

    @property
    def function(self):
        return <uintptr_t>&fr_is_cancelled

    @property
    def argument(self):
        return <uintptr_t>&self._watch

    def start(self, uint32_t request_id):
        fr_watch_for(&self._watch, request_id)

    def stop(self):
        fr_watch_for(&self._watch, 0)
