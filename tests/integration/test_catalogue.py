"""The catalogue in the chat: what it lists, that it is the pinned one, and rounds that end half-way."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from sandbox.bot_api.process import BotApi
from sandbox.bot_api.store import StoredMessage
from services.uploader.catalogue import KeepCatalogue
from services.uploader.lane import Lane
from shared.contracts.catalogue import Catalogue
from shared.contracts.errors import Failure, PermanentError, TemporaryError
from shared.runtime.catalogue_document import decoded, encoded
from shared.runtime.signing import CATALOGUE, MANIFEST, NotAuthentic, Signer
from shared.storage.database import Database
from shared.telegram.catalogue import read_catalogue
from shared.telegram.client import SentDocument, TelegramChatStore, open_telegram
from tests.conftest import BOT_TOKEN
from tests.integration.upload_plant import NO_RULE
from tests.waiting import eventually

SIGNER = Signer.of(["a signing key of at least 32 characters"], purpose=CATALOGUE)
CREATED = datetime(2026, 11, 1, tzinfo=UTC)

_ADD = """
    INSERT INTO control_plane.backups
        (id, project_id, size_bytes, sha256, part_count, filename, bot_id, chat_id,
         manifest_message_id, manifest_file_id, manifest_sha256, created_at)
    VALUES ($1, $2, 1, $3, 1, 'a.sql', $4, -100, 7, 'file-id', $3, $5)
"""


@dataclass(frozen=True, slots=True)
class Shelf:
    """A chat and a control plane, and the duty that keeps the one's catalogue true to the other."""

    owner: asyncpg.Connection
    database: Database
    telegram: TelegramChatStore
    api: BotApi
    chat_id: int
    keep: KeepCatalogue
    directory: Path

    def another(self, *, seconds: float = 0) -> KeepCatalogue:
        """As in another process."""
        return KeepCatalogue(
            self.database, self.telegram, SIGNER, self.chat_id, seconds, Lane(self.database, NO_RULE)
        )

    async def add(self, project: str, *, bot_id: int | None = None) -> UUID:
        """A backup, each a second younger than the one before."""
        backup_id = uuid4()
        number = await self.owner.fetchval("SELECT count(*) FROM control_plane.backups")
        created_at = CREATED + timedelta(seconds=number)
        bot = bot_id or self.telegram.bot_id
        await self.owner.execute(_ADD, backup_id, project, "0" * 64, bot, created_at)
        return backup_id

    async def send(self, name: str, content: bytes = b"a person's words") -> SentDocument:
        """What somebody else posts to the chat."""
        path = self.directory / name
        path.write_bytes(content)
        return await self.telegram.send(path, chat_id=self.chat_id, filename=name, caption=None)

    async def send_pinned(self, name: str, content: bytes = b"a person's words") -> int:
        message_id = (await self.send(name, content)).message_id
        await self.keep.pins.pin(self.chat_id, message_id)
        return message_id

    @property
    def there(self) -> list[StoredMessage]:
        """Catalogues that are in the chat, in order."""
        return [
            message
            for message in self.api.messages(self.chat_id)
            if message.file_name.endswith(".catalogue") and not message.deleted
        ]

    async def pinned(self) -> Catalogue:
        """What somebody who knows only the chat gets."""
        shown = await self.keep.pins.newest(self.chat_id)
        assert shown is not None
        assert shown.file_id is not None
        return await read_catalogue(self.telegram, shown.file_id, SIGNER)

    async def projects(self) -> list[str]:
        return [entry.project_id for entry in (await self.pinned()).entries]

    async def held(self, number: int) -> None:
        """Return when so many documents have arrived at the stand-in and wait there."""

        async def are_held() -> bool:
            return self.api.held("sendDocument") == number

        await eventually(are_held)

    async def statuses(self) -> Sequence[str]:
        rows = await self.owner.fetch("SELECT status FROM control_plane.catalogues ORDER BY revision")
        return [row["status"] for row in rows]


@pytest.fixture
async def shelf(
    control_plane: Database, connection: asyncpg.Connection, bot_api: BotApi, chat_id: int, tmp_path: Path
) -> AsyncIterator[Shelf]:
    async with open_telegram(BOT_TOKEN, bot_api.url) as telegram:
        await telegram.introduce()
        keep = KeepCatalogue(control_plane, telegram, SIGNER, chat_id, 0, Lane(control_plane, NO_RULE))
        yield Shelf(connection, control_plane, telegram, bot_api, chat_id, keep, tmp_path)
        bot_api.reset()


