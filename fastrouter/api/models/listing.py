"""The listing's entry of each model, and its bytes. Never imports: api.serving, api.flavours.

Invariant: bytes are made again only after the catalog or a model's state has changed, and then only for models with a state. For ten
thousand other models, the event loop only does one join.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

import orjson

from fastrouter.catalog.capabilities import facts
from fastrouter.catalog.catalog import Catalog
from fastrouter.catalog.spec import ModelSpec
from fastrouter.http.response import Rendered, json_response
from fastrouter.hub.downloads import Download, Downloads
from fastrouter.supervisor.managed_model import UNLOADED, ModelStatus
from fastrouter.supervisor.supervisor import Supervisor

META_FIELDS = ("vocab_type", "n_vocab", "n_ctx", "n_ctx_train", "n_embd", "n_params", "size", "ftype", "cpu")
MAX_ENCODED_AT_ONCE = 100  # models, some 10 us each; more are encoded in a thread

Patterns = tuple[str, ...] | None  # of the keys that may see a listing; None: all models
CanSee = Callable[[str], bool]  # by id


class Listing:
    def __init__(self, catalog: Catalog, supervisor: Supervisor, downloads: Downloads) -> None:
        self._catalog = catalog
        self._supervisor = supervisor
        self._downloads = downloads
        self._whole: dict[Patterns, Rendered] = {}
        self._version = -1
        self._plain: dict[str, tuple[ModelSpec, bytes]] = {}  # entries of models without a state

    def forget(self) -> None:
        """A model's state has changed."""
        self._whole.clear()

    def get(self, patterns: Patterns, can_see: CanSee) -> Rendered | Coroutine[Any, Any, Rendered]:
        """The answer, or a coroutine if it takes longer."""
        if self._version != self._catalog.version:
            self._whole.clear()
        whole = self._whole.get(patterns)
        if whole is not None:
            return whole
        missing = self._not_encoded()
        if len(missing) > MAX_ENCODED_AT_ONCE:
            return self._get_from_thread(patterns, can_see)
        self._plain.update(_encode_all(missing))
        return self._join(patterns, can_see)

    def describe(self, spec: ModelSpec) -> dict[str, Any]:
        """One entry with the current state."""
        runner_id = spec.runner.id
        entry = describe(spec, self._supervisor.status(runner_id))
        num_parked, num_bytes = self._supervisor.parking.held(runner_id)
        if num_parked:
            entry["parked"] = {"entries": num_parked, "bytes": num_bytes}
        status, download = entry["status"], self._downloads.find(runner_id)
        failure = self._downloads.failure_of(runner_id) if spec.wanted is not None else None
        if download is not None:
            status.update(value="downloading", progress=download.files)
            status.pop("error", None)
        elif failure is not None:
            status.update(failed=True, exit_code=None, error=failure.message)
        return entry

    async def _get_from_thread(self, patterns: Patterns, can_see: CanSee) -> Rendered:
        while missing := self._not_encoded():  # again, if there was a reload meanwhile
            self._plain.update(await asyncio.get_running_loop().run_in_executor(None, _encode_all, missing))
        return self._join(patterns, can_see)

    def _not_encoded(self) -> Sequence[ModelSpec]:
        known = self._plain
        return [spec for spec in self._catalog.models() if spec.id not in known or known[spec.id][0] is not spec]

    def _join(self, patterns: Patterns, can_see: CanSee) -> Rendered:
        models = self._catalog.models()
        downloads = {download.name: download for download in self._downloads.all()}
        parked = self._supervisor.parking.model_ids()
        parts = {
            spec.id: self._encode(spec, downloads, parked) for spec in models if spec.is_listed and (patterns is None or can_see(spec.id))
        }
        coming = [name for name in downloads if self._catalog.get(name) is None and can_see(name)]
        parts |= {name: orjson.dumps(describe_download(downloads[name])) for name in coming}
        if coming:
            parts = dict(sorted(parts.items()))
        if self._version != self._catalog.version:
            self._version = self._catalog.version
            self._whole.clear()
            for model_id in self._plain.keys() - {spec.id for spec in models}:
                del self._plain[model_id]
        sees = {spec.id: "image" in spec.modalities for spec in models}
        shown = [] if self._catalog.only is None else [_ollama_entry(name, sees=sees.get(name, False)) for name in parts]
        head = b'{"models":' + orjson.dumps(shown)  # Codex needs a list here, and uses its own if it is empty
        body = head + b',"object":"list","data":[' + b",".join(parts.values()) + b"]}"
        whole = self._whole[patterns] = Rendered.of(json_response(body))
        return whole

    def _encode(self, spec: ModelSpec, downloads: dict[str, Download], parked: set[str]) -> bytes:
        runner = spec.runner
        has_more = runner.wanted is not None or runner.id in downloads or runner.id in parked
        is_plain = not has_more and self._supervisor.status(runner.id) is UNLOADED
        return self._plain[spec.id][1] if is_plain else orjson.dumps(self.describe(spec))


