"""Text in, token ids out: prompts of all shapes, chat messages, and the questions a router asks about them.

Knows the vocabulary and the chat template, but no context, slot or sequence. Bad input raises InvalidRequest here.
"""

import re
import threading
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

from fastrouter.errors import CannotSee, ContextExceeded, InvalidRequest
from fastrouter.ipc.messages import Generate
from fastrouter.options.builtin_templates import FALLBACK
from fastrouter.options.load import LoadOptions
from fastrouter.worker.llama.model import Model
from fastrouter.worker.media.pictures import GivenFile, Pictures, PlacedPicture
from fastrouter.worker.text.chat_template import with_system
from fastrouter.worker.text.rendering import Chat, Renderer
from fastrouter.worker.text.template_format import TemplateFormat
from fastrouter.worker.text_jobs import DECODES, LONG_CHARS, SHORT_CHARS, WAITS, Job, TextJobs, count_chars

_COUNTED_CHARS = 1 << 16
_END_CHARS = 256


class ReadPrompt(NamedTuple):
    """A prompt in the form that the model gets."""

    tokens: "array[int]"
    end: str = ""  # the end of its text, if a template has made it
    pictures: tuple[PlacedPicture, ...] = ()  # in the order of their places


class ShownFiles(NamedTuple):
    """The pictures of a text. `marks`: as in Generate."""

    marks: Sequence[list[str]] = ()
    files: tuple[bytes, ...] = ()

    def of(self, text: Any) -> "ShownFiles":
        """Those whose marks are in this text."""
        found = [index for index, row in enumerate(self.marks) if isinstance(text, str) and row[0] in text]
        return ShownFiles([self.marks[index] for index in found], tuple(self.files[index] for index in found))


