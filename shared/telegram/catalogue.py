"""Brings a catalogue back from the chat: for the uploader, which replaces it, and for `pgferry catalogue`."""

import asyncio

from shared.contracts.catalogue import Catalogue
from shared.runtime.catalogue_document import decoded
from shared.runtime.signing import Signer
from shared.telegram.client import TelegramChatStore


async def read_catalogue(telegram: TelegramChatStore, file_id: str, signer: Signer) -> Catalogue:
    """Raises NotAuthentic for what none of our keys signed as a catalogue, or a Failure of the download."""
    content = await telegram.fetch_bytes(file_id)
    return await asyncio.to_thread(decoded, content, signer)