def describe(spec: ModelSpec, state: ModelStatus) -> dict[str, Any]:
    """One entry of the listing, without downloads."""
    status: dict[str, Any] = {"value": state.value, "args": list(spec.args)}
    if spec.preset:
        status["preset"] = spec.preset
    if state.failed or (spec.fault is not None and state.value == "unloaded"):
        status.update(failed=True, exit_code=state.exit_code)
    error = spec.fault or state.error or spec.error
    if error:
        status["error"] = error
    if state.log:
        status["log"] = list(state.log)
    if state.value == "loading" and state.progress is not None:
        status["progress"] = state.progress
    if spec.base is not None:
        status["base"] = spec.base.id
    return {
        "id": spec.id,
        "aliases": [*spec.aliases, *spec.spellings],
        "spellings": list(spec.spellings),  # aliases that were not set by a user
        "tags": list(spec.tags),
        "object": "model",
        "owned_by": "llamacpp",
        "created": spec.created,
        "status": status,
        "architecture": {"input_modalities": list(spec.modalities), "output_modalities": ["text"], **_picture_size(spec)},
        "details": {"format": "gguf", "family": spec.header.architecture if spec.header is not None else None},
        "capabilities": list(spec.capabilities),
        "chat_template": spec.has_template,
        "chat_template_caps": spec.template.to_json() if spec.template is not None else None,
        "source": spec.source,
        "can_remove": spec.can_remove,
        "meta": _meta_of(spec, state.meta),
    }


def _picture_size(spec: ModelSpec) -> dict[str, int]:
    """For clients that make a picture smaller before they send it."""
    size = spec.projector.image_size if spec.projector is not None and "image" in spec.modalities else None
    return {} if size is None else {"image_size": size}


def _ollama_entry(name: str, *, sees: bool) -> dict[str, Any]:
    """The `models` that llama-server adds to the listing when it has one model: Ollama's shape, mostly empty."""
    details = {"parent_model": "", "format": "gguf", "family": "", "families": [""], "parameter_size": "", "quantization_level": ""}
    shown: dict[str, Any] = {"name": name, "model": name, "modified_at": "", "size": "", "digest": "", "type": "model"}
    abilities = ["completion", *(["multimodal"] if sees else [])]
    return {**shown, "description": "", "tags": [""], "capabilities": abilities, "parameters": "", "details": details}


def describe_download(download: Download) -> dict[str, Any]:
    """A model that is not in a cache yet, in the same shape as the others."""
    return {
        "id": download.name,
        "aliases": [],
        "tags": [],
        "object": "model",
        "owned_by": "llamacpp",
        "created": 0,
        "status": {"value": "downloading", "args": [], "progress": download.files},
        "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
        "source": "cache",
        "can_remove": True,
        "meta": None,
    }


def _meta_of(spec: ModelSpec, loaded: dict[str, Any] | None) -> dict[str, Any] | None:
    """The data of the loaded model replaces the data from its file's header."""
    known = facts(spec.header, spec.options) if spec.header is not None else {}
    known |= {name: loaded[name] for name in META_FIELDS if name in loaded} if loaded else {}
    return known or None


def _encode_all(specs: Iterable[ModelSpec]) -> dict[str, tuple[ModelSpec, bytes]]:
    return {spec.id: (spec, orjson.dumps(describe(spec, UNLOADED))) for spec in specs}
