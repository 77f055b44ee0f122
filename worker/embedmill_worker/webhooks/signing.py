"""Signatures of webhooks by the Standard Webhooks specification, and the secrets they are made with. No I/O."""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime
from typing import Final

from standardwebhooks import Webhook

#: What a secret begins with; base64 of its bytes follows.
PREFIX: Final = "whsec_"

#: Bytes of a secret, as the specification has them.
MIN_SECRET_BYTES: Final = 24
MAX_SECRET_BYTES: Final = 64


class SecretError(Exception):
    """A secret that cannot sign. Its message holds nothing of the secret."""


def check_secret(secret: str) -> str:
    """Return a secret that can sign.

    Raises:
        SecretError: it has another form, or is too short or too long.
    """
    wanted = f"{PREFIX} and base64 of {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes"
    if not secret.startswith(PREFIX) or len(secret) > 2 * MAX_SECRET_BYTES:
        raise SecretError(f"a secret is {wanted}")
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise SecretError(f"a secret is {wanted}; this one is not base64") from None
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise SecretError(f"a secret is {wanted}; this one has {len(key)} bytes")
    return secret


def signed_headers(secret: str, event_id: str, at_s: float, body: str) -> dict[str, str]:
    """Return the headers that let a receiver verify a body.

    Args:
        secret: shared with the receiver.
        event_id: the same for each attempt at an event, so that a receiver knows one that it has seen.
        at_s: time of this attempt, in seconds since the epoch.
        body: what is sent.
    """
    at = datetime.fromtimestamp(int(at_s), UTC)
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(at_s)),
        "webhook-signature": Webhook(secret).sign(event_id, at, body),
    }
