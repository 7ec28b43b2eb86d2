"""llama-server's flags that name a known model with settings that suit it, as --gpt-oss-20b-default. Only a table."""

_FIM = {"--port": "8012", "-ub": "1024", "-b": "1024", "-c": "0", "--cache-reuse": "256"}
_GPT_OSS = {
    "--port": "8013",
    "-ub": "2048",
    "-b": "32768",
    "-np": "2",
    "-c": "262144",
    "--temp": "1.0",
    "--top-p": "1.0",
    "--top-k": "0",
    "--min-p": "0.01",
    "--jinja": "true",
}
_VISION = {"--port": "8014", "-c": "0", "--jinja": "true"}
_EMBEDDING = {"--port": "8011", "-ub": "2048", "-b": "2048", "-np": "32", "-c": "65536", "--embeddings": "true"}


def _model(repo: str, file: str = "") -> dict[str, str]:
    return {"--hf-repo": f"ggml-org/{repo}", **({"--hf-file": file} if file else {})}


_GUESSER = {"--hf-repo-draft": "ggml-org/Qwen2.5-Coder-0.5B-Q8_0-GGUF"}

READY_MADE: dict[str, dict[str, str]] = {
    "--embd-gemma-default": {**_model("embeddinggemma-300M-qat-q4_0-GGUF", "embeddinggemma-300M-qat-Q4_0.gguf"), **_EMBEDDING},
    "--fim-qwen-1.5b-default": {**_model("Qwen2.5-Coder-1.5B-Q8_0-GGUF", "qwen2.5-coder-1.5b-q8_0.gguf"), **_FIM},
    "--fim-qwen-3b-default": {**_model("Qwen2.5-Coder-3B-Q8_0-GGUF", "qwen2.5-coder-3b-q8_0.gguf"), **_FIM},
    "--fim-qwen-7b-default": {**_model("Qwen2.5-Coder-7B-Q8_0-GGUF", "qwen2.5-coder-7b-q8_0.gguf"), **_FIM},
    "--fim-qwen-7b-spec": {**_model("Qwen2.5-Coder-7B-Q8_0-GGUF", "qwen2.5-coder-7b-q8_0.gguf"), **_FIM, **_GUESSER},
    "--fim-qwen-14b-spec": {**_model("Qwen2.5-Coder-14B-Q8_0-GGUF", "qwen2.5-coder-14b-q8_0.gguf"), **_FIM, **_GUESSER},
    "--fim-qwen-30b-default": {**_model("Qwen3-Coder-30B-A3B-Instruct-Q8_0-GGUF", "qwen3-coder-30b-a3b-instruct-q8_0.gguf"), **_FIM},
    "--gpt-oss-20b-default": {**_model("gpt-oss-20b-GGUF", "gpt-oss-20b-mxfp4.gguf"), **_GPT_OSS},
    "--gpt-oss-120b-default": {**_model("gpt-oss-120b-GGUF"), **_GPT_OSS},
    "--vision-gemma-4b-default": {**_model("gemma-3-4b-it-qat-GGUF"), **_VISION},
    "--vision-gemma-12b-default": {**_model("gemma-3-12b-it-qat-GGUF"), **_VISION},
}
