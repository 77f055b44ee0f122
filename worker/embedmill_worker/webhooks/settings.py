"""What the operator sets of webhooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from embedmill.errors import SettingsError
from embedmill_worker.webhooks.addresses import AddressRules
from embedmill_worker.webhooks.schedule import Schedule
from embedmill_worker.webhooks.signing import SecretError, check_secret


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings:
    """Where webhooks may go, when they are tried again and what signs them."""

    rules: AddressRules = field(default_factory=AddressRules)
    schedule: Schedule = field(default_factory=Schedule)
    #: Secret for jobs that bring none; empty: each must bring its own.
    secret: str = field(default="", repr=False)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> WebhookSettings:
        """Read ``EMBEDMILL_WEBHOOK_…``.

        Raises:
            SettingsError: a value that cannot work; the secret is not part of the message.
        """
        secret, pauses = env.get("EMBEDMILL_WEBHOOK_SECRET", ""), env.get("EMBEDMILL_WEBHOOK_RETRY_S", "")
        try:
            secret = check_secret(secret) if secret else ""
        except SecretError as error:
            raise SettingsError("EMBEDMILL_WEBHOOK_SECRET", "***", str(error)) from None
        return cls(
            rules=AddressRules.parse(env.get("EMBEDMILL_WEBHOOK_ALLOW", ""), "EMBEDMILL_WEBHOOK_ALLOW"),
            schedule=Schedule.parse(pauses, "EMBEDMILL_WEBHOOK_RETRY_S") if pauses else Schedule(),
            secret=secret,
        )