async def test_it_lists_every_live_backup_of_this_bot(shelf: Shelf) -> None:
    """Not another bot's, nor what is expiring: with the manifest's ids, which is all that a restore needs."""
    first, second = await shelf.add("acme"), await shelf.add("bolt")
    gone = await shelf.add("gone")
    await shelf.owner.execute("UPDATE control_plane.backups SET status = 'expiring' WHERE id = $1", gone)
    await shelf.add("foreign", bot_id=42)

    assert await shelf.keep() == {"sent": 1, "pinned": 1, "deleted": 0, "replaced": 0, "remains": 0}

    catalogue = await shelf.pinned()
    assert (catalogue.bot_id, catalogue.revision) == (shelf.telegram.bot_id, 1)
    assert [entry.backup_id for entry in catalogue.entries] == [first, second]
    entry = catalogue.entries[0]
    assert (entry.chat_id, entry.message_id, entry.file_id, entry.sha256) == (-100, 7, "file-id", "0" * 64)
    assert REGISTRY.get_sample_value("pgferry_catalogue_pinned") == 1


async def test_without_a_backup_there_is_none(shelf: Shelf) -> None:
    """A new installation posts nothing."""
    assert await shelf.keep() == {}
    assert shelf.there == []


async def test_nothing_is_sent_while_nothing_changes(shelf: Shelf) -> None:
    """A round only looks at the chat."""
    await shelf.add("acme")
    await shelf.keep()

    assert await shelf.keep() == {"sent": 0, "pinned": 0, "deleted": 0, "replaced": 0, "remains": 0}
    assert len(shelf.there) == 1


async def test_a_new_one_replaces_its_predecessor(shelf: Shelf) -> None:
    """The chat has one catalogue, the newest; also when it lists nothing any more."""
    await shelf.add("acme")
    await shelf.keep()
    await shelf.add("bolt")

    assert await shelf.keep() == {"sent": 1, "pinned": 1, "deleted": 1, "replaced": 0, "remains": 0}
    assert await shelf.projects() == ["acme", "bolt"]
    await shelf.owner.execute("UPDATE control_plane.backups SET status = 'deleted'")
    await shelf.keep()
    assert await shelf.projects() == []
    assert (len(shelf.there), await shelf.statuses()) == (1, ["sent"])


async def test_it_is_sent_at_most_once_in_its_time(shelf: Shelf) -> None:
    """Also by another process; what is to be pinned or deleted does not wait."""
    await shelf.add("acme")
    patient = shelf.another(seconds=3600)
    await patient()
    await shelf.add("bolt")

    assert await patient() == {"sent": 0, "pinned": 0, "deleted": 0, "replaced": 0, "remains": 0}
    assert await shelf.projects() == ["acme"]


async def test_a_catalogue_whose_answer_was_lost_is_sent_again(shelf: Shelf) -> None:
    """Its row stays, for the document may be in the chat; what is pinned is the one that is known."""
    await shelf.add("acme")
    shelf.api.drop_after_storing("sendDocument", times=1)
    with pytest.raises(TemporaryError):
        await shelf.keep()

    await shelf.another()()

    assert (await shelf.pinned()).revision == 2
    assert (len(shelf.there), await shelf.statuses()) == (2, ["sending", "sent"])


async def test_one_that_surely_was_not_sent_leaves_no_trace(shelf: Shelf) -> None:
    """A 429 is waited for until another round."""
    await shelf.add("acme")
    shelf.api.flood("sendDocument", times=1, retry_after=7)
    with pytest.raises(TemporaryError) as raised:
        await shelf.keep()
    assert raised.value.retry_after == 7

    await shelf.keep()

    assert ((await shelf.pinned()).revision, len(shelf.there), await shelf.statuses()) == (1, 1, ["sent"])


async def test_one_that_was_sent_and_not_pinned_is_pinned_by_the_next_round(shelf: Shelf) -> None:
    """It is not sent again."""
    await shelf.add("acme")
    shelf.api.refuse("pinChatMessage", times=1, status=500)
    with pytest.raises(TemporaryError):
        await shelf.keep()

    assert await shelf.another()() == {"sent": 0, "pinned": 1, "deleted": 0, "replaced": 0, "remains": 0}
    assert await shelf.projects() == ["acme"]


@pytest.mark.parametrize("method", ["unpinChatMessage", "deleteMessage"])
async def test_a_predecessor_that_was_left_is_removed_by_the_next_round(shelf: Shelf, method: str) -> None:
    """Wherever the round before has ended."""
    await shelf.add("acme")
    await shelf.keep()
    await shelf.add("bolt")
    shelf.api.refuse(method, times=1, status=500)
    with pytest.raises(TemporaryError):
        await shelf.keep()
    assert await shelf.projects() == ["acme", "bolt"]

    assert await shelf.another()() == {"sent": 0, "pinned": 0, "deleted": 1, "replaced": 0, "remains": 0}
    assert len(shelf.there) == 1


