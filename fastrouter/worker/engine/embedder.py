"""Texts -> embeddings and scores: calls wait in a queue, and each `step()` packs sequences of all of them into one llama_decode.

Owns the waiting calls, and the context's sequence ids during a step. Never imports: ipc.wire, worker.kv, worker.sampling. Answers leave
through `reply`. Invariant: a sequence is computed as a whole in one step and leaves nothing behind, so an embedding never depends on
what else was in the step. One with pictures is alone in its step.
"""

import base64
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fastrouter.errors import CannotSee, ContextExceeded, FastrouterError, InvalidRequest, ModelCannot
from fastrouter.ipc.messages import Call, Reply
from fastrouter.options.limits import POOLING
from fastrouter.options.load import LoadOptions
from fastrouter.worker.engine.adapters import Adapters
from fastrouter.worker.engine.seen_input import SeenInput
from fastrouter.worker.llama.binding import LlamaError
from fastrouter.worker.llama.context import Context
from fastrouter.worker.llama.model import Model
from fastrouter.worker.llama.projector import Embeddings
from fastrouter.worker.media.pictures import Key, Pictures
from fastrouter.worker.prefill_speed import LONG_NS, PrefillSpeed
from fastrouter.worker.text.prompts import Prompts, ShownFiles
from fastrouter.worker.text_jobs import DECODES, LONG_CHARS, SHORT_CHARS, Job, count_chars

PACKED_TOKENS = 512  # more tokens in one batch are not faster, and each token looks at all others in the batch
MAX_ANSWER_BYTES = 32 << 20  # of embeddings: a frame of the wire holds them as base64, and the router reads it as a whole

Vectors = NDArray[np.float32]
Input = NDArray[np.int32] | SeenInput


def normalize(vectors: Vectors, kind: int) -> Vectors:
    """The kinds of llama.cpp, row by row: -1 none, 0 largest value to 32760, 1 taxicab, 2 euclidean, more: p-norm. Zeros stay zeros."""
    if kind < 0:
        return vectors
    sizes = np.abs(vectors.astype(np.float64))
    largest = sizes.max(axis=1, keepdims=True, initial=0.0)
    if kind == 0:
        norms = largest / 32760.0
    else:
        relative = np.divide(sizes, largest, out=np.zeros_like(sizes), where=largest > 0)  # no power of it overflows or underflows
        norms = largest * np.power(np.power(relative, kind).sum(axis=1, keepdims=True), 1.0 / kind)
    scaled: NDArray[np.float64] = np.divide(vectors, norms, out=np.zeros_like(sizes), where=norms > 0)
    return scaled.astype(np.float32)


@dataclass(slots=True, eq=False)
class EmbedJob:
    """One call: its sequences, and their results so far."""

    call: Call
    prompts: list[Input]
    results: list[Vectors | None]  # one row for each sequence; without pooling one for each token
    num_begun: int = 0
    num_done: int = 0
    width: int = field(default=0)  # how many values of each row are wanted
    embeddings: dict[Key, Embeddings] = field(default_factory=dict)  # of the pictures in its next input
    waits_for_picture: bool = False

    @property
    def next_input(self) -> Input | None:
        return self.prompts[self.num_begun] if self.num_begun < len(self.prompts) else None


