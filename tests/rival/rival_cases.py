"""The table of requests, see rival.py; when fastrouter answers differently on purpose, rival_differs.py says so."""

import base64
from typing import Any

from rival import FLAGGED, GREEDY, HEARING, MARKER, SEEING, Case
from rival_audio import of_audio, of_videos
from tiny_projectors import GIF, JPEG, bmp, data_url, image_part, picture, png

PROMPT = "the cat is on"
CHAT = [{"role": "system", "content": "you"}, {"role": "user", "content": "the red cat"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def _completion(server: str, name: str, prompt: Any = PROMPT, path: str = "/completion", n: int = 8, **more: Any) -> Case:
    return Case(server, name, path, {"prompt": prompt, "max_tokens": n, **GREEDY, **more})


def _chat(server: str, name: str, messages: Any = None, n: int = 8, **more: Any) -> Case:
    return Case(
        server, name, "/v1/chat/completions", {"messages": CHAT if messages is None else messages, "max_tokens": n, **GREEDY, **more}
    )


def _tiny() -> list[Case]:
    long = "the cat " * 600
    return [
        _completion("tiny", "completion"),
        _completion("tiny", "completion of token ids", [1, 260, 270, 280]),
        _completion("tiny", "completion of mixed text and ids", ["the cat", 270, "dog"]),
        _completion("tiny", "completion of two prompts", ["the cat", "a dog"]),
        _completion("tiny", "completion of nothing", ""),
        _completion("tiny", "completion of no tokens", n=0),
        _completion("tiny", "completion of one token", n=1),
        _completion("tiny", "completion, streamed", stream=True),
        _completion("tiny", "completion, streamed with tokens", stream=True, return_tokens=True),
        _completion("tiny", "completion, streamed with timings", stream=True, timings_per_token=True),
        _completion("tiny", "completion with tokens", return_tokens=True),
        _completion("tiny", "completion with a stop word", n=32, stop=["e"]),
        _completion("tiny", "completion with a stop word, streamed", n=32, stop=["e"], stream=True),
        _completion("tiny", "completion that ends", logit_bias=[[2, 1000]]),
        _completion("tiny", "completion with n_probs", n=4, n_probs=3),
        _completion("tiny", "completion with n_probs, streamed", n=4, n_probs=3, stream=True),
        _completion("tiny", "completion with n_probs after sampling", n=4, n_probs=3, post_sampling_probs=True),
        _completion("tiny", "completion with a grammar", grammar='root ::= "dog" | "cat"'),
        _completion("tiny", "completion with response_fields", response_fields=["content", "generation_settings/n_predict", "nothing"]),
        _completion("tiny", "completion with every sampler", top_k=1, samplers=["dry", "top_k", "typ_p", "xtc", "temperature"]),
        _completion("tiny", "completion that ignores its end", ignore_eos=True),
        _completion("tiny", "completion with a token forbidden", logit_bias=[["the", False]]),
        _completion("tiny", "completion with an adapter", lora=[{"id": 0, "scale": 1.0}]),
        _completion("tiny", "completion of n answers", n_cmpl=2),
        _completion("tiny", "text completion", path="/v1/completions"),
        _completion("tiny", "text completion, streamed", path="/v1/completions", stream=True),
        _completion(
            "tiny", "text completion, streamed with usage", path="/v1/completions", stream=True, stream_options={"include_usage": True}
        ),
        _completion("tiny", "text completion with logprobs", path="/v1/completions", n=4, logprobs=3),
        _completion("tiny", "text completion of two prompts", ["the cat", "a dog"], path="/v1/completions"),
        _chat("tiny", "chat"),
        _chat("tiny", "chat, streamed", stream=True),
        _chat("tiny", "chat, streamed with usage", stream=True, stream_options={"include_usage": True}),
        _chat("tiny", "chat, streamed with timings", stream=True, timings_per_token=True),
        _chat("tiny", "chat with logprobs", n=4, logprobs=True, top_logprobs=2),
        _chat("tiny", "chat with logprobs, streamed", n=4, logprobs=True, top_logprobs=2, stream=True),
        _chat("tiny", "chat that is verbose", verbose=True),
        _chat("tiny", "chat that ends", logit_bias={"2": 1000}),
        _chat("tiny", "chat in parts", [{"role": "user", "content": [{"type": "text", "text": "the"}, {"type": "text", "text": "cat"}]}]),
        _chat("tiny", "chat that is begun, streamed", [*CHAT, {"role": "assistant", "content": "the"}], stream=True),
        _chat("tiny", "chat that is begun", [*CHAT, {"role": "assistant", "content": "the"}]),
        _chat("tiny", "chat under another name", model="gpt-3.5-turbo"),
        Case("tiny", "tokens of a chat", "/v1/chat/completions/input_tokens", {"messages": CHAT}),
        Case("tiny", "tokenize", "/tokenize", {"content": "the cat is ä"}),
        Case("tiny", "tokenize with special ones", "/tokenize", {"content": "</s>the", "add_special": True}),
        Case("tiny", "tokenize with pieces", "/tokenize", {"content": "the ä", "with_pieces": True}),
        Case("tiny", "tokenize nothing", "/tokenize", {}),
        Case("tiny", "detokenize", "/detokenize", {"tokens": [260, 270, 280]}),
        Case("tiny", "detokenize nothing", "/detokenize", {}),
        Case("tiny", "apply a template", "/apply-template", {"messages": CHAT}),
        Case("tiny", "health", "/health"),
        Case("tiny", "models", "/v1/models"),
        Case("tiny", "props", "/props"),
        Case("tiny", "props that cannot be changed", "/props", {}),
        Case("tiny", "slots", "/slots"),
        Case("tiny", "adapters", "/lora-adapters"),
        Case("tiny", "adapters, set", "/lora-adapters", [{"id": 0, "scale": 1.0}]),
        Case("tiny", "error: too long", "/completion", {"prompt": long}),
        Case("tiny", "error: too long a chat", "/v1/chat/completions", {"messages": [{"role": "user", "content": long}]}),
        Case("tiny", "error: no JSON", "/completion", b"{"),
        Case("tiny", "error: no prompt", "/completion", {}),
        Case("tiny", "error: a wrong prompt", "/completion", {"prompt": {"a": 1}}),
        Case("tiny", "error: no messages", "/v1/chat/completions", {}),
        Case("tiny", "error: wrong messages", "/v1/chat/completions", {"messages": "hello"}),
        Case("tiny", "error: a wrong type", "/completion", {"prompt": "a", "n_predict": "many"}),
        Case("tiny", "error: a wrong grammar", "/completion", {"prompt": "a", "grammar": "root ::= ("}),
        Case("tiny", "error: a grammar and a schema", "/completion", {"prompt": "a", "grammar": "root ::= [a]", "json_schema": SCHEMA}),
        Case("tiny", "error: embeddings of a generator", "/v1/embeddings", {"input": "the"}),
        Case("tiny", "error: ranks of a generator", "/rerank", {"query": "a", "documents": ["b"]}),
        Case("tiny", "error: a token that is none", "/detokenize", {"tokens": "x"}),
        Case("tiny", "error: logprobs of a stream", "/v1/chat/completions", {"messages": CHAT, "top_logprobs": 2}),
        Case("tiny", "error: no such path", "/v2/nothing"),
        Case("tiny", "error: no such path to post to", "/v2/nothing", {}),
    ]


def _smollm2() -> list[Case]:
    hello = [{"role": "user", "content": "What is the capital of France?"}]
    return [
        _chat("smollm2", "chat", hello, 16),
        _chat("smollm2", "chat, streamed", hello, 16, stream=True),
        _chat("smollm2", "chat with a schema", hello, 24, response_format={"type": "json_schema", "json_schema": {"schema": SCHEMA}}),
        _completion("smollm2", "completion", "The capital of France is", n=12),
        _completion("smollm2", "completion with a schema", "Some JSON:", n=24, json_schema=SCHEMA),
        _completion("smollm2", "completion with penalties", "One two three", n=12, repeat_penalty=1.3, presence_penalty=0.5),
        Case("smollm2", "tokenize", "/tokenize", {"content": "Hello, wörld! 日本 👍", "with_pieces": True}),
        Case("smollm2", "tokenize a chat's marks", "/tokenize", {"content": "<|im_start|>user\nhi<|im_end|>", "parse_special": True}),
        Case("smollm2", "tokenize marks as text", "/tokenize", {"content": "<|im_start|>user", "parse_special": False}),
        Case("smollm2", "detokenize", "/detokenize", {"tokens": [19556, 28, 905, 17]}),
        Case("smollm2", "apply a template", "/apply-template", {"messages": hello}),
        Case("smollm2", "models", "/models"),
    ]


def _vectors() -> list[Case]:
    texts = ["the cat", "a red house", "over the moon"]
    documents = {"query": "the cat", "documents": texts}
    return [
        Case("embedder", "embeddings", "/v1/embeddings", {"input": texts, "model": "any"}),
        Case("embedder", "embeddings in base64", "/v1/embeddings", {"input": "the cat", "encoding_format": "base64"}),
        Case("embedder", "embeddings of ids", "/v1/embeddings", {"input": [[2, 5, 9, 3]]}),
        Case("embedder", "llama-server's own", "/embedding", {"content": "the cat"}),
        Case("embedder", "llama-server's own of several", "/embedding", {"content": texts}),
        Case("embedder", "embedding of nothing", "/v1/embeddings", {"input": ""}),
        Case("embedder", "embeddings of parts", "/v1/embeddings", {"input": ["the", {"content": [{"type": "text", "text": "the cat"}]}]}),
        Case("embedder", "error: no input", "/v1/embeddings", {}),
        Case("embedder", "error: too long", "/v1/embeddings", {"input": "the cat " * 200}),
        Case("embedder", "error: a completion", "/completion", {"prompt": "the", "n_predict": 4}),
        Case("ranker", "ranks", "/v1/rerank", documents),
        Case("ranker", "the best of them", "/rerank", {**documents, "top_n": 1}),
        Case("ranker", "ranks in TEI's shape", "/rerank", {"query": "the cat", "texts": texts, "return_text": True}),
        Case("ranker", "error: no query", "/rerank", {"documents": texts}),
        Case("ranker", "error: no documents", "/rerank", {"query": "the cat", "documents": []}),
    ]


def _router() -> list[Case]:
    return [
        Case("router", "models", "/models"),
        Case("router", "props", "/props"),
        Case("router", "chat", "/v1/chat/completions", {"model": "tiny1", "messages": CHAT, "max_tokens": 4, **GREEDY}),
        Case("router", "props of a model", "/props?model=tiny1"),
        Case("router", "error: no model", "/completion", {"prompt": "a"}),
        Case("router", "error: unknown model", "/completion", {"prompt": "a", "model": "nobody"}),
        Case("router", "error: not loaded", "/completion?autoload=false", {"prompt": "a", "model": "tiny2"}),
        Case("router", "error: load a model again", "/models/load", {"model": "tiny1"}),
        Case("router", "error: load an unknown model", "/models/load", {"model": "nobody"}),
        Case("router", "error: unload what is not loaded", "/models/unload", {"model": "tiny2"}),
        Case("router", "error: unload an unknown model", "/models/unload", {"model": "nobody"}),
        Case("router", "unload", "/models/unload", {"model": "tiny1"}),
    ]


ONE, OTHER = image_part(png(picture(1))), image_part(png(picture(2, 70, 50)))


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]}


