"""Models as the catalog finds them, without a file."""

from dataclasses import replace
from typing import Any

from fastrouter.catalog.spec import ModelSpec
from fastrouter.options.load import LoadOptions


def spec_of(model: str, path: str, **fields: Any) -> ModelSpec:
    spec = ModelSpec(
        id=model,
        aliases=(),
        tags=(),
        path=path,
        mmproj=None,
        options=LoadOptions(),
        source="models_dir",
        args=(),
        preset=None,
        created=0,
        can_remove=False,
        load_on_startup=False,
        stop_timeout_s=30.0,
        size_bytes=0,
        header=None,
        error=None,
        fingerprint=(),
    )
    return replace(spec, **fields)
