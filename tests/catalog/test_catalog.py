"""Which models a folder, a cache, presets and --model make, and how they are named."""

import json
import os
import re
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_models import make_llama, make_lora

from fastrouter.api.models.access import may_see
from fastrouter.catalog.catalog import Catalog
from fastrouter.catalog.sources import Wanted
from fastrouter.catalog.spec import ModelSpec
from fastrouter.config.config import parse
from fastrouter.errors import ConfigError
from fastrouter.http.api_keys import Caller, KeyScope
from fastrouter.hub.remove import why_it_stays

COMMIT = "a" * 40


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def put(models: Path, tiny: Path) -> Callable[..., Path]:
    def _put(name: str, content: bytes | None = None) -> Path:
        path = models / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiny.read_bytes() if content is None else content)
        return path

    return _put


def catalog_of(models: Path, *argv: str, **environ: str) -> Catalog:
    return Catalog(parse(["--models-dir", str(models), *argv], environ))


def ids(catalog: Catalog) -> list[str]:
    return [spec.id for spec in catalog.models()]


def get(catalog: Catalog, name: str) -> ModelSpec:
    spec = catalog.get(name)
    assert spec is not None, f"{name} is unknown"
    return spec


def preset_file(models: Path, text: str) -> str:
    path = models.parent / "presets.ini"
    path.write_text(text)
    return str(path)


# ---------------------------------------------------------------- folders


def test_a_folder(models: Path, put: Callable[..., Path]) -> None:
    put("b.gguf")
    put("sub/model-Q8_0.gguf")
    put("sub/mmproj-F16.gguf")
    put("two/x.gguf")
    put("two/y.gguf")
    put("deep/er/z.gguf")
    put("mtp-b.gguf")
    put("notes.txt")
    catalog = catalog_of(models)
    assert ids(catalog) == ["b", "deep/er/z", "sub", "two/x", "two/y"]
    assert get(catalog, "sub").mmproj == str(models / "sub/mmproj-F16.gguf")
    assert get(catalog, "b").mmproj is None
    assert {spec.source for spec in catalog.models()} == {"models_dir"}
    spec = get(catalog, "b")
    assert spec.path == str(models / "b.gguf")
    assert spec.error is None
    assert spec.header is not None
    assert spec.header.architecture == "llama"
    assert (spec.size_bytes, spec.can_remove, spec.load_on_startup) == (os.path.getsize(spec.path), False, False)
    assert spec.created == int(os.stat(spec.path).st_mtime)
    assert catalog.default is None


@pytest.mark.parametrize("name", ["sub", "sub/model.gguf", "model.gguf", "sub/model", "model"])
def test_spellings(models: Path, put: Callable[..., Path], name: str) -> None:
    put("sub/model.gguf")
    assert get(catalog_of(models), name).id == "sub"


@pytest.mark.parametrize("name", ["../b", "./b.gguf", "/etc/passwd", "", "b.GGUF", "sub/../b", "b\0", "b:", ":b", "/b.gguf"])
def test_paths_do_not_resolve(models: Path, put: Callable[..., Path], name: str) -> None:
    put("b.gguf")
    (models.parent / "b.gguf").write_bytes(b"x")
    assert catalog_of(models).get(name) is None


def test_the_one_near_the_root_keeps_the_short_id(models: Path, put: Callable[..., Path]) -> None:
    for name in ("z.gguf", "a/z.gguf", "a/y.gguf", "b/z.gguf", "b/w.gguf", "c/z/z.gguf", "d/z/q.gguf"):
        put(name)
    catalog = catalog_of(models)
    assert ids(catalog) == ["a/y", "a/z", "b/w", "b/z", "c/z/z", "d/z/q", "z"]
    assert get(catalog, "z").path == str(models / "z.gguf")
    assert get(catalog, "z.gguf").id == "z"
    assert get(catalog, "b/z.gguf").id == "b/z"


def test_shards(models: Path, tmp_path: Path) -> None:
    make_llama(models / "big.gguf", tensors_per_shard=8)
    (models / "part").mkdir()
    make_llama(models / "part" / "p.gguf", tensors_per_shard=8)
    (models / "part" / "p-00002-of-00003.gguf").unlink()
    catalog = catalog_of(models)
    big = get(catalog, "big")
    assert big.path == str(models / "big-00001-of-00003.gguf")
    assert big.size_bytes == sum(path.stat().st_size for path in models.glob("big-*"))
    assert big.error is None
    assert big.header is not None
    assert big.header.num_params == 124352
    part = get(catalog, "part")
    assert (part.error or "").startswith(f"shard 2 of 3 is missing: there is no file {models / 'part' / 'p-00002-of-00003.gguf'};")
    assert (part.capabilities, part.can_be_tried) == ((), False)
    (models / "part" / "p-00001-of-00003.gguf").rename(models / "alone.gguf")
    alone = get(catalog_of(models), "alone")
    assert "it is one of 3 shards; name them all like NAME-00001-of-00003.gguf" in (alone.error or "")
    assert (alone.capabilities, alone.can_be_tried) == ((), False)