def _seeing(server: str, num_tokens: int = 16) -> list[Case]:
    """A model with a projector."""
    one, other = ONE, OTHER

    def chat(name: str, *messages: dict[str, Any], **more: Any) -> Case:
        return _chat(server, name, list(messages), num_tokens, **more)

    turn = [user("the cat", one), {"role": "assistant", "content": "a dog"}, user("and one of", other, "is red")]
    encoded = base64.b64encode(png(picture(1))).decode()
    anthropic = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": encoded}}

    def url(text: str) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": text}}

    return [
        chat("chat without a picture", {"role": "user", "content": "the cat is"}),
        chat("chat with a picture", user("the cat is", one)),
        chat("chat with another picture", user("the cat is", other)),
        chat("chat with a picture, again", user("the cat is", other)),
        chat("chat with a picture first", user(one, "the cat is")),
        chat("chat with only a picture", user(one)),
        chat("chat with two pictures and text between", user("the", one, "and", other, "two")),
        chat("chat with the same picture twice", user("the", one, one, "two")),
        chat("chat with a JPEG", user("the cat", image_part(JPEG, detail="low"))),
        chat("chat with a GIF", user("the cat", image_part(GIF))),
        chat("chat with a BMP", user("the cat", image_part(bmp(picture(4))))),
        chat("chat with a picture in base64", user("the cat is", url(encoded))),
        chat("chat with a picture, streamed", user("the cat is", one), stream=True, stream_options={"include_usage": True}),
        chat("chat with a system message and a picture", {"role": "system", "content": "you"}, user("the", "red cat", one)),
        chat("chat of two turns with pictures, the first", *turn[:1]),
        chat("chat of two turns with pictures", *turn),
        chat("chat of two turns with other pictures", user("the cat", other), *turn[1:]),
        chat("chat with a picture and a grammar", user("the cat", one), grammar='root ::= "dog" | "cat"'),
        chat("chat with a picture and penalties", user("the cat", one), repeat_penalty=1.3, repeat_last_n=64),
        chat("chat with a broken picture", user("the cat", image_part(png(picture(1))[:60]))),
        chat("chat with a picture that is none", user("the cat", image_part(b"nonsense"))),
        chat("chat with a URL of another kind", user("the cat", url("data:text/plain;base64,YQ=="))),
        chat("chat with a file", user("the cat", url("file://a.png"))),
        Case(server, "messages with a picture", "/v1/messages", {"max_tokens": 16, "messages": [user("the", anthropic)], **GREEDY}),
        Case(server, "props", "/props"),
        Case(server, "models", "/v1/models"),
    ]


