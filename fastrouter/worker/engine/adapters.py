"""The LoRA adapters of one model: which are loaded, with which scales a request runs, which the context uses now.

Never imports: worker.sequence, worker.kv.prefixes. An adapter's id is its index in LoadOptions.lora. Invariant: a set is never changed,
so a POST of new scales is for later requests; running ones keep theirs.
"""

from typing import Any

from fastrouter.errors import InvalidRequest
from fastrouter.options.load import LoadOptions
from fastrouter.worker.kv.slots import AdapterSet
from fastrouter.worker.llama.context import Context
from fastrouter.worker.llama.model import Adapter, Model


class Adapters:
    """All adapters of a model. Made before its Context, which must know how large its graphs can become."""

    def __init__(self, model: Model, options: LoadOptions) -> None:
        """Raises LlamaError."""
        self.all = [Adapter(model, path) for path, _ in options.lora]
        self._in_use: AdapterSet = ()
        scales = [0.0 if options.lora_init_without_apply else scale for _, scale in options.lora]
        self._default = _set_of(list(enumerate(scales)))  # for requests without any

    def __repr__(self) -> str:
        return f"<Adapters {len(self.all)}, default {self._default}, in use {self._in_use}>"

    def resolve(self, lora: list[Any] | None) -> AdapterSet:
        """The set for a request with [[id, scale], ...]. Raises InvalidRequest."""
        if lora is None:
            return self._default
        for adapter_id, _ in lora:
            if not 0 <= adapter_id < len(self.all):
                known = f"adapters 0 to {len(self.all) - 1}" if self.all else "no adapters"
                raise InvalidRequest(f"field 'lora' names adapter {adapter_id}, but this model has {known}")
        return _set_of(lora)

    def use(self, adapters: AdapterSet, context: Context) -> None:
        """The set of the next decode."""
        if adapters != self._in_use:
            context.use_adapters([(self.all[adapter_id], scale) for adapter_id, scale in adapters])
            self._in_use = adapters

    # ------------------------------------------------------------ calls

    def call_list(self) -> list[dict[str, Any]]:
        scales = dict(self._default)
        return [
            {
                "id": adapter_id,
                "path": adapter.path,
                "scale": scales.get(adapter_id, 0.0),
                "task_name": adapter.meta_value("adapter.lora.task_name"),
                "prompt_prefix": adapter.meta_value("adapter.lora.prompt_prefix"),
            }
            for adapter_id, adapter in enumerate(self.all)
        ]

    def call_set(self, params: dict[str, Any]) -> dict[str, Any]:
        self._default = self.resolve(params["lora"])
        return {"success": True}


def _set_of(pairs: list[Any]) -> AdapterSet:
    """When an id is given twice, the last scale counts."""
    return tuple(sorted((adapter_id, float(scale)) for adapter_id, scale in dict(pairs).items() if scale))
