"""Every command of the documents runs, shortened, on the embedded model and data; or it is listed with the reason why
not, and read as far as that goes. What users were promised is there word for word."""

import importlib.util
import json
import os
import pickle
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cli_files import COLOURS, picture, write_pictures
from document_commands import DOCUMENTS, FIRST_READ, ROOT, NotExtracted, blocks, commands_of

import convert_grad_to_basis
import convert_shots
import list_clip_layers
from src.args import parse
from src.cli.checks import check
from src.cli.flags import FLAGS
from src.cli.kinds import TRAINING
from src.cli.protocols import PROTOCOLS
from src.datasets import DATASETS, open_task
from src.datasets.shots import file_of
from src.datasets.splits import with_shots

pytest_plugins = ["cli_fixtures", "dataset_fixtures"]

# Data and protocols of the toy world instead of those that no test has; longer names first.
EMBEDDED = {"Aircraft,Caltech101,DTD,EuroSAT,Flowers,Food,MNIST,OxfordPet,StanfordCars,SUN397": "toy-sizes,toy-shapes",
            "CIFAR100/10": "toy-colours/4", "CIFAR100": "toy-colours", "DTD": "toy-sizes", "Flowers": "toy-shapes",
            "MNIST": "toy-textures", "ImageNet": "toy-reference", "conceptual_captions": "toy-reference",
            "coco": "toy-pairs-new", "flickr30k": "toy-pairs-dull", "--model-name RN": ""}
ORDER = ("toy-sizes", "toy-colours")  # of the named orders of class data
SHORT = "--model toy --iterations 3 --batch-size 8 --max-evaluation-size 16"
SHORT_EPOCH = "--model toy --batch-size 64 --max-evaluation-size 16"
SHORT_EVALUATION = "--model toy --max-evaluation-size 16"
SHORT_LINEAR = "--model toy --linear-epochs 1"

# -- what does not run here, and why: all commands of a program, or one ------------------------------------------------

