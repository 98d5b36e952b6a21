"""What the server edge reads from a request's head."""

from __future__ import annotations

import pytest

from gateway.http.head import bearer


@pytest.mark.parametrize(
    ("authorization", "x_api_key", "key"),
    [
        ("Bearer k", None, "k"),
        ("bearer  k ", "other", "k"),
        ("Basic k", "k2", "k2"),
        (None, None, None),
        ("Bearer ", "x", "x"),
    ],
)
def test_where_a_key_may_stand(authorization: str | None, x_api_key: str | None, key: str | None) -> None:
    assert bearer(authorization, x_api_key) == key
