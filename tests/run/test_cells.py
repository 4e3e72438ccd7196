"""What each cell of a study is at: done only with its record, summary and configuration; its step and time left."""

import dataclasses
import json
import shutil

import pytest
from study_files import jobs_of

from src.cli.study import study_of_seeds
from src.run.cells import DONE, FAILED, NOT_USABLE, WAITING, State, is_done, progress_of, state_of
from src.run.study import exit_status

pytest_plugins = ["study_fixtures"]


def test_another_configuration_is_not_done(place):
    place.launcher().run()
    job = place.jobs[0]
    path = job.folder / "run.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    assert is_done(job)
    for damage in (lambda: facts["flags"]["lr"].update(value={"": 0.5}), lambda: facts.pop("flags")):
        damage()
        path.write_text(json.dumps(facts), encoding="utf-8")
        assert not is_done(job)
    path.unlink()
    assert not is_done(job)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("{"),
                                    lambda path: path.write_text("{}")])
def test_a_cell_without_its_summary_is_not_done_and_resumes(damage, place):
    place.launcher().run()
    damage(place.jobs[0].folder / "summary.json")
    assert not is_done(place.jobs[0])
    states = [state_of(job) for job in place.jobs]
    assert states == [State(FAILED, NOT_USABLE), State(DONE), State(DONE)]
    assert exit_status(place.jobs, states) == 1, "another try in a queue would not mend it"
    place.launcher().run()
    assert place.kinds() == [DONE] * 3 and len(place.starts()) == 4


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"status": 0}', "{", '{"status": 2, "message": 3}'])
def test_a_damaged_record_is_none(place, text):
    job = place.jobs[0]
    shutil.copytree(place.folder / "runs" / "seed-1", job.folder)
    (job.folder / "cell.json").write_text(text, encoding="utf-8")
    assert state_of(job).kind == WAITING


# -- step and time left -----------------------------------------------------------------------------------------------


def job_at(folder, tasks=("a", "b", "c"), iterations=100):
    job, *_ = jobs_of(study_of_seeds({"dataset_order": "toy-colours", "iterations": "1", "batch_size": "20",
                                      "seed": "1,2"}), str(folder))[0]
    job.folder.mkdir(parents=True)
    return dataclasses.replace(job, tasks=tasks, iterations=iterations)


def log(job, task, *lines):
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"iteration": 99, "imag'  # being written
    (job.folder / f"log_{task}.jsonl").write_text(text, encoding="utf-8")


def finish(job, task, seconds):
    (job.folder / f"{task}.pth").write_bytes(b"")
    (job.folder / f"run_{task}.json").write_text(json.dumps({"seconds": seconds}), encoding="utf-8")


def test_step_and_time_left_of_the_first_task(tmp_path):
    """A step of 20 images at 40 a second takes 0.5 s: 60 steps are left of this task, and two tasks of 100."""
    job = job_at(tmp_path)
    assert progress_of(job) == ""
    log(job, "a", {"iteration": 10, "images_per_second": 1.0}, {"iteration": 40, "images_per_second": 40.0})
    assert progress_of(job) == "task 1 of 3: a, step 40 of 100, about 2:10 left"


def test_step_and_time_left_of_a_later_task(tmp_path):
    """50 steps of 1 s, and a last task that takes as long as the finished one did, with its scores: 400 s."""
    job = job_at(tmp_path)
    finish(job, "a", 400.0)
    assert progress_of(job) == "task 2 of 3: b, step 0 of 100"
    log(job, "b", {"iteration": 50, "images_per_second": 20.0})
    assert progress_of(job) == "task 2 of 3: b, step 50 of 100, about 7:30 left"
    finish(job, "b", 1.0)
    finish(job, "c", 1.0)
    assert progress_of(job) == "all tasks are trained"


def test_what_files_do_not_show_is_left_out(tmp_path):
    job = job_at(tmp_path, iterations=None)  # --epochs
    log(job, "a", {"iteration": 40, "images_per_second": 40.0})
    assert progress_of(job) == "task 1 of 3: a, step 40"
    job = job_at(tmp_path / "b")
    log(job, "a", {"iteration": 40, "images_per_second": 0.0})
    assert progress_of(job) == "task 1 of 3: a, step 40 of 100"