async def test_a_predecessor_that_is_too_old_is_replaced_by_a_tombstone(shelf: Shelf) -> None:
    """A bot deletes nothing that is older than 48 h; what it lists is not to be read any more."""
    await shelf.add("acme")
    await shelf.keep()
    await shelf.add("bolt")
    shelf.api.advance_clock(49 * 3600)

    assert await shelf.keep() == {"sent": 1, "pinned": 1, "deleted": 0, "replaced": 1, "remains": 0}

    messages = shelf.api.messages(shelf.chat_id)
    assert [(message.file_name, message.pinned) for message in messages[:1]] == [("removed.txt", False)]
    assert await shelf.projects() == ["acme", "bolt"]
    assert await shelf.statuses() == ["sent"]
    assert (await shelf.keep())["replaced"] == 0


async def test_a_tombstone_whose_answer_was_lost_is_found_to_be_there(shelf: Shelf) -> None:
    """The next round replaces it by the same words."""
    await shelf.add("acme")
    await shelf.keep()
    await shelf.add("bolt")
    shelf.api.advance_clock(49 * 3600)
    shelf.api.drop_after_storing("editMessageMedia", times=1)
    with pytest.raises(TemporaryError):
        await shelf.keep()
    assert await shelf.statuses() == ["sent", "sent"]

    assert (await shelf.another()())["replaced"] == 1

    assert [message.file_name for message in shelf.api.messages(shelf.chat_id)][:1] == ["removed.txt"]
    assert await shelf.statuses() == ["sent"]


async def test_a_predecessor_that_can_be_neither_deleted_nor_replaced_stays_on_record(shelf: Shelf) -> None:
    """Unpinned; it is not tried again."""
    await shelf.add("acme")
    await shelf.keep()
    await shelf.add("bolt")
    shelf.api.advance_clock(49 * 3600)
    shelf.api.refuse("editMessageMedia", times=1, status=400)

    assert await shelf.keep() == {"sent": 1, "pinned": 1, "deleted": 0, "replaced": 0, "remains": 1}

    assert await shelf.statuses() == ["remote_remains", "sent"]
    assert [message.pinned for message in shelf.there] == [False, True]
    assert (await shelf.keep())["remains"] == 0


async def test_a_bot_that_may_not_use_the_chat_gives_no_predecessor_up(shelf: Shelf) -> None:
    """It says nothing of the document: when the bot is back it is replaced."""
    await shelf.add("acme")
    await shelf.keep()
    await shelf.add("bolt")
    shelf.api.advance_clock(49 * 3600)
    shelf.api.refuse("editMessageMedia", times=1, status=403)
    with pytest.raises(PermanentError):
        await shelf.keep()

    assert (await shelf.keep())["replaced"] == 1


async def test_a_newer_pin_of_a_person_is_overcome(shelf: Shelf) -> None:
    """The chat shows the pin that was sent last, so the catalogue is sent again; once."""
    await shelf.add("acme")
    await shelf.keep()
    await shelf.send_pinned("note.txt")

    assert await shelf.keep() == {"sent": 1, "pinned": 1, "deleted": 1, "replaced": 0, "remains": 0}
    assert await shelf.projects() == ["acme"]
    assert (await shelf.keep())["sent"] == 0


async def test_a_catalogue_that_a_person_unpinned_is_pinned_again(shelf: Shelf) -> None:
    """Without being sent again."""
    await shelf.add("acme")
    await shelf.keep()
    await shelf.keep.pins.unpin(shelf.chat_id, shelf.there[0].message_id)

    assert await shelf.keep() == {"sent": 0, "pinned": 1, "deleted": 0, "replaced": 0, "remains": 0}
    assert await shelf.projects() == ["acme"]


async def test_two_at_once_leave_one(shelf: Shelf) -> None:
    """Though a duty has one leader: a frozen one wakes after it was succeeded."""
    await shelf.add("acme")
    await asyncio.gather(shelf.keep(), shelf.another()(), shelf.another()(), return_exceptions=True)
    await shelf.keep()

    assert await shelf.projects() == ["acme"]
    assert len(shelf.there) == 1


async def test_one_that_comes_late_is_removed(shelf: Shelf) -> None:
    """A sender that hung, and ends after its successor: the higher revision is the current one."""
    await shelf.add("acme")
    shelf.api.hold_after("sendDocument", 0)
    late = asyncio.create_task(shelf.keep())
    await shelf.held(1)
    await shelf.add("bolt")
    early = asyncio.create_task(shelf.another()())
    await shelf.held(2)
    shelf.api.release()
    await asyncio.gather(late, early, return_exceptions=True)
    await shelf.keep()

    assert await shelf.projects() == ["acme", "bolt"]
    assert (len(shelf.there), await shelf.statuses()) == (1, ["sent"])


