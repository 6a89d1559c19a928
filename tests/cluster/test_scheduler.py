"""The scheduler against executors in memory: stages with dependencies as on a cluster, and local work without."""

import contextlib

import pytest
import toys
from in_memory import InMemory, following

from qrpo_lib.cluster import dispatch, executors, journal, scheduler
from qrpo_lib.cluster.scheduler import Retries, Scheduler
from qrpo_lib.cluster.task import ALIVE, After, ScheduledTask, SubmissionError, SubmittedJob
from qrpo_lib.profiles.settings import Resources


def test_stages_are_arrays_with_dependencies(diamond):
    executor = InMemory()
    following(executor, diamond[2]).advance()
    assert [len(works) for _, works, _ in executor.all] == [1, 3, 1]
    assert [after for _, _, after in executor.all] == [[], ["1"], ["2_0", "2_1", "2_2"]]


def test_an_array_is_cut_and_a_stage_waits_for_all_its_parts(diamond):
    executor = InMemory()
    following(executor, diamond[2], array_size=2).advance()
    assert [(len(works), after) for _, works, after in executor.all] == [
        (1, []),
        (2, ["1"]),
        (1, ["1"]),
        (1, ["2_0", "2_1", "3"]),
    ]


def test_a_step_that_workers_share_gets_as_many_jobs(runs_folder):
    shared = toys.task("shared", kind="sampling")
    after = toys.task("after", needs=(shared,))
    executor = InMemory()
    following(executor, after, resources={"sampling": Resources(workers=4)}).advance()
    assert [(len(works), needed) for _, works, needed in executor.all] == [(4, []), (1, ["1_0", "1_1", "1_2", "1_3"])]
    assert executor.after == [After(), After(end=("1_0", "1_1", "1_2", "1_3"))]  # one of the four may be lost


def chains(number, *, first=(), kind="evaluation"):
    """Models, each with its evaluation, which also needs what all of them need."""
    models = [toys.task(f"train{i}", needs=first) for i in range(number)]
    return [toys.task(f"evaluate{i}", kind=kind, needs=(model, *first)) for i, model in enumerate(models)]


def test_models_and_their_evaluations_are_two_arrays_and_each_evaluation_comes_after_its_own_model(runs_folder):
    start = toys.task("start")
    executor = InMemory()
    following(executor, *chains(3, first=(start,))).advance()
    names = [[work.name.rpartition("-")[0] for work in works] for _, works, _ in executor.all]
    assert names == [["start"], ["train0", "train1", "train2"], ["evaluate0", "evaluate1", "evaluate2"]]
    assert executor.after == [After(), After(success=("1",)), After(success=("1",), each="2")]


def test_an_evaluation_whose_model_is_in_no_whole_array_is_a_job_of_its_own(runs_folder):
    evaluations = chains(3)
    executor = InMemory()
    following(executor, evaluations[0], evaluations[2]).advance()  # the models of an earlier command
    assert set(executor.alive) == {"1_0", "1_1", "2_0", "2_1"}
    executor.after = []
    executor.end("2_1")  # lost, while its model is still computed
    following(executor, *evaluations).advance()
    assert executor.after == [After(), After(success=("3",)), After(success=("1_1",))]
    cut = InMemory()
    following(cut, *chains(4, kind="sampling"), array_size=2).advance()
    assert [after.each for after in cut.after] == ["", "", "1", "2"]
    shared = InMemory()
    resources = {"sampling": Resources(workers=2)}
    following(shared, *chains(2, kind="sampling"), resources=resources).advance()
    assert [after.success for after in shared.after] == [(), ("1_0",), ("1_1",)]


def test_what_is_complete_gets_no_job_and_no_dependency(diamond):
    first, middle, last = diamond
    for task in (first, middle[1]):
        toys.perform(task.step, "write", {})
    executor = InMemory()
    following(executor, last).advance()
    assert [(len(works), after) for _, works, after in executor.all] == [(2, []), (1, ["1_0", "1_1"])]


