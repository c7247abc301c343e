"""How far a build is, and how long it has to go: a bar on a terminal, a line for each class elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sparks_jax.lens.costs import Clock, duration

FORM = "{desc} |{bar}| {percentage:3.0f} %"


class Progress:
    """Work done, in seconds of the forecast; what is left is scaled by how wrong that was so far."""

    def __init__(self, total: float, clock: Clock, say: Callable[[str], None] | None, bar: Any):
        """Begin at nothing of `total`; `say` takes lines, None for none."""
        self.total, self.clock, self.say, self.bar = max(total, 1e-9), clock, say, bar
        self.done, self.spent = 0.0, sum(clock.seconds.values())

    def advance(self, seconds: float) -> None:
        """So many seconds of the forecast are done."""
        step = min(seconds, self.total - self.done)
        self.done += step
        self.bar.update(100 * step / self.total)
        self.bar.set_description_str(f"about {duration(self.left())} left", refresh=False)

    def left(self) -> float:
        """Seconds to go."""
        took = sum(self.clock.seconds.values()) - self.spent
        slower = took / self.done if self.done > 0.05 * self.total else 1.0
        return (self.total - self.done) * slower

    def finished(self, name: str, number: int, total: int) -> None:
        """A class is done."""
        if self.say is not None:
            self.say(f"{number} of {total} classes, {name}: about {duration(self.left())} left")


@contextmanager
def progress(total: float, clock: Clock, say: Callable[[str], None], *, quiet: bool) -> Iterator[Progress]:
    """Show progress while inside.

    Args:
        total: Seconds of the forecast.
        clock: Of what happens.
        say: Takes lines where there is no terminal.
        quiet: Show nothing.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        raise ImportError("the progress bar needs tqdm: pip install 'sparks-jax[demo]'") from None
    shown = sys.stderr.isatty() and not quiet
    with tqdm(total=100, disable=not shown, bar_format=FORM, leave=False) as bar:
        yield Progress(total, clock, None if quiet or shown else say, bar)