def _shown(text: str, *files: bytes) -> dict[str, Any]:
    return {"prompt_string": text, "multimodal_data": [base64.b64encode(file).decode() for file in files]}


def _placing(server: str) -> list[Case]:
    """Prompts in which the client places the pictures itself, templates and counts."""
    one, other = png(picture(1)), png(picture(2, 70, 50))
    message = {
        "role": "user",
        "content": [{"type": "text", "text": "the"}, image_part(one), {"type": "text", "text": "and"}, image_part(other)],
    }
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(one).decode()}
    anthropic = {"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": "the cat"}]}
    response = {"role": "user", "content": [{"type": "input_text", "text": "the"}, {"type": "input_image", "image_url": data_url(other)}]}

    def completion(name: str, prompt: Any, **more: Any) -> Case:
        fields = {} if more else {"response_fields": ["content", "tokens_evaluated", "tokens_predicted", "prompt", "stop_type"]}
        return _completion(server, name, prompt, n=16, **fields, **more)

    return [
        completion("completion with a picture", _shown(f"the {MARKER} cat is", one), cache_prompt=False),
        completion("completion with a picture first", _shown(f"{MARKER} a dog sees", one)),
        completion("completion with two pictures", _shown(f"the {MARKER} and{MARKER} is", one, other)),
        completion("completion of several prompts", [_shown(f"a {MARKER} cat", other), "the cat is", _shown(f"{MARKER} dog", one)]),
        completion("completion with a picture, streamed", _shown(f"we {MARKER} see", one), stream=True, return_tokens=True),
        completion("completion of a prompt without pictures", {"prompt_string": "the cat is"}),
        completion("completion with a marker and no picture", {"prompt_string": f"the {MARKER} is"}),
        completion("error: too few markers", _shown("the cat", one)),
        completion("error: too many markers", _shown(f"{MARKER} the cat {MARKER}", one)),
        completion("error: a broken picture", _shown(f"{MARKER} the", one[:60])),
        completion("error: a picture that is none", _shown(f"{MARKER} the", b"malformed")),
        completion("error: no base64", {"prompt_string": f"{MARKER} the", "multimodal_data": ["%%%"]}),
        Case(server, "apply a template with pictures", "/apply-template", {"messages": [message]}),
        Case(server, "tokens of a chat with pictures", "/v1/chat/completions/input_tokens", {"messages": [message]}),
        Case(server, "tokens of messages with a picture", "/v1/messages/count_tokens", {"messages": [anthropic]}),
        Case(server, "tokens of a response with a picture", "/v1/responses/input_tokens", {"input": [response]}),
        Case(
            server,
            "error: tokens of a chat with a broken picture",
            "/v1/chat/completions/input_tokens",
            {"messages": [{"role": "user", "content": [image_part(one[:60])]}]},
        ),
    ]


