"""A scripted model that coding agents can use: it thinks, says something, calls the agent's tool for commands, and then answers.

Requests without tools, as for a title, get a title. Its template writes messages as Hermes and Qwen do. The last word of a prompt, which
chooses the script, is not repeated in later prompts.
"""

import json
from pathlib import Path
from typing import Any

from scripted_models import make_scripted

FILE, NOTE = "note.txt", "the red dog sees one cat"
COMMAND = f"cat {FILE}"
ABOUT = "Shows the note"
QUESTIONS = ("What is in the note?", "Is it still there?")
THOUGHT = "I must look into it."
SAYING = "I look into the file."
ANSWER = "It says what the red dog sees."
TITLE = "A note"
# By the name of the tool: the word that chooses the script, and the arguments of its call in the order of the tool's schema.
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "Bash": ("cat", {"command": COMMAND, "description": ABOUT}),
    "exec_command": ("dog", {"cmd": COMMAND}),
    "bash": ("red", {"command": COMMAND}),
    "run_shell_command": ("all", {"command": COMMAND, "is_background": False, "description": ABOUT}),
}
_ANSWER_WORD, _TITLE_WORD = "two", "one"

QWEN_LIKE = """\
{%- if tools or (messages and messages[0].role == 'system') %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {%- if tools %}
        {{- '# Tools\\n<tools>\\n' }}
        {%- for tool in tools %}
            {{- tool | tojson + '\\n' }}
        {%- endfor %}
        {{- '</tools>\\nCall one so:\\n<tool_call>\\n{"name": NAME, "arguments": OBJECT}\\n</tool_call>' }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if message.reasoning_content %}
            {{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- message.content or '' }}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- elif message.role != 'system' or not loop.first %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""


def _chooser() -> str:
    """The end of the template: the word of the script. An answer follows a tool's result, also if reminders follow that."""
    choose = "{%%- if tool.function.name == '%s' %%}{%%- set at.word = ' %s' %%}{%%- endif %%}"
    return (
        f"{{%- if add_generation_prompt %}}{{%- set at = namespace(word=' {_TITLE_WORD}') %}}{{%- for tool in tools or [] %}}"
        + "".join(choose % (name, word) for name, (word, _) in CALLS.items())
        + "{%- endfor %}{%- set call = at.word %}{%- for message in messages %}"
        + f"{{%- if message.role == 'tool' %}}{{%- set at.word = ' {_ANSWER_WORD}' %}}"
        + "{%- elif message.role == 'assistant' %}{%- set at.word = call %}{%- endif %}{%- endfor %}{{- at.word }}{%- endif %}"
    )


def scripts() -> dict[str, str]:
    found = {_ANSWER_WORD: ANSWER, _TITLE_WORD: TITLE}
    for name, (word, arguments) in CALLS.items():
        call = json.dumps({"name": name, "arguments": arguments})
        found[word] = f"<think>\n{THOUGHT}\n</think>\n\n{SAYING}\n<tool_call>\n{call}\n</tool_call>"
    return found


def make_agent_model(path: Path, *, n_ctx: int = 1 << 16) -> Path:
    return make_scripted(path, scripts(), chat_template=QWEN_LIKE + _chooser(), n_ctx=n_ctx)
