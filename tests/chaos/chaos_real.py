"""The same with real workers and tiny real models: a small share."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from chaos_client import BROKEN, KEPT, Answer, Counts, ask
from chaos_faults import times
from chaos_site import At, kill
from conftest import Router, StartRouter, eventually, is_alive
from tiny_models import make_llama

NUM_TOKENS = 60


async def real(start: StartRouter, folder: Path, seed: int, share: float) -> Counts:
    counts = Counts("F4, F5 real", "real workers die or are stopped")
    folder.mkdir()
    for number in range(2):
        make_llama(folder / f"tiny{number}.gguf", seed=seed + number)
    router = await asyncio.to_thread(start, "-c", "1024", "--worker-hang-timeout", "3", models_dir=folder)
    prompts = [f"Once {word}" for word in ("upon", "more", "again")]
    expected = {}
    for model in ("tiny0", "tiny1"):
        for prompt in prompts:
            expected[model, prompt] = await asyncio.to_thread(_text, router, _body(model, prompt))
    for number in range(times(20, share, 3)):
        how = [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP][number % 3]
        counts.faults[how.name] += 1
        await _break(router, counts, prompts, expected, how)
    return counts


def _body(model: str, prompt: str) -> dict[str, Any]:
    return {"model": model, "prompt": prompt, "max_tokens": NUM_TOKENS, "temperature": 0, "stream": True, "ignore_eos": True}


def _text(router: Router, body: dict[str, Any]) -> str:
    return str(router.post("/v1/completions", {**body, "stream": False}).json["choices"][0]["text"])


async def _break(router: Router, counts: Counts, prompts: list[str], expected: dict[tuple[str, str], str], how: signal.Signals) -> None:
    """Streams of both models; the worker of one is hit while they run."""
    begun = At(3)

    async def stream(model: str, prompt: str) -> Answer:
        return await ask(router.port, _body(model, prompt), expected[model, prompt], begun, "/v1/completions")

    hit = [asyncio.create_task(stream("tiny0", prompt)) for prompt in prompts]
    calm = [asyncio.create_task(stream("tiny1", prompt)) for prompt in prompts]
    await asyncio.wait([asyncio.gather(*hit), asyncio.create_task(begun.reached.wait())], return_when=asyncio.FIRST_COMPLETED)
    begun.reached.set()
    worker = router.worker_of("tiny0")
    kill(worker, how)
    for answer in await asyncio.gather(*hit):
        counts.take(answer)
        counts.expect(answer.kind in (KEPT, BROKEN), f"{how.name}: {answer.kind}: {answer.why}")
    for answer in await asyncio.gather(*calm):
        counts.take(answer, is_calm=True)
    counts.expect(counts.take(await stream("tiny0", prompts[0])).kind == KEPT, "the next request is not served")
    await asyncio.to_thread(eventually, lambda: not is_alive(worker) or not os.path.exists(f"/proc/{worker}"), "the end of the worker")