def test_a_second_dispatcher_finds_the_jobs_of_the_first(diamond):
    executor = InMemory()
    following(executor, diamond[2]).advance()
    progress = following(executor, diamond[2]).advance()
    assert len(executor.all) == 3
    assert set(progress.status.values()) == {"queued"}


def test_a_submission_that_was_killed_before_its_ids_were_written_is_adopted(diamond, monkeypatch):
    executor = InMemory()
    launch = executor.launch

    def killed(*arguments):
        launch(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(executor, "launch", killed)
    with pytest.raises(KeyboardInterrupt):
        following(executor, diamond[0]).advance()
    monkeypatch.setattr(executor, "launch", launch)
    progress = following(executor, diamond[0]).advance()
    assert len(executor.all) == 1
    assert progress.status[diamond[0].name] == "queued"


def test_a_submission_that_never_reached_the_scheduler_is_made_again(diamond, monkeypatch):
    """It is written down and unknown to the scheduler: the next command submits it once, and the one after it not."""
    executor, task = InMemory(), diamond[0]

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(executor, "launch", killed)
        with pytest.raises(KeyboardInterrupt):
            following(executor, task).advance()
    (interrupted,) = journal.folder().iterdir()
    assert (executor.all, executor.alive) == ([], {})
    for _ in range(2):
        progress = following(executor, task).advance()
        assert (progress.status, progress.jobs) == ({task.name: "queued"}, {task.name: ["1"]})
        assert [(len(works), after) for _, works, after in executor.all] == [(1, [])]
    assert executor.all[0][0] != interrupted.name
    executor.makes("1", task)
    assert following(executor, task).advance().status == {task.name: "complete"}


def test_a_lost_job_is_submitted_again_with_all_that_waits_for_it(diamond):
    first, _, last = diamond
    executor = InMemory()
    dispatcher = following(executor, last)
    dispatcher.advance()
    executor.end("1")
    dispatcher.advance()
    assert len(executor.all) == 3  # a shared file system may show its folder a little later
    dispatcher.advance()
    assert [after for _, _, after in executor.all[3:]] == [[], ["4"], ["5_0", "5_1", "5_2"]]
    assert executor.cancelled == ["2_0", "2_1", "2_2", "3"]
    executor.makes("4", first)
    assert dispatcher.advance().status[first.name] == "complete"


def test_a_job_is_lost_only_so_often(runs_folder):
    executor = InMemory()
    task = toys.task("a")
    dispatcher = following(executor, task, retries=2)
    for job in ("1", "2", "3"):
        dispatcher.advance()
        executor.end(job)
        dispatcher.advance()
    assert not dispatcher.advance().is_open()
    assert len(executor.all) == 3
    with pytest.raises(dispatch.DispatchError, match=r"lost 3 times(.|\n)*log of 3"):
        dispatch.raise_failures(dispatcher.progress)


def test_an_error_is_told_with_the_log_and_blocks_what_needs_it_only(runs_folder):
    bad, good = toys.task("bad"), toys.task("good")
    after = toys.task("after", needs=(bad,))
    executor = InMemory()
    dispatcher = following(executor, after, good)
    dispatcher.advance()
    executor.end("1_0", "error", "ValueError: beta must be positive")
    executor.makes("1_1", good)
    progress = dispatcher.advance()
    assert [progress.status[task.name] for task in (bad, good, after)] == ["failed", "complete", "blocked"]
    with pytest.raises(dispatch.DispatchError, match=r"1 of 3 (.|\n)*beta must be positive(.|\n)*log of 1_0"):
        dispatch.raise_failures(dispatcher.progress)


def test_a_cancelled_job_is_not_submitted_against_its_owner(runs_folder):
    executor = InMemory()
    task = toys.task("a")
    dispatcher = following(executor, task)
    dispatcher.advance()
    executor.alive["1"] = ("cancelled", "None")
    assert dispatcher.advance().status[task.name] == "failed"
    assert following(executor, task).advance().status[task.name] == "queued"  # the command, given again


def test_a_scheduler_that_does_not_answer_changes_nothing(diamond):
    executor = InMemory()
    dispatcher = following(executor, diamond[2])
    dispatcher.advance()
    executor.answers = False
    assert "does not answer" in dispatcher.advance().note
    assert len(executor.all) == 3


def test_a_folder_counts_whatever_the_job_did(runs_folder):
    executor = InMemory()
    task = toys.task("a")
    dispatcher = following(executor, task)
    dispatcher.advance()
    toys.perform(task.step, "write", {})
    executor.end("1", "error", "killed while it said goodbye")
    assert not dispatcher.advance().is_open()
    dispatch.raise_failures(dispatcher.progress)


# --- what the queue, the clock and sbatch do --------------------------------------------------------------------------


def test_a_lost_job_waits_longer_each_time_and_what_needs_it_with_it(diamond, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(scheduler.time, "monotonic", lambda: now[0])
    executor = InMemory()
    dispatcher = following(executor, diamond[2], retries=3, pause_seconds=10)
    dispatcher.advance()
    begun = []
    for pause in (10, 20, 40):
        executor.end(str(len(executor.all) - 2))
        for job in list(executor.alive):  # SLURM ends what can never start
            executor.end(job)
        dispatcher.advance()
        dispatcher.advance()
        begun.append(len(executor.all))
        now[0] += pause - 1
        progress = dispatcher.advance()
        assert len(executor.all) == begun[-1]
        assert progress.reasons == {diamond[0].name: "tried again in 1 s"}
        assert set(progress.status.values()) == {"waiting"}
        now[0] += 1
        dispatcher.advance()
        assert len(executor.all) == begun[-1] + 3


TIMED_OUT = executors.submitit_utils.FailedJobError("sbatch: error: Socket timed out on send/recv operation")
NO_NUMBER = executors.submitit_utils.FailedSubmissionError('Could not make sense of sbatch output "accepted"')
KILLED = executors.submitit_utils.FailedJobError("")


class NotHeard(InMemory):
    """Its next submission ends without an answer; those `arriving` have arrived, and show after so many looks."""

    def __init__(self, arriving, shown_after=0, error=TIMED_OUT):
        super().__init__()
        self.failing, self.arriving, self.hidden, self.error = 1, arriving, shown_after, error

    def launch(self, batch, works, resources, after):
        failing, self.failing = self.failing, 0
        ids = super().launch(batch, works, resources, after) if self.arriving or not failing else []
        if failing:
            raise self.error
        return ids

    def find(self, batch):
        self.hidden -= 1
        return super().find(batch) if self.hidden < 0 else []


@pytest.mark.parametrize(("shown_after", "error"), [(0, TIMED_OUT), (1, TIMED_OUT), (3, NO_NUMBER), (3, KILLED)])
def test_a_submission_that_was_not_answered_but_arrived_is_found_and_not_made_twice(runs_folder, shown_after, error):
    executor, task = NotHeard(True, shown_after, error), toys.task("a")
    dispatcher = following(executor, task)
    for _ in range(shown_after):
        assert "may have taken jobs" in dispatcher.advance().note
    dispatcher.advance()
    assert dispatcher.advance().status == {task.name: "queued"}
    assert len(executor.all) == 1
    executor.makes("1", task)
    assert dispatcher.advance().status == {task.name: "complete"}


def test_a_submission_that_timed_out_and_never_arrived_is_made_again_after_a_while(runs_folder, monkeypatch):
    executor, task = NotHeard(False), toys.task("a")
    dispatcher = following(executor, task)
    dispatcher.advance()
    assert executor.all == []
    monkeypatch.setattr(executors, "_UNHEARD_SECONDS", 0)
    assert dispatcher.advance().status == {task.name: "queued"}
    assert len(executor.all) == 1


def test_a_submission_that_was_refused_is_an_error_and_leaves_no_trace(runs_folder, monkeypatch):
    def refused(*_):
        raise executors.submitit_utils.FailedJobError("sbatch: error: invalid account or partition")

    executor = InMemory()
    monkeypatch.setattr(executor, "launch", refused)
    with pytest.raises(SubmissionError, match=r"could not be submitted: .*invalid account"):
        following(executor, toys.task("a")).advance()
    assert list(journal.folder().glob("*/batch.json")) == []


class Full(InMemory):
    """Takes so many jobs at once, as SLURM does where there is a limit of jobs a person."""

    def __init__(self, room):
        super().__init__()
        self.room = room

    def launch(self, batch, works, resources, after):
        if len(self.alive) + len(works) > self.room:
            said = "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job "
            raise executors.submitit_utils.FailedJobError(f"{said}violates accounting/QOS policy (job submit limit)")
        return super().launch(batch, works, resources, after)


def test_a_cluster_that_takes_no_more_jobs_gets_the_others_once_some_have_ended(runs_folder):
    tasks = [toys.task(f"a{number}") for number in range(4)]
    executor = Full(room=2)
    dispatcher = following(executor, *tasks, array_size=2)
    for _ in range(3):
        progress = dispatcher.advance()
        assert "takes no more jobs now (sbatch: error: QOSMaxSubmitJobPerUserLimit sbatch" in progress.note
        assert len(executor.all) == 1
    assert list(progress.status.values()) == ["queued", "queued", "waiting", "waiting"]
    for number in range(2):
        executor.makes(f"1_{number}", tasks[number])
    assert list(dispatcher.advance().status.values()) == ["complete", "complete", "queued", "queued"]
    assert dispatcher.progress.note == ""
    assert len(executor.all) == 2


def test_what_does_not_fit_a_cluster_in_which_nothing_of_ours_runs_is_an_error(runs_folder, monkeypatch):
    dispatcher = following(Full(room=2), *[toys.task(f"a{number}") for number in range(3)])
    for _ in range(2):
        assert "takes no more jobs now" in dispatcher.advance().note
    monkeypatch.setattr(scheduler, "_FULL_SECONDS", 0)
    with pytest.raises(SubmissionError, match=r"QOSMaxSubmitJobPerUserLimit.*dispatch\.array_size"):
        dispatcher.advance()
    assert list(journal.folder().glob("*/batch.json")) == []


# --- local work: no queue, but room -----------------------------------------------------------------------------------


class Local:
    """An executor without a queue: the test says how each job ends, in the order in which they were started."""

    takes_dependencies = False

    def __init__(self, cores=2, ends=()):
        self.cores, self.ends = cores, dict(ends)
        self.begun, self.jobs, self.most = [], {}, 0

    def turn(self):
        return contextlib.nullcontext()

    def has_room(self, busy, task):
        return not busy or sum(one.cores for one in busy) + task.cores <= self.cores

    def submit(self, tasks, after):
        (task,) = tasks
        self.begun.append(task.name)
        self.jobs[task.name] = SubmittedJob(task.name, state="running")
        self.most = max(self.most, sum(job.state in ALIVE for job in self.jobs.values()))
        return {task.name: [task.name]}

    def look(self, names):
        return {name: [job] for name, job in self.jobs.items() if name in names}

    def outcome(self, job):
        return dict(enumerate(self.ends.get(job.id, []), 1)).get(self.begun.count(job.id), ("success", ""))

    def log(self, job):
        return ""

    def cancel(self, jobs):
        raise AssertionError("nothing waits")

    def wait(self):
        for job in self.jobs.values():
            job.state = "ended"

    def interrupt(self):
        self.jobs = {}


def never():
    raise AssertionError("this executor calls nothing")


ONCE_MORE = Retries()


def local(ends, *tasks, cores=2, retries=ONCE_MORE):
    executor = Local(cores, ends)
    return executor, Scheduler(tasks, executor, retries).run(lambda progress: None)


def test_what_most_others_wait_for_comes_first_and_no_more_at_once_than_there_is_room_for():
    first = ScheduledTask("first", never)
    others = [ScheduledTask(f"alone{number}", never) for number in range(3)]
    after = [ScheduledTask(f"after{number}", never, needs=(first,)) for number in range(4)]
    executor, progress = local({}, *others, *after)
    assert executor.begun[0] == "first"
    assert executor.most == 2
    assert set(progress.status.values()) == {"complete"}


def test_a_model_is_evaluated_before_the_next_one_is_trained():
    """So the first runs of a sweep are complete early, and no more checkpoints than needed are on the disk."""
    pairs = ScheduledTask("pairs", never)
    models = [ScheduledTask(f"train{number}", never, needs=(pairs,)) for number in range(3)]
    evaluated = [ScheduledTask(f"evaluate{number}", never, needs=(model,)) for number, model in enumerate(models)]
    executor, _ = local({}, *evaluated, cores=1)
    expected = [name for number in range(3) for name in (f"train{number}", f"evaluate{number}")]
    assert executor.begun == ["pairs", *expected]


def test_a_folder_that_happens_to_have_the_name_of_a_task_is_not_its_result(runs_folder):
    (runs_folder / "first").mkdir(parents=True)
    executor, progress = local({}, ScheduledTask("first", never))
    assert executor.begun == ["first"]
    assert progress.names("complete") == ["first"]


def test_one_that_wants_all_cores_runs_alone():
    executor, _ = local(
        {}, ScheduledTask("small", never), ScheduledTask("all", never, cores=8), ScheduledTask("other", never), cores=2
    )
    assert sorted(executor.begun) == ["all", "other", "small"]
    started = Local(2)
    tasks = [ScheduledTask("all", never, cores=8), ScheduledTask("other", never)]
    Scheduler(tasks, started).advance()
    assert started.begun == ["all"]


def test_what_fails_is_tried_once_more_after_all_others_and_then_told_with_its_first_error():
    ends = {"bad": [("error", "KeyError: a"), ("error", "KeyError: b")], "late": [("lost", "killed"), ("success", "")]}
    tasks = [
        ScheduledTask("bad", never),
        ScheduledTask("late", never),
        *(ScheduledTask(f"good{number}", never) for number in range(3)),
    ]
    executor, progress = local(ends, *tasks, cores=1)
    assert executor.begun == ["bad", "late", "good0", "good1", "good2", "bad", "late"]
    assert progress.failures == {"bad": "KeyError: a (the last time: KeyError: b)"}
    assert progress.retried == {"bad": "KeyError: a", "late": "killed"}
    assert progress.names("complete") == ["late", "good0", "good1", "good2"]
    assert set(progress.seconds) == {"late", "good0", "good1", "good2"}


class Looking(ScheduledTask):
    """A task that looks itself if what it reads is there."""

    looks_itself = True

    def could_start(self):
        return "there" in self.name


def test_a_task_that_looks_itself_starts_if_what_it_reads_is_there_all_the_same():
    bad, slow = ScheduledTask("bad", never), ScheduledTask("slow", never)
    tasks = [Looking(f"{name} {number}", never, needs=(bad, slow)) for number, name in enumerate(["there", "missing"])]
    executor, progress = local({"bad": [("error", "x")]}, *tasks, retries=Retries(0, 0))
    assert progress.names("blocked") == ["missing 1"]
    assert executor.begun == ["bad", "slow", "there 0"]


def test_an_interrupt_stops_what_was_begun():
    executor = Local()

    def interrupted(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Scheduler([ScheduledTask("a", never)], executor).run(interrupted)
    assert executor.jobs == {}
