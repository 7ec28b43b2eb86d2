"""Configuration files: which are read, which one wins, and what is said about a mistake."""

from pathlib import Path
from typing import Any

import pytest
from conftest import StartRouter

from fastrouter.config import config_files
from fastrouter.config.config import Config, parse
from fastrouter.config.forms import load_options
from fastrouter.errors import ConfigError


class Files:
    """A machine's folders for configuration."""

    def __init__(self, folder: Path) -> None:
        self.system, self.user = folder / "etc", folder / "home"

    def write(self, folder: Path, text: str, program: str = "fastrouter") -> Path:
        path = folder / program / "config.ini"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
        return path

    def parse(self, *argv: str, **environ: str) -> Config:
        return parse(argv, {"XDG_CONFIG_HOME": str(self.user), **environ})


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    found = Files(tmp_path)
    monkeypatch.setattr(config_files, "SYSTEM_FOLDER", found.system)
    return found


def test_each_layer_wins_over_the_one_below(files: Files) -> None:
    system = files.write(files.system, "port = 1\nctx-size = 1\ntop-k = 1\nmodels-max = 1")
    user = files.write(files.user, "[*]\nport = 2\nLLAMA_ARG_CTX_SIZE = 2\ntop_k = 2")
    config = files.parse("-c", "4", LLAMA_ARG_CTX_SIZE="3", LLAMA_ARG_TOP_K="3")
    assert (config.models_max, config.port, config.config_files) == (1, 2, (system, user))
    options = load_options({**config.environment, **config.command_line})
    assert (options.ctx_size, options.sampling["top_k"]) == (4, 3)


def test_which_files_are_read(files: Files, tmp_path: Path) -> None:
    assert files.parse().config_files == ()
    user = files.write(files.user, "port = 2")
    other = tmp_path / "other.ini"
    other.write_text("port = 3")
    assert files.parse().config_files == (user,)
    assert files.parse("--no-config").port == Config().port
    assert files.parse(LLAMA_ARG_NO_CONFIG="1").port == Config().port
    chosen = files.parse("--config", str(other))
    assert (chosen.port, chosen.config_files) == (3, (other,))
    assert parse([], {"HOME": str(tmp_path)}).config_files == ()
    files.write(tmp_path / ".config", "port = 4")
    assert parse([], {"HOME": str(tmp_path)}).port == 4
    assert parse([], {"HOME": str(tmp_path), "XDG_CONFIG_HOME": "relative"}).port == 4
    with pytest.raises(ConfigError, match=r"no.ini: there is no such file"):
        files.parse("--config", str(tmp_path / "no.ini"))


def test_llama_cpps_own_files_are_read_on_request(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    theirs = files.write(files.system, "port = 5\nmodels-max = 5\nctx-size = 5\nno-such-flag = 1\n[cli]\ntemp = 9", "llama.cpp")
    ours = files.write(files.user, "port = 6")
    assert files.parse().config_files == (ours,)
    config = files.parse("--llama-config")
    assert (config.port, config.models_max, config.config_files) == (6, 5, (theirs, ours))
    assert "temperature" not in config.environment
    assert [record.getMessage() for record in caplog.records] == [f"{theirs}:4: no-such-flag is left out: fastrouter does not have it"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prt = 1", ":1: unknown key prt, did you mean port?"),
        ("\n[*]\nport = x", ":3 port = x: must be a whole number"),
        ("port", ":1: expected `key = value`, found 'port'"),
        ("[mine]\nctx-size = 1", ":1: [mine]: a configuration file has only [*]; sections of models belong into a preset file"),
        ("[*\nport = 1", ":1: not a section: '[*'; it must look like [*]"),
        ("pin = true", ":1: pin cannot be in a configuration file"),
        ("config = x.ini", ":1: config cannot be in a configuration file"),
        ("draft-max = 3", ":1 draft-max = 3: llama-server has removed this flag"),
        ("no-mmap = maybe", ":1 no-mmap = maybe: must be one of"),
    ],
)
def test_a_mistake_is_named_with_its_line(files: Files, text: str, message: str) -> None:
    path = files.write(files.user, text)
    with pytest.raises(ConfigError) as caught:
        files.parse()
    assert f"{path}{message}" in caught.value.message


def test_a_mistake_that_is_found_later_is_named_too(files: Files) -> None:
    path = files.write(files.user, "port = 1\nmodels-dir = nowhere")
    with pytest.raises(ConfigError) as caught:
        files.parse()
    assert caught.value.message == f"--models-dir {path.parent}/nowhere: there is no such folder (from {path}:2)"
    with pytest.raises(ConfigError) as caught:
        files.parse("--models-dir", "/nowhere")
    assert caught.value.message == "--models-dir /nowhere: there is no such folder"


def test_relative_paths_are_beside_the_file(files: Files) -> None:
    path = files.write(files.user, 'models-dir = models\nlora = a.gguf,"b,c.gguf"\nslot-save-path = models\nlog-file = /tmp/x.log\n')
    folder = path.parent
    (folder / "models").mkdir()
    config = files.parse()
    assert (config.models_dir, config.log_file) == (folder / "models", "/tmp/x.log")
    assert config.environment["lora"].value == ((f"{folder}/a.gguf", 1.0), (f"{folder}/b,c.gguf", 1.0))
    assert config.environment["slot_save_path"].value == f"{folder}/models"


def test_a_key_that_others_can_read_is_warned_of(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    path = files.write(files.user, "api-key = secret")
    assert files.parse().api_keys == ("secret",)
    assert not caplog.records
    path.chmod(0o640)
    files.parse()
    assert [record.getMessage() for record in caplog.records] == [f"{path} holds a key, and other users can read it: chmod 600 {path}"]
    files.write(files.user, "hf-token = a b")
    with pytest.raises(ConfigError) as caught:
        files.parse()
    assert "a b" not in caught.value.message


def test_a_router_names_the_files_that_it_has_read(router: StartRouter, tmp_path: Path, models: Path) -> None:
    path = Files(tmp_path).write(tmp_path / "home", f"models-dir = {models}\nmodels-max = 2\n")
    running: Any = router(env={"XDG_CONFIG_HOME": str(tmp_path / "home")})
    assert f"settings are read from {path}\n" in running.log
    assert {model["id"] for model in running.get("/v1/models").json["data"]} == {"tiny0", "tiny1", "tiny2"}
