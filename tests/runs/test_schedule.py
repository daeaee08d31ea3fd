"""Runs side by side: order, places, needs, and interruptions. No process is started."""

import threading
import time

import pytest

from sharp_plugins.runs import schedule
from sharp_plugins.runs.methods import find_method
from sharp_plugins.runs.processes import Stop
from sharp_plugins.runs.record import Record
from sharp_plugins.runs.schedule import Slot, gpus, side_by_side, slots
from sharp_plugins.runs.store import RESULT, Run


def make(tmp_path, seed, needs=None):
    directory = tmp_path / str(seed)
    directory.mkdir(exist_ok=True)
    return Run(Record("made-up", "RTE", "sam", seed, {}), find_method("sam"), directory, {}, {}, needs)


class Work:
    """Finishes runs, and remembers which were at work together, and where."""

    def __init__(self, failing=(), seconds=0.05, meeting=()):
        self.failing, self.seconds, self.meeting = failing, seconds, meeting
        self.met = threading.Barrier(max(len(meeting), 1), timeout=60)  # where these seeds' runs wait for each other
        self.active, self.most, self.log, self.lock = [], 0, [], threading.Lock()

    def __call__(self, run, slot):
        with self.lock:
            assert slot not in [other for _, other in self.active]
            self.active.append((run.record.seed, slot))
            self.most = max(self.most, len(self.active))
            self.log.append((run.record.seed, slot.device))
        time.sleep(self.seconds)
        if run.record.seed in self.meeting:
            self.met.wait()
        if run.record.seed not in self.failing:
            (run.directory / RESULT).touch()
        with self.lock:
            self.active.remove((run.record.seed, slot))


def test_places(monkeypatch):
    monkeypatch.setattr(schedule, "usable_cores", lambda: range(8))
    assert slots(None, None) == [Slot(None, None)] and slots(1, None) == [Slot(None, None)]
    assert slots(3, None) == [Slot(None, 2)] * 3 and slots(None, "0,3") == [Slot("0", 4), Slot("3", 4)]
    assert [slot.device for slot in slots(4, "0,1")] == ["0", "1", "0", "1"]
    assert slots(99, None)[0].share == 1
    for jobs, devices, words in ((0, None, "--jobs 0"), (1, "0,1", "--jobs 1: there are 2"), (None, "0,0", "--devices 0,0")):
        with pytest.raises(ValueError, match=words):
            slots(jobs, devices)
    with pytest.raises(ValueError, match="--devices"):
        slots(None, "")


def test_one_after_the_other_in_order(tmp_path):
    work = Work(seconds=0)
    side_by_side([make(tmp_path, seed) for seed in (3, 1, 2)], work, [Slot()], Stop())
    assert [seed for seed, _ in work.log] == [3, 1, 2] and work.most == 1


def test_each_place_has_one_run_at_a_time(tmp_path):
    work = Work(seconds=0, meeting=(0, 1, 2))
    side_by_side([make(tmp_path, seed) for seed in range(7)], work, [Slot("0"), Slot("1"), Slot("2")], Stop())
    assert work.most == 3 and len(work.log) == 7 and {device for _, device in work.log} == {"0", "1", "2"}


def test_a_run_waits_for_the_one_that_it_needs(tmp_path):
    base = make(tmp_path, 1)
    runs = [make(tmp_path, 2, base), make(tmp_path, 3), base]
    work = Work()
    side_by_side(runs, work, [Slot("0"), Slot("1")], Stop())
    assert [seed for seed, _ in work.log] == [3, 1, 2]


def test_one_whose_need_failed_is_told_and_not_begun(tmp_path):
    base = make(tmp_path, 1)
    second = make(tmp_path, 2, base)
    told, work = [], Work(failing=[1])
    side_by_side([make(tmp_path, 3, second), second, base, make(tmp_path, 4)], work, [Slot()], Stop(), told.append)
    assert sorted(seed for seed, _ in work.log) == [1, 4] and sorted(run.record.seed for run in told) == [2, 3]


def test_an_interruption_stops_all(tmp_path):
    stop, ended, begun = Stop(), [], threading.Barrier(3, timeout=60)

    def work(run, slot):
        begun.wait()
        if run.record.seed == 1:
            raise KeyboardInterrupt
        stop.wait(30)
        ended.append(run.record.seed)

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        side_by_side([make(tmp_path, seed) for seed in (1, 2, 3, 4, 5)], work, [Slot("0"), Slot("1"), Slot("2")], stop)
    assert sorted(ended) == [2, 3] and time.monotonic() - start < 10


def test_a_second_one_has_no_patience():
    stop = Stop()
    stop.ask()
    assert stop.patience > 0
    stop.ask()
    assert stop.patience == 0


def test_devices_are_those_that_the_user_left_visible():
    there = gpus(2, {"CUDA_VISIBLE_DEVICES": "4, GPU-7a"})
    assert [slot.device for slot in slots(None, "1,0", there)] == ["GPU-7a", "4"]
    assert gpus(3, {}) == ["0", "1", "2"] and gpus(1, {"CUDA_VISIBLE_DEVICES": "5,-1,3"}) == ["5"]
    for devices, number in (("2", "2"), ("0,x", "x"), ("-1", "-1")):
        with pytest.raises(ValueError, match=f"--devices {devices}: there is no GPU {number}; they are 0,1"):
            slots(None, devices, there)


def test_others_begin_before_a_report(tmp_path):
    """Two places: the one that is free is given to the next run first."""
    began, reported = {n: threading.Event() for n in (1, 2, 3)}, threading.Event()
    seen = []

    def work(run, slot):
        began[run.record.seed].set()
        if run.record.seed == 2:  # it is at work until the first report is made
            assert reported.wait(20)
        (run.directory / RESULT).touch()

    def report():
        seen.append(began[3].wait(20))
        reported.set()

    side_by_side([make(tmp_path, n) for n in (1, 2, 3)], work, [Slot(None, 1), Slot(None, 1)], Stop(), after=report)
    assert seen[0]


def test_a_run_that_is_alone_begins_when_nothing_else_is_at_work(tmp_path):
    """It takes as many threads as it finds free cores."""
    events = []

    def work(run, slot):
        events.append(run.record.seed)
        (run.directory / RESULT).touch()

    def report():
        time.sleep(0.2)  # a run that was begun before would say so before the report does
        events.append("report")

    side_by_side([make(tmp_path, n) for n in (1, 2, 3)], work, [Slot()], Stop(), after=report)
    assert events == [1, "report", 2, "report", 3]
