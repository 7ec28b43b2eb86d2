"""The output of the engine: the text of sequences, their ends, errors of requests. Each is one record for the Outbox.

Never imports: worker.kv.prefixes, worker.llama.context. Invariant: each choice of a request has exactly one FINISH, and the last one is
marked; a request that fails has one ERROR instead of the records that are left.
"""

import sys
import traceback
from typing import Any

from fastrouter._core import EVENT, PROGRESS, REASONING, TEXT
from fastrouter.errors import FastrouterError
from fastrouter.ipc.records import Delta, Finish
from fastrouter.options.load import LoadOptions
from fastrouter.worker.engine.outbox import Outbox
from fastrouter.worker.kv.slots import Slot
from fastrouter.worker.llama.vocab import Vocab
from fastrouter.worker.media.pictures import tokens_of_each
from fastrouter.worker.sampling.grammar import shown
from fastrouter.worker.sequence import GenerateRequest, Running, Sequence
from fastrouter.worker.text.message import Message, call_delta, deltas_of
from fastrouter.worker.text.parsers.pieces import Kind, Piece

_ECHO_CHARS = 4096  # of a prompt, in one record
_KINDS = {Kind.TEXT: TEXT, Kind.REASONING: REASONING}


class Answers:
    """Records of all sequences of one model."""

    def __init__(self, vocab: Vocab, outbox: Outbox, options: LoadOptions) -> None:
        self._vocab = vocab
        self._options = options
        self._outbox = outbox
        self.num_decodes = 0  # of the engine, until now
        self._num_told = 0  # those that records have reported

    def send(self, sequence: Sequence, text: bytes) -> None:
        """Text that is final: complete UTF-8, and not the start of a stop string."""
        message = sequence.message
        if sequence.quiet is not None and sequence.quiet[text]:  # nearly all texts of a message
            sequence.num_quiet = sequence.num_generated
            self._push(sequence, sequence.quiet_kind, text)
        elif message is not None:
            self._parse(sequence, message, text)
        elif sequence.has_events:
            sequence.hold_entries(len(text))
            self._send_events(sequence, [Delta(text.decode())])
        else:
            self._push(sequence, TEXT, text)

    def _parse(self, sequence: Sequence, message: Message, text: bytes) -> None:
        pieces = message.take(text, sequence.num_generated, sequence.num_quiet)
        if not sequence.has_events:
            sequence.quiet, sequence.quiet_kind = message.quiet, _KINDS[message.kind]
        if sequence.probabilities is not None:
            sequence.hold_entries(len(text))
        if pieces:
            self._send_pieces(sequence, pieces)
        if message.is_over:
            sequence.detokenizer.end()

    def _push(self, sequence: Sequence, kind: int, payload: bytes) -> None:
        """A record with text. One that the router got from the worker before this one is not sent again."""
        num_tokens, sequence.num_unsent = sequence.num_unsent, 0
        words = sequence.take_words()
        if sequence.num_known:
            sequence.num_known -= 1
        else:
            self._outbox.push(sequence.request.id, kind, sequence.choice, 0, num_tokens, payload, words)

    def _send_pieces(self, sequence: Sequence, pieces: list[Piece]) -> None:
        """Plain text and plain thoughts have separate records, which the router passes on unchanged."""
        if sequence.has_events:
            self._send_events(sequence, deltas_of(pieces, sequence.call_id))
            return
        for piece in pieces:
            kind = _KINDS.get(piece.kind, EVENT)
            payload = Delta(calls=[call_delta(piece, sequence.call_id)]).to_payload() if kind == EVENT else piece.text.encode()
            self._push(sequence, kind, payload)

    def _send_events(self, sequence: Sequence, parts: list[Delta]) -> None:
        for event in sequence.events(parts):
            self._push(sequence, EVENT, event.to_payload())

    def echo(self, sequence: Sequence) -> None:
        """The prompt, as the beginning of the answer."""
        generate = sequence.request.generate
        piece = sequence.detokenizer.pieces.piece
        text = generate.prompt if isinstance(generate.prompt, str) else b"".join(map(piece, sequence.prompt)).decode("utf-8", "replace")
        parts = [text[start : start + _ECHO_CHARS] for start in range(0, len(text), _ECHO_CHARS)]
        if sequence.probabilities is not None:
            sequence.entries += sequence.probabilities.in_records(sequence.prompt_entries)
            self._send_events(sequence, [Delta(text=part) for part in parts])
            return
        for part in parts:
            self._push(sequence, TEXT, part.encode())

    def progress(self, running: Running) -> None:
        """How much of the prompt is computed. The other choices of a request have no progress of their own."""
        sequence = running.sequence
        if sequence.choice == 0:
            self._outbox.push(sequence.request.id, PROGRESS, 0, 0, 0, running.progress().to_payload())

    def end(self, running: Running, stop_type: str, end_token: int = -1, *, truncated: bool = False) -> None:
        """The text that was held back, then the finish. `stop_type`: eos | limit | word."""
        sequence, slot = running.sequence, running.slot
        shows_end = self._options.special or sequence.message is not None  # then it is hidden, unless it is a marker
        rest = sequence.detokenizer.push(end_token) if shows_end and end_token >= 0 else b""
        rest += sequence.detokenizer.finish()
        if sequence.probabilities is not None and sequence.detokenizer.is_stopped:
            sequence.probabilities.cut(len(rest))
        if rest or sequence.is_pending:
            self.send(sequence, rest)
        if sequence.message is not None:
            rest_of_message = sequence.message.finish(sequence.num_generated, sequence.num_quiet, is_cut=stop_type == "limit")
            if rest_of_message or sequence.is_pending:
                self._send_pieces(sequence, rest_of_message)
        self._finish(sequence, slot, stop_type, truncated=truncated)

    def end_empty(self, request: GenerateRequest, sequence: Sequence) -> None:
        """For a prompt without any token, not even BOS: every choice is an empty answer, as in llama-server."""
        for choice in request.open_choices():
            sequence.choice = choice
            self._finish(sequence, None, "limit")
        self._outbox.ring_doorbell()

    def refuse(self, request_id: int, error: Exception) -> None:
        """A mistake in a template or sampler must cost one request, not the worker."""
        if not isinstance(error, FastrouterError):
            traceback.print_exception(error, file=sys.stderr)
            error = FastrouterError(f"{type(error).__name__}: {error}")
        self._outbox.error(request_id, error)
        self._outbox.ring_doorbell()

    def _finish(self, sequence: Sequence, slot: Slot | None, stop_type: str, *, truncated: bool = False) -> None:
        request, generate = sequence.request, sequence.request.generate
        request.num_open -= 1
        finish = Finish(
            stop_type=stop_type,
            stopping_word=sequence.detokenizer.stopping_word if stop_type == "word" else "",
            prompt_tokens=len(sequence.prompt),
            cached_tokens=sequence.num_cached,
            completion_tokens=sequence.num_generated,
            reasoning_tokens=sequence.message.num_reasoning_tokens if sequence.message else 0,
            num_calls=sequence.message.num_calls if sequence.message else 0,
            held_tokens=len(slot.tokens) if slot else 0,
            truncated=truncated or sequence.is_truncated,
            id_slot=slot.id if slot else -1,
            num_decodes=self.num_decodes - self._num_told,
            num_busy_decodes=self.num_decodes - sequence.num_decodes_before if slot else 0,
            num_guesses=sequence.num_guesses,
            sound_ms=sum(picture.chunk.sound_ms for picture in request.pictures),
            timings=sequence.timings(),
            media_tokens=tokens_of_each(request.pictures, len(generate.pictures)),
            tokens=(sequence.tokens or []) if generate.return_tokens else [],
            prompt=self._vocab.text_of(sequence.prompt_text) if generate.verbose else "",
            generation_settings={**sequence.sampler.settings(), **self._settings(sequence)} if generate.verbose else {},
        )
        self._num_told = self.num_decodes
        self._outbox.finish(request.id, sequence.choice, request.num_open == 0, finish)

    def _settings(self, sequence: Sequence) -> dict[str, Any]:
        """The part of llama-server's `generation_settings` that is not sampling."""
        request, generate = sequence.request, sequence.request.generate
        return {
            "n_predict": sequence.max_tokens,
            "max_tokens": sequence.max_tokens,
            "n_keep": self._options.n_keep if generate.n_keep is None else generate.n_keep,
            "n_discard": generate.n_discard,
            "stop": generate.stop,
            **shown(generate.constraint),
            "lora": [{"id": adapter_id, "scale": scale} for adapter_id, scale in request.adapters],
        }
