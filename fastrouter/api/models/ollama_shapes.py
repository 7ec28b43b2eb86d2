"""Models in the shapes of Ollama's API. Never imports: supervisor.workers."""

import hashlib
from typing import Any

from fastrouter.catalog.spec import ModelSpec
from fastrouter.system.words import utc_time

_CAPABILITIES = {
    "completion": "completion",
    "tools": "tools",
    "infill": "insert",
    "vision": "vision",
    "audio": "audio",
    "thinking": "thinking",
    "embedding": "embedding",
}
_SIZES = {" - Small": "_S", " - Medium": "_M", " - Large": "_L"}
NEVER = "2318-01-01T00:00:00Z"  # a model that never expires gets a time that is far away, as in Ollama


def entry(spec: ModelSpec, meta: dict[str, Any]) -> dict[str, Any]:
    """One model of /api/tags. `meta`: the same as in our own listing."""
    return {
        "name": spec.id,
        "model": spec.id,
        "modified_at": utc_time(spec.created),
        "size": spec.size_bytes,
        "digest": digest(spec),
        "details": details(spec, meta),
    }


def digest(spec: ModelSpec) -> str:
    """It changes with the model's files. It is not the hash of their content: for that, they would have to be read."""
    return hashlib.sha256(repr((spec.id, spec.path, spec.states)).encode()).hexdigest()


def details(spec: ModelSpec, meta: dict[str, Any]) -> dict[str, Any]:
    family = spec.header.architecture if spec.header is not None else ""
    return {
        "parent_model": spec.base.id if spec.base is not None else "",
        "format": "gguf",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": _count(meta.get("n_params")),
        "quantization_level": _quant(meta.get("ftype") or ""),
    }


def _count(num_params: int | None) -> str:
    if not num_params:
        return ""
    return f"{num_params / 1e9:.1f}B" if num_params >= 1e9 else f"{num_params / 1e6:.2f}M"


def _quant(file_type: str) -> str:
    """Users know llama.cpp's "Q4_K - Medium" as "Q4_K_M"."""
    for ending, short in _SIZES.items():
        file_type = file_type.replace(ending, short)
    return file_type.removeprefix("all ").partition(" ")[0]


def shown(spec: ModelSpec, meta: dict[str, Any]) -> dict[str, Any]:
    """/api/show."""
    parameters = {"num_ctx": meta.get("n_ctx"), **spec.options.sampling, **spec.defaults.sampling}
    base = spec.base.id if spec.base is not None else spec.id
    system = {"system": spec.defaults.system} if spec.defaults.system is not None else {}
    messages = {"messages": list(spec.defaults.messages)} if spec.defaults.messages else {}
    return {
        "modelfile": f"# the flags and presets of the server control how this model is loaded\nFROM {base}\n",
        "parameters": "\n".join(f"{name:<30} {value}" for name, value in parameters.items() if value is not None),
        "template": (spec.header.chat_template if spec.header is not None else None) or "",
        **system,
        **messages,
        "details": details(spec, meta),
        "model_info": _info(spec),
        "capabilities": [_CAPABILITIES[name] for name in spec.capabilities if name in _CAPABILITIES],
        "modified_at": utc_time(spec.created),
    }


def _info(spec: ModelSpec) -> dict[str, Any]:
    header = spec.header
    if header is None:
        return {}
    family = header.architecture
    found = {
        "general.architecture": family,
        "general.basename": header.name,
        "general.file_type": header.file_type,
        "general.parameter_count": header.num_params,
        f"{family}.context_length": header.context_length,
        f"{family}.embedding_length": header.embedding_length,
        f"{family}.block_count": header.block_count,
        f"{family}.attention.head_count": header.head_count,
        f"{family}.attention.head_count_kv": header.head_count_kv,
    }
    return {name: value for name, value in found.items() if value is not None}
