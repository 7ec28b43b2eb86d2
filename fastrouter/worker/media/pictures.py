"""The pictures and audio of one model: files become tokens and places in a prompt; a thread computes embeddings while the model's loop
continues. Audio is like pictures here: each half minute of it is one.

Never imports: worker.kv, worker.text. Invariant: a picture is computed once at a time, and its embeddings stay until newer ones need their
place. The tokens of a picture are negative and come from a hash of its file, so equal prompts are equal lists of tokens.
"""

from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastrouter.errors import CannotHear, CannotSee, FastrouterError, InvalidRequest
from fastrouter.ipc.frames import read_frames
from fastrouter.options.limits import KEPT_PICTURES_BYTES
from fastrouter.worker.llama.picture_tokens import tokens_of
from fastrouter.worker.llama.projector import BrokenFile, Embeddings, Part, PictureChunk, Projector
from fastrouter.worker.media import audio_files, picture_files, webp

AUDIO, VIDEO = "audio", "video"  # kinds of files; a file without a kind is a picture

Key = tuple[str, int]


class GivenFile(NamedTuple):
    """`name`: of its field."""

    name: str
    content: bytes
    kind: str = ""

    @property
    def noun(self) -> str:
        return {AUDIO: "audio", VIDEO: "a video"}.get(self.kind, "a picture")


class PlacedPicture(NamedTuple):
    """Tokens [start, end) of a prompt are this picture."""

    start: int
    end: int
    chunk: PictureChunk


def tokens_of_each(placed: Sequence[PlacedPicture], num_files: int) -> list[int]:
    """How many tokens each of the files has in a prompt, in their order. Empty: files that are cut into parts cannot be told apart."""
    if len(placed) == num_files:
        return [picture.end - picture.start for picture in placed]
    found: dict[str, int] = {}
    for picture in placed:
        found[picture.chunk.key[0]] = found.get(picture.chunk.key[0], 0) + picture.end - picture.start
    return list(found.values()) if len(found) == num_files else []


class Pictures:
    """For one projector. `wake` is called in another thread when a picture is ready."""

    def __init__(self, projector: Projector, most_at_once: int, wake: Callable[[], None] = lambda: None) -> None:
        """`most_at_once`: tokens that the context can compute together."""
        self._projector = projector
        self._most_at_once = most_at_once
        self._wake = wake
        self._kept: OrderedDict[Key, Embeddings] = OrderedDict()  # the least recently used first
        self._coming: dict[Key, Future[Embeddings]] = {}
        self._thread: ThreadPoolExecutor | None = None  # a spare forks, so it has no threads
        self.num_encoded = 0

    def __repr__(self) -> str:
        return f"<Pictures {len(self._kept)} kept, {len(self._coming)} coming>"

    # ------------------------------------------------------------ files -> tokens

    def read(
        self, parts: Sequence[str | int], files: Sequence[GivenFile], *, is_counted: bool = False
    ) -> tuple["array[int]", list[PlacedPicture]]:
        """`parts`: texts, and for each file its index in `files`. `is_counted`: only the number of tokens is right. Takes long. Raises
        InvalidRequest."""
        read, shown = list[Part](), list[GivenFile]()  # `shown`: of each picture, its file
        for part in parts:
            found = [part] if isinstance(part, str) else self._parts_of(files[part])
            read += found
            shown += [files[part] for one in found if not isinstance(one, str) and isinstance(part, int)]
        try:
            chunks = self._projector.read(read, is_counted=is_counted)
        except BrokenFile as error:
            file = shown[error.index]
            problem = error.message or f"is {file.noun} that cannot be decoded: its file is broken or cut short"
            raise InvalidRequest(f"field '{file.name}' {problem}") from None
        return self._place(chunks)

    def _parts_of(self, file: GivenFile) -> list[Part]:
        """It is checked before anything is decoded."""
        if not (self._projector.hears if file.kind == AUDIO else self._projector.sees):
            raise CannotHear if file.kind == AUDIO else CannotSee
        try:
            if file.kind == VIDEO:
                return list(read_frames(file.content))
            if file.kind != AUDIO:
                return [_readable(file.content)]
            audio_files.check(file.content)
        except ValueError as problem:
            raise InvalidRequest(f"field '{file.name}' {problem}") from None
        return [file.content]

    def _place(self, chunks: Iterable[PictureChunk | array]) -> tuple["array[int]", list[PlacedPicture]]:  # type: ignore[type-arg]
        tokens, placed = array("i"), []
        for chunk in chunks:
            if isinstance(chunk, PictureChunk):
                if not chunk.is_causal and chunk.num_tokens > self._most_at_once:
                    raise InvalidRequest(
                        f"a picture has {chunk.num_tokens} tokens that must be computed together, but at most {self._most_at_once} can be: "
                        f"load the model with --ubatch-size {chunk.num_tokens}"
                    )
                placed.append(PlacedPicture(len(tokens), len(tokens) + chunk.num_tokens, chunk))
                tokens.extend(tokens_of(chunk.key, chunk.num_tokens, chunk.num_positions))
            else:
                tokens.extend(chunk)
        return tokens, placed

    # ------------------------------------------------------------ embeddings

    def positions(self, chunk: PictureChunk, first_pos: int) -> NDArray[np.int32]:
        """See Projector.positions."""
        return self._projector.positions(chunk, first_pos)

    @property
    def is_encoding(self) -> bool:
        return any(not future.done() for future in self._coming.values())

    def get(self, chunk: PictureChunk) -> Embeddings | None:
        """None: they are being computed. Raises FastrouterError."""
        kept = self._kept.get(chunk.key)
        if kept is not None:
            self._kept.move_to_end(chunk.key)
            return kept
        coming = self._coming.get(chunk.key)
        if coming is None:
            self._start(chunk)
            return None
        if not coming.done():
            return None
        del self._coming[chunk.key]
        try:
            found = coming.result()
        except FastrouterError:
            raise
        except Exception as error:  # any error: it must cost one request, not the worker
            raise FastrouterError(f"a picture could not be computed: {type(error).__name__}: {error}") from error
        self._keep(chunk.key, found)
        return found

    def _start(self, chunk: PictureChunk) -> None:
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="encoder")
        future = self._coming[chunk.key] = self._thread.submit(self._projector.encode, chunk)
        future.add_done_callback(lambda _: self._wake())
        self.num_encoded += 1

    def _keep(self, key: Key, found: Embeddings) -> None:
        self._kept[key] = found
        while len(self._kept) > 1 and sum(one.nbytes for one in self._kept.values()) > KEPT_PICTURES_BYTES:
            self._kept.popitem(last=False)

    def forget_all_but(self, wanted: set[Key]) -> None:
        """No one needs the other pictures that are coming: those that were not begun are not computed."""
        for key in [key for key in self._coming if key not in wanted]:
            future = self._coming[key]
            if future.cancel():
                del self._coming[key]
            elif future.done():
                del self._coming[key]
                if future.exception() is None:
                    self._keep(key, future.result())

    def close(self) -> None:
        """Waits for the picture that is being computed."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
        self._projector.close()


def _readable(file: bytes) -> bytes:
    """A file that libmtmd decodes. Raises ValueError."""
    picture_files.check(file)
    if not picture_files.is_webp(file):
        return file
    if not webp.is_installed():
        raise ValueError("is WebP, which this server cannot decode: install fastrouter[webp], or send PNG or JPEG")
    return webp.to_bmp(file)
