"""Settings: precedence, clear errors, and pages that are true."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from qqmem import template
from qqmem.errors import SettingsError
from qqmem.settings import Settings, fields, is_loopback, load_settings

ROOT = Path(__file__).parent.parent


def write(text: str) -> Path:
    path = Path("qqmem.yaml")
    path.write_text(text, "utf-8")
    return path


def test_flags_win_over_environment_over_file() -> None:
    write("server: {port: 1111, host: 127.0.0.1}\nchat: {merge_window: 2}\nmodel: from-file\n")
    os.environ["QQMEM_SERVER__PORT"] = "2222"
    os.environ["QQMEM_MODEL"] = "from-environment"
    settings = load_settings(flags={"model": "from-flag"})
    assert (settings.model, settings.server.port, settings.chat.merge_window) == ("from-flag", 2222, 2)


def test_without_a_file_the_defaults_hold() -> None:
    assert load_settings().server.port == 9999
    assert load_settings().chat.merge_window == Settings().chat.merge_window


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("chat: {group_polcy: auto}", "There is no setting chat.group_polcy. Did you mean chat.group_policy?"),
        ("colour: red", "There is no setting colour."),
        ("server: {port: 99999}", "Setting server.port: Input should be less than or equal to 65535."),
        ("server: 3", "Setting server: "),
        ("chat: {names: [' ']}", "Setting chat.names.0: "),
        ("chat: {history_tokens: 16384}", "chat.history_tokens leaves no room in engine.max_context"),
        ("chat: {quiet_hours: 9-17}", "Setting chat.quiet_hours: "),
        ("chat: {groups: {7: {quiet: 23:00-07:00}}}", "There is no setting chat.groups.7.quiet."),
        ("a: [", "is not valid YAML"),
        ("[1, 2]", "cannot be read as settings"),
    ],
)
def test_a_wrong_file_is_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as error:
        load_settings(write(text))
    assert sentence in str(error.value)


def test_a_wrong_environment_is_a_sentence() -> None:
    os.environ["QQMEM_SERVER__TOKENS"] = "not json"
    with pytest.raises(SettingsError, match="environment"):
        load_settings()


def test_a_file_that_is_not_there_says_how_to_make_one() -> None:
    with pytest.raises(SettingsError, match="qqmem init"):
        load_settings(Path("nowhere.yaml"))


def test_tokens_are_never_printed() -> None:
    os.environ["QQMEM_TOKEN"] = "very-secret-token"
    settings = load_settings(write("server: {tokens: [{name: a, token: another-secret, scopes: [read]}]}"))
    assert [token.name for token in settings.tokens] == ["admin", "a"]
    assert "secret" not in repr(settings) + str(settings.tokens)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().chat.language = "en"


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("qq", False)],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_without_a_token_only_loopback_is_served() -> None:
    load_settings(flags={"server": {"host": "::1"}}).check_access()
    load_settings(flags={"server": {"host": "0.0.0.0"}, "token": "12345678"}).check_access()
    with pytest.raises(SettingsError, match="QQMEM_TOKEN"):
        load_settings(flags={"server": {"host": "0.0.0.0"}}).check_access()


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_written_file_is_the_defaults_also_with_every_line_uncommented(language: template.Language) -> None:
    text = template.settings_file(language)
    assert load_settings(write(text)).model_dump() == load_settings(write("")).model_dump()
    uncommented = "\n".join(
        line.replace("# ", "", 1) if line.strip().removeprefix("# ").split(":")[0] in _leaves() else line
        for line in text.splitlines()
    )
    assert set(_flat(yaml.safe_load(uncommented))) == set(fields())
    assert load_settings(write(uncommented)).model_dump() == load_settings(write("")).model_dump()


def _leaves() -> set[str]:
    return {name.rpartition(".")[2] for name in fields()}


def _flat(values: dict[str, object], prefix: str = "") -> list[str]:
    names: list[str] = []
    for name, value in values.items():
        names += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else [prefix + name]
    return names


def test_every_setting_is_described_in_both_languages() -> None:
    sections = {name.rpartition(".")[0] for name in fields()} - {""}
    assert set(template.chinese()) == set(fields()) | sections
    assert all(field.description for field in fields().values())


def test_the_settings_page_is_current() -> None:
    page = (ROOT / "docs/settings.md").read_text("utf-8")
    assert page == template.settings_page(), "run: python -m qqmem.template > docs/settings.md"
