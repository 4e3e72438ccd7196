"""Checks over several flags: a contradiction is one error, a flag without effect exactly one warning."""

import re

import pytest

from src.args import parse
from src.cli import checks
from src.cli.flags import FLAGS
from src.cli.kinds import EVAL, EXPORT, SEQUENCE, SINGLE, TRAIN, a_run
from src.errors import UserError
from src.models import METHODS, takes

TASK = "--train-dataset toy-colours --iterations 1 --lr 1e-5 --save out"
CLOSED_FORM = "--train-dataset toy-colours --save out"  # whose methods refuse what acts in steps
PAIRS = "--train-dataset coco --iterations 1 --lr 1e-5 --save out"
RUNS = {
    TRAIN: TASK,
    SEQUENCE: "--dataset-order toy-colours,toy-sizes --iterations 1 --lr 1e-5 --save out",
    EVAL: "--eval-only --eval-datasets toy-colours",
    SINGLE: f"--eval-single {__file__} --class-names {__file__}",
    EXPORT: f"--load {__file__} --export out",
}
# A value of each flag that is not a switch; a file where one must be there.
VALUES = {"train_dataset": "toy-colours", "dataset_order": "toy-colours,toy-sizes", "lr": "1e-5", "workers": "0",
          "load": __file__, "model_config": __file__, "model_name": "tiny", "ref_dataset": "toy-reference",
          "ref_sentences": "random", "text_datasets": "toy-sizes", "ref_model": __file__, "eval_single": __file__,
          "class_names": __file__, "prompt": "{}", "eval_datasets": "toy-sizes", "beta2": "0.5", "ls": "0.5",
          "val_fraction": "0.5", "set": "a=1", "hooks": f"{__file__}:Any",
          "orthogonal_gradients_path": __file__, "lora_dropout": "0.5",
          "nusa_energy": "0.5", "nusa_dropout": "0.5", "inflora_sites": "k,v", "inflora_dropout": "0.5",
          "moe_experts": "2", "moe_dropout": "0.5", "ddas_reference": "toy-reference",
          "shots_file": __file__,
          "label_space": "all", "recipe": "wc", "image_dir": "coco=a", "annotations": "coco=a",
          "save_interval": "5", "flickr_splits": "train", "linear_eval": "toy-colours", "num_phases": "2", "phase": "1"}
NEEDED = {"ZSCL": "--ref-dataset toy-reference"}
# These make another kind of run, or are an error rather than a warning where they cannot act.
STARTS_A_RUN = {"train_dataset", "dataset_order", "eval_only", "eval_single", "report", "list_datasets", "check_data",
                "fetch", "split_file", "joint", "study", "rescore", "reproduce"}
WITH_EXPORT = {(EXPORT, key) for key in ("iterations", "epochs", "wise_ft")}


ARTICLE = re.compile(r"\b(an?) ([A-Za-z]\w*)", re.IGNORECASE)
CONSONANT = re.compile(r"(?:one|uni|use|uint|url)\w*", re.IGNORECASE)  # words with a vowel in writing only


def checked(words):
    """The remarks of the checks about a command line; they read well."""
    remarks = checks.check(parse(words.split()))
    assert wrong_articles(" | ".join([*remarks.warnings, *remarks.notes])) == []
    return remarks


def wrong_articles(text):
    """["a evaluation", ...]: the articles of a text that do not fit the words after them."""
    return [found[0] for found in ARTICLE.finditer(text)
            if (found[1].lower() == "an") != (found[2][0].lower() in "aeiou" and not CONSONANT.fullmatch(found[2]))]


def test_wrong_articles_are_found():
    assert wrong_articles("a evaluation, an training run") == ["a evaluation", "an training"]
    assert wrong_articles("an evaluation run, a training run, a user, a uint8, a URL, an image, A single image") == []


@pytest.mark.parametrize("kind", RUNS)
def test_the_article_before_a_kind_of_run(kind):
    """Of every message in which a kind of run is named; those of the other tests are looked at as they are made."""
    assert wrong_articles(a_run(kind)) == [] and a_run(kind).endswith(f" {kind} run")


def word(flag):
    return flag.name if flag.switch else f"{flag.name} {VALUES.get(flag.key, (flag.choices or ['1'])[0])}"


@pytest.mark.parametrize("words", RUNS.values(), ids=RUNS)
def test_a_plain_run_has_nothing_to_say(words):
    assert checked(words).warnings == []


