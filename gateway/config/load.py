"""Reads a configuration: one YAML file, or what stood in one. ConfigError lists every mistake at once (explain.py)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import ValidationError

from gateway.config.explain import explain, shown
from gateway.config.schema import GatewayConfig
from gateway.errors import ConfigError


def load_config(path: Path | str) -> GatewayConfig:
    """Read and validate a configuration file. Raises ConfigError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}; expected a readable YAML file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; expected a YAML file in UTF-8") from None
    try:
        data = _read_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    return parse_config(data, source=str(path))


def _read_yaml(text: str) -> object:
    """By libyaml where PyYAML has it, in a tenth of the time, which ten thousand tenants feel. A mistake is left to
    PyYAML's own reader, which shows the line that it is in."""
    try:
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:
        return yaml.safe_load(text)


def parse_config(data: object, *, source: str = "configuration") -> GatewayConfig:
    """Validate what a YAML file holds. `source` is named in errors. Raises ConfigError."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{source}: found {shown(data)} at the top; expected a mapping with pools and tenants")
    try:
        return GatewayConfig.model_validate(data)
    except ValidationError as error:
        lines = [f"{source}: {line}" for line in explain(error)]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None