NOT_RUN = {
    "make": "installs packages first, and most targets take minutes; the script of make demo runs below",
    "pip": "installs packages", "conda": "installs packages",
    "sbatch": "needs a cluster: tests/test_train_sh.py has one that records, tests/slurm a real one",
    "torchrun": "processes of their own: tests/machine/test_distributed.py starts some",
    "python -m benchmarks.run full ROW --again":
        "a full row takes minutes; tests/benchmarks/test_benchmarks.py runs tiny ones",
    "python -m benchmarks.floors": "half a minute; tests/benchmarks/test_benchmarks.py holds its figures",
    "python -m benchmarks.operations": "tests/benchmarks/test_operations.py counts the same",
    "python -c \"import torch\"": "the peer of a benchmark, which does nothing",
    "python -m src.main --fetch ImageNetV2": "downloads 1.3 GB; tests/run/test_fetch.py downloads from this machine",
    "python scripts/pretrain_toy.py --seed 0 --output clip/weights/toy.pth":
        "four minutes; tests/datasets/test_toy.py runs it",
    "python scripts/make_toy_vit.py --seed 0 --output clip/weights/toy-vit.pth":
        "half an hour; tests/test_make_toy_vit.py runs its parts",
    "python tests/tools/same_bits.py": "minutes; tests/test_same_bits.py tests its parts",
    "python scripts/arguments.py --write": "writes into the checkout; tests/cli/test_arguments.py runs it elsewhere",
    ".venv/bin/python -m pytest tests/test_x.py": "is what runs this test",
    "python -m src.main --load ckpt/dtd_ft/DTD.pth --export ckpt/dtd_open_clip":
        "the embedded ResNet has no place in open_clip's layout; tests/run/test_export.py exports others",
    "python -m src.main --method inflora --dataset-order cil-pilot-cifar100-10 --train-mode image --inflora-sites k,v "
    "--inflora-rank 10 --inflora-scale 1 --inflora-dropout 0 --inflora-memory dualgpm --inflora-energy 0.95 "
    "--inflora-energy-step 0.005 --optimizer adam --lr 5e-4 --wd 0 --ls 0 --batch-size 128 --epochs 20 "
    "--schedule late-cosine --save ckpt/cil_inflora":
        "the embedded image tower is a ResNet; tests/models/test_inflora.py trains small ViTs",
    "python -m src.main --recipe rail --dataset-order mtil-1 --save ckpt/mtil1_rail":
        "the published projection is of ViTs, and the embedded image tower is a ResNet; see tests/models/test_rail.py",
    "python -m src.main --recipe diki --dataset-order mtil-1-coop --save ckpt/mtil1_diki":
        "wants val images, which the toy world lacks: tests/models/test_selected_epoch.py, tests/datasets/test_coop.py",
    **dict.fromkeys((
        "python -m src.main --recipe moe-adapters --dataset-order mtil-1 --save ckpt/mtil1_moe",
        "python -m src.main --recipe moe-adapters --dataset-order mtil-1 --shots 5 --iterations 500 --ddas-lr 0.003 "
        "--ddas-decay 0 --ddas-threshold 0.06 --save ckpt/mtil1_moe_5"),
        "needs AlexNet's weights, which torchvision downloads; tests/models/test_ddas.py has a random AlexNet"),
    "python -m src.main --load my_adapter --model ViT-B/16 --eval-only --eval-datasets DTD":
        "wants an adapter of ViT-B/16, and its weights; tests/run/test_weights.py merges small ones",
    "python -m src.main --study studies/toy.yaml --jobs 2 --save ckpt/study":
        "minutes, in processes of its own; tests/run/test_study.py runs small ones",
    "python -m src.main --study studies/xtail.yaml --data-location data --jobs auto --save ckpt/xtail":
        "hours; tests/cli/test_cli_study.py reads its cells",
    "python -m src.main --study studies/toy.yaml --save ckpt/study --task-cache ckpt/tasks":
        "minutes, in processes of its own; tests/run/test_cached.py runs a small one",
    "python -m src.main --seed 1,2,3 --method lwf --dataset-order toy --save ckpt/seeds":
        "minutes, in processes of its own; tests/run/test_study.py runs small ones",
    **dict.fromkeys((
        "python -m src.main --reproduce mtil-1-zeroshot --data-location data --save ckpt/zeroshot",
        "python -m src.main --reproduce mtil-1-zeroshot --data-location data --save ckpt/zeroshot --dry-run"),
        "needs the datasets of MTIL by their names; tests/run/test_reproduce.py runs small ones"),
    "python scripts/reproductions.py --write":
        "writes into the checkout; tests/test_reproductions_table.py runs it elsewhere",
    "mkdocs": "needs packages of its own: tests/test_pages.py builds the site where they are",
    "pre-commit install": "writes into the checkout's .git; tests/test_habits.py reads its file",
}


def reason(command):
    """Why a command does not run here; None where it does."""
    if command.script:
        return None
    words = command.words
    first = next(index for index, word in enumerate(words) if not re.fullmatch(r"\w+=.*", word))
    return next((NOT_RUN[text] for text in (command.text, words[first], " ".join(words[:2])) if text in NOT_RUN), None)


COMMANDS = list({command.text.removeprefix(".venv/bin/"): command for document in reversed(DOCUMENTS)
                 for command in reversed(commands_of(document)) if not command.mention}.values())[::-1]
RUN = [command for command in COMMANDS if not reason(command)]
READ = [command for command in COMMANDS if reason(command)]


def name_of(command):
    return f"{command.document}:{command.line}"