def test_what_cannot_be_loaded_is_listed_with_its_error(models: Path, put: Callable[..., Path]) -> None:
    put("good.gguf")
    put("cut.gguf", (models / "good.gguf").read_bytes()[:-9])
    put("empty.gguf", b"")
    os.mkfifo(models / "pipe.gguf")
    (models / "zero.gguf").symlink_to("/dev/zero")
    (models / "gone.gguf").symlink_to("nowhere")
    (models / "self.gguf").symlink_to("self.gguf")
    (models / "loop").symlink_to(".")
    (models / "own").symlink_to("own")
    catalog = catalog_of(models)
    assert ids(catalog) == ["cut", "empty", "gone", "good", "pipe", "self", "zero"]
    errors = {spec.id: spec.error or "" for spec in catalog.models()}
    assert "it is incomplete" in errors["cut"]
    assert errors["empty"] == f"{models}/empty.gguf: is empty; get another copy of the file, or remove it"
    for name in ("pipe", "zero"):
        assert errors[name] == f"{models}/{name}.gguf: is not a regular file; check that it exists and can be read"
    assert errors["gone"].startswith(f"{models}/gone.gguf: No such file or directory (it is a link to nowhere); ")
    assert errors["good"] == ""
    assert [spec.id for spec in catalog.models() if spec.can_be_tried] == ["good"]
    assert [spec.id for spec in catalog.models() if spec.capabilities] == ["good"]


def test_names_that_are_no_utf8(models: Path, tiny: Path) -> None:
    for name in (b"bad-\xff.gguf", b"bad-\xfe.gguf"):
        shutil.copy(tiny, os.path.join(os.fsencode(models), name))
    catalog = catalog_of(models)
    assert ids(catalog) == ["bad-\ufffd", "bad-\ufffd.gguf"]
    for spec in catalog.models():
        assert spec.error == f"{models}/bad-\ufffd.gguf: its path is not UTF-8: rename it"
        json.dumps([spec.id, spec.args, spec.error]).encode()
        " ".join(spec.args).encode()


def test_links_to_folders_are_followed_once(models: Path, put: Callable[..., Path], tmp_path: Path) -> None:
    put("real/a.gguf")
    (models / "again").symlink_to("real")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "up").symlink_to(models)
    (models / "out").symlink_to(tmp_path / "elsewhere")
    assert ids(catalog_of(models)) == ["real"]


def test_ten_thousand_files(models: Path) -> None:
    header = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 20) + b"general.architecture" + struct.pack("<IQ", 8, 5) + b"llama"
    for folder in range(100):
        (models / str(folder)).mkdir()
        for number in range(100):
            (models / str(folder) / f"m{folder * 100 + number}.gguf").write_bytes(header)
    start = time.process_time()
    catalog = catalog_of(models)
    assert time.process_time() - start < 60  # about half a second
    assert len(catalog.models()) == 10_000


# ---------------------------------------------------------------- caches


def put_cached(hub: Path, tiny: Path, repo: str, *names: str, commit: str = COMMIT, is_main: bool = True) -> None:
    folder = hub / f"models--{repo.replace('/', '--')}"
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    if is_main:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(commit)
    for name in names:
        blob = folder / "blobs" / f"blob-{name.replace('/', '_')}"
        shutil.copy(tiny, blob)
        link = folder / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))


def test_the_hub_cache(tmp_path: Path, tiny: Path) -> None:
    put_cached(tmp_path, tiny, "user/some-repo", "m-Q4_K_M.gguf", "m-q8_0.gguf", "mmproj-F16.gguf", "UD/m-UD-Q2_K_XL-00001-of-00001.gguf")
    put_cached(tmp_path, tiny, "user/some-repo", "old-F16.gguf", commit="b" * 40, is_main=False)
    put_cached(tmp_path, tiny, "other/one", "tiny260K.gguf", is_main=False)
    (tmp_path / "models--no--refs").mkdir()
    (tmp_path / "datasets--a--b").mkdir()
    catalog = Catalog(parse([], {"LLAMA_CACHE": str(tmp_path)}))
    assert ids(catalog) == ["other/one:tiny260K", "user/some-repo:Q2_K_XL", "user/some-repo:Q4_K_M", "user/some-repo:Q8_0"]
    spec = get(catalog, "user/some-repo:q8_0")
    assert (spec.source, spec.can_remove, spec.error) == ("cache", True, None)
    assert spec.mmproj == str(tmp_path / "models--user--some-repo/snapshots" / COMMIT / "mmproj-F16.gguf")
    assert get(catalog, "user/some-repo").id == "user/some-repo:Q4_K_M"


