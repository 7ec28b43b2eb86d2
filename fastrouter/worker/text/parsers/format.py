"""How a family of models writes thoughts and tool calls, as data.

White space at the ends of a marker is what the model usually writes there. The parser removes it with the marker, and does not need it.
Where several spellings are given, the first is the usual one.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thought:
    """The markers around a thought."""

    open: tuple[str, ...] = ("<think>\n",)
    close: tuple[str, ...] = ("\n</think>\n\n",)
    calls_close: bool = False  # a tool call in the thought ends it; else the marker of a call is a part of the thought

    def is_open(self, prompt: str) -> bool:
        """Whether a prompt ends inside a thought."""
        return prompt.rstrip().endswith(tuple(marker.strip() for marker in self.open))


@dataclass(frozen=True, slots=True)
class JsonObject:
    """`{"name": "f", "arguments": {...}}`."""

    name_keys: tuple[str, ...] = ("name",)
    arguments_keys: tuple[str, ...] = ("arguments", "parameters")
    function_key: str = ""  # the key of an object around name and arguments: {"function": {"name": ...}}
    name_is_key: bool = False  # {"f": {...}}
    id_key: str = ""  # where the model writes an id of the call
    array: bool = False  # the calls stand in one array: [{...}, {...}]


@dataclass(frozen=True, slots=True)
class NameThenJson:
    """`f` and then `{...}`: the name, a text between them, and the arguments as JSON."""

    before_name: str = ""  # "functions."
    after_name: str = ""  # "[ARGS]"; with "" the name ends where the arguments begin
    before_id: str = ""  # an id of the call between name and arguments: "[CALL_ID]"
    numbered: bool = False  # the name ends with the call's number: "f:0"
    after_arguments: str = ""  # "\n```"


@dataclass(frozen=True, slots=True)
class Tagged:
    """Each parameter between tags: `<function=f><parameter=k>v</parameter></function>`."""

    before_name: str
    after_name: str
    before_key: str
    after_key: str  # ends where the value begins, or the type where there is one
    after_value: str
    end: str = ""  # after the last parameter
    after_type: str = ""  # not empty: between after_key and this the model writes the type of the value
    string_types: tuple[str, ...] = ()  # the types that say: the value is a string, as it stands
    after_number: str = ""  # not empty: between after_name and this the model writes the call's number
    empty: str = ""  # stands for after_name and end in a call without parameters: '"/>'
    entities: bool = False  # names and keys are written with &amp; and &quot;
    quotes: tuple[str, str] = ("", "")  # may stand around a value: "<![CDATA[" and "]]>"


@dataclass(frozen=True, slots=True)
class Pythonic:
    """`[f(a=1, b="x"), g()]`."""

    open: str = "["
    close: str = "]"


@dataclass(frozen=True, slots=True)
class Braces:
    """`call:f{a:1,b:<|"|>x<|"|>}`: like JSON, with keys that are not quoted and a quote of its own (Gemma 4)."""

    before_name: str = "call:"
    quote: str = '<|"|>'


@dataclass(frozen=True, slots=True)
class Channels:
    """Messages with a header: `<|channel|>analysis<|message|>...<|end|>` (gpt-oss). Thoughts, texts and calls are channels."""

    start: str = "<|start|>"
    channel: str = "<|channel|>"
    constrain: str = "<|constrain|>"
    message: str = "<|message|>"
    ends: tuple[str, ...] = ("<|end|>", "<|call|>", "<|return|>")
    thought: str = "analysis"
    recipient: str = "to="
    namespace: str = "functions."


@dataclass(frozen=True, slots=True)
class Recipients:
    """`>>>all\\ntext>>>f\\n{...}`: each part names who gets it (Functionary v3.2). The prompt ends with the first `open`."""

    open: str = ">>>"
    text: str = "all"


Syntax = JsonObject | NameThenJson | Tagged | Pythonic | Braces | Channels | Recipients


@dataclass(frozen=True, slots=True)
class Calls:
    """Where tool calls stand in a text, and how each is written.

    The whole: section_open, then (open, the call, close) once or more often with `between` between them, then section_close.
    """

    syntax: Syntax
    open: tuple[str, ...] = ()  # begins each call
    close: str = ""  # ends each call
    section_open: tuple[str, ...] = ()  # begins the calls of a message
    section_close: str = ""
    between: str = ""
    bare: bool = False  # a call may stand without any marker, as the whole of an answer (Llama 3)


@dataclass(frozen=True, slots=True)
class Format:
    """All that the parser knows about a family of models."""

    name: str
    thought: Thought | None = None
    calls: Calls | None = None
    drop: tuple[str, ...] = ()  # markers around the answer that do not belong to it
    ends: tuple[str, ...] = ()  # texts that end a turn: neither they nor what follows belong to the message
