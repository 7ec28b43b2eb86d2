"""ModelSpec: a model resolved, as the catalog makes it and all others use it. Must never know where it was found."""

from dataclasses import dataclass, field
from typing import Any

from fastrouter.catalog.capabilities import TemplateFeatures
from fastrouter.catalog.gguf import Header
from fastrouter.catalog.sources import Wanted
from fastrouter.catalog.variants import NO_DEFAULTS, RequestDefaults
from fastrouter.options.load import LoadOptions


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model resolved. Equal specs load equally."""

    id: str
    aliases: tuple[str, ...]
    tags: tuple[str, ...]
    path: str  # first shard
    mmproj: str | None
    options: LoadOptions = field(hash=False)
    source: str  # models_dir | cache | preset | file: the one that --model names
    args: tuple[str, ...]
    preset: str | None  # its section's text
    created: int  # seconds since 1970
    can_remove: bool
    load_on_startup: bool
    stop_timeout_s: float
    size_bytes: int  # of all shards' files
    header: Header | None
    error: str | None  # why it cannot be loaded
    fingerprint: tuple[Any, ...] = field(hash=False)  # changes when a running model is no longer what its source says
    files: tuple[str, ...] = ()  # all that its process reads, and shards that are not there
    states: tuple[tuple[int, int, int], ...] = ()  # of these files, as stat_of says
    spellings: tuple[str, ...] = ()  # names that mean it beside its id and its aliases
    draft: Header | None = None  # of the smaller model that guesses for it
    fault: str | None = None  # what is wrong with its preset's section; then that is its `error`, too
    is_pinned: bool = False  # never evicted
    ttl_s: float | None = None  # idle until it is unloaded; None: never
    sleep_idle_s: float | None = None  # idle until it sleeps; None: never
    min_resident_s: float = 0.0  # after a load it is not made to leave for so long
    load_timeout_s: float = 600.0  # 0: none
    defaults: RequestDefaults = field(default=NO_DEFAULTS, hash=False)  # what its requests get where they say nothing
    wanted: Wanted | None = None  # it has to be downloaded first
    is_listed: bool = True  # False: only a preset's name is shown for it
    base: "ModelSpec | None" = None  # a variant: the model whose process it shares
    template: TemplateFeatures | None = None
    capabilities: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ("text",)  # that its requests may hold
    is_unusual: bool = False  # `error` is what our reader does not know; llama.cpp has the last word

    @property
    def can_be_tried(self) -> bool:
        """False: no worker needs to open it to know that it cannot be loaded."""
        return self.fault is None and (self.error is None or self.is_unusual)

    @property
    def has_template(self) -> bool:
        """It was made for chats, or has been given a template."""
        return self.template is not None

    @property
    def runner(self) -> "ModelSpec":
        """The model whose process answers."""
        return self.base or self
