"""ModelSpec: a model with all its settings, as the catalog makes it and all other code uses it."""

from dataclasses import dataclass, field
from typing import Any

from fastrouter.catalog.capabilities import TemplateFeatures
from fastrouter.catalog.gguf import Header
from fastrouter.catalog.sources import Wanted
from fastrouter.catalog.variants import NO_DEFAULTS, RequestDefaults
from fastrouter.options.load import LoadOptions


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model with all its settings. Equal specs are loaded in the same way."""

    id: str
    aliases: tuple[str, ...]
    tags: tuple[str, ...]
    path: str  # the first shard
    mmproj: str | None
    options: LoadOptions = field(hash=False)
    source: str  # models_dir | cache | preset | created | file: the one that --model names
    args: tuple[str, ...]
    preset: str | None  # the text of its section
    created: int  # seconds since 1970
    can_remove: bool
    load_on_startup: bool
    stop_timeout_s: float
    size_bytes: int  # of the files of all shards
    header: Header | None
    error: str | None  # why it cannot be loaded
    fingerprint: tuple[Any, ...] = field(hash=False)  # changes when a running model no longer matches its source
    files: tuple[str, ...] = ()  # all that its process reads, and missing shards
    states: tuple[tuple[int, int, int], ...] = ()  # the state of these files, see stat_of
    spellings: tuple[str, ...] = ()  # its other names in addition to the id and the aliases
    draft: Header | None = None  # of the smaller model that guesses for it
    fault: str | None = None  # what is wrong with its section of the preset file; then it is its `error` too
    is_pinned: bool = False  # never evicted
    ttl_s: float | None = None  # idle seconds until it is unloaded; None: never
    sleep_idle_s: float | None = None  # idle seconds until it sleeps; None: never
    min_resident_s: float = 0.0  # it is not evicted for this long after a load
    load_timeout_s: float = 600.0  # 0: no limit
    defaults: RequestDefaults = field(default=NO_DEFAULTS, hash=False)  # what its requests use when they set nothing
    wanted: Wanted | None = None  # it must be downloaded first
    is_listed: bool = True  # False: only its section is listed
    base: "ModelSpec | None" = None  # of a variant: the model whose process it uses
    template: TemplateFeatures | None = None
    capabilities: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ("text",)  # what its requests may contain
    is_unusual: bool = False  # `error` says what our reader does not understand; llama.cpp may still load it

    @property
    def can_be_tried(self) -> bool:
        """False: it is known, without a worker, that it cannot be loaded."""
        return self.fault is None and (self.error is None or self.is_unusual)

    @property
    def has_template(self) -> bool:
        """It was made for chats, or has been given a template."""
        return self.template is not None

    @property
    def runner(self) -> "ModelSpec":
        """The model whose process answers."""
        return self.base or self