# -- a place with all that commands name -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A folder with a finished task, its basis, and a finished sequence, of three steps each."""
    from src.main import main
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, "toy", replace(PROTOCOLS["toy"], order=ORDER))
        task = f"--train-dataset toy-sizes --orthogonal-gradients 3 --lr 1e-4 --save {folder / 'task'}"
        for words in (task, f"--dataset-order toy --keep-features --save {folder / 'sequence'}"):
            assert main([*words.split(), *SHORT.split(), "--quiet"]) == 0
    return folder


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty working directory beside the scripts, where named orders are those of two embedded tasks."""
    monkeypatch.chdir(tmp_path)
    for name in ("scripts", "studies"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in [name for name in PROTOCOLS if name != "toy-pairs"]:
        protocol = PROTOCOLS[name]
        rates = {} if name == "toy" else {"lr": {None: 1e-5}}
        monkeypatch.setitem(PROTOCOLS, name, replace(protocol, order=ORDER, values=protocol.values | rates
                                                     | {"model": "toy"}))


def embedded(text):
    if "--check-data" in text:  # of which there are small copies
        return shlex.split(text, comments=True)
    for name, toy in EMBEDDED.items():
        text = re.sub(rf"(?<![A-Za-z0-9-]){re.escape(name)}(?![A-Za-z0-9])", toy, text)
    return shlex.split(text, comments=True)


def furnish(words, finished):
    """Put there what the words of a command name."""
    values = {flag: value for flag, value in zip(words, words[1:], strict=False) if flag.startswith("--")}
    sources = {"--load": finished / "task" / "toy-sizes.pth", "--input": finished / "task" / "grad_toy-sizes.pth",
               "--orthogonal-gradients-path": finished / "task" / "grad_toy-sizes.pth"}
    if "=" in values.get("--input", ""):  # a pickled list of shots
        file = Path(values["--input"].partition("=")[2])
        file.parent.mkdir(parents=True)
        file.write_bytes(pickle.dumps({"train": [("/data/a/1.jpg", 0, "a"), ("/data/b/2.jpg", 1, "b")]}))
        sources.pop("--input")
    if "--shots-file" in values:
        file = Path(values["--shots-file"])
        file.parent.mkdir(parents=True, exist_ok=True)
        few = [with_shots(open_task(name, ""), 5, 0, "") for name in ORDER]
        file.write_text(json.dumps(file_of({task.name: task.shots for task in few})), encoding="utf-8")
    for flag in sources.keys() & values.keys():
        for file in map(Path, values[flag].split(",")):
            if not file.exists():  # else a command before has left it
                file.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(sources[flag], file)
    for folder in filter(None, (*values.get("--report", "").split(","), values.get("--rescore"))):
        shutil.copytree(finished / "sequence", folder, dirs_exist_ok=True)
    for name in re.findall(r"folder:(\w+)", " ".join(words)):
        write_pictures(Path(name), COLOURS, 10)
    if "--eval-single" in values:
        image = Path(values["--eval-single"])
        picture(image if image.suffix else image / "cat.png", 0.3, 0)
    if values.get("--recipe", "").endswith(".yaml"):
        Path(values["--recipe"]).write_text("flags:\n  method: lwf\n  iterations: 1000\n  lr: 1e-5\n",
                                                 encoding="utf-8")
    for code in (values.get("--method", ""), values.get("--hooks", "")):
        if ".py:" in code:
            Path(code.partition(":")[0]).write_text("\n".join(classes()), encoding="utf-8")


def classes():
    """The Python blocks of documents that define a method."""
    texts = ((ROOT / document).read_text(encoding="utf-8") for document in ("README.md", "docs/your-method.md"))
    found = [block for text in texts for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]
    return [block for block in found if re.search("^class ", block, re.MULTILINE)]


@pytest.fixture
def run(cli, capsys, monkeypatch, finished, request):
    """run(words): one command of Python, in this process."""
    def program(words):
        words = embedded(shlex.join(words))
        furnish(words, finished)
        if words[1:3] == ["-m", "src.main"]:
            return of_main(words[3:])
        programs = {"list_clip_layers.py": list_clip_layers, "convert_grad_to_basis.py": convert_grad_to_basis,
                    "convert_shots.py": convert_shots}
        assert programs[words[1]].main(words[2:]) == 0
        return capsys.readouterr().out

    def of_main(words):
        config = told_nothing_idle(words)
        if config.check_data:
            return checked(config.check_data, words)
        done = cli(*words, *shortened(config))
        assert done.status == 0 and "error" not in done.err, done.err
        if config.kind in TRAINING and config.save and config.dry_run == "off":
            all_is_kept(config)
        return done.out

    def checked(names, words):
        """Small copies have the sizes that are expected here; that some classes have no image is all that they lack."""
        request.getfixturevalue("unverified")
        world = request.getfixturevalue("every_dataset")
        for name in names:
            monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], sizes=world.copies[name].sizes))
        done = cli(*words, "--data-location", world.root)
        lines = done.out.splitlines()
        faults = [line for line in lines if line.startswith("  fault: ")]
        # The copy of Conceptual Captions lacks an image and a title, which notes say.
        starts = (*(f"{name}: " for name in names), "  fault: ", "note: ")
        assert all(line.startswith(starts) for line in lines), done.out
        assert done.status == bool(faults) and all("no image of" in fault for fault in faults), done.out + done.err
        return done.out
    return program


def shortened(config):
    """Words that are added; of what a recipe names too, the toy world's is taken."""
    words = [word for key in ("ref_dataset", "ref_sentences") if config.values[key] in EMBEDDED
             for word in (FLAGS[key].name, EMBEDDED[config.values[key]])]
    if is_closed_form(config):
        narrow = config.method == "rail" and config.rail_form == "primal"
        return words + (f"{SHORT_EPOCH} --rail-width 64" if narrow else SHORT_EPOCH).split()
    if config.kind in TRAINING:
        return words + (SHORT_EPOCH if config.given("epochs") else SHORT).split()
    if config.eval_only:
        return (SHORT_LINEAR if config.linear_eval else SHORT_EVALUATION).split()
    return []


