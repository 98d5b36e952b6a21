"""What can go wrong with a model or an adapter, as a closed set. Every message says what was wrong, where, what was
expected. Who serves or trains the model decides what its own users see of it."""

from __future__ import annotations


class ModelError(Exception):
    """Base of every error that this library raises on purpose."""


class LoadError(ModelError):
    """A model folder that cannot be run; the message names the folder and the offending key or file."""


class AdapterError(ModelError):
    """A LoRA adapter that cannot be loaded; the message names the folder and the offending key or tensor."""


class ChatError(ModelError):
    """A conversation that the model has no way to read: no chat template, or one that refuses these messages."""
