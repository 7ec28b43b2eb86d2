"""A model's vocabulary: text to tokens and back, and what is special about a token. Any thread may use it. Never imports:
worker.llama.context.
"""

import ctypes
from collections.abc import Sequence
from functools import cached_property

from fastrouter._core import all_pieces, find_tokens
from fastrouter.errors import InvalidRequest
from fastrouter.worker.llama.binding import I, P, api, bind, lib
from fastrouter.worker.llama.long_texts import PIECE_CHARS, Bound, Cutter

_detokenize = bind("llama_detokenize", I, P, P, I, P, I, ctypes.c_bool, ctypes.c_bool)
_tokenize = bind("llama_tokenize", I, P, ctypes.c_char_p, I, P, I, ctypes.c_bool, ctypes.c_bool)
_token_to_piece = bind("llama_token_to_piece", I, P, I, P, I, I, ctypes.c_bool)
_get_attr = bind("llama_vocab_get_attr", I, P, I)
_is_eog = bind("llama_vocab_is_eog", ctypes.c_bool, P, I)
_PIECE_BYTES = 256  # enough for most tokens
_FOUND_FIRST = api.LLAMA_TOKEN_ATTR_CONTROL | api.LLAMA_TOKEN_ATTR_USER_DEFINED | api.LLAMA_TOKEN_ATTR_UNKNOWN
TOKENIZE_ADDRESS: int = ctypes.cast(lib.llama_tokenize, P).value or 0


