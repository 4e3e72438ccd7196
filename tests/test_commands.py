"""Every command that users were promised, as it is written, runs: shortened, on the embedded model and data."""

import csv
import json
import shlex
import shutil
from pathlib import Path

import pytest
from cli_files import picture

import convert_grad_to_basis
import list_clip_layers

pytest_plugins = ["cli_fixtures"]

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
EMBEDDED = {"DTD": "toy-sizes", "Flowers": "toy-shapes", "CIFAR100": "toy-colours", "ImageNet": "toy-reference",
            "conceptual_captions": "toy-reference"}
SHORT = "--model toy --iterations 3 --batch-size 8 --max-evaluation-size 16"  # words given later win
IDLE_IN_EVALUATION = {"warning: --iterations has no effect", "warning: --batch-size has no effect",
                      "warning: --max-evaluation-size has no effect"}

FINETUNE = ("python -m src.main --method finetune --train-mode whole --train-dataset DTD --iterations 1000 --lr 1e-5 "
            "--save ckpt/dtd_ft")
ZSCL = ("python -m src.main --method ZSCL --train-mode whole --train-dataset DTD --ref-dataset ImageNet "
        "--ref-sentences conceptual_captions --iterations 1000 --lr 1e-5 --save ckpt/dtd_zscl")
EVALUATE = "python -m src.main --load ckpt/dtd_ft/DTD.pth --eval-datasets DTD,CIFAR100 --eval-only"
CLASSIFY = ("python -m src.main --load ckpt/dtd_ft/DTD.pth --eval-single path/to/image.jpg "
            "--class-names data/text_classes/imagenet_classes.txt --eval-only")
TASK = "--train-dataset DTD --iterations 1000 --lr 1e-5 --save"
LORA = f"python -m src.main --lora --lora-r 8 --lora-alpha 16 {TASK} ckpt/dtd_lora"
LORA_SHARED = f"python -m src.main --lora --lora-shared --lora-r 8 --lora-alpha 16 {TASK} ckpt/dtd_lora_shared"
LORA_SPLIT = ("python -m src.main --lora --lora-shared --lora-shared-split-qkvo --lora-r 8 --lora-alpha 16 "
              f"{TASK} ckpt/dtd_lora_split")
OGD_1 = ("python -m src.main --method finetune --train-dataset DTD --orthogonal-gradients 10 --save ckpt/ogd/task1 "
         "--iterations 1000 --lr 1e-5")
OGD_2 = ("python -m src.main --method finetune --train-dataset Flowers --orthogonal-gradients 10 "
         "--orthogonal-gradients-path ckpt/ogd/task1/grad_DTD.pth --save ckpt/ogd/task2 "
         "--load ckpt/ogd/task1/DTD.pth --iterations 1000 --lr 1e-5")
CONVERT = "python convert_grad_to_basis.py --input grad_DTD.pth --output basis_DTD.pth"
LINEAR_LAYERS, PARAMETERS = "python list_clip_layers.py --linear-only", "python list_clip_layers.py --params"

# Each with the commands that must have run before it, and what is there afterwards.
COMMANDS = [
    ([FINETUNE], ["ckpt/dtd_ft/toy-sizes.pth", "ckpt/dtd_ft/metrics_toy-sizes.csv", "ckpt/dtd_ft/run_toy-sizes.json"]),
    ([ZSCL], ["ckpt/dtd_zscl/toy-sizes.pth"]),
    ([FINETUNE, EVALUATE], ["ckpt/dtd_ft/metrics_toy-colours.csv"]),
    ([FINETUNE, CLASSIFY], ["data/text_classes/imagenet_classes.txt"]),
    ([LORA], ["ckpt/dtd_lora/toy-sizes.pth", "ckpt/dtd_lora/toy-sizes.lora.pth"]),
    ([LORA_SHARED], ["ckpt/dtd_lora_shared/toy-sizes.pth", "ckpt/dtd_lora_shared/toy-sizes.lora.pth"]),
    ([LORA_SPLIT], ["ckpt/dtd_lora_split/toy-sizes.pth", "ckpt/dtd_lora_split/toy-sizes.lora.pth"]),
    ([OGD_1], ["ckpt/ogd/task1/toy-sizes.pth", "ckpt/ogd/task1/grad_toy-sizes.pth"]),
    ([OGD_1, OGD_2], ["ckpt/ogd/task2/toy-shapes.pth", "ckpt/ogd/task2/grad_toy-shapes.pth"]),
]
LISTS = [(LINEAR_LAYERS, "visual.transformer.resblocks.0.mlp.c_fc"), (PARAMETERS, "149,620,737 values")]
# Promised with a training task to follow, or arguments of one's own.
BEGINNINGS = ["python -m src.main --lora --lora-r 8 --lora-alpha 16 ", "sbatch train.sh"]


