"""How a family of models writes thoughts and tool calls, as data.

White space at the ends of a marker is what the model usually writes there. The parser removes it with the marker, and does not need it.
The first of several spellings is the usual one.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thought:
    """The markers around a thought."""

    open: tuple[str, ...] = ("<think>\n",)
    close: tuple[str, ...] = ("\n</think>\n\n",)
    calls_close: bool = False  # a tool call inside the thought ends it; else the marker of a call is a part of the thought

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
    id_key: str = ""  # the key of the call's id, if the model writes one
    array: bool = False  # the calls are in one array: [{...}, {...}]


@dataclass(frozen=True, slots=True)
class NameThenJson:
    """`f` and then `{...}`: the name, a text between them, and the arguments as JSON."""

    before_name: str = ""  # "functions."
    after_name: str = ""  # "[ARGS]"; with "" the name ends where the arguments begin
    before_id: str = ""  # an id of the call between name and arguments: "[CALL_ID]"
    numbered: bool = False  # the name ends with the call's number: "f:0"
    after_arguments: str = ""  # "\n```"
    after_id: str = ""  # not empty: an id of the call comes first, and this text after it: "<|tool_call:name|>"


@dataclass(frozen=True, slots=True)
class Tagged:
    """Each parameter between tags: `<function=f><parameter=k>v</parameter></function>`."""

    before_name: str
    after_name: str
    before_key: str
    after_key: str  # ends where the value begins, or the type if there is one
    after_value: str
    end: str = ""  # after the last parameter
    after_type: str = ""  # not empty: between after_key and this the model writes the type of the value
    string_types: tuple[str, ...] = ()  # the types that mean: the value is a string without quotes
    after_number: str = ""  # not empty: between after_name and this the model writes the call's number
    empty: str = ""  # replaces after_name and end in a call without parameters: '"/>'
    entities: bool = False  # names and keys are written with &amp; and &quot;
    quotes: tuple[str, str] = ("", "")  # may be around a value: "<![CDATA[" and "]]>"


@dataclass(frozen=True, slots=True)
class Elements:
    """Each parameter is an element that is named after it, and so are the parts of its value:
    `<invoke name="f"><k><a>v</a></k><list><item>v</item></list></invoke>` (MiniMax M3)."""

    before_name: str
    after_name: str
    end: str  # after the last parameter
    mark: str  # before the `<` of each element, and of its end
    item: str = "item"  # the elements of an array


@dataclass(frozen=True, slots=True)
class Pythonic:
    """`[f(a=1, b="x"), g()]`."""

    open: str = "["
    close: str = "]"


@dataclass(frozen=True, slots=True)
class Braces:
    """`call:f{a:1,b:<|"|>x<|"|>}`: like JSON, but keys are not quoted, and strings have another quote (Gemma 4)."""

    before_name: str = "call:"
    quote: str = '<|"|>'


@dataclass(frozen=True, slots=True)
class Channels:
    """Messages with a header: `<|channel|>analysis<|message|>...<|end|>` (gpt-oss). Thoughts, texts and calls are channels, or without
    channels they have different recipients: ` to=self<|message|>...<|eom|>` (Muse)."""

    start: str = "<|start|>"
    channel: str = "<|channel|>"
    constrain: str = "<|constrain|>"
    message: str = "<|message|>"
    ends: tuple[str, ...] = ("<|end|>", "<|call|>", "<|return|>")
    thought: str = "analysis"  # the channel of thoughts, or their recipient
    answer: str = "final"  # the same for the answer
    recipient: str = "to="
    namespace: str = "functions."
    body: "Calls | None" = None  # how a call is written inside its message; None: only its arguments, as JSON

    def header(self, kind: str) -> str:
        """The header of a message for this channel or recipient."""
        return (self.channel or f" {self.recipient}") + kind + self.message


@dataclass(frozen=True, slots=True)
class Recipients:
    """`>>>all\\ntext>>>f\\n{...}`: each part names its recipient (Functionary v3.2). The prompt ends with the first `open`."""

    open: str = ">>>"
    text: str = "all"


Syntax = JsonObject | NameThenJson | Tagged | Elements | Pythonic | Braces | Channels | Recipients


@dataclass(frozen=True, slots=True)
class Calls:
    """Where tool calls are in a text, and how each is written.

    The whole: section_open, then (open, the call, close) once or more often with `between` between them, then section_close.
    """

    syntax: Syntax
    open: tuple[str, ...] = ()  # begins each call
    close: str = ""  # ends each call
    section_open: tuple[str, ...] = ()  # begins the calls of a message
    section_close: str = ""
    between: str = ""
    bare: bool = False  # a call without any marker may be the whole answer (Llama 3)


@dataclass(frozen=True, slots=True)
class Format:
    """All that the parser knows about a family of models."""

    name: str
    thought: Thought | None = None
    calls: Calls | None = None
    drop: tuple[str, ...] = ()  # markers around the answer that do not belong to it
    ends: tuple[str, ...] = ()  # texts that end a turn: these and all text after them do not belong to the message
