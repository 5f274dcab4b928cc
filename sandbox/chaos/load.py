"""Asks for exports as callers do: by HTTP with a token, and by AMQP as a platform service with confirms.

What a caller may rely on is decided here, from what it was told: accepted, refused, or nobody knows.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from uuid import UUID

import aio_pika
import aiohttp
import jwt

from sandbox.chaos.plan import Plan, PlannedRequest, Way
from shared.contracts.errors import Unavailable
from shared.contracts.messages import ExportRequested
from shared.contracts.topology import COMMANDS
from shared.messaging.connection import BROKER_ERRORS, connected
from shared.storage.cancel import cancel
from shared.storage.database import open_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sandbox.chaos.fleet import Fleet
    from sandbox.chaos.timeline import Timeline

_HTTP_SECONDS: Final = 15.0
_CONFIRM_SECONDS: Final = 5.0
_CONNECT_SECONDS: Final = 10.0
_PAUSE_SECONDS: Final = 0.5
_OK: Final = 200
_ACCEPTED: Final = (_OK, 202)


class Fate(StrEnum):
    ACCEPTED = "accepted"  #: a 200 or 202 was read, or a publish was confirmed and not returned
    REFUSED = "refused"  #: another answer was read, or nothing was ever sent
    UNKNOWN = "unknown"  #: the answer was cut: it may exist


@dataclass(slots=True)
class Asked:
    """One request as its caller sees it."""

    name: str
    way: Way
    project: str
    fate: Fate = Fate.UNKNOWN
    message_id: str | None = None  #: given by the platform: however often it comes, it is one request
    job_id: UUID | None = None  #: what the API answered
    confirmed_at: list[float] = field(default_factory=list)  #: what the broker confirmed
    says: str = ""

    @property
    def app_id(self) -> str:
        """By it a message without an id of its own is found again, in the audit log."""
        return f"chaos-{self.name}"


@dataclass(slots=True)
class Load:
    fleet: Fleet
    timeline: Timeline
    amqp_url: str
    asked: list[Asked] = field(default_factory=list)

    async def run(self, plan: Plan) -> None:
        """All requests at their times; returns when each has its fate, and cancels were asked for."""
        async with asyncio.TaskGroup() as group:
            for request in plan.requests:
                group.create_task(self._at(request))

    async def post(self, name: str, gateway: str, options: dict[str, str]) -> Asked:
        asked = Asked(name, Way.HTTP, options["project_id"])
        self.asked.append(asked)
        url = f"{self.fleet.url_of_gateway(gateway)}/api/backup/export"
        try:
            async with self._session(asked.project) as http, http.post(url, json=options) as answer:
                _read(asked, answer.status, await answer.text())
        except aiohttp.ClientConnectorError as error:
            asked.fate, asked.says = Fate.REFUSED, type(error).__name__
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            asked.says = type(error).__name__
        self._told(asked, f"POST to {gateway}")
        return asked

    async def status_of(self, job_id: UUID, project: str) -> str:
        """What the API says of the job: its status, or what was answered instead."""
        url = f"{self.fleet.url_of_gateway('gateway-1')}/api/backup/jobs/{job_id}"
        async with self._session(project) as http, http.get(url) as answer:
            text = await answer.text()
        return str(json.loads(text)["data"]["status"]) if answer.status == _OK else text

    async def _at(self, request: PlannedRequest) -> None:
        await asyncio.sleep(max(0.0, request.at - self.timeline.now))
        name = f"r{request.number}"
        if request.way is Way.HTTP:
            asked = await self.post(name, request.gateway, request.options)
        else:
            asked = await self._send(name, request)
        if request.cancel_after is not None:
            await self._cancel(asked, request.cancel_after)

    async def _send(self, name: str, request: PlannedRequest) -> Asked:
        asked = Asked(name, request.way, request.options["project_id"], message_id=request.message_id)
        self.asked.append(asked)
        message = _message(asked, request)
        for _ in range(2 if request.twice else 1):
            await self._publish(asked, message)
        self._told(asked, f"publish ({request.message_id or 'no id'})")
        return asked

    async def _publish(self, asked: Asked, message: aio_pika.Message) -> None:
        """Keep trying to connect for a while, as a platform service does; publish once."""
        deadline = self.timeline.now + _CONNECT_SECONDS
        sent = False
        while not sent and self.timeline.now < deadline:
            try:
                async with connected(self.amqp_url, name="chaos-platform") as connection:
                    channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
                    exchange = await channel.get_exchange(COMMANDS, ensure=False)
                    sent = True
                    await exchange.publish(
                        message, ExportRequested.type, mandatory=True, timeout=_CONFIRM_SECONDS
                    )
                    asked.fate = Fate.ACCEPTED
                    asked.confirmed_at.append(self.timeline.now)
            except aio_pika.exceptions.PublishError as error:
                asked.says = repr(error)
            except (*BROKER_ERRORS, asyncio.CancelledError) as error:
                if _asked_to_stop():
                    raise
                asked.says = type(error).__name__
                await asyncio.sleep(_PAUSE_SECONDS)
        if not sent and not asked.confirmed_at:
            asked.fate = Fate.REFUSED

    async def _cancel(self, asked: Asked, after: float) -> None:
        """As an operator does; what comes of it is seen in the job."""
        await asyncio.sleep(after)
        if asked.job_id is None:
            return
        try:
            async with open_database(self.fleet.stack.database_url, name="chaos-operator") as database:
                done = await cancel(database, asked.job_id, actor="chaos")
        except Unavailable as error:
            self.timeline.say(f"{asked.name} cancel failed: {error.sentence}")
            return
        self.timeline.say(f"{asked.name} cancel: {done.way.value if done else 'unknown job'} {asked.job_id}")

    def _told(self, asked: Asked, how: str) -> None:
        self.timeline.say(
            f"{asked.name} {asked.way.value} {asked.project} by {how}: {asked.fate.value}"
            f" {asked.job_id or ''} {asked.says}"
        )

    @asynccontextmanager
    async def _session(self, project: str) -> AsyncIterator[aiohttp.ClientSession]:
        claims = {"project_id": project, "exp": datetime.now(UTC) + timedelta(hours=1)}
        token = jwt.encode(claims, self.fleet.stack.keys.jwt_secret, algorithm="HS256")
        async with aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {token}"}, timeout=aiohttp.ClientTimeout(_HTTP_SECONDS)
        ) as session:
            yield session


def _read(asked: Asked, status: int, text: str) -> None:
    if status in _ACCEPTED:
        asked.fate, asked.job_id = Fate.ACCEPTED, UUID(json.loads(text)["data"]["job_id"])
    else:
        asked.fate, asked.says = Fate.REFUSED, f"{status} {text}"


def _message(asked: Asked, request: PlannedRequest) -> aio_pika.Message:
    body = b"{broken" if request.way is Way.GARBAGE else json.dumps(request.options).encode()
    return aio_pika.Message(
        body,
        message_id=request.message_id,
        app_id=asked.app_id,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )


def _asked_to_stop() -> bool:
    """Tell our own cancellation from that of a confirmation whose channel died."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
