"""Between the shapes of the wire and the records inside."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal, cast

from qqmem.api import frames, wire, wire_bridge, wire_live
from qqmem.chat import Event, Recalled, Reply, Token, TurnEnded, TurnStarted
from qqmem.deliveries import Delivery
from qqmem.errors import EngineStopped, InvalidRequest, ModelError, PromptTooLong, QqmemError, TooLarge
from qqmem.faces import face
from qqmem.memory.types import Change
from qqmem.output import paragraphs
from qqmem.records import Action, Incoming, Message, Recall, Sender, Turn

_STATUS = {error.code: error.status for error in (EngineStopped, ModelError, PromptTooLong)}


def from_private(body: wire.PrivateChat, longest: int) -> Incoming:
    """What is to be stored. longest: in characters. Raises InvalidRequest or TooLarge."""
    sender = Sender(body.user_id, body.user_nickname)
    return _from_post(body, f"private:{body.user_id}", sender, body.user_nickname, longest)


def from_group(body: wire.GroupChat, longest: int) -> Incoming:
    """As from_private."""
    sender = Sender(body.user_id, body.user_nickname, body.user_card)
    return _from_post(body, f"group:{body.group_id}", sender, body.group_name, longest)


def _from_post(
    body: wire.PrivateChat | wire.GroupChat, conversation: str, sender: Sender, name: str, longest: int
) -> Incoming:
    media = "[图片]" * len(body.image_urls) + "[视频]" * len(body.video_urls)
    text = _checked(f"{body.content} {media}".strip() if media else body.content, longest)
    return Incoming(
        conversation=conversation,
        sender=sender,
        text=text,
        time=body.timestamp or datetime.now(UTC),
        message_id=body.message_id,
        reply_to=body.reply_to,
        addressed=body.addressed,
        name=name,
    )


def from_frame(frame: frames.MessageFrame, longest: int) -> Incoming:
    """As from_private."""
    return Incoming(
        conversation=frame.conversation,
        sender=Sender(frame.sender.id, frame.sender.name, frame.sender.card, frame.sender.role),
        text=_checked(frame.text, longest),
        time=frame.time or datetime.now(UTC),
        message_id=frame.message_id,
        reply_to=frame.reply_to,
        addressed=frame.addressed,
        name=frame.name,
    )


def from_bridge(frame: wire_bridge.MessageFrame, bridge: str, longest: int) -> Incoming:
    """As from_private. A picture without words is noted as one."""
    return Incoming(
        conversation=frame.conversation,
        sender=Sender(frame.sender.id, frame.sender.name, frame.sender.card, frame.sender.role),
        text=_checked(frame.text or "[图片]" * len(frame.images), longest),
        time=frame.time,
        message_id=frame.message_id,
        reply_to=frame.reply_to,
        addressed=frame.addressed,
        name=frame.group_name,
        bridge=bridge,
        seq=frame.seq,
        context_only=frame.context_only,
        images=frame.images,
    )


def from_notice(frame: wire_bridge.NoticeFrame, who: str, bridge: str, *, is_answered: bool) -> Incoming:
    """A poke, or a reaction to a message, as something that was said. who: has done it."""
    text = "[戳一戳]" if frame.kind == "poke" else f"[表情回应 {face(frame.emoji_id or 0)}]"
    return Incoming(
        conversation=frame.conversation,
        sender=Sender(who, frame.name or who),
        text=text,
        time=frame.time or datetime.now(UTC),
        reply_to=frame.message_id,
        addressed=True,
        bridge=bridge,
        seq=frame.seq,
        context_only=not is_answered,
    )


def to_delivery(delivery: Delivery) -> wire_bridge.DeliveryFrame:
    """What a bridge is to send."""
    return wire_bridge.DeliveryFrame(
        delivery_id=delivery.id,
        conversation=delivery.conversation,
        in_reply_to=delivery.in_reply_to,
        parts=paragraphs(delivery.text),
        quote=delivery.quote,
        actions=_actions(delivery.actions),
        created=delivery.created,
    )


def _checked(text: str, longest: int) -> str:
    if not text.strip():
        raise InvalidRequest("The text is empty.")
    if len(text) > longest:
        raise TooLarge(f"The text has {len(text)} characters; at most {longest} are accepted.")
    return text


def accepted(reply: Reply) -> frames.AcceptedFrame:
    """That the message which this reply answers is stored."""
    message = reply.message
    return frames.AcceptedFrame(conversation=message.conversation, message_id=message.message_id, id=message.id)


def to_frame(event: Event, message: int) -> frames.ServerFrame:
    """message: the number of the one that waits for this event."""
    match event:
        case TurnStarted():
            return frames.TurnStartFrame.model_validate(event)
        case Token():
            return frames.TokenFrame.model_validate(event)
        case Recalled():
            return _recall_frame(event)
        case TurnEnded():
            return frames.TurnEndFrame(
                turn=event.turn,
                conversation=event.conversation,
                id=message,
                outcome=cast(wire.Outcome, event.outcome),
                reply=event.reply,
                actions=_actions(event.actions),
                usage=wire.Usage.model_validate(event.usage),
                timing=wire.Timing.model_validate(event.timing),
                error=_error(event),
            )


def _recall_frame(event: Recalled) -> frames.RecallFrame:
    recall = to_recall(event.recall)
    return frames.RecallFrame(
        turn=event.turn, cue=recall.cue, candidates=recall.candidates, chosen=recall.chosen, mode=recall.mode
    )


def to_answer(end: TurnEnded) -> tuple[int, wire.ChatAnswer]:
    """HTTP status and body."""
    statuses: dict[str, Literal["superseded", "error"]] = {"superseded": "superseded", "failed": "error"}
    answer = wire.ChatAnswer(
        status=statuses.get(end.outcome, "success"),
        outcome=cast(wire.Outcome, end.outcome),
        should_reply=bool(end.reply),
        reply=end.reply,
        actions=_actions(end.actions),
        turn_id=end.turn,
        error=_error(end),
    )
    return (_STATUS.get(end.code, 500) if end.outcome == "failed" else 200), answer


def _actions(actions: Iterable[Action]) -> tuple[wire.Action, ...]:
    return tuple(wire.Action.model_validate(action) for action in actions)


def _error(end: TurnEnded) -> wire.ErrorBody | None:
    if end.outcome != "failed":
        return None
    # What errors.py has no name for is a bug, and called so as in every other answer.
    code = wire.INTERNAL if end.code == QqmemError.code else end.code
    return wire.ErrorBody(code=code, message=end.error)


def to_turn(turn: Turn, *, thinking: bool) -> wire.Turn:
    """thinking: whether it may be read what the model thought."""
    end = turn.end
    return wire.Turn(
        id=turn.id,
        started_at=turn.started_at,
        ended_at=turn.ended_at,
        messages=turn.messages,
        outcome=end.outcome,
        reply=end.reply,
        thinking=end.thinking if thinking else None,
        actions=_actions(end.actions),
        usage=wire.Usage(prompt=end.prompt_tokens, cached=end.cached_tokens, completion=end.completion_tokens),
        timing=wire.Timing(queue=end.queue_s, first_token=end.first_token_s, total=end.total_s),
        error=end.error,
        recalls=tuple(to_recall(recall) for recall in end.recalls),
    )


def to_recall(recall: Recall) -> wire.Recall:
    """What came in, and what there was to choose from."""
    return wire.Recall(
        cue=recall.cue,
        candidates=tuple(wire.Candidate.model_validate(one) for one in recall.candidates),
        chosen=recall.memory,
        mode=recall.mode,
    )


# ---- what watchers see -----------------------------------------------------------------------------------------------


def heard(message: Message) -> wire_live.HeardFrame:
    """That somebody has said something."""
    return wire_live.HeardFrame.model_validate(message)


def live_turn(event: TurnStarted | TurnEnded) -> frames.TurnStartFrame | wire_live.LiveEndFrame:
    """That a turn has begun or ended."""
    if isinstance(event, TurnStarted):
        return frames.TurnStartFrame.model_validate(event)
    return wire_live.LiveEndFrame(
        turn=event.turn,
        conversation=event.conversation,
        outcome=cast(wire.Outcome, event.outcome),
        reply=event.reply,
        actions=_actions(event.actions),
        usage=wire.Usage.model_validate(event.usage),
        timing=wire.Timing.model_validate(event.timing),
        error=_error(event),
    )


def live_recall(event: Recalled, conversation: str) -> wire_live.LiveRecallFrame:
    """That a turn has looked for a memory."""
    return wire_live.LiveRecallFrame(conversation=conversation, **dict(_recall_frame(event)))


def memory_frame(change: Change) -> wire_live.MemoryFrame:
    """That memories have changed."""
    kinds: dict[str, Literal["memory.added", "memory.changed", "memory.forgotten"]] = {
        "added": "memory.added",
        "changed": "memory.changed",
        "forgotten": "memory.forgotten",
    }
    ids, scope = change.ids[: wire_live.MOST_IDS], change.scope or None
    return wire_live.MemoryFrame(type=kinds[change.kind], ids=ids, count=len(change.ids), scope=scope)
