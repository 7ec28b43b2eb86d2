"""Requests for both servers: llama-server b11434 and fastrouter, with the same models and the same flags.

Invariant: every request is greedy or has one right answer, so that two servers, or two CPUs, must give the same text.
"""

import http.client
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gguf
from tiny_audio import make_both, make_ultravox
from tiny_encoders import make_bert
from tiny_models import make_control_vector, make_llama, make_lora
from tiny_projectors import (
    make_gemma3,
    make_gemma4,
    make_internvl,
    make_llava,
    make_llava16,
    make_pixtral,
    make_qwen2vl,
    make_qwen3vl,
    make_qwen3vl_text,
    make_qwen25vl,
    make_smolvlm,
    make_smolvlm_text,
)
from tiny_video import make_programs

BUILD = "b11434"
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
MARKER = "<__media__>"  # of pictures in prompts
GREEDY = {"temperature": 0, "seed": 1}


@dataclass(frozen=True)
class Case:
    """One request."""

    server: str
    name: str
    path: str
    body: Any = None  # None: GET; bytes are sent unchanged
    method: str = ""
    content_type: str = "application/json"

    @property
    def id(self) -> str:
        return f"{self.server}: {self.name}"


def make_models(folder: Path) -> None:
    """All except SmolLM2."""
    (folder / "dir").mkdir()
    make_llama(folder / "tiny.gguf", seed=0, chat_template=TEMPLATE)
    make_lora(folder / "lora.gguf", seed=1, task_name="rhymes")
    make_control_vector(folder / "vector.gguf", seed=4)
    make_bert(folder / "embedder.gguf")
    make_bert(folder / "ranker.gguf", seed=3, pooling=gguf.PoolingType.RANK)
    make_llama(folder / "sees.gguf", seed=1, chat_template=TEMPLATE)
    make_llama(folder / "qwen2vl.gguf", seed=1, chat_template=TEMPLATE, architecture="qwen2vl")
    make_qwen3vl_text(folder / "qwen3vl.gguf", seed=1, chat_template=TEMPLATE)
    make_smolvlm_text(folder / "smolvlm.gguf", seed=1, chat_template=TEMPLATE)
    for name, seeing in SEEING.items():
        seeing.make(folder / f"mmproj-{name}.gguf", seed=seeing.seed)
    make_ultravox(folder / "mmproj-ultravox.gguf")
    make_both(folder / "mmproj-both.gguf")
    make_programs(folder / "programs")
    for seed in (1, 2):
        make_llama(folder / "dir" / f"tiny{seed}.gguf", seed=seed)


def flags_of(server: str, folder: Path, smollm2: Path) -> list[str]:
    """Understood by both."""
    shared = ["-t", "2", "--host", "127.0.0.1"]
    one = ["--slots", "--metrics", *shared]
    if server in SEEING:
        model = ["-m", str(folder / f"{SEEING[server].model}.gguf"), "--mmproj", str(folder / f"mmproj-{server}.gguf"), "--alias", server]
        return [*model, "-c", "2048", "-np", "1", *SEEING[server].flags, *one]
    if server in EMBEDDING_PICTURES:
        model = ["-m", str(folder / "sees.gguf"), "--mmproj", str(folder / "mmproj-llava.gguf"), "--alias", server, "--embeddings"]
        return [*model, "--pooling", EMBEDDING_PICTURES[server], "-c", "2048", "-np", "1", *one]
    if server in HEARING:
        model = ["-m", str(folder / "sees.gguf"), "--mmproj", str(folder / f"mmproj-{server}.gguf"), "--alias", server]
        videos = ["--video-ffmpeg-dir", str(folder / "programs")] if server == "both" else []
        return [*model, "-c", "2048", "-np", "1", *one, *videos]
    return {
        "tiny": ["-m", str(folder / "tiny.gguf"), "--alias", "tiny", "-c", "2048", "-np", "2", "--lora", str(folder / "lora.gguf"), *one],
        "smollm2": ["-m", str(smollm2), "--alias", "smollm2", "-c", "2048", "-np", "2", *one],
        "embedder": ["-m", str(folder / "embedder.gguf"), "--alias", "embedder", "-c", "128", "-np", "1", "--embeddings", *one],
        "ranker": ["-m", str(folder / "ranker.gguf"), "--alias", "ranker", "-c", "128", "-np", "1", "--reranking", *one],
        "router": ["--models-dir", str(folder / "dir"), "-c", "512", "-np", "1", *shared],
        **{
            name: [
                "-m",
                str(folder / "tiny.gguf"),
                "--alias",
                "tiny",
                "-c",
                "512",
                "-np",
                "1",
                *shared,
                *(flag.replace("VECTOR", str(folder / "vector.gguf")) for flag in flags),
            ]
            for name, flags in FLAGGED.items()
        },
    }[server]


