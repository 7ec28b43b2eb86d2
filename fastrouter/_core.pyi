"""Types and meaning of the Cython core. Each part has its own source file, see _core.pyx."""

from array import array
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from fastrouter.errors import FastrouterError

# Record kinds on the ring (u16). TEXT and REASONING are UTF-8, whole characters only; the rest is JSON, see ipc/records.py.
TEXT: Final[int]
REASONING: Final[int]
EVENT: Final[int]  # Delta: a part of an answer that is more than plain text
PROGRESS: Final[int]  # PromptProgress
FINISH: Final[int]  # Finish: one per choice
ERROR: Final[int]  # Failure; always LAST
# Record flags (u32, bit set)
LAST: Final[int]  # no more records for this request id: the ring detaches the sink after delivering it

class HttpError(Exception):
    """A request that the server must refuse: answer `status` and close."""

    status: int
    def __init__(self, status: int, message: str) -> None: ...

class Request:
    """One parsed HTTP request. It does not change after it is delivered, except for the marked fields."""

    method: str
    target: str  # as sent
    path: str  # percent-decoded, without query; http/routes.py removes doubled and trailing slashes
    query: str  # raw, without "?"
    body: bytes  # b"" after it was taken
    num_body_bytes: int  # of the body that was taken
    keep_alive: bool
    http_minor: int
    caller: Any  # http.api_keys.Caller, set by the guard; None: may do everything
    is_checked: bool  # set by http/routes.py: the guard has accepted it
    denied: FastrouterError | None  # set by the gate: the error that answers it; its body is not kept
    json: Any  # set by the code that parses the body: its content
    model: str | None  # set by the code that parses the body: the model it names
    sink: Any  # set by the gate: http.exchange.Sink, which takes the body; then `body` stays empty
    def header(self, name: str) -> str | None:
        """Value of a header, name in lower case; repeated fields are joined with ", "."""
    def headers(self) -> list[tuple[str, str]]: ...
    def take_body(self) -> bytes:
        """The body; the request does not hold it any more."""

class RequestParser:
    """httptools callbacks -> Request, with the limits of the server. The same bytes give the same result however they are split.

    Usage: `for request in parser.feed(data, gate)`. Raises HttpError (400, 413, 414, 417, 431, 501, 503, 505); when good requests came
    before the bad one in the same data, they are returned and the error is in `error`. After an error every feed raises it.
    `gate(request, num_bytes)` is called at the end of a head that announces a body (-1: in chunks), before a byte of it is kept. It
    returns how large the body may be, or sets `denied`: then the body is dropped, and if it is large, the request is the connection's
    last one.
    """

    def __init__(
        self,
        *,
        max_line: int = 8192,
        max_field: int = 8192,
        max_head: int = 32768,
        max_headers: int = 100,
        max_chunk_extension: int = 1024,
        max_body: int = 64 << 20,
    ) -> None: ...
    error: HttpError | None
    owes_continue: bool  # the client waits for `100 Continue`; the code that sends it clears this
    def feed(self, data: bytes, gate: Callable[[Request, int], int] | None = None) -> list[Request]: ...
    def close(self) -> None:
        """The client has left: keep nothing of what came, and read no more."""
    @property
    def is_idle(self) -> bool:
        """True between requests: no byte of a next one has come."""
    @property
    def in_body(self) -> bool: ...
    @property
    def is_ended(self) -> bool:
        """Nothing more is read: a request was denied before its body, or `close` was called."""
    @property
    def num_body_bytes(self) -> int: ...
    @property
    def num_held_bytes(self) -> int:
        """The same, without a body that its sink takes."""
    @property
    def sink(self) -> Any:
        """Of the body that is arriving, or None."""

def scan_json(body: bytes, id_fields: bytes, *, max_values: int, max_depth: int) -> list[tuple[int, int]]:
    """Raises InvalidRequest for a body with more values or levels. Returns (start, end) of lists of 32 or more token ids: the value of a
    member of the outer object that `id_fields` names, or a list directly in such a value. `id_fields`: names, each ended by a NUL, the
    last by two. Does not check whether the body is JSON. The GIL is not held meanwhile."""

