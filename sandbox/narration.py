"""What the demo says: one line for each finished step, and a moving line for the step in work."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

_SENTENCE_WIDTH = 92


class Step:
    """The step in work; `says` becomes its line when it ends."""

    def __init__(self, progress: Progress, says: str) -> None:
        self._progress = progress
        self._task = progress.add_task(says, total=None)
        self.says = says

    def show(self, text: str, *, done: int | None = None, total: int | None = None) -> None:
        self._progress.update(self._task, description=text, completed=done, total=total)


class Narration:
    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)

    def line(self, text: str = "") -> None:
        self._console.print(text, markup=False)

    @contextmanager
    def step(self, says: str) -> Iterator[Step]:
        """Show the step while it runs; afterwards its line and how long it took."""
        started = time.monotonic()
        with Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        ) as progress:
            step = Step(progress, says)
            try:
                yield step
            except BaseException:
                self.line(f"  ✗ {step.says}")
                raise
        self.line(f"  ✓ {step.says:<{_SENTENCE_WIDTH}} {time.monotonic() - started:5.1f} s")