def is_closed_form(config):
    """Whether the method of a training run takes no steps."""
    return config.kind in TRAINING and config.method_row.hook().closed_form


def told_nothing_idle(words):
    """The command as the document has it: no word of it is without effect."""
    config = parse(words)
    assert not [warning for warning in check(config).warnings if "no effect" in warning]
    return config


def all_is_kept(config):
    """Weights, metrics, a description of three steps; the adapter and the basis where they were asked for."""
    folder = Path(config.save)
    for name in ("joint",) if config.joint else config.trained:
        stem = name.removeprefix("folder:")
        steps = json.loads((folder / f"run_{stem}.json").read_text(encoding="utf-8"))["iterations"]
        assert steps == (0 if is_closed_form(config) else 3) or config.given("epochs")
        kept = [f"{stem}.pth"] + [f"{stem}.lora.pth"] * config.lora + [f"grad_{stem}.pth"] * bool(
            config.orthogonal_gradients)
        assert all((folder / file).stat().st_size for file in kept)
        assert config.pairs or list(folder.glob("metrics_*.csv"))


def recorded(shell, folder, *words):
    """The commands of Python that a shell's words run, none of them executed."""
    python, log = folder / "bin" / "python", folder / "log"
    python.parent.mkdir(exist_ok=True)
    python.write_text('#!/bin/sh\nfor word in python "$@"; do printf "%s\\n" "$word"; done >> "$LOG"\necho >> "$LOG"\n',
                      encoding="utf-8")
    python.chmod(0o755)
    log.write_text("", encoding="utf-8")
    own = {"LOG": str(log), "PATH": f"{python.parent}:{os.environ['PATH']}", "PYTHON": "python"}  # whatever make had
    done = subprocess.run([shell, *words], capture_output=True, text=True, timeout=60, check=False,
                          env=os.environ | own)
    assert done.returncode == 0, done.stderr
    return [block.split("\n") for block in log.read_text(encoding="utf-8").split("\n\n") if block]


