"""Ids that clients give their requests, so that none is carried out twice."""

from nearhash.errors import InvalidArgumentError

MAX_REQUEST_ID = 128  # bytes


def check_request_id(request_id: str | None) -> None:
    """Raise InvalidArgumentError unless it is None or a text of 1 to 128 bytes."""
    if request_id is None:
        return
    if not isinstance(request_id, str) or not 1 <= len(request_id.encode(errors="replace")) <= MAX_REQUEST_ID:
        raise InvalidArgumentError(f"request_id: expected 1 to {MAX_REQUEST_ID} bytes, got {request_id!r:.150}")
