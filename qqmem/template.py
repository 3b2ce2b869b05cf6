"""The settings as a person reads them: the commented file of `qqmem init`, and docs/settings.md."""

from __future__ import annotations

from importlib.resources import files
from typing import Any, Literal

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from qqmem.settings import fields, sections

Language = Literal["zh", "en"]

_HEAD = {
    "zh": "# qqmem 的设置。每一项都是默认值；要改哪一项，去掉前面的 # 再改。\n"
    "# 环境变量优先于本文件，例如 QQMEM_CHAT__MERGE_WINDOW=1；命令行参数优先于环境变量。\n",
    "en": "# Settings of qqmem. Each shows its default; to change one, remove the # before it.\n"
    "# The environment wins over this file (QQMEM_CHAT__MERGE_WINDOW=1), flags win over the environment.\n",
}


def describe(name: str, field: FieldInfo, language: Language) -> str:
    """One or two sentences for a dotted name."""
    if language == "en":
        return field.description or (field.annotation.__doc__ or "" if field.annotation else "")
    return str(chinese()[name])


def chinese() -> dict[str, str]:
    """Chinese descriptions by dotted name, sections included."""
    found: dict[str, str] = yaml.safe_load(files("qqmem").joinpath("settings.zh.yaml").read_text("utf-8"))
    return found


def settings_file(language: Language = "zh") -> str:
    """The settings file: every setting, commented out, with its default and what it does."""
    lines = [_HEAD[language]]
    section = ""
    for name, field in fields().items():
        head, _, leaf = name.rpartition(".")
        if head != section:
            section = head
            outer = "  " * head.count(".")
            title = f"{outer}# {describe(head, sections()[head], language)}"
            lines += ["", title, f"{outer}{head.rpartition('.')[2]}:"]
        indent = "  " * name.count(".")
        lines += [f"{indent}# {describe(name, field, language)}", f"{indent}# {leaf}: {_default(field)}"]
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    """docs/settings.md: a table for each section, in both languages."""
    lines = [
        "# Settings · 设置",
        "",
        "`qqmem.yaml` (written with comments by `qqmem init`) < environment < flags. In the environment a dot is two "
        "underscores: `chat.merge_window` is `QQMEM_CHAT__MERGE_WINDOW`; lists are JSON. An unknown name is an error "
        "that tells the nearest right one.",
        "",
        "`qqmem.yaml`（`qqmem init` 会写出带注释的一份）< 环境变量 < 命令行。"
        "环境变量里点写成两个下划线；列表写成 JSON。",
        "",
        "Besides these: `QQMEM_MODELS` is the folder of models (default: the user's cache folder), and `QQMEM_LOG` the "
        "level of the log (`INFO`). 另外：`QQMEM_MODELS` 是模型文件夹，`QQMEM_LOG` 是日志级别。",
        "",
        "This page is made by `python -m qqmem.template`.",
    ]
    section = None
    for name, field in fields().items():
        head = name.rpartition(".")[0]
        if head != section:
            section = head
            lines += [
                "",
                f"## {head or 'top level · 顶层'}",
                "",
                "| setting | default | what · 说明 |",
                "|---|---|---|",
            ]
        what = f"{describe(name, field, 'en')}<br>{describe(name, field, 'zh')}"
        lines.append(f"| `{name}` | `{_default(field)}` | {what} |")
    return "\n".join(lines) + "\n"


def _default(field: FieldInfo) -> str:
    """The default as YAML on one line."""
    value: Any = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        value = value.model_dump()
    text = yaml.safe_dump(_plain(value), default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n...\n").strip()


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value if isinstance(value, str | int | float | bool | None) else str(value)


if __name__ == "__main__":
    print(settings_page(), end="")  # noqa: T201
