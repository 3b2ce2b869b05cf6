"""The shapes of uploads."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from qqmem.api.wire import In, Out, Text, example
from qqmem.formats import Kind

_DIGEST = "9f64a747e1b97f131fabb6b447296c9b6f0201e79fb3c5356e6c77e89b6a806a"


class UploadBody(In):
    """A file in JSON."""

    model_config = ConfigDict(
        extra="ignore", json_schema_extra=example(data="iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ", format="png")
    )
    data: Text = Field(description="Base64, with or without a `data:` address before it.")
    format: Text = Field(default="", description="Ignored: a file is known by its first bytes.")


class UploadAnswer(Out):
    """id: what a message names it by, in `images`. size: in bytes."""

    model_config = ConfigDict(
        json_schema_extra=example(
            status="success",
            id=f"image-{_DIGEST}",
            kind="image",
            media_type="image/png",
            size=5120,
            filename=f"{_DIGEST}.png",
            url=f"/static/images/{_DIGEST}.png",
        )
    )
    status: Literal["success"] = "success"
    id: str
    kind: Kind
    media_type: str
    size: int
    filename: str
    url: str


BODIES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                },
                "example": {"file": "(the file)"},
            },
            "application/json": {"schema": UploadBody.model_json_schema()},
        },
    }
}
"""Of the route, for OpenAPI: it reads its body itself, bit by bit."""