def _embedding_pictures(server: str) -> list[Case]:
    one, other = png(picture(1)), png(picture(2, 70, 50))
    parts = [{"type": "text", "text": "the "}, image_part(one), {"type": "text", "text": " cat is"}]
    inputs = [{"content": parts}, _shown(f"the {MARKER} cat is", one), "the cat is", _shown(f"{MARKER} and {MARKER} dog", one, other)]
    first = Case(server, "embeddings of pictures", "/v1/embeddings", {"input": inputs})
    if server != "seeing-last":
        return [first]
    return [
        first,
        Case(server, "embedding of a picture", "/v1/embeddings", {"input": _shown(f"the {MARKER} cat", other)}),
        Case(server, "embedding of parts without a picture", "/v1/embeddings", {"input": {"content": parts[:1]}}),
        Case(server, "llama-server's own", "/embedding", {"content": [_shown(f"{MARKER} the cat", other)]}),
        Case(server, "error: an embedding of a broken picture", "/v1/embeddings", {"input": _shown(f"{MARKER} the", one[:60])}),
        Case(server, "error: an embedding without a marker", "/v1/embeddings", {"input": _shown("the cat", one)}),
        Case(server, "error: an embedding of another part", "/v1/embeddings", {"input": {"content": [{"type": "file"}]}}),
    ]


