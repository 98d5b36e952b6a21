"""The OpenAI bodies the worker reads, checked at the edge. What would change an output and is not done is refused.

Beyond OpenAI's: `ignore_eos` and `min_tokens` (as in vLLM), `stream_options.continuous_usage_stats`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from backend.models.spec import SamplingDefaults
from backend.worker.errors import BadRequest, ContextTooLong
from backend.worker.sampling import SamplingParams

DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's default for /v1/completions

# Fields that are honoured only at a value that means "off".
OFF: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "prompt_logprobs": (),
    "echo": (False,),
    "suffix": ("",),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "top_k": (-1, 0),
    "min_p": (0,),
    "stop_token_ids": ([],),
    "tools": ([],),
    "response_format": ({"type": "text"},),
}

SURROGATE = b"\\ud"  # JSON can spell half a character in this way, which is no text that could be tokenized

Text = Annotated[str, Field(min_length=1)]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class StreamOptions(_Body):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class GenerateBody(_Body):
    """What both endpoints share. Null means absent, as OpenAI has it."""

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Text | Annotated[list[Text], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool | None = None

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_tokens

    def params(self, prompt_tokens: int, longest: int, defaults: SamplingDefaults) -> SamplingParams:
        """For a prompt of so many tokens, where prompt and output may have `longest` together; `defaults` for what the
        request does not say. Raises ContextTooLong, BadRequest."""
        most = self.wanted_tokens or max(1, longest - prompt_tokens)
        if prompt_tokens + most > longest:
            raise ContextTooLong(
                f"the prompt has {prompt_tokens} tokens and {most} are asked for; this worker takes {longest} together",
                "max_tokens",
            )
        if (self.min_tokens or 0) > most:
            raise BadRequest(f"min_tokens is {self.min_tokens}; expected at most max_tokens, {most}", "min_tokens")
        return SamplingParams(
            max_tokens=most,
            temperature=defaults.temperature if self.temperature is None else self.temperature,
            top_p=defaults.top_p if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            min_tokens=self.min_tokens or 0,
            ignore_eos=bool(self.ignore_eos),
        )


class TextPart(_Body):
    type: Literal["text"]
    text: str


class Message(_Body):
    role: str
    content: str | list[TextPart] | None = None

    def flat(self) -> dict[str, str]:
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return {"role": self.role, "content": text}


class ChatBody(GenerateBody):
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class CompletionBody(GenerateBody):
    prompt: str | list[int] | Annotated[list[str], Field(min_length=1, max_length=1)]

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_tokens or DEFAULT_COMPLETION_TOKENS


class LoadAdapterBody(_Body):
    lora_name: Text
    lora_path: Text


class UnloadAdapterBody(_Body):
    lora_name: Text


Body = TypeVar("Body", bound=_Body)


def parse(kind: type[Body], raw: bytes) -> Body:
    """The body of a request. Raises BadRequest, naming the field."""
    try:
        fields = json.loads(raw)
        if SURROGATE in raw.lower():
            json.dumps(fields, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise BadRequest("the body is not a JSON object")
    if issubclass(kind, GenerateBody):
        _refuse_unsupported(fields)
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        raise BadRequest(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", name) from None


def _refuse_unsupported(fields: Mapping[str, Any]) -> None:
    for name, off in OFF.items():
        value = fields.get(name)
        if value is not None and value not in off:
            only = f"; expected {off[0]!r} or none" if off else ""
            raise BadRequest(f"{name} = {json.dumps(value)[:80]} is not supported by this worker{only}", name)
