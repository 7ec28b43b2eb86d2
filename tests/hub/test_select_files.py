"""Which files of a repository a name means: llama-server's rules, and no path that leads outside."""

import re

import pytest

from fastrouter.catalog.sources import parse_name
from fastrouter.errors import InvalidRequest
from fastrouter.hub.select_files import NotThere, RemoteFile, choose

SHA = "a" * 64


def listing(*paths: str) -> list[RemoteFile]:
    return [RemoteFile(path, 10, SHA) for path in paths]


def chosen(paths: list[str], quant: str | None = None, file: str | None = None, *, with_projector: bool = True) -> list[str]:
    return [remote.path for remote in choose(listing(*paths), quant, file, with_projector=with_projector)]


@pytest.mark.parametrize(
    ("paths", "quant", "expected"),
    [
        (["m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-F16.gguf"], None, ["m-Q4_K_M.gguf"]),
        (["m-Q8_0.gguf", "m-F16.gguf"], None, ["m-Q8_0.gguf"]),
        (["m-F16.gguf", "README.md", "m-Q2_K.gguf"], None, ["m-F16.gguf"]),
        (["m-Q8_0.gguf", "m-Q4_K_M.gguf"], "q8_0", ["m-Q8_0.gguf"]),
        (["m-IQ4_XS.gguf", "m-Q4_XS.gguf"], "Q4_XS", ["m-Q4_XS.gguf"]),
        (["m-UD-Q4_K_XL.gguf"], "UD-Q4_K_XL", ["m-UD-Q4_K_XL.gguf"]),
        (["tiny.gguf"], "tiny", ["tiny.gguf"]),
        (["m.Q4_K_M.gguf"], "Q4_K_M", ["m.Q4_K_M.gguf"]),
        (["a/m-Q4_0.gguf", "b/m-Q4_0.gguf"], "Q4_0", ["a/m-Q4_0.gguf"]),
        (["mmproj-Q4_K_M.gguf", "mtp-Q4_K_M.gguf", "imatrix-Q4_K_M.gguf", "x-Q2_K.gguf"], None, ["x-Q2_K.gguf", "mmproj-Q4_K_M.gguf"]),
    ],
)
def test_quant(paths: list[str], quant: str | None, expected: list[str]) -> None:
    assert chosen(paths, quant) == expected


def test_all_shards_in_order() -> None:
    paths = ["BF16/m-00002-of-00003.gguf", "BF16/m-00001-of-00003.gguf", "BF16/m-00003-of-00003.gguf", "m-00001-of-00003.gguf"]
    assert chosen(paths, "bf16") == [f"BF16/m-0000{index}-of-00003.gguf" for index in (1, 2, 3)]
    with pytest.raises(NotThere, match="lacks shard 2 of 3"):
        chosen(paths[1:], "BF16")


@pytest.mark.parametrize(
    ("model", "projectors", "expected"),
    [
        ("m-Q4_K_M.gguf", ["mmproj-BF16.gguf", "mmproj-Q8_0.gguf"], "mmproj-Q8_0.gguf"),
        ("m-F16.gguf", ["mmproj-F16.gguf", "mmproj-F32.gguf", "mmproj-Q8_0.gguf"], "mmproj-F16.gguf"),
        ("a/m-Q4_K_M.gguf", ["mmproj-Q4_0.gguf", "a/mmproj-F32.gguf"], "a/mmproj-F32.gguf"),
        ("a/m-Q4_K_M.gguf", ["b/mmproj-Q4_0.gguf"], None),
    ],
)
def test_best_projector(model: str, projectors: list[str], expected: str | None) -> None:
    assert chosen([model, *projectors]) == [model, *([expected] if expected else [])]
    assert chosen([model, *projectors], with_projector=False) == [model]


def test_file_by_name() -> None:
    paths = ["m-Q8_0.gguf", "x/m-Q4_K_M-00001-of-00002.gguf", "x/m-Q4_K_M-00002-of-00002.gguf"]
    assert chosen(paths, file="x/m-Q4_K_M-00001-of-00002.gguf") == paths[1:]
    assert chosen(paths, file="m-Q8_0.gguf") == paths[:1]


def test_an_error_says_what_is_there() -> None:
    with pytest.raises(NotThere, match=re.escape("no model of quant Q3_K; its GGUF files: m-Q4_0.gguf, m-Q8_0.gguf")):
        chosen(["m-Q8_0.gguf", "m-Q4_0.gguf", "README.md"], "Q3_K")
    with pytest.raises(NotThere, match="no GGUF model; its GGUF files: none"):
        chosen(["model.safetensors"])
    with pytest.raises(NotThere, match=r"no z\.gguf; its GGUF files: .* and 8 more"):
        chosen([f"m{index}.gguf" for index in range(20)], file="z.gguf")


@pytest.mark.parametrize(
    "path", ["../m-Q4_0.gguf", "/m-Q4_0.gguf", "a/../../m-Q4_0.gguf", "a//m-Q4_0.gguf", "..\\m-Q4_0.gguf", "./m.gguf", "m\0.gguf"]
)
def test_hostile_paths_are_not_there(path: str) -> None:
    with pytest.raises(NotThere):
        chosen([path])
    assert chosen([path, "good-Q4_0.gguf"]) == ["good-Q4_0.gguf"]


@pytest.mark.parametrize("checksum", ["", "../../x", "A" * 64, "a" * 63, "a" * 64 + "/"])
def test_hostile_checksums_are_not_there(checksum: str) -> None:
    with pytest.raises(NotThere):
        choose([RemoteFile("m-Q4_0.gguf", 1, checksum)], None, None, with_projector=True)
    with pytest.raises(NotThere):
        choose([RemoteFile("m-Q4_0.gguf", -1, SHA)], None, None, with_projector=True)


def test_names() -> None:
    assert parse_name("user/repo") == ("user/repo", None)
    assert parse_name("ggml-org/gemma-3-4b-it-GGUF:Q4_K_M") == ("ggml-org/gemma-3-4b-it-GGUF", "Q4_K_M")
    for bad in (
        "",
        "repo",
        "a/b/c",
        "/b",
        "a/",
        "../b",
        "a/..",
        "a/b:",
        "a/b:../c",
        "a/b:c/d",
        "a b/c",
        "a/b\0",
        "a--b/c",
        "a/b\n",
        "x/" + "y" * 200,
    ):
        with pytest.raises(InvalidRequest):
            parse_name(bad)
