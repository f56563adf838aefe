import pytest

from consilience import progress, steps
from consilience.progress import Progress, say_duration, track


class Clock:
    """Seconds that pass only when they are told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def lines(monkeypatch):
    """What is said, as it is said."""
    said = []
    monkeypatch.setattr(progress.log, "info", said.append)
    return said


def work(count, seconds):
    """Go through ``count`` pictures that take ``seconds`` each."""
    clock = Clock()
    counted = Progress(count, "pictures", clock)
    for _ in range(count):
        clock.now += seconds
        counted.advance()
    counted.finish()


def test_a_line_says_done_of_all_the_rate_and_the_time_left(lines):
    clock = Clock()
    counted = Progress(1000, "pictures", clock)
    clock.now = 20.0
    counted.advance(250)
    assert lines == [
        "[#####...............] 250 of 1,000 pictures (25%), 12.5 a second, 1 min left"
    ]
    clock.now = 40.0
    counted.advance(250)
    assert lines[1].startswith("[##########..........] 500 of 1,000 pictures (50%)")


def test_slow_items_are_said_in_seconds_each(lines):
    clock = Clock()
    counted = Progress(4, "pictures", clock)
    clock.now = 90.0
    counted.advance()
    assert lines == ["[#####...............] 1 of 4 pictures (25%), 90.0 s each, 4 min 30 s left"]


def test_a_short_step_says_nothing(lines):
    work(1000, 0.009)
    assert lines == []


def test_a_step_of_a_million_pictures_says_little(lines):
    work(1_280_000, 0.01)  # three and a half hours
    assert 20 < len(lines) < 80
    assert lines[-1] == "1,280,000 pictures in 3 h 33 min"


def test_a_step_of_days_is_heard_of_every_five_minutes(lines):
    work(24 * 60, 60.0)
    assert 24 * 12 < len(lines) < 24 * 12 + 40


def test_what_has_no_known_number_is_counted(lines):
    clock = Clock()
    counted = Progress(None, "pictures", clock)
    clock.now = 10.0
    counted.advance(50)
    assert lines == ["50 pictures, 5.0 a second"]


def test_items_go_through_as_they_are(lines):
    assert list(track([3, 1, 2], "things")) == [3, 1, 2]
    assert list(track(iter("ab"), "things", 2)) == ["a", "b"]
    assert list(track([], "things")) == []
    assert lines == []


@pytest.fixture
def every_item_says(monkeypatch):
    """Let every item write its line, however long it took."""
    monkeypatch.setattr(progress, "FIRST", 0.0)
    monkeypatch.setattr(progress, "GROWTH", 0.0)


@pytest.mark.usefixtures("every_item_says")
def test_an_item_counts_when_it_is_done(lines):
    seen = []
    for item in track(["a", "b", "c", "d"], "things"):
        seen.append((item, len(lines)))
    assert seen == [("a", 0), ("b", 1), ("c", 2), ("d", 3)]
    assert [line.split("]")[1][:9] for line in lines[:3]] == [" 1 of 4 t", " 2 of 4 t", " 3 of 4 t"]
    assert lines[3].startswith("4 things in")


@pytest.mark.usefixtures("every_item_says")
def test_lines_reach_the_log_of_the_step(tmp_path):
    with steps.logged(tmp_path / "log"):
        list(track(range(2), "pictures"))
    first, *_ = (tmp_path / "log").read_text().splitlines()
    assert "] [##########..........] 1 of 2 pictures (50%)" in first


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (3599.6, "1 h"),
        (2 * 3600 + 299, "2 h 5 min"),
        (86399, "24 h"),
        (3 * 86400 + 4 * 3600, "3 d 4 h"),
    ],
)
def test_durations(seconds, said):
    assert say_duration(seconds) == said