class Embedder:
    """All embedding and reranking of one model."""

    def __init__(
        self, model: Model, context: Context, prompts: Prompts, adapters: Adapters, options: LoadOptions, reply: Callable[[Reply], None]
    ) -> None:
        self._model = model
        self._context = context
        self._prompts = prompts
        self._adapters = adapters
        self._options = options
        self._reply = reply
        self._reading: list[tuple[Call, Job[list[Input]]]] = []  # calls whose texts become tokens
        self._jobs: deque[EmbedJob] = deque()  # they take turns, text by text
        self._num_decodes = 0  # since the last answer
        self._speed = PrefillSpeed(model.n_params)
        self.before_long_step: Callable[[], None] = lambda: None  # no call is answered while a step is computed
        self.max_tokens = context.n_ctx_slot if context.can_split else min(context.n_ctx_slot, context.n_batch)  # of one sequence

    def __repr__(self) -> str:
        return f"<Embedder {len(self._reading)} reading {len(self._jobs)} calls>"

    @property
    def has_work(self) -> bool:
        return any(not job.waits_for_picture for job in self._jobs)

    @property
    def is_reading(self) -> bool:
        """Texts become tokens, or pictures are computed, in other threads."""
        return bool(self._reading) or any(job.waits_for_picture for job in self._jobs)

    # ------------------------------------------------------------ calls

    def submit(self, call: Call, files: tuple[bytes, ...] = ()) -> None:
        """Queue a call. `files`: of the pictures in its parameters. A bad one is answered with its error; nothing is raised."""
        num_chars = DECODES if files else count_chars(call.params, LONG_CHARS)
        if files or num_chars > SHORT_CHARS:
            self._reading.append((call, self._prompts.jobs.start(lambda: self._read(call, files), num_chars)))
        else:
            self._queue(call, lambda: self._read(call, ()))

    def _queue_read(self) -> None:
        for call, job in [(call, job) for call, job in self._reading if job.done()]:
            self._reading.remove((call, job))
            self._queue(call, job.result)

    def _read(self, call: Call, files: tuple[bytes, ...]) -> list[Input]:
        if call.method == "rerank":
            return list(map(_to_array, self._read_pairs(call.params)))
        return self._read_inputs(call.params, ShownFiles(call.params.get("pictures", ()), files))

    def _queue(self, call: Call, read: Callable[[], list[Input]]) -> None:
        try:
            arrays = read()
            job = EmbedJob(call, arrays, [None] * len(arrays), width=self._width(call.params))
            num_rows = sum(map(len, arrays)) if self._is_unpooled else len(arrays)
            if 4 * num_rows * job.width > MAX_ANSWER_BYTES:
                raise InvalidRequest(f"the answer would hold more than {MAX_ANSWER_BYTES >> 20} MiB of vectors, send fewer texts at a time")
        except FastrouterError as error:
            self._fail(call, error)
        except Exception as error:  # a mistake must cost one call, not the worker
            traceback.print_exc(file=sys.stderr)
            self._fail(call, FastrouterError(f"{type(error).__name__}: {error}"))
        else:
            self._jobs.append(job)

    def forget(self, request_id: int) -> None:
        """The answer to this call is not needed any more."""
        for call, reading in self._reading:
            if call.request_id == request_id:
                reading.cancel()
        self._reading = [(call, reading) for call, reading in self._reading if call.request_id != request_id]
        self._jobs = deque(job for job in self._jobs if job.call.request_id != request_id)

    @property
    def _seen(self) -> Pictures:
        """Raises CannotSee."""
        if self._prompts.pictures is None:
            raise CannotSee
        return self._prompts.pictures

    @property
    def _is_unpooled(self) -> bool:
        return self._context.pooling == POOLING["none"]

    def _read_inputs(self, params: dict[str, Any], shown: ShownFiles) -> list[Input]:
        if not self._context.is_embedding:
            raise ModelCannot("this model does not make embeddings; to use it for that, start it with `--embeddings --pooling mean`")
        if self._is_unpooled and params.get("is_pooled"):
            raise InvalidRequest(
                "Pooling type 'none' is not OAI compatible: it gives a vector for each token. Start the model with `--pooling mean` "
                "(or cls, last) beside `--embeddings`, or use POST /embeddings"
            )
        inputs = params["inputs"]
        name = params.get("name", "input")
        if not inputs:
            raise InvalidRequest(f"{name}: must not be empty")
        named = [f"{name}[{index}]" for index in range(len(inputs))] if len(inputs) > 1 else [name]
        return [self._read_input(name, text, shown) for name, text in zip(named, inputs, strict=True)]

    def _read_input(self, name: str, text: Any, shown: ShownFiles) -> Input:
        own = shown.of(text)
        if not own.marks:
            return _to_array(self._tokenize(name, text))
        if not self._context.can_continue:
            raise ModelCannot("image input is not supported: this model reads an input as a whole, and each token sees all others")
        most = self._context.n_ctx_slot
        self._refuse_too_long(name, self._prompts.least_tokens(text, most), "at least ", most)
        found = self._prompts.read_seen(text, own)
        self._refuse_too_long(name, len(found.tokens), most=most)
        return SeenInput(_to_array(found.tokens), found.pictures)

    def _read_pairs(self, params: dict[str, Any]) -> list[list[int]]:
        if self._context.pooling != POOLING["rank"]:
            raise ModelCannot("this model does not support reranking; to use it for that, start it with `--reranking`")
        query, documents = params["query"], params["documents"]
        pairs = self._prompts.build_pairs(query, documents)
        return [self._checked(f"documents[{index}] with the query", pair) for index, pair in enumerate(pairs)]

    def _tokenize(self, name: str, text: Any) -> list[int]:
        self._refuse_too_long(name, self._prompts.least_tokens(text, self.max_tokens), "at least ")
        return self._checked(name, self._prompts.tokenize(text, add_special=True, parse_special=True))

    def _checked(self, name: str, tokens: list[int]) -> list[int]:
        if not tokens:
            raise InvalidRequest(f"{name}: the content cannot be empty")
        self._refuse_too_long(name, len(tokens))
        return tokens

    def _refuse_too_long(self, name: str, num_tokens: int, least: str = "", most: int = 0) -> None:
        """`most`: tokens of an input with pictures."""
        limit = most or self.max_tokens
        if num_tokens > limit:
            flag = "context (--ctx-size)" if self._context.can_split or most else "physical batch size (--ubatch-size)"
            more = "" if limit >= self._model.n_ctx_train else f", increase the {flag}"
            message = f"{name} ({least}{num_tokens} tokens) is too large to process: one text may have {limit} tokens{more}"
            raise ContextExceeded(message, n_prompt_tokens=num_tokens, n_ctx=limit)

    def _width(self, params: dict[str, Any]) -> int:
        """How many values of an embedding are wanted."""
        most = self._context.num_outputs
        wanted = params.get("dimensions") or most
        if wanted > most:
            raise InvalidRequest(f"field 'dimensions' must be at most {most}, what the model makes, but is {wanted}")
        return int(wanted)

    # ------------------------------------------------------------ one step

    def step(self) -> None:
        """One batch for all calls in turn."""
        if self._reading:
            self._queue_read()
        self._take_pictures()
        packed = self._pack()
        if not packed:
            return
        num_tokens = sum(len(job.prompts[index]) for job, index in packed)
        if self._speed.expected_ns(num_tokens) > LONG_NS:
            self.before_long_step()
        error: FastrouterError | None = None
        begun_ns = time.monotonic_ns()
        try:
            self._compute(packed)
        except FastrouterError as failure:
            error = failure
        self._speed.note_prefill(num_tokens, time.monotonic_ns() - begun_ns)
        if self._context.memory:
            for seq_id in range(len(packed)):
                self._context.remove(seq_id)
        for job in dict.fromkeys(job for job, _ in packed):
            if error is not None:
                self._jobs.remove(job)
                self._fail(job.call, error)
            elif job.num_done == len(job.prompts):
                self._jobs.remove(job)
                self._finish(job)

    def _take_pictures(self) -> None:
        """Those of the next inputs, as far as they have been computed; the others are ordered."""
        wanted = [(job, job.next_input) for job in self._jobs if isinstance(job.next_input, SeenInput)]
        if self._prompts.pictures is not None and self._context.is_embedding:
            self._prompts.pictures.forget_all_but({picture.chunk.key for _, seen in wanted for picture in seen.pictures})
        for job, seen in wanted:
            try:
                job.waits_for_picture = not self._has_pictures(job, seen)
            except FastrouterError as error:
                self._jobs.remove(job)
                self._fail(job.call, error)

    def _has_pictures(self, job: EmbedJob, wanted: SeenInput) -> bool:
        missing = {picture.chunk.key: picture.chunk for picture in wanted.pictures if picture.chunk.key not in job.embeddings}
        for key, chunk in missing.items():
            found = self._seen.get(chunk)
            if found is None:
                return False
            job.embeddings[key] = found
        return True

    def _compute_seen(self, job: EmbedJob, index: int, seen: SeenInput) -> None:
        """Raises LlamaError."""
        job.results[index], num_decodes = seen.compute(self._context, job.embeddings, self._seen.positions)
        job.embeddings.clear()
        self._num_decodes += num_decodes
        job.num_done += 1

    def _compute(self, packed: list[tuple[EmbedJob, int]]) -> None:
        """Raises LlamaError."""
        self._adapters.use(self._adapters.resolve(None), self._context)
        first, first_index = packed[0]
        if isinstance(seen := first.prompts[first_index], SeenInput):
            self._compute_seen(first, first_index, seen)
            return
        batch, row, most = self._context.batch, 0, self._context.n_batch
        first_rows: list[int] = []
        for seq_id, (job, index) in enumerate(packed):
            prompt, start = cast(NDArray[np.int32], job.prompts[index]), 0
            while len(prompt) - start > most:  # then it is alone, and may be split
                self._decode(batch.put_outputs(0, prompt[start : start + most], start, seq_id))
                start += most
            first_rows.append(row)
            row = batch.put_outputs(row, prompt[start:], start, seq_id)
        self._decode(row)
        for seq_id, (job, index) in enumerate(packed):
            job.results[index] = self._vectors(seq_id, first_rows[seq_id], len(job.prompts[index]))
            job.num_done += 1

    def _decode(self, num_rows: int) -> None:
        self._num_decodes += 1
        code = self._context.decode(num_rows)
        if code:
            raise LlamaError(f"llama_decode failed with code {code}")

    def _pack(self) -> list[tuple[EmbedJob, int]]:
        """Sequences of the next batch: always the first one, then as many as fit; a call with many texts waits for its turn after each."""
        packed: list[tuple[EmbedJob, int]] = []
        room = min(PACKED_TOKENS, self._context.n_batch)
        while len(packed) < self._context.num_sequences:
            job = next((job for job in self._jobs if job.num_begun < len(job.prompts) and not job.waits_for_picture), None)
            if job is None or (packed and len(job.prompts[job.num_begun]) > room):
                break
            is_seen = isinstance(job.next_input, SeenInput)
            if is_seen and packed:
                break
            packed.append((job, job.num_begun))
            room -= len(job.prompts[job.num_begun])
            job.num_begun += 1
            self._jobs.remove(job)
            self._jobs.append(job)
            if is_seen:
                break
        return packed

    def _vectors(self, seq_id: int, row: int, num_tokens: int) -> Vectors:
        if self._is_unpooled:
            return np.stack([self._context.token_vector(row + offset) for offset in range(num_tokens)])
        return self._context.sequence_vector(seq_id)[np.newaxis]

    # ------------------------------------------------------------ answers

    def _finish(self, job: EmbedJob) -> None:
        params = job.call.params
        vectors = np.concatenate([result for result in job.results if result is not None])
        counts = [len(prompt) for prompt in job.prompts]
        if job.call.method == "rerank":
            result: dict[str, Any] = {"scores": [float(score) for score in vectors[:, 0]], "prompt_tokens": sum(counts)}
        else:
            vectors = vectors[:, : job.width]
            kind = params.get("normalize")
            if not self._is_unpooled:
                vectors = normalize(vectors, self._options.embd_normalize if kind is None else kind)
            text = base64.b64encode(vectors.astype("<f4").tobytes()).decode()
            num_rows = counts if self._is_unpooled else [1] * len(counts)
            result = {"vectors": text, "width": job.width, "num_rows": num_rows, "prompt_tokens": sum(counts)}
        result["num_decodes"], self._num_decodes = self._num_decodes, 0
        self._reply(Reply(job.call.request_id, result=result))

    def _fail(self, call: Call, error: FastrouterError) -> None:
        self._reply(Reply(call.request_id, error=error.to_wire()))


def _to_array(tokens: Sequence[int]) -> NDArray[np.int32]:
    return np.asarray(tokens, dtype=np.int32)
