"""`python -m sandbox.bot_api`: serves on 127.0.0.1 until SIGTERM or SIGINT.

Prints one JSON line, {"port": N}, when it listens.
"""

import argparse
import asyncio
import json
import signal
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Final

from aiohttp import web

from sandbox.bot_api.app import Server, bot_id_of, create_app
from sandbox.bot_api.inspection import add_inspection
from sandbox.bot_api.limits import Rules
from sandbox.bot_api.methods import Settings
from sandbox.bot_api.queues import Queues
from sandbox.bot_api.store import Store

_SHUTDOWN_SECONDS: Final = 0.2
"""For answers under way; calls that are held would wait for ever."""


def _token(text: str) -> tuple[str, int]:
    bot_id = bot_id_of(text)
    if bot_id is None:
        raise argparse.ArgumentTypeError("a token looks like 123456:secret")
    return text, bot_id


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sandbox.bot_api", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="where messages and files are kept")
    parser.add_argument("--token", type=_token, action="append", required=True, help="of a bot; repeatable")
    parser.add_argument(
        "--chat", type=int, action="append", required=True, help="id of a channel; repeatable"
    )
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--local", action="store_true", help="as a server of one's own with --local")
    rules = parser.add_argument_group("rules", Rules.__doc__)
    for rule in fields(Rules):
        kind = float if rule.type is float else int
        rules.add_argument(f"--{rule.name.replace('_', '-')}", type=kind, default=rule.default)
    return parser.parse_args()


async def _serve(settings: Settings, port: int) -> None:
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    with closing(Store(settings.directory)) as store:
        app = create_app(Server(settings, store, Queues(settings.rules, store.state.now)))
        add_inspection(app)
        # A client that goes away ends its call: nothing is stored for it.
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_SECONDS
        )
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
        await stop.wait()
        await runner.cleanup()


def main() -> None:
    arguments = _arguments()
    settings = Settings(
        directory=arguments.directory,
        tokens=dict(arguments.token),
        chats=frozenset(arguments.chat),
        rules=Rules(**{rule.name: getattr(arguments, rule.name) for rule in fields(Rules)}),
        local=arguments.local,
    )
    asyncio.run(_serve(settings, arguments.port))


if __name__ == "__main__":
    main()