class Prompts:
    """Turns requests into tokens for one model."""

    def __init__(self, model: Model, options: LoadOptions, jobs: TextJobs | None = None) -> None:
        self._model = model
        self.jobs = jobs or TextJobs()
        self._vocab = model.vocab
        self._options = options
        given = options.chat_template or model.chat_template
        self.template_source = given or FALLBACK
        # The end of a chat's answer without a template: the prompt is ChatML, and ChatML's end may not be a token of the vocabulary.
        self.fallback_stop = None if given else "<|im_end|>"
        self._renderer = Renderer(self.template_source, {"bos_token": self.bos_token, "eos_token": self.eos_token})
        self.pictures: Pictures | None = None  # of a model with a projector

    @property
    def continues_by_itself(self) -> bool:
        """An assistant's message at the end of a chat, if the request does not say what becomes of it."""
        return self._options.prefill_assistant

    @property
    def bos_token(self) -> str:
        return self._vocab.token_text(self._vocab.bos)

    @property
    def eos_token(self) -> str:
        return self._vocab.token_text(self._vocab.eos)

    def start_compiling(self) -> None:
        """Compile the template in another thread, while llama.cpp makes the context."""
        self._renderer.start_compiling()

    def close(self) -> None:
        """Ends the processes that render templates. Idempotent."""
        self._renderer.close()

    def read(self, generate: Generate, limit: int, files: tuple[bytes, ...] = ()) -> ReadPrompt | Job[ReadPrompt]:
        """The prompt, or the job that makes it if that takes long. `files`: those of `generate.pictures`. Raises ContextExceeded, also in
        the job, for a prompt that must have more than `limit` tokens, judged by its size."""
        if generate.messages is not None:
            chat = self._chat(generate)
            text = self._renderer.render_now(chat)
            if text is not None and self._renderer.needs_format(chat) and self._renderer.format_now(chat.source) is None:
                text = None
            if generate.pictures:
                shown = ShownFiles(generate.pictures, files)
                return self.jobs.start(lambda: self._read_seen_chat(text or self._render_whole(chat), shown, limit), DECODES)
            if text is None:
                return self.jobs.start(lambda: self._read_rendered(self._render_whole(chat), limit), WAITS)
            if len(text) > SHORT_CHARS:
                return self.jobs.start(lambda: self._read_rendered(text, limit), len(text))
            return self._read_rendered(text, limit)
        if generate.pictures:
            prompt, shown = str(generate.prompt), ShownFiles(generate.pictures, files)
            return self.jobs.start(lambda: self.read_seen(prompt, shown, limit), DECODES)
        num_chars = count_chars(generate.prompt, LONG_CHARS)
        if num_chars > SHORT_CHARS:
            return self.jobs.start(lambda: ReadPrompt(self.build(generate, limit)[0]), num_chars)
        return ReadPrompt(self.build(generate, limit)[0])

    def build(self, generate: Generate, limit: int | None = None) -> tuple["array[int]", str]:
        """The prompt's tokens, and its text ("" for a list)."""
        if generate.messages is not None:
            text = self.render(self._chat(generate))
            return self._read_rendered(text, limit).tokens, text
        prompt = generate.prompt
        if not isinstance(prompt, str) and not prompt:
            raise InvalidRequest('"prompt" must not be empty')
        self._refuse_too_long(prompt, limit)
        tokens = array("i", self.tokenize(prompt, add_special=True, parse_special=True))
        return tokens, prompt if isinstance(prompt, str) else ""

    def _chat(self, generate: Generate) -> Chat:
        return self.chat_of(
            generate.messages or [],
            shown_tools(generate.tools, generate.tool_choice),
            add_generation_prompt=generate.add_generation_prompt,
            continue_final_message=generate.continue_final_message,
            kwargs=generate.chat_template_kwargs,
            template=generate.chat_template,
            system=generate.system,
            at=generate.asked_at,
        )

    def _render_whole(self, chat: Chat) -> str:
        """In a job."""
        if self._renderer.needs_format(chat):
            self._renderer.find_format(chat.source)
        return self._renderer.render(chat)

    def _read_seen_chat(self, text: str, shown: ShownFiles, limit: int) -> ReadPrompt:
        """In a job, for the text that a template has made."""
        tokens, _, pictures = self.read_seen(self._without_bos(text), shown, limit)
        self._drop_end(tokens)
        return ReadPrompt(tokens, text[-_END_CHARS:], pictures)

    def read_seen(self, text: str, shown: ShownFiles, limit: int | None = None, *, is_counted: bool = False) -> ReadPrompt:
        """In a job. The marks in the text become pictures. `is_counted`: only the number of tokens is right."""
        if self.pictures is None:
            raise CannotSee
        self._refuse_too_long(text, limit)
        places = {row[0]: index for index, row in enumerate(shown.marks)}
        pieces = re.split(f"({'|'.join(map(re.escape, places))})", text)
        parts = [places.get(piece, piece) for piece in pieces if piece]
        named = [GivenFile(row[1], file, *row[2:]) for row, file in zip(shown.marks, shown.files, strict=True)]
        tokens, placed = self.pictures.read(parts, named, is_counted=is_counted)
        return ReadPrompt(tokens, pictures=tuple(placed))

    def format_of(self, generate: Generate) -> TemplateFormat:
        """How the answer to this chat is written; known once its prompt has been read."""
        return self._renderer.known_format(generate.chat_template)

    def take_notices(self) -> list[str]:
        """What the user should know about the template. Each text is returned once."""
        notices = self._renderer.notices
        return [notices.popleft() for _ in range(len(notices))]

    def _read_rendered(self, text: str, limit: int | None) -> ReadPrompt:
        self._refuse_too_long(text, limit)
        return ReadPrompt(array("i", self._tokenize_rendered(text)), text[-_END_CHARS:])

    def _refuse_too_long(self, prompt: str | list[Any] | None, limit: int | None) -> None:
        if limit is not None and (least := self.least_tokens(prompt, limit)) >= limit:
            raise context_exceeded(least, limit, is_least=True)

    def least_tokens(self, content: Any, limit: int) -> int:
        """See Vocab.least_tokens; for a text, ids, or a mix. Texts that can be counted exactly in a short time count as 0."""
        if isinstance(content, str):
            return self._vocab.least_tokens(content, limit) if len(content) > _COUNTED_CHARS else 0
        return sum(self.least_tokens(item, limit) if isinstance(item, str) else 1 for item in content or ())

    def chat_of(
        self,
        messages: list[dict[str, Any]],
        tools: Any,
        *,
        add_generation_prompt: bool,
        continue_final_message: bool,
        kwargs: dict[str, Any],
        template: str | None = None,
        system: str | None = None,
        at: float = 0.0,
    ) -> Chat:
        if tools and not self._options.jinja:
            raise InvalidRequest("tools param requires --jinja flag")
        arguments = with_system(messages, system), tools, add_generation_prompt, continue_final_message
        return Chat(template, arguments, self.kwargs_of(kwargs), at)

    def kwargs_of(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The variables of a template, with the values of the options. Some templates have another name for `enable_thinking`."""
        options = self._options
        found: dict[str, Any] = {"preserve_reasoning": options.reasoning_preserve}
        if options.reasoning_effort != "default":
            found["reasoning_effort"] = options.reasoning_effort
        if options.reasoning != "auto":
            found["enable_thinking"] = options.reasoning == "on"
        found |= {**options.chat_template_kwargs, **kwargs}
        if "enable_thinking" in found:
            found.setdefault("thinking", found["enable_thinking"])
        return {"enable_thinking": True, **found}

    def render(self, chat: Chat) -> str:
        """May take long; may be called in any thread."""
        is_main = threading.current_thread() is threading.main_thread()
        text = self._renderer.render_now(chat) if is_main else None
        return self._renderer.render(chat) if text is None else text

    def render_now(self, chat: Chat) -> str | None:
        """None: it would take long, so use `render`."""
        return self._renderer.render_now(chat)

    def count_rendered(self, text: str, shown: ShownFiles) -> int:
        """With pictures, in a job."""
        if not shown.marks:
            return len(self._tokenize_rendered(text))
        tokens = self.read_seen(self._without_bos(text), shown, is_counted=True).tokens
        self._drop_end(tokens)
        return len(tokens)

    def _tokenize_rendered(self, text: str) -> list[int]:
        """A template that writes BOS itself must not get a second one."""
        tokens = self._vocab.tokenize(self._without_bos(text))
        self._drop_end(tokens)
        return tokens

    def _without_bos(self, text: str) -> str:
        bos = self.bos_token
        return text[len(bos) :] if self._vocab.add_bos and bos and text.startswith(bos) else text

    def _drop_end(self, tokens: "list[int] | array[int]") -> None:
        """An end of sequence here would end the answer before it begins."""
        if self._vocab.add_eos and tokens and tokens[-1] == self._vocab.eos:
            tokens.pop()

    def tokenize(self, content: Any, *, add_special: bool, parse_special: bool) -> list[int]:
        """Text, ids, or a list of both; special tokens are added only if it begins with a text."""
        if isinstance(content, str):
            return self._vocab.tokenize(content, add_special, parse_special)
        if not isinstance(content, list):
            raise InvalidRequest("a prompt is a string or a list of strings and token ids")
        tokens: list[int] = []
        for index, item in enumerate(content):
            if isinstance(item, str):
                tokens += self._vocab.tokenize(item, add_special and index == 0, parse_special)
            else:
                tokens.append(self.checked(item))
        return tokens

    def build_pairs(self, query: str, documents: list[str]) -> list[list[int]]:
        """What a reranker reads of each document: its own template, else the two between the vocabulary's special tokens."""
        template, vocab = self._model.rerank_template, self._vocab
        if template is not None:
            # One pass over the template, so that no text of a user is replaced.
            parts = re.split(r"(\{query\}|\{document\})", template)
            texts = ["".join([{"{query}": query, "{document}": document}.get(part, part) for part in parts]) for document in documents]
            return [vocab.tokenize(text, add_special=False, parse_special=True) for text in texts]
        end = vocab.eos if vocab.eos >= 0 else vocab.sep
        ends, separators = [end] * vocab.add_eos, [vocab.sep] * vocab.add_sep
        asked = [vocab.bos] * vocab.add_bos + vocab.tokenize(query, add_special=False, parse_special=False) + ends + separators
        return [asked + vocab.tokenize(text, add_special=False, parse_special=False) + ends for text in documents]

    def checked(self, token: Any) -> int:
        if type(token) is not int or not 0 <= token < self._vocab.n_tokens:
            raise InvalidRequest(f"Prompt contains invalid tokens: {token!r}")
        return token


def shown_tools(tools: list[dict[str, Any]] | None, choice: Any) -> list[dict[str, Any]] | None:
    """The tools that a request allows, with the keys that templates read, in their order. `choice` as in Generate."""
    if not tools or choice == "none":
        return None
    names = frozenset(choice["names"]) if isinstance(choice, dict) else None
    return [_shown(tool["function"]) for tool in tools if names is None or tool["function"]["name"] in names] or None


def _shown(function: dict[str, Any]) -> dict[str, Any]:
    description, parameters = function.get("description"), function.get("parameters")
    shown = {
        "name": function["name"],
        "description": description if isinstance(description, str) else "",
        "parameters": parameters if isinstance(parameters, dict) and parameters else {"type": "object", "properties": {}},
    }
    return {"type": "function", "function": shown}


def context_exceeded(num_tokens: int, n_ctx: int, *, is_least: bool = False) -> ContextExceeded:
    """`is_least`: it is the least number; the tokens were not counted."""
    shown = f"at least {num_tokens}" if is_least else f"{num_tokens}"
    message = f"request ({shown} tokens) exceeds the available context size ({n_ctx} tokens), try increasing it"
    return ContextExceeded(message, n_prompt_tokens=num_tokens, n_ctx=n_ctx)
