"""Errors that say what to do next, not where they came from.

    Failure
    ├── PermanentError      trying again cannot help
    │   └── AttemptsExhausted   workers died at each allowed attempt
    ├── TemporaryError      may pass: try again later, at the cost of an attempt
    │   └── DumpLost        the spool no longer has the dump: make it again
    └── Unavailable         a dependency is down: hand the job back, at no cost
    LeaseLost               another worker owns the job, or it is to be cancelled: stop, delete output,
                            change nothing

Adapters translate at the edge and keep the cause (`raise … from error`); `verdict` alone decides
what follows.
"""


class Failure(Exception):
    """A job's step did not succeed; `code` is stable and public, the text is one sentence for people."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


class PermanentError(Failure):
    """Trying again cannot help."""


class AttemptsExhausted(PermanentError):
    """The last allowed attempt ended without a word, and so its worker, too."""

    def __init__(self, attempts: int) -> None:
        super().__init__(
            "attempts_exhausted", f"{attempts} attempts ended without a result: their workers died."
        )


class TemporaryError(Failure):
    """May pass. `retry_after` (seconds) is the least wait the other side asked for."""

    def __init__(self, code: str, sentence: str, *, retry_after: float | None = None) -> None:
        super().__init__(code, sentence)
        self.retry_after = retry_after


class DumpLost(TemporaryError):
    """Parts are missing from the spool or were altered there: the job begins again at the dump."""


class Unavailable(Failure):
    """A dependency (`name`) is not reachable, or of no use to any job: the job goes back without cost."""

    def __init__(self, name: str, sentence: str, *, code: str | None = None) -> None:
        super().__init__(code or f"{name}_unavailable", sentence)
        self.name = name


class LeaseLost(Exception):
    """The fence has moved on, the lease has run out or a cancel was asked for: this worker may change
    nothing more, except that a cancel that was asked for is carried out by it.
    """


class Unreadable(Exception):
    """A message that cannot be understood; `reason` is a stable code, the text says what is wrong."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason
