"""POST /slots/{id}: a slot's content goes to a file, comes back from one, or is removed. Answers are like llama-server's.

Names of files are checked before they get here. The file has llama.cpp's format, which llama-server can read, and some bytes at its end:
its model, its adapters, and a checksum. Invariant: a busy slot is waited for; a file appears complete or not at all; after a restore
that failed the slot holds its former content, or nothing.
"""

import contextlib
import hashlib
import os
import struct
import time
import zlib
from array import array
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from fastrouter.errors import FastrouterError, InvalidRequest
from fastrouter.ipc.messages import Call, Load, Reply
from fastrouter.worker.engine.engine import Engine
from fastrouter.worker.kv.slots import AdapterSet, Slot
from fastrouter.worker.llama.context import Context
from fastrouter.worker.llama.picture_tokens import count_in_place

_HEAD = struct.Struct("<III")  # llama.cpp's magic, version, number of tokens
_MAGIC = 0x67677371  # ggsq
_FOOT = struct.Struct("<I8s")  # the length of the JSON before it, and a mark that it is ours
_OURS = b"frslot01"
_WITH_PICTURES = array("i", [-1])  # so llama-server begins the tokens of a slot with pictures
_THEIRS = "it has pictures and was saved by llama-server, which writes them in another form"
_BLOCK_BYTES = 1 << 20
_NUM_SAMPLES, _SAMPLE_BYTES = 64, 4096


class SlotFiles:
    """For one model."""

    def __init__(self, context: Context, engine: Engine, load: Load, send: Callable[[Reply], None]) -> None:
        self._model_path = load.path
        self._projector_path = load.options.mmproj
        self._folder = Path(load.options.slot_save_path or "/nonexistent")
        self._context = context
        self._slots, self._prefixes, self._adapters = engine.slots, engine.prefixes, engine.adapters
        self._send = send
        self._waiting: list[Call] = []

    def __repr__(self) -> str:
        return f"<SlotFiles {self._folder} {len(self._waiting)} waiting>"

    @property
    def has_work(self) -> bool:
        return bool(self._waiting)

    def submit(self, call: Call) -> None:
        self._waiting.append(call)

    def forget(self, request_id: int) -> None:
        self._waiting = [call for call in self._waiting if call.request_id != request_id]

    def step(self) -> None:
        """Answer the calls whose slot is idle."""
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            slot_id = call.params["id_slot"]
            if slot_id < len(self._slots) and self._slots.all[slot_id].is_busy:
                self._waiting.append(call)
            else:
                self._send(self._answer(call))

    def _answer(self, call: Call) -> Reply:
        slot_id, name = call.params["id_slot"], call.params.get("filename", "")
        try:
            if slot_id >= len(self._slots):
                raise InvalidRequest("Invalid slot ID")
            slot = self._slots.all[slot_id]
            act = {"slot_save": self._save, "slot_restore": self._restore, "slot_erase": self._erase}[call.method]
            return Reply(call.request_id, result={"id_slot": slot_id, **act(slot, name)})
        except OSError as error:
            return Reply(call.request_id, error=FastrouterError(f"{name}: {error.strerror or error}").to_wire())
        except FastrouterError as error:
            return Reply(call.request_id, error=error.to_wire())

    # ------------------------------------------------------------ the three actions

    def _save(self, slot: Slot, name: str) -> dict[str, Any]:
        begun = time.perf_counter()
        self._prefixes.cut(slot, min(slot.num_exact, _end_of_text(slot.tokens)))  # moved tokens are not the start of a prompt, so not saved
        part = self._folder / f".slot-{os.getpid()}-{slot.id}.part"
        try:
            written = self._context.states.write_file(str(part), slot.id, slot.tokens)
            if not written:
                raise FastrouterError(f"Unable to save slot: {name} could not be written")
            self._sign(part, slot)
            part.replace(self._folder / name)
        finally:
            with contextlib.suppress(OSError):
                part.unlink()
        return {"filename": name, "n_saved": len(slot.tokens), "n_written": written, "timings": {"save_ms": _ms_since(begun)}}

    def _restore(self, slot: Slot, name: str) -> dict[str, Any]:
        begun = time.perf_counter()
        path = self._folder / name
        try:
            if not path.is_file():
                raise InvalidRequest("there is no such file")
            with path.open("rb") as file:
                num_tokens = _count_tokens(file)
                adapters, has_pictures = self._check(file)
            tokens, read = self._read(path, slot, num_tokens, has_pictures=has_pictures)
        except InvalidRequest as error:
            raise InvalidRequest(f"Unable to restore slot: {name}: {error.message}") from None
        slot.tokens.extend(tokens)
        slot.num_in_place = count_in_place(tokens)
        slot.adapters = adapters
        return {"filename": name, "n_restored": len(tokens), "n_read": read, "timings": {"restore_ms": _ms_since(begun)}}

    def _erase(self, slot: Slot, name: str) -> dict[str, Any]:
        num_erased = len(slot.tokens)
        self._prefixes.forget(slot)
        return {"n_erased": num_erased}

    def _read(self, path: Path, slot: Slot, num_tokens: int, *, has_pictures: bool) -> tuple["array[int]", int]:
        """Into the slot's KV. Raises InvalidRequest, and then the slot is empty."""
        states = self._context.states
        if num_tokens > self._context.n_ctx_slot:
            raise InvalidRequest(f"its {num_tokens} tokens do not fit the context of a slot ({self._context.n_ctx_slot})")
        self._prefixes.make_room(slot, num_tokens)
        found = states.read_file(str(path), slot.id)
        if found is None:
            self._context.remove(slot.id)
            raise InvalidRequest("it is cut short, or from another model or llama.cpp, or larger than the free part of the KV cache")
        tokens, read = found
        is_of_model = all((token >= 0 or has_pictures) and token < self._context.n_vocab for token in tokens)
        if not is_of_model or states.span(slot.id)[1] != len(tokens) - count_in_place(tokens) - 1:
            self._context.remove(slot.id)
            raise InvalidRequest(_THEIRS if tokens[:1] == _WITH_PICTURES else "its tokens do not match its state or this model")
        return tokens, read

    # ------------------------------------------------------------ after llama.cpp's part

    @cached_property
    def _fingerprint(self) -> str:
        """Of the model's file: models with the same architecture differ only in their weights."""
        return _fingerprint_of(self._model_path)

    @cached_property
    def _projector(self) -> str:
        """The fingerprint of the projector, which has made the pictures in a slot."""
        return _fingerprint_of(self._projector_path) if self._projector_path is not None else ""

    def _sign(self, part: Path, slot: Slot) -> None:
        with part.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            names = [[os.path.basename(self._adapters.all[number].path), scale] for number, scale in slot.adapters]
            signed = {"bytes": size, "crc32": _crc32(file, size), "model": self._fingerprint, "adapters": names}
            if min(slot.tokens, default=0) < 0:
                signed["projector"] = self._projector
            content = orjson.dumps(signed)
            file.seek(size)
            file.write(content + _FOOT.pack(len(content), _OURS))

    def _check(self, file: BinaryIO) -> tuple[AdapterSet, bool]:
        """(the adapters that its KV was computed with, whether it has pictures). Raises InvalidRequest when the file is not complete or not
        of this model."""
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _FOOT.size))
        foot = file.read()
        length, magic = _FOOT.unpack(foot) if len(foot) == _FOOT.size else (0, b"")
        if magic != _OURS:  # llama-server's: it does not name adapters
            return self._adapters.resolve(None), False
        file.seek(max(0, size - _FOOT.size - length))
        signed = _read_object(file.read(length))
        if signed.get("bytes") != size - _FOOT.size - length or signed.get("crc32") != _crc32(file, signed["bytes"]):
            raise InvalidRequest("it is damaged")
        if signed.get("model") != self._fingerprint:
            raise InvalidRequest("it was saved with another model")
        if signed.get("projector", self._projector) != self._projector:
            raise InvalidRequest("it has pictures and was saved with another projector (--mmproj)")
        known = {os.path.basename(adapter.path): number for number, adapter in enumerate(self._adapters.all)}
        pairs = _pairs_of(signed)
        missing = [name for name, _ in pairs if name not in known]
        if missing:
            raise InvalidRequest(f"it was saved with the LoRA adapter {missing[0]}, which is not loaded")
        return self._adapters.resolve([[known[name], scale] for name, scale in pairs]), "projector" in signed


