"""What becomes of jobs, in a pool whose places do as they are told."""

import errno
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import fake_batches
import fake_runner

from wnrl.runs import locked, write_json
from wnrl.runs.folder import crashes
from wnrl.study import RETURN, Arm, Study, Task, attempts
from wnrl.study.attempts import ATTEMPTS, carry_out, trained
from wnrl.study.execute import Job, noted

TRIALS = fake_runner.study_of("succeed", seeds=range(2)).trials()


class Pool:
    """Two places where jobs begin, and end as ``ending`` says, of a job and how often it began."""

    def __init__(self, ending):
        self.ending, self.running, self.starts, self.killed = ending, {}, [], []

    def has_room(self):
        return len(self.running) < 2

    def start(self, job):
        self.starts.append(job)
        self.running[len(self.starts)] = job
        return len(self.starts)

    def news(self):
        for place, job in list(self.running.items()):
            yield place, "progress", 0.0
            if ending := self.ending(job, self.starts.count(job)):
                del self.running[place]
                yield place, *ending

    def kill(self, place):
        self.killed.append(self.running.pop(place))

    def stop(self, may_wait):
        self.running = None


def ends(job, root=None):
    for trial in job.trials if root is not None else ():
        fake_runner.finish(trial, root / trial.folder)
    return "ended", ""


def kinds(events, trial):
    return [event.kind for event in events if event.trial == trial]


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(attempts, "PAUSE", 0.0)


def test_what_is_lost_is_tried_again_and_its_folder_says_why(tmp_path):
    def ending(job, number):
        return (
            ("lost", f"node {number} died")
            if job.trials[0] == TRIALS[0] and number < 3
            else ends(job, tmp_path)
        )

    pool = Pool(ending)
    events = list(noted(carry_out([Job((t,)) for t in TRIALS[:2]], pool), tmp_path))
    assert kinds(events, TRIALS[0]) == ["started", "lost", "started", "lost", "started", "ended"]
    assert kinds(events, TRIALS[1]) == ["started", "ended"]
    assert crashes(tmp_path / TRIALS[0].folder) == ["node 1 died", "node 2 died"]
    assert crashes(tmp_path / TRIALS[1].folder) == []
    assert pool.running is None  # it is stopped


def test_what_is_lost_again_and_again_has_crashed():
    events = list(carry_out([Job(tuple(TRIALS[:1]))], Pool(lambda job, number: ("lost", "gone"))))
    assert [event.kind for event in events].count("lost") == ATTEMPTS - 1
    assert events[-1].kind == "crashed"
    assert events[-1].reason == "gone"


def test_of_a_batch_that_crashes_only_the_member_that_is_at_fault_is_lost():
    def ending(job, number):
        return ("crashed", "damaged") if TRIALS[2] in job.trials else ends(job)

    pool = Pool(ending)
    events = list(carry_out([Job(tuple(TRIALS[:4]), batch=True)], pool))
    assert [kinds(events, trial)[-1] for trial in TRIALS[:4]] == [
        "ended", "ended", "crashed", "ended",
    ]  # fmt: skip
    assert pool.starts[1:] == [Job((trial,), batch=True) for trial in TRIALS[:4]]


def test_a_job_that_takes_longer_than_the_time_limit_is_killed_and_no_other():
    slow = Job((TRIALS[0],))
    pool = Pool(lambda job, number: None if job == slow else ends(job))
    events = list(carry_out([slow, Job((TRIALS[1],))], pool, time_limit=0.2))
    assert pool.killed == [slow]
    assert kinds(events, TRIALS[1])[-1] == "ended"
    assert {event.reason for event in events if event.kind == "crashed"} == {
        "time limit: it took more than 0.2 s"
    }


def test_of_a_batch_that_takes_longer_than_the_time_limit_only_the_member_that_hangs_is_lost():
    pool = Pool(lambda job, number: None if TRIALS[1] in job.trials else ends(job))
    events = list(carry_out([Job(tuple(TRIALS[:3]), batch=True)], pool, time_limit=0.2))
    assert [kinds(events, trial)[-1] for trial in TRIALS[:3]] == ["ended", "crashed", "ended"]


def test_a_run_whose_folder_another_process_holds_is_lost_not_crashed(tmp_path, monkeypatch):
    monkeypatch.setattr("wnrl.runs.folder.LOCK_SECONDS", 0.1)
    folder = tmp_path / TRIALS[0].folder
    folder.mkdir(parents=True)
    with locked(folder):
        kind, reason = trained(Job((TRIALS[0],)), tmp_path, lambda share: None)
    assert kind == "lost"
    assert "in use by another process" in reason


