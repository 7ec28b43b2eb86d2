"""A preset file's sections while a scan finds their models: what is wrong with each, and which are variants of another model.

Never imports: catalog.header_cache, catalog.gguf. Invariant: a mistake is reported for its own section, never for another one; a section
with a mistake is a model that cannot be used, with the reason.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from fastrouter.catalog.projector_address import read_address
from fastrouter.catalog.sources import stat_of
from fastrouter.catalog.spec import ModelSpec
from fastrouter.catalog.variants import adapters_of, chain_of, check_variant, defaults_of
from fastrouter.config.flag import Layer
from fastrouter.config.forms import check_file, to_section
from fastrouter.config.layers import merge
from fastrouter.config.presets import Presets
from fastrouter.errors import ConfigError
from fastrouter.system.near_names import did_you_mean

Find = Callable[[str], str | None]  # name -> the id of its model


class Sections:
    def __init__(self, presets: Presets, hubs: Sequence[str] = ()) -> None:
        """`hubs`: their addresses."""
        self._presets = presets
        self._hubs = hubs
        self.faults = {name: list(found) for name, found in presets.faults.items()}
        self.variants = {name: layer for name, layer in presets.sections.items() if "base" in layer}
        self.models = {name: layer for name, layer in presets.sections.items() if "base" not in layer}
        self._chains: dict[str, list[str]] = {}  # of each variant: itself, its base, the base's base, ... and the model at the end
        self._means: dict[str, str] = {}  # models by the names that no other model may have
        self.where = presets.where

    @contextlib.contextmanager
    def noting_faults(self, name: str) -> Iterator[None]:
        """A mistake in one section must not hide the mistakes of the next one."""
        try:
            yield
        except ConfigError as problem:
            self.note(name, problem)

    def note(self, name: str, problem: ConfigError) -> None:
        """`problem` contains the place, or it is about the whole section."""
        is_located = problem.message.startswith(f"{self._presets.path_of(name)}:")
        self.faults.setdefault(name, []).append(problem.message if is_located else f"{self.where(name)}: {problem.message}")

    def check_source(self, name: str, names: Iterable[str], *, is_known: bool) -> None:
        """Raises ConfigError unless the section's file is clear. `is_known`: the section has the name of an existing model."""
        where, layer = self.where(name), self.models[name]
        if "mmproj" in layer:
            check_file(layer["mmproj"].value, f"{self.where(name, 'mmproj')} mmproj {layer['mmproj'].value}")
        if "mmproj_url" in layer:
            read_address(layer["mmproj_url"].value, f"{self.where(name, 'mmproj_url')} mmproj-url", *self._hubs)
        if "hf_file" in layer and "hf_repo" not in layer:
            raise ConfigError(f"{self.where(name, 'hf_file')} hf-file: hf-repo is missing")
        if "model" in layer and "hf_repo" in layer:
            raise ConfigError(f"{where}: model and hf-repo both name its file; give one of them")
        if not is_known and "model" not in layer and "hf_repo" not in layer:
            way_out = "name its file with `model = PATH` or `hf-repo = user/repo:quant`"
            raise ConfigError(f"{where}: there is no such model{did_you_mean(name, names)}; {way_out}")

    # ------------------------------------------------------------ variants

    def choose_bases(self, find: Find, names: Iterable[str], taken: Mapping[str, object]) -> dict[str, list[str]]:
        """The adapters that each model loads for its variants. `taken`: the ids of existing models; `find` knows all of `names`."""
        bases: dict[str, str] = {}
        for name, layer in self.variants.items():
            with self.noting_faults(name):
                check_variant(layer, lambda target, name=name: self.where(name, target))  # type: ignore[misc]
                bases[name] = self._base_of(name, str(layer["base"].value), find, names)
                if name in taken:
                    raise ConfigError(f"{self.where(name, 'base')} base: {name} is already the name of another model")
        adapters: dict[str, list[str]] = {}
        for name in bases:
            with self.noting_faults(name):
                chain = self._chains[name] = chain_of(name, bases, self.where(name, "base"))
                if chain[-1] in taken:  # otherwise its section has a fault already
                    adapters.setdefault(chain[-1], []).extend(adapters_of(self._layer_of(name)))
        return adapters

    def _base_of(self, name: str, base: str, find: Find, names: Iterable[str]) -> str:
        found = base if base in self._presets.sections else find(base)
        if found is None:
            near = did_you_mean(base, [*self._presets.sections, *names])
            raise ConfigError(f"{self.where(name, 'base')} base = {base}: there is no such model{near}")
        return found

    def _layer_of(self, variant: str) -> Layer:
        """The settings of a section and of its bases."""
        return merge(*(self.variants[link] for link in self._chains[variant][-2::-1]))

    def make_variants(self, models: Mapping[str, ModelSpec], command_line: Layer) -> dict[str, ModelSpec]:
        """Each is its base under another name, with other defaults for its requests."""
        made: dict[str, ModelSpec] = {}
        for name, chain in self._chains.items():
            if chain[-1] not in models:
                continue
            with self.noting_faults(name):
                made[name] = self._to_variant(name, models[chain[-1]], self._layer_of(name), command_line)
        return made

    def _to_variant(self, name: str, base: ModelSpec, section: Layer, command_line: Layer) -> ModelSpec:
        own = self.variants[name]
        return replace(
            base,
            id=name,
            aliases=tuple(alias for alias in (own["aliases"].value if "aliases" in own else ()) if alias != name),
            tags=tuple(own["tags"].value) if "tags" in own else base.tags,
            source="preset",
            spellings=(),
            can_remove=False,
            preset=to_section(name, own),
            load_on_startup="load_on_startup" in own and own["load_on_startup"].value,
            defaults=defaults_of(section, command_line, base.defaults, [path for path, _ in base.options.lora]),
            base=base,
        )

    # ------------------------------------------------------------ what is wrong

    def note_clashes(self, models: Mapping[str, ModelSpec]) -> list[str]:
        """When an alias already means another model, the section that is further down in the file has the fault. Returns the problems that
        belong to no section."""
        sections = self._presets.sections
        self._means = {name: name for name in (*models, *sections)}
        problems: list[str] = []
        for name in (*(name for name in models if name not in sections), *(name for name in sections if name in models)):
            for alias in models[name].aliases:
                known = self._means.setdefault(alias, name)
                problem = f"the alias {alias} of {name} already means {known}; choose another one"
                if known != name and name in sections:
                    self.note(name, ConfigError(f"{self.where(name, 'aliases')}: {problem}"))
                elif known != name:
                    problems.append(problem)
        return problems

    def note_broken_bases(self) -> None:
        for name, (_, *bases) in self._chains.items():
            broken = next((base for base in bases if base in self.faults), None)
            if broken is not None and name not in self.faults:
                self.note(name, ConfigError(f"{self.where(name, 'base')} base: {broken} cannot be used ({self.faults[broken][0]})"))

    def all_that_is_wrong(self, models: Mapping[str, ModelSpec]) -> list[str]:
        """All that keeps the sections' models from being loaded, in the order of the file."""
        wrong = []
        for name in self._presets.sections:
            if self._presets.is_created(name):
                continue  # its user cannot change the file
            spec = models[name]
            if spec.wanted is None and spec.error is not None:
                wrong += self.faults.get(name) or [f"{self.where(name)}: {spec.error}"]
        return wrong

    def to_broken(self, made: ModelSpec, was: ModelSpec | None) -> ModelSpec:
        """The listing's entry of a section with mistakes; `made`: all that could be made of it. A running process continues with what it
        was started with, as long as its file is the same."""
        why, section = "; ".join(self.faults[made.id]), self._presets.sections[made.id]
        aliases = (*made.aliases, *(section["aliases"].value if "aliases" in section else ()))
        broken = replace(
            made,
            aliases=tuple(dict.fromkeys(alias for alias in aliases if self._means.get(alias, made.id) == made.id)),
            source="preset",
            preset=to_section(made.id, section),
            can_remove=False,
            load_on_startup=False,
            wanted=None,
            base=None,
            error=why,
            fault=why,
            files=(*made.files, *(missing := self._presets.missing.get(made.id, ()))),
            states=(*made.states, *map(stat_of, missing)),
        )
        if was is None or was.base is not None or not _is_same_file(made, was):
            return broken
        return replace(broken, options=was.options, defaults=was.defaults, fingerprint=was.fingerprint)


def _is_same_file(one: ModelSpec, other: ModelSpec) -> bool:
    """Both have the same path and, with all shards, the same size and time."""
    return (one.path, one.size_bytes, one.created, one.mmproj) == (other.path, other.size_bytes, other.created, other.mmproj)
