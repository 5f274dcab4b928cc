"""What a run of seeds says: a line for each, a summary of all, and all of it as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox.chaos.fault import Fault
    from sandbox.chaos.seed import Outcome

HEADER = "   seed  jobs  done fail canc  faults retries takeovers  dead waste  seconds  violations"


def line(outcome: Outcome) -> str:
    jobs = outcome.jobs
    return (
        f"{outcome.seed:>7} {jobs.total():>5} {jobs['completed']:>5} {jobs['failed']:>4}"
        f" {jobs['cancelled']:>4} {outcome.faults.total():>7} {outcome.retries:>7} {outcome.takeovers:>9}"
        f" {outcome.dead_letters:>5} {outcome.waste:>5} {outcome.seconds:>8.1f} {len(outcome.violations):>11}"
    )


@dataclass(slots=True)
class Summary:
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def violations(self) -> int:
        return sum(len(outcome.violations) for outcome in self.outcomes)

    def faults(self) -> Counter[Fault]:
        return sum((outcome.faults for outcome in self.outcomes), Counter())

    def jobs(self) -> Counter[str]:
        return sum((outcome.jobs for outcome in self.outcomes), Counter())

    def lines(self) -> list[str]:
        jobs = self.jobs()
        kinds = [f"  {fault.value:<22} {count:>5}" for fault, count in self.faults().most_common()]
        return [
            f"{len(self.outcomes)} seeds, {self.violations} violations",
            f"{jobs.total()} jobs: {jobs['completed']} completed, {jobs['failed']} failed, "
            f"{jobs['cancelled']} cancelled",
            f"{self._sum('retries')} retries, {self._sum('takeovers')} takeovers, "
            f"{self._sum('dead_letters')} dead letters, {self._sum('waste')} documents of waste",
            f"{self.faults().total()} faults:",
            *kinds,
        ]

    def as_json(self) -> dict[str, object]:
        return {
            "seeds": [_as_json(outcome) for outcome in self.outcomes],
            "violations": self.violations,
            "jobs": self.jobs(),
            "faults": {fault.value: count for fault, count in sorted(self.faults().items())},
            **{name: self._sum(name) for name in ("retries", "takeovers", "dead_letters", "waste")},
        }

    def _sum(self, name: str) -> int:
        return sum(getattr(outcome, name) for outcome in self.outcomes)


def _as_json(outcome: Outcome) -> dict[str, object]:
    return {
        "seed": outcome.seed,
        "jobs": outcome.jobs,
        "faults": {fault.value: count for fault, count in sorted(outcome.faults.items())},
        "retries": outcome.retries,
        "takeovers": outcome.takeovers,
        "dead_letters": outcome.dead_letters,
        "waste": outcome.waste,
        "seconds": round(outcome.seconds, 1),
        "violations": [str(violation) for violation in outcome.violations],
    }
