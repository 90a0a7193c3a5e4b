"""The ways to tell people: e-mail, a Slack-compatible webhook, a signed webhook, a file.

A message may arrive twice where this process dies between sending and noting it; its id says that it is the same one.
"""
from __future__ import annotations

import hashlib
import hmac
import json
import os
import smtplib
import ssl
import time
from collections.abc import Callable, Mapping
from email.message import EmailMessage
from email.utils import parseaddr
from pathlib import Path
from typing import Any, cast

from analyzer.alerting.firing import Firing
from analyzer.alerting.post import DeliveryError, post
from farthing.errors import SettingsError
from farthing.settings import AlertChannel, secret

HEADER_ID = "x-farthing-alert-id"
HEADER_SIGNATURE = "x-farthing-signature"  # t=<epoch seconds>,v1=<hex of HMAC-SHA256 over "<t>.<body>">
_TIMEOUT_S = 20.0
_JSON = "application/json"

Send = Callable[[AlertChannel, Firing], None]


def check(channels: tuple[AlertChannel, ...]) -> Mapping[str, AlertChannel]:
    """Return the channels by name.

    Raises:
        SettingsError: a kind is unknown, a field that a kind needs is missing, or a name is there twice.
    """
    found: dict[str, AlertChannel] = {}
    for one in channels:
        where = f"alert_channels: {one.name!r}"
        if one.name in found:
            raise SettingsError(f"{where} is there twice; give each a name of its own")
        if one.kind not in _KINDS:
            raise SettingsError(f"{where}: kind = {one.kind!r}; allowed are {', '.join(_KINDS)}")
        needed = "url_env" if one.kind in ("slack", "webhook") else "to"
        if not getattr(one, needed):
            raise SettingsError(f"{where}: a channel of kind {one.kind} needs {needed}")
        found[one.name] = one
    return found


def send(channel: AlertChannel, firing: Firing) -> None:
    """Tell of a firing; returns once the message was taken.

    Raises:
        DeliveryError: it was not; the message says why.
    """
    try:
        _KINDS[channel.kind](channel, firing)
    except (SettingsError, OSError, ValueError, smtplib.SMTPException) as error:
        raise DeliveryError(str(error)) from None


def as_json(firing: Firing) -> dict[str, Any]:
    """Return a firing as programs receive it."""
    fact = firing.fact
    return {
        "id": firing.key, "alert": firing.alert, "owner": firing.owner, "subject": fact.subject,
        "title": fact.title, "text": fact.text, "figures": fact.figures,
        "period": firing.period, "fired_at": firing.fired_at.isoformat(),
    }  # fmt: skip


def signature(key: str, body: bytes, at_s: int) -> str:
    """Return the signature of a body, made at `at_s`; a receiver refuses an old one, since it may be replayed."""
    digest = hmac.digest(key.encode(), f"{at_s}.".encode() + body, hashlib.sha256).hex()
    return f"t={at_s},v1={digest}"


def _email(channel: AlertChannel, firing: Firing) -> None:
    message = EmailMessage()
    message["Subject"] = " ".join(f"[Farthing] {firing.fact.title}".split())  # names in it come from callers
    message["From"] = channel.sender
    message["To"] = channel.to
    message["Message-ID"] = f"<{firing.key}@{parseaddr(channel.sender)[1].rpartition('@')[2] or 'farthing'}>"
    message["X-Farthing-Alert-Id"] = firing.key
    message.set_content(f"{firing.fact.text}\n\nAlert {firing.alert}, {firing.fired_at:%Y-%m-%d %H:%M} UTC.\n")
    for path in map(Path, _files(firing)):
        message.add_attachment(path.read_text("utf-8"), subtype="html" if path.suffix == ".html" else "plain",
                               filename=path.name)  # fmt: skip
    host, _, port = channel.smtp.partition(":")
    with smtplib.SMTP(host, int(port or 25), timeout=_TIMEOUT_S) as server:
        server.ehlo()
        is_protected = server.has_extn("starttls")
        if is_protected:
            server.starttls(context=ssl.create_default_context())
        if channel.smtp_user_env:
            if not is_protected:
                raise SettingsError(f"{channel.smtp} offers no STARTTLS, so the password is not sent")
            server.login(secret(channel.smtp_user_env), secret(channel.smtp_password_env))
        refused = server.send_message(message)
    if refused:
        raise DeliveryError(f"refused for {', '.join(refused)}")


def _files(firing: Firing) -> list[str]:
    """Return the files that a report's message carries; an alert has none."""
    return cast("list[str]", firing.fact.figures.get("files", []))


def _slack(channel: AlertChannel, firing: Firing) -> None:
    body = {"text": f"*{_plain(firing.fact.title)}*\n{_plain(firing.fact.text)}"}
    _post(channel, firing, json.dumps(body).encode(), {})


def _webhook(channel: AlertChannel, firing: Firing) -> None:
    body = json.dumps(as_json(firing), sort_keys=True).encode()
    signed: dict[str, str] = {}
    if channel.secret_env:
        signed[HEADER_SIGNATURE] = signature(secret(channel.secret_env), body, int(time.time()))
    _post(channel, firing, body, signed)


def _post(channel: AlertChannel, firing: Firing, body: bytes, headers: Mapping[str, str]) -> None:
    given = {"content-type": _JSON, HEADER_ID: firing.key, **headers}
    post(secret(channel.url_env), body, given, channel.allow_private)


def _file(channel: AlertChannel, firing: Firing) -> None:
    path = Path(channel.to).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as handle:
        handle.write(json.dumps(as_json(firing), sort_keys=True).encode() + b"\n")
        handle.flush()
        os.fsync(handle.fileno())


def _plain(text: str) -> str:
    """Return text that no chat takes for a command, a link or a mention."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


_KINDS: Mapping[str, Send] = {"email": _email, "slack": _slack, "webhook": _webhook, "file": _file}
