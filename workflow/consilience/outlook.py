"""How much longer a whole run takes, and what runs meanwhile: said beside Snakemake's own count.

Snakemake says after each step how many are done of all. This listens to what it logs and adds the
time that is left, once something is known of it; and where no step ends for a while it says what is
running, so that a run of hours is never silent. Plain lines, in a terminal as in a file. No result
depends on any of this.
"""

from __future__ import annotations

import csv
import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from .progress import say_duration

BETWEEN = 10.0
"""Seconds between two lines at least, however fast steps end."""
SILENCE = 60.0
"""Seconds until what is running is said again where no step ends."""
START = 2.0
"""Seconds that starting a step takes, which its benchmark does not count."""

_NAMED = 3


@dataclass(frozen=True)
class _Running:
    rule: str
    message: str
    since: float


class Outlook(logging.Handler):
    """Attached to Snakemake's logger, says now and then how much longer the run takes.

    A rule's steps are taken to last as long as those that ended in this run did, or where there is
    none, as its benchmarks of earlier runs say; of rules that never ran, as long as the mean of all
    others. As many are taken to run side by side as did so far.

    Parameters
    ----------
    say
        Called with a line.
    times
        Folder of the benchmarks, ``<rule>.tsv`` and ``<rule>-<wildcards>.tsv``.
    targets
        Rules that only name what is wanted, and take no time.
    clock
        Returns seconds.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        times: str | Path,
        targets: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.say, self.times, self.clock = say, Path(times), clock
        self.targets = {*targets, "total"}
        self.began = self.said = 0.0
        # Steps not begun by rule, those that run by number, and how long those that ended took.
        self.waiting: Counter[str] = Counter()
        self.running: dict[int, _Running] = {}
        self.took: dict[str, list[float]] = defaultdict(list)
        self.earlier: dict[str, float] = {}
        self.over = threading.Event()
        self.watching = False
        self._by_event = {
            "RUN_INFO": self._plan,
            "JOB_STARTED": self._begin,
            "JOB_INFO": self._start,
            "JOB_FINISHED": lambda record: self._end(record.job_id),
            "JOB_ERROR": lambda record: self._fail(record.jobid),
            "PROGRESS": self._report,
        }

    def emit(self, record: logging.LogRecord) -> None:
        """Take note of what Snakemake logs."""
        event = getattr(getattr(record, "event", None), "name", None)
        if event in self._by_event:
            try:
                self._by_event[event](record)
            except Exception:  # a run must not end for what is said about it
                self.handleError(record)

    def close(self) -> None:
        """Say no more."""
        self.over.set()
        super().close()

    def _plan(self, record: logging.LogRecord) -> None:
        self.waiting = Counter(record.stats)
        for name in self.targets:
            del self.waiting[name]

    def _begin(self, _record: logging.LogRecord) -> None:
        """Only a run that does something comes here; a dry run does not."""
        if not self.watching:
            self.watching = True
            self.began = self.said = self.clock()
            self.earlier = read_times(self.times, self.waiting)
            threading.Thread(target=self._watch, daemon=True).start()

    def _start(self, record: logging.LogRecord) -> None:
        if record.rule_name not in self.targets:
            message = record.rule_msg or record.rule_name
            self.running[record.jobid] = _Running(record.rule_name, message, self.clock())
            self.waiting[record.rule_name] -= 1

    def _end(self, job: int) -> None:
        if step := self.running.pop(job, None):
            self.took[step.rule].append(self.clock() - step.since)

    def _fail(self, job: int) -> None:
        if step := self.running.pop(job, None):
            self.waiting[step.rule] += 1  # it may be tried again

    def _report(self, record: logging.LogRecord) -> None:
        if record.done < record.total and self.clock() - self.said >= BETWEEN:
            self._say()

    def _watch(self) -> None:
        while not self.over.wait(1.0):
            self.remind()

    def remind(self) -> None:
        """Say what runs if nothing was said for long."""
        with self.lock:
            due = self.running and self.clock() - self.said >= SILENCE
            line = self.describe() if due else None
            if line:
                self.said = self.clock()
        # Not within the lock: whoever writes may wait for one that waits for this.
        if line:
            self.say(line)

    def _say(self) -> None:
        if line := self.describe():
            self.said = self.clock()
            self.say(line)

    def describe(self) -> str | None:
        """Say what is left and what runs; None where there is nothing to say."""
        parts = []
        left, unknown = self.estimate()
        if left is not None:
            kinds = "a kind" if unknown == 1 else f"{unknown} kinds"
            guess = f" (a guess: {kinds} of step never ran before)" if unknown else ""
            parts.append(f"about {say_roughly(left)} left{guess}")
        if self.running:
            now = self.clock()
            steps = sorted(self.running.values(), key=lambda step: step.since)
            named = [f"{step.message} ({say_duration(now - step.since)})" for step in steps]
            more = [f"{len(named) - _NAMED} more"] if len(named) > _NAMED else []
            parts.append(f"running: {', '.join(named[:_NAMED] + more)}")
        line = "; ".join(parts)
        return line[:1].upper() + line[1:] if line else None

    def estimate(self) -> tuple[float | None, int]:
        """Estimate the seconds that are left; None where no step of any rule ever ended.

        Returns
        -------
        tuple
            The seconds, and how many rules with steps left were guessed.
        """
        now = self.clock()
        known = self.earlier | {rule: mean(times) for rule, times in self.took.items()}
        if not known:
            return None, 0
        rules = {rule for rule, count in self.waiting.items() if count > 0}
        rules |= {step.rule for step in self.running.values()}
        usual = mean(known.values())
        expected = {rule: known.get(rule, usual) for rule in rules}
        rest = [max(expected[step.rule] - now + step.since, 0) for step in self.running.values()]
        rest += [expected[rule] for rule in rules if self.waiting[rule] > 0]
        work = sum(rest) + sum(
            (count - 1) * expected[rule] for rule, count in self.waiting.items() if count > 1
        )
        busy = sum(map(sum, self.took.values()))
        busy += sum(now - step.since for step in self.running.values())
        abreast = max(busy / max(now - self.began, 1e-9), 1.0)
        return max(work / abreast, max(rest, default=0.0)), len(rules - set(known))


def read_times(folder: Path, rules: Mapping[str, int]) -> dict[str, float]:
    """Read how long steps of each rule took the last time, from Snakemake's benchmarks.

    Parameters
    ----------
    folder
        Of the benchmarks; one that is not there, and files that are broken, are passed over.
    rules
        Names of the rules to read about.

    Returns
    -------
    dict
        Mean seconds by rule, those of rules only that have a benchmark.
    """
    found = defaultdict(list)
    for path in sorted(folder.glob("*.tsv")):
        rule = path.stem.partition("-")[0]
        if rule in rules:
            try:
                with open(path, newline="", encoding="utf-8") as file:
                    found[rule] += [float(row["s"]) for row in csv.DictReader(file, delimiter="\t")]
            except (OSError, KeyError, TypeError, ValueError):
                continue
    return {rule: START + mean(times) for rule, times in found.items() if times}


def say_roughly(seconds: float) -> str:
    """Say a duration that is only guessed: ``40 s``, ``7 min``, ``3 h 20 min``, ``2 d 4 h``."""
    for most, step in ((90, 10), (3600, 60), (86400, 600)):
        if seconds < most:
            return say_duration(max(1, round(seconds / step)) * step)
    return say_duration(round(seconds / 3600) * 3600)


class Relay(logging.Handler):
    """Hands the library's messages on to another logger."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__()
        self.logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a message on, at its own level."""
        self.logger.log(record.levelno, record.getMessage())
