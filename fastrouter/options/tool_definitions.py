"""The built-in tools: names, what models are told of them, what they may do. Pure: only a table.

Invariant: names and parameters are llama-server's, so that its clients and prompts work.
"""

from typing import Any, NamedTuple

ALL = "all"  # in --tools
MAX_TEXT_BYTES = 16 << 10  # of a file or a command that a model gets in one result
MAX_RESULTS = 100
MAX_TIMEOUT_S = 60
USUAL_TIMEOUT_S = 10


class BuiltIn(NamedTuple):
    name: str
    title: str
    description: str
    properties: dict[str, Any]
    required: tuple[str, ...] = ()
    can_write: bool = False
    can_stream: bool = False

    def to_json(self) -> dict[str, Any]:
        """As `GET /tools` shows it."""
        schema = {"type": "object", "properties": self.properties, **({"required": list(self.required)} if self.required else {})}
        function = {"name": self.name, "description": self.description, "parameters": schema}
        return {
            "display_name": self.title,
            "tool": self.name,
            "type": "builtin",
            "permissions": {"write": self.can_write},
            "uses_cwd": True,
            "definition": {"type": "function", "function": function},
        }


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


def _number(description: str) -> dict[str, Any]:
    return {"type": "integer", "description": description}


def _switch(description: str) -> dict[str, Any]:
    return {"type": "boolean", "description": description}


_SKIPS = "Folders such as .git, node_modules, build and dist are not searched."
_PATTERNS = 'A pattern without "/" is compared with the name of a file, another one with its path.'

BUILT_IN: tuple[BuiltIn, ...] = (
    BuiltIn(
        "read_file",
        "Read file",
        "Read a text file, or some of its lines.",
        {
            "path": _text("Path of the file"),
            "start_line": _number("First line; the file begins with line 1 (default 1)"),
            "end_line": _number("Last line (default: the end of the file)"),
            "append_loc": _switch("Begin each line with its number"),
        },
        ("path",),
    ),
    BuiltIn(
        "file_glob_search",
        "File search",
        f"Find files below a folder by a glob pattern. {_PATTERNS} {_SKIPS}",
        {
            "path": _text("Folder to search"),
            "include": _text('Pattern of the files, such as "*.py" or "src/**/*.py" (default **)'),
            "exclude": _text("Pattern of files to leave out"),
            "type": _text('"file" (default), "dir" or "all"'),
            "max_depth": _number("How many levels of folders to search (default 0: all; 1: only the folder itself)"),
            "limit": _number(f"Most results (default and limit {MAX_RESULTS})"),
        },
        ("path",),
    ),
    BuiltIn(
        "grep_search",
        "Grep search",
        f"Find lines in a file, or in all files below a folder. {_PATTERNS} {_SKIPS}",
        {
            "path": _text("File or folder to search"),
            "pattern": _text("Regular expression, or plain text with `literal`"),
            "include": _text("Pattern of the files (default **)"),
            "exclude": _text("Pattern of files to leave out"),
            "return_line_numbers": _switch("Show the numbers of the lines"),
            "literal": _switch("The pattern is plain text"),
            "ignore_case": _switch("Upper and lower case are the same"),
            "context_lines": _number("Lines to show before and after each found line (default 0)"),
        },
        ("path", "pattern"),
    ),
    BuiltIn(
        "exec_shell_command",
        "Execute shell command",
        "Run a command with sh and return what it writes. It can change files only below its folder.",
        {
            "command": _text("The command"),
            "timeout": _number(f"Seconds it may take (default {USUAL_TIMEOUT_S}, at most {MAX_TIMEOUT_S})"),
            "max_output_size": _number(f"Most bytes of output (default and limit {MAX_TEXT_BYTES})"),
        },
        ("command",),
        can_write=True,
        can_stream=True,
    ),
    BuiltIn(
        "write_file",
        "Write file",
        "Write a text file. A missing file and missing folders are made; an existing file is replaced.",
        {"path": _text("Path of the file"), "content": _text("The whole new text")},
        ("path", "content"),
        can_write=True,
    ),
    BuiltIn(
        "edit_file",
        "Edit file",
        "Replace parts of a text file. Each old_text must be in the file exactly once, letter by letter, and the parts must not overlap.",
        {
            "path": _text("Path of the file"),
            "edits": {
                "type": "array",
                "description": "One or more replacements",
                "items": {
                    "type": "object",
                    "properties": {"old_text": _text("The text to replace"), "new_text": _text("The text to put there")},
                    "required": ["old_text", "new_text"],
                },
            },
        },
        ("path", "edits"),
        can_write=True,
    ),
    BuiltIn("get_info", "Get runtime info", "The name and version of the operating system, and the current folder.", {}),
)
BY_NAME = {tool.name: tool for tool in BUILT_IN}


def chosen(names: tuple[str, ...]) -> tuple[BuiltIn, ...]:
    """The tools that --tools names."""
    return tuple(tool for tool in BUILT_IN if ALL in names or tool.name in names)
