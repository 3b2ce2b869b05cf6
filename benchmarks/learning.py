"""A whole training of a serving bot on what people told it, and what the bot does meanwhile and after it.

    python -m benchmarks.learning --data ../shared/data/memorybank-zh [--memories 60] [--more 0] [--folder DIR]

Messages of MemoryBank's users (Zhong et al. 2023, arXiv:2305.10250; MIT) become memories of a fresh service on the
embedded model; `qqmem train run --wait` trains it; somebody chats with it all the while. Printed are the time of each
stage, the gate's measures before, after and by the plain recipe (train.compare), the time to the first token of the
chats before the training and during it, and what questions recall after the swap: by whose decision, and how. With
--more the bot is told so many further memories and trained again, and what of the first run still decodes is counted.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.engine import MODEL, cpu_name
from qqmem.lessons import topic_of

PORT = 9871
PAUSE = 60.0
"""Seconds between two messages of who chats meanwhile."""
TALK = ("今天天气真好。", "我刚吃完午饭。", "给我讲个笑话吧。", "下班路上有点堵。", "周末去哪里玩比较好？")
_TELLS = re.compile(r"^(?:我|其实我|今天|昨天|最近|上周|上个|周末).*我|^我")
_ASKS = re.compile(r"[?？]|吗|什么|怎么|推荐|你")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--memories", type=int, default=60)
    parser.add_argument("--more", type=int, default=0, help="memories that come after the first run, for a second")
    parser.add_argument("--folder", type=Path, help="of the service; kept. Default: one that is deleted")
    options = parser.parse_args()
    print(f"{date.today()}, {cpu_name()}, {MODEL}")
    told = memories(options.data, options.memories + options.more)
    lines, more = told[: options.memories], told[options.memories :]
    with tempfile.TemporaryDirectory() as aside:
        folder = options.folder or Path(aside)
        folder.mkdir(parents=True, exist_ok=True)
        with service(folder) as http:
            print(
                "first token before:", _seconds([_say(http, "9", text)["timing"]["first_token"] for text in TALK * 2])
            )
            first = learn(http, lines)
            recalls(http, lines)
            if more:
                again = learn(http, more)
                print(f"of {len(first)} that decoded after the first run {len(first & again)} do after the second")


def memories(data: Path, count: int) -> list[dict[str, Any]]:
    """What users told of themselves, in turns of one each, as lines of an import; the same every time."""
    people = json.loads((data / "memory_bank_cn.json").read_text("utf-8"))
    told = [
        [
            {
                "scope": f"user:{1000 + number}",
                "text": turn["query"].strip(),
                "kind": "message",
                "subject_id": str(1000 + number),
                "speaker_id": str(1000 + number),
                "speaker_name": name,
            }
            for day in person["history"].values()
            for turn in day
            if 12 <= len(turn["query"]) <= 60 and _TELLS.search(turn["query"]) and not _ASKS.search(turn["query"])
        ]
        for number, (name, person) in enumerate(people.items())
    ]
    longest = max(len(own) for own in told)
    return [own[n] for n in range(longest) for own in told if n < len(own)][:count]


@contextmanager
def service(folder: Path) -> Iterator[httpx.Client]:
    """`qqmem serve` in a folder, ready."""
    settings = {
        "data": str(folder / "data"),
        "server": {"port": PORT},
        "chat": {"merge_window": 0},
        "generation": {"max_new_tokens": 64},
        "train": {"compare": True},
    }
    (folder / "qqmem.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True), "utf-8")
    command = [sys.executable, "-m", "qqmem", "serve", "--config", str(folder / "qqmem.yaml")]
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=httpx.Timeout(120, read=None)) as http:
            while not _is_ready(http):
                if process.poll() is not None:
                    raise SystemExit(f"the service did not start; see {folder / 'serve.log'}")
                time.sleep(0.2)  # another process: there is nothing else to wait for
            yield http
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)


def learn(http: httpx.Client, lines: list[dict[str, Any]]) -> set[int]:
    """Tell it, train it, chat meanwhile, and print. The ids of what then decodes."""
    body = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    http.post("/api/memories/import", content=body.encode()).raise_for_status()
    print(f"{len(lines)} memories of {len({line['subject_id'] for line in lines})} people")
    over = threading.Event()
    first: list[float] = []
    chatter = threading.Thread(target=_chat, args=(http, over, first))
    chatter.start()
    began = time.monotonic()
    run = http.post("/api/training/trigger").raise_for_status().json()["run"]
    stages: Counter[str] = Counter()
    try:
        while (found := http.get(f"/api/training/runs/{run['id']}").json())["state"] == "running":
            stages[found["stage"]] += 1
            time.sleep(1)
    finally:
        over.set()
        chatter.join()
    print(f"run: {found['state']} {found.get('error', '')} after {time.monotonic() - began:.0f} s; {dict(stages)} s")
    print("first token meanwhile:", _seconds(first), f"of {len(first)} messages")
    measures = http.get(f"/api/training/runs/{run['id']}/report").json()
    for name in ("before", "after"):
        print(name, _figures(measures.get(name, {})))
    for name, figures in measures.get("compared", {}).items():
        print(f"by {name}", _figures(figures))
    return set(measures.get("decodable", ()))


def recalls(http: httpx.Client, lines: list[dict[str, Any]]) -> None:
    """Ask for every memory once, and print what is recalled."""
    modes: Counter[str] = Counter()
    for line in lines:
        asked = f"我跟你说过{topic_of(line['text'])}的事，后来怎么样？"
        turn = _say(http, line["subject_id"], asked, line["speaker_name"])
        modes[turn["recalls"][0]["mode"] if turn["recalls"] else "not asked"] += 1
    status = http.get("/api/training/releases").json()["releases"]
    print("questions after the swap:", dict(modes), "trigger:", status[0]["trigger"] if status else "none")


def _chat(http: httpx.Client, over: threading.Event, first: list[float]) -> None:
    n = 0
    while not over.wait(PAUSE):
        first.append(_say(http, "9", TALK[n % len(TALK)])["timing"]["first_token"])
        n += 1


def _say(http: httpx.Client, user: str, text: str, name: str = "小路") -> dict[str, Any]:
    """The turn that answers a message."""
    body = {"user_id": user, "user_nickname": name, "content": text}
    answer = http.post("/api/chat/private", json=body).raise_for_status().json()
    page = http.get(f"/api/conversations/private:{user}/messages").raise_for_status().json()
    return next(turn for turn in page["turns"] if turn["id"] == answer["turn_id"])


def _is_ready(http: httpx.Client) -> bool:
    try:
        return http.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def _seconds(found: list[float]) -> str:
    return f"median {statistics.median(found):.2f} s, most {max(found):.2f} s" if found else "none"


def _figures(measures: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in measures.items() if isinstance(value, int | float))


if __name__ == "__main__":
    main()
