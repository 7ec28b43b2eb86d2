"""The last step of `make install`: each CPU variant of llama.cpp that this CPU can run decodes a quantised model. A variant that crashes
is not used any more (fastrouter/supervisor/remedies.py).

Each attempt is a separate process, so a crash is only a report. `--try N MODEL [--safe]` is such a process.
"""

import ctypes
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tiny_quantised

from fastrouter.supervisor.remedies import MAX_DROPPED, NONE, Remedies, Remedy
from fastrouter.supervisor.workers.process import describe_exit

TRY = [sys.executable, os.fspath(Path(__file__).resolve())]
TIMEOUT_S = 120
NONSENSE = 3  # the exit code of a process whose result was wrong
PROMPT, NUM_STEPS = 40, 4  # tokens read together, and one after the other: different code computes them


@dataclass(frozen=True)
class Result:
    variant: str
    exit_code: int | None  # 0: it works; None: it has not ended in time

    @property
    def is_bad(self) -> bool:
        """The variant is the cause; any other exit code means that Python could not try it."""
        return self.exit_code is None or self.exit_code < 0 or self.exit_code == NONSENSE

    def __str__(self) -> str:
        said = {0: "works", None: "does not end", NONSENSE: "computes nonsense"}
        return f"{self.variant} {said.get(self.exit_code) or describe_exit(self.exit_code)}"


def decode(num_dropped: int, path: str, *, safe_mode: bool) -> int:
    """In this process, as a worker does."""
    import numpy as np

    from fastrouter.options.load import LoadOptions
    from fastrouter.worker.llama import binding
    from fastrouter.worker.llama.context import Context
    from fastrouter.worker.llama.model import Model

    binding.start_backends()
    if num_dropped:
        binding.drop_best_variants(num_dropped)
    options = LoadOptions(ctx_size=256, parallel=1, threads=2)
    context = Context(Model(path, options, safe_mode=safe_mode), options)
    steps = [np.arange(1, PROMPT + 1, dtype=np.int32), *([np.array([token], dtype=np.int32) for token in range(NUM_STEPS)])]
    position = 0
    for tokens in steps:
        context.batch.put_prompt(0, tokens, position, 0, wants_logits=True)
        code, position = context.decode(len(tokens)), position + len(tokens)
        logits = np.frombuffer(ctypes.string_at(context.logits(), 4 * context.n_vocab), np.float32)
        if code or not np.isfinite(logits).all() or not logits.any():
            return NONSENSE
    return 0


def try_one(variants: list[str], num_dropped: int, model: Path, *, safe_mode: bool = False) -> Result:
    command = [*TRY, "--try", str(num_dropped), str(model), *["--safe"] * safe_mode]
    try:
        code = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=TIMEOUT_S, env={**os.environ, "GGML_NO_BACKTRACE": "1"}).returncode
    except subprocess.TimeoutExpired:
        code = None
    return Result(variants[num_dropped], code)


def choose(results: list[Result], safe: list[Result]) -> Remedy | None:
    """The best variant that works, then the best one that works without repacked weights; None: there is none."""
    for is_safe, tried in ((False, results), (True, safe)):
        for num_dropped, result in enumerate(tried):
            if not result.is_bad:
                return Remedy(is_safe, num_dropped)
    return None


def report(results: list[Result], safe: list[Result], remedy: Remedy | None) -> str:
    said = f"Tried llama.cpp on this CPU: {', '.join(map(str, results))}"
    if safe:
        said += f"; without repacked weights: {', '.join(map(str, safe))}"
    if remedy is None:
        said += ". Models will not run: no build for this CPU works"
    else:
        said += f". In use: {results[remedy.num_dropped].variant}{' without repacked weights, which is slower' * remedy.safe_mode}"
    if remedy != NONE:
        said += (
            ". A better build may come from another compiler: remove the wheel that `python packaging/llama_wheel.py` names, then"
            " CC=... CXX=... make install"
        )
    return f"{said}."


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--try"]:
        return decode(int(arguments[1]), arguments[2], safe_mode="--safe" in arguments)
    from fastrouter.worker.llama import binding, cpu_variants

    variants = [cpu_variants.name_of(path) for path in cpu_variants.runnable(binding.backend_folder())] or ["its own build"]
    with tempfile.TemporaryDirectory() as folder:
        model = tiny_quantised.write(Path(folder) / "tiny.gguf")
        results = [try_one(variants, number, model) for number in range(len(variants))]
        count = min(len(variants), 1 + MAX_DROPPED)
        has_none = all(result.is_bad for result in results[:count])
        safe = [try_one(variants, number, model, safe_mode=True) for number in range(count)] if has_none else []
    remedy = choose(results[:count], safe)
    print(report(results, safe, remedy))
    remedies = Remedies()
    remedies.settle(remedy or NONE, next((str(result) for result in results if result.is_bad), "none"))
    remedies.save()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
