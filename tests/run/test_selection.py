"""What a study selects: trials before cells, on val alone; failed, killed, shared, tied and changed ones."""

import json
import os
import signal
import statistics
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cli_files import picture, read_json, rows
from report_files import MATRIX, write_run
from study_files import until

from src.machine.files import locked_folder
from src.main import main
from src.run import cells, selection
from src.run.cells import LOCK, NOT_USABLE
from src.run.launcher import Launcher

pytest_plugins = ["cli_fixtures", "study_fixtures"]
ROOT = Path(__file__).parents[2]
AVG = 560 / 9  # of MATRIX
STUDY = """
base: {dataset-order: toy-colours, iterations: 1}
axes: {method: [finetune, lwf], seed: [1, 2]}
select: {grid: {lr: [1e-5, 1e-4]}, seeds: [101, 102]}
report: {names: {lwf: LwF}}
"""
# How far below MATRIX each trial is, by (method, rate), for the two seeds: finetune is best at 1e-4, lwf at 1e-5.
BELOW = {("finetune", "1e-5"): (5, 7), ("finetune", "1e-4"): (1, 2), ("lwf", "1e-5"): (0, 3), ("lwf", "1e-4"): (2, 2)}
CHOSEN = {"finetune": "1e-4", "lwf": "1e-5"}
CELLS = [f"{method}_seed-{seed}" for method in CHOSEN for seed in (1, 2)]


def trials(method):
    return [f"{method}_lr-{rate}_toy-colours_seed-{seed}" for rate in ("1e-5", "1e-4") for seed in (101, 102)]


class Selecting:
    """A study whose processes leave what ``runs`` has for them. ``acts``: {cell or trial: what it does}."""

    def __init__(self, folder):
        self.folder, self.out, self.file = folder, folder / "out", folder / "grid.yaml"
        self.file.write_text(STUDY, encoding="utf-8")
        self.words = ("--study", self.file, "--save", self.out)
        for (method, rate), below in BELOW.items():
            for seed, number in zip((101, 102), below, strict=True):
                self.leave(method, rate, seed, number)
        for method, rate in CHOSEN.items():
            for seed in (1, 2):
                write_run(folder / "runs" / f"{method}_seed-{seed}", f"--method {method} --lr {rate} --seed {seed}")
        self.act()

    def leave(self, method, rate, seed, below):
        matrix = [[value - below for value in row] for row in MATRIX]
        write_run(self.folder / "runs" / f"{method}_lr-{rate}_toy-colours_seed-{seed}",
                  f"--method {method} --lr {rate} --seed {seed} --eval-split val", matrix=matrix)

    def act(self, **acts):
        (self.folder / "acts.json").write_text(json.dumps(acts.pop("acts", acts)), encoding="utf-8")

    def starts(self):
        path = self.folder / "starts"
        return path.read_text(encoding="utf-8").split() if path.exists() else []

    def chosen(self):
        return read_json(self.out / "selection.json")


@pytest.fixture
def selecting(stand_ins, monkeypatch):
    monkeypatch.setattr("src.report.orders.write_report", lambda report, folder: None)  # draws
    return Selecting(stand_ins)


