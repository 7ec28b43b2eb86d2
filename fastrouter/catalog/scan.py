"""Reads all sources of models once: files, caches, presets and variants become ModelSpecs."""

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from fastrouter.catalog.capabilities import capabilities, embedding_options, input_modalities, reads_only_text
from fastrouter.catalog.created import CreatedModels
from fastrouter.catalog.difference import Difference, compare
from fastrouter.catalog.gguf import Unusual
from fastrouter.catalog.header_cache import Headers, features_of
from fastrouter.catalog.projector_address import HubFile, read_address
from fastrouter.catalog.sections import Sections
from fastrouter.catalog.sources import (
    Found,
    Wanted,
    by_spelling,
    cached_file,
    canonical_id,
    find_file,
    has_quant,
    parse_name,
    printable,
    scan_cache,
    scan_folder,
    stat_of,
)
from fastrouter.catalog.spec import ModelSpec
from fastrouter.catalog.variants import NO_DEFAULTS, RequestDefaults, messages_of, system_of
from fastrouter.config.config import DEFAULT_HUB, Config
from fastrouter.config.flag import Layer, Scope
from fastrouter.config.forms import load_options, to_arguments, to_section
from fastrouter.config.layers import merge
from fastrouter.config.presets import Presets, read_presets
from fastrouter.errors import ConfigError, InvalidRequest
from fastrouter.options.load import LoadOptions
from fastrouter.system.ffmpeg import find_ffmpeg
from fastrouter.system.text_file import why_no_folder


def _look_up(names: dict[str, str], name: str) -> str | None:
    repo, colon, quant = name.rpartition(":")
    return names.get(name) or (names.get(f"{repo}:{quant.upper()}") if colon else None)