# -- they run ----------------------------------------------------------------------------------------------------------


# Of what is read first, what takes longest: shorter commands of the same documents do its parts.
LONG = ("previous=\n", "python -m src.main --method modx --dataset-order toy-pairs ",
        *(f"python -m src.main --method my.py:{name} " for name in ("Biases", "TwoRates")))


def is_slow(command):
    return command.document not in FIRST_READ or any(command.text.startswith(text) for text in LONG)


@pytest.mark.parametrize("command", [
    pytest.param(command, id=name_of(command), marks=pytest.mark.slow if is_slow(command) else ()) for command in RUN])
def test_a_command_runs(command, run, tmp_path):
    if command.script:
        commands = recorded("sh", tmp_path, "-ec", command.text)
    elif command.words[0] in ("sh", "bash"):
        commands = recorded(*command.words[:1], tmp_path, *command.words[1:])
    else:
        commands = [command.words]
    assert commands
    for words in commands:
        run(words)


@pytest.mark.slow
def test_what_make_demo_runs(run, tmp_path):
    # A make that runs these tests would have this one say which folder it enters and leaves.
    [line] = subprocess.run(["make", "--no-print-directory", "-n", "demo"], cwd=ROOT, capture_output=True, text=True,
                            check=True).stdout.splitlines()[-1:]
    assert line.startswith("sh scripts/demo.sh ")
    for words in recorded("sh", tmp_path, "scripts/demo.sh"):
        printed = run(words)
    assert all(f"| {method} " in printed for method in ("zero-shot", "finetune", "lwf", "ZSCL"))


@pytest.mark.parametrize("command", COMMANDS, ids=name_of)
def test_the_shell_reads_it(command):
    subprocess.run(["bash", "-n", "-c", command.text], check=True, timeout=60)


@pytest.mark.parametrize("command", READ, ids=name_of)
def test_what_does_not_run_is_read(command, monkeypatch, finished):
    words = [word for word in command.words if not re.fullmatch(r"[A-Z]+=.*", word)]
    READERS[words[0]](words, monkeypatch, finished)


def read_make(words, *_):
    subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True, timeout=60)


OPTIONAL_PACKAGES = {"pillow-heif", "clip-continual[wilds]"}  # no requirement: what needs one says so


def read_file_word(words, *_):
    assert words[-1] in OPTIONAL_PACKAGES or (ROOT / words[-1]).exists()


def read_sbatch(words, monkeypatch, finished):
    at = words.index("train.sh")
    assert all(word.startswith("--") for word in words[1:at])
    if words[at + 1:] not in ([], ["..."]):
        read_main([word.replace("{}", "DTD" if before == "--train-dataset" else "1")
                   for before, word in zip(words[at:], words[at + 1:], strict=False)], finished)


def read_torchrun(words, monkeypatch, finished):
    monkeypatch.setenv("WORLD_SIZE", words[words.index("--nproc-per-node") + 1])
    read_main(words[words.index("src.main") + 1:], finished)


def read_main(words, finished):
    words = embedded(shlex.join(words))
    furnish(words, finished)
    told_nothing_idle(words)


def read_python(words, monkeypatch, finished):
    if words[1:3] == ["-m", "src.main"]:
        read_main(words[3:], finished)
    elif words[1] == "-c":
        compile(words[2], "-c", "exec")
    elif words[1] == "-m":
        assert importlib.util.find_spec(words[2].split()[0])
    else:
        compile((ROOT / words[1]).read_text(encoding="utf-8"), words[1], "exec")


READERS = {"make": read_make, "pip": read_file_word, "conda": read_file_word, "sbatch": read_sbatch,
           "torchrun": read_torchrun, "python": read_python, ".venv/bin/python": read_python,
           "pre-commit": lambda *_: None, "mkdocs": lambda *_: None}


