"""Settings: `bridge.yaml` < environment `QQMEM_BRIDGE_…` (and NAPCAT_TOKEN) < flags; read once, frozen."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError as SourceParseError,
    YamlConfigSettingsSource,
)

from qqmem_bridge.addressing import Doors, Names
from qqmem_bridge.errors import SettingsError
from qqmem_bridge.hold import Rush
from qqmem_bridge.pace import Rates

Number = Annotated[str, BeforeValidator(lambda value: str(value).strip()), Field(pattern=r"^[1-9][0-9]{0,19}$")]
"""A QQ number or a group's; YAML reads one without quotes as an integer."""


class Section(BaseModel):
    """Settings that belong together."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Napcat(Section):
    """QQ's side."""

    url: str = Field(default="ws://127.0.0.1:3001", description="NapCat 的 WebSocket 服务器（正向 WS）地址。")
    token: SecretStr | None = Field(default=None, description="NapCat 里为它设的 token；也可用环境变量 NAPCAT_TOKEN。")
    files: tuple[str, ...] = Field(
        default=(), description="NapCat 自己提供图片的地址（host:port）；内网地址只有写在这里才会去取图片。"
    )


class Allow(Section):
    """Who may talk to the bot."""

    groups: tuple[Number, ...] = Field(default=(), description="允许的群号。不在名单里的群一律不理会。")
    users: tuple[Number, ...] = Field(default=(), description="允许私聊的 QQ 号。")
    everybody: bool = Field(default=False, description="不设名单，谁都可以（只建议试用时打开）。")
    denied: tuple[Number, ...] = Field(default=(), description="任何时候都不理会的 QQ 号或群号。")
    admins: tuple[Number, ...] = Field(default=(), description="管理员的 QQ 号：可以私聊，也可以在群里 /stop。")
    temporary: bool = Field(default=False, description="是否理会由群发起的临时会话。")


class PaceSettings(Section):
    """How fast the bot sends. Too fast gets accounts banned."""

    gap: float = Field(default=1.5, ge=0, description="同一个聊天里两条消息至少隔几秒。")
    jitter: float = Field(default=1.5, ge=0, description="再随机多等零到几秒。")
    per_minute: int = Field(default=20, ge=1, description="整个账号每分钟最多发几条。")
    burst: int = Field(default=3, ge=1, description="短时间内最多连发几条。")

    def rates(self) -> Rates:
        return Rates(self.gap, self.jitter, self.per_minute, self.burst)


class Pieces(Section):
    """How long replies are split."""

    longest: int = Field(default=1200, ge=100, le=4000, description="一条消息最多几个字；更长的会拆开。")
    most: int = Field(default=4, ge=1, le=20, description="一次回复最多拆成几条。")
    fold: bool = Field(default=True, description="再多的合成一条转发的聊天记录；false 则截断。")


class Merge(Section):
    """Messages that come in a rush are handed on together."""

    quiet: float = Field(default=1.5, ge=0, le=30, description="对方停下来几秒后才算说完。")
    longest: float = Field(default=8.0, ge=0, le=60, description="最多等几秒。")
    most: int = Field(default=10, ge=1, le=100, description="最多攒几条。")

    def rush(self) -> Rush:
        return Rush(self.quiet, self.longest, self.most)


class HealthSettings(Section):
    """Where /healthz and /metrics are."""

    host: str = Field(default="127.0.0.1", description="监听地址；/healthz 与 /metrics 没有令牌，不要对外开放。")
    port: int = Field(default=9998, ge=0, le=65535, description="端口；0 表示不开。")


