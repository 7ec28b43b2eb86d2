"""Completion scripts in the languages of shells. Only the shape of what is completed is known here, see completion.py.

Invariant: the shell never evaluates a text that comes from a router; it compares the text with the typed word, and inserts it.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

from fastrouter.cli.completion_model import FILES, FOLDERS, MODELS, Option, Verb

_HEAD = "made by `fastrouter completion {}`: do not edit"


def _by_takes(verbs: Sequence[Verb]) -> dict[tuple[str, ...], list[str]]:
    """Names of options by what may follow them; each name once."""
    by_name = {name: option.takes for verb in verbs for option in verb.options for name in option.names}
    grouped: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, takes in by_name.items():
        if takes is not None:
            grouped[takes].append(name)
    return grouped


# ---------------------------------------------------------------- bash

_BASH = """# bash completion for fastrouter, {head}
# Load it with: source <(fastrouter completion bash)

_fastrouter_models() {{
    local index url=()
    for ((index = 1; index < ${{#words[@]}} - 1; index++)); do
        [[ ${{words[index]}} == --url ]] && url=(--url "${{words[index + 1]}}")
    done
    "${{words[0]/#\\~/$HOME}}" completion models "${{url[@]}}" 2>/dev/null
}}

_fastrouter_offer() {{
    local candidate
    while IFS= read -r candidate; do
        [[ $candidate == "$cur"* ]] && printf -v candidate %q "$candidate" && COMPREPLY+=("$candidate")
    done
}}

_fastrouter_value() {{
    case $1 in
        '{files}') compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
        '{folders}') compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;
        '{models}') _fastrouter_offer < <(_fastrouter_models) ;;
        *) _fastrouter_offer < <(printf '%s\\n' "$@") ;;
    esac
}}

