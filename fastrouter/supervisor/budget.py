"""How much memory a model needs. Knows no instance and no machine.

Estimates from the file's header: what llama.cpp allocates in the end depends on its version and the machine.
"""

from fastrouter.catalog import ModelSpec

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
_MOST_BESIDE_BYTES = 64 << 20  # vocabulary, graph, buffers of one ubatch: beside the cache
_LEAST_BESIDE_BYTES = 8 << 20


def heap_bytes(spec: ModelSpec) -> int:
    """What loading it allocates beside its mapped weights: the KV cache, mostly. 0 when the header does not tell."""
    header, options = spec.header, spec.options
    if header is None or not (header.block_count and header.embedding_length and header.head_count):
        return 0
    num_tokens = options.ctx_size or header.context_length or 0
    num_values = (
        num_tokens * header.block_count * header.embedding_length // header.head_count * (header.head_count_kv or header.head_count)
    )
    per_token = sum(_BYTES_PER_VALUE.get(kind, 2.0) for kind in (options.cache_type_k, options.cache_type_v))
    beside = max(_LEAST_BESIDE_BYTES, min(_MOST_BESIDE_BYTES, spec.size_bytes))
    return int(num_values * per_token) + beside
