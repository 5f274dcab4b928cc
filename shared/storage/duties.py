"""What every service puts right in the control plane: makes the `Reconciler` of a composition root."""

from shared.runtime.reconciler import Duty, Reconciler
from shared.runtime.settings import ServiceSettings
from shared.storage import left_over, reaper
from shared.storage.database import Database
from shared.storage.leadership import Leadership
from shared.storage.left_over import LeftOver
from shared.storage.reaper import Reaper


def reconciler_of(database: Database, settings: ServiceSettings, *own: Duty) -> Reconciler:
    """With the duties that any service may do, and the service's own."""
    jobs = Reaper(database, settings.attempts, settings.reconcile_grace_seconds)
    outbox = LeftOver(database, settings.reconcile_grace_seconds)
    return Reconciler(
        (Duty("jobs", reaper.KINDS, jobs), Duty("outbox", left_over.KINDS, outbox), *own),
        Leadership(settings.database_url),
        settings.reconcile_seconds,
    )