async def test_where_the_bot_may_not_pin_it_is_said_once(shelf: Shelf) -> None:
    """The catalogue is kept true all the same, and its file id, which finds it, is in the log."""
    await shelf.add("acme")
    shelf.api.refuse("pinChatMessage", times=3, status=400)
    with capture_logs() as logs:
        await shelf.keep()
        await shelf.keep()
        await shelf.add("bolt")
        await shelf.keep()

    assert [log["event"] for log in logs].count("the catalogue is not pinned") == 1
    assert REGISTRY.get_sample_value("pgferry_catalogue_pinned") == 0
    assert len(shelf.there) == 1
    sent = [log for log in logs if log["event"] == "catalogue sent"][-1]
    catalogue = await read_catalogue(shelf.telegram, sent["file_id"], SIGNER)
    assert [entry.project_id for entry in catalogue.entries] == ["acme", "bolt"]


async def test_a_pinned_predecessor_stays_while_the_new_one_may_not_be_pinned(shelf: Shelf) -> None:
    """An old list is better than none."""
    await shelf.add("acme")
    await shelf.keep()
    await shelf.add("bolt")
    shelf.api.refuse("pinChatMessage", times=1, status=400)
    await shelf.keep()
    assert await shelf.projects() == ["acme"]

    await shelf.keep()

    assert await shelf.projects() == ["acme", "bolt"]
    assert len(shelf.there) == 1


async def test_a_control_plane_that_was_lost_does_not_hide_what_the_chat_knows(shelf: Shelf) -> None:
    """Until the backups are known again; then the old catalogue is replaced like any other."""
    lost = await shelf.add("acme")
    await shelf.keep()
    await shelf.owner.execute("DELETE FROM control_plane.catalogues")
    await shelf.owner.execute("UPDATE control_plane.backups SET id = $1", uuid4())
    with pytest.raises(PermanentError, match="pgferry catalogue rebuild"):
        await shelf.keep()
    assert [entry.backup_id for entry in (await shelf.pinned()).entries] == [lost]

    await shelf.owner.execute("UPDATE control_plane.backups SET id = $1", lost)
    await shelf.add("bolt")
    await shelf.keep()

    assert await shelf.projects() == ["acme", "bolt"]
    assert ((await shelf.pinned()).revision, len(shelf.there)) == (2, 1)


async def test_somebody_elses_catalogue_is_no_ones_business(shelf: Shelf) -> None:
    """A pinned document with such a name that our keys did not sign is a pin like any other."""
    await shelf.send_pinned("x.catalogue")
    await shelf.add("acme")

    await shelf.keep()

    assert await shelf.projects() == ["acme"]


async def test_a_round_that_fails_has_a_name(shelf: Shelf) -> None:
    """The reconciler tells a Failure in a sentence, anything else as a fault of ours."""
    await shelf.add("acme")
    shelf.api.refuse("getChat", times=1, status=403)
    with pytest.raises(Failure):
        await shelf.keep()


def test_an_altered_or_foreign_document_is_refused() -> None:
    """Whatever it is: cut, changed, signed by another key, signed for another purpose, or no gzip at all."""
    catalogue = Catalogue(bot_id=1, revision=1, made_at=CREATED, entries=())
    content = encoded(catalogue, SIGNER)
    assert decoded(content, SIGNER) == catalogue

    others = [Signer.of(["another key of at least 32 characters!!"], purpose=CATALOGUE)]
    others.append(Signer.of(["a signing key of at least 32 characters"], purpose=MANIFEST))
    forged = [encoded(catalogue, other) for other in others]
    cut = [content[:size] for size in range(0, len(content), 7)]
    for document in (*forged, *cut, content + b"x", b"[]", json.dumps({}).encode()):
        with pytest.raises(NotAuthentic):
            decoded(document, SIGNER)


def test_a_hundred_backups_are_small() -> None:
    """So that tens of thousands fit into what a bot gets back."""
    entry = {
        "project_id": "acme",
        "type": "database",
        "size_bytes": 12345678,
        "created_at": CREATED,
        "expires_at": None,
        "chat_id": -1001234567890,
    }
    entries = [
        {
            **entry,
            "backup_id": uuid4(),
            "message_id": number + 1,
            "file_id": f"BQAC{uuid4().hex}{uuid4().hex}",
            "sha256": uuid4().hex * 2,
        }
        for number in range(100)
    ]
    catalogue = Catalogue.model_validate({"bot_id": 1, "revision": 1, "made_at": CREATED, "entries": entries})

    assert len(encoded(catalogue, SIGNER)) < 100 * 260


async def test_nothing_lies_on_the_disk_while_it_is_sent(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is killed then leaves no file that nobody would remove."""
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    await shelf.add("acme")
    shelf.api.hold_after("sendDocument", 0)
    sending = asyncio.create_task(shelf.keep())

    async def is_held() -> bool:
        return shelf.api.held("sendDocument") == 1

    await eventually(is_held)
    left = list(temporary.iterdir())
    shelf.api.release()
    await sending

    assert left == []