def test_unfinished_downloads_are_no_models(tmp_path: Path, tiny: Path) -> None:
    put_cached(tmp_path, tiny, "u/r", "a-Q4_0.gguf", "b-Q8_0.gguf")
    folder = tmp_path / "models--u--r"
    (folder / "blobs" / "blob-a-Q4_0.gguf").unlink()
    link = folder / "snapshots" / COMMIT / "c-F16.gguf"
    shutil.copy(tiny, folder / "blobs" / "x.incomplete")
    link.symlink_to("../../blobs/x.incomplete")
    assert ids(Catalog(parse([], {"LLAMA_CACHE": str(tmp_path)}))) == ["u/r:Q8_0"]


@pytest.mark.parametrize("commit", ["../..", "..", "", "a/b", "gone"])
def test_a_ref_cannot_lead_out_of_the_cache(tmp_path: Path, tiny: Path, commit: str) -> None:
    put_cached(tmp_path / "hub", tiny, "u/r", "a-Q4_0.gguf")
    (tmp_path / "hub" / "models--u--r" / "refs" / "main").write_text(commit)
    shutil.copy(tiny, tmp_path / "hub" / "models--u--r" / "x-Q1_0.gguf")
    assert ids(Catalog(parse([], {"LLAMA_CACHE": str(tmp_path / "hub")}))) == []


def test_the_flat_cache(tmp_path: Path, tiny: Path) -> None:
    for name in ("us_er-repo-GGUF_m-Q4_0.gguf", "lonely.gguf"):
        shutil.copy(tiny, tmp_path / name)
    (tmp_path / "manifest=us=er-repo-GGUF=latest.json").write_text("{}")
    catalog = Catalog(parse([], {"LLAMA_CACHE": str(tmp_path)}))
    assert ids(catalog) == ["lonely", "us/er-repo-GGUF:Q4_0"]


def test_a_folder_beats_the_cache(models: Path, put: Callable[..., Path], tmp_path: Path, tiny: Path) -> None:
    put("lonely.gguf")
    (tmp_path / "cache").mkdir()
    shutil.copy(tiny, tmp_path / "cache" / "lonely.gguf")
    assert get(catalog_of(models, LLAMA_CACHE=str(tmp_path / "cache")), "lonely").path == str(models / "lonely.gguf")


# ---------------------------------------------------------------- presets and the default model


def test_presets_merge_over_models(models: Path, put: Callable[..., Path]) -> None:
    put("a.gguf")
    put("sub/b.gguf")
    text = (
        "[*]\nctx-size = 10\nthreads = 7\n[a]\nctx-size = 20\ntemp = 0.5\nalias = x, y\ntags = t\nstop-timeout = 3\n"
        f"[sub/b.gguf]\nload-on-startup = 1\n[new]\nmodel = {models}/a.gguf\nbatch-size = 5\n"
    )
    argv = ["--models-preset", preset_file(models, text), "--threads", "2"]
    catalog = catalog_of(models, *argv, LLAMA_ARG_CTX_SIZE="30", LLAMA_ARG_UBATCH="8")
    assert ids(catalog) == ["a", "new", "sub/b.gguf"]
    a, new, sub = catalog.models()
    assert [get(catalog, name).id for name in ("sub", "b.gguf", "sub/b")] == ["sub/b.gguf"] * 3
    assert (a.options.ctx_size, a.options.threads, a.options.ubatch_size, a.options.sampling) == (20, 2, 8, {"temperature": 0.5})
    assert (a.aliases, a.tags, a.stop_timeout_s, a.source, get(catalog, "y")) == (("x", "y"), ("t",), 3.0, "preset", a)
    assert a.preset == "[a]\nctx-size = 20\ntemp = 0.5\nalias = x,y\ntags = t\nstop-timeout = 3.0\n"
    assert (new.path, new.options.batch_size, new.options.ctx_size, new.aliases) == (a.path, 5, 10, ())
    assert (sub.load_on_startup, sub.options.ctx_size, sub.stop_timeout_s) == (True, 10, 10.0)
    assert a.args[:5] == ("llama-server", "--model", a.path, "--alias", "a")
    assert "--ctx-size 20" in " ".join(a.args)


