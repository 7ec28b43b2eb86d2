"""The cost of a switch, seen from outside: seconds from before connect to the first character of text.

Used by `fastrouter bench` and by `python -m bench` of the repository, so that both mean the same.
"""

import re
import time
from collections.abc import Sequence

from fastrouter.cli.bench.load_client import request_bytes, stream_all
from fastrouter.cli.bench.servers import MeasuredServer

SHORT = "Say hello."
NUM_BACK = 2  # in a round
_PROMPT_TOKENS = re.compile(rb'"(?:prompt|cache)_n":(\d+)')  # read, and taken from a cache; at the end of a stream
PAUSE_S = 0.3  # between loads: the work of a server after a load is not part of the next one


def ttft(server: MeasuredServer, model: str, prompt: str = SHORT, max_tokens: int = 4) -> float:
    return stream_all(server.port, [request_bytes(model, prompt, max_tokens)])[0].ttft_s


def cold(server: MeasuredServer, model: str, num: int) -> list[float]:
    """For a model that is not loaded, with room for it."""
    samples = []
    for _ in range(num):
        samples.append(ttft(server, model))
        server.unload(model)
        time.sleep(PAUSE_S)
    return samples


def in_turn(server: MeasuredServer, models: Sequence[str], num: int, pause_s: float = PAUSE_S) -> list[float]:
    """One after the other; after the last one, again from the first."""
    samples = []
    for index in range(num):
        samples.append(ttft(server, models[index % len(models)]))
        time.sleep(pause_s)
    return samples


def back(server: MeasuredServer, model: str, other: str, history: str, samples: dict[str, list[float]]) -> None:
    """The next turn of a conversation whose model was evicted meanwhile, and its first turn, which reads all of it. There is room for one
    model."""
    for number in range(NUM_BACK):
        prompt = f"{number}. {history}"
        first = stream_all(server.port, [request_bytes(model, prompt, 4)])[0]
        num_tokens = round(sum(int(count) for count in _PROMPT_TOKENS.findall(first.body)[-2:]), -1)
        ttft(server, other)
        time.sleep(PAUSE_S)
        samples[f"back to {num_tokens} tokens on {model}"].append(ttft(server, model, f"{prompt} And then?"))
        samples[f"reading these {num_tokens} tokens on {model}"].append(first.ttft_s)


def hot(server: MeasuredServer, staying: str, models: Sequence[str], num: int) -> tuple[list[float], list[float]]:
    """(staying on one, alternating between all) for loaded models; both are measured in turns."""
    stay, switch = [], []
    for index in range(num):
        stay.append(ttft(server, staying))
        switch.append(ttft(server, models[index % len(models)]))
    return stay, switch
