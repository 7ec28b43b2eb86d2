"""Which models there are: folders, caches, presets and --model -> ModelSpec by id, alias or spelling. Must never know what is loaded.

Invariant: names resolve through a table made by the scan, never through the file system, so no request can reach a file by its path.
A reload is all or nothing; a model that cannot be loaded stays listed with its error.
"""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from fastrouter.config import Config, Layer, Presets, load_options, merge, read_presets, to_arguments, to_section
from fastrouter.errors import ConfigError, InvalidRequest
from fastrouter.flag_table import Scope
from fastrouter.gguf import FileGroup, GgufError, Header, group_files, is_gguf, is_shard, read_header
from fastrouter.messages import LoadOptions
from fastrouter.sources import Found, Wanted, has_quant, parse_name, printable, scan_cache, scan_folder
from fastrouter.variants import NO_DEFAULTS, RequestDefaults, adapters_of, chain_of, check_variant, defaults_of, system_of


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model resolved. Equal specs load equally."""

    id: str
    aliases: tuple[str, ...]
    tags: tuple[str, ...]
    path: str  # first shard
    mmproj: str | None
    options: LoadOptions = field(hash=False)
    source: str  # models_dir | cache | preset
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
    is_pinned: bool = False  # never evicted
    ttl_s: float | None = None  # idle until it is unloaded; None: never
    sleep_idle_s: float | None = None  # idle until it sleeps; None: never
    min_resident_s: float = 0.0  # after a load it is not made to leave for so long
    load_timeout_s: float = 600.0  # 0: none
    defaults: RequestDefaults = field(default=NO_DEFAULTS, hash=False)  # what its requests get where they say nothing
    wanted: Wanted | None = None  # it has to be downloaded first
    base: "ModelSpec | None" = None  # a variant: the model whose process it shares

    @property
    def runner(self) -> "ModelSpec":
        """The model whose process answers."""
        return self.base or self


# ---------------------------------------------------------------- the catalog


class Catalog:
    def __init__(self, config: Config) -> None:
        """Raises ConfigError."""
        self._config = config
        self._models: dict[str, ModelSpec] = {}
        self._names: dict[str, str] = {}
        self._default_id: str | None = None
        self.version = 0
        self.reload()

    def __repr__(self) -> str:
        return f"<Catalog {len(self._models)} models, version {self.version}>"

    def get(self, name: str) -> ModelSpec | None:
        """By id, alias or spelling; the quant of `user/repo:quant` in any case."""
        model_id = _look_up(self._names, name)
        return self._models[model_id] if model_id is not None else None

    def models(self) -> list[ModelSpec]:
        return list(self._models.values())

    @property
    def default(self) -> ModelSpec | None:
        return self._models.get(self._default_id) if self._default_id is not None else None

    def reload(self) -> list[str]:
        """Scan again; the ids whose source changed or vanished. On ConfigError everything stays as it was."""
        scan = _Scan(self._config)
        fingerprints = {spec.id: spec.fingerprint for spec in scan.models.values()}
        changed = [model_id for model_id, spec in self._models.items() if fingerprints.get(model_id) != spec.fingerprint]
        if scan.models != self._models or scan.names != self._names or self.version == 0:
            self.version += 1
        self._models, self._names, self._default_id = scan.models, scan.names, scan.default_id
        return changed


def _look_up(names: dict[str, str], name: str) -> str | None:
    repo, colon, quant = name.rpartition(":")
    return names.get(name) or (names.get(f"{repo}:{quant.upper()}") if colon else None)


class _Scan:
    """One pass over all sources; what it holds becomes the catalog only as a whole."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._cached: list[Found] = []
        self._presets = read_presets(config.models_preset) if config.models_preset else Presets()
        self._found: dict[str, Found] = {}
        self._sections: dict[str, Layer] = {}  # by model id
        self._section_names: dict[str, str] = {}
        self._variants = {name: layer for name, layer in self._presets.sections.items() if "base" in layer}
        self.default_id: str | None = None
        self._find()
        self._choose_default()
        self._match_sections()
        self._plain_layer = self._layer_of({})
        self._plain_options = load_options(self._plain_layer)
        self.models = {found.id: self._to_spec(found) for found in self._found.values()}
        self.models |= self._make_variants()
        self.models = dict(sorted(self.models.items()))
        self.names = self._name_all()

    def _find(self) -> None:
        config = self._config
        if config.models_dir is not None and not config.models_dir.is_dir():
            raise ConfigError(f"--models-dir {config.models_dir}: there is no such folder")
        self._cached = [model for cache in config.cache_dirs for model in scan_cache(os.path.abspath(cache))]
        local = scan_folder(os.path.abspath(config.models_dir)) if config.models_dir is not None else []
        for model in local + self._cached:
            self._found.setdefault(model.id, model)

    def _by_spelling(self) -> dict[str, str]:
        names = {spelling: found.id for found in reversed(self._found.values()) for spelling in reversed(found.spellings)}
        return names | {model_id: model_id for model_id in self._found}

    def _match_sections(self) -> None:
        """Give each preset section its model: the one it is named after, or the one it names."""
        names = self._by_spelling()
        for name, layer in self._presets.sections.items():
            if name in self._variants:
                continue
            known = _look_up(names, name)
            if "model" in layer or "hf_repo" in layer or known is None:
                model = self._resolve(layer, self._said(name))
                model = replace(model, id=name, spellings=[])
            else:
                model = self._found[known]
            if model.id in self._sections:
                raise ConfigError(f"{self._config.models_preset}: [{self._section_names[model.id]}] and [{name}] both mean {model.id}")
            model.source = "preset"
            self._found[model.id] = model
            self._sections[model.id] = layer
            self._section_names[model.id] = name

    def _make_variants(self) -> dict[str, ModelSpec]:
        """The sections with a `base`: that model under another name, with other defaults for its requests."""
        names = {alias: spec.id for spec in self.models.values() for alias in spec.aliases} | self._by_spelling()
        bases: dict[str, str] = {}
        for name, layer in self._variants.items():
            said, base = self._said(name), str(layer["base"].value)
            check_variant(layer, said)
            found = base if base in self._variants else _look_up(names, base)
            if found is None:
                raise ConfigError(f"{said} base = {base}: there is no such model")
            if name in self.models:
                raise ConfigError(f"{said} base: {name} is a model of its own already")
            bases[name] = found
        chains = {name: chain_of(name, bases, self._said(name)) for name in self._variants}
        sections = {name: merge(*(self._variants[link] for link in chain[-2::-1])) for name, chain in chains.items()}
        for name, chain in chains.items():
            self.models[chain[-1]] = _with_adapters(self.models[chain[-1]], adapters_of(sections[name]))
        return {name: self._to_variant(name, self.models[chain[-1]], sections[name]) for name, chain in chains.items()}

    def _to_variant(self, name: str, base: ModelSpec, section: Layer) -> ModelSpec:
        own = self._variants[name]
        return replace(
            base,
            id=name,
            aliases=tuple(alias for alias in (own["aliases"].value if "aliases" in own else ()) if alias != name),
            tags=tuple(own["tags"].value) if "tags" in own else base.tags,
            source="preset",
            can_remove=False,
            preset=to_section(name, own),
            load_on_startup="load_on_startup" in own and own["load_on_startup"].value,
            defaults=defaults_of(section, self._config.command_line, base.defaults, [path for path, _ in base.options.lora]),
            base=base,
        )

    def _said(self, section: str) -> str:
        return f"{self._config.models_preset} [{section}]"

    def _resolve(self, layer: Layer, said: str) -> Found:
        """The files that `model` or `hf-repo` means."""
        if "model" in layer:
            path = os.path.abspath(layer["model"].value)
            folder, name = os.path.split(path)
            try:
                names = [entry for entry in os.listdir(folder) if is_gguf(entry)] if is_shard(name) else [name]
            except OSError:
                names = [name]
            group = next((group for group in group_files(names)[0] if name in group.names), FileGroup(name.removesuffix(".gguf"), (name,)))
            return Found(printable(group.stem), [os.path.join(folder, shard) for shard in group.names], "models_dir", error=group.error)
        if "hf_repo" not in layer:
            raise ConfigError(f"{said}: there is no such model; name its file with `model = PATH` or `hf-repo = user/repo:quant`")
        return self._resolve_repo(layer, said)

    def _resolve_repo(self, layer: Layer, said: str) -> Found:
        """From the cache; else something that has to be downloaded, unless --offline."""
        repo_and_quant = str(layer["hf_repo"].value)
        file = str(layer["hf_file"].value) if "hf_file" in layer else None
        try:
            repo, quant = parse_name(repo_and_quant)
        except InvalidRequest as error:
            raise ConfigError(f"{said}: {error.message}") from None
        if file and "\0" in file:
            raise ConfigError(f"{said}: {file!r} is no file")
        wanted = f"{repo}/{file}" if file else f"{repo}:{quant.upper()}" if quant else repo
        of_repo = [model for model in self._cached if model.id.rpartition(":")[0] == repo]
        for model in of_repo:
            if model.id == wanted or wanted in model.spellings:
                return model
        if quant and not file:
            for model in of_repo:
                if any(has_quant(spelling.removeprefix(f"{repo}/"), quant) for spelling in model.spellings):
                    return model
        if self._config.offline or not self._config.cache_dirs:
            raise ConfigError(
                f"{said}: {wanted} is not in the cache" + (", and --offline forbids to download it" if self._config.offline else "")
            )
        return _not_here(wanted, Wanted(repo, quant, file), os.path.abspath(self._config.cache_dirs[0]))

    def _choose_default(self) -> None:
        config = self._config
        layer = merge(config.environment, config.command_line)
        if config.model is None and config.hf_repo is None:
            return
        model = self._resolve(layer, f"--model {config.model}" if config.model else f"--hf-repo {config.hf_repo}")
        real = os.path.realpath(model.files[0])
        known = next((found for found in self._found.values() if os.path.realpath(found.files[0]) == real), None)
        if config.aliases or known is None:
            model = replace(model, id=config.aliases[0] if config.aliases else model.id)
            self._found[model.id] = model
        else:
            model = known
        self.default_id = model.id

    def _layer_of(self, section: Layer) -> Layer:
        config = self._config
        return merge(_for_every_model(config.environment), self._presets.shared, section, _for_every_model(config.command_line))

    def _to_spec(self, found: Found) -> ModelSpec:
        section = self._sections.get(found.id)
        layer = self._plain_layer if section is None else self._layer_of(section)
        options = self._plain_options if section is None else load_options(layer)
        uses_mmproj = "mmproj_auto" not in layer or layer["mmproj_auto"].value
        mmproj = found.mmproj if uses_mmproj else None
        header, error = _read_headers(found)
        adapters = [path for path, _ in options.lora]
        stats = tuple(_stat_of(path) for path in (*found.files, *([mmproj] if mmproj else []), *adapters))
        is_default = found.id == self.default_id
        given = {name: tuple(layer[name].value) if name in layer else () for name in ("aliases", "tags")}
        aliases = tuple(
            dict.fromkeys(name for name in (*(self._config.aliases if is_default else ()), *given["aliases"]) if name != found.id)
        )
        return ModelSpec(
            id=found.id,
            aliases=aliases,
            tags=tuple(dict.fromkeys((*(self._config.tags if is_default else ()), *given["tags"]))),
            path=found.files[0],
            mmproj=mmproj,
            options=options,
            source=found.source,
            args=_to_args(found, mmproj, layer),
            preset=None if section is None else to_section(self._section_names[found.id], section),
            created=stats[0][1] // 10**9,
            can_remove=found.source == "cache",
            load_on_startup=is_default or ("load_on_startup" in layer and layer["load_on_startup"].value),
            stop_timeout_s=layer["stop_timeout_s"].value if "stop_timeout_s" in layer else self._config.stop_timeout_s,
            size_bytes=sum(size for size, _ in stats[: len(found.files)]),
            header=header,
            error=error,
            wanted=replace(found.wanted, with_projector=uses_mmproj) if found.wanted else None,
            fingerprint=(found.files[0], mmproj, stats, options),
            **_lifetime(layer),
            defaults=RequestDefaults(system=system_of(layer)),
        )

    def _name_all(self) -> dict[str, str]:
        """Every name of every model; ids win over aliases, aliases over spellings."""
        names = {model_id: model_id for model_id in self.models}
        for spec in self.models.values():
            for alias in spec.aliases:
                if names.setdefault(alias, spec.id) != spec.id:
                    raise ConfigError(f"the alias {alias} of {spec.id} already means {names[alias]}")
        return self._by_spelling() | names