@pytest.mark.parametrize(("kind", "flag"), [
    (kind, flag) for kind in RUNS for flag in FLAGS.values()
    if kind not in flag.runs and flag.key not in STARTS_A_RUN and (kind, flag.key) not in WITH_EXPORT],
    ids=lambda part: getattr(part, "name", part))
def test_flag_of_another_kind_of_run(kind, flag):
    warnings = checked(f"{RUNS[kind]} {word(flag)}").warnings
    assert warnings == [f"{flag.name} has no effect in {a_run(kind)}"]


@pytest.mark.parametrize(("method", "key"), [
    (name, key) for name, method in METHODS.items() if takes(method.data, pairs=False)
    for key in sorted({key for other in METHODS.values() for key in other.uses} - set(method.uses))])
def test_flag_of_another_method(method, key):
    task = CLOSED_FORM if METHODS[method].closed_form else TASK
    warnings = checked(f"{task} --method {method} {NEEDED.get(method, '')} {word(FLAGS[key])}").warnings
    assert warnings == [f"{FLAGS[key].name} has no effect with --method {method}"]


@pytest.mark.parametrize(("words", "fragments"), [
    ("--train-dataset toy-colours --iterations 1 --lr 1e-5", ["without --save"]),
    (f"{TASK} --lr 1e-4", ["--lr 0.0001", "1e-5"]),
    (f"{TASK} --lr 1e-5,toy-colours=1e-3", ["--lr 0.001"]),
    (f"{TASK} --lr 1e-3 --init scratch", None),
    (f"{TASK} --lr 9e-5", None),
    ("--dataset-order toy --save out", None),  # the protocol's own rate
    (f"{TASK} --lr 1e-3 --model toy", None), (f"{TASK} --lr 1e-3 --model toy-vit", None),
    (f"{TASK} --lr 1e-3 --model tiny-vit", ["--lr 0.001"]),
    (f"{TASK} --method lwf --text-datasets toy-sizes --ref-sentences random", ["--ref-sentences", "--text-datasets"]),
    (f"{TASK} --shot-seed 1", ["--shot-seed has no effect without --shots"]), (f"{TASK} --shots 2 --shot-seed 1", None),
    (f"{TASK} --avg-freq 5", ["--avg-freq has no effect without --we or --we-wise"]),
    (f"{TASK} --we --avg-freq 5 --l2 1", None), (f"{TASK} --moving-avg --mv-avg-decay 0.5", None),
    (f"{TASK} --we --we-wise-alpha 0.5", ["--we-wise-alpha has no effect without --we-wise"]),
    (f"{TASK} --wise-ft-alpha 0.5", ["--wise-ft-alpha has no effect without --wise-merge"]),
    (f"{TASK} --method ZSCL --ref-dataset DTD --ref-wise-alpha 0.5", ["--ref-wise-alpha", "without --ref-wise"]),
    (f"{TASK} --method lwf --text-tower-weight 2", ["--text-tower-weight", "without --distill-text-tower"]),
    (f"{TASK} --method lwf --text-tower-weight 2 --distill-text-tower", None),
    (f"{TASK} --method lwf --train-mode text --distill-text-tower", None),
    (f"{TASK} --method lwf --train-mode text --distill-text-tower --image-loss", ["--image-loss", "image tower"]),
    (f"{TASK} --method icarl --memory-size 5 --replay-weight 2", None),
    (f"{TASK} --train-mode fc --fc-init zero", None), (f"{TASK} --fc-init zero", ["--fc-init", "no head"]),
    (f"{TASK} --orthogonal-energy 0.5", ["--orthogonal-energy has no effect without --orthogonal-gradients or "]),
    (f"{TASK} --orthogonal-gradients-path {__file__} --orthogonal-dtype fp16", ["--orthogonal-dtype", "without"]),
    (f"{TASK} --orthogonal-gradients 3 --orthogonal-target gradient", ["--orthogonal-target", "nothing is projected"]),
    (f"{TASK} --orthogonal-gradients-path {__file__} --orthogonal-target gradient", None),
    (f"{TASK} --orthogonal-gradients 3 --orthogonal-dtype fp16 --orthogonal-budget 1", None),
    (f"{TASK} --lora-r 4", ["--lora-r has no effect without --lora"]), (f"{TASK} --lora --lora-r 4", None),
    (f"{TASK} --lora --lora-shared-split-qkvo", ["--lora-shared-split-qkvo has no effect without --lora-shared"]),
    (f"{TASK} --lora --lora-shared --lora-dropout 0.5", ["--lora-dropout", "an option of peft"]),
    (f"{TASK} --lora --lora-shared --lora-shared-split-qkvo", None),
    (f"{PAIRS} --method modx --modx-alpha 3 --caption-choice first --num-phases 2 --phase 2", None),
    (f"{PAIRS} --modx-alpha 3", ["--modx-alpha has no effect with --method finetune"]),
    (f"{PAIRS} --split-file coop", ["--split-file has no effect on image-text pairs"]),
    (f"{TASK} --split-file coop --val-fraction diki", ["--val-fraction diki has no effect", "CIFAR100 and MNIST"]),
    ("--dataset-order CIFAR100/10 --iterations 1 --lr 1e-5 --save out --split-file coop --val-fraction diki",
     ["--val-fraction diki has no effect", "all their classes"]),
    ("--dataset-order mtil-1-coop --val-fraction diki --save out", None),
    (f"--dataset-order toy-colours/2 --iterations 1 --lr 1e-5 --save out --split-file {__file__}", None),
    (f"{PAIRS} --last-batch drop", ["--last-batch has no effect on image-text pairs, which come in full batches"]),
    (f"{TASK} --last-batch drop", None),
    (f"{PAIRS} --ls 0.1", ["--ls has no effect"]), (f"{PAIRS} --phase 1", ["--phase", "without --num-phases"]),
    (f"{PAIRS} --num-phases 2 --phase-seed 1", ["--phase-seed", "contiguous"]),
    (f"{TASK} --caption-choice first", ["--caption-choice", "class data"]),
    ("--eval-only --eval-datasets DTD --method lwf", None),  # a run says so, which knows how the class scores
    (f"--eval-only --load {__file__} --alpha 0.5", ["--alpha has no effect without --wise-ft"]),
    (f"--eval-only --load {__file__} --wise-ft --alpha 0.5", None),
    ("--train-dataset DTD --epochs 2 --lr 1e-5 --schedule late-cosine --save out", None),
    ("--dataset-order CIFAR100/10,DTD --epochs 2,CIFAR100-2of10=1,DTD=3 --lr 1e-5 --save out", None),
    ("--dataset-order toy --recipe keeplora --save out", None),  # whose epochs name a dataset of MTIL
    (f"{TASK} --optimizer sgd --lr 5", None), (f"{TASK} --schedule onecycle", None), (f"{TASK} --lr-floor 1e-5", None),
    ("--dataset-order toy --save out --schedule onecycle", None),  # the protocol's own warm-up
    ("--dataset-order toy-pairs --save out --optimizer sgd", None),  # the protocol's own epsilon
    ("--train-dataset DTD --eval-only --iterations 3", ["--iterations has no effect in an evaluation run"]),
])
def test_warnings(words, fragments):
    warnings = checked(words).warnings
    assert len(warnings) == (fragments is not None)
    assert all(fragment in warnings[0] for fragment in fragments or ())