class ItlHistogram:
    """Gaps between text records (inter-token latency), counted by the sinks that have this object, without a Python object per token."""

    @property
    def bounds(self) -> tuple[float, ...]:
        """Upper bounds in seconds, inclusive; the last bucket has none."""
    @property
    def counts(self) -> list[int]:
        """Per bucket, not cumulative."""
    @property
    def sum(self) -> float:
        """Seconds of all gaps together."""

def skip_strings(content: bytes, at: int, count: int, end: int) -> tuple[int, int]:
    """Skips up to `count` strings (a u64 length, then that many bytes) of a GGUF file, from byte `at` of a piece of it: (where the next
    one starts, how many are left). Stops where `content` ends; the position may be after it, in the rest of the file, which ends at byte
    `end`, counted from the same place. A string that would end after that gives end + 1."""

class Sink:
    """The target of one request's records. The ring calls it in the router's thread. Subclass in Python for slow paths."""

    request_id: int  # set by TokenRing.attach, 0 when detached
    num_tokens: int  # tokens up to now
    first_text_ns: int  # monotonic ns of the first text record (TEXT, REASONING, EVENT), 0 before
    itl: ItlHistogram | None  # counts the gaps between the text records of choice 0
    def on_record(self, kind: int, choice: int, flags: int, payload: bytes) -> None:
        """All records except text, in order, after the text before them. Override."""
    def fail(self, error: Exception) -> None:
        """The worker has ended: no more records will come. Override."""
    def restart(self) -> bool:
        """Forget what came, because it will come again. False when that is not possible, because some of it has reached the client."""
    def suspend(self) -> None:
        """The worker has ended, and another one will continue. Override."""
    on_drain: Callable[[], None] | None  # called once, after the next records have been delivered
    def trail(self) -> list[tuple[bytes, int, bool]] | None:
        """What came since `drop_trail`, for each choice: its words, the number of its records with text, and whether it has finished.
        None: there were too many words to keep."""
    def drop_trail(self) -> None:
        """Another request begins."""
    @property
    def trail_ns(self) -> int:
        """Monotonic ns of the first record with text since `drop_trail`; 0 before."""

class TextCollector(Sink):
    """Collects the text of a non-streaming request, per choice, without a Python object per token."""

    def text(self, choice: int = 0) -> bytes: ...
    def reasoning(self, choice: int = 0) -> bytes: ...

class EventLog:
    """The numbers of one stream's events, for an API that counts them, and the text of those that a writer makes."""

    def take_number(self) -> int:
        """Of the next event; they count from 0."""
    def keep(self, text: bytes) -> None: ...
    def take_text(self) -> bytes:
        """All that was kept since the last time."""

class _Writable(Protocol):
    """A transport, as far as a writer needs one. Only for type checks."""

    def write(self, data: bytes, /) -> None: ...

class SseWriter(Sink):
    """Escapes text into events of one API flavour and writes all events of one drain in one transport.write.

    `set_template(kind, choice, prefix, suffix)`: an event is prefix + escaped text + suffix, both encoded once per request
    (`data: {...,"content":"` and `"}...}\\n\\n`). With a `log`, the event's number and `end` follow the suffix, and the log keeps the
    text. A (kind, choice) without a template is delivered through on_record instead.
    The first bytes out are `head` (status line and headers); until then an error may still become a true status.
    A ping sends the head too, but it is nothing of the answer: a writer that has sent only pings can restart.
    """

    def __init__(self, transport: _Writable | None, head: bytes, *, chunked: bool = True, max_buffered: int = 256 << 10) -> None: ...
    def set_template(self, kind: int, choice: int, prefix: bytes, suffix: bytes, end: bytes = b"", log: EventLog | None = None) -> None: ...
    def drop_template(self, kind: int, choice: int) -> None:
        """From now on its records go to on_record."""
    def set_first(self, choice: int, event: bytes) -> None:
        """An event that is sent once, before the choice's first text (OpenAI's role delta)."""
    def take_first(self, choice: int) -> bytes:
        """That event if it has not been sent, else b""; it counts as sent from now on."""
    @property
    def is_finished(self) -> bool: ...
    @property
    def is_started(self) -> bool:
        """True once the head has been sent (or is buffered)."""
    def make_head(self, head: bytes) -> bytes:
        """Called once, when the head is sent. Override to add what is known only then."""
    @property
    def last_sent_ns(self) -> int:
        """Monotonic ns of the last write, 0 before."""
    @property
    def text_bytes(self) -> int: ...
    def write_event(self, event: bytes, *, is_answer: bool = True) -> None:
        """Append ready-made bytes (whole events), framed like all others; flushed with the drain, or by flush(). When the bytes are
        not part of an answer, another worker may still start again."""
    def write_ping(self, event: bytes) -> None:
        """Send this whole event now, with the head if needed; does nothing when the client has unread events or the body has ended."""
    def flush(self) -> None:
        """Write what is buffered, unless paused."""
    def finish(self) -> None:
        """Write everything, even when paused, and end the body (the terminating chunk). Idempotent."""
    def cut(self) -> None:
        """Write everything, but leave the body visibly incomplete. Idempotent."""
    def pause(self) -> None:
        """The transport's buffer is full: hold text here (up to max_buffered, then on_overflow)."""
    def resume(self) -> None: ...
    def on_overflow(self) -> None:
        """The client reads too slowly. Override: abort the sequence, close the connection. Called once."""

class TokenRing:
    """Single-producer single-consumer byte ring over a sealed memfd, with an eventfd doorbell. Layout: see core/ring.pxi.

    Router: `TokenRing.create(capacity)`, attach sinks, `drain()` when `doorbell_fd` is readable.
    Worker: `TokenRing.open(memory_fd, doorbell_fd)`, `try_push`, one `ring_doorbell()` per step.
    The ring owns its mapping and both descriptors; close() is idempotent. Hostile indices or sizes, and a doorbell that does not work,
    raise ProtocolError (fastrouter.errors). `page_bytes`: of the control page; None: as large as this system's pages.
    """

    memory_fd: int
    doorbell_fd: int
    capacity: int  # bytes, a power of two
    page_bytes: int
    @staticmethod
    def create(capacity: int = 1 << 20, page_bytes: int | None = None) -> TokenRing: ...
    @staticmethod
    def open(memory_fd: int, doorbell_fd: int, page_bytes: int | None = None) -> TokenRing: ...
    def close(self) -> None: ...
    # producer
    def try_push(self, request_id: int, kind: int, choice: int, flags: int, num_tokens: int, payload: bytes, words: bytes = b"") -> bool:
        """False when there is no room now. ValueError when it can never fit (over capacity / 2). `words`: int32 that the next worker gets
        back when this one dies."""
    def ring_doorbell(self) -> None:
        """Wake the consumer if it sleeps; costs no system call when it is awake."""
    def watch(self) -> CancelWatch: ...
    def note_alive(self) -> None:
        """The worker's loop turns. No system call."""
    def note_progress(self) -> None:
        """A piece of work is done. No system call."""
    # consumer
    @property
    def life(self) -> tuple[int, int]:
        """How often the producer has noted (that it is alive, progress): only changes mean something. Zeros when closed."""
    def cancel(self, request_id: int) -> None:
        """Tell the producer immediately, even while it computes. Only the last cancelled request is visible; each also has its message."""
    def attach(self, sink: Sink) -> int:
        """Give `sink` a new request id (never 0, not reused soon)."""
    def detach(self, request_id: int) -> None:
        """Records of this id are dropped from now on. Idempotent."""
    def sinks(self) -> list[Sink]: ...
    def drain(self, max_bytes: int = 0) -> int:
        """Deliver all records, flush every sink that got some, arm the doorbell. Returns the number of records.

        A sink that raises is detached, and `on_sink_error` logs its error; all others continue.
        """
    on_sink_error: Callable[[Sink, BaseException], None] | None