def _fingerprint_of(path: str) -> str:
    size = os.path.getsize(path)
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for number in range(_NUM_SAMPLES):
            file.seek(size * number // _NUM_SAMPLES)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _end_of_text(tokens: "array[int]") -> int:
    """Without the picture at the end, if there is one: it may not be complete."""
    length = len(tokens)
    while length and tokens[length - 1] < 0:
        length -= 1
    return length


def _count_tokens(file: BinaryIO) -> int:
    head = file.read(_HEAD.size)
    magic, _, num_tokens = _HEAD.unpack(head) if len(head) == _HEAD.size else (0, 0, 0)
    if magic != _MAGIC:
        raise InvalidRequest("it is not a slot file")
    return int(num_tokens)


def _read_object(text: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise InvalidRequest("it is damaged") from None
    return found if isinstance(found, dict) else {}


def _pairs_of(signed: dict[str, Any]) -> list[Any]:
    """[name, scale] of each adapter."""
    pairs = signed.get("adapters")
    if not isinstance(pairs, list) or not all(map(_is_pair, pairs)):
        raise InvalidRequest("it is damaged")
    return pairs


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and type(value[1]) in (int, float)


def _crc32(file: BinaryIO, size: int) -> int:
    """Of the first `size` bytes."""
    file.seek(0)
    value = 0
    while size > 0 and (block := file.read(min(_BLOCK_BYTES, size))):
        value = zlib.crc32(block, value)
        size -= len(block)
    return value


def _ms_since(begun: float) -> float:
    return round(1e3 * (time.perf_counter() - begun), 3)