def _family(server: str) -> list[Case]:
    """What differs between kinds of projectors."""
    wide, tall = image_part(png(picture(5, 300, 60))), image_part(png(picture(6, 60, 400)))
    turn = [user("the cat", wide), {"role": "assistant", "content": "a dog"}, user("and one of", OTHER, "is red")]

    def chat(name: str, *messages: dict[str, Any], n: int = 8, **more: Any) -> Case:
        return _chat(server, name, list(messages), n, **more)

    return [
        chat("chat with a picture", user("the cat is", ONE)),
        chat("chat with a wide picture", user("the cat is", wide)),
        chat("chat with a tall picture first", user(tall, "the cat is")),
        chat("chat with two pictures and text between", user("the", ONE, "and", tall, "two")),
        chat("chat with the same picture twice", user("the", OTHER, OTHER, "two")),
        chat("chat of two turns with pictures, the first", *turn[:1]),
        chat("chat of two turns with pictures", *turn),
        chat("chat with a picture, streamed", user("the cat is", wide), n=6, stream=True, stream_options={"include_usage": True}),
        chat("chat with a picture and a grammar", user("the cat", tall), grammar='root ::= "dog" | "cat"'),
    ]


def _flagged() -> list[Case]:
    """Flags that change what the model computes, or where."""
    return [
        case
        for server in FLAGGED
        for case in (
            _completion(server, "completion", "the cat is on the red mat and the dog sees a moon over the house", n=24),
            _completion(server, "completion with n_probs", "a small bird over the moon", n=4, n_probs=3),
            Case(server, "tokenize", "/tokenize", {"content": "the cat", "add_special": True}),
        )
    ]


def _texts() -> list[Case]:
    """Flags about texts, and the context of a slot."""
    answered = [*CHAT, {"role": "assistant", "content": "the dog"}]
    return [
        Case("texts", "props", "/props"),
        Case("texts", "a template with an answer at its end", "/apply-template", {"messages": answered}),
        _chat("texts", "chat with an answer at its end", answered),
        Case("texts", "chat that is too long", "/v1/chat/completions", {"messages": [{"role": "user", "content": "the cat " * 100}]}),
    ]


CASES = [*_tiny(), *_smollm2(), *_vectors(), *_router(), *_flagged(), *_texts(), *_seeing("llava"), *_seeing("gemma3")]
CASES += [*_placing("llava"), *_placing("gemma3"), *_embedding_pictures("seeing-last"), *_embedding_pictures("seeing-mean")]
CASES += [*_seeing("qwen2vl", 8), *(case for server in SEEING if server not in ("llava", "gemma3", "qwen2vl") for case in _family(server))]
CASES += [case for server in HEARING for case in of_audio(server)] + of_videos("both")