def _with_adapters(base: ModelSpec, paths: Iterable[str]) -> ModelSpec:
    """It loads these adapters too, for variants that use them; by itself it does not."""
    more = [path for path in paths if path not in [known for known, _ in base.options.lora]]
    if not more:
        return base
    options = replace(base.options, lora=[*base.options.lora, *([path, 0.0] for path in more)])
    path, mmproj, stats, _ = base.fingerprint
    return replace(base, options=options, fingerprint=(path, mmproj, (*stats, *map(_stat_of, more)), options))


def _not_here(name: str, wanted: Wanted, cache: str) -> Found:
    path = os.path.join(cache, f"models--{wanted.repo.replace('/', '--')}", "wanted", name.replace("/", "--"))
    return Found(name, [path], "cache", error="it is not downloaded yet", wanted=wanted)


def _for_every_model(layer: Layer) -> Layer:
    """Without what names or describes the default model."""
    return {name: setting for name, setting in layer.items() if setting.flag.scope is not Scope.SOURCE or name == "mmproj_auto"}


def _lifetime(layer: Layer) -> dict[str, Any]:
    """The time fields of a ModelSpec; -1 is never."""
    values = {
        name: layer[name].value for name in ("is_pinned", "min_resident_s", "load_timeout_s", "ttl_s", "sleep_idle_s") if name in layer
    }
    return {name: None if name in ("ttl_s", "sleep_idle_s") and value < 0 else value for name, value in values.items()}


