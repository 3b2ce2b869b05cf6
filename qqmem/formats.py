"""What a file is, by its first bytes: what a client says about it is never believed. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["image", "video", "audio", "file"]
HEAD = 64
"""Bytes that are enough to tell."""


@dataclass(frozen=True, slots=True)
class Format:
    """extension: without a dot. media_type: as HTTP names it."""

    extension: str
    media_type: str


ANY = Format("bin", "application/octet-stream")
"""A file of kind `file` is never shown by a browser, only saved."""
FORMATS = {
    "png": "image/png", "jpg": "image/jpeg", "gif": "image/gif", "webp": "image/webp", "bmp": "image/bmp",
    "mp4": "video/mp4", "mov": "video/quicktime", "webm": "video/webm", "avi": "video/x-msvideo",
    "mp3": "audio/mpeg", "wav": "audio/wav", "ogg": "audio/ogg", "flac": "audio/flac", "m4a": "audio/mp4",
    "amr": "audio/amr", "silk": "audio/x-silk", "bin": ANY.media_type,
}  # fmt: skip
_STARTS: dict[str, tuple[tuple[bytes, str], ...]] = {
    "image": ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpg"), (b"GIF87a", "gif"), (b"GIF89a", "gif")),
    "video": ((b"\x1a\x45\xdf\xa3", "webm"),),
    "audio": (
        (b"ID3", "mp3"), (b"\xff\xfb", "mp3"), (b"\xff\xf3", "mp3"), (b"\xff\xf2", "mp3"), (b"OggS", "ogg"),
        (b"fLaC", "flac"), (b"#!AMR", "amr"), (b"#!SILK_V3", "silk"), (b"\x02#!SILK_V3", "silk"),
    ),
}  # fmt: skip
_RIFF = {"image": (b"WEBP", "webp"), "video": (b"AVI ", "avi"), "audio": (b"WAVE", "wav")}


def format_of(kind: Kind, head: bytes) -> Format | None:
    """head: the first HEAD bytes. None if it is no format of this kind that is known."""
    if kind == "file":
        return ANY
    extension = next((name for start, name in _STARTS[kind] if head.startswith(start)), None) or _boxed(kind, head)
    return None if extension is None else Format(extension, FORMATS[extension])


def _boxed(kind: Kind, head: bytes) -> str | None:
    """Formats that are known by what stands behind their first four bytes."""
    riff, extension = _RIFF[kind]
    if head.startswith(b"RIFF") and head[8:12] == riff:
        return extension
    if kind == "image" and head.startswith(b"BM") and head[6:10] == bytes(4):
        return "bmp"
    if head[4:8] != b"ftyp":
        return None
    brand = head[8:12]
    if kind == "audio":
        return "m4a" if brand in (b"M4A ", b"M4B ") else None
    if kind == "video" and brand not in (b"M4A ", b"M4B ", b"avif", b"heic", b"mif1"):
        return "mov" if brand == b"qt  " else "mp4"
    return None
