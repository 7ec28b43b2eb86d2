"""Chat templates with names, for `--chat-template NAME`: the names of llama-server, written in Jinja. Does not import Jinja. Pure."""

import re

from fastrouter.errors import InvalidRequest


def _turns(turn: str, prompt: str = "", start: str = "") -> str:
    return f"{start}{{% for message in messages %}}{turn}{{% endfor %}}{{% if add_generation_prompt %}}{prompt}{{% endif %}}"


def _by_role(system: str, user: str, assistant: str) -> str:
    return f"{{% if message.role == 'system' %}}{system}{{% elif message.role == 'user' %}}{user}{{% else %}}{assistant}{{% endif %}}"


def _llama2(system: str) -> str:
    turn = _by_role(system, "{{ message.content + ' [/INST]' }}", "{{ message.content + '</s>' }}{% set ns.is_open = false %}")
    opening = "{% if not ns.is_open %}{{ '[INST] ' }}{% set ns.is_open = true %}{% endif %}"
    return _turns(opening + turn, start="{% set ns = namespace(is_open=false) %}")


def _mistral(before: str, after: str) -> str:
    """Up to v3 the system message is part of the first instruction."""
    system, user = "{{ message.content + '\\n\\n' }}", f"{{{{ message.content + '{before}[/INST]' }}}}"
    turn = _by_role(system, user, f"{{{{ '{after}' + message.content + '</s>' }}}}{{% set ns.is_open = false %}}")
    opening = f"{{% if not ns.is_open %}}{{{{ '{before}[INST]{after}' }}}}{{% set ns.is_open = true %}}{{% endif %}}"
    return _turns(opening + turn, start="{% set ns = namespace(is_open=false) %}")


def _mistral_v7(space: str) -> str:
    system = f"{{{{ '[SYSTEM_PROMPT]{space}' + message.content + '[/SYSTEM_PROMPT]' }}}}"
    return _turns(
        _by_role(system, f"{{{{ '[INST]{space}' + message.content + '[/INST]' }}}}", f"{{{{ '{space}' + message.content + '</s>' }}}}")
    )


_CONTENT = "{{ message.content }}"
_GEMMA = (
    "{% if message.role == 'system' %}{% set ns.system = ns.system + message.content|trim %}{% else %}"
    r"{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\n' }}"
    r"{% if ns.system and message.role != 'assistant' %}{{ ns.system + '\n\n' }}{% set ns.system = '' %}{% endif %}"
    r"{{ message.content|trim + '<end_of_turn>\n' }}{% endif %}"
)

BUILT_IN = {
    "chatml": _turns(r"{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}", r"{{ '<|im_start|>assistant\n' }}"),
    "llama2": _llama2(r"{{ message.content + '\n' }}"),
    "llama2-sys": _llama2(r"{{ '<<SYS>>\n' + message.content + '\n<</SYS>>\n\n' }}"),
    "llama3": _turns(
        r"{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content|trim + '<|eot_id|>' }}",
        r"{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}",
    ),
    "mistral-v1": _mistral(" ", " "),
    "mistral-v3": _mistral("", " ").replace("' ' + message.content +", "' ' + message.content|trim +"),
    "mistral-v3-tekken": _mistral("", ""),
    "mistral-v7": _mistral_v7(" "),
    "mistral-v7-tekken": _mistral_v7(""),
    "gemma": _turns(_GEMMA, r"{{ '<start_of_turn>model\n' }}", "{% set ns = namespace(system='') %}"),
    "command-r": _turns(
        "{{ '<|START_OF_TURN_TOKEN|>' }}"
        + _by_role("{{ '<|SYSTEM_TOKEN|>' }}", "{{ '<|USER_TOKEN|>' }}", "{{ '<|CHATBOT_TOKEN|>' }}")
        + "{{ message.content|trim + '<|END_OF_TURN_TOKEN|>' }}",
        "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}",
    ),
    "phi3": _turns(r"{{ '<|' + message.role + '|>\n' + message.content + '<|end|>\n' }}", r"{{ '<|assistant|>\n' }}"),
    "phi4": _turns(
        "{{ '<|im_start|>' + message.role + '<|im_sep|>' + message.content + '<|im_end|>' }}", "<|im_start|>assistant<|im_sep|>"
    ),
    "falcon3": _turns(r"{{ '<|' + message.role + '|>\n' + message.content + '\n' }}", r"{{ '<|assistant|>\n' }}"),
    "zephyr": _turns(r"{{ '<|' + message.role + '|>\n' + message.content + '<|endoftext|>\n' }}", r"{{ '<|assistant|>\n' }}"),
    "deepseek": _turns(
        _by_role(
            _CONTENT, r"{{ '### Instruction:\n' + message.content + '\n' }}", r"{{ '### Response:\n' + message.content + '\n<|EOT|>\n' }}"
        ),
        r"{{ '### Response:\n' }}",
    ),
    "deepseek2": _turns(
        _by_role(
            r"{{ message.content + '\n\n' }}",
            r"{{ 'User: ' + message.content + '\n\n' }}",
            "{{ 'Assistant: ' + message.content + '<｜end▁of▁sentence｜>' }}",
        ),
        "Assistant:",
    ),
    "deepseek3": _turns(
        _by_role(
            r"{{ message.content + '\n\n' }}",
            "{{ '<｜User｜>' + message.content }}",
            "{{ '<｜Assistant｜>' + message.content + '<｜end▁of▁sentence｜>' }}",
        ),
        "<｜Assistant｜>",
    ),
}


FALLBACK = "chatml"  # for models without a template


def source_of(text: str) -> str:
    """The Jinja source that `text` means: empty means ChatML, a plain word is a built-in name, anything else is Jinja."""
    name = text.strip() or FALLBACK
    if not re.fullmatch(r"[\w.-]{1,64}", name):
        return text
    if name not in BUILT_IN:
        raise InvalidRequest(f"chat template '{name}' is not known; there are {', '.join(sorted(BUILT_IN))}, or give a Jinja template")
    return BUILT_IN[name]


MAX_SOURCE_CHARS = 1 << 20
