"""Where fastrouter answers differently from llama-server on purpose: case -> path -> why. `*` is anything, in both.

Invariant: a line here means that fastrouter's answer is better, and says why in one line.
"""

from fnmatch import fnmatchcase

LEAN = "the events of a plain stream hold text only; return_tokens asks for more"
NAMED = "the message names the field and what it must be"
NEVER = "it can never work, so it is a 400: clients repeat a request that got a 5xx"
KNOWN = "what a router knows of its models"
ONE_BUDGET = "usage counts all prompts, not only the first"
NO_END = "a grammar that is complete ends the answer; no token is spent on the end"
OTHER_GRAMMARS = "schemas are followed by llguidance, which leaves other white space open; both answers fit the schema"

NO_VIDEO = "videos need ffmpeg, and not all of these servers have it"

DIFFERS: dict[str, dict[str, str]] = {
    **{
        f"*: chat with a {what}": {"json.error.message": NAMED, "json.error.param": NAMED}
        for what in ("broken picture", "picture that is none", "URL of another kind", "file")
    },
    **{
        f"*: chat with {what} and a grammar": {
            f"json.{name}": NO_END for name in ("usage.completion_tokens", "usage.total_tokens", "timings.predicted_n")
        }
        for what in ("a picture", "audio")
    },
    **{
        f"*: {what}": {"json.error.message": NAMED, "json.error.param": NAMED}
        for what in (
            "chat with broken audio",
            "chat with audio that is none",
            "chat with a broken video",
            "transcription as subtitles",
            "transcription of nothing",
        )
    },
    "ultravox: chat with audio and a picture": {"json.error.*": NEVER, "status": NEVER},
    "*: transcription as text": {"*": "it is served"},
    "*: messages with a picture": {"json.usage.cache_creation_input_tokens": "Anthropic's clients read it"},
    "tiny: completion of no tokens": {
        "json.content": "n_predict 0 fills the cache and generates nothing, as llama-server's documentation has it",
        "json.tokens_predicted": "as content",
        "json.timings.predicted_n": "as content",
    },
    "*: error: tokens of a chat with a broken picture": {"json.error.*": NEVER, "status": NEVER},
    "*: error: an embedding *": {"json.error.*": NEVER, "status": NEVER},
    "seeing-mean: embeddings of pictures": {
        f"json.data.{index}.embedding.*": "the mean of all tokens, not only of those after the last picture" for index in (0, 1, 3)
    },
    "tiny: completion*, streamed*": {"event.*.tokens": LEAN},
    "tiny: completion, streamed": {f"event.*.{name}": LEAN for name in ("id_slot", "tokens_evaluated", "tokens_predicted")},
    "tiny: completion with a stop word, streamed": {
        f"event.*.{name}": LEAN for name in ("id_slot", "tokens_evaluated", "tokens_predicted", "timings")
    },
    "*: completion with a grammar": {f"json.{name}": NO_END for name in ("tokens_predicted", "tokens_cached", "timings.predicted_n")},
    "tiny: text completion with logprobs": {
        f"json.choices.*.logprobs.{name}": "OpenAI's lists, beside llama-server's `content`"
        for name in ("text_offset", "token_logprobs", "tokens", "top_logprobs")
    },
    "tiny: text completion of two prompts": {"json.usage.*": ONE_BUDGET},
    "tiny: chat that is verbose": {
        "json.__verbose.generation_settings.chat_format": "there is one parser of answers",
        "json.__verbose.generation_settings.generation_prompt": "it is in `prompt`",
    },
    "tiny: chat that is begun*": {
        "json.choices.*.message.content": "an answer is what is new: the client has sent the beginning itself",
        "text": "an answer is what is new",
    },
    "*: models": {
        "json.models": "Codex wants a list there",
        **{f"json.data.*.{name}": KNOWN for name in ("capabilities", "can_remove", "details", "source", "status*", "chat_template*")},
        "json.data.*.spellings": KNOWN,
        "json.data.*.meta": "known before the model is loaded",
        "json.data.*.aliases": "the other names, without the id",
        "json.data.*.architecture.input_modalities": NO_VIDEO,
        "json.data.*.architecture.image_size": KNOWN,
    },
    "*: props*": {
        "json.is_loaded": "props are there without a load",
        "json.chat_template_caps.*": "told from the template's syntax, without running it",
        "json.chat_template": "a built-in template is called by its name",
        "json.default_generation_settings.params.*": "all settings, and the same ones as in an answer",
        "json.endpoint_metrics": "on without --metrics",
        "json.modalities.video": NO_VIDEO,
        "json.ui": "of the web page",
        "json.model_alias": "the program's own name, of a router",
    },
    "tiny: slots": {
        "json.*.id_task": "requests are numbered otherwise",
        "json.*.params*": "sampling and limits; the rest has one value only",
        "json.*.n_prompt_tokens": "which slot served which request is chance",
    },
    "*: error: *": {"json.error.message": NAMED, "json.error.param": "the field, as in OpenAI's API"},
    "tiny: error: a grammar and a schema": {"*": "which of the two would hold? it is refused"},
    "embedder: error: a completion": {"json.error.*": NEVER, "status": NEVER},
    "tiny: error: embeddings of a generator": {"json.error.*": NEVER, "status": NEVER},
    "tiny: error: ranks of a generator": {"json.error.*": NEVER, "status": NEVER},
    "embedder: embeddings": {"json.model": "the model that answered, not the name that was asked for"},
    "embedder: embeddings in base64": {"json.data.*.embedding": "the last bits of floats; the case before compares the numbers"},
    "smollm2: chat with a schema": {
        **{
            f"json.{name}": OTHER_GRAMMARS
            for name in ("choices.*.message.content", "choices.*.finish_reason", "usage.*", "timings.predicted_n")
        }
    },
    "smollm2: completion with a schema": {
        "json.generation_settings.grammar": "the schema as it is followed, not a grammar made of it",
        "json.generation_settings.json_schema": "as grammar",
        **{f"json.{name}": NO_END for name in ("tokens_predicted", "tokens_cached", "timings.predicted_n")},
    },
}


def allowed_for(case_id: str) -> dict[str, str]:
    """Paths that need not agree, and why."""
    return {path: why for pattern, paths in DIFFERS.items() if fnmatchcase(case_id, pattern) for path, why in paths.items()}
