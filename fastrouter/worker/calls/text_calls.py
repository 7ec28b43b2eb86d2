"""The calls about texts: tokenize, detokenize, apply_template, count_tokens.

Owns the calls that are running: short ones are answered immediately, long ones by a job. Invariant: each call that is not forgotten gets
one answer; any failure while it is computed or written is the error of that call.
"""

import sys
import traceback
from collections.abc import Callable
from typing import Any

import orjson

from fastrouter.errors import FastrouterError, InvalidRequest
from fastrouter.ipc.messages import Call, Reply
from fastrouter.ipc.wire import encode_reply
from fastrouter.worker.llama.vocab import Vocab
from fastrouter.worker.text.prompts import Prompts, ShownFiles, shown_tools
from fastrouter.worker.text.rendering import Chat
from fastrouter.worker.text_jobs import DECODES, LONG_CHARS, SHORT_CHARS, WAITS, Job, check, count_chars

TEXT_CALLS = ("tokenize", "detokenize", "apply_template", "count_tokens")
_RENDERING = ("apply_template", "count_tokens")
MAX_ANSWER_BYTES = 16 << 20
_BLOCK_TOKENS = 1 << 16  # between two checks whether the answer is still needed


class TextCalls:
    """For one model. `send` takes an encoded Reply."""

    def __init__(self, vocab: Vocab, prompts: Prompts, send: Callable[[bytes], None]) -> None:
        self._vocab = vocab
        self._prompts = prompts
        self._send = send
        self._jobs: dict[int, Job[bytes]] = {}

    def __repr__(self) -> str:
        return f"<TextCalls {len(self._jobs)} under way>"

    @property
    def has_work(self) -> bool:
        return bool(self._jobs)

    def submit(self, call: Call, files: tuple[bytes, ...] = ()) -> None:
        """`files`: of the pictures in its parameters."""
        if files:
            self._jobs[call.request_id] = self._prompts.jobs.start(lambda: self._frame(call, files), DECODES)
            return
        num_chars = WAITS if call.method in _RENDERING else count_chars(call.params, LONG_CHARS)
        if num_chars > SHORT_CHARS or (num_chars == WAITS and not self._is_rendered_now(call)):
            self._jobs[call.request_id] = self._prompts.jobs.start(lambda: self._frame(call), num_chars)
        else:
            self._send(self._frame(call))

    def _is_rendered_now(self, call: Call) -> bool:
        """It takes almost no time. (So it may be done twice.)"""
        try:
            text = self._prompts.render_now(self._chat(call.params))
        except FastrouterError:
            return True
        return text is not None and len(text) <= SHORT_CHARS

    def forget(self, request_id: int) -> None:
        """The answer to this call is not needed any more."""
        job = self._jobs.pop(request_id, None)
        if job is not None:
            job.cancel()

    def step(self) -> None:
        """Send what is done."""
        for request_id in [request_id for request_id, job in self._jobs.items() if job.done()]:
            self._send(self._jobs.pop(request_id).result())

    def _frame(self, call: Call, files: tuple[bytes, ...] = ()) -> bytes:
        try:
            reply = Reply(call.request_id, result=self.answer(call.method, call.params, files))
            return encode_reply(reply, MAX_ANSWER_BYTES, is_passed_on=True)
        except FastrouterError as error:
            return encode_reply(Reply(call.request_id, error=error.to_wire()))
        except Exception as error:  # a mistake in one answer must not end the model's streams
            traceback.print_exc(file=sys.stderr)
            return encode_reply(Reply(call.request_id, error=FastrouterError(f"{type(error).__name__}: {error}").to_wire()))

    def answer(self, method: str, params: dict[str, Any], files: tuple[bytes, ...] = ()) -> Any:
        """Raises FastrouterError."""
        match method:
            case "tokenize":
                return self._tokenize(params)
            case "detokenize":
                return self._detokenize(params)
            case "apply_template":
                return {"prompt": self._apply_template(params)}
            case "count_tokens":
                text = self._apply_template(params)
                return {"input_tokens": self._prompts.count_rendered(text, ShownFiles(params.get("pictures", []), files))}
        raise InvalidRequest(f"unknown call {method!r}")

    def _tokenize(self, params: dict[str, Any]) -> dict[str, Any]:
        tokens = self._prompts.tokenize(
            params.get("content", ""),
            add_special=bool(params.get("add_special", False)),
            parse_special=bool(params.get("parse_special", True)),
        )
        if not params.get("with_pieces"):
            return {"tokens": tokens}
        shown = {token: orjson.dumps({"id": token, "piece": self._piece(token)}) for token in set(tokens)}
        return {"tokens": orjson.Fragment(b"[" + self._join(tokens, shown, b",") + b"]")}

    def _piece(self, token: int) -> str | list[int]:
        """Text if it is whole UTF-8, otherwise its bytes."""
        piece = self._vocab.token_to_piece(token)
        try:
            return piece.decode()
        except UnicodeDecodeError:
            return list(piece)

    def _detokenize(self, params: dict[str, Any]) -> dict[str, Any]:
        tokens = params.get("tokens", [])
        if not isinstance(tokens, list):
            raise InvalidRequest('"tokens" must be a list of token ids')
        pieces = {token: self._vocab.token_to_piece(token) for token in set(map(self._prompts.checked, tokens))}
        return {"content": self._join(tokens, pieces, b"").decode("utf-8", "replace")}

    def _join(self, tokens: list[int], pieces: dict[int, bytes], separator: bytes) -> bytes:
        """It is not built when it is too large to be sent."""
        num_bytes, blocks = 0, []
        for start in range(0, len(tokens), _BLOCK_TOKENS):
            check()
            blocks.append(separator.join([pieces[token] for token in tokens[start : start + _BLOCK_TOKENS]]))
            num_bytes += len(blocks[-1])
            if num_bytes > MAX_ANSWER_BYTES:
                raise InvalidRequest(f"the answer would be larger than the limit of {MAX_ANSWER_BYTES >> 20} MiB; send less at a time")
        return separator.join(blocks)

    def _apply_template(self, params: dict[str, Any]) -> str:
        return self._prompts.render(self._chat(params))

    def _chat(self, params: dict[str, Any]) -> Chat:
        messages = params.get("messages")
        if not isinstance(messages, list):
            raise InvalidRequest('"messages" must be a list')
        is_whole = bool(params.get("prefill_is_implied")) and not self._prompts.continues_by_itself
        return self._prompts.chat_of(
            messages,
            shown_tools(params.get("tools"), params.get("tool_choice")),
            add_generation_prompt=is_whole or bool(params.get("add_generation_prompt", True)),
            continue_final_message=not is_whole and bool(params.get("continue_final_message", False)),
            kwargs=params.get("chat_template_kwargs") or {},
            template=params.get("chat_template"),
            system=params.get("system"),
        )
