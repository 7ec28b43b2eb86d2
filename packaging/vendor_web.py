"""Gets the page's libraries from the npm registry into fastrouter/web/vendor, each file as one ES module.

`python packaging/vendor_web.py` writes the files, their licences and vendor.json (their names, and the hashes of the downloaded and the
written files). `--axe FILE` gets only the accessibility checker that the tests use. Invariant: an archive with a hash other than the one
below is refused; the same versions give the same bytes.
"""

import argparse
import base64
import hashlib
import io
import json
import os
import re
import sys
import tarfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

VENDOR = Path(__file__).parent.parent / "fastrouter" / "web" / "vendor"
REGISTRY = os.environ.get("NPM_CONFIG_REGISTRY", "https://registry.npmjs.org").rstrip("/")
TIMEOUT_S = 60
LANGUAGES = (
    *("bash", "c", "cpp", "csharp", "css", "diff", "dockerfile", "go", "ini", "java", "javascript", "json", "kotlin", "lua", "makefile"),
    *("markdown", "perl", "php", "plaintext", "powershell", "python", "r", "ruby", "rust", "scala", "shell", "sql", "swift"),
    *("typescript", "xml", "yaml"),
)

Files = dict[str, str]  # text by path in the archive


def as_it_is(source: str) -> Callable[[Files], str]:
    return lambda files: files[source]


def exporting(source: str, name: str) -> Callable[[Files], str]:
    """For a script that makes the variable `name`."""
    return lambda files: f"{files[source].rstrip()}\nexport default {name};\n"


def from_umd(source: str) -> Callable[[Files], str]:
    """For a script that fills `module.exports`."""
    return lambda files: f"const module = {{ exports: {{}} }}, exports = module.exports;\n{files[source]}\nexport default module.exports;\n"


def highlighter(files: Files) -> str:
    """The core and its languages as one module."""
    core, num_ends = re.subn(r"export\s*\{\s*(\w+) as default\s*\};?\s*$", r"const hljs = \1;\n", files["es/core.min.js"])
    assert num_ends == 1, "core.min.js ends otherwise"
    parts = [core]
    for language in LANGUAGES:
        grammar, num_ends = re.subn(r";\s*export default hljsGrammar;\s*$", "", files[f"es/languages/{language}.min.js"])
        assert num_ends == 1, f"{language}.min.js ends otherwise"
        opening = re.compile(r"var hljsGrammar\s*=")
        assert len(opening.findall(grammar)) == 1, f"{language}.min.js begins otherwise"
        parts.append(opening.sub(f'hljs.registerLanguage("{language}",', grammar) + ");\n")
    return "".join([*parts, "export default hljs;\n"])


def without_fonts(source: str) -> Callable[[Files], str]:
    """A style sheet that needs no files: the fonts of the system are good enough."""
    return lambda files: re.sub(r"@font-face\s*\{[^}]*\}\s*", "", files[source])


@dataclass(frozen=True)
class Library:
    name: str
    version: str
    licence: str
    integrity: str  # of the archive, as in the registry's record
    files: dict[str, Callable[[Files], str]] = field(default_factory=dict)  # how each is made, by name in vendor/
    licence_file: str = "LICENSE"

    @property
    def archive(self) -> str:
        """Its path in any registry."""
        return f"{self.name}/-/{self.name.rpartition('/')[2]}-{self.version}.tgz"