class Settings(BaseSettings):
    """All settings."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="QQMEM_BRIDGE_", env_nested_delimiter="__"
    )

    service: str = Field(
        default="ws://127.0.0.1:9999/ws/bridge", description="qqmem 服务的地址。跨机器请用 wss:// 或 SSH 隧道。"
    )
    token: SecretStr | None = Field(
        default=None, description="服务的令牌，权限 bridge；也可用环境变量 QQMEM_BRIDGE_TOKEN。"
    )
    name: str = Field(
        default="qq",
        pattern=r"^[0-9A-Za-z_.-]{1,50}$",
        description="这个桥的名字（字母、数字、_ . -）；同一个服务上的每个桥各用各的。",
    )
    data: Path = Field(default=Path("bridge-data"), description="存放收发记录的文件夹。")
    transport: Literal["onebot", "ncatbot"] = Field(
        default="onebot",
        description="怎样连 QQ：onebot 自带；ncatbot 要另装（pip install ncatbot==4.4.1.post1），其许可证禁止商用。",
    )
    names: tuple[str, ...] = Field(default=("小忆", "qqmem"), description="机器人的名字；群消息以它开头就算在叫它。")
    bots: tuple[Number, ...] = Field(default=(), description="群里其他机器人的 QQ 号；它们的话不算在叫它。")
    rounds: int = Field(
        default=8,
        ge=0,
        description="群里同一个人连着几次在机器人说完五秒内接话，就当是机器人，十分钟不理；0 不限。",
    )
    reaction: int = Field(
        default=0, ge=0, description="群里写回复时，给那条消息贴哪个表情（编号，例如 66），写完拿掉；0 不贴。"
    )
    napcat: Napcat = Field(default_factory=Napcat, description="QQ 那一侧（NapCat）。")
    allow: Allow = Field(default_factory=Allow, description="谁可以和机器人说话。默认谁都不行，请填名单。")
    pace: PaceSettings = Field(default_factory=PaceSettings, description="发送的快慢。太快容易被封号。")
    pieces: Pieces = Field(default_factory=Pieces, description="长回复怎样拆。")
    merge: Merge = Field(default_factory=Merge, description="连着发来的几条消息合在一起交给服务。")
    health: HealthSettings = Field(default_factory=HealthSettings, description="健康检查。")

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """A section whose lines are all commented out is None in YAML, and means its defaults."""
        return {name: value for name, value in values.items() if value is not None}

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

    def doors(self) -> Doors:
        allow = self.allow
        return Doors(
            groups=frozenset(allow.groups),
            users=frozenset(allow.users),
            denied=frozenset(allow.denied),
            admins=frozenset(allow.admins),
            everybody=allow.everybody,
            temporary=allow.temporary,
        )

    def called(self) -> Names:
        return Names(self.names, frozenset(self.bots))


def load_settings(config: Path | None = None, flags: Mapping[str, Any] | None = None) -> Settings:
    """Merge file, environment and flags.

    config: the settings file; None reads `bridge.yaml` of the working folder, if there is one.
    Raises SettingsError, one sentence for each wrong field.
    """
    if config is not None and not config.is_file():
        raise SettingsError(f"There is no settings file {config}. Write one with: qqmem-bridge init")
    path = config or Path("bridge.yaml")
    given = dict(flags or {})
    if token := os.environ.get("NAPCAT_TOKEN"):
        given["napcat"] = {"token": token, **given.get("napcat", {})}

    class FromFile(Settings):
        model_config = SettingsConfigDict(yaml_file=path, yaml_file_encoding="utf-8")

    try:
        return FromFile(**given)
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
        if detail["type"] != "extra_forbidden":
            yield f"Setting {name}: {detail['msg']}."
            continue
        near = difflib.get_close_matches(name, list(_fields()), n=1, cutoff=0.4)
        yield f"There is no setting {name}.{f' Did you mean {near[0]}?' if near else ''}"


def _fields() -> Iterator[str]:
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from (f"{name}.{inner}" for inner in field.annotation.model_fields)
        else:
            yield name


def settings_file() -> str:
    """bridge.yaml: every setting, commented out, with its default and what it does."""
    lines = [
        "# qqmem-bridge 的设置。每一项都是默认值；要改哪一项，去掉前面的 # 再改。",
        "# 环境变量优先于本文件，例如 QQMEM_BRIDGE_PACE__GAP=2；命令行参数优先于环境变量。",
    ]
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            lines += ["", f"# {field.description}", f"{name}:"]
            for inner, one in field.annotation.model_fields.items():
                lines += [f"  # {one.description}", f"  # {inner}: {_shown(one.default)}"]
        else:
            lines += [f"# {field.description}", f"# {name}: {_shown(field.default)}"]
    return "\n".join(lines) + "\n"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return '""' if value is None else str(value).lower() if isinstance(value, bool) else str(value)
