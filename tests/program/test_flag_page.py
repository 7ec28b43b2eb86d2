"""docs/flags.md is made from the table of flags: python tests/program/test_flag_page.py > docs/flags.md"""

from pathlib import Path

from fastrouter.config.flag import Flag, Scope
from fastrouter.config.help import placeholder
from fastrouter.config.table import TABLE

PAGE = Path(__file__).parents[2] / "docs" / "flags.md"
HEAD = """# Flags

Every flag of the command line, those of llama-server included. In preset files, flags of models are keys without dashes. This page is made from
the program's own table; `fastrouter --help` shows the same.
"""


def _state(flag: Flag) -> str:
    if flag.instead:
        return f"accepted without effect: {flag.instead}"
    if flag.scope is Scope.REMOVED:
        return f"an error, as in llama-server: {flag.help}"
    if flag.only:
        values = " or ".join(f"`{str(value).lower() if isinstance(value, bool) else value}`" for value in flag.only)
        return f"only {values}, which is what fastrouter does; another value is an error"
    return flag.help.replace("|", "\\|")


def _row(flag: Flag) -> str:
    names = ", ".join(f"`{name}`" for name in (*flag.names, *flag.off_names))
    value = placeholder(flag).strip().replace("|", "\\|") if not flag.only else ""
    return f"| {names}{f' {value}' if value else ''} | {f'`{flag.env}`' if flag.env else ''} | {_state(flag)} |"


def page() -> str:
    parts = [HEAD]
    for scope in Scope:
        flags = [flag for flag in TABLE if flag.scope is scope]
        missing = [flag for flag in flags if scope is Scope.NOT_YET and not flag.only]
        shown = [flag for flag in flags if flag not in missing]
        if scope is Scope.NOT_YET:
            names = ", ".join(f"`{flag.names[-1]}`" for flag in missing)
            parts.append(f"\n## {scope.value}\n\nThese give an error that names them: {names}.\n\nThese have one value so far:\n")
        else:
            parts.append(f"\n## {scope.value}\n")
        parts += ["| flag | variable | what it does |", "|---|---|---|", *map(_row, shown)]
    return "\n".join(parts) + "\n"


def test_the_page_is_that_of_the_table() -> None:
    assert PAGE.read_text() == page(), f"run python {Path(__file__).relative_to(PAGE.parents[1])} > docs/flags.md"


if __name__ == "__main__":
    print(page(), end="")