def _stat_of(path: str) -> tuple[int, int]:
    """(bytes, modification time in ns)."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0, status.st_mtime_ns


def _read_headers(found: Found) -> tuple[Header | None, str | None]:
    """(what the first file says, with the sums of all shards; why the model cannot be loaded)."""
    headers: list[Header] = []
    error = found.error
    for path in found.files:
        try:
            headers.append(read_header(path))
        except GgufError as problem:
            error = error or f"{printable(os.path.basename(path))}: {problem.message}"
    if printable(found.files[0]) != found.files[0]:
        error = error or "its path is not UTF-8: rename it"
    if len(headers) < 2:
        return headers[0] if headers else None, error
    num_params, size_bytes = sum(header.num_params for header in headers), sum(header.size_bytes for header in headers)
    return replace(headers[0], num_params=num_params, size_bytes=size_bytes), error


def _to_args(found: Found, mmproj: str | None, layer: Layer) -> tuple[str, ...]:
    """llama-server's command line for this model, as the listing shows it."""
    projector = ("--mmproj", printable(mmproj)) if mmproj else ()
    settings = (setting for setting in layer.values() if setting.flag.scope in (Scope.MODEL, Scope.SAMPLING))
    return ("llama-server", "--model", printable(found.files[0]), *projector, "--alias", found.id, *to_arguments(settings))
