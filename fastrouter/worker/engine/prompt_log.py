"""--log-prompts-dir: a file for each prompt, with llama-server's names. It never ends a request: what cannot be written is left out.

The prompt of a completion is written as it was sent, that of a chat as the model reads it.
"""

import json
import os
import sys
import time

from fastrouter.ipc.messages import Generate
from fastrouter.worker.llama.vocab import Vocab


class PromptLog:
    def __init__(self, folder: str | None, vocab: Vocab) -> None:
        """`folder` None: nothing is written."""
        self._folder = folder
        self._vocab = vocab

    def write(self, generate: Generate, tokens: list[int]) -> None:
        if self._folder is None:
            return
        path = os.path.join(self._folder, f"{time.time_ns() // 10**6:012d}.txt")
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(self._content(generate, tokens))
        except OSError as error:
            sys.stderr.write(f"--log-prompts-dir: {path}: {error.strerror or error}\n")

    def _content(self, generate: Generate, tokens: list[int]) -> bytes:
        if generate.messages is not None or generate.infill is not None:
            own = tokens[1:] if tokens[:1] == [self._vocab.bos] and self._vocab.add_bos else tokens
            return self._vocab.text_of(own).encode("utf-8", "replace")
        prompt = generate.prompt
        return (prompt if isinstance(prompt, str) else json.dumps(prompt, indent=2)).encode("utf-8", "replace")
