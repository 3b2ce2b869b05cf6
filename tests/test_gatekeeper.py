from __future__ import annotations

import json
import math
from typing import Any

import pytest

from qqmem.gatekeeper import decide
from qqmem.settings_train import Gate

NEEDED, NEEDLESS = [1.0] * 93 + [-1.0] * 7, [0.5] * 3 + [-math.inf] * 97
NOTHING: dict[str, list[float]] = {"leads_needed": [], "leads_needless": []}
BEFORE = {"recall_at_1": 0.7, "exact": 0.0, "perplexity": 10.0, "perplexity_beside": 10.0, **NOTHING}
GOOD = {
    "recall_at_1": 0.97,
    "recall_at_5": 1.0,
    "exact": 0.95,
    "leads_needed": NEEDED,
    "leads_needless": NEEDLESS,
    "perplexity": 10.1,
    "perplexity_beside": 10.2,
}


def decided(**changes: Any) -> Any:
    result = {"before": BEFORE, "after": GOOD | changes, "decodable": [0, 2], "memories": 3}
    return decide(result, Gate(), [11, 12, 13])


def test_the_report_has_everything_and_the_metrics_only_numbers() -> None:
    before, after = BEFORE | {"ranks": [3, 1]}, GOOD | {"ranks": [1, 1], "exact": 0.4}
    compared = {"mse": {"recall_at_1": 0.5, "ranks": [1, 2]}}
    result = {"before": before, "after": after, "decodable": [1], "memories": 3, "compared": compared}
    report = decide(result, Gate(), [11, 12, 13])
    shares = {"trigger_recall", "trigger_false", "trigger_precision"}
    rises = {"perplexity_rise", "perplexity_rise_beside"}
    assert report.metrics.keys() == GOOD.keys() - NOTHING.keys() | shares | rises
    details = report.details
    assert (details["compared"], details["memories"]) == (compared, 3)
    assert details["before"] == without_leads(before) | dict.fromkeys(shares)
    assert details["after"] == without_leads(after) | {name: report.metrics[name] for name in shares | rises}
    assert (details["ids"], details["decodable"]) == ([11, 12, 13], [12])
    assert details["thresholds"] == Gate().model_dump()
    assert details["faults"] == [{"measure": "exact", "value": 0.4, "relation": "below", "bound": 0.5}]
    assert decided().details["faults"] == []
    assert "compared" not in decided().details


def without_leads(measures: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in measures.items() if name not in NOTHING}


def test_the_base_is_what_it_must_not_drift_from() -> None:
    base = {"perplexity": 9.9, "perplexity_beside": 9.9}
    starter = BEFORE | {"perplexity": 10.0}
    result = {"base": base, "before": starter, "after": GOOD | {"perplexity": 10.21}, "decodable": [], "memories": 3}
    assert decide(result, Gate(), []).reason == (
        "The gate refused it: perplexity_rise is 0.031, above 0.030; "
        "perplexity_rise beside a memory is 0.030, above 0.030."
    )


@pytest.mark.parametrize("name", ["recall_at_1", "exact", "perplexity", "perplexity_beside"])
def test_a_model_that_has_gone_to_pieces_does_not_serve(name: str) -> None:
    report = decided(**{name: math.nan})
    assert (report.passed, name in report.metrics, report.details["after"][name]) == (False, False, None)
    json.dumps(report.details, allow_nan=False)


def test_what_is_good_enough_serves_and_asks_by_itself() -> None:
    report = decided()
    assert (report.passed, report.reason, report.trigger, report.margin) == (True, "", "model", 0.0)
    assert report.metrics["trigger_recall"] == pytest.approx(0.93)
    assert report.metrics["trigger_false"] == pytest.approx(0.03)
    assert report.metrics["trigger_precision"] == pytest.approx(0.93 / 0.96)
    assert report.decodable == (11, 13)
    assert report.lanes["state"] > 0
    assert report.metrics["perplexity_rise"] == pytest.approx(0.01)
    assert report.metrics["perplexity_rise_beside"] == pytest.approx(0.02), "against the base that reads the same"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("recall_at_1", 0.79, "recall_at_1 is 0.790, below 0.800"),
        ("exact", 0.49, "exact is 0.490, below 0.500"),
        ("perplexity", 10.31, "perplexity_rise is 0.031, above 0.030"),
        ("perplexity_beside", 12.0, "perplexity_rise beside a memory is 0.200, above 0.030"),
    ],
)
def test_a_refusal_says_which_measure_failed(name: str, value: float, said: str) -> None:
    report = decided(**{name: value})
    assert not report.passed
    assert report.reason == f"The gate refused it: {said}."
    assert (report.lanes["state"] > 0) == (name != "recall_at_1"), "who does not find is not searched by"


def test_what_just_reaches_its_bounds_is_good_enough() -> None:
    bounds = Gate(recall_at_1=0.8, exact=0.5, perplexity_rise=0.25, trigger_precision=0.8, trigger_recall=0.5)
    leads = {"leads_needed": [1.0] * 4 + [-1.0] * 4, "leads_needless": [1.0] + [-1.0] * 7}
    after = GOOD | {"recall_at_1": 0.8, "exact": 0.5, "perplexity": 12.5, "perplexity_beside": 12.5, **leads}
    report = decide({"before": BEFORE, "after": after, "decodable": [], "memories": 3}, bounds, [])
    assert (report.passed, report.trigger, report.margin) == (True, "model", 0.0)
    assert report.lanes["state"] > 0


def test_a_model_that_asks_too_often_has_to_be_surer() -> None:
    needless = [0.2] * 4 + [0.7] * 3 + [3.0] * 1 + [-2.0] * 92
    report = decided(leads_needed=[1.0] * 91 + [0.6] * 4 + [-1.0] * 5, leads_needless=needless)
    assert (report.trigger, report.margin) == ("model", 0.2), "the least that is precise enough"
    assert report.metrics["trigger_recall"] == pytest.approx(0.95)
    assert report.metrics["trigger_false"] == pytest.approx(0.04)
    report = decided(leads_needed=[1.0] * 91 + [0.6] * 4 + [-1.0] * 5, leads_needless=[0.7] * 6 + [-2.0] * 94)
    assert (report.trigger, report.margin) == ("model", 0.7)
    assert report.metrics["trigger_recall"] == pytest.approx(0.91), "dearer than before, and still enough"


@pytest.mark.parametrize(
    "changes",
    [
        {"leads_needed": [1.0] * 89 + [-1.0] * 11},
        {"leads_needless": [2.0] * 7 + [-1.0] * 93},
        {"leads_needed": []},
        {"leads_needless": []},
    ],
)
def test_a_model_that_does_not_know_when_is_helped_by_the_score(changes: dict[str, Any]) -> None:
    report = decided(**changes)
    assert (report.passed, report.trigger, report.margin) == (True, "both", 0.0)


def test_what_could_not_be_measured_decides_nothing() -> None:
    report = decided(recall_at_1=None, perplexity=None, perplexity_beside=None, **NOTHING)
    assert (report.passed, report.trigger) == (True, "both")
    assert report.lanes["state"] == 0, "nobody knows whether it finds anything"