@pytest.mark.parametrize(("words", "fragments"), [
    ("", ["--train-dataset", "--dataset-order", "--eval-only", "--help"]),
    ("--lr 1e-5", ["nothing to do"]),
    ("--train-dataset DTD", ["--iterations", "--epochs"]),
    ("--dataset-order DTD,MNIST", ["--iterations", "--epochs"]),
    ("--train-dataset DTD --iterations 1 --epochs 1", ["--iterations", "--epochs", "exclude each other"]),
    ("--dataset-order toy --iterations 1 --epochs 1", ["--iterations", "--epochs", "exclude each other"]),
    (f"{TASK} --dataset-order DTD", ["--train-dataset", "--dataset-order", "exclude each other"]),
    (f"{TASK} --model RN50 --model-config {__file__}", ["--model", "--model-config", "exclude each other"]),
    (f"{TASK} --eval-interval 1 --eval-every-epoch", ["--eval-interval", "--eval-every-epoch", "exclude each other"]),
    (f"{TASK} --we --we-wise", ["--we", "--we-wise", "exclude each other"]),
    (f"{TASK} --we --moving-avg", ["--we", "--moving-avg", "exclude each other"]),
    (f"{TASK} --we-wise --moving-avg", ["--we-wise", "--moving-avg", "exclude each other"]),
    (f"{TASK} --method ZSCL --ref-dataset DTD --ref-wise --ref-model {__file__}", ["--ref-wise", "--ref-model"]),
    ("--eval-only --wise-ft --eval-datasets DTD", ["--wise-ft", "--load"]),
    (f"{TASK} --load {__file__} --init scratch", ["--load", "--init scratch", "exclude each other"]),
    (f"{TASK} --model-config {__file__}", ["--model-config", __file__, "--model-name"]),
    (f"{TASK} --model-name mine", ["--model-name mine", "--model-config"]),
    (f"{TASK} --model-config {__file__} --model-name mine", ["--model-config", "--init scratch", "--load"]),
    ("--eval-only", ["--eval-only", "--eval-datasets"]),
    ("--export out", ["--export out", "--load FILE", "--model NAME"]),
    (f"--eval-only --load {__file__} --wise-ft --export out", ["--wise-ft", "--export", "--wise-merge"]),
    (f"--eval-single {__file__}", ["--eval-single", "--class-names"]),
    (f"--eval-single {__file__} --class-names {__file__} --prompt photo", ["--prompt photo", "{}"]),
    (f"{TASK} --method ZSCL", ["--method ZSCL", "needs --ref-dataset"]),
    (f"{TASK} --method lwf --train-mode text", ["--method lwf", "--train-mode text", "image tower"]),
    (f"{TASK} --method icarl --train-mode text", ["--method icarl", "--train-mode text", "--distill-text-tower"]),
    (f"{TASK} --method icarl --train-mode fc", ["--method icarl", "--train-mode fc", "neither"]),
    (f"{TASK} --method lwf --train-mode fc --distill-text-tower", ["--method lwf", "--train-mode fc", "neither"]),
    (f"{TASK} --method lwf --train-mode image --distill-text-tower", ["--distill-text-tower", "--train-mode image"]),
    (f"{TASK} --method lwf --train-mode image-fc --distill-text-tower", ["--distill-text-tower", "image-fc"]),
    (f"{TASK} --lora --train-mode fc", ["--lora", "--train-mode fc", "neither"]),
    (f"{TASK} --orthogonal-gradients 2 --train-mode fc", ["projection", "--train-mode fc"]),
    (f"{TASK} --lora --orthogonal-gradients 2", ["--lora", "--orthogonal-gradients", "drawn again"]),
    (f"{TASK} --lora --orthogonal-gradients-path {__file__}", ["--lora", "--orthogonal-gradients-path", "drawn again"]),
    ("--train-dataset toy-colours --iterations 1 --orthogonal-gradients 2", ["--orthogonal-gradients", "--save"]),
    (f"{TASK} --orthogonal-gradients-path /no.pth", ["--orthogonal-gradients-path /no.pth", "no such file"]),
    (f"{TASK} --method modx", ["--method modx", "class data", "finetune, lwf, ZSCL, icarl, ewc"]),
    (f"{PAIRS} --method ZSCL --ref-dataset DTD", ["--method ZSCL", "image-text pairs", "finetune, ewc, modx"]),
    (f"{PAIRS} --method lwf", ["--method lwf", "image-text pairs"]),
    (f"{PAIRS} --method icarl", ["--method icarl", "image-text pairs"]),
    (f"{PAIRS} --train-mode fc", ["--train-mode fc", "no classes"]),
    ("--dataset-order coco,DTD --epochs 1", ["coco has captions", "DTD has classes"]),
    ("--joint --train-dataset coco,DTD --epochs 1", ["coco has captions", "DTD has classes"]),
    ("--joint --train-dataset DTD,DTD --epochs 1", ["--train-dataset DTD,DTD", "twice"]),
    ("--joint --train-dataset DTD,MNIST --method icarl --epochs 1", ["--joint", "icarl"]),
    ("--joint --dataset-order DTD,MNIST --epochs 1", ["--joint", "--dataset-order"]),
    ("--joint --train-dataset DTD,MNIST --train-mode fc --epochs 1", ["--joint", "--train-mode fc", "give whole"]),
    ("--joint --train-dataset DTD,MNIST --train-mode image-fc --epochs 1", ["--joint", "--train-mode image-fc"]),
    (f"{TASK} --num-phases 2", ["--num-phases 2", "image-text pairs", "CIFAR100/10"]),
    (f"{PAIRS} --num-phases 2 --phase 3", ["--phase 3", "there are 2"]),
    (f"{TASK} --image-dir cocoo=/x", ["--image-dir", "'cocoo'", "coco"]),
    ("--eval-only --eval-datasets DTD --label-space seen", ["--label-space seen", "--load"]),
    ("--dataset-order CIFAR100/200 --epochs 1", ["--dataset-order", "CIFAR100-1of200", "100 classes"]),
    ("--dataset-order toy-reference/2 --epochs 1", ["--dataset-order", "toy-reference-1of2", "no classes"]),
    ("--dataset-order DDT/2 --epochs 1", ["--dataset-order", "'DDT-1of2'"]),
    (f"{TASK} --method ZSCL --ref-dataset DTD --train-mode text", ["--method ZSCL", "--train-mode text"]),
    (f"{TASK} --lr 1e-5,DDT=1e-4,toys=1e-4", ["--lr", "DDT, toys", "not trained on"]),
    ("--dataset-order toy-colours,toy-sizes --epochs 3,MNIST=2", ["--epochs names MNIST", "not trained on"]),
    ("--joint --train-dataset DTD,MNIST --epochs 3,DTD=2", ["--epochs names DTD", "--joint", "give a single number"]),
    ("--joint --train-dataset DTD,MNIST --epochs 3 --lr 1e-5,DTD=1e-6", ["--lr names DTD", "--joint"]),
    ("--dataset-order DTD,MNIST --epochs 3,DTD=2 --iterations 4", ["--iterations", "--epochs", "exclude each other"]),
    ("--dataset-order mtil1 --epochs 1", ["--dataset-order", "mtil1", "mtil-1"]),
    (f"{TASK} --eval-datasets toy-colors", ["--eval-datasets", "'toy-colors'", "did you mean toy-colours"]),
    ("--train-dataset CIFAR-100 --epochs 1", ["--train-dataset", "'CIFAR-100'", "did you mean CIFAR100"]),
    ("--train-dataset zzzz --epochs 1", ["--train-dataset", "'zzzz'", "folder:PATH"]),
    ("--dataset-order DTD,toy-size --epochs 1", ["--dataset-order", "'toy-size'", "toy-sizes"]),
    (f"{TASK} --method ZSCL --ref-dataset toyreference", ["--ref-dataset", "'toyreference'", "toy-reference"]),
    (f"{TASK} --method lwf --ref-sentences randm", ["--ref-sentences", "'randm'"]),
    (f"{TASK} --method lwf --text-datasets DDT", ["--text-datasets", "'DDT'", "DTD"]),
    (f"{TASK} --load /no/such.pth", ["--load /no/such.pth", "no such file"]),
    (f"{TASK} --load org/name", ["--load org/name", "no such file", "hf-hub:org/name"]),
    (f"{TASK} --model /no.pth", ["--model /no.pth", "no such file"]),
    (f"{TASK} --model local.safetensors", ["--model local.safetensors", "no such file"]),
    (f"{TASK} --model {__file__} --init scratch", [f"--model {__file__}", "--init scratch"]),
    (f"{TASK} --model /", ["--model /", "without a known model"]),
    (f"{TASK} --load {'a' * 300}", ["--load aaa"]),
    (f"{TASK} --load /", ["--load /"]),
    (f"{TASK} --method ZSCL --ref-dataset DTD --ref-model /no.pth", ["--ref-model /no.pth", "no such file"]),
    (f"{TASK} --method ZSCL --ref-dataset DTD --ref-model teacher", ["--ref-model teacher", "no such file"]),
    (f"{TASK} --method ZSCL --ref-dataset DTD --ref-model /", ["--ref-model /", "without a known model"]),
    (f"{TASK} --model-config /no.yaml --model-name a --init scratch", ["--model-config /no.yaml", "no such file"]),
    ("--eval-single /no.png --class-names a", ["--eval-single /no.png", "no such file"]),
    (f"{TASK} --split-file /no.json", ["--split-file /no.json", "no such file"]),
    ("--dataset-order toy --split-file " + __file__, ["--split-file", "--train-dataset"]),
    (f"{TASK} --split-file {__file__} --val-fraction 0.5", ["--split-file", "--val-fraction"]),
    (f"{TASK} --split-file coop --val-fraction 0.5", ["--split-file", "--val-fraction"]),
    (f"--dataset-order toy-colours/2,toy-sizes --iterations 1 --split-file {__file__}",
     ["--split-file FILE", "ImageNetR/10"]),
    (f"{TASK} --val-fraction diki", ["--val-fraction diki", "--split-file DIR"]),
    (f"{TASK} --val-fraction diki --split-file {__file__}", ["--val-fraction diki", "--split-file DIR"]),
    ("--dataset-order toy --split-file /no/lists", ["--split-file /no/lists", "no such file or folder", "coop"]),
    (f"{TASK} --cache-images --skip-bad-images", ["--cache-images", "--skip-bad-images"]),
    ("--check-data DTDD", ["--check-data", "'DTDD'", "DTD"]),
    (f"{TASK} --save {__file__}", ["--save", __file__, "not a folder"]),
    (f"{TASK} --optimizer sgd --beta2 0.9", ["--beta2 with --optimizer sgd", "leave it out"]),
    (f"{TASK} --optimizer sgd --eps 1e-6", ["--eps with --optimizer sgd", "adam or adamw"]),
    (f"{TASK} --schedule onecycle --warmup-length 5", ["--warmup-length with --schedule onecycle", "30 %"]),
    (f"{TASK} --schedule late-cosine", ["--schedule late-cosine with --iterations 1", "--epochs N"]),
    ("--dataset-order mtil-1 --schedule late-cosine", ["--schedule late-cosine with --iterations 1000", "--epochs N"]),
    ("--train-dataset DTD --epochs 2 --lr 1e-5 --schedule late-cosine --warmup-length 5",
     ["--warmup-length with --schedule late-cosine", "starts at its peak"]),
    ("--train-dataset DTD --epochs 2 --lr 1e-5 --schedule late-cosine --lr-floor 1e-6",
     ["--lr-floor with --schedule late-cosine"]),
    (f"{TASK} --schedule onecycle --lr-floor 1e-6", ["--lr-floor with --schedule onecycle", "--schedule cosine"]),
    (f"{TASK} --schedule constant --lr-floor 1e-6", ["--lr-floor with --schedule constant", "--schedule cosine"]),
    (f"{TASK} --lr-floor 2e-5", ["--lr-floor 2e-05", "above --lr 1e-05"]),
    (f"{TASK} --lr 1e-5,toy-colours=1e-6 --lr-floor 2e-6", ["--lr-floor 2e-06", "above --lr 1e-06"]),
    (f"{TASK} --optimizer lion", ["--optimizer lion", "adamw, adam, sgd"]),
])
def test_errors(words, fragments):
    with pytest.raises(UserError) as caught:
        checked(words)
    message = str(caught.value)
    assert len(message.splitlines()) <= 2 and wrong_articles(message) == []
    assert all(fragment in message for fragment in fragments), message