def embedded(command):
    """The words of a command after the program's name, with the datasets of the toy world."""
    for name, toy in EMBEDDED.items():
        command = command.replace(name, toy)
    return shlex.split(command)


def run(cli, command):
    """Run a command of src.main, shortened; nothing but its status 0 is taken."""
    words = embedded(command)
    assert words[:3] == ["python", "-m", "src.main"]
    done = cli(*words[3:], *SHORT.split())
    assert done.status == 0 and done.err.count("error") == 0, done.err
    return done


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty working directory with one picture."""
    monkeypatch.chdir(tmp_path)
    picture(Path("path/to/image.jpg"), 0.3, 0)


@pytest.mark.parametrize(("commands", "files"), COMMANDS, ids=lambda part: part[-1][:60])
def test_a_command_runs(cli, commands, files):
    for command in commands:
        done = run(cli, command)
    assert all(Path(file).stat().st_size for file in files)
    evaluated = "--eval-only" in commands[-1]
    told = {line.partition(" effect")[0] + " effect" for line in done.warnings}
    assert told <= (IDLE_IN_EVALUATION if evaluated else set())
    if not evaluated:
        [stored] = Path(files[0]).parent.glob("run_*.json")
        assert json.loads(stored.read_text(encoding="utf-8"))["iterations"] == 3


def test_evaluation_answers_with_a_row_a_dataset(cli):
    run(cli, FINETUNE)
    rows = [line for line in run(cli, EVALUATE).out.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows] == ["dataset", "toy-sizes", "toy-colours"]


def test_one_image_answers_with_five_of_the_thousand_names(cli):
    run(cli, FINETUNE)
    rows = [line for line in run(cli, CLASSIFY).out.splitlines() if line.startswith("| ")]
    names = Path("data/text_classes/imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
    assert len(names) == 1000 and len(rows) == 6
    assert all(row.split("|")[1].strip() in names for row in rows[1:])


def test_a_basis_is_made(cli, capsys):
    run(cli, OGD_1)
    shutil.copy("ckpt/ogd/task1/grad_toy-sizes.pth", "grad_toy-sizes.pth")
    assert convert_grad_to_basis.main(embedded(CONVERT)[2:]) == 0
    assert Path("basis_toy-sizes.pth").stat().st_size


@pytest.mark.parametrize(("command", "line"), LISTS)
def test_a_list_is_printed(capsys, command, line):
    assert list_clip_layers.main(shlex.split(command)[2:]) == 0
    assert line in capsys.readouterr().out


def test_the_loop_of_a_users_own(cli):
    """For each dataset, one folder, --load of the task before: every task trains its full number of steps."""
    previous = []
    for dataset in ("DTD", "Flowers", "CIFAR100"):
        run(cli, f"{FINETUNE.replace('DTD', dataset)} --save ckpt/zscl_run --eval-datasets DTD,Flowers "
                 + " ".join(previous))
        previous = ["--load", f"ckpt/zscl_run/{dataset}.pth"]
        stored = json.loads(Path(f"ckpt/zscl_run/run_{EMBEDDED[dataset]}.json").read_text(encoding="utf-8"))
        assert stored["iterations"] == 3
    with Path("ckpt/zscl_run/metrics_toy-sizes.csv").open(encoding="utf-8", newline="") as file:
        assert [row["task"] for row in csv.DictReader(file)] == ["toy-sizes", "toy-shapes", "toy-colours"]


@pytest.mark.parametrize("command", [
    *(f"{command}\n" for command in (FINETUNE, ZSCL, EVALUATE, CLASSIFY, LORA, LORA_SHARED, LORA_SPLIT, OGD_1, OGD_2,
                                     CONVERT)),
    *(command + " " for command, _ in LISTS), *BEGINNINGS])
def test_the_readme_has_the_command(command):
    assert f"\n{command}" in README
