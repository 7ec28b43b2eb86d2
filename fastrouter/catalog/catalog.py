"""Which models there are: folders, caches, presets and --model -> ModelSpec by id, alias or other spelling.

Invariant: names are looked up in a table made by the scan, never in the file system, so no request can reach a file by its path. A reload
changes everything or nothing; a model that cannot be loaded, or whose preset section is wrong, stays in the listing with its error. `scan`
may block on slow disks and runs in any thread, one at a time; `adopt` only exchanges tables.
"""

import gc
from collections.abc import Mapping

from fastrouter.catalog.difference import Difference
from fastrouter.catalog.header_cache import Headers
from fastrouter.catalog.scan import Scan, _look_up
from fastrouter.catalog.spec import ModelSpec
from fastrouter.config.config import Config
from fastrouter.config.presets import Presets, first_of
from fastrouter.errors import ConfigError

# ---------------------------------------------------------------- the catalog


class Catalog:
    def __init__(self, config: Config) -> None:
        """Raises ConfigError."""
        self._config = config
        self._headers = Headers()
        self._models: dict[str, ModelSpec] = {}
        self._names: dict[str, str] = {}
        self._default_id: str | None = None
        self._folder_ids: Mapping[str, str] = {}  # of the models in --models-dir, by first file: they keep these ids
        self._presets: Presets | None = None
        self.version = 0  # counts the changes
        self._has_frozen = False
        self.reload()

    def __repr__(self) -> str:
        return f"<Catalog {len(self._models)} models, version {self.version}>"

    def get(self, name: str) -> ModelSpec | None:
        """By id, alias or spelling; in `user/repo:quant` the case of the quant does not matter."""
        model_id = _look_up(self._names, name)
        return self._models[model_id] if model_id is not None else None

    @property
    def only(self) -> ModelSpec | None:
        """The model that every name means, when there is only one; see Config.has_one_model."""
        return self.default if self._config.has_one_model else None

    def models(self) -> list[ModelSpec]:
        return list(self._models.values())

    def faults(self) -> list[str]:
        """What is wrong with sections of the preset file."""
        return [spec.fault for spec in self._models.values() if spec.fault is not None]

    def warnings(self) -> list[str]:
        """Lines of the preset file that take effect, but are probably mistakes."""
        return list(self._presets.warnings) if self._presets is not None else []

    @property
    def default(self) -> ModelSpec | None:
        return self._models.get(self._default_id) if self._default_id is not None else None

    def scan(self, *, with_presets: bool = True) -> "Scan":
        """Reads all sources again, and also the preset file unless told otherwise. Raises ConfigError."""
        gc.disable()  # the collector would walk through half of ten thousand models many times, and the loop would wait for it
        try:
            presets = None if with_presets else self._presets
            scan = Scan(self._config, self._headers, self._models, self._names, self._folder_ids, presets)
            if not self._has_frozen:
                self._has_frozen = True
                gc.freeze()  # later collections skip these too. Only once: a frozen cycle is never freed, and it could hold request bodies
        finally:
            gc.enable()
        if scan.problems:
            raise ConfigError(first_of(scan.problems, self._config.models_preset))
        if self._config.strict and with_presets and (wrong := scan.wrong_sections()):
            raise ConfigError("\n  ".join([f"--strict: {len(wrong)} of {self._config.models_preset} cannot be used:", *wrong]))
        return scan

    def adopt(self, scan: "Scan") -> Difference:
        """From now on the catalog holds what the last `scan` found."""
        self.version += scan.is_news
        self._models, self._names, self._default_id = scan.models, scan.names, scan.default_id
        self._folder_ids, self._presets = scan.folder_ids, scan.presets
        return scan.difference

    def reload(self) -> list[str]:
        """Scans and adopts, which blocks. Returns the ids whose source changed or vanished. After a ConfigError everything stays as it
        was."""
        return list(self.adopt(self.scan()).stale)
