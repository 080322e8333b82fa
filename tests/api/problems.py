"""The shape that every native refusal has."""

from typing import Any

import httpx2


def refused(response: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """The problem document of a refusal, checked as far as all of them are alike."""
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert (response.status_code, body["code"]) == (status, code), body
    assert (body["type"], body["status"]) == ("about:blank", status)
    assert body["title"]
    assert body["detail"]
    assert body["request_id"] == response.headers["x-request-id"]
    assert ("errors" in body) == (status == 422)
    return body
