"""`python -m bench.calls SCHEMAS`: do the arguments of forced tool calls always fit their schema?

SCHEMAS is a wheel of `bfcl-eval` (`pip download --no-deps bfcl-eval`), or a folder with its files: one JSON object in each line, with
functions under `function`. Each chosen function is the only tool of one request at each temperature, to SmolLM2-135M and to a model with
random weights. Prints, for each model and temperature, how many answers were whole and valid, how many were cut by the limit of tokens, how
many tools have a schema that is not a JSON schema, and how many answers were wrong.

`--results FILE` keeps each answer in a line; the next run with this file leaves out what is in it, so a long run may be done in parts
(`--minutes`).
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jsonschema

from fastrouter.cli.bench import servers
from fastrouter.cli.bench.load_client import call

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from tiny_models import make_llama

JSON_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
TYPES = {  # Python's and Java's names
    "dict": "object",
    "hashmap": "object",
    "tuple": "array",
    "list": "array",
    "arraylist": "array",
    "char": "string",
    "float": "number",
    "double": "number",
    "int": "integer",
    "long": "integer",
    "bool": "boolean",
}
# All tokens of the random model are equally likely, and a small model repeats itself: they should close more often what they have opened.
CLOSERS = [['"', 4.0], ["}", 4.0], ["]", 4.0]]
NUM_STREAMS = 4
MODELS = ("smollm2", "noise")
VERDICTS = ("valid", "cut", "no JSON schema", "wrong")


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: which tool of the chosen ones."""

    model: str
    number: int
    temperature: float


@dataclass(frozen=True, slots=True)
class Answer:
    verdict: str
    num_tokens: int = 0
    problem: str = ""


def texts_in(path: Path) -> Iterator[str]:
    """The data files in a wheel or a folder."""
    if path.is_dir():
        yield from (file.read_text() for file in sorted(path.rglob("*.json")))
        return
    with zipfile.ZipFile(path) as wheel:
        yield from (wheel.read(name).decode() for name in sorted(wheel.namelist()) if name.endswith(".json") and "/data/" in name)


def functions_in(path: Path) -> list[dict[str, Any]]:
    """Every function with a schema, once, in an order that does not change."""
    found: dict[str, dict[str, Any]] = {}
    for line in (line for text in texts_in(path) for line in text.splitlines() if line.startswith("{")):
        try:
            functions = json.loads(line).get("function", [])
        except ValueError:
            continue
        for function in functions if isinstance(functions, list) else [functions]:
            if isinstance(function, dict) and isinstance(function.get("parameters"), dict):
                found[json.dumps(function, sort_keys=True)] = function
    return [found[key] for key in sorted(found)]


def tool_of(function: dict[str, Any]) -> dict[str, Any]:
    name = re.sub(r"[^\w-]", "_", function["name"])[:64]
    described = {"name": name, "description": function.get("description", ""), "parameters": plain(function["parameters"])}
    return {"type": "function", "function": described}