def test_what_does_not_run_stands_in_a_document():
    used = {reason(command) for command in READ}
    assert [text for text, why in NOT_RUN.items() if why not in used] == []
    assert all(any(command.text.startswith(text) for command in RUN) for text in LONG)


# -- none is missed ----------------------------------------------------------------------------------------------------

DOCUMENT = """
Text with `python -m src.main --list-datasets` and `make
test` in it, and `python` alone.

    make demo                       # a remark
    data/ImageNet/train/*.JPEG

```sh
python list_clip_layers.py \\
    --params
# a remark
EACH="A B" sbatch train.sh
```

```sh
for dataset in A B; do
    python -m src.main --train-dataset $dataset
done
```

```python
import torch  # python -m nothing
```

```
| a | table |
    .venv/bin/python -m src.main --report a,b
```

| `python -m src.main ...` | what |
"""


def test_commands_are_found_wherever_they_stand():
    found = commands_of("some.md", DOCUMENT)
    assert [(command.line, command.text) for command in found] == [
        (2, "python -m src.main --list-datasets"), (2, "make test"), (5, "make demo"),
        (10, "python list_clip_layers.py --params"), (12, 'EACH="A B" sbatch train.sh'),
        (16, "for dataset in A B; do\n    python -m src.main --train-dataset $dataset\ndone"),
        (27, ".venv/bin/python -m src.main --report a,b"), (30, "python -m src.main ...")]
    assert [command.text for command in found if command.mention] == ["python -m src.main ..."]
    assert [command.script for command in found].count(True) == 1


@pytest.mark.parametrize("text", [
    "```sh\nnew-program run\n```", "    new-program --flag value\n", "```\nnew-program --flag=1\n```",
    "Type python -m src.main --list-datasets now.", "Type python list_clip_layers.py now.",
    "    env X=1 python3.11 -m src.main --x\n"])
def test_what_cannot_be_extracted_fails(text):
    with pytest.raises(NotExtracted, match="^some.md:[12]: "):
        commands_of("some.md", text)


def test_a_new_program_needs_a_reason_or_a_way_to_run():
    [command] = commands_of("some.md", "`python new.py --flag`")
    assert reason(command) is None  # it is run, and fails as there is no such program


# -- flags -------------------------------------------------------------------------------------------------------------

