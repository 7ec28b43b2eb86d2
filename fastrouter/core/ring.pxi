# TokenRing: a single-producer single-consumer byte ring over a sealed memfd, with an eventfd as doorbell.
#
#   memfd                                    mapped
#   page 0   capacity  u64  @0               control page: as large as the system's pages, because mmap takes only such offsets
#            tail      u64  @64   (consumer)
#            head      u64  @128  (producer)
#            asleep    u32  @192  (both)
#            cancelled u64  @256  (consumer)   the request that was cancelled last, so that a decode can end early
#            alive     u64  @320  (producer)   grows with each turn of the worker's loop
#            progress  u64  @384  (producer)   grows with each piece of work: an operation of a graph, a step, a part of a load
#   page 1.. data, `capacity` bytes          data | data again      (mapped twice, so that no record wraps)
#
#   record   size u32 | request_id u32 | kind u16 | choice u16 | flags u32 | num_tokens u32 | num_words u32 | payload | words, padded to 8
#
# `size` counts the payload and the words. Words are 32-bit numbers that the router keeps and never interprets: when the worker dies, the
# next one gets them back, see worker/resumed.py.
#
# head and tail count all bytes and never go back; head - tail is what waits. One release store publishes a record. The consumer sets
# `asleep` before it stops looking, then looks once more; the producer reads `asleep` after it has published. With a full fence on both
# sides at least one of them sees the other, so no wake-up is lost, and an awake consumer costs the producer no system call.
#
# The last two are counters that only tell whether a worker hangs: relaxed, written by one thread at a time, and wrong values cost only the
# worker that wrote them.
#
# The router trusts nothing that it reads here: its tail is private, a header is copied before it is checked, every length is
# compared with what is really there, and the seals prevent the other side from truncating the file (which would be a SIGBUS).

cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <stdbool.h>
    #include <sys/mman.h>
    #include <unistd.h>
    #define FR_ASLEEP 192

    typedef struct { uint32_t size, request_id; uint16_t kind, choice; uint32_t flags, num_tokens, num_words; } fr_record;

    static inline uint64_t fr_load(const char *control, int at) { return __atomic_load_n((const uint64_t *)(control + at), __ATOMIC_ACQUIRE); }
    static inline void fr_store(char *control, int at, uint64_t value) { __atomic_store_n((uint64_t *)(control + at), value, __ATOMIC_RELEASE); }
    static inline void fr_set_asleep(char *control, uint32_t value) {
        __atomic_store_n((uint32_t *)(control + FR_ASLEEP), value, __ATOMIC_SEQ_CST);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
    }
    /* Producer: whether the consumer is asleep; then we must wake it, one time. */
    static inline int fr_take_asleep(char *control) {
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (!__atomic_load_n((uint32_t *)(control + FR_ASLEEP), __ATOMIC_RELAXED)) return 0;
        return __atomic_exchange_n((uint32_t *)(control + FR_ASLEEP), 0, __ATOMIC_SEQ_CST) != 0;
    }
    static int fr_outcome(ssize_t num_bytes) { return num_bytes == 8 ? 0 : num_bytes < 0 ? errno : EIO; }
    /* Both: 0, or the errno of a doorbell that does not work. */
    static int fr_signal(int doorbell) {
        uint64_t one = 1;
        int error;
        while ((error = fr_outcome(write(doorbell, &one, 8))) == EINTR);
        return error == EAGAIN ? 0 : error; /* EAGAIN: the counter is full, so the reader is awake */
    }
    static int fr_clear(int doorbell) {
        uint64_t count;
        int error;
        while ((error = fr_outcome(read(doorbell, &count, 8))) == EINTR);
        return error == EAGAIN ? 0 : error; /* EAGAIN: it was not rung */
    }
    static inline void fr_count(uint64_t *counter) {
        __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + 1, __ATOMIC_RELAXED);
    }
    static inline void fr_bump(char *control, int at) { fr_count((uint64_t *)(control + at)); }
    /* llama.cpp calls this after each operation of a graph, from one of its threads, without the GIL: a few loads and a store. A graph has
       an end, so each operation is progress. */
    typedef struct { const uint64_t *cancelled; uint64_t *progress; uint64_t watched; } fr_watch;
    static bool fr_is_cancelled(void *watch) {
        const fr_watch *asked = (const fr_watch *)watch;
        fr_count(asked->progress);
        uint64_t watched = __atomic_load_n(&asked->watched, __ATOMIC_RELAXED);
        return watched && __atomic_load_n(asked->cancelled, __ATOMIC_RELAXED) == watched;
    }
    static void fr_watch_for(fr_watch *watch, uint64_t id) { __atomic_store_n(&watch->watched, id, __ATOMIC_RELAXED); }
    static size_t fr_page_bytes(void) { return (size_t)sysconf(_SC_PAGESIZE); }
    /* The control page, then the data twice. NULL on failure. */
    static char *fr_map(int fd, size_t page, size_t capacity) {
        char *base = mmap(NULL, page + 2 * capacity, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (base == MAP_FAILED) return NULL;
        int flags = MAP_SHARED | MAP_FIXED, access = PROT_READ | PROT_WRITE;
        if (mmap(base, page + capacity, access, flags, fd, 0) == MAP_FAILED ||
            mmap(base + page + capacity, capacity, access, flags, fd, (off_t)page) == MAP_FAILED) {
            munmap(base, page + 2 * capacity);
            return NULL;
        }
        return base;
    }
    static void fr_unmap(char *base, size_t page, size_t capacity) { munmap(base, page + 2 * capacity); }
    static void fr_close(int fd) { close(fd); }
    """
    ctypedef struct fr_watch:
        const uint64_t *cancelled
        uint64_t *progress
        uint64_t watched
    void fr_watch_for(fr_watch *watch, uint64_t id) noexcept
    void fr_is_cancelled()  # only its address is taken
    ctypedef struct fr_record:
        uint32_t size
        uint32_t request_id
        uint16_t kind
        uint16_t choice
        uint32_t flags
        uint32_t num_tokens
        uint32_t num_words
    uint64_t fr_load(const char *control, int at) noexcept
    void fr_store(char *control, int at, uint64_t value) noexcept
    void fr_bump(char *control, int at) noexcept
    void fr_set_asleep(char *control, uint32_t value) noexcept
    int fr_take_asleep(char *control) noexcept
    int fr_signal(int doorbell) noexcept
    int fr_clear(int doorbell) noexcept
    size_t fr_page_bytes() noexcept
    char *fr_map(int fd, size_t page, size_t capacity) noexcept
    void fr_unmap(char *base, size_t page, size_t capacity) noexcept
    void fr_close(int fd) noexcept

cdef enum:
    TAIL = 64
    HEAD = 128
    CANCELLED = 256
    ALIVE = 320
    PROGRESS_AT = 384
    HEADER_BYTES = 24
    MAX_CHOICES = 256
    INDEX_BITS = 12  # a request id is generation << INDEX_BITS | index into the table of sinks
    NUM_SINKS = 1 << INDEX_BITS
    MAX_GENERATION = (1 << (32 - INDEX_BITS)) - 1


cdef class TokenRing:
    cdef:
        char *_control  # NULL when closed
        char *_data
        uint64_t _mask
        uint64_t _tail  # consumer: ours, never read back. Producer: the last one it has seen
        uint64_t _head  # producer: ours
        readonly uint64_t capacity
        readonly uint64_t page_bytes  # of the control page
        readonly int memory_fd
        readonly int doorbell_fd
        list _sinks  # Sink | None
        uint32_t _index  # the last one that was used
        uint32_t _generation
        bint _is_draining
        public object on_sink_error

    def __cinit__(self):
        self._sinks = [None] * NUM_SINKS

    def __dealloc__(self):
        self._release()

    @staticmethod
    def create(capacity=1 << 20, page_bytes=None):
        cdef TokenRing ring = TokenRing()
        ring.page_bytes = page_bytes or fr_page_bytes()
        if capacity < ring.page_bytes or capacity & (capacity - 1):
            raise ValueError(f"the capacity must be a power of two and at least one page of {ring.page_bytes} bytes")
        import fcntl

        ring.memory_fd = os.memfd_create("fastrouter-ring", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        ring.doorbell_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        os.ftruncate(ring.memory_fd, ring.page_bytes + capacity)
        fcntl.fcntl(ring.memory_fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        ring._map(capacity)
        (<uint64_t *>ring._control)[0] = capacity
        fr_set_asleep(ring._control, 1)
        return ring

    @staticmethod
    def open(int memory_fd, int doorbell_fd, page_bytes=None):
        cdef TokenRing ring = TokenRing()
        ring.page_bytes = page_bytes or fr_page_bytes()
        ring.memory_fd = memory_fd
        ring.doorbell_fd = doorbell_fd
        capacity = os.fstat(memory_fd).st_size - ring.page_bytes
        if capacity < ring.page_bytes or capacity & (capacity - 1):
            raise ProtocolError(f"a ring of {capacity} bytes")
        ring._map(capacity)
        ring._head = fr_load(ring._control, HEAD)
        ring._tail = fr_load(ring._control, TAIL)
        return ring

    cdef int _map(self, uint64_t capacity) except -1:
        cdef char *control = fr_map(self.memory_fd, self.page_bytes, capacity)
        if control == NULL:
            raise OSError("cannot map a token ring")
        self._control = control
        self._data = control + self.page_bytes
        self.capacity = capacity
        self._mask = capacity - 1
        return 0

    def __repr__(self):
        return f"<TokenRing {self.capacity >> 10} KiB{' closed' if self._control == NULL else ''}>"

    def close(self):
        self._release()

    cdef void _release(self) noexcept:  # C only, as __dealloc__ needs it
        if self._control != NULL:
            fr_unmap(self._control, self.page_bytes, self.capacity)
            self._control = NULL
            fr_close(self.memory_fd)
            fr_close(self.doorbell_fd)

    # ---------------------------------------------------------------- producer

    def try_push(
        self, uint32_t request_id, uint16_t kind, uint16_t choice, uint32_t flags, uint32_t num_tokens, bytes payload not None,
        bytes words not None=b"",
    ):
        cdef uint64_t num_payload = PyBytes_GET_SIZE(payload)
        cdef uint64_t size = num_payload + <uint64_t>PyBytes_GET_SIZE(words)
        cdef uint64_t total = HEADER_BYTES + ((size + 7) & ~<uint64_t>7)
        cdef fr_record *record
        if self._control == NULL:
            raise ValueError("the ring is closed")
        if PyBytes_GET_SIZE(words) & 3:
            raise ValueError("words have four bytes each")
        if total > self.capacity >> 1:
            raise ValueError(f"a record of {size} bytes never fits into the ring")
        if self._head + total - self._tail > self.capacity:
            self._tail = fr_load(self._control, TAIL)
            if self._head + total - self._tail > self.capacity:
                return False
        # The free part starts at head and is at least `total` long; the second mapping makes it contiguous.
        record = <fr_record *>(self._data + (self._head & self._mask))
        record.size = <uint32_t>size
        record.request_id = request_id
        record.kind = kind
        record.choice = choice
        record.flags = flags
        record.num_tokens = num_tokens
        record.num_words = <uint32_t>(PyBytes_GET_SIZE(words) // 4)
        memcpy(<char *>record + HEADER_BYTES, PyBytes_AS_STRING(payload), num_payload)
        memcpy(<char *>record + HEADER_BYTES + num_payload, PyBytes_AS_STRING(words), size - num_payload)
        self._head += total
        fr_store(self._control, HEAD, self._head)
        return True

    def ring_doorbell(self):
        if self._control != NULL and fr_take_asleep(self._control):
            self._check_doorbell(fr_signal(self.doorbell_fd))

    cdef int _check_doorbell(self, int error) except -1:
        if error:
            raise ProtocolError(f"the doorbell of a ring does not work: {os.strerror(error)}")
        return 0

    def watch(self):
        return CancelWatch(self)

    def note_alive(self):
        if self._control != NULL:
            fr_bump(self._control, ALIVE)

    def note_progress(self):
        if self._control != NULL:
            fr_bump(self._control, PROGRESS_AT)

    # ---------------------------------------------------------------- consumer

    def cancel(self, uint32_t request_id):
        if self._control != NULL:
            fr_store(self._control, CANCELLED, request_id)

    @property
    def life(self):
        if self._control == NULL:
            return 0, 0
        return fr_load(self._control, ALIVE), fr_load(self._control, PROGRESS_AT)

    def attach(self, Sink sink not None):
        cdef uint32_t index = self._index
        cdef int tried
        for tried in range(NUM_SINKS - 1):
            index = index + 1
            if index >= NUM_SINKS:
                index = 1  # 0 is not used, so that no id is 0
                self._generation = (self._generation + 1) & MAX_GENERATION
            if self._sinks[index] is None:
                self._index = index
                self._sinks[index] = sink
                sink.request_id = self._generation << INDEX_BITS | index
                sink._last_text_ns = 0  # the time until its next text is a prefill
                return sink.request_id
        raise Unavailable("the model has too many requests")

    def detach(self, uint32_t request_id):
        cdef Sink sink = self._sinks[request_id & (NUM_SINKS - 1)]
        if sink is not None and sink.request_id == request_id:
            self._sinks[request_id & (NUM_SINKS - 1)] = None
            sink.request_id = 0

    def sinks(self):
        return [sink for sink in self._sinks if sink is not None]

    def drain(self, uint64_t max_bytes=0):
        cdef uint64_t head, waiting, num_bytes = 0
        cdef Py_ssize_t num_records = 0
        cdef list dirty = []
        cdef Sink sink
        if self._control == NULL or self._is_draining:
            return 0
        self._is_draining = True
        max_bytes = max_bytes or self.capacity  # a producer at full speed must not keep the event loop here
        try:
            self._check_doorbell(fr_clear(self.doorbell_fd))
            fr_set_asleep(self._control, 0)
            while self._control != NULL:  # a sink may close the ring
                head = fr_load(self._control, HEAD)
                waiting = head - self._tail
                if waiting > self.capacity or waiting & 7:
                    raise ProtocolError("a worker's ring has impossible indices")
                if not waiting:
                    fr_set_asleep(self._control, 1)
                    if fr_load(self._control, HEAD) == self._tail:
                        break
                    fr_set_asleep(self._control, 0)
                    num_bytes += HEADER_BYTES  # nor must a producer that moves head forward and back
                    continue
                if num_bytes >= max_bytes:
                    self._check_doorbell(fr_signal(self.doorbell_fd))  # continue after the other events of the loop
                    break
                num_bytes += waiting
                num_records += self._deliver(waiting, dirty)
        finally:
            self._is_draining = False
            for sink in dirty:
                sink.is_dirty = False
                try:
                    sink.end_drain()
                    sink.tell()
                except Exception as error:
                    self._sink_failed(sink, error)
        return num_records

    cdef Py_ssize_t _deliver(self, uint64_t waiting, list dirty) except -1:
        """Deliver the records in the `waiting` bytes after tail, then free their room. Returns their number."""
        global fr_drain_ns
        cdef fr_record record
        cdef const char *at
        cdef uint64_t total, word_bytes
        cdef Py_ssize_t num_records = 0
        cdef Sink sink
        fr_drain_ns = fr_now_ns()
        while waiting:
            # tail + waiting <= tail + capacity, and the data is mapped twice: every byte read below is mapped.
            at = self._data + (self._tail & self._mask)
            memcpy(&record, at, HEADER_BYTES)
            total = HEADER_BYTES + ((<uint64_t>record.size + 7) & ~<uint64_t>7)
            word_bytes = 4 * <uint64_t>record.num_words
            if waiting < HEADER_BYTES or total > waiting or not TEXT <= record.kind <= ERROR or record.choice >= MAX_CHOICES:
                raise ProtocolError("a worker wrote an impossible record")
            if word_bytes > record.size:
                raise ProtocolError("a worker wrote an impossible record")
            sink = self._sinks[record.request_id & (NUM_SINKS - 1)]
            if sink is not None and sink.request_id == record.request_id:
                if record.flags & LAST:
                    self._sinks[record.request_id & (NUM_SINKS - 1)] = None
                    sink.request_id = 0
                sink.num_tokens += record.num_tokens
                if not sink.is_dirty:
                    sink.is_dirty = True
                    dirty.append(sink)
                try:
                    sink.keep(record.kind, record.choice, at + HEADER_BYTES + record.size - word_bytes, record.num_words)
                    sink.take(record.kind, record.choice, record.flags, at + HEADER_BYTES, record.size - word_bytes)
                except Exception as error:
                    self._sink_failed(sink, error)
                if self._control == NULL:
                    return num_records
            self._tail += total
            waiting -= total
            num_records += 1
        fr_store(self._control, TAIL, self._tail)
        return num_records

    cdef int _sink_failed(self, Sink sink, error) except -1:
        """A mistake of ours in one sink: it gets no more records, all others continue."""
        if sink.request_id:
            self.detach(sink.request_id)
        if self.on_sink_error is not None:
            self.on_sink_error(sink, error)
        return 0
