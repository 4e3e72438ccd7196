"""Commands that get a signal at an instant that does not depend on the speed of a machine: just before or after a file
takes its name.

    variables(tmp_path / "hooks", Instant("*/compare.csv", "before"))       # the process that writes it kills itself
    variables(tmp_path / "hooks", Instant("*/resume_*.pth", signal="SIGTERM", to=("parent",)))
    variables(tmp_path / "hooks", Instant("*/resume_*.pth", awaits="out/*/output.txt", count=2))

The variables go to the processes of a command too. An Instant's signal is sent once, by the first process that comes to
it; the second of two equal ones when the file takes its name again.
"""

import json
from dataclasses import asdict, dataclass

from this_machine import ROOT, python_path

# Imported by every Python at its start, from the first folder of PYTHONPATH that has it.
SITE = """
import fnmatch, glob, json, os, signal, time
HERE, INSTANTS = os.path.dirname(__file__), json.loads(os.environ["INSTANTS"])
PROCESSES = {"itself": os.getpid, "parent": os.getppid}

def is_first(number):
    try:
        os.close(os.open(f"{HERE}/{number}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True

def wait_for(pattern, count):
    end = time.monotonic() + 900
    while len(glob.glob(pattern)) < count and time.monotonic() < end:
        time.sleep(0.05)

def is_pending(process, number):
    try:
        lines = open(f"/proc/{process}/status").read().splitlines()
    except OSError:
        return False
    return any(int(line.split()[1], 16) >> number - 1 & 1 for line in lines if line.startswith(("SigPnd", "ShdPnd")))

def send(process, number):
    os.kill(process, number)
    while is_pending(process, number):
        time.sleep(0.01)
    time.sleep(0.2)  # for Python's own handler: of two signals at once it hears one

def meet(target, when):
    for number, instant in enumerate(INSTANTS):
        if instant["when"] != when or not fnmatch.fnmatch(target, instant["file"]):
            continue
        if instant["awaits"]:
            wait_for(instant["awaits"], instant["count"])
        elif is_first(number):
            for process in instant["to"]:
                send(PROCESSES[process](), signal.Signals[instant["signal"]])
            return

def replace(source, target, plain=os.replace, **options):
    meet(str(target), "before")
    plain(source, target, **options)
    meet(str(target), "after")

os.replace = replace
"""


@dataclass(frozen=True)
class Instant:
    """``when`` a ``file`` (a pattern) takes its name: send ``signal`` to the process that writes it or to its parent,
    in the order of ``to``, or wait until ``count`` files fit the pattern ``awaits``."""

    file: str
    when: str = "after"
    signal: str = "SIGKILL"
    to: tuple = ("itself",)
    awaits: str = ""
    count: int = 1


def variables(folder, *instants):
    """What a command's environment needs beside its own, to meet the Instants; ``folder`` is new."""
    folder.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(SITE, encoding="utf-8")
    return {"INSTANTS": json.dumps([asdict(instant) for instant in instants]), "OMP_NUM_THREADS": "1",
            "PYTHONPATH": python_path(folder, ROOT)}
