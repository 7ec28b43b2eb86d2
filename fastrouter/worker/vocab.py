"""A model's vocabulary: text to tokens and back, and what is special about a token. Knows no context."""

import ctypes
from collections.abc import Sequence
from functools import cached_property

from fastrouter._core import all_pieces, find_tokens
from fastrouter.errors import InvalidRequest
from fastrouter.worker.binding import I, P, api, bind, lib

_tokenize = bind("llama_tokenize", I, P, ctypes.c_char_p, I, P, I, ctypes.c_bool, ctypes.c_bool)
_token_to_piece = bind("llama_token_to_piece", I, P, I, P, I, I, ctypes.c_bool)
_is_eog = bind("llama_vocab_is_eog", ctypes.c_bool, P, I)
TOKENIZE_ADDRESS: int = ctypes.cast(lib.llama_tokenize, P).value or 0


class Vocab:
    """A model's vocabulary. Borrowed from its Model: dead after the model's close."""

    def __init__(self, pointer: int) -> None:
        self.pointer = pointer
        self.n_tokens: int = api.llama_vocab_n_tokens(pointer)
        self.type: int = api.llama_vocab_type(pointer)
        self.bos: int = api.llama_vocab_bos(pointer)  # -1: none, like the others
        self.eos: int = api.llama_vocab_eos(pointer)
        self.eot: int = api.llama_vocab_eot(pointer)
        self.add_bos: bool = api.llama_vocab_get_add_bos(pointer)
        self.add_eos: bool = api.llama_vocab_get_add_eos(pointer)
        self.sep: int = api.llama_vocab_sep(pointer)
        self.add_sep: bool = api.llama_vocab_get_add_sep(pointer)
        self._piece = ctypes.create_string_buffer(256)
        self._piece_address = ctypes.addressof(self._piece)
        self._eog = bytearray(self.n_tokens)  # 0: not asked yet, 1: no, 2: yes

    def is_eog(self, token: int) -> bool:
        """End of generation: EOS, EOT and their kin."""
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
        """All of them; walks the vocabulary, so only for ignore_eos."""
        return find_tokens(ctypes.cast(lib.llama_vocab_is_eog, P).value or 0, self.pointer, self.n_tokens)

    @cached_property
    def pieces(self) -> list[bytes]:
        """All of them, control tokens as their text."""
        return all_pieces(ctypes.cast(lib.llama_token_to_piece, P).value or 0, self.pointer, self.n_tokens)

    def token_to_piece(self, token: int, special: bool = True) -> bytes:
        """The token's bytes. `special`: control tokens as their text, otherwise empty."""
        length = _token_to_piece(self.pointer, token, self._piece_address, 256, 0, special)
        if length < 0:  # longer than the buffer
            buffer = ctypes.create_string_buffer(-length)
            length = _token_to_piece(self.pointer, token, ctypes.addressof(buffer), -length, 0, special)
            return buffer.raw[:length]
        return ctypes.string_at(self._piece_address, length)

    def is_special(self, token: int) -> bool:
        """One that stands for no text: a control token, or an added one like <this>."""
        attributes: int = api.llama_vocab_get_attr(self.pointer, token)
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
        return b"".join([self.token_to_piece(token, special) for token in tokens])