def test_a_preset_of_a_cached_model(tmp_path: Path, tiny: Path, models: Path) -> None:
    put_cached(tmp_path / "hub", tiny, "u/r", "m-Q4_K_M.gguf", "m-Q8_0.gguf")
    path = preset_file(models, "[u/r:q8_0]\nc = 1\n[mine]\nhf-repo = u/r\n[file]\nhf-repo = u/r\nhf-file = m-Q8_0.gguf\n")
    catalog = catalog_of(models, "--models-preset", path, LLAMA_CACHE=str(tmp_path / "hub"))
    assert ids(catalog) == ["file", "mine", "u/r:Q4_K_M", "u/r:q8_0"]
    assert get(catalog, "u/r:Q8_0").options.ctx_size == 1
    assert get(catalog, "mine").path.endswith("m-Q4_K_M.gguf")
    assert get(catalog, "file").path.endswith("m-Q8_0.gguf")
    path = preset_file(models, "[me/mine:some-q4_k_m]\nhf-repo = u/r\n")
    named = get(catalog_of(models, "--models-preset", path, LLAMA_CACHE=str(tmp_path / "hub")), "me/mine:q4_k_m")
    assert named.id == "me/mine:some-q4_k_m"  # as it is written; llama-server calls it me/mine:Q4_K_M


def test_ids_are_what_sections_say(models: Path, put: Callable[..., Path]) -> None:
    """Byte for byte; a name that would be equal only after rewriting is not the same."""
    put("a.gguf")
    names = [
        "org/M:Q4_K_M-thinking",
        "org/M:thinking",
        "org/M:THINKING",
        "org/M:q8_0",
        "org/M:Q8_0",
        "org/N:some-q4_k_m",
        "A",
        "ä/b c",
        "A.gguf",
        "x:y",
    ]
    text = (
        "".join(f"[{name}]\nmodel = models/a.gguf\nn = {number}\n" for number, name in enumerate(names)) + "[a]\nn = 20\n[a.gguf]\nn = 21"
    )
    catalog = catalog_of(models, "--models-preset", preset_file(models, text))
    assert ids(catalog) == sorted([*names, "a", "a.gguf"])
    assert [get(catalog, name).options.n_predict for name in [*names, "a", "a.gguf"]] == [*range(10), 20, 21]
    assert not any(spec.aliases or spec.error for spec in catalog.models())
    assert get(catalog, "org/N:q4_k_m").id == "org/N:some-q4_k_m"  # llama-server's name for it, because no other model has it
    assert get(catalog, "org/N:Q4_K_M").spellings == ("org/N:Q4_K_M",)


@pytest.mark.parametrize(
    ("text", "section", "message"),
    [
        ("[b]\nc = 1", "b", "presets.ini:1 [b]: there is no such model; name its file with `model = PATH`"),
        ("[B]\nc = 1\n[aa]\nmodel = models/a.gguf", "B", "presets.ini:1 [B]: there is no such model; name its file"),
        ("[aa]\nc = 1", "aa", "presets.ini:1 [aa]: there is no such model, did you mean a?"),
        ("[b]\nhf-repo = no/such", "b", "presets.ini:1 [b]: no/such is not in the cache"),
        ("[b]\nhf-file = x.gguf", "b", "presets.ini:2 [b] hf-file: hf-repo is missing"),
        ("[b]\nhf-repo = u/r\nmodel = models/a.gguf", "b", "presets.ini:1 [b]: model and hf-repo both name its file"),
        ("[b]\nmodel = x", "b", "presets.ini:2 [b] model = x: there is no such file; looked for "),
        ("[b]\nmodel = models/a.gguf\nmodel-draft = x", "b", "presets.ini:3 [b] model-draft = x: there is no such file; looked for "),
        ("[b]\nmodel = models/a.gguf\nlora = x,models/a.gguf", "b", "presets.ini:3 [b] lora = x,models/a.gguf: there is no such file"),
        ("[b]\nmodel = models/a.gguf\nchat-template-file = presets.ini\nj = {}", "b", ""),
        ("[b]\nmodel = models/a.gguf\ngrammar-file = models/a.gguf", "b", "a.gguf: is not UTF-8"),
        ("[b]\nmodel = models/a.gguf\njson-schema = []", "b", "presets.ini:3 [b] json-schema = []: must be a JSON object"),
        ("[b]\nmodel = models/a.gguf\nc", "b", "presets.ini:3 [b]: expected `key = value`"),
        ("[b]\nmodel = models/a.gguf\nc = -1", "b", "presets.ini:3 [b] c = -1: must be between 0"),
        ("[b]\nmodel = models/a.gguf\nport = 1", "b", "presets.ini:3 [b]: port belongs to the router"),
        ("[b]\nmodel = models/a.gguf\n[b]\nc = 1", "b", "presets.ini:3: section [b] appears twice"),
        ("[b\nmodel = models/a.gguf", "[b", "presets.ini:1: not a section"),
        ("[c]\nmodel = models/a.gguf\nalias = z\n[b]\nmodel = models/a.gguf\nalias = z", "b", "the alias z of b already means c"),
        ("[b]\nmodel = models/a.gguf\nalias = a", "b", "presets.ini:3 [b]: the alias a of b already means a; choose another one"),
        ("[c]\nmodel = models/a.gguf\n[b]\nbase = c\nmodel = models/a.gguf", "b", "[b] model: a variant shares"),
        ("[b]\nbase = A", "b", "presets.ini:2 [b] base = A: there is no such model, did you mean a?"),
    ],
)
def test_a_wrong_section_is_a_model_that_says_why(models: Path, put: Callable[..., Path], text: str, section: str, message: str) -> None:
    put("a.gguf")
    path = preset_file(models, text + "\n[good]\nmodel = models/a.gguf\nalias = well\n")
    catalog = catalog_of(models, "--models-preset", path)
    assert get(catalog, "well").can_be_tried
    assert get(catalog, "a").can_be_tried
    if not message:
        assert get(catalog, section).fault is None
        return
    broken = get(catalog, section)
    assert message in (broken.fault or "")
    assert broken.error == broken.fault
    assert broken.fault.startswith(f"{path}:")
    assert (broken.can_be_tried, broken.wanted, broken.source, broken.base, broken.load_on_startup) == (False, None, "preset", None, False)
    with pytest.raises(ConfigError, match=r"--strict: 1 of .* cannot be used:\n  .*presets\.ini:\d") as caught:
        catalog_of(models, "--models-preset", path, "--strict")
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("c = 1", "presets.ini:1: c is before the first [section]"),
        ("[*]\nc = x", "presets.ini:2 [*] c = x: must be a whole number"),
        ("[*]\nchat-template-file = none", "presets.ini:2 [*] chat-template-file = none: there is no such file"),
        ("[*]\nsystem-prompt-file = models/a.gguf", "for every model: system-prompt-file "),
    ],
)
def test_what_is_wrong_for_all_models_ends_the_start(models: Path, put: Callable[..., Path], text: str, message: str) -> None:
    put("a.gguf")
    with pytest.raises(ConfigError, match=re.escape(message)):
        catalog_of(models, "--models-preset", preset_file(models, text))


