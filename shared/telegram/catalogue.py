"""Brings a catalogue back from the chat: for the uploader, which replaces it, and for `pgferry catalogue`."""

import asyncio
import tempfile
from pathlib import Path

from shared.contracts.catalogue import Catalogue
from shared.runtime.catalogue_document import decoded
from shared.runtime.signing import Signer
from shared.telegram.client import TelegramChatStore


async def read_catalogue(telegram: TelegramChatStore, file_id: str, signer: Signer) -> Catalogue:
    """Raises NotAuthentic for what none of our keys signed as a catalogue, or a Failure of the download."""
    with tempfile.TemporaryDirectory(prefix="pgferry-") as directory:
        target = Path(directory, "catalogue")
        await telegram.fetch(file_id, target)
        return await asyncio.to_thread(lambda: decoded(target.read_bytes(), signer))
