"""The known formats, and how they are recognised by the source of a chat template.

To add a format: add a row with texts that only its templates contain, and a recorded output to the tests. Earlier rows win.
"""

from dataclasses import dataclass

from fastrouter.worker.text.parsers.format import (
    Braces,
    Calls,
    Channels,
    Elements,
    Format,
    JsonObject,
    NameThenJson,
    Pythonic,
    Recipients,
    Tagged,
    Thought,
)


@dataclass(frozen=True, slots=True)
class Row:
    """A known format."""

    format: Format
    tells: tuple[str, ...] = ()  # a template of this format contains all of these
    lacks: tuple[str, ...] = ()  # and none of these


THINK = Thought()
OPEN_TO_CALLS = Thought(calls_close=True)
COMPACT_THINK = Thought(("<think>",), ("</think>",))


def _dsml(space: str, section: str) -> Calls:
    """DeepSeek's markup; the versions differ in a space and in the name of the section."""
    bar = f"｜DSML｜{space}"
    return Calls(
        Tagged(
            before_name=f'<{bar}invoke name="',
            after_name='">\n',
            before_key=f'<{bar}parameter name="',
            after_key='" string="',
            after_type='">',
            string_types=("true",),
            after_value=f"</{bar}parameter>\n",
            end=f"</{bar}invoke>\n",
            empty='"/>',
        ),
        section_open=(f"\n\n<{bar}{section}>\n",),
        section_close=f"</{bar}{section}>",
    )


def _deepseek(syntax: NameThenJson, between: str = "") -> Calls:
    return Calls(
        syntax,
        open=("<｜tool▁call▁begin｜>",),
        close="<｜tool▁call▁end｜>",
        section_open=("<｜tool▁calls▁begin｜>", "<｜tool_calls_begin｜>", "<｜tool calls begin｜>"),
        section_close="<｜tool▁calls▁end｜>",
        between=between,
    )


HERMES = Calls(JsonObject(), open=("\n<tool_call>\n",), close="\n</tool_call>", between="\n")
QWEN_TAGS = Tagged("<function=", ">\n", "<parameter=", ">\n", "\n</parameter>\n", "</function>\n")
GLM_TAGS = Tagged("", "\n", "<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n")
MUSE_CALL = Calls(
    Tagged('<atem:invoke name="', '">\n', '<atem:parameter name="', '">', "</atem:parameter>\n", "</atem:invoke>\n"),
    section_open=("<atem:function_calls>\n",),
    section_close="</atem:function_calls>",
)
MINIMAX_MARK = "]<]minimax[>["
KIMI_K3_TAGS = Tagged(
    before_name='<|open|>call tool="',
    after_name='" index="',
    after_number='"<|sep|>',
    before_key='<|open|>argument key="',
    after_key='" type="',
    after_type='"<|sep|>',
    string_types=("string",),
    after_value="<|close|>argument<|sep|>",
    end="<|close|>call<|sep|>",
    entities=True,
)

GENERIC = Format("generic", OPEN_TO_CALLS, HERMES)  # for templates that do not mention tools

