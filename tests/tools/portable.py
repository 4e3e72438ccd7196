"""Run the test suite as other machines would compute, one environment after the other.

    python tests/tools/portable.py            # every row, which is `make test-portable`
    python tests/tools/portable.py avx2 sums  # some rows, which is `make test-portable ONLY="avx2 sums"`
    python tests/tools/portable.py --list     # the names, for a matrix of jobs

A row whose interpreter cannot be found is skipped, with a line in the summary. Exit 1 if a row is red.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUSY = "while True: sum(range(10 ** 6))"


@dataclass(frozen=True)
class Environment:
    """One row. ``resolution``: which versions of the requirements, of `uv pip install --resolution`."""

    about: str
    variables: dict = field(default_factory=dict)
    shuffled: bool = False
    busy: bool = False
    python: str | None = None
    resolution: str | None = None


ENVIRONMENTS = {
    "plain": Environment(
        "kernels without vector instructions, 1 thread, another hash seed, random order",
        {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE",
         "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "7"}, shuffled=True),
    "avx2": Environment(
        "kernels for AVX2, 2 threads, another hash seed, a busy second process",
        {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2", "OMP_NUM_THREADS": "2",
         "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait would take each other's cores
         "TEST_THREADS": "2", "PYTHONHASHSEED": "42"}, busy=True),
    "sums": Environment(
        "matrix products and layer norms summed in another order, unwritten memory is NaN",
        {"PYTHONPATH": str(ROOT / "tests" / "tools" / "summation_order")}),
    "lowest": Environment(
        "lowest versions of requirements.txt, Python 3.10", python="python3.10", resolution="lowest-direct"),
    "newest": Environment(
        "newest versions of requirements.txt, Python 3.13, random order", shuffled=True,
        python="python3.13", resolution="highest"),
}


def executable(name):
    """Return the first interpreter of this name that runs, of PATH and of pyenv's versions; None where there is none.

    A shim of pyenv is on PATH for every version, and fails for those that are not switched on.
    """
    folders = [Path(folder) for folder in os.get_exec_path()]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    folders += sorted(pyenv.glob(f"versions/{name.removeprefix('python')}*/bin"))
    for folder in folders:
        path = folder / name
        if path.exists() and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            return path
    return None


def interpreter(name, environment):
    """Return the Python of a row, in its virtual environment; None where the interpreter cannot be found."""
    if environment.python is None:
        return Path(sys.executable)
    found = executable(environment.python)
    if found is None:
        return None
    folder = ROOT / f".venv-{name}"
    python, stamp = folder / "bin" / "python", folder / ".installed"
    requirements = ROOT / "requirements.txt"
    if not stamp.exists() or stamp.stat().st_mtime < requirements.stat().st_mtime:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([found, "-m", "venv", str(folder)], check=True)
        install(python, requirements, environment.resolution)
        stamp.touch()
    return python


def install(python, requirements, resolution):
    """Install with uv, or with pip where uv is missing, which cannot choose the lowest versions."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv:
        command = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), "--resolution",
                   resolution]
    elif resolution == "highest":
        command = [str(python), "-m", "pip", "install", "--quiet"]
    else:
        sys.exit("error: the row of the lowest versions needs uv: pip install uv")
    subprocess.run([*command, "-r", str(requirements)], check=True)


@contextmanager
def busy(active):
    """Keep one core busy meanwhile."""
    process = subprocess.Popen([sys.executable, "-c", BUSY]) if active else None
    try:
        yield
    finally:
        if process:
            process.kill()
            process.wait()


def run(name, environment, words):
    """Run one row; return its line of the summary, and whether it is green or skipped."""
    print(f"== {name}: {environment.about}", flush=True)
    python = interpreter(name, environment)
    if python is None:
        return f"skipped: no {environment.python}", True
    options = ["-m", "not slow", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
    order = ""
    if environment.shuffled:
        seed = random.SystemRandom().randrange(10 ** 6)
        options += ["--random-order", f"--random-order-seed={seed}"]
        order = f", --random-order-seed={seed}"
    command = [str(python), "-m", "pytest", "-q", *options, *words]
    began = time.monotonic()
    with busy(environment.busy):
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment.variables, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        last = ""
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
        status = process.wait()
    minutes = (time.monotonic() - began) / 60
    return f"{'green' if status == 0 else 'RED'}: {last} ({minutes:.1f} min{order})", status == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"rows to run: {', '.join(ENVIRONMENTS)}; all unless given")
    parser.add_argument("--list", action="store_true", help="print the names as JSON and exit")
    parser.add_argument("--tests", nargs="+", default=[], help="files or options for pytest; every test unless given")
    config = parser.parse_args()
    if config.list:
        print(json.dumps(list(ENVIRONMENTS)))
        return 0
    unknown = [name for name in config.names if name not in ENVIRONMENTS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; the rows are {', '.join(ENVIRONMENTS)}")
    summary, all_green = [], True
    for name in config.names or ENVIRONMENTS:
        text, green = run(name, ENVIRONMENTS[name], config.tests)
        summary.append(f"{name:8}{text}")
        all_green = all_green and green
    print("\n== summary", *summary, sep="\n")
    return 0 if all_green else 1


if __name__ == "__main__":
    sys.exit(main())
