"""Where the parts are introduced to each other: the app, and what its lifespan opens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from qqmem import __version__
from qqmem.api import (
    bridge,
    chat,
    conversations,
    live,
    memories as memory_routes,
    memory_map,
    messages,
    overview,
    pages,
    session,
    system,
    training,
    uploads,
)
from qqmem.api.auth import Guard, RateLimit
from qqmem.api.bridges import Bridges
from qqmem.api.hub import Hub
from qqmem.api.metrics import CountRequests, Metrics
from qqmem.api.problems import BodyLimit, add_handlers
from qqmem.api.state import Condition, Limits, State, Training
from qqmem.api.tally import Tally
from qqmem.asker import CHAT_TOKENS, QUESTION_TOKENS, asker
from qqmem.chat import Chats, Event
from qqmem.commands import Commands
from qqmem.db import Database
from qqmem.deliveries import Deliveries
from qqmem.engine.prompt import Prompts
from qqmem.engine.types import Model, Tokenizer
from qqmem.engine.worker import Engine
from qqmem.errors import QqmemError
from qqmem.gatekeeper import Gatekeeper
from qqmem.hidden import HiddenEncoder
from qqmem.history import History
from qqmem.learn import Learn
from qqmem.listening import largest
from qqmem.memory.embed import make_encoder
from qqmem.memory.memories import Memories
from qqmem.memory.search import calibration_texts, space_id
from qqmem.memory.types import Change
from qqmem.recollection import Recollections
from qqmem.remember import Remember
from qqmem.run_parts import Hooks, Voice
from qqmem.runs import Runs
from qqmem.schedule import Rule, Schedule
from qqmem.serving import Serving
from qqmem.settings import Settings
from qqmem.train.releases import Releases
from qqmem.uploads import Uploads

log = logging.getLogger(__name__)

Lifespan = Callable[[FastAPI], Any]


def create_app(
    settings: Settings,
    *,
    load_model: Callable[[], Model],
    model_folder: Path | None = None,
    on_failure: Callable[[BaseException], None] = lambda error: None,
    send_seconds: float = 20.0,
) -> FastAPI:
    """The service. Nothing is opened, and no model loaded, before its lifespan begins.

    model_folder: where the model lies; without it nothing can be trained.
    on_failure: told once when the model cannot be loaded, or its thread has crashed; nothing is answered from then on.
    send_seconds: how long a client may leave unread what is sent to it.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[State]:
        async with _opened(settings, load_model, model_folder, on_failure, send_seconds) as state:
            yield state

    app = _routes(lifespan)
    app.add_middleware(BodyLimit, max_bytes=largest(settings))
    if settings.server.origins:
        headers = ["Authorization", "Content-Type"]
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.server.origins, allow_methods=["*"], allow_headers=headers
        )
    app.add_middleware(CountRequests)
    return app


def openapi() -> dict[str, Any]:
    """The description of the HTTP routes, as served at /openapi.json."""
    return _routes(None).openapi()


def _routes(lifespan: Lifespan | None) -> FastAPI:
    app = FastAPI(
        title="qqmem",
        version=__version__,
        summary="A QQ chatbot whose model decides by itself when it needs a memory.",
        description="The frames of the WebSockets `/ws/chat`, `/ws/live` and `/ws/bridge` are in docs/protocol.md.",
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,  # what generated clients call it
        docs_url=None,  # it would load its scripts from somebody else's server
        redoc_url=None,
    )
    add_handlers(app)
    routers = (
        chat.router,
        live.router,
        bridge.router,
        conversations.router,
        messages.router,
        memory_map.router,
        memory_routes.router,
        training.router,
        uploads.router,
        system.router,
        overview.router,
        session.router,
        pages.router,
    )
    for router in routers:
        app.include_router(router)
    return app


@asynccontextmanager
async def _opened(
    settings: Settings,
    load_model: Callable[[], Model],
    model_folder: Path | None,
    on_failure: Callable[[BaseException], None],
    send_seconds: float,
) -> AsyncGenerator[State]:
    """Everything that runs. At the end replies end or are cancelled, then the model stops, then the database closes."""
    prompts = await asyncio.to_thread(
        Prompts.load, settings.chat.language, settings.chat.prompts, settings.chat.prompt_order
    )
    engine = Engine(load_model, max_batch=settings.engine.max_batch, prefill_chunk=settings.engine.prefill_chunk)
    async with Database.open(settings.data) as db, engine, AsyncExitStack() as ending:
        history = History(db)
        if interrupted := await history.recover():
            log.info("%d turns were interrupted when the service ended last time", interrupted)
        condition = Condition(settings.model, engine, asyncio.Event())
        deliveries = Deliveries(db)
        await deliveries.load()
        bridges = Bridges(deliveries, lambda frame: hub.bridged(frame))
        hub = Hub(lambda: (system.health_of(condition, bridges), engine.stats))
        await ending.enter_async_context(_running(hub.run()))
        await ending.enter_async_context(_running(bridges.run()))
        kept = Uploads(db, settings.data / "uploads")
        await ending.enter_async_context(_running(kept.run()))
        memories = await ending.enter_async_context(_memories(db, settings, hub.remembered))
        recollections = Recollections(memories, history, settings.recall)
        serving = Serving(engine, memories, recollections, settings.model, model_folder, tell=hub.released)
        await ending.enter_async_context(_running(_attach_values(engine, memories, prompts, settings, serving)))
        trained = await ending.enter_async_context(
            _training(db, history, memories, engine, prompts, settings, serving, hub)
        )
        remember = Remember(
            history, memories, asker(engine, settings.generation), prompts, settings.memory, settings.chat.names[0]
        )
        await ending.enter_async_context(remember)
        metrics, tally = Metrics(engine.stats), Tally()
        sockets: set[asyncio.Task[Any]] = set()
        metrics.sockets.set_function(lambda: len(sockets))
        metrics.bridges.set_function(lambda: bridges.connected)
        metrics.undelivered.set_function(lambda: bridges.undelivered)
        await ending.enter_async_context(_watched(condition, on_failure))

        def publish(event: Event) -> None:
            metrics.publish(event)
            tally.publish(event)
            hub.publish(event)
            bridges.publish(event)

        chats = Chats(
            history,
            engine,
            _tokenizer(engine),
            prompts,
            settings.chat,
            settings.generation,
            drain_seconds=settings.server.drain_seconds,
            publish=publish,
            heard=hub.heard,
            recollections=recollections,
            remember=remember,
            commands=await asyncio.to_thread(Commands, memories, settings.chat.language, self_id=settings.chat.self_id),
            deliveries=deliveries,
        )
        await ending.enter_async_context(chats)
        server = settings.server
        yield State(
            settings=settings,
            chats=chats,
            history=history,
            memories=memories,
            recollections=recollections,
            training=trained,
            guard=Guard(settings.tokens, server.origins, RateLimit(server.rate_limit)),
            metrics=metrics,
            tally=tally,
            hub=hub,
            bridges=bridges,
            uploads=kept,
            condition=condition,
            limits=Limits(settings.chat.max_message_chars, send_seconds),
            sockets=sockets,
            drain=ending.aclose,
        )


