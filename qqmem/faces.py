"""Reactions as people read them: QQ's numbers of faces, and from a thousand on code points."""

from __future__ import annotations

FACES = {
    4: "得意", 5: "流泪", 9: "大哭", 10: "尴尬", 12: "调皮", 14: "微笑", 16: "酷", 21: "可爱", 27: "流汗", 28: "憨笑",
    32: "疑问", 38: "敲打", 39: "再见", 49: "拥抱", 53: "蛋糕", 60: "咖啡", 63: "玫瑰", 66: "爱心", 76: "赞",
    78: "握手", 79: "胜利", 96: "冷汗", 99: "鼓掌", 101: "坏笑", 106: "委屈", 111: "可怜", 116: "示爱", 118: "抱拳",
    120: "拳头", 123: "NO", 124: "OK", 129: "挥手", 144: "喝彩", 174: "无奈", 178: "斜眼笑", 179: "doge", 180: "惊喜",
    182: "笑哭", 201: "点赞", 212: "托腮", 277: "汪汪",
}  # fmt: skip


def face(number: int) -> str:
    """The name of a face, or the emoji itself; the number, if it is known by none."""
    if number in FACES:
        return FACES[number]
    is_emoji = 1000 <= number <= 0x10FFFF and not 0xD800 <= number <= 0xDFFF
    return chr(number) if is_emoji and chr(number).isprintable() else str(number)