def test_aliases_of_a_wrong_section(models: Path, put: Callable[..., Path]) -> None:
    """They show the mistake, unless they mean another model."""
    put("a.gguf")
    text = "[x]\nmodel = models/a.gguf\nalias = z\n[b]\nmodel = models/a.gguf\nalias = y, z\n[c]\nalias = v, y\n[d]\nbase = no\nalias = u"
    catalog = catalog_of(models, "--models-preset", preset_file(models, text))
    assert {name: get(catalog, name).id for name in "zyvu"} == {"z": "x", "y": "b", "v": "c", "u": "d"}
    assert [spec.aliases for spec in catalog.models()] == [(), ("y",), ("v",), ("u",), ("z",)]


def test_the_default_model(models: Path, put: Callable[..., Path], tmp_path: Path, tiny: Path) -> None:
    put("a.gguf")
    catalog = Catalog(parse(["-m", str(tiny), "-c", "5"], {}))
    assert catalog.default is not None
    assert (ids(catalog), catalog.default.load_on_startup, catalog.default.options.ctx_size) == (["tiny"], True, 5)
    catalog = catalog_of(models, "-m", str(tiny), "-a", "mine,other", "--tags", "t")
    assert ids(catalog) == ["a", "mine"]
    default = get(catalog, "other")
    assert default == catalog.default
    assert (default.id, default.aliases, default.tags, default.source) == ("mine", ("other",), ("t",), "file")
    assert get(catalog, "a").tags == ()
    assert catalog_of(models, "-m", str(models / "a.gguf")).default == get(catalog_of(models, "-m", str(models / "a.gguf")), "a")
    put_cached(tmp_path / "hub", tiny, "u/r", "m-Q4_K_M.gguf")
    cached = Catalog(parse(["-hf", "u/r:q4_k_m"], {"LLAMA_CACHE": str(tmp_path / "hub")})).default
    assert cached is not None
    assert (cached.id, cached.load_on_startup) == ("u/r:Q4_K_M", True)
    with pytest.raises(ConfigError, match="--hf-repo no/such: no/such is not in the cache, and --offline forbids"):
        Catalog(parse(["-hf", "no/such", "--offline"], {"LLAMA_CACHE": str(tmp_path / "hub")}))


