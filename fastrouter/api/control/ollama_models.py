"""Ollama's create, copy and blobs: models that clients make, see catalog/created.py.

Invariant: a name that is already there for another reason is never taken. What was made is removed again if it cannot be used.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from fastrouter._core import Request
from fastrouter.api.models.access import Models
from fastrouter.api.models.lines import LineStream
from fastrouter.api.requests.bodies import parse_object
from fastrouter.api.requests.checks import boolean, invalid, string
from fastrouter.api.requests.ollama_create import NewModel, new_name, read_create
from fastrouter.catalog.created import CreatedModels
from fastrouter.catalog.spec import ModelSpec
from fastrouter.config.config import Config
from fastrouter.config.forms import to_section
from fastrouter.config.preset_values import write_value
from fastrouter.errors import InvalidRequest, ModelNotFound, NotFound
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import Response, encode_json


class OllamaModels:
    """The routes."""

    def __init__(self, models: Models, config: Config) -> None:
        self._models = models
        self._created = CreatedModels(config.created_dir)
        self._config = config

    async def create(self, request: Request, exchange: Exchange) -> Response | None:
        body = parse_object(request)
        new = read_create(body)
        is_stream = boolean("stream", body["stream"]) if body.get("stream") is not None else True
        self._check_free(request, new.name)
        base = self._base(request, new.base) if new.base else None
        lines = await asyncio.to_thread(self._lines_of, new, base)
        await self._make(new.name, lines)
        return await _tell(exchange, [*new.notes, "writing manifest", "success"], is_stream=is_stream)

    async def copy(self, request: Request, exchange: Exchange) -> Response:
        body = parse_object(request)
        source = self._base(request, string("source", body.get("source")))
        name = new_name("destination", body.get("destination"))
        self._check_free(request, name)
        lines = await asyncio.to_thread(self._created.section, source.id)
        await self._make(name, _line("base", source.id) if lines is None else lines)
        return encode_json({})

    def blob(self, request: Request, exchange: Exchange) -> Response:
        """HEAD /api/blobs/sha256:...: whether the file is here."""
        if self._created.blob(_digest_in(request)) is None:
            raise NotFound("there is no uploaded file with this digest")
        return Response(200)

    # ------------------------------------------------------------ names

    def _check_free(self, request: Request, name: str) -> None:
        if self._config.has_one_model:
            raise InvalidRequest("this server has one model: start it with --models-dir or --models-preset to have others")
        if not self._models.may_see_id(request.caller, name):
            raise InvalidRequest(f"this key may not make a model with the name '{name}'")
        spec = self._models.lookup(name)
        if spec is not None and spec.source != "created":
            raise InvalidRequest(f"'{name}' is already the name of the model '{spec.id}', which was not made here: choose another name")

    def _base(self, request: Request, name: str) -> ModelSpec:
        for spelling in dict.fromkeys((name, name.removesuffix(":latest"))):
            try:
                return self._models.find(spelling, request.caller)
            except ModelNotFound as error:
                problem = error
        raise problem

    # ------------------------------------------------------------ the section

    def _lines_of(self, new: NewModel, base: ModelSpec | None) -> str:
        """Blocks: texts are written to files of their own."""
        lines = [_line("base", base.id) if base is not None else _line("model", self._file(new.file))]
        lines.append(to_section("", {setting.flag.target: setting for setting in new.settings}).partition("\n")[2])
        lines += [_line("lora", f'"{self._file(digest)}"', keeps_quotes=True) for digest in new.adapters]
        texts = {"system-prompt-file": new.system, "chat-template-file": new.template, "messages-file": new.messages}
        lines += [_line(key, str(self._created.keep_text(text))) for key, text in texts.items() if text]
        return "".join(lines)

    def _file(self, digest: str) -> str:
        path = self._created.blob(digest)
        if path is None:
            raise InvalidRequest(f"there is no uploaded file {digest[:100]}: upload it with POST /api/blobs/{digest[:100]} first")
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise invalid("files", "must name a GGUF file: convert others with llama.cpp's convert_hf_to_gguf.py")
        return str(path)

    async def _make(self, name: str, lines: str) -> None:
        """Raises InvalidRequest if the model cannot be used; then all is as it was."""
        before = await asyncio.to_thread(self._created.section, name)
        await asyncio.to_thread(self._created.put, name, lines)
        await self._models.reload()
        spec = self._models.lookup(name)
        problem = "it is not in the listing" if spec is None or spec.id != name else spec.error
        if problem is None:
            await asyncio.to_thread(self._created.remove_unused, before or "")
            return
        await asyncio.to_thread(self._restore(name, before))
        await asyncio.to_thread(self._created.remove_unused, lines)
        await self._models.reload()
        raise InvalidRequest(f"model '{name}' cannot be made: {problem}")

    def _restore(self, name: str, before: str | None) -> Callable[[], object]:
        return (lambda: self._created.remove(name)) if before is None else (lambda: self._created.put(name, before))


def _line(key: str, value: str, *, keeps_quotes: bool = False) -> str:
    return f"{key} = {write_value(value, keeps_quotes=keeps_quotes)}\n"


def _digest_in(request: Request) -> str:
    return request.path.partition("/api/blobs/")[2]


async def _tell(exchange: Exchange, statuses: Iterable[str], *, is_stream: bool) -> Response | None:
    """The lines of an answer, or only the last one."""
    lines: list[dict[str, Any]] = [{"status": status} for status in statuses]
    if not is_stream:
        return encode_json(lines[-1])

    async def each() -> AsyncIterator[dict[str, Any]]:
        for line in lines:
            yield line

    LineStream(exchange, each())
    return None