@pytest.mark.parametrize(("words", "noted"), [
    ("--method lwf", True), ("--method icarl --train-mode image-fc", True), ("--method lwf --image-loss", False),
    ("--method lwf --text-loss", False), ("", False), ("--method lwf --train-mode text --distill-text-tower", False)])
def test_a_note_says_which_distillation_is_used(words, noted):
    notes = checked(f"{TASK} {words}").notes
    assert len(notes) == noted and all("--image-loss" in note and "both" in note for note in notes)


def test_a_rate_may_be_named_as_the_dataset_is_given():
    words = f"{TASK} --lr 1e-5,toy-colours=2e-5"
    checked(words)
    assert parse(words.split()).lr["toy-colours"] == 2e-5
    assert checked("--dataset-order mtil-1 --eval-only --lr 1e-5,MNIST=1e-4").warnings


@pytest.mark.parametrize(("words", "warned"), [
    ("", True), ("--method ewc", True), ("--train-mode image-fc", True), ("--train-mode fc", False), ("--lora", False),
    *((f"--method {name}", False) for name, method in METHODS.items() if method.wraps or method.frozen)])
def test_a_high_rate_is_one_of_pretrained_weights(words, warned):
    """Factors beside weights, and heads, take rates of 1e-3."""
    assert any("is high" in text for text in checked(f"{TASK} --lr 1e-3 --load {__file__} {words}").warnings) == warned


@pytest.mark.parametrize(("processes", "words", "fragments"), [
    (2, "--batch-size 5", ["--batch-size 5", "2 processes", "give 4"]),
    (3, "--batch-size 2", ["--batch-size 2", "3 processes", "give 3"]),
    (2, "--method lwf --ref-batch-size 7", ["--ref-batch-size 7", "give 6"]),
    (2, "--skip-bad-images", ["--skip-bad-images", "several processes", "more weight"])])
def test_what_several_processes_cannot_share(monkeypatch, processes, words, fragments):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    with pytest.raises(UserError) as caught:
        checked(f"{TASK} {words}")
    assert all(fragment in str(caught.value) for fragment in fragments), caught.value
    checked(f"{TASK} --batch-size {4 * processes}")
    checked("--eval-only --eval-datasets DTD --batch-size 5 --skip-bad-images")
    checked("--list-datasets")