ROWS: tuple[Row, ...] = (
    Row(
        Format("gpt-oss", Thought(("<|channel|>analysis<|message|>",), ("<|end|>",)), Calls(Channels())),
        ("<|channel|>", "<|message|>", "analysis"),
    ),
    Row(
        Format(
            "muse",
            Thought((" to=self<|message|>",), ("<|eom|>",)),
            Calls(
                Channels(channel="", constrain="", ends=("<|eom|>", "<|eot|>"), thought="self", answer="user", namespace="", body=MUSE_CALL)
            ),
        ),
        ("<atem:function_calls>", "to=self"),
    ),
    Row(Format("functionary-3.2", None, Calls(Recipients())), (">>>all", ">>>' + ")),
    Row(
        Format("functionary-3.1", None, Calls(NameThenJson("", ">", after_arguments="</function>"), open=("<function=",))),
        ("<function=", "<|start_header_id|>"),
        lacks=("<parameter=",),
    ),
    Row(
        Format(
            "kimi-k3",
            Thought(("<|open|>think<|sep|>",), ("<|close|>think<|sep|>", "<|open|>response<|sep|>", "<|open|>tools<|sep|>")),
            Calls(KIMI_K3_TAGS, section_open=("<|open|>tools<|sep|>",), section_close="<|close|>tools<|sep|>"),
            drop=("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>"),
            ends=("<|end_of_msg|>",),
        ),
        ("<|sep|>", "<|open|>"),
    ),
    Row(
        Format(
            "kimi-k2",
            Thought(("<think>",), ("</think>",), calls_close=True),
            Calls(
                NameThenJson("functions.", "<|tool_call_argument_begin|>", numbered=True),
                open=("<|tool_call_begin|>",),
                close="<|tool_call_end|>",
                section_open=("<|tool_calls_section_begin|>",),
                section_close="<|tool_calls_section_end|>",
            ),
            ends=("<|im_end|>",),
        ),
        ("<|tool_call_argument_begin|>",),
    ),
    Row(Format("deepseek-4.1", COMPACT_THINK, _dsml(" ", "calls")), ("｜DSML｜ ",)),
    Row(Format("deepseek-4", COMPACT_THINK, _dsml("", "tool_calls")), ("｜DSML｜", "tool_calls>")),
    Row(Format("deepseek-3.2", COMPACT_THINK, _dsml("", "function_calls")), ("｜DSML｜",)),
    Row(
        Format("deepseek-3", THINK, _deepseek(NameThenJson("function<｜tool▁sep｜>", "\n```json\n", after_arguments="\n```"), "\n")),
        ("<｜tool▁sep｜>", "```json"),
    ),
    Row(Format("deepseek-3.1", COMPACT_THINK, _deepseek(NameThenJson("", "<｜tool▁sep｜>"))), ("<｜tool▁sep｜>",)),
    Row(
        Format(
            "gemma4",
            Thought(("<|channel>thought\n",), ("\n<channel|>",)),
            Calls(Braces(), open=("<|tool_call>",), close="<tool_call|>"),
            drop=("<|channel>thought\n<channel|>", "<|channel>", "<channel|>"),
            ends=("<turn|>", "<|tool_response>"),
        ),
        ("<|tool_call>call:",),
    ),
    Row(
        Format(
            "minimax-m3",
            Thought(("<mm:think>",), ("</mm:think>",)),
            Calls(
                Elements(f'{MINIMAX_MARK}<invoke name="', '">', f"{MINIMAX_MARK}</invoke>\n", MINIMAX_MARK),
                section_open=(f"{MINIMAX_MARK}<tool_call>\n",),
                section_close=f"{MINIMAX_MARK}</tool_call>",
            ),
        ),
        (MINIMAX_MARK, '<invoke name="'),
    ),
    Row(
        Format(
            "minimax-m2",
            OPEN_TO_CALLS,
            Calls(
                Tagged('<invoke name="', '">\n', '<parameter name="', '">', "</parameter>\n", "</invoke>\n"),
                section_open=("\n<minimax:tool_call>\n",),
                section_close="</minimax:tool_call>",
            ),
        ),
        ("<minimax:tool_call>",),
    ),
    Row(
        Format("minimax-m1", THINK, Calls(JsonObject(), section_open=("\n<tool_calls>\n",), section_close="\n</tool_calls>", between="\n")),
        ("<tool_calls>", "<end_of_sentence>"),
    ),
    Row(
        Format(
            "seed-oss",
            Thought(("<seed:think>",), ("</seed:think>\n",)),
            Calls(
                Tagged("<function=", ">\n", "<parameter=", ">", "</parameter>\n", "</function>\n"),
                open=("\n<seed:tool_call>\n",),
                close="</seed:tool_call>",
                between="\n",
            ),
        ),
        ("<seed:tool_call>",),
    ),
    Row(
        Format(
            "command-r7b",
            Thought(("<|START_THINKING|>",), ("<|END_THINKING|>",)),
            Calls(
                JsonObject(("tool_name",), ("parameters",), id_key="tool_call_id", array=True),
                section_open=("<|START_ACTION|>",),
                section_close="<|END_ACTION|>",
            ),
            drop=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
        ),
        ("<|START_THINKING|>",),
    ),
    Row(
        Format(
            "command-r",
            None,
            Calls(JsonObject(("tool_name",), ("parameters",), array=True), section_open=("\nAction:\n```json\n",), section_close="```"),
        ),
        ("Action:", "```json", "tool_name"),
    ),
    Row(
        Format("nemotron", THINK, Calls(JsonObject(array=True), section_open=("\n<TOOLCALL>",), section_close="</TOOLCALL>")),
        ("<TOOLCALL>",),
    ),
    Row(
        Format(
            "apertus",
            Thought(("<|inner_prefix|>",), ("<|inner_suffix|>",)),
            Calls(JsonObject(name_is_key=True, array=True), section_open=("<|tools_prefix|>",), section_close="<|tools_suffix|>"),
        ),
        ("<|tools_prefix|>",),
    ),
    Row(
        Format(
            "apriel",
            Thought(("Here are my reasoning steps:\n",), ("\n[BEGIN FINAL RESPONSE]\n",)),
            Calls(JsonObject(array=True), section_open=("\n<tool_calls>",), section_close="</tool_calls>"),
            drop=("[END FINAL RESPONSE]",),
        ),
        ("<tool_calls>[",),
    ),
    Row(
        Format("granite-3", THINK, Calls(JsonObject(array=True), section_open=("<|tool_call|>",)), drop=("<response>", "</response>")),
        ("<|tool_call|>", "<|end_of_role|>"),
    ),
    Row(
        Format("lfm2", THINK, Calls(Pythonic(), open=("<|tool_call_start|>",), close="<|tool_call_end|>")),
        ("List of tools: ", "<|im_start|>"),
    ),
    Row(Format("gigachat-3.1", None, Calls(JsonObject(), open=("<|function_call|>",))), ("<|function_call|>", "<|role_sep|>")),
    Row(
        Format("gigachat-3", None, Calls(JsonObject(), open=("<|message_sep|>\n\nfunction call<|role_sep|>\n",))),
        ("function call", "<|role_sep|>"),
    ),
    Row(Format("firefunction", None, Calls(JsonObject(array=True), section_open=(" functools",))), ("functools[",)),
    Row(
        Format(
            "minicpm",
            OPEN_TO_CALLS,
            Calls(
                Tagged('\n<function name="', '">', '<param name="', '">', "</param>", "</function>", quotes=("<![CDATA[", "]]>")),
                between="\n",
            ),
        ),
        ('<function name="', '<param name="'),
    ),
    Row(
        Format(
            "glm-4.5", Thought(("<think>",), ("</think>\n",)), Calls(GLM_TAGS, open=("\n<tool_call>",), close="</tool_call>", between="\n")
        ),
        ("<arg_key>", "<arg_value>"),
    ),
    Row(
        Format(
            "mistral-think",
            Thought(("[THINK]",), ("[/THINK]",)),
            Calls(NameThenJson("", "[ARGS]", "[CALL_ID]"), open=("[TOOL_CALLS]",)),
        ),
        ("[THINK]", "[ARGS]"),
    ),
    Row(
        Format("mistral-args", COMPACT_THINK, Calls(NameThenJson("", "[ARGS]", "[CALL_ID]"), open=("[TOOL_CALLS]",))),
        ("[ARGS]",),
    ),
    Row(
        Format("mistral-array", COMPACT_THINK, Calls(JsonObject(array=True), section_open=("[TOOL_CALLS] ",))),
        ("[TOOL_CALLS]",),
    ),
    Row(
        Format("qwen3-coder", OPEN_TO_CALLS, Calls(QWEN_TAGS, open=("\n<tool_call>\n",), close="</tool_call>", between="\n")),
        ("<function=", "<parameter="),
    ),
    Row(Format("hermes", OPEN_TO_CALLS, HERMES), ("<tool_call>",), lacks=("]<]minimax[>[",)),
    Row(Format("hermes-tools", OPEN_TO_CALLS, HERMES), ("xml_tools",)),
    Row(
        Format(
            "llama-3",
            None,
            Calls(
                JsonObject(arguments_keys=("parameters", "arguments"), function_key="function"),
                open=("<|python_tag|>",),
                between=";",
                bare=True,
            ),
        ),
        ("<|start_header_id|>", "ipython"),
    ),
    Row(
        Format("llama-4", None, Calls(Pythonic(), open=("<|python_start|>",), close="<|python_end|>", bare=True)),
        ("<|header_start|>",),
    ),
)


def find_format(template: str) -> Format | None:
    """The format of a chat template, found by its source."""
    for row in ROWS:
        if row.tells and all(text in template for text in row.tells) and not any(text in template for text in row.lacks):
            return row.format
    return None


def known_format(name: str) -> Format:
    """A format by its name."""
    return next(row.format for row in ROWS if row.format.name == name)