EMBEDDING_PICTURES = {"seeing-last": "last", "seeing-mean": "mean"}


class Seeing(NamedTuple):
    """A model with a projector. `seed`: of the projector; the best token of each answer is then clearly better than the second one."""

    model: str
    make: Callable[..., Path]
    seed: int = 0
    flags: tuple[str, ...] = ()


SEEING = {
    "llava": Seeing("sees", make_llava),
    "gemma3": Seeing("sees", make_gemma3),
    "qwen2vl": Seeing("qwen2vl", make_qwen2vl, 3),
    "sized": Seeing("qwen2vl", make_qwen2vl, 17, ("--image-min-tokens", "2", "--image-max-tokens", "6")),
    "qwen25vl": Seeing("qwen2vl", make_qwen25vl, 5),
    "qwen3vl": Seeing("qwen3vl", make_qwen3vl, 3),
    "pixtral": Seeing("sees", make_pixtral, 8),
    "smolvlm": Seeing("smolvlm", make_smolvlm),
    "internvl": Seeing("sees", make_internvl, 1),
    "llava16": Seeing("sees", make_llava16, 10),
    "gemma4": Seeing("sees", make_gemma4, 3),
}
HEARING = ("ultravox", "both")
FLAGGED = {
    "linear": ["--rope-scaling", "linear", "--rope-scale", "4", "--rope-freq-base", "500000"],
    "yarn": ["--rope-scaling", "yarn", "--rope-freq-scale", "0.25", "--yarn-orig-ctx", "128", "--yarn-beta-fast", "16"],
    "vector": ["--control-vector-scaled", "VECTOR:0.5", "--control-vector-layer-range", "1", "1"],
    "metadata": ["--override-kv", "tokenizer.ggml.add_bos_token=bool:false,llama.rope.freq_base=float:100", "--check-tensors"],
    "texts": ["--no-escape", "-r", "\\n", "--no-prefill-assistant", "--kv-unified-per-slot", "128"],
    "placed": ["-ot", "blk.0.ffn_up=CPU", "--n-cpu-ffn", "1", "-dev", "none", "--no-repack", "-nkvo", "--no-host", "-lzm", "off"],
}
SERVERS = ("tiny", "smollm2", "embedder", "ranker", "router", *FLAGGED, *SEEING, *EMBEDDING_PICTURES, *HEARING)


def ask(port: int, case: Case) -> dict[str, Any]:
    """Status and body; the events of a stream."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    data = case.body if isinstance(case.body, bytes | None) else json.dumps(case.body).encode()
    connection.request(case.method or ("GET" if case.body is None else "POST"), case.path, data, {"Content-Type": case.content_type})
    response = connection.getresponse()
    content_type, text = response.getheader("Content-Type", ""), response.read().decode()
    connection.close()
    answer: dict[str, Any] = {"status": response.status, "type": content_type.partition(";")[0]}
    if answer["type"] == "text/event-stream":
        answer["events"] = list(_events(text))
    elif answer["type"] == "application/json":
        answer["json"] = json.loads(text)
    else:
        answer["text"] = text
    return answer


def _events(text: str) -> Iterator[Any]:
    for line in text.splitlines():
        if line.startswith("data: "):
            yield line[6:] if line == "data: [DONE]" else json.loads(line[6:])
