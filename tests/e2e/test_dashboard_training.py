"""A training, watched in the dashboard from its beginning to the swap: a tiny model, real trainers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import expect

from tests.e2e.browser import SECONDS, chromium, opened
from tests.e2e.conftest import Service
from tests.tiny import tiny_qwen2
from tests.train.runs import save_model

pytestmark = pytest.mark.e2e

STAGES = ("学会寻找", "学会读出", "检验")
TOLD = ("阿青每周三晚上去城东的泳池游泳", "阿青的妹妹在青岛开了一家叫浪花的咖啡馆", "阿青对芒果过敏")


@pytest.fixture
def learner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """As little training as there can be of a model that knows nothing, and a gate that lets it pass."""
    home = tmp_path_factory.mktemp("learner")
    model = save_model(home / "model", model=tiny_qwen2())
    made = Service(home / "data", arguments=("--model", str(model)))
    made.environment |= {
        "QQMEM_CHAT__HISTORY_TOKENS": "2048",
        "QQMEM_ENGINE__MAX_CONTEXT": "4096",
        "QQMEM_GENERATION__MAX_NEW_TOKENS": "8",
        "QQMEM_MEMORY__ENCODER": "none",
        "QQMEM_TRAIN__GATE": json.dumps({"recall_at_1": 0, "exact": 0, "perplexity_rise": 9}),
        "QQMEM_TRAIN__QUESTIONS": "1",
        "QQMEM_TRAIN__STAGE1__BATCH": "2",
        "QQMEM_TRAIN__STAGE1__EPOCHS": "2",
        "QQMEM_TRAIN__STAGE2__BATCH": "4",
        "QQMEM_TRAIN__STAGE2__EPOCHS": "2",
    }
    made.start()
    yield made
    if made.process:
        made.process.kill()
        made.process.wait()


def test_a_training_is_watched_to_the_swap_and_taken_back(learner: Service) -> None:
    for text in TOLD:
        body = {"scope": "user:1", "subject_id": "1", "text": text}
        httpx.post(f"{learner.url}/api/memories", json=body).raise_for_status()
    with chromium() as browser, opened(browser, learner.url) as (page, _):
        page.goto("/#/training")
        page.locator("[data-action=train]").click()
        run = page.locator("[data-run='1']").first
        expect(run).to_have_attribute("data-state", "running")
        for stage in STAGES:  # all of the others are too short to be seen for sure
            expect(run.locator("[aria-current=step]")).to_have_text(stage, timeout=120 * SECONDS)
        expect(run).to_have_attribute("data-state", "done", timeout=240 * SECONDS)
        release, base = (page.locator(f"[data-release='{name}']") for name in ("0001", "base"))
        expect(release).to_have_attribute("data-current", "true")
        expect(run.locator(".uplot canvas").first).to_be_visible()
        assert httpx.get(f"{learner.url}/api/training/status").json()["release"] == "0001"

        base.locator("[data-action=rollback]").click()
        page.locator("dialog [data-action=confirm]").click()
        expect(base).to_have_attribute("data-current", "true")
        expect(release.locator("[data-action=rollback]")).to_be_visible()
        assert "release" not in httpx.get(f"{learner.url}/api/training/status").json()
    assert learner.end() == 0
