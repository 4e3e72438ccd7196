"""Studies whose cells are processes that leave a folder made before, without running anything."""

import json
import time

from report_files import write_run

from src.args import parse
from src.cli.study import plan_of, study_of_seeds
from src.machine.interruption import Signals
from src.run.cells import state_of
from src.run.launcher import Launcher

SEQUENCE = {"dataset_order": "toy-colours", "iterations": "1"}
# Stands in for a run: it leaves a folder that was made before, or does what acts.json has for its cell.
PROGRAM = """
import json, os, shutil, signal, sys, time
save, here = sys.argv[sys.argv.index("--save") + 1], os.environ["HERE"]
name = os.path.basename(save)
with open(f"{here}/starts", "a") as file:
    file.write(name + "\\n")
acts = json.load(open(f"{here}/acts.json"))
act = acts.get(name)
if act == "fails":
    print("step 3 of 9\\nerror: no memory left\\n", file=sys.stderr)
    sys.exit(2)
if act == "is killed":
    os.kill(os.getpid(), signal.SIGKILL)
if act == "hangs":
    def stop(*_):
        print("interrupted by SIGTERM: resumes after step 3", flush=True)
        os._exit(75)
    signal.signal(signal.SIGTERM, stop)
    open(f"{here}/{name}-hangs", "w").close()
    time.sleep(60)
if act == "is killed by a signal without a name":
    os.kill(os.getpid(), 40)
for mark in ("at-work", "came"):
    open(f"{here}/{name}.{mark}", "w").close()
def count(mark):
    return sum(path.endswith(f".{mark}") for path in os.listdir(here))
with open(f"{here}/at-work", "a") as file:
    file.write(f"{count('at-work')}\\n")
end = time.monotonic() + 20
while count("came") < acts.get("meet", 0) and time.monotonic() < end:
    time.sleep(0.01)
time.sleep(acts.get("seconds", 0))
os.unlink(f"{here}/{name}.at-work")
shutil.copytree(f"{here}/runs/{name}", save, dirs_exist_ok=True)
"""


def jobs_of(study, save):
    """(the Jobs, texts of warnings) of a study that selects nothing."""
    plan, warnings = plan_of(study, save, parse)
    return plan.first, warnings


class Place:
    """Jobs of a study whose processes run PROGRAM. ``acts``: {cell: what it does}."""

    def __init__(self, folder, seeds):
        self.folder = folder
        numbers = range(1, seeds + 1)
        grid = study_of_seeds(SEQUENCE | {"seed": ",".join(map(str, numbers))})
        self.jobs, _ = jobs_of(grid, str(folder / "out"))
        for seed in numbers:
            write_run(folder / "runs" / f"seed-{seed}", f"--seed {seed}")
        self.act()

    def act(self, seconds=0, meet=0, **acts):
        """``seed1="fails"``, say; ``seconds`` that each takes; ``meet``: how many wait for each other first."""
        named = {name.replace("seed", "seed-"): act for name, act in acts.items()}
        (self.folder / "acts.json").write_text(json.dumps(named | {"seconds": seconds, "meet": meet}), encoding="utf-8")

    def starts(self):
        path = self.folder / "starts"
        return path.read_text(encoding="utf-8").split() if path.exists() else []

    def launcher(self, slots=2, signals=None, report=lambda text: None):
        return Launcher(self.jobs, [{}] * slots, signals or Signals(), report)

    def kinds(self):
        return [state_of(job).kind for job in self.jobs]


def until(holds, seconds=300):
    """Wait for it; never longer than a test may take."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