def test_the_default_model_beside_one_of_the_same_name(models: Path, put: Callable[..., Path], tmp_path: Path) -> None:
    """Both are listed: the one that --model names has the name."""
    put("x.gguf")
    put("sub/y.gguf")
    other = make_llama(tmp_path / "x.gguf", seed=1)
    catalog = catalog_of(models, "-m", str(other))
    assert ids(catalog) == ["sub", "x", "x.gguf"]
    assert (get(catalog, "x").path, get(catalog, "x.gguf").path) == (str(other), str(models / "x.gguf"))
    assert (get(catalog, "x").source, get(catalog, "x.gguf").source) == ("file", "models_dir")
    catalog = catalog_of(models, "-m", str(other), "--alias", "sub")
    assert ids(catalog) == ["sub", "sub/y.gguf", "x"]
    assert (get(catalog, "sub").path, get(catalog, "sub/y.gguf").path) == (str(other), str(models / "sub" / "y.gguf"))


@pytest.mark.parametrize(("name", "model_id"), [("notes.txt", "notes.txt"), ("X.GGUF", "X"), ("a", "a"), ("v1.5", "v1.5")])
def test_a_model_is_called_as_its_file(tmp_path: Path, tiny: Path, name: str, model_id: str) -> None:
    shutil.copy(tiny, tmp_path / name)
    assert ids(Catalog(parse(["-m", str(tmp_path / name)], {}))) == [model_id]


def test_names_that_differ_in_the_letters_of_the_ending(models: Path, put: Callable[..., Path]) -> None:
    put("x.gguf")
    catalog = catalog_of(models)
    assert ids(catalog) == ["x"]
    put("x.GGUF")
    catalog.reload()
    assert ids(catalog) == ids(catalog_of(models)) == ["x", "x.GGUF"]
    assert get(catalog, "x.GGUF").path == str(models / "x.GGUF")
    assert get(catalog, "x").path == get(catalog, "x.gguf").path == str(models / "x.gguf")


def test_what_has_to_be_downloaded(models: Path, tiny: Path, tmp_path: Path) -> None:
    put_cached(tmp_path / "hub", tiny, "u/r", "m-UD-Q4_K_XL.gguf", "tiny260K.gguf")
    path = preset_file(models, "[mine]\nhf-repo = u/r:q8_0\n[own]\nhf-repo = u/other\nhf-file = a/b.gguf\nno-mmproj = 1\n")
    catalog = catalog_of(models, "-hf", "no/such:q4_0", "-a", "it", "--models-preset", path, LLAMA_CACHE=str(tmp_path / "hub"))
    assert ids(catalog) == ["it", "mine", "own", "u/r:Q4_K_XL", "u/r:tiny260K"]
    found = {spec.id: spec.wanted for spec in catalog.models() if spec.wanted is not None}
    assert found == {
        "it": Wanted("no/such", "q4_0", None),
        "mine": Wanted("u/r", "q8_0", None),
        "own": Wanted("u/other", None, "a/b.gguf", False),
    }
    assert get(catalog, "mine").error == "it is not downloaded yet"
    assert not get(catalog, "mine").can_remove
    for name in ("u/r:UD-Q4_K_XL", "u/r:tiny260K"):
        cached = Catalog(parse(["-hf", name], {"LLAMA_CACHE": str(tmp_path / "hub")})).default
        assert cached is not None
        assert cached.wanted is None
    with pytest.raises(ConfigError, match=r"--hf-repo \.\./x: .* must look like user/repo"):
        Catalog(parse(["-hf", "../x"], {"LLAMA_CACHE": str(tmp_path / "hub")}))


def test_a_preset_of_the_default_model(models: Path, tiny: Path) -> None:
    path = preset_file(models, "[mine]\nctx-size = 5\nthreads = 3\n")
    default = Catalog(parse(["-m", str(tiny), "-a", "mine", "--models-preset", path, "-t", "2"], {})).default
    assert default is not None
    assert (default.id, default.options.ctx_size, default.options.threads, default.source) == ("mine", 5, 2, "preset")