class Vocab:
    """A model's vocabulary. It belongs to its Model: unusable after the model's close."""

    def __init__(self, pointer: int) -> None:
        self.pointer = pointer
        self.n_tokens: int = api.llama_vocab_n_tokens(pointer)
        self.type: int = api.llama_vocab_type(pointer)
        self.bos: int = api.llama_vocab_bos(pointer)  # -1: none, also for the others
        self.eos: int = api.llama_vocab_eos(pointer)
        self.add_bos: bool = api.llama_vocab_get_add_bos(pointer)
        self.add_eos: bool = api.llama_vocab_get_add_eos(pointer)
        self.sep: int = api.llama_vocab_sep(pointer)
        self.add_sep: bool = api.llama_vocab_get_add_sep(pointer)
        self._eog = bytearray(self.n_tokens)  # 0: not known yet, 1: no, 2: yes

    def is_eog(self, token: int) -> bool:
        """End of generation: EOS, EOT and similar tokens."""
        known = self._eog[token]
        if not known:
            known = self._eog[token] = 2 if _is_eog(self.pointer, token) else 1
        return known == 2

    @cached_property
    def fim(self) -> dict[str, int]:
        """Tokens that tell a model to fill a gap: pre, suf, mid, rep, sep. -1: none."""
        return {name: getattr(api, f"llama_vocab_fim_{name}")(self.pointer) for name in ("pre", "suf", "mid", "rep", "sep")}

    @cached_property
    def eog_tokens(self) -> list[int]:
        """All of them; this walks through the vocabulary, so it is only for ignore_eos."""
        return find_tokens(ctypes.cast(lib.llama_vocab_is_eog, P).value or 0, self.pointer, self.n_tokens)

    @cached_property
    def pieces(self) -> list[bytes]:
        """All of them, control tokens as their text."""
        return self._all_pieces()

    def _all_pieces(self) -> list[bytes]:
        return all_pieces(ctypes.cast(lib.llama_token_to_piece, P).value or 0, self.pointer, self.n_tokens)

    def token_to_piece(self, token: int, special: bool = True) -> bytes:
        """The token's bytes. `special`: control tokens as their text, otherwise empty."""
        piece = ctypes.create_string_buffer(_PIECE_BYTES)
        length = _token_to_piece(self.pointer, token, ctypes.addressof(piece), _PIECE_BYTES, 0, special)
        if length < 0:  # longer than the buffer
            buffer = ctypes.create_string_buffer(-length)
            length = _token_to_piece(self.pointer, token, ctypes.addressof(buffer), -length, 0, special)
            return buffer.raw[:length]
        return piece.raw[:length]

    def is_special(self, token: int) -> bool:
        """A token that is not text: a control token, or an added one like <this>."""
        attributes = self._attributes(token)
        if attributes & api.LLAMA_TOKEN_ATTR_USER_DEFINED:
            piece = self.token_to_piece(token)
            return piece.startswith(b"<") and piece.endswith(b">")
        return bool(attributes & api.LLAMA_TOKEN_ATTR_CONTROL)

    def token_text(self, token: int) -> str:
        """Text of a token as written in the GGUF ("" for -1), for templates (`bos_token`)."""
        if token < 0:
            return ""
        text: bytes = api.llama_vocab_get_text(self.pointer, token)
        return text.decode("utf-8", "replace")

    def tokenize(self, text: str | bytes, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Raises CancelledError in a job that was cancelled."""
        if self.type == api.LLAMA_VOCAB_TYPE_SPM and isinstance(text, str) and len(text) > PIECE_CHARS:
            tokens = self._cutter.tokenize(text, parse_special)
            return [self.bos] * (add_special and self.add_bos) + tokens + [self.eos] * (add_special and self.add_eos)
        return self._tokenize_whole(text, add_special, parse_special)

    @cached_property
    def _cutter(self) -> Cutter:
        texts, special = [], []
        for token, piece in enumerate(self._all_pieces()):
            attributes = self._attributes(token)
            if not attributes & api.LLAMA_TOKEN_ATTR_BYTE:
                texts.append(piece)
            if attributes & _FOUND_FIRST:
                special.append(piece)
        return Cutter(texts, special, self._tokenize_whole)

    @cached_property
    def _bound(self) -> Bound | None:
        """None: a tokenizer that joins what it does not know, or leaves it out."""
        if self.type not in (api.LLAMA_VOCAB_TYPE_SPM, api.LLAMA_VOCAB_TYPE_BPE):
            return None
        swallowing = api.LLAMA_TOKEN_ATTR_LSTRIP | api.LLAMA_TOKEN_ATTR_RSTRIP
        return Bound(
            self._all_pieces(),
            may_drop_bytes=self.type == api.LLAMA_VOCAB_TYPE_BPE,
            may_swallow_space=any(self._attributes(token) & swallowing for token in range(self.n_tokens)),
        )

    def least_tokens(self, text: str, limit: int) -> int:
        """The text has at least this many tokens; 0 when its size does not show that they are more than `limit`."""
        if len(text) * 4 <= limit or self._bound is None:  # at most 4 bytes in a character, and at least one in a token
            return 0
        return self._bound.least_tokens(text)

    def _attributes(self, token: int) -> int:
        return int(_get_attr(self.pointer, token))

    def _tokenize_whole(self, text: str | bytes, add_special: bool, parse_special: bool) -> list[int]:
        data = text.encode("utf-8", "replace") if isinstance(text, str) else text
        capacity = len(data) + 8
        buffer = (I * capacity)()
        count = _tokenize(self.pointer, data, len(data), ctypes.addressof(buffer), capacity, add_special, parse_special)
        if count < 0:
            if count == -(1 << 31):
                raise InvalidRequest("the text is too long to tokenize")
            buffer = (I * -count)()
            count = _tokenize(self.pointer, data, len(data), ctypes.addressof(buffer), -count, add_special, parse_special)
        return buffer[:count]

    def detokenize(self, tokens: Sequence[int], special: bool = True) -> bytes:
        """The pieces of the tokens."""
        return b"".join([self.token_to_piece(token, special) for token in tokens])

    def text_of(self, tokens: Sequence[int]) -> str:
        """The text that has these tokens, special ones included: without the blank that some tokenizers put before it."""
        buffer, size = (I * len(tokens))(*tokens), 16 * len(tokens) + 16
        while True:
            text = ctypes.create_string_buffer(size)
            length = _detokenize(self.pointer, ctypes.addressof(buffer), len(tokens), ctypes.addressof(text), size, False, True)
            if length >= 0:
                return text.raw[:length].decode("utf-8", "replace")
            size = -length
