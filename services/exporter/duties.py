"""What exporters put right beside what every service does: history, the spool, the tenants' server."""

from services.exporter import sessions
from services.exporter.sessions import OldSessions
from services.exporter.settings import ExporterSettings
from shared.runtime.reconciler import Duty
from shared.storage import sweeper
from shared.storage.database import Database
from shared.storage.retention import retention_of
from shared.storage.spool import Spool
from shared.storage.sweeper import Sweeper

_HOUR_SECONDS = 3600.0


def own_duties(database: Database, spool: Spool, settings: ExporterSettings) -> tuple[Duty, ...]:
    sweep = Sweeper(database, spool, settings.keep_failed_hours * _HOUR_SECONDS)
    end_sessions = OldSessions(database, settings.tenants, settings.answer_seconds)
    return (
        retention_of(database, settings),
        Duty("spool", sweeper.KINDS, sweep),
        Duty("sessions", sessions.KINDS, end_sessions),
    )
