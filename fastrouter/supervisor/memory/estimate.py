"""How much memory a model needs, from its file's header and its options. Never imports: supervisor.workers, system.machine.

These are estimates: what llama.cpp really allocates depends on its version and on the machine. What loads have shown is in measurements.py.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from fastrouter.catalog.capabilities import is_encoder
from fastrouter.catalog.gguf import EMBEDDING, EXPERTS, OUTPUT, Header
from fastrouter.catalog.spec import ModelSpec
from fastrouter.options.limits import KEPT_PICTURES_BYTES, MIN_FLASH_HEAD_SIZE
from fastrouter.supervisor.decide.need import Need, on_devices, total
from fastrouter.supervisor.memory import placement
from fastrouter.supervisor.memory.repacking import NOTHING as NO_REPACKING
from fastrouter.supervisor.memory.repacking import Repacking, sizes

NO_DEVICES: Mapping[str, int] = MappingProxyType({})
_BYTES_PER_VALUE = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 1.07,
    "q5_1": 0.75,
    "q5_0": 0.69,
    "q4_1": 0.63,
    "q4_0": 0.57,
    "iq4_nl": 0.57,
}
_LEAST_BYTES = 25 << 20  # llama.cpp's tables, its graph of the model, the engine's batch
_BYTES_PER_TOKEN_OF_VOCABULARY = 600  # its text, its entries in the tables, its merges


def estimate(spec: ModelSpec, *, devices: Mapping[str, int] = NO_DEVICES, repacking: Repacking = NO_REPACKING) -> Need:
    """All that loading `spec` takes: weights, KV cache, compute buffers, vocabulary. `devices`: their memory, by name."""
    if spec.draft is not None:
        parts = (replace(spec, draft=None), _draft_of(spec))
        return total(estimate(part, devices=devices, repacking=repacking) for part in parts)
    weights = spec.header.size_bytes if spec.header is not None else spec.size_bytes
    moved = _moved_bytes(spec, devices)
    if not moved:
        originals, copies = sizes(spec.header, repacking)
        return Need(host_bytes=weights - originals + copies + heap_bytes(spec))
    of_weights, of_cache = (sum(part[number] for part in moved.values()) for number in (0, 1))
    host = max(0, weights - of_weights) + max(_LEAST_BYTES, heap_bytes(spec) - of_cache)
    compute = _compute_bytes(spec)
    return on_devices(host, {device: sum(parts) + compute for device, parts in moved.items()})


def _moved_bytes(spec: ModelSpec, devices: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Of each device that is used, bytes of weights and of the KV cache. The input stays on the host; an output that has no weights of
    its own gets a copy of the input's."""
    header, options = spec.header, spec.options
    num_layers = (header.block_count if header is not None else None) or 1
    places = placement.places_of(options, num_layers, devices)
    of_input, of_output, of_experts = _special_bytes(spec)
    weights = header.size_bytes if header is not None else spec.size_bytes
    of_layer = max(0, weights - of_input - of_output) // num_layers
    of_cache = _cache_bytes(spec) // num_layers if options.kv_offload else 0
    moved: dict[str, tuple[int, int]] = {}
    for layer, place in enumerate(places):
        if place != placement.HOST:
            stays = of_experts // num_layers if options.cpu_moe or layer < options.n_cpu_moe else 0
            size, cache = (of_output or of_input, 0) if layer == num_layers else (max(0, of_layer - stays), of_cache)
            before = moved.get(place, (0, 0))
            moved[place] = before[0] + size, before[1] + cache
    return moved


def _special_bytes(spec: ModelSpec) -> tuple[int, int, int]:
    """Of the input's weights, the output's (0: it has none of its own), and the experts'."""
    header = spec.header
    if header is None:
        return 0, 0, 0
    kinds = {word: sum(size for name, size in header.matrices.items() if name.split()[0] == word) for word in (EMBEDDING, OUTPUT, EXPERTS)}
    in_values = (header.vocab_size or 0) * (header.embedding_length or 0) / max(1, header.num_params)
    of_input = kinds[EMBEDDING] or int(header.size_bytes * min(1.0, in_values))
    return of_input, kinds[OUTPUT], kinds[EXPERTS]


def unmapped_bytes(spec: ModelSpec, repacking: Repacking) -> int:
    """The part of its mapped weights that need not stay in memory, because there is a copy."""
    if not spec.options.mmap:
        return 0
    return sizes(spec.header, repacking)[0] + (sizes(spec.draft, repacking)[0] if spec.draft is not None else 0)


def _draft_of(spec: ModelSpec) -> ModelSpec:
    """The draft model, like any other model; its context is as long as that of the main model."""
    return replace(spec, header=spec.draft, projector=None, draft=None, options=replace(spec.options.of_draft, ctx_size=_num_tokens(spec)))


def heap_bytes(spec: ModelSpec) -> int:
    """What a load allocates in addition to the mapped weights. 0 when the header does not say it."""
    if spec.draft is not None:
        return heap_bytes(replace(spec, draft=None)) + heap_bytes(_draft_of(spec))
    if spec.projector is not None:
        return heap_bytes(replace(spec, projector=None)) + _projector_bytes(spec.projector)
    header = spec.header
    if header is None or not (header.block_count and header.embedding_length and header.head_count):
        return 0
    return _LEAST_BYTES + _cache_bytes(spec) + _compute_bytes(spec) + _BYTES_PER_TOKEN_OF_VOCABULARY * (header.vocab_size or 0)


def _projector_bytes(projector: Header) -> int:
    """It is not mapped. Its intermediate results take about a quarter of its size; then there are the pictures that it has computed."""
    return projector.size_bytes * 5 // 4 + KEPT_PICTURES_BYTES


def _cache_bytes(spec: ModelSpec) -> int:
    """The KV cache: one key and one value in each layer for each token of the context."""
    header, options = spec.header, spec.options
    if header is None or is_encoder(header):
        return 0
    values = (header.block_count or 0) * _head_size(spec) * (header.head_count_kv or header.head_count or 0)
    per_token = sum(_BYTES_PER_VALUE.get(kind, 2.0) for kind in (options.cache_type_k, options.cache_type_v))
    return int(_num_tokens(spec) * values * per_token)


def _compute_bytes(spec: ModelSpec) -> int:
    """The largest intermediate results of one micro-batch: hidden states, logits, and attention scores if all of them are kept together."""
    header, options = spec.header, spec.options
    if header is None:
        return 0
    num_rows = max(1, min(options.ubatch_size, options.batch_size))
    hidden = 4 * num_rows * (header.embedding_length or 0) * 8  # some tensors that are as wide as the model or its feed-forward layer
    # Embeddings are computed for all rows. So are the logits, which are in the output buffer once more; an encoder has none.
    logits = 4 * num_rows * (header.vocab_size or 0) * (0 if is_encoder(header) else 2 if options.embedding else 1)
    num_seen = _num_tokens(spec) // (options.parallel if options.parallel > 1 and not options.kv_unified else 1)
    has_flash = options.flash_attn != "off" and _head_size(spec) >= MIN_FLASH_HEAD_SIZE
    return hidden + logits + (0 if has_flash else 4 * num_rows * num_seen * (header.head_count or 0))


def _num_tokens(spec: ModelSpec) -> int:
    return spec.options.num_cells((spec.header.context_length if spec.header is not None else None) or 0)


def _head_size(spec: ModelSpec) -> int:
    header = spec.header
    return (header.embedding_length or 0) // header.head_count if header is not None and header.head_count else 0
