"""Settings that exporter and uploader share; see `shared.runtime.settings` for how they are read."""

from pydantic import Field

from shared.runtime.settings import WorkerSettings


class WorkerProcessSettings(WorkerSettings):
    """`slots` and `admin_port` have a name or a default of each service's own."""

    spool_url: str = Field(alias="SPOOL_URL", pattern=r"^file:///")
    """One folder that all exporters and uploaders share, like file:///var/spool/pgferry."""

    slots: int
    admin_port: int