LIBRARIES = (
    Library(
        "marked",
        "18.2.1",
        "MIT",
        "sha512-ii4bxCTCqqwpT86XZWgJNs+ZnAIZksmLGYMViWA7PDIXYIeNo1x6cDdX3JOip9NM/cI6p8z57FxliACboTruMA==",
        {"marked.js": as_it_is("lib/marked.esm.js")},
    ),
    Library(
        "dompurify",
        "3.4.18",
        "MPL-2.0 OR Apache-2.0",
        "sha512-ofe3wI/uNm68HInABYFJYqQxRw1EaKAjNdrFVKqjUY+UZurvNd2L/HuQe097s/4RivWiZyP6tT7aoT8atjfhwg==",
        {"dompurify.js": from_umd("dist/purify.min.js")},
    ),
    Library(
        "@highlightjs/cdn-assets",
        "11.12.0",
        "BSD-3-Clause",
        "sha512-KvOKXODaiFmId9xaq3xc5xCL66wVLUuOngDbO9B/kewbFTqdGbn2nJxNhN3H5R1cgDTVj6R8vH0zgiNDEGjpDw==",
        {"highlight.js": highlighter},
    ),
    Library(
        "temml",
        "0.13.5",
        "MIT",
        "sha512-aPkDDgunanpLNL0ql32HbolqLep+w8DRcVXRql7rWrMt/PhczdLgL4UBYYVU3BYjCNjkGq4EqwIicu/zWr1iOg==",
        {"temml.js": exporting("dist/temml.min.js", "temml"), "temml.css": without_fonts("dist/Temml-Local.css")},
    ),
    Library(
        "uplot",
        "1.6.32",
        "MIT",
        "sha512-KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6IKTXImkbLgkMy+jabjLgSLMasNuGGzQm/ep3tOkyTxpiQIw==",
        {"uplot.js": exporting("dist/uPlot.iife.min.js", "uPlot"), "uplot.css": as_it_is("dist/uPlot.min.css")},
    ),
)
AXE = Library(
    "axe-core",
    "4.14.1",
    "MPL-2.0",
    "sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
    {"axe.js": as_it_is("axe.min.js")},
)


def sha512(content: bytes) -> str:
    """In the format of HTML's `integrity` and of the registry."""
    return "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()


def fetch(library: Library) -> Files:
    url = f"{REGISTRY}/{library.archive}"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            archive = response.read()
    except OSError as error:
        raise SystemExit(f"{url}: {error}") from None
    if sha512(archive) != library.integrity:
        raise SystemExit(f"{url}: the hash is {sha512(archive)}, not {library.integrity}")
    files = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar.getmembers():
            content = tar.extractfile(member) if member.isfile() else None
            if content is not None and member.name.endswith((".js", ".css", "LICENSE")):
                files[member.name.partition("/")[2]] = content.read().decode()
    return files


def build(library: Library, files: Files) -> dict[str, bytes]:
    """The files in vendor/; each file that one of them names exists."""
    made = {name: re.sub(r"\n?//# sourceMappingURL=\S*", "", make(files)) for name, make in library.files.items()}
    about = f"/*! {library.name} {library.version}, {library.licence}: LICENSE-{licence_name(library)}.txt */\n"
    return {name: (about + text).encode() for name, text in made.items()}


def licence_name(library: Library) -> str:
    return library.name.strip("@").replace("/", "-")


def vendor(folder: Path) -> None:
    record = []
    folder.mkdir(parents=True, exist_ok=True)
    for library in LIBRARIES:
        files = fetch(library)
        written = {**build(library, files), f"LICENSE-{licence_name(library)}.txt": files[library.licence_file].encode()}
        for name, content in written.items():
            (folder / name).write_bytes(content)
            print(f"{name:<40} {len(content):>8} bytes")
        about = {
            "name": library.name,
            "version": library.version,
            "licence": library.licence,
            "source": f"https://registry.npmjs.org/{library.archive}",
        }
        record.append({**about, "integrity": library.integrity, "files": {name: sha512(content) for name, content in written.items()}})
    (folder / "vendor.json").write_text(json.dumps(record, indent=2) + "\n")


def fetch_axe(path: Path) -> None:
    [content] = build(AXE, fetch(AXE)).values()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_bytes(content)
    partial.rename(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axe", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if arguments.axe is not None:
        fetch_axe(arguments.axe)
    else:
        vendor(VENDOR)


if __name__ == "__main__":
    sys.exit(main())
