import logging
import threading

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from consilience import outlook
from consilience.outlook import Outlook, Relay, read_times, say_roughly


class Run:
    """A run as Snakemake logs it, at times of our choosing."""

    def __init__(self, folder, **steps):
        self.now, self.said, self.done = 1000.0, [], 0
        self.outlook = Outlook(self.said.append, folder, ["all"], lambda: self.now)
        self.total = sum(steps.values()) + 1
        self.log(LogEvent.RUN_INFO, stats={**steps, "all": 1, "total": self.total})

    def log(self, event, **said):
        record = logging.makeLogRecord({"event": event, **said})
        self.outlook.handle(record)

    def begin(self):
        self.log(LogEvent.JOB_STARTED, jobs=[])

    def start(self, job, rule, message=None):
        self.log(LogEvent.JOB_INFO, jobid=job, rule_name=rule, rule_msg=message)

    def end(self, job):
        self.done += 1
        self.log(LogEvent.JOB_FINISHED, job_id=job)
        self.log(LogEvent.PROGRESS, done=self.done, total=self.total)


@pytest.fixture
def started():
    """Runs that are ended with the test: each has a thread that waits."""
    runs = []

    def start(folder, **steps):
        runs.append(Run(folder, **steps))
        runs[-1].begin()
        return runs[-1]

    yield start
    for run in runs:
        run.outlook.close()


def test_the_time_left_is_that_of_steps_like_those_that_ended(started, tmp_path):
    run = started(tmp_path, paint=4)
    run.start(1, "paint", "Paint it blue")
    run.now += 120
    run.start(2, "paint", "Paint it red")
    run.end(1)
    assert run.said == ["About 6 min left; running: Paint it red (0 s)"]


def test_as_many_steps_run_side_by_side_as_did_so_far(started, tmp_path):
    run = started(tmp_path, paint=6)
    run.start(1, "paint")
    run.start(2, "paint")
    run.now += 120
    run.end(1)
    run.end(2)
    assert run.outlook.estimate() == (240, 0)


def test_a_step_that_runs_is_counted_for_what_it_still_takes(started, tmp_path):
    run = started(tmp_path, paint=2)
    run.start(1, "paint")
    run.now += 100
    run.end(1)
    run.start(2, "paint")
    run.now += 30
    assert run.outlook.estimate() == (70, 0)
    run.now += 300  # longer than expected: any moment now
    assert run.outlook.estimate() == (0, 0)


def test_the_last_long_step_cannot_be_shared(started, tmp_path):
    (tmp_path / "hang.tsv").write_text("s\tmax_rss\n598\t1\n")
    run = started(tmp_path, paint=4, hang=1)
    for job in range(4):
        run.start(job, "paint")
    run.now += 10
    for job in range(4):
        run.end(job)
    assert run.outlook.estimate() == (600, 0)


def test_a_rule_that_never_ran_is_guessed_and_said_to_be(started, tmp_path):
    run = started(tmp_path, paint=1, hang=1, sell=3)
    run.start(1, "paint")
    run.now += 60
    run.end(1)
    assert run.outlook.estimate() == (240, 2)
    assert run.said == ["About 4 min left (a guess: 2 kinds of step never ran before)"]


def test_benchmarks_of_earlier_runs_are_a_first_guess(started, tmp_path):
    (tmp_path / "paint-blue-0.tsv").write_text("s\th:m:s\n10.0\t0:00:10\n")
    (tmp_path / "paint-red-0.tsv").write_text("s\th:m:s\n20.0\t0:00:20\n")
    (tmp_path / "hang.tsv").write_text("nonsense")
    (tmp_path / "other.tsv").write_text("s\n99\n")
    assert read_times(tmp_path, {"paint": 2, "hang": 1}) == {"paint": outlook.START + 15}
    assert read_times(tmp_path / "nowhere", {"paint": 2}) == {}
    run = started(tmp_path, paint=2)
    assert run.outlook.estimate() == (2 * (outlook.START + 15), 0)


def test_nothing_is_known_before_the_first_step_ends(started, tmp_path):
    run = started(tmp_path, paint=2)
    run.start(1, "paint", "Paint it blue")
    run.now += 90
    assert run.outlook.describe() == "Running: Paint it blue (1 min 30 s)"


def test_steps_that_end_fast_are_not_all_said(started, tmp_path):
    run = started(tmp_path, paint=100)
    for job in range(100):
        run.start(job, "paint")
        run.now += 1
        run.end(job)
    assert len(run.said) == 10


def test_the_last_step_ends_in_silence(started, tmp_path):
    run = started(tmp_path, paint=1)
    run.start(1, "paint")
    run.now += 60
    run.end(1)
    run.said.clear()
    run.start(0, "all")
    run.now += 60
    run.end(0)
    assert run.said == []


def test_many_steps_that_run_are_not_all_named(started, tmp_path):
    run = started(tmp_path, paint=9)
    for job in range(9):
        run.now += 1
        run.start(job, "paint", f"Paint {job}")
    assert run.outlook.describe() == (
        "Running: Paint 0 (8 s), Paint 1 (7 s), Paint 2 (6 s), 6 more"
    )


def test_a_failed_step_is_no_example_and_may_come_again(started, tmp_path):
    run = started(tmp_path, paint=2)
    run.start(1, "paint")
    run.now += 50
    run.log(LogEvent.JOB_ERROR, jobid=1)
    assert run.outlook.estimate() == (None, 0)
    run.start(1, "paint")
    run.now += 20
    run.end(1)
    assert run.outlook.waiting["paint"] == 1
    assert run.outlook.took == {"paint": [20]}


def test_a_long_silence_is_broken_once(started, tmp_path):
    run = started(tmp_path, paint=2)
    run.outlook.over.set()  # the thread's part is ours
    run.start(1, "paint", "Paint it blue")
    for _ in range(60):
        run.now += 1
        run.outlook.remind()
    assert run.said == ["Running: Paint it blue (1 min)"]


def test_someone_watches_while_a_run_goes_on(started, tmp_path, monkeypatch):
    run, heard = started(tmp_path, paint=2), threading.Event()
    monkeypatch.setattr(run.outlook, "say", lambda line: heard.set())
    run.start(1, "paint")
    run.now += outlook.SILENCE
    assert heard.wait(60)


def test_a_dry_run_is_silent_and_has_no_thread(tmp_path):
    before = threading.active_count()
    run = Run(tmp_path, paint=1)
    run.start(1, "paint")
    run.now += 100
    assert threading.active_count() == before
    assert run.said == []


def test_an_event_of_another_shape_ends_no_run(started, tmp_path, capsys):
    run = started(tmp_path, paint=1)
    run.log(LogEvent.JOB_FINISHED)
    assert "AttributeError" in capsys.readouterr().err
    run.log(None)
    run.log("no event of ours")
    run.start(1, "paint")
    assert run.outlook.describe() == "Running: paint (0 s)"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "10 s"), (44, "40 s"), (100, "2 min"), (3500, "58 min"), (12500, "3 h 30 min")],
)
def test_a_guess_is_said_roughly(seconds, said):
    assert say_roughly(seconds) == said


def test_the_librarys_messages_are_handed_on_at_their_level(caplog):
    caplog.set_level(logging.INFO, "elsewhere")
    library = logging.Logger("consilience.index")
    library.addHandler(Relay(logging.getLogger("elsewhere")))
    library.warning("%d pictures", 3)
    library.info("more")
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", "3 pictures"),
        ("INFO", "more"),
    ]