def test_a_run_that_has_its_result_has_not_crashed_with_its_batch(tmp_path):
    fake_runner.finish(TRIALS[0], tmp_path / TRIALS[0].folder)

    def ending(job, number):
        return "crashed", "killed"

    jobs = [Job((trial,), batch=True) for trial in TRIALS[:2]]
    events = list(noted(carry_out(jobs, Pool(ending)), tmp_path))
    assert kinds(events, TRIALS[0])[-1] == "ended"
    assert kinds(events, TRIALS[1])[-1] == "crashed"
    assert crashes(tmp_path / TRIALS[0].folder) == []


def test_a_run_that_has_its_result_was_not_tried_twice_because_of_its_batch(tmp_path):
    fake_runner.finish(TRIALS[0], tmp_path / TRIALS[0].folder)

    def ending(job, number):
        return ("crashed", "killed") if len(job.trials) > 1 else ends(job, tmp_path)

    jobs = [Job(tuple(TRIALS[:2]), batch=True)]
    events = list(noted(carry_out(jobs, Pool(ending)), tmp_path))
    assert [kinds(events, trial)[-1] for trial in TRIALS[:2]] == ["ended", "ended"]
    assert [crashes(tmp_path / trial.folder) for trial in TRIALS[:2]] == [[], ["killed"]]


@pytest.mark.parametrize("kind", ["ended", "crashed"])
@pytest.mark.parametrize("text", ["{", None])
def test_a_result_that_is_damaged_or_gone_costs_its_own_run(tmp_path, kind, text):
    def ending(job, number):
        ends(job, tmp_path)
        if job.trials[0] == TRIALS[0]:
            path = tmp_path / TRIALS[0].folder / "result.json"
            path.unlink() if text is None else path.write_text(text)
            return kind, "killed"
        return "ended", ""

    events = list(noted(carry_out([Job((t,)) for t in TRIALS[:2]], Pool(ending)), tmp_path))
    news = last_news(events, TRIALS[:2])
    assert [kind for kind, _ in news] == ["crashed", "ended"]
    gone = text is None and kind == "crashed"
    assert news[0][1] == "killed" if gone else "result.json is damaged" in news[0][1]
    assert len(crashes(tmp_path / TRIALS[0].folder)) == (text is None)
    assert [event.result for event in events if event.trial == TRIALS[1]][-1]["window_return"] == 1


def test_of_a_batch_that_leaves_out_a_result_each_run_is_tried_by_itself(tmp_path, monkeypatch):
    def leave_out_one(trials, folders, progress):
        for trial, folder in zip(trials, folders, strict=True):
            if trial != members[1]:
                fake_runner.finish(trial, folder)

    members, train = members_of_a_batch(tmp_path)
    monkeypatch.setattr(fake_batches, "train_batch", leave_out_one)
    news = last_news(train(), members)
    left = "fake_batches:train returned and left no result.json"
    assert news == [("ended", ""), ("crashed", left), ("ended", "")]


def members_of_a_batch(root, seeds=range(3)):
    """Trials whose runs, of 5 steps, are done as one batch, and what does them in this process."""
    task = Task("numbers", "sum", "fake_batches:train", RETURN, {"total_timesteps": 5})
    trials = Study("fake", [task], [Arm("none")], "none", seeds=seeds).trials()

    def ending(job, number):
        return trained(job, root, lambda share: None)

    return trials, lambda: list(carry_out([Job(tuple(trials), batch=True)], Pool(ending)))


def last_news(events, trials):
    return [(kinds(events, t)[-1], [e for e in events if e.trial == t][-1].reason) for t in trials]


def test_a_damaged_checkpoint_costs_its_own_member_of_a_batch(tmp_path):
    trials, train = members_of_a_batch(tmp_path)
    (tmp_path / trials[1].folder).mkdir(parents=True)
    write_json(tmp_path / trials[1].folder / "config.json", fake_batches.settings(trials[1]))
    (tmp_path / trials[1].folder / "checkpoint.zip").write_bytes(b"damaged")
    news = last_news(train(), trials)
    assert [kind for kind, _ in news] == ["ended", "crashed", "ended"]
    assert "checkpoint.zip is damaged" in news[1][1]


def test_a_disk_that_is_full_for_one_member_costs_its_own_run(tmp_path, monkeypatch):
    trials, train = members_of_a_batch(tmp_path)
    measure = fake_batches.Sum.measure

    def fail(member, folder):
        if member.settings["seed"] == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return measure(member, folder)

    monkeypatch.setattr(fake_batches.Sum, "measure", fail)
    news = last_news(train(), trials)
    assert [kind for kind, _ in news] == ["ended", "crashed", "ended"]
    assert "No space left on device" in news[1][1]
    monkeypatch.undo()
    assert [kind for kind, _ in last_news(train(), trials)] == ["ended"] * 3