class Scan:
    """One pass over all sources; its result becomes the catalog as a whole, or not at all."""

    def __init__(
        self,
        config: Config,
        headers: Headers,
        known: Mapping[str, ModelSpec],
        known_names: Mapping[str, str],
        folder_ids: Mapping[str, str] | None = None,
        presets: Presets | None = None,
    ) -> None:
        """`known`: the former specs; a spec that is equal to one of them is replaced by it. `presets`: their text is reused."""
        self._config = config
        self._has_ffmpeg = find_ffmpeg(config.video_ffmpeg_dir) is not None
        self._headers = headers
        self._cached: list[Found] = []
        folders = [str(config.models_dir)] if config.models_dir is not None else []
        text = presets.text if presets is not None else None
        is_remote = bool(config.remote_preset)
        self.presets = read_presets(config.models_preset, folders, text, is_remote=is_remote) if config.models_preset else Presets()
        if not config.has_one_model:
            self.presets = self.presets.with_created(CreatedModels(config.created_dir).presets())
        self.folder_ids = folder_ids or {}
        self.problems = list(self.presets.problems)  # these end a start, or a reload
        self._hubs = (config.hub_endpoint, DEFAULT_HUB)
        self._sections = Sections(self.presets, self._hubs)
        self._found: dict[str, Found] = {}
        self.default_id: str | None = None
        self._find()
        self._choose_default()
        self._match_sections()
        self._plain_layer = self._layer_of({})
        self._plain = self._read_files(self._plain_layer)
        self._spelled = self._spellings()
        models = {found.id: self._to_spec(found) for found in self._found.values()}
        headers.save()
        models |= self._make_variants(models)
        self.problems += self._sections.note_clashes(models)
        self._sections.note_broken_bases()
        models |= {name: self._to_broken(name, models.get(name), known.get(name)) for name in self._sections.faults}
        for hidden in self._hidden(models):
            models[hidden] = replace(models[hidden], is_listed=False)
        models |= {name: _as_created(spec) for name, spec in models.items() if self.presets.is_created(name)}
        same = {model_id for model_id, spec in models.items() if known.get(model_id) == spec}
        self.models = {model_id: (known if model_id in same else models)[model_id] for model_id in sorted(models)}
        self.names = self._name_all()
        self.difference = compare(known, self.models)
        self.is_news = not known or self.difference != Difference() or self.names != known_names

    def _hidden(self, models: Mapping[str, ModelSpec]) -> list[str]:
        """Models of a cache that a preset's section with `dedup-cache-models` replaces in the listing; they can still be used."""
        deduping = [model_id for model_id, section in self._sections.models.items() if _is_on(self._layer_of(section), "hides_cached")]
        paths = {models[model_id].path for model_id in deduping}
        paths |= {str(models[model_id].options.speculation.get("draft_model")) for model_id in deduping}
        return [spec.id for spec in models.values() if spec.source == "cache" and spec.path in paths and spec.base is None]

    def _find(self) -> None:
        config = self._config
        if config.models_dir is not None and not config.models_dir.is_dir():
            raise ConfigError(f"--models-dir {config.models_dir}: {why_no_folder(config.models_dir)}")
        self._cached = [model for cache in config.cache_dirs for model in scan_cache(os.path.abspath(cache))]
        local = scan_folder(os.path.abspath(config.models_dir), self.folder_ids) if config.models_dir is not None else []
        self.folder_ids = {model.files[0]: model.id for model in local}
        for model in local if config.has_one_model else local + self._cached:
            self._found.setdefault(model.id, model)

    def _by_spelling(self) -> dict[str, str]:
        return by_spelling(self._found.values())

    def _spellings(self) -> dict[str, str]:
        """Id by spelling, without spellings that are an alias or a variant of another model."""
        sections = self.presets.sections
        aliases = {alias for layer in sections.values() if "aliases" in layer for alias in layer["aliases"].value}
        taken = {*aliases, *self._config.aliases, *sections}
        return {name: model_id for name, model_id in self._by_spelling().items() if name not in taken}

    def _match_sections(self) -> None:
        """Give each preset section its model: the one with the section's name, or the one that the section names. The model's id is the
        section's name."""
        names = self._by_spelling()
        laid_over: dict[str, list[Found]] = {}  # models under the names of their sections, by the id that they had before
        own: dict[str, Found] = {}
        for name, layer in self._sections.models.items():
            with self._sections.noting_faults(name):
                known = None if "model" in layer or "hf_repo" in layer else _look_up(names, name)
                self._sections.check_source(name, names, is_known=known is not None)
                if known is None:
                    model = replace(self._resolve(layer, self.presets.where(name)), id=name, source="preset", spellings=[])
                    own[name] = replace(model, short_spellings=[canonical_id(name)])  # llama-server's name for it
                else:
                    before = self._found[known]
                    model = replace(before, id=name, source="preset", spellings=[known, *before.spellings])
                    laid_over.setdefault(known, []).append(model)
        found = [model for before in self._found.values() for model in laid_over.get(before.id, [before])]
        if self.default_id in laid_over and self.default_id not in self.presets.sections:
            self.default_id = laid_over[self.default_id][0].id
        self._found = {model.id: model for model in found} | own

    def _read_files(self, layer: Layer, section: str | None = None) -> tuple[LoadOptions, RequestDefaults]:
        """The settings of a layer, with the files that it names."""
        try:
            return load_options(layer), RequestDefaults(system=system_of(layer), messages=messages_of(layer))
        except ConfigError as problem:
            if section is None:
                self.problems.append(f"for every model: {problem.message}")
            else:
                self._sections.note(section, problem)
        return LoadOptions(), NO_DEFAULTS

    def _make_variants(self, models: dict[str, ModelSpec]) -> dict[str, ModelSpec]:
        """The sections with a `base`: that model under another name, with other defaults for its requests. The base loads their
        adapters."""
        names = {alias: spec.id for spec in models.values() for alias in spec.aliases} | self._by_spelling()
        adapters = self._sections.choose_bases(lambda name: _look_up(names, name), names, models)
        for base, paths in adapters.items():
            models[base] = _with_adapters(models[base], paths)
        return self._sections.make_variants(models, self._config.command_line)

    def _to_broken(self, name: str, made: ModelSpec | None, was: ModelSpec | None) -> ModelSpec:
        """A section with mistakes, of which perhaps only the name is known."""
        if made is not None and made.base is None and made.error is not None and os.path.lexists(made.path):
            self._sections.note(name, ConfigError(made.error))  # an error of the file, which exists
        return self._sections.to_broken(made or self._to_spec(Found(name, [""], "preset")), was)

    def wrong_sections(self) -> list[str]:
        return self._sections.all_that_is_wrong(self.models)

    def _resolve(self, layer: Layer, place: str) -> Found:
        """The files that `model` or `hf-repo` means."""
        if "model" in layer:
            return find_file(os.path.abspath(layer["model"].value))
        return self._resolve_repo(layer, place)

    def _resolve_repo(self, layer: Layer, place: str) -> Found:
        return self._find_in_repo(str(layer["hf_repo"].value), str(layer["hf_file"].value) if "hf_file" in layer else None, place)

    def _find_in_repo(self, repo_and_quant: str, file: str | None, place: str) -> Found:
        """From the cache; otherwise a model that must be downloaded, unless --offline is set."""
        try:
            repo, quant = parse_name(repo_and_quant)
        except InvalidRequest as error:
            raise ConfigError(f"{place}: {error.message}") from None
        if file and "\0" in file:
            raise ConfigError(f"{place}: {file!r} is not a file name")
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
                f"{place}: {wanted} is not in the cache" + (", and --offline forbids the download" if self._config.offline else "")
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
            self._make_room(model)
            self._found[model.id] = model
        else:
            model = known
        self.default_id = model.id

    def _make_room(self, model: Found) -> None:
        """The model of --model keeps its name; another file with the same name is listed under a longer one."""
        other = self._found.pop(model.id, None)
        if other is not None and os.path.realpath(other.files[0]) != os.path.realpath(model.files[0]):
            other.id = next((name for name in other.spellings if name != model.id and name not in self._found), other.files[0])
            self._found[other.id] = other

    def _layer_of(self, section: Layer) -> Layer:
        config = self._config
        return merge(_for_every_model(config.environment), self.presets.shared, section, _for_every_model(config.command_line))

    def _to_spec(self, found: Found) -> ModelSpec:
        section = self._sections.models.get(found.id)
        layer = self._plain_layer if section is None else self._layer_of(section)
        options, defaults = self._plain
        if section is not None:
            options, defaults = self._read_files(layer, found.id)
        options, draft_found = self._with_draft(found.id, options)
        uses_mmproj = "mmproj_auto" not in layer or layer["mmproj_auto"].value
        on_hub = self._projector_on_hub(found, layer)
        mmproj = self._projector_of(found, layer) or self._cached_file(on_hub) or (found.mmproj if uses_mmproj and not on_hub else None)
        mmproj = mmproj if mmproj is not None and printable(mmproj) == mmproj else None
        draft = options.speculation.get("draft_model")
        beside = [path for path, _ in (*options.lora, *options.control_vectors)] + ([draft] if draft else [])
        files = (*found.files, *([mmproj] if mmproj else []), *beside, *found.missing)
        states = tuple(map(stat_of, files))  # before they are read: then a change in between is noticed later
        known, problem = self._headers.read_model(found.files)
        header, template = (known.header, known.template) if known is not None else (None, None)
        if options.chat_template is not None:
            template = features_of(options.chat_template)
        if header is not None:
            options = embedding_options(header, options)
        wanted = replace(found.wanted, with_projector=uses_mmproj and not on_hub) if found.wanted else None
        error = found.error or (problem.message if problem is not None else None)
        if draft_found is not None and draft_found.error is not None:
            error, wanted = error or f"its draft model: {draft_found.error}", wanted or draft_found.wanted
        if on_hub is not None and mmproj is None and error is None:
            error = f"its projector {on_hub.repo}/{on_hub.path} is not downloaded yet"
            wanted = Wanted(on_hub.repo, None, on_hub.path, with_projector=False)
        if printable(found.files[0]) != found.files[0]:
            error = error or f"{printable(found.files[0])}: its path is not UTF-8: rename it"
        projector = self._headers.read_if_good(mmproj)
        modalities = tuple(input_modalities(projector, has_projector=mmproj is not None))
        if reads_only_text(header, options):
            modalities = ("text",)
        if "image" in modalities and self._has_ffmpeg:
            modalities = (*modalities, "video")
        if mmproj is not None and len(modalities) > 1:
            options = replace(options, mmproj=mmproj)
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
            preset=None if section is None else to_section(found.id, section),
            created=states[0][1] // 10**9,
            can_remove=found.source == "cache",
            load_on_startup=is_default or ("load_on_startup" in layer and layer["load_on_startup"].value),
            stop_timeout_s=layer["stop_timeout_s"].value if "stop_timeout_s" in layer else self._config.stop_timeout_s,
            size_bytes=sum(state[0] for state in states[: len(found.files)]),
            header=header,
            projector=projector if options.mmproj is not None else None,
            draft=self._headers.read_if_good(draft),
            error=error,
            is_unusual=isinstance(problem, Unusual) and found.error is None,
            wanted=wanted,
            fingerprint=(printable(found.files[0]), printable(mmproj) if mmproj else None, states, options),
            files=files,
            states=states,
            spellings=tuple(self._other_names(found)),
            template=template,
            capabilities=tuple(capabilities(header, template, projector, options)) if header is not None and error is None else (),
            modalities=modalities,
            **_lifetime(layer),
            defaults=defaults,
        )

    def _with_draft(self, model_id: str, options: LoadOptions) -> tuple[LoadOptions, Found | None]:
        """The options with the file of a draft model that is named by its repository; the model, if it is not in the cache."""
        repo = options.speculation.get("draft_hf")
        if repo is None:
            return options, None
        others = {name: value for name, value in options.speculation.items() if name != "draft_hf"}
        try:
            found = self._find_in_repo(repo, None, f"--hf-repo-draft {repo}")
        except ConfigError as problem:
            return replace(options, speculation=others), Found(model_id, [""], "cache", error=problem.message)
        if found.error is not None or "draft_model" in others:
            return replace(options, speculation=others), found if "draft_model" not in others else None
        return replace(options, speculation={**others, "draft_model": found.files[0]}), None

    def _projector_of(self, found: Found, layer: Layer) -> str | None:
        """The one that its section names, or the command line for its model."""
        if "mmproj" in layer:
            return os.path.abspath(str(layer["mmproj"].value))
        mmproj = self._config.mmproj if found.id == self.default_id else None
        return os.path.abspath(mmproj) if mmproj is not None else None

    def _projector_on_hub(self, found: Found, layer: Layer) -> HubFile | None:
        """The same for an address. Raises ConfigError."""
        if "mmproj_url" in layer:
            with contextlib.suppress(ConfigError):  # noted as a mistake of its section
                return read_address(str(layer["mmproj_url"].value), "mmproj-url", *self._hubs)
            return None
        url = self._config.mmproj_url if found.id == self.default_id else None
        return read_address(url, "--mmproj-url", *self._hubs) if url is not None else None

    def _cached_file(self, file: HubFile | None) -> str | None:
        caches = [os.path.abspath(cache) for cache in self._config.cache_dirs] if file is not None else []
        return next((path for cache in caches if file and (path := cached_file(cache, file.repo, file.path))), None)

    def _other_names(self, found: Found) -> Iterable[str]:
        names = dict.fromkeys((*found.spellings, *found.short_spellings))
        return (name for name in names if name != found.id and self._spelled.get(name) == found.id)

    def _name_all(self) -> dict[str, str]:
        """Every name of every model; ids come before aliases, aliases before spellings."""
        names = {model_id: model_id for model_id in self.models}
        for spec in self.models.values():
            for alias in spec.aliases:
                names.setdefault(alias, spec.id)
        return self._by_spelling() | names


