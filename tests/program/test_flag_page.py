"""docs/flags.md is made from the table of flags: python tests/program/test_flag_page.py > docs/flags.md"""

from pathlib import Path

from fastrouter.config.flag import Flag, Scope
from fastrouter.config.help import placeholder
from fastrouter.config.table import TABLE

PAGE = Path(__file__).parents[2] / "docs" / "flags.md"
HEAD = """# Flags

Every flag of the command line, those of llama-server included. In preset files, flags of models are keys without dashes. This page is made
from the program's own table; `fastrouter --help` shows the same.
"""


def _state(flag: Flag) -> str:
    if flag.instead:
        return f"accepted without effect: {flag.instead}"
    if flag.scope is Scope.REMOVED:
        return f"an error, as in llama-server: {flag.help}"
    if flag.scope is Scope.REFUSED:
        return f"an error: {flag.help}"
    return flag.help.replace("|", "\\|")


def _row(flag: Flag) -> str:
    names = ", ".join(f"`{name}`" for name in (*flag.names, *flag.off_names))
    value = placeholder(flag).strip().replace("|", "\\|")
    return f"| {names}{f' {value}' if value else ''} | {f'`{flag.env}`' if flag.env else ''} | {_state(flag)} |"


def page() -> str:
    parts = [HEAD]
    for scope in Scope:
        flags = [flag for flag in TABLE if flag.scope is scope]
        parts += [f"\n## {scope.value}\n", "| flag | variable | what it does |", "|---|---|---|", *map(_row, flags)]
    return "\n".join(parts) + "\n"


def test_the_page_is_that_of_the_table() -> None:
    assert PAGE.read_text() == page(), f"run python {Path(__file__).relative_to(PAGE.parents[1])} > docs/flags.md"


if __name__ == "__main__":
    print(page(), end="")