def test_trials_run_first_and_the_best_rate_is_tested(selecting, cli):
    done = cli(*selecting.words)
    assert done.status == 0 and done.err == "", done.err
    assert selecting.starts() == [*trials("finetune"), *trials("lwf"), *CELLS]
    assert "study grid: 8 trials, 0 done, 8 to run" in done.out and "study grid: 4 cells, 0 done, 4 to run" in done.out
    found = selecting.chosen()
    assert (found["by"], found["label_space"], found["split"], found["seeds"], found["orders"]) == (
        "avg", "task", "val", [101, 102], ["toy-colours"])
    for method, rate in CHOSEN.items():
        row = found["rows"][method]
        assert (row["chosen"], row["flags"], row["why"]) == (f"lr-{rate}", {"--lr": rate}, "")
        for each in ("1e-5", "1e-4"):
            below = BELOW[method, each]
            assert row["means"][f"lr-{each}"] == pytest.approx(AVG - statistics.fmean(below))
            assert list(row["trials"][f"lr-{each}"].values()) == pytest.approx([AVG - number for number in below])
        output = (selecting.out / f"{method}_seed-2" / "output.txt").read_text(encoding="utf-8")
        assert f" --lr {rate} " in output and "--eval-split" not in output
    table = done.out[done.out.index("chosen on val images by Avg (classes of task, higher is better), the mean over "
                                    "order toy-colours and seeds 101, 102"):]
    assert [cell.strip() for cell in table.splitlines()[5].strip("|").split("|")][:5] == [
        "LwF", "lr-1e-5", f"{AVG - 1.5:.1f}", f"{AVG - 2:.1f}", "4 of 4"]
    assert (selecting.out / "selection.md").read_text(encoding="utf-8") in done.out
    again = cli(*selecting.words)
    assert again.status == 0 and len(selecting.starts()) == 12 and table in again.out


def test_hours_are_those_of_the_tasks_of_all_trials(selecting, cli):
    for number, name in enumerate(trials("lwf"), 1):
        path = selecting.folder / "runs" / name / "run_toy-colours.json"
        path.write_text(json.dumps({"seconds": 900.0 * number, "flags": {}}), encoding="utf-8")
    cli(*selecting.words)
    assert selecting.chosen()["rows"]["lwf"]["hours"] == 2.5 and selecting.chosen()["rows"]["finetune"]["hours"] == 0


def test_no_file_of_a_cell_is_read_before_the_choice(selecting, cli, monkeypatch):
    """Poison: cells that look best with the other rate, and that raise when one looks at them."""
    for cell in CELLS:
        write_run(selecting.out / cell, "--lr 1", matrix=[[100.0] * 3] * 3)

    def careful(read):
        def reading(path):
            assert "select" in Path(path).parts or (selecting.out / "selection.json").exists(), path
            return read(path)
        return reading
    for module in (cells, selection):
        monkeypatch.setattr(module, "read_json", careful(module.read_json))
    done = cli(*selecting.words)
    assert done.status == 0, done.err
    assert {row: found["flags"]["--lr"] for row, found in selecting.chosen()["rows"].items()} == CHOSEN
    assert selecting.starts()[8:] == CELLS


def test_a_row_with_a_failed_trial_waits_and_others_go_on(selecting, cli):
    selecting.act(acts={trials("finetune")[2]: "fails"})
    done = cli(*selecting.words)
    assert done.status == 1
    assert selecting.starts() == [*trials("finetune"), *trials("lwf"), "lwf_seed-1", "lwf_seed-2"]
    why = (f"no choice, because trial select/{trials('finetune')[2]} failed: fix it, or remove its value from the "
           "grid")
    assert done.err.splitlines() == [
        f"select/{trials('finetune')[2]}: failed, error: no memory left "
        f"({selecting.out / 'select' / trials('finetune')[2] / 'output.txt'})",
        f"finetune_seed-1: waiting, {why}", f"finetune_seed-2: waiting, {why}",
        "3 of 12 cells are not done; rerun the command to try them again"]
    assert "| LwF" in done.out and "| finetune" in done.out.split("chosen on val")[1]
    assert "| finetune" not in done.out.split("chosen on val")[0]
    found = selecting.chosen()["rows"]["finetune"]
    assert (found["chosen"], found["flags"], found["means"]["lr-1e-4"]) == (None, None, None)
    assert found["means"]["lr-1e-5"] == pytest.approx(AVG - 6)
    selecting.act()
    done = cli(*selecting.words)
    assert done.status == 0 and selecting.starts()[10:] == [trials("finetune")[2], "finetune_seed-1", "finetune_seed-2"]