@asynccontextmanager
async def _memories(db: Database, settings: Settings, tell: Callable[[Change], None]) -> AsyncGenerator[Memories]:
    """Raises ModelError if there is no such encoder."""
    encoder = await asyncio.to_thread(make_encoder, settings.memory.encoder)
    folder, size = settings.data / "index", settings.memory.max_size
    async with Memories.open(db, encoder, folder, max_size=size, tell=tell) as memories:
        yield memories


@asynccontextmanager
async def _training(
    db: Database,
    history: History,
    memories: Memories,
    engine: Engine,
    prompts: Prompts,
    settings: Settings,
    serving: Serving,
    hub: Hub,
) -> AsyncGenerator[Training]:
    """Training by hand and by schedule; and the release in force serves as soon as it can."""
    runs, releases, train = Runs(db), Releases(settings.data / "releases"), settings.train
    voice = await asyncio.to_thread(Voice.load, prompts, settings.chat.names[0], settings.chat.language)
    ask = partial(asker, engine, settings.generation, base=True)
    hooks = Hooks(
        ready=serving.base,
        ask=ask(most=QUESTION_TOKENS * train.questions),
        chat=ask(most=CHAT_TOKENS),
        gate=Gatekeeper(train.gate),
        swap=serving.swap,
        pause=serving.pause,
        resume=serving.resume,
        at_once=settings.engine.max_batch,
    )
    rule = Rule(train.hour, train.first_delay, train.interval) if train.enabled else None
    folder = settings.data / "train"
    async with Learn(runs, memories, history, releases, folder, voice, train, hooks, tell=hub.trained) as learn:
        if newest := await runs.newest():
            hub.trained(newest, {})
        schedule = Schedule(runs, rule, partial(learn.trigger, "schedule"), learn.tidy)
        async with _running(serving.begin(releases)), _running(schedule.run()):
            yield Training(learn, schedule, train)


async def _attach_values(
    engine: Engine, memories: Memories, prompts: Prompts, settings: Settings, serving: Serving
) -> None:
    """Once the model is loaded, memories get vectors in its own space."""
    try:
        tokenizer = (await engine.ready()).tokenizer
        dim = await engine.call(lambda model: model.hidden_size)
        encoder = HiddenEncoder(engine, tokenizer, prompts, settings.model, dim)
        recalls = settings.recall.trigger != "off"
        if recalls:
            serving.space = space_id(encoder, await asyncio.to_thread(calibration_texts))
        serving.has_space.set()
        if settings.memory.encoder == "hidden":
            await memories.attach_keys(encoder)
        if recalls:
            await memories.attach_values(encoder)
            await memories.drop_other_spaces()  # of a model or an encoder that was served before
    except QqmemError as error:  # the model has failed, and /health tells; words and keys still find
        log.warning("memories get no vectors of the model: %s", error)
    except Exception:
        log.exception("memories get no vectors of the model")
    finally:
        serving.has_space.set()
        serving.has_values.set()


def _tokenizer(engine: Engine) -> Callable[[], Awaitable[Tokenizer]]:
    async def wait() -> Tokenizer:
        return (await engine.ready()).tokenizer

    return wait


@asynccontextmanager
async def _watched(condition: Condition, on_failure: Callable[[BaseException], None]) -> AsyncGenerator[None]:
    """Meanwhile, tell /health and `on_failure` if the model fails."""
    async with _running(_watch(condition, on_failure)):
        yield


@asynccontextmanager
async def _running(work: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    """Do something meanwhile; it ends with the block."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def _watch(condition: Condition, on_failure: Callable[[BaseException], None]) -> None:
    error = await condition.engine.wait_failed()
    known = isinstance(error, QqmemError)
    condition.failure = str(error) if known else "The model has failed; the log of the service says why."
    log.critical("the model has failed: %s", error, exc_info=None if known else error)
    on_failure(error)
