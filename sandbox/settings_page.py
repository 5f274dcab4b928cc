"""Writes docs/settings.md from the settings' own fields; `sandbox.generate` calls it."""

from collections.abc import Iterable

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from cli.settings import DevelopmentSettings
from services.exporter.settings import ExporterSettings
from services.gateway.settings import GatewaySettings
from services.uploader.settings import UploaderSettings
from shared.runtime.settings import Settings
from shared.runtime.store_settings import PostingSettings

CLASSES: dict[str, type[Settings]] = {
    "gateway": GatewaySettings,
    "exporter": ExporterSettings,
    "uploader": UploaderSettings,
    "pgferry backups send": PostingSettings,
    "pgferry token": DevelopmentSettings,
}

_HEAD = """\
# Settings

Read once, from the environment. Each `NAME` may instead be given as `NAME_FILE`, the path of a file that
holds the value; setting both is an error. All problems are printed at once, without values, and the exit
code is 2. Lists are separated by commas or spaces. Commands also read `DATABASE_URL`, `AMQP_URL` and what
they need of Telegram, as the services have it; `pgferry backups send` posts in the uploaders' lanes, so its
lane must be theirs. This page is generated: `python -m sandbox.generate`.

| name | read by | default | meaning |
|---|---|---|---|
"""


def page() -> str:
    """One row for each variable; a default that differs between services is named for each."""
    return _HEAD + "".join(f"{row}\n" for row in _rows())


def _rows() -> Iterable[str]:
    names: dict[str, dict[str, FieldInfo]] = {}
    for reader, settings in CLASSES.items():
        for field in settings.model_fields.values():
            names.setdefault(str(field.alias), {})[reader] = field
    for name, fields in sorted(names.items()):
        yield f"| `{name}` | {', '.join(fields)} | {_defaults(fields)} | {_meaning(name, fields)} |"


def _defaults(fields: dict[str, FieldInfo]) -> str:
    shown = {reader: _default(field) for reader, field in fields.items()}
    if len(set(shown.values())) == 1:
        return next(iter(shown.values()))
    return ", ".join(f"{text} ({reader})" for reader, text in shown.items())


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default in {None, "", ()}:
        return "-"
    return f"`{field.default}`"


def _meaning(name: str, fields: dict[str, FieldInfo]) -> str:
    texts = {field.description for field in fields.values()}
    if None in texts:
        raise ValueError(f"{name} has no docstring to show")
    secret = any(field.annotation is SecretStr for field in fields.values())
    sentences = " / ".join(sorted(" ".join(text.split()) for text in texts if text))
    return ("Secret. " if secret else "") + sentences.replace("|", "\\|")