OTHERS_FLAGS = {  # of programs that are not src.main, where documents name them
    "--nproc-per-node", "--array", "--gres", "--time", "--again", "--write", "--help", "--version", "--linear-only",
    "--params", "--input", "--output", "--strict",
    # Mod-X's, in the left column of its table; older scripts write words with underscores.
    "--coco_train_img_dir", "--coco_train_annotation_file", "--flickr30k_train_img_dir",
    "--flickr30k_train_annotation_file", "--num_train_epochs", "--params_lr", "--params_weight_decay", "--params_eps",
    "--per_gpu_train_batch_size", "--train_dir", "--saved_checkpoints", "--checkpoint_path", "--start", "--end",
    "--model_name", "--cnn", "--lr-classifier", "--weight-decay", "--val_dir", "--print-freq", "--checkpoint-dir",
    "--batch_size"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_flags_that_documents_name_are_there(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    if document.endswith(".sh"):
        text = text.partition("#SBATCH")[0]
    named = set(re.findall(r"(?<![\w-])--[A-Za-z][\w-]*", text))
    assert named - {flag.name for flag in FLAGS.values()} <= OTHERS_FLAGS


# -- documents that agree ----------------------------------------------------------------------------------------------


def rooms():
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("| room |")[2].partition("\n\n")[0]
    return [path for line in table.splitlines()[2:] for path in re.findall(r"`([\w/.]+)`", line.split("|")[1])]


def test_every_module_has_its_room():
    modules = {str(path.relative_to(ROOT)) for path in ROOT.glob("src/**/*.py")} - {"src/__init__.py"}
    assert not [module for module in modules if not any(module == room or room.endswith("/") and module.startswith(room)
                                                        for room in rooms())]


def test_every_room_is_there():
    assert not [room for room in rooms() if not (ROOT / room).exists()]
    assert len(rooms()) == len(set(rooms()))


def test_the_ten_commands_are_ten():
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8").partition("## Ten commands")[2]
    [first] = [lines for _, language, lines in blocks(text) if language == "sh"][:1]
    assert sum(not line.startswith("#") for line in first) == 10


# -- what users were promised ------------------------------------------------------------------------------------------

TASK = "--train-dataset DTD --iterations 1000 --lr 1e-5"
PROMISED = [
    f"python -m src.main --method finetune --train-mode whole {TASK} --save ckpt/dtd_ft\n",
    "python -m src.main --method ZSCL --train-mode whole --train-dataset DTD --ref-dataset ImageNet "
    "--ref-sentences conceptual_captions --iterations 1000 --lr 1e-5 --save ckpt/dtd_zscl\n",
    "python -m src.main --load ckpt/dtd_ft/DTD.pth --eval-datasets DTD,CIFAR100 --eval-only\n",
    "python -m src.main --load ckpt/dtd_ft/DTD.pth --eval-single path/to/image.jpg "
    "--class-names data/text_classes/imagenet_classes.txt --eval-only\n",
    f"python -m src.main --lora --lora-r 8 --lora-alpha 16 {TASK}",
    f"python -m src.main --lora --lora-shared --lora-r 8 --lora-alpha 16 {TASK}",
    f"python -m src.main --lora --lora-shared --lora-shared-split-qkvo --lora-r 8 --lora-alpha 16 {TASK}",
    "python -m src.main --method finetune --train-dataset DTD --orthogonal-gradients 10 --save ckpt/ogd/task1 ",
    "python -m src.main --method finetune --train-dataset Flowers --orthogonal-gradients 10 "
    "--orthogonal-gradients-path ckpt/ogd/task1/grad_DTD.pth --save ckpt/ogd/task2 ",
    "python convert_grad_to_basis.py --input grad_DTD.pth --output basis_DTD.pth\n",
    "python list_clip_layers.py --linear-only ", "python list_clip_layers.py --params ", "sbatch train.sh",
]


@pytest.mark.parametrize("command", PROMISED)
def test_the_commands_are_there_word_for_word(command):
    assert f"\n{command}" in (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


def rows(text):
    return [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]


def test_evaluation_answers_with_a_row_a_dataset(run):
    assert rows(run(shlex.split(PROMISED[2]))) == ["dataset", "toy-sizes", "toy-colours"]


def test_one_image_answers_with_five_of_the_thousand_names(run):
    found = rows(run(shlex.split(PROMISED[3])))
    names = Path("data/text_classes/imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
    assert len(names) == 1000 and len(found) == 6 and {*found[1:]} <= {*names}


@pytest.mark.parametrize(("command", "line"), [
    (PROMISED[10], "visual.transformer.resblocks.0.mlp.c_fc"), (PROMISED[11], "149,620,737 values")])
def test_a_list_is_printed(run, command, line):
    assert line in run(shlex.split(command))


def test_the_loop_of_a_users_own(run):
    """One folder, --load of the task before: every task trains its full number of steps and leaves its row."""
    previous = []
    for dataset in ("DTD", "Flowers", "CIFAR100"):
        words = shlex.split(PROMISED[0].replace("DTD", dataset)) + ["--save", "ckpt/zscl_run", *previous]
        run([*words, "--eval-datasets", "DTD,Flowers"])
        previous = ["--load", f"ckpt/zscl_run/{dataset}.pth"]
    table = Path("ckpt/zscl_run/metrics_toy-sizes.csv").read_text(encoding="utf-8").splitlines()
    task = table[0].split(",").index("task")
    assert [line.split(",")[task] for line in table[1:]] == ["toy-sizes", "toy-shapes", "toy-colours"]