def test_interrupted_trials_resume_before_any_cell_starts(selecting, cli):
    selecting.act(acts={trials("finetune")[1]: "hangs"})

    def interrupt():
        until((selecting.folder / f"{trials('finetune')[1]}-hangs").exists)
        os.kill(os.getpid(), signal.SIGTERM)
    asking = threading.Thread(target=interrupt)
    asking.start()
    done = cli(*selecting.words)
    asking.join()
    assert done.status == 75 and selecting.starts() == trials("finetune")[:2]
    assert not (selecting.out / "selection.json").exists()
    selecting.act()
    done = cli(*selecting.words)
    assert done.status == 0 and selecting.starts()[2:] == [*trials("finetune")[1:], *trials("lwf"), *CELLS]


def test_two_launchers_share_trials_and_cells(selecting):
    selecting.act(acts={"seconds": 0.05})
    statuses = []
    words = [str(word) for word in selecting.words]
    threads = [threading.Thread(target=lambda: statuses.append(main(words))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    starts = selecting.starts()
    assert statuses == [0, 0] and sorted(starts) == sorted([*trials("finetune"), *trials("lwf"), *CELLS])
    assert set(starts[:8]) == {*trials("finetune"), *trials("lwf")}, "no cell before the last trial"


def test_a_task_of_an_array_waits_for_the_trials_of_others(selecting, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    statuses, idle, claim = [], [], Launcher._claim

    def claimed(launcher):
        found = claim(launcher)
        idle.extend([1] if found is None else [])
        return found
    monkeypatch.setattr(Launcher, "_claim", claimed)
    thread = threading.Thread(target=lambda: statuses.append(main([str(word) for word in selecting.words])))
    with locked_folder(selecting.out / "select" / trials("lwf")[0], "--save", LOCK):
        thread.start()
        until(lambda: len(idle) > 2 or len(selecting.starts()) > 7)
        assert len(selecting.starts()) == 7, "it looked again and again, and started no cell"
    thread.join(300)
    assert statuses == [0] and selecting.starts()[7:] == [trials("lwf")[0], *CELLS]


@pytest.mark.slow
def test_a_choice_that_changes_is_noticed(selecting, cli):
    """A better rate is added to the grid: cells of the old one are not done, whatever their files say."""
    cli(*selecting.words)
    selecting.file.write_text(STUDY.replace("1e-4]", "1e-4, 3e-4]"), encoding="utf-8")
    for method, below in (("finetune", -1), ("lwf", 9)):
        for seed in (101, 102):
            selecting.leave(method, "3e-4", seed, below)
    status = cli(*selecting.words, "--status")
    assert status.out.count("waits for 2 of its 6 trials") == 4, status.out
    done = cli(*selecting.words)
    assert selecting.chosen()["rows"]["finetune"]["chosen"] == "lr-3e-4"
    assert selecting.starts()[16:] == ["finetune_seed-1", "finetune_seed-2"], "those of lwf stay done"
    assert done.status == 1 and done.err.count(NOT_USABLE) == 2


def test_commands_and_status_before_and_after_the_choice(selecting, cli):
    before = cli(*selecting.words, "--dry-run")
    assert not selecting.out.exists() and before.status == 0
    printed = before.out.splitlines()
    assert printed[0] == f"# select/{trials('finetune')[0]}"
    assert printed[1].startswith("python -m src.main ") and "--eval-split val" in printed[1]
    assert printed[16] == "# finetune_seed-1: its trials choose --lr; waits for 4 of its 4 trials"
    assert printed[17].startswith("# python -m src.main --method finetune ") and " --lr CHOSEN " in printed[17]
    status = cli(*selecting.words, "--status")
    assert "study grid: 8 trials, 8 waiting" in status.out and "study grid: 4 cells, 4 waiting" in status.out
    assert not selecting.out.exists()
    cli(*selecting.words)
    after = cli(*selecting.words, "--dry-run").out.splitlines()
    assert after[16] == "# finetune_seed-1: its trials chose --lr" and " --lr 1e-4 " in after[17]
    assert after[17].startswith("python -m src.main ")
    status = cli(*selecting.words, "--status")
    assert "study grid: 8 trials, 8 done" in status.out and "| LwF " in status.out


def test_rows_of_one_study_choose_on_images_that_no_cell_scores(selecting, cli):
    selecting.file.write_text(STUDY.replace("iterations: 1", "iterations: 1, eval-split: val"), encoding="utf-8")
    done = cli(*selecting.words)
    assert done.status == 2 and not selecting.starts() and not selecting.out.exists()
    assert "select: row finetune: 216 val images of toy-colours are val images too" in done.err


# -- for real ----------------------------------------------------------------------------------------------------------

REAL = """
base: {dataset-order: ["ONE", "TWO"], load: MODEL, iterations: 6, batch-size: 4, warmup-length: 0, workers: 0}
axes: {method: [finetune], seed: [1]}
select: {grid: {lr: [1e-9, 3e-3]}, seeds: [101, 102], by: last}
"""


def three_parts(folder, hues):
    for part, number in (("train", 6), ("val", 5), ("test", 4)):
        for row, (name, hue) in enumerate(hues.items()):
            for index in range(number):
                picture(folder / part / name / f"{part}-{index}.png", hue, 100 * row + index)


def poison(folder, part):
    """-> what mends it"""
    files = {path: path.read_bytes() for path in folder.glob(f"*/{part}/*/*.png")}
    for path in files:
        path.write_bytes(b"poison")
    return lambda: [path.write_bytes(content) for path, content in files.items()]


@pytest.fixture
def pictures(tmp_path, world):
    for name, hues in (("one", {"red_disc": 0.0, "blue": 0.6}), ("two", {"warm": 0.1, "cold": 0.5})):
        three_parts(tmp_path / name, hues)
    text = REAL.replace("ONE", f"folder:{tmp_path}/one").replace("TWO", f"folder:{tmp_path}/two")
    (tmp_path / "real.yaml").write_text(text.replace("MODEL", str(world.model)), encoding="utf-8")
    return tmp_path


def test_a_trial_reads_no_test_image(pictures, cli):
    """And a cell does, so that the poison acts."""
    poison(pictures, "test")
    words = ("--study", pictures / "real.yaml", "--save", pictures / "out", "--dry-run")
    planned = cli(*words)
    assert planned.status == 0, planned.err
    commands = [line.split()[3:] for line in planned.out.splitlines() if line.startswith("python")]
    done = cli(*commands[0])
    assert done.status == 0 and (Path(commands[0][commands[0].index("--save") + 1]) / "summary.json").exists()
    trial = commands[0]
    trial[trial.index("val")] = "test"
    trial[trial.index("--save") + 1] += "-tested"
    assert cli(*trial).status == 2


@pytest.mark.slow
def test_the_best_rate_on_val_is_found_without_a_test_image(pictures, monkeypatch):
    """All trials run while the test images are poisoned; the cells, with the choice, once these are mended."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    mend, out = poison(pictures, "test"), pictures / "out"
    command = [sys.executable, "-m", "src.main", "--study", str(pictures / "real.yaml"), "--save", str(out)]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False)
    assert first.returncode == 1 and "finetune_seed-1: failed" in first.stderr, first.stderr
    chosen = (out / "selection.json").read_bytes()
    lasts = {}
    for trial in (out / "select").iterdir():
        assert {row["split"] for file in trial.glob("metrics_*.csv") for row in rows(file)} == {"val"}
        matrix = (trial / "matrix_top1.csv").read_text(encoding="utf-8").splitlines()[-1].split(",")[1:]
        lasts.setdefault(trial.name.split("_")[1], []).append(statistics.fmean(map(float, matrix)))
    best = max(lasts, key=lambda rate: statistics.fmean(lasts[rate]))
    assert len(lasts) == 2 and len(lasts[best]) == 2
    mend()
    subprocess.run(command, cwd=ROOT, capture_output=True, timeout=1800, check=True)
    assert (out / "selection.json").read_bytes() == chosen
    rate = read_json(out / "finetune_seed-1" / "run.json")["flags"]["lr"]["value"][""]
    assert rate == float(best.removeprefix("lr-"))