_fastrouter() {{
    # The words as they were typed: bash itself also splits them at : and =
    local line=${{COMP_LINE:0:COMP_POINT}} words cur prev verb= options= follow=() what kept
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    COMPREPLY=()
    cur=${{words[-1]}} prev=${{words[-2]}}
    if [[ $cur == --*=* ]]; then
        prev=${{cur%%=*}} cur=${{cur#*=}}
    fi
    case $prev in
{values}
    esac
    if ((${{#words[@]}} > 2)); then
        verb=${{words[1]}}
    fi
    case $verb in
{verbs}
    esac
    if [[ $cur == -* ]]; then
        _fastrouter_offer <<< "$options"
    elif [[ -z $verb ]]; then
        _fastrouter_offer <<< {names}
    fi
    if [[ $cur != -* ]]; then
        for what in "${{follow[@]}}"; do
            kept=("${{COMPREPLY[@]}}") COMPREPLY=()
            _fastrouter_value "$what"
            COMPREPLY=("${{kept[@]}}" "${{COMPREPLY[@]}}")
        done
    fi
    _fastrouter_trim
}}

_fastrouter_trim() {{
    # Of a word with a colon, bash replaces only what stands behind it.
    if [[ $cur == *:* && $COMP_WORDBREAKS == *:* ]]; then
        COMPREPLY=("${{COMPREPLY[@]#"${{cur%:*}}:"}}")
    fi
}}

complete -F _fastrouter fastrouter
"""


def _lines(words: Sequence[str]) -> str:
    """A bash word with one of them on each line."""
    return "$'" + "\\n".join(words) + "'"


def bash(verbs: Sequence[Verb]) -> str:
    values = []
    for takes, names in _by_takes(verbs).items():
        action = f"_fastrouter_value {' '.join(map(repr, takes))}; " if takes else ""
        values.append(f"        {'|'.join(names)}) {action}_fastrouter_trim; return ;;")
    cases = []
    for verb in [*verbs[1:], verbs[0]]:
        follow = f" follow=({' '.join(map(repr, verb.follow))})" if verb.follow else ""
        cases.append(f"        {verb.name or '*'}) options={_lines(verb.option_names)}{follow} ;;")
    return _BASH.format(
        head=_HEAD.format("bash"),
        files=FILES,
        folders=FOLDERS,
        models=MODELS,
        values="\n".join(values),
        verbs="\n".join(cases),
        names=_lines([verb.name for verb in verbs[1:]]),
    )


# ---------------------------------------------------------------- zsh

_ZSH = """#compdef fastrouter
# {head}
# Load it from a folder of $fpath, or with: source <(fastrouter completion zsh)

_fastrouter_models() {{
    local -a url names
    local index=${{words[(I)--url]}}
    (( index && index < CURRENT )) && url=(--url "${{words[index + 1]}}")
    names=("${{(@f)$("${{words[1]}}" completion models $url 2>/dev/null)}}")
    compadd -a names
}}

_fastrouter_value() {{
    case $1 in
        ('{files}') _files ;;
        ('{folders}') _files -/ ;;
        ('{models}') _fastrouter_models ;;
        (*) compadd -- "$@" ;;
    esac
}}

_fastrouter() {{
    local prev=${{words[CURRENT-1]}} verb= one
    local -a options follow verbs
    if [[ $PREFIX == --*=* ]]; then
        prev=${{PREFIX%%=*}}
        compset -P '*='
    fi
    case $prev in
{values}
    esac
    (( CURRENT > 2 )) && verb=${{words[2]}}
    case $verb in
{verbs}
    esac
    if [[ $PREFIX == -* ]]; then
        _describe -o option options
        return
    fi
    if [[ -z $verb ]]; then
        verbs=({names})
        _describe verb verbs
    fi
    for one in $follow; do
        _fastrouter_value $one
    done
}}

if [[ $funcstack[1] == _fastrouter ]]; then
    _fastrouter "$@"
else
    compdef _fastrouter fastrouter
fi
"""


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _described(name: str, help: str) -> str:
    return _quoted(name.replace(":", "\\:") + (f":{help}" if help else ""))


def zsh(verbs: Sequence[Verb]) -> str:
    values = []
    for takes, names in _by_takes(verbs).items():
        action = f"_fastrouter_value {' '.join(map(_quoted, takes))}" if takes else "_message value"
        values.append(f"        ({'|'.join(names)}) {action}; return ;;")
    cases = []
    for verb in [*verbs[1:], verbs[0]]:
        options = "\n            ".join(_described(name, option.help) for option in verb.options for name in option.names)
        follow = f" follow=({' '.join(map(_quoted, verb.follow))})" if verb.follow else ""
        cases.append(f"        ({verb.name or '*'}) options=(\n            {options}){follow} ;;")
    return _ZSH.format(
        head=_HEAD.format("zsh"),
        files=FILES,
        folders=FOLDERS,
        models=MODELS,
        values="\n".join(values),
        verbs="\n".join(cases),
        names=" ".join(_described(verb.name, verb.help) for verb in verbs[1:]),
    )


# ---------------------------------------------------------------- fish

_FISH = """# fish completion for fastrouter, {head}
# Load it with: fastrouter completion fish | source

function __fastrouter_models
    set -l words (commandline -opc)
    set -l url
    if set -l index (contains -i -- --url $words)
        set url --url $words[(math $index + 1)]
    end
    $words[1] completion models $url 2>/dev/null
end

function __fastrouter_verb
    set -l words (commandline -opc)
    set -q words[2]; and contains -- $words[2] $argv
end

function __fastrouter_serves
    set -l words (commandline -opc)
    not set -q words[2]; or string match -q -- '-*' $words[2]
end

complete -c fastrouter -f
complete -c fastrouter -n 'test (count (commandline -opc)) -eq 1' -a {names}
{lines}
"""
_FISH_VALUES = {FILES: "(__fish_complete_path)", FOLDERS: "(__fish_complete_directories)", MODELS: "(__fastrouter_models)"}


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _fish_option(condition: str, option: Option) -> str:
    words = ["complete -c fastrouter -n", condition]
    for name in option.names:
        bare = name.lstrip("-")
        words += ["-l" if name.startswith("--") else "-s" if len(bare) == 1 else "-o", bare]
    if option.takes is not None:
        words.append("-x")
    if option.takes:
        words += ["-a", _fish_quoted(" ".join(_FISH_VALUES.get(word, word) for word in option.takes))]
    return " ".join([*words, "-d", _fish_quoted(option.help)])


def fish(verbs: Sequence[Verb]) -> str:
    lines = []
    for verb in verbs:
        condition = _fish_quoted(f"__fastrouter_verb {verb.name}" if verb.name else "__fastrouter_serves")
        lines += [_fish_option(condition, option) for option in verb.options]
        if verb.follow:
            follow = " ".join(_FISH_VALUES.get(word, word) for word in verb.follow)
            lines.append(f"complete -c fastrouter -n {condition} -a {_fish_quoted(follow)}")
    names = "\\n".join(f"{verb.name}\\t{verb.help}" for verb in verbs[1:])
    return _FISH.format(head=_HEAD.format("fish"), names=_fish_quoted(f'(printf "{names}\\n")'), lines="\n".join(lines))


SCRIPTS: dict[str, Callable[[Sequence[Verb]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
