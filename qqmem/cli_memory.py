"""`qqmem memory …`: the memories of the running service, over its HTTP routes."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qqmem.client import AsJson, Config, Token, Url, answer_of, connected, err, out, print_json
from qqmem.errors import InvalidRequest

app = typer.Typer(no_args_is_help=True, help="Look after the memories of a running service.")

Scope = Annotated[
    str | None, typer.Option("--scope", "-s", help="user:<qq>, group:<gid>, member:<qq>@<gid> or global.")
]
Conversation = Annotated[str | None, typer.Option(help="What is seen in this one: private:<qq> or group:<gid>.")]

_ROUTE = "/api/memories"


def _given(**parameters: Any) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}


# ---- commands --------------------------------------------------------------------------------------------------------


@app.command("list")
def list_memories(
    scope: Scope = None,
    conversation: Conversation = None,
    kind: Annotated[Literal["fact", "message"] | None, typer.Option(help="Only facts, or only messages.")] = None,
    state: Annotated[
        Literal["searchable", "superseded", "expired"] | None, typer.Option(help="Only those in this state.")
    ] = None,
    subject: Annotated[str | None, typer.Option(help="Only what is about this QQ number.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=200, help="Most that are shown.")] = 50,
    before: Annotated[int | None, typer.Option(min=1, help="Only older ones than this number.")] = None,
    as_json: AsJson = False,
    config: Config = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """List memories, the newest first."""
    asked = _given(
        scope=scope,
        conversation=conversation,
        kind=kind,
        state=state,
        subject=subject,
        limit=limit,
        before=before,
    )
    with connected(config, url, token) as service:
        page = answer_of(service.get(_ROUTE, params=asked))
    _show(page, as_json)
    if "next" in page and not as_json:
        err.print(f"There may be more: --before {page['next']}", style="dim")


@app.command()
def search(
    words: Annotated[str, typer.Argument(help="What to look for.")],
    scope: Scope = None,
    conversation: Conversation = None,
    k: Annotated[int, typer.Option("-k", min=1, max=100, help="Most that are shown.")] = 10,
    as_json: AsJson = False,
    config: Config = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """Search as the bot does; ✓ marks what is close enough to be recalled."""
    asked = _given(q=words, scope=scope, conversation=conversation, k=k)
    with connected(config, url, token) as service:
        _show(answer_of(service.get(_ROUTE, params=asked)), as_json)


@app.command()
def add(
    text: Annotated[str, typer.Argument(help="A sentence that stands by itself and names its subject.")],
    scope: Annotated[str, typer.Option("--scope", "-s", help="user:<qq>, group:<gid>, member:<qq>@<gid> or global.")],
    subject: Annotated[str | None, typer.Option(help="The QQ number of whom it is about.")] = None,
    as_json: AsJson = False,
    config: Config = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """Tell the bot a fact."""
    body = _given(text=text, scope=scope, subject_id=subject)
    with connected(config, url, token) as service:
        _show({"memories": [answer_of(service.post(_ROUTE, json=body))]}, as_json)


@app.command()
def forget(
    ids: Annotated[list[int] | None, typer.Argument(help="Numbers of memories.")] = None,
    scope: Scope = None,
    words: Annotated[
        str | None, typer.Option("--words", "-w", help="Of the scope, only those with these words.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask back.")] = False,
    as_json: AsJson = False,
    config: Config = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """Forget memories for good: these numbers, or all of a scope."""
    body = _given(ids=ids or None, scope=scope, q=words)
    with connected(config, url, token) as service:
        asked = answer_of(service.post(f"{_ROUTE}/forget", json=body))
        if asked["count"] and not yes:
            _show(asked, as_json=False, console=err)
            typer.confirm(f"Forget {asked['count']} for good?", abort=True, err=True)
        done = answer_of(service.post(f"{_ROUTE}/forget", json={**body, "confirm": True}))
    if as_json:
        print_json(done)
    else:
        out.print(f"Forgotten: {len(done['forgotten'])}")


@app.command("export")
def export_memories(
    file: Annotated[Path | None, typer.Argument(help="Where to write; default the terminal.")] = None,
    scope: Scope = None,
    config: Config = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """Write memories as JSON lines, which `import` reads. The file is replaced when all has come, or not at all."""
    with (
        connected(config, url, token) as service,
        service.stream("GET", f"{_ROUTE}/export", params=_given(scope=scope)) as answer,
    ):
        if not answer.is_success:
            answer.read()
            answer_of(answer)
        if file is None:
            for piece in answer.iter_bytes():
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        else:
            _write(file, answer.iter_bytes())


@app.command("import")
def import_memories(
    file: Annotated[Path, typer.Argument(help="JSON lines, as `export` writes them; - is the standard input.")],
    as_json: AsJson = False,
    config: Config = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """Take memories in. Bad lines are listed with their numbers, and make exit code 1; the others come in."""
    with _opened(file) as lines, connected(config, url, token) as service:
        headers = {"Content-Type": "application/jsonl"}
        found = answer_of(
            service.post(f"{_ROUTE}/import", content=iter(lambda: lines.read(2**16), b""), headers=headers)
        )
    if as_json:
        print_json(found)
    else:
        for bad in found["errors"]:
            err.print(f"{file}:{bad['line']}: {bad['message']}", style="red", markup=False)
        out.print(f"Added {found['added']}, skipped {found['skipped']}, bad lines {found['num_errors']}.")
    raise typer.Exit(int(found["num_errors"] > 0))


# ---- files and tables ------------------------------------------------------------------------------------------------


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    try:
        lines = file.open("rb")
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror}.") from error
    with lines:
        yield lines


def _write(file: Path, pieces: Iterable[bytes]) -> None:
    """Write aside, then put it in place."""
    try:
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as aside:
            try:
                for piece in pieces:
                    aside.write(piece)
                aside.flush()
                os.fsync(aside.fileno())
                Path(aside.name).replace(file)
            except BaseException:
                Path(aside.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be written: {error.strerror}.") from error


def _show(body: Mapping[str, Any], as_json: bool, console: Console = out) -> None:
    """A table of the body's memories, or the body itself."""
    if as_json:
        print_json(body)
        return
    memories = body["memories"]
    if not memories:
        console.print("No memories.", style="dim")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("id", "scope", "kind"):
        table.add_column(column, no_wrap=True)
    is_search = "score" in memories[0]
    if is_search:
        table.add_column("score", no_wrap=True)
    table.add_column("text", overflow="fold")
    for memory in memories:
        score = [f"{'✓' if memory['fits'] else ' '} {memory['score']:.3f}"] if is_search else []
        cells = [str(memory["id"]), memory["scope"], _kind(memory), *score, _plain(memory["text"])]
        table.add_row(*map(Text, cells))
    console.print(table)


def _kind(memory: Mapping[str, Any]) -> str:
    notes = [memory["kind"]]
    if memory["state"] != "searchable":
        notes.append(memory["state"])
    return ", ".join([*notes, "pinned"] if memory["pinned"] else notes)


def _plain(text: str) -> str:
    """On one line, and without what a terminal would obey: anybody may have written it."""
    return "".join(char if char.isprintable() else "�" for char in " ".join(text.split()))