def _as_created(spec: ModelSpec) -> ModelSpec:
    """A model that a client has made. It is listed only while its base is there: other routers of the same user see it too."""
    return replace(spec, source="created", can_remove=True, is_listed=spec.is_listed and spec.fault is None)


def _with_adapters(base: ModelSpec, paths: Iterable[str]) -> ModelSpec:
    """The model with these adapters too, for the variants that use them; its own requests do not use them."""
    more = [path for path in paths if path not in [known for known, _ in base.options.lora]]
    if not more:
        return base
    options = replace(base.options, lora=[*base.options.lora, *([path, 0.0] for path in more)])
    path, mmproj, states, _ = base.fingerprint
    states = (*states, *map(stat_of, more))
    fingerprint = (path, mmproj, states, options)
    return replace(base, options=options, files=(*base.files, *more), states=states, fingerprint=fingerprint)


def _not_here(name: str, wanted: Wanted, cache: str) -> Found:
    path = os.path.join(cache, f"models--{wanted.repo.replace('/', '--')}", "wanted", name.replace("/", "--"))
    return Found(name, [path], "cache", error="it is not downloaded yet", wanted=wanted)


def _is_on(layer: Layer, name: str) -> bool:
    return name in layer and bool(layer[name].value)


def _for_every_model(layer: Layer) -> Layer:
    """Without the settings that name or describe the default model."""
    return {name: setting for name, setting in layer.items() if setting.flag.scope is not Scope.SOURCE or name == "mmproj_auto"}


def _lifetime(layer: Layer) -> dict[str, Any]:
    """The time fields of a ModelSpec; -1 means never."""
    values = {
        name: layer[name].value for name in ("is_pinned", "min_resident_s", "load_timeout_s", "ttl_s", "sleep_idle_s") if name in layer
    }
    return {name: None if name in ("ttl_s", "sleep_idle_s") and value < 0 else value for name, value in values.items()}


def _to_args(found: Found, mmproj: str | None, layer: Layer) -> tuple[str, ...]:
    """llama-server's command line for this model, as the listing shows it."""
    projector = ("--mmproj", printable(mmproj)) if mmproj else ()
    settings = (setting for setting in layer.values() if setting.flag.scope in (Scope.MODEL, Scope.SAMPLING, Scope.SPECULATION))
    return ("llama-server", "--model", printable(found.files[0]), *projector, "--alias", found.id, *to_arguments(settings))