class CancelWatch:
    """A callback `bool function(void *argument)` in C that says whether the request that is computed was cancelled, and notes progress. It
    must live longer than its users, and the ring's mapping longer than these."""

    function: int
    argument: int
    def __init__(self, ring: TokenRing) -> None: ...
    def start(self, request_id: int) -> None: ...
    def stop(self) -> None: ...

SAMPLERS: tuple[str, ...]  # llama.cpp's default order
ADAPTIVE: str  # the name of a step that is only there when it is asked for
SAMPLER_SETTINGS: tuple[str, ...]  # the settings that LogitSampler needs, in addition to "samplers"

class Breakers:
    """The ends of a repetition for DRY: token ids, and (first token, the tokens after it) of longer ones. Immutable, so it can be
    shared."""

    def __init__(self, n_vocab: int, singles: list[int], longer: list[tuple[int, list[int]]]) -> None: ...

class LogitSampler:
    """Next token from a row of logits: bias and mask, then `samplers` in their order, then a draw; temperature <= 0 is greedy.

    `settings` holds all of SAMPLER_SETTINGS and "samplers"; other keys are ignored. Each means the same as in llama.cpp
    (`llama_sampler_init_*`). `bias`: [(token id, value), ...]; -inf bans. `repeat_last_n`, `dry_penalty_last_n`: how many tokens they
    look at, -1 all, 0 none. `mirostat` 1 and 2 replace all samplers but temperature. `seed` is 64 bits; the same seed and logits give
    the same tokens. `num_probs`: how many probabilities of the best tokens are kept for each sample (-1: none, not even its own): those
    of the model or, with `is_after`, those after the chain.
    """

    probabilities: tuple[float, list[tuple[int, float]]] | None  # of the last sample: its own, then the best [(token, probability), ...]

    def __init__(
        self,
        n_vocab: int,
        settings: dict[str, Any],
        *,
        seed: int,
        bias: list[tuple[int, float]],
        breakers: Breakers | None = None,
        num_probs: int = -1,
        is_after: bool = False,
    ) -> None: ...
    def sample(self, address: int, n_vocab: int, mask: int = 0) -> int:
        """Token id from the `n_vocab` float32 at `address`, which stay unchanged. `mask`: address of ceil(n_vocab / 32) uint32 with a
        bit for each token that is allowed, lowest bit first; 0: all are."""
    def accept(self, token: int) -> None:
        """The next token of the answer, for the penalties. The random numbers for the token after it depend only on the seed and on how
        many tokens were accepted."""
    mu: float  # mirostat's state
    def measure(self, address: int, n_vocab: int, token: int) -> None:
        """Set `probabilities` for a token that was chosen before. The draws that this takes do not count."""
    def prime(self, tokens: Sequence[int]) -> None:
        """The prompt, for the penalties."""

def find_tokens(predicate: int, vocab: int, n_vocab: int) -> list[int]:
    """Token ids for which the C function at `predicate`, a `bool (*)(const llama_vocab *, int32_t)`, returns true. Both are addresses."""

def all_pieces(to_piece: int, vocab: int, n_vocab: int) -> list[bytes]:
    """Every token's bytes, control tokens as their text. `to_piece`: address of llama_token_to_piece."""

class Lookup:
    """What followed the last `n` tokens of a text at their earlier occurrences, if there were at least `min_hits`. len(): tokens it
    knows."""

    def __init__(self, n: int, min_hits: int = 1) -> None: ...
    def __len__(self) -> int: ...
    def guess(self, held: array[int], next_token: int, most: int) -> list[int]:
        """At most `most` tokens that may follow `held` (int32) and `next_token`; empty without a match. Each call may bring a longer
        text; it costs a constant time for each new token. A text that does not continue that of the last call is read from its start."""
