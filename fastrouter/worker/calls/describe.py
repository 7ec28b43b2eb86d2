"""What a worker reports about its model: Ready's `meta`, and the answers to `props` and `slots`, with llama-server's names.

Only reads; owns nothing.
"""

from typing import Any

from fastrouter.ipc.messages import Load
from fastrouter.options.limits import UINT32_MAX
from fastrouter.worker.engine.engine import Engine
from fastrouter.worker.llama.binding import cpu_variant
from fastrouter.worker.llama.context import Context
from fastrouter.worker.llama.model import Model
from fastrouter.worker.sampling.grammar import shown
from fastrouter.worker.sampling.sampler import Sampler


def meta(model: Model, context: Context, engine: Engine, load_ms: dict[str, float]) -> dict[str, Any]:
    """Ready's `meta`."""
    return {
        "vocab_type": model.vocab.type,
        "n_vocab": model.vocab.n_tokens,
        "n_ctx": context.n_ctx_slot,
        "n_ctx_train": model.n_ctx_train,
        "n_embd": model.n_embd,
        "n_params": model.n_params,
        "size": model.size_bytes,
        "ftype": model.ftype,
        "architecture": model.meta_value("general.architecture"),
        "total_slots": context.num_slots,
        "chat_template": engine.prompts.template_source,
        "bos_token": engine.prompts.bos_token,
        "eos_token": engine.prompts.eos_token,
        "load_ms": round(sum(load_ms.values()), 2),
        "load_phases_ms": {phase: round(ms, 2) for phase, ms in load_ms.items()},
    }


def cpu(*, is_repacking: bool) -> dict[str, Any]:
    """What llama.cpp computes with."""
    return {"variant": cpu_variant(), "is_repacking": is_repacking}


def default_settings(model: Model, engine: Engine, load: Load) -> dict[str, Any]:
    """The generation settings of a request that sets none."""
    settings = Sampler(model.vocab, {}, engine.sampling).settings()
    seed = engine.sampling.get("seed", -1) & UINT32_MAX  # as it was given, not the random one
    asked = {"n_predict": load.options.n_predict, "max_tokens": load.options.n_predict, "n_keep": load.options.n_keep, "n_discard": 0}
    return {**settings, "seed": seed, **asked, "stop": load.options.stop, **shown(load.options.constraint), "lora": []}


def props(model: Model, context: Context, engine: Engine, load: Load) -> dict[str, Any]:
    return {
        "default_generation_settings": {"params": default_settings(model, engine, load), "n_ctx": context.n_ctx_slot},
        "total_slots": context.num_slots,
        "model_alias": load.model_id,
        "model_path": load.path,
        "model_ftype": model.ftype,
        "chat_template": engine.prompts.template_source,
        "bos_token": engine.prompts.bos_token,
        "eos_token": engine.prompts.eos_token,
        "is_sleeping": False,
    }


_DONE: dict[str, Any] = {
    "n_prompt_tokens_processed": 0,
    "n_prompt_tokens_cache": 0,
    "next_token": [{"has_next_token": False, "has_new_line": False, "n_remain": -1, "n_decoded": 0}],
}


def slots(context: Context, engine: Engine) -> list[dict[str, Any]]:
    """One entry for each slot; what its running sequence does, or what the last one did."""
    by_slot = {running.slot.id: running for running in engine.running}
    entries: list[dict[str, Any]] = []
    for slot in engine.slots.all:
        entry: dict[str, Any] = {"id": slot.id, "n_ctx": context.n_ctx_slot, "speculative": engine.speculation.is_on}
        entry |= {"is_processing": slot.is_busy, "n_prompt_tokens": len(slot.tokens)}
        running = by_slot.get(slot.id)
        if running is not None:
            entry |= {**running.sequence.task(), **running.standing()}
        elif slot.last_task:
            entry |= {**slot.last_task, **_DONE}
        entries.append(entry)
    return entries


def context_in_words(context: Context) -> str:
    slots = "1 slot" if context.num_slots == 1 else f"{context.num_slots} slots"
    return f"{context.n_ctx} tokens of context {'shared by' if context.is_unified else 'divided among'} {slots}"