def plain(schema: Any) -> Any:
    """With JSON Schema's names of types; a type that it does not have may be anything."""
    if isinstance(schema, list):
        return [plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kind = schema.get("type")
    changed = {key: plain(value) for key, value in schema.items()}
    if isinstance(kind, str):
        named = TYPES.get(kind.lower(), kind.lower())
        changed = {key: value for key, value in changed.items() if key != "type"} | ({"type": named} if named in JSON_TYPES else {})
    return changed


def answer_of(port: int, ask: Ask, tool: dict[str, Any], max_tokens: int) -> Answer:
    try:
        jsonschema.Draft202012Validator.check_schema(tool["function"]["parameters"])
    except jsonschema.SchemaError as error:
        return Answer("no JSON schema", problem=error.message[:200])
    body: dict[str, Any] = {
        "model": ask.model,
        "messages": [{"role": "user", "content": f"Use the tool {tool['function']['name']}."}],
        "tools": [tool],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "temperature": ask.temperature,
        "seed": 1,
        "max_tokens": max_tokens,
        "logit_bias": CLOSERS,
    }
    status, whole = call(port, "POST", "/v1/chat/completions", body, timeout_s=1200)
    if status != 200:
        return Answer("wrong", problem=f"{status}: {whole}")
    [choice] = whole["choices"]
    num_tokens = whole["usage"]["completion_tokens"]
    if choice["finish_reason"] == "length":
        return Answer("cut", num_tokens)
    try:
        [made] = choice["message"]["tool_calls"]
        assert made["function"]["name"] == tool["function"]["name"]
        jsonschema.validate(json.loads(made["function"]["arguments"]), tool["function"]["parameters"])
    except Exception as error:  # any of them is a finding
        return Answer("wrong", num_tokens, f"{tool['function']['name']}: {type(error).__name__}: {str(error)[:200]}: {choice}")
    return Answer("valid", num_tokens)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.calls", description=__doc__)
    parser.add_argument("schemas", type=Path, help="a wheel of bfcl-eval, or a folder with its data")
    parser.add_argument("--count", type=int, default=300, help="functions, chosen by chance (default: 300)")
    parser.add_argument("--max-tokens", type=int, default=500, help="of each answer (default: 500)")
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--temperatures", nargs="*", type=float, default=[0.0, 1.5])
    parser.add_argument("--results", type=Path, help="a file that keeps the answers")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no request begins after them")
    arguments = parser.parse_args()
    functions = functions_in(arguments.schemas)
    chosen = random.Random(1).sample(functions, min(arguments.count, len(functions)))
    tools = [tool_of(function) for function in chosen]
    print(f"{len(tools)} of {len(functions)} functions, at most {arguments.max_tokens} tokens", flush=True)
    found = kept_in(arguments.results)
    # The temperatures of a tool follow each other: their prompt is computed once.
    asks = [
        Ask(model, number, temperature)
        for model in arguments.models
        for number in range(len(tools))
        for temperature in arguments.temperatures
    ]
    with tempfile.TemporaryDirectory() as folder:
        make_models(Path(folder))
        flags = ["--models-dir", folder, "-c", str(8192 * NUM_STREAMS), "-np", str(NUM_STREAMS)]
        with servers.running(None, flags, dict(os.environ), Path(folder) / "log") as server:
            end = time.monotonic() + 60 * arguments.minutes

            def answer(ask: Ask) -> None:
                if time.monotonic() < end:
                    found[ask] = answer_of(server.port, ask, tools[ask.number], arguments.max_tokens)
                    keep(arguments.results, ask, found[ask])

            with ThreadPoolExecutor(NUM_STREAMS) as pool:
                list(pool.map(answer, [ask for ask in asks if ask not in found]))
    for model in arguments.models:
        for temperature in arguments.temperatures:
            show(model, temperature, [one for ask, one in found.items() if (ask.model, ask.temperature) == (model, temperature)])


def kept_in(results: Path | None) -> dict[Ask, Answer]:
    lines = results.read_text().splitlines() if results is not None and results.exists() else []
    return {Ask(**asked): Answer(**answer) for asked, answer in map(json.loads, lines)}


def keep(results: Path | None, ask: Ask, answer: Answer) -> None:
    if results is not None:
        with results.open("a") as file:
            file.write(json.dumps([asdict(ask), asdict(answer)]) + "\n")


def make_models(folder: Path) -> None:
    make_llama(folder / "noise.gguf", num_silent=2, n_ctx=8192)
    demo = Path(__file__).parent.parent / "packaging" / "demo_model.py"
    path = subprocess.run([sys.executable, str(demo)], check=True, capture_output=True, text=True).stdout.strip()
    (folder / "smollm2.gguf").symlink_to(path)


def show(model: str, temperature: float, answers: list[Answer]) -> None:
    counts = Counter(answer.verdict for answer in answers)
    print(f"{model} at {temperature:g}: {', '.join(f'{counts[verdict]} {verdict}' for verdict in VERDICTS)}", flush=True)
    for answer in answers:
        if answer.verdict == "wrong":
            print(f"    {answer.problem}")


if __name__ == "__main__":
    main()