def test_paths_are_absolute(models: Path, put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    put("a.gguf")
    monkeypatch.chdir(models.parent)
    catalog = Catalog(parse(["--models-dir", "models", "-m", "models/a.gguf", "-a", "b"], {}))
    assert {spec.path for spec in catalog.models()} == {str(models / "a.gguf")}


def test_the_default_may_be_a_shard(models: Path) -> None:
    first = make_llama(models / "big.gguf", tensors_per_shard=8)
    default = Catalog(parse(["-m", str(first)], {})).default
    assert default is not None
    assert (default.id, default.error) == ("big", None)


# ---------------------------------------------------------------- reload


def test_reload_by_difference(models: Path, put: Callable[..., Path]) -> None:
    for name in ("kept", "gone", "new-bytes"):
        put(f"{name}.gguf")
    catalog = catalog_of(models)
    kept = catalog.get("kept")
    assert (catalog.version, catalog.reload(), catalog.version) == (1, [], 1)
    (models / "gone.gguf").unlink()
    make_llama(models / "new-bytes.gguf", seed=5)
    put("added.gguf")
    assert sorted(catalog.reload()) == ["gone", "new-bytes"]
    assert catalog.version == 2
    assert ids(catalog) == ["added", "kept", "new-bytes"]
    assert catalog.get("kept") == kept
    assert hash(kept) == hash(catalog.get("kept"))


def test_another_adapter_is_another_model(models: Path, put: Callable[..., Path]) -> None:
    put("a.gguf")
    put("b.gguf")
    adapter = make_lora(models.parent / "lora.gguf")
    catalog = catalog_of(models, "--models-preset", preset_file(models, f"[a]\nlora-scaled = {adapter}:0.5\n"))
    assert get(catalog, "a").options.lora == [[str(adapter), 0.5]]
    assert get(catalog, "b").options.lora == []
    assert catalog.reload() == []
    make_lora(adapter, seed=1, task_name="longer")
    assert catalog.reload() == ["a"]


def test_reload_of_presets_is_all_or_nothing(models: Path, put: Callable[..., Path]) -> None:
    put("a.gguf")
    put("b.gguf")
    path = preset_file(models, "[a]\nctx-size = 1\n")
    catalog = catalog_of(models, "--models-preset", path)
    preset_file(models, "[a]\nctx-size = 1\ntags = new\n")
    assert catalog.reload() == []
    assert get(catalog, "a").tags == ("new",)
    preset_file(models, "[a]\nctx-size = 2\n[*]\nnonsense = 1\n")
    with pytest.raises(ConfigError, match="unknown key nonsense"):
        catalog.reload()
    assert get(catalog, "a").options.ctx_size == 1
    preset_file(models, "[a]\nctx-size = 2\n")
    assert catalog.reload() == ["a"]
    shutil.rmtree(models)
    with pytest.raises(ConfigError, match="there is no such folder"):
        catalog.reload()
    assert ids(catalog) == ["a", "b"]


def test_a_preset_may_hide_the_cached_model_it_uses(tmp_path: Path, tiny: Path, models: Path) -> None:
    put_cached(tmp_path / "hub", tiny, "user/repo", "m-Q4_0.gguf")
    put_cached(tmp_path / "hub", tiny, "user/other", "m-Q4_0.gguf")

    def listed(text: str) -> list[str]:
        catalog = catalog_of(models, "--models-preset", preset_file(models, text), LLAMA_CACHE=str(tmp_path / "hub"))
        assert catalog.get("user/repo:Q4_0"), "it can be used all the same"
        return [spec.id for spec in catalog.models() if spec.is_listed]

    section = "[mine]\nhf-repo = user/repo\n"
    assert listed(section) == ["mine", "user/other:Q4_0", "user/repo:Q4_0"]
    assert listed(f"{section}dedup-cache-models = 1\n") == ["mine", "user/other:Q4_0"]
    assert listed(f"[*]\ndedup-cache-models = on\n{section}") == ["mine", "user/other:Q4_0"]
    assert listed(f"[*]\ndedup-cache-models = on\n{section}dedup-cache-models = 0\n[v]\nbase = user/repo:Q4_0\n") == [
        "mine", "user/other:Q4_0", "user/repo:Q4_0", "v"
    ]  # fmt: skip


# ---------------------------------------------------------------- names that stay


@pytest.mark.parametrize(
    ("path", "model_id", "aliases"),
    [
        ("x.gguf", "x", ["x.gguf"]),
        ("sub/x-Q8_0.gguf", "sub", ["sub/x-Q8_0.gguf", "sub/x-Q8_0", "x-Q8_0.gguf", "x-Q8_0"]),
        ("a/b/c/deep.gguf", "a/b/c/deep", ["a/b/c/deep.gguf", "a/b/c", "c", "deep.gguf", "deep"]),
    ],
)
def test_an_id_is_made_of_the_file_s_own_path(models: Path, put: Callable[..., Path], path: str, model_id: str, aliases: list[str]) -> None:
    put(path)
    catalog = catalog_of(models)
    assert [(spec.id, list(spec.spellings)) for spec in catalog.models()] == [(model_id, aliases)]
    for name in aliases:
        assert get(catalog, name).id == model_id
    put("other/y.gguf")
    catalog.reload()
    assert ids(catalog) == sorted([model_id, "other"])
    assert ids(catalog_of(models)) == sorted([model_id, "other"])


def test_ids_stay_when_other_models_come_or_go(models: Path, put: Callable[..., Path]) -> None:
    put("two/x.gguf")
    catalog = catalog_of(models)
    assert ids(catalog) == ["two"]
    put("two/y.gguf")
    put("two.gguf")
    assert catalog.reload() == []
    assert ids(catalog) == ["two", "two.gguf", "two/y"]
    assert get(catalog, "two").path == str(models / "two/x.gguf")
    assert (get(catalog, "two/x").id, get(catalog, "y").id) == ("two", "two/y")
    later = catalog_of(models)  # llama-server's own rule applies when the router starts
    assert ids(later) == ["two", "two/x", "two/y"]
    (models / "two/x.gguf").unlink()
    assert later.reload() == ["two/x"]
    assert ids(later) == ["two", "two/y"]
    assert ids(catalog_of(models)) == ["two", "two/y"]
    (models / "two.gguf").unlink()
    assert (later.reload(), ids(later), get(later, "two").id) == (["two"], ["two/y"], "two/y")
    assert (ids(catalog_of(models)), get(catalog_of(models), "two/y").id) == (["two"], "two")


def test_a_name_of_several_models_means_none_of_them(models: Path, put: Callable[..., Path]) -> None:
    for name in ("a/m.gguf", "a/n.gguf", "b/m.gguf", "b/n.gguf", "c/z.gguf", "d/z.gguf", "z.gguf"):
        put(name)
    catalog = catalog_of(models, "--models-preset", preset_file(models, "[a/m]\nalias = b/n.gguf\n[v]\nbase = z\nalias = n\n"))
    assert ids(catalog) == ["a/m", "a/n", "b/m", "b/n", "c", "d", "v", "z"]
    assert [catalog.get(name) for name in ("m", "m.gguf", "n.gguf", "a", "b")] == [None] * 5
    assert get(catalog, "z.gguf").id == "z"  # its own path, whatever other model has that file name
    assert (get(catalog, "b/n.gguf").id, get(catalog, "n").id) == ("a/m", "v")  # what a user has set wins
    shown = [name for spec in catalog.models() for name in (spec.id, *spec.aliases, *spec.spellings)]
    assert len(shown) == len(set(shown))
    assert {name: get(catalog, name).id for spec in catalog.models() for name in (*spec.aliases, *spec.spellings)} == {
        name: spec.id for spec in catalog.models() for name in (*spec.aliases, *spec.spellings)
    }


@pytest.mark.parametrize(
    ("patterns", "can_see"),
    [
        ("a/b/deep", True),
        ("a/*", True),
        ("deep", True),  # one of its names, in full
        ("a/b/deep.gguf", True),
        ("dee*", False),  # a pattern is for ids and for aliases that a user gave, not for names of files
        ("*.gguf", False),
        ("mine*", True),
        ("other", False),
    ],
)
def test_which_names_a_key_s_scope_means(models: Path, put: Callable[..., Path], patterns: str, can_see: bool) -> None:
    put("a/b/deep.gguf")
    [spec] = catalog_of(models, "--models-preset", preset_file(models, "[a/b/deep]\nalias = mine2\n")).models()
    assert may_see(Caller(KeyScope(models=(patterns,))), spec) is can_see


@pytest.mark.parametrize("argument", ["", "file"])
def test_capabilities_are_those_of_the_template_that_is_used(models: Path, put: Callable[..., Path], argument: str) -> None:
    put("a.gguf")
    template = "{% if tools %}{{ tools }}{% endif %}{% if enable_thinking %}<think>{% endif %}"
    text = f"chat-template = {template}"
    if argument == "file":
        (models.parent / "t.jinja").write_text(template)
        text = f"chat-template-file = {models.parent / 't.jinja'}"
    assert get(catalog_of(models), "a").capabilities == ("completion",)
    spec = get(catalog_of(models, "--models-preset", preset_file(models, f"[a]\n{text}\n")), "a")
    assert (spec.capabilities, spec.has_template) == (("completion", "chat", "tools", "thinking"), True)
    named = get(catalog_of(models, "--chat-template", "chatml"), "a")
    assert (named.capabilities, named.has_template) == (("completion", "chat"), True)


def test_what_is_in_no_cache_says_why_it_stays(models: Path, put: Callable[..., Path], tiny: Path) -> None:
    put("a.gguf")
    put("b.gguf")
    catalog = catalog_of(models, "-m", str(tiny), "--models-preset", preset_file(models, "[b]\nctx-size = 5\n[v]\nbase = a\n"))
    sources = {spec.id: spec.source for spec in catalog.models()}
    assert sources == {"a": "models_dir", "b": "preset", "tiny": "file", "v": "preset"}
    reasons = {spec.id: why_it_stays(spec) for spec in catalog.models()}
    rest = "and only models in a download cache can be removed; delete {} yourself, then reload"
    assert reasons == {
        "a": f"it is a file of --models-dir, {rest.format(models / 'a.gguf')}",
        "b": f"a preset section names it, {rest.format(models / 'b.gguf')}",
        "tiny": f"it is the file that --model names, {rest.format(tiny)}",
        "v": "it is a preset section over the model a; remove the section",
    }
