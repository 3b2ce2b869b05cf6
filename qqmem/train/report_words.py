"""The words of the report's page, in both languages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Words:
    """Mappings are from names in report.json and progress.jsonl, in the order in which they are shown."""

    language: str
    title: str
    passed: str
    refused: str
    faults: Mapping[str, str]
    model: str
    trigger: str
    triggers: Mapping[str, str]
    lanes_title: str
    lanes: Mapping[str, str]
    measured: str
    measures: Mapping[str, str]
    columns: Mapping[str, str]
    needed: str
    trigger_note: str
    stages: Mapping[str, str]
    figures: Mapping[str, str]
    parts: Mapping[str, str]
    loss: str
    step: str
    ranks: str
    decodable: str
    missing: str


WORDS: Mapping[str, Words] = MappingProxyType(
    {
        "zh": Words(
            language="zh-CN",
            title="训练报告",
            passed="通过：训练后的模型可以上线",
            refused="没有通过：继续使用原来的模型",
            faults={"below": "{name}是 {value}，低于要求的 {bound}", "above": "{name}是 {value}，高于允许的 {bound}"},
            model="模型",
            trigger="何时回忆",
            triggers={
                "model": "由模型自己决定",
                "both": "模型想回忆，或检索分数够高",
                "score": "由检索分数决定",
            },
            lanes_title="检索权重",
            lanes={"state": "状态", "text": "文本", "lexical": "字词"},
            measured="各项指标",
            measures={
                "recall_at_1": "一次找对记忆",
                "recall_at_5": "前五个里有记忆",
                "exact": "逐字写出记忆",
                "trigger_recall": "需要时会回忆",
                "trigger_false": "不需要时也回忆",
                "trigger_precision": "回忆里确有必要的",
                "perplexity": "普通对话困惑度",
                "perplexity_beside": "困惑度，旁有无关记忆",
                "perplexity_rise": "困惑度上升",
                "perplexity_rise_beside": "困惑度上升，旁有无关记忆",
            },
            columns={"base": "未训练", "before": "训练前", "after": "训练后"},
            needed="要求",
            trigger_note="达不到时不算失败，但何时回忆不由模型单独决定。",
            stages={"stage1": "第一阶段：找到记忆", "stage2": "第二阶段：读出记忆"},
            figures={
                "steps": "{steps:.0f} 步",
                "seconds": "{seconds:.0f} 秒",
                "tokens_s": "每秒 {tokens_s:.0f} 个词元",
            },
            parts={
                "query": "找到记忆",
                "ask": "何时回忆",
                "open": "怎样开头",
                "text": "读出记忆",
                "reply": "据此回复",
                "chat": "普通对话",
                "keep": "偏离原模型",
                "quiet": "不该回忆时",
            },
            loss="损失",
            step="步",
            ranks="没学过的提问：该想起的记忆排第几",
            decodable="能逐字写出的记忆",
            missing="写不出的：",
        ),
        "en": Words(
            language="en",
            title="Training report",
            passed="Passed: the trained model may serve",
            refused="Refused: what served before goes on serving",
            faults={"below": "{name}: {value}, below {bound}", "above": "{name}: {value}, above {bound}"},
            model="Model",
            trigger="It recalls",
            triggers={
                "model": "when the model asks for it",
                "both": "when the model asks for it, or the search scores are high",
                "score": "when the search scores are high",
            },
            lanes_title="Search weights",
            lanes={"state": "state", "text": "text", "lexical": "words"},
            measured="Measures",
            measures={
                "recall_at_1": "Memory found first",
                "recall_at_5": "Memory among the first five",
                "exact": "Memories written exactly",
                "trigger_recall": "Recalls when needed",
                "trigger_false": "Recalls when not needed",
                "trigger_precision": "Recalls that are needed",
                "perplexity": "Perplexity of ordinary turns",
                "perplexity_beside": "Perplexity beside a foreign memory",
                "perplexity_rise": "Rise of perplexity",
                "perplexity_rise_beside": "Rise beside a foreign memory",
            },
            columns={"base": "untrained", "before": "before", "after": "after"},
            needed="needed",
            trigger_note="No reason to refuse it, but then the model does not decide alone when to recall.",
            stages={"stage1": "Stage 1: find the memory", "stage2": "Stage 2: read the memory"},
            figures={"steps": "{steps:.0f} steps", "seconds": "{seconds:.0f} s", "tokens_s": "{tokens_s:.0f} tokens/s"},
            parts={
                "query": "find it",
                "ask": "when to recall",
                "open": "how it opens",
                "text": "read it",
                "reply": "reply by it",
                "chat": "ordinary turns",
                "keep": "drift from the base",
                "quiet": "when not to recall",
            },
            loss="Loss",
            step="step",
            ranks="Held-out questions: rank of the wanted memory",
            decodable="Memories written exactly",
            missing="Not: ",
        ),
    }
)
