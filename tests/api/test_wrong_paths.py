"""The answer to an unknown path."""

import pytest

from fastrouter.api.wrong_paths import hint

KNOWN = [
    "/v1/models",
    "/models",
    "/chat/completions",
    "/v1/chat/completions",
    "/v1/embeddings",
    "/tokenize",
    "/props",
    "/health",
    "/api/tags",
]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/v1/chat/completions", ("/v1/chat/completions?", "Leave /v1 out of")),
        ("/v1/v1/models", ("/v1/models?",)),
        ("/openai/v1/models", ("/v1/models?", "Leave /openai out of")),
        ("/api/v1/chat/completions", ("/v1/chat/completions?", "Leave /api out of")),
        ("/v1/chat/completions/chat/completions", ("/chat/completions?",)),
        ("/v1/tokenize", ("/tokenize?",)),
        ("/v1/chat/completion", ("did you mean /v1/chat/completions?",)),
        ("/V1/Models", ("did you mean /v1/models?",)),
        ("/v1", ("/v1/chat/completions", "base URL")),
        ("/v1/api/tags", ("/api/tags?", "Leave /v1 out of")),
        ("/v1/chat", ("/v1/chat/completions?",)),
        ("/v1/chat/completion", ("/v1/chat/completions?",)),
        ("/v1/model", ("/v1/models?",)),
        ("/v1/embedding", ("/v1/embeddings?",)),
    ],
)
def test_what_was_meant(path: str, words: tuple[str, ...]) -> None:
    assert all(word in hint(path, KNOWN) for word in words), hint(path, KNOWN)


@pytest.mark.parametrize("path", ["/", "/favicon.ico", "/wp-login.php", "/v1" + "/x" * 4000, "/something/else"])
def test_what_nothing_comes_near(path: str) -> None:
    assert hint(path, KNOWN) == ""
