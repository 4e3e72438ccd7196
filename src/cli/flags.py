"""List all flags, a function per group, in the order of the documentation. Imports no torch: --help is instant."""

import os
import re

from clip.catalog import architecture_names
from clip.files import hub
from src.cli import method_flags
from src.cli.definition import Flag, switch
from src.cli.kinds import (
    CHECK,
    EVAL,
    EXPORTING,
    FETCH,
    LIST,
    MODEL,
    REPORT,
    REPRODUCE,
    RESCORE,
    SCORING,
    SEQUENCE,
    SINGLE,
    STUDY,
    TRAIN,
    TRAINING,
    WEIGHTS,
)
from src.cli.protocols import PROTOCOLS
from src.cli.recipes import recipe_names
from src.cli.reproductions import reproduction_names
from src.cli.texts import hint_before, nearest
from src.cli.values import (
    DTYPES,
    all_or,
    auto_or,
    epochs,
    keyword,
    label_spaces,
    names,
    one_or_several,
    parts,
    place,
    rates,
    real,
    rhythm,
    warmup,
    whole,
    word_or,
)
from src.datasets import class_split, expand, phase_of
from src.datasets.class_orders import ORDERS
from src.datasets.coop import DIKI
from src.errors import UserError
from src.models import METHODS
from src.models.custom import call_texts, joined_calls
from src.models.modes import TRAIN_MODES


def is_other_model(text):
    """Return whether --model names weights or an architecture of another library, a file or a folder.

    A bare ORG/NAME may also be a typo in one of our names, which contain a slash too.
    """
    return (hub.is_name(text) or text in hub.open_clip_names() or text.endswith(hub.WEIGHTS) or os.path.exists(text)
            or hub.is_repository(text) and not nearest(text, architecture_names()))


def datasets(text):
    """Split names at commas and expand class splits."""
    return expand(names(text))


def whole_datasets(text):
    """Names joined by commas, each once: of a sequence its datasets, of class splits the dataset that they are of."""
    found = [part for name in names(text) for part in (
        PROTOCOLS[name].order if name in PROTOCOLS else expand((name,)))]
    return tuple(dict.fromkeys(class_split(phase_of(name)[0])[0] for name in found))


# -- the groups, in the order of the documentation -------------------------------------------------------------------


def training_flags():
    return [
        Flag("--method", "how to train: " + ", ".join(METHODS) + "; file.py:Class is a custom method", "finetune",
             choices=tuple(METHODS), runs=(*SCORING, SINGLE, RESCORE), example="ZSCL --ref-dataset ImageNet"),
        Flag("--set", "keyword of a custom method, such as --set strength=0.5; may be repeated", {}, keyword,
             repeated=True, metavar="KEY=VALUE", shown="none", runs=(*SCORING, SINGLE, RESCORE),
             example="strength=0.5 --method my.py:EWC"),
        Flag("--hooks", "custom hooks beside the method, FILE.py:Class or FILE.py:Class(key=value), several by commas; "
             "may be repeated", (), call_texts, repeated=True, joined=joined_calls, metavar="HOOKS", shown="none",
             runs=(*SCORING, SINGLE, RESCORE),
             example="'my.py:Logger(every=10)' --dataset-order toy"),
        Flag("--train-mode", "which parameters train", "whole", choices=tuple(TRAIN_MODES), example="image"),
        Flag("--train-dataset", "the dataset to train on: a name, folder:PATH, or FILE.py:function, which "
             "returns a Task", metavar="NAME", runs=(TRAIN, EVAL),
             example="folder:photos --epochs 5"),
        Flag("--dataset-order", "a whole sequence in one run: A,B,C or one of " + ", ".join(PROTOCOLS)
             + "; CIFAR100/10 means ten class splits, CIFAR100/50+10 50 classes and then ten each", parse=datasets,
             metavar="NAMES", runs=(SEQUENCE, EVAL), example="DTD,Flowers,MNIST --iterations 1000"),
        # The configuration holds its values; the recipe's name changes no number.
        Flag("--recipe", "a named set of flags: " + ", ".join(recipe_names()) + "; or a custom FILE.yaml",
             metavar="NAME", numbers=False, example="zscl --dataset-order mtil-1"),
        Flag("--iterations", "optimiser steps per task", parse=whole(1), example="1000"),
        Flag("--epochs", "passes over the training images, instead of --iterations; 10,SUN397=5 sets them per dataset",
             parse=epochs, example="10,MNIST=5 --dataset-order DTD,MNIST"),
        Flag("--lr", "peak learning rate; 1e-5,Aircraft=5e-5 sets it per dataset", {None: 0.001}, rates,
             shown="0.001", example="1e-5,MNIST=5e-5 --dataset-order DTD,MNIST --iterations 1000"),
        Flag("--batch-size", "images per step over all devices; on class data the last batch of an epoch may be "
             "smaller (--last-batch)", 8, whole(1), example="64"),
        Flag("--optimizer", "adamw, adam, or sgd without momentum", "adamw", choices=("adamw", "adam", "sgd"),
             example="sgd"),
        Flag("--schedule", "learning rate after the warm-up: cosine down to --lr-floor, or constant; onecycle has no "
             "warm-up: it rises over 30 %% of the steps, then falls to nothing, while Adam's first beta goes from "
             "0.95 to 0.85 and back; late-cosine, with --epochs: two epochs at --lr, then a quarter of a cosine, "
             "constant within an epoch",
             "cosine", choices=("cosine", "onecycle", "constant", "late-cosine"), example="onecycle"),
        Flag("--lr-floor", "rate at which the cosine ends, at most --lr", 0.0, real(0), shown="0", example="1e-6"),
        Flag("--wd", "weight decay: decoupled in adamw, coupled in adam and sgd, which add it to the gradient", 0.0,
             real(0), shown="0", example="0.1"),
        Flag("--crops", "random crops of training images, drawn again at each visit, or none: the evaluation transform",
             "random", choices=("random", "none"), example="none"),
        Flag("--last-batch", "the smaller last batch of an epoch: keep it, or drop it, so that every batch is full; a "
             "training set smaller than a batch is one batch", "keep",
             choices=("keep", "drop"), example="drop --train-dataset DTD --epochs 5"),
        Flag("--ls", "label smoothing", 0.0, real(0, 1), shown="0", example="0.2"),
        Flag("--warmup-length", "steps of linear warm-up, or a share such as 20%%", "100", warmup, example="20%"),
        Flag("--beta2", "second beta of AdamW and Adam", 0.999, real(0, 0.999999), example="0.98"),
        Flag("--eps", "epsilon of AdamW and Adam", 1e-8, real(above=0), shown="1e-8", example="1e-6"),
        Flag("--max-grad-norm", "clip the gradient norm to this value", parse=real(above=0), shown="off", example="1"),
        Flag("--grad-accum", "encode each batch of images in N parts, once more for backward: same gradient, less "
             "memory, a third more time", 1, whole(1), example="4 --batch-size 64"),
        Flag("--batch-norm", "statistics of ResNets: keep them (eval) or update them (train); auto keeps pretrained "
             "ones on class data and updates them on image-text pairs", "auto",
             choices=("auto", "eval", "train"), example="train --model RN50"),
        switch("--compile", "torch.compile for image towers, of the model, its teacher and in evaluation: a slow first "
               "step; needs a C++ compiler"),
        switch("--grad-checkpointing", "store fewer activations and recompute them in backward: less memory, a third "
               "more time", numbers=False),
        Flag("--seed", "seed of everything random, class splits included; 1,2,3 with --dataset-order: one run per "
             "seed, and a table of mean and deviation",
             42, one_or_several(whole(0)), runs=(*EXPORTING, STUDY), example="3"),
        switch("--deterministic", "use deterministic kernels only", runs=MODEL),
    ]


def checkpoint_flags():
    return [
        Flag("--save", "folder for checkpoints, metrics and logs",
             runs=(*SCORING, SINGLE, REPORT, STUDY, RESCORE, REPRODUCE),
             numbers=False, metavar="DIR", example="ckpt/run"),
        Flag("--load", "initial weights: our checkpoint, a file or folder of OpenAI, open_clip or transformers, or a "
             "name such as hf-hub:ORG/NAME; an adapter (a peft folder, DATASET.lora.pth) is merged into --model; "
             "starts the next task and does not resume an interrupted one; A,B,C with --eval-only: the matrix of the "
             "sequence that left these files", runs=WEIGHTS, metavar="FILE",
             example="ckpt/run/DTD.pth --train-dataset Flowers --iterations 1000"),
        switch("--resume", "resume exactly where a run into --save was interrupted; finished tasks are skipped",
               runs=(*SCORING, STUDY, REPRODUCE), numbers=False),
        switch("--overwrite", "retrain a finished task, even one of another configuration, and replace an export of "
               "another configuration in --export DIR", runs=EXPORTING, numbers=False),
        Flag("--keep-carry", "which checkpoints of a sequence hold the state that its method carries between tasks: "
             "all, or only the last, where it is large",
             "all", choices=("all", "last"), runs=(SEQUENCE,), numbers=False,
             example="last --dataset-order DTD,Flowers --iterations 1000 --method my.py:EWC"),
        Flag("--task-cache", "folder of finished tasks shared between runs: a task that another run trained from the "
             "same weights in the same way is reused", runs=TRAINING, numbers=False, metavar="DIR",
             example="ckpt/tasks --dataset-order toy --save ckpt/run"),
        Flag("--task-cache-size", "its maximum size in GB; the least recently used tasks go first", 50.0,
             real(above=0), runs=TRAINING, numbers=False, shown="50",
             example="200 --task-cache ckpt/tasks --dataset-order toy --save ckpt/run"),
        Flag("--save-interval", "steps (epochs of a linear layer) or time between resume points, such as 500 or 10m",
             "10m", rhythm, runs=SCORING, numbers=False, example="500"),
    ]


def model_flags():
    return [
        Flag("--model", "architecture and pretrained weights; also a file or folder, hf-hub:ORG/NAME, local-dir:DIR, "
             "open_clip's NAME:PRETRAINED, and with --load its NAME alone, such as ViT-B-32 or ViT-B-32-quickgelu; "
             "with an adapter in --load, its base weights", "ViT-B/16",
             choices=tuple(architecture_names()), also=is_other_model, runs=WEIGHTS, example="ViT-L/14"),
        Flag("--model-config", "YAML file of a custom architecture; with --load, only the keys that the weights do not "
             "state: activation, vision_heads, transformer_heads, mean, std, image_resolution", runs=WEIGHTS,
             metavar="FILE", example="my.yaml --model-name small --init scratch"),
        Flag("--model-name", "architecture in --model-config; ViT or RN: its only one of that kind",
             runs=WEIGHTS, metavar="KEY", example="small --model-config my.yaml --init scratch"),
        Flag("--init", "auto and pretrained: published weights; scratch: random weights", "auto",
             choices=("auto", "pretrained", "scratch"), runs=WEIGHTS, example="scratch --model RN50"),
        Flag("--clip-cache", "folder of downloaded weights", runs=(*WEIGHTS, RESCORE), numbers=False, metavar="DIR",
             shown="$CLIP_CACHE or ~/.cache/clip", example="weights"),
        Flag("--device", "auto, cpu, cuda or mps", "auto", choices=("auto", "cpu", "cuda", "mps"),
             means={"gpu": "cuda"}, runs=(*MODEL, RESCORE), numbers=False, example="cpu"),
        Flag("--precision", "auto: bf16 autocast on CUDA devices that support it, else fp32; fp64 is for exact "
             "comparisons", "auto",
             choices=("auto", "fp32", "bf16", "fp16", "fp64"), means=DTYPES, runs=(*MODEL, RESCORE), example="bf16"),
        switch("--tf32", "let fp32 use TF32 on CUDA", runs=MODEL, example="--precision fp32"),
        Flag("--workers", "image loading workers; auto: none for embedded data, else one per core, at most 8",
             "auto", parse=auto_or(whole(0, 256)), runs=(*SCORING, SINGLE), numbers=False, example="4"),
    ]


def image_text_flags():
    return [
        switch("--joint", "train on the datasets of --train-dataset A,B as one", runs=(TRAIN,),
               example="--train-dataset coco,flickr30k"),
        Flag("--num-phases", "parts that the training pairs are split into", 1, whole(1, 10_000),
             example="5 --train-dataset flickr30k"),
        Flag("--phase", "which part, from 1, or all of them in turn", "all", parse=all_or(whole(1)),
             example="2 --num-phases 5 --train-dataset flickr30k"),
        Flag("--phase-split", "parts in the order of the files, or of a seeded shuffle", "contiguous",
             choices=("contiguous", "random"), example="random --num-phases 5 --train-dataset flickr30k"),
        Flag("--phase-seed", "seed of random parts", parse=whole(0), shown="--seed",
             example="1 --phase-split random --num-phases 5 --train-dataset flickr30k"),
        Flag("--caption-choice", "for an image with several captions: draw one at each visit (random), always take "
             "the first, or make each caption an item (all)", "random", choices=("random", "first", "all"),
             example="first --train-dataset flickr30k"),
        Flag("--flickr-splits", "splits of flickr30k that train", ("train", "val"), parts, shown="train+val",
             metavar="SPLITS", example="train --train-dataset flickr30k"),
        Flag("--image-dir", "NAME=DIR of a caption dataset's images; may be repeated", {}, place, repeated=True,
             runs=SCORING, metavar="NAME=DIR", shown="none", example="coco=images/coco --train-dataset coco"),
        Flag("--annotations", "NAME=FILE of its captions; may be repeated", {}, place, repeated=True, runs=SCORING,
             metavar="NAME=FILE", shown="none", example="coco=captions.json --train-dataset coco"),
        Flag("--modx-alpha", "weight of Mod-X's distillation", 20.0, real(0), shown="20",
             example="10 --method modx --train-dataset flickr30k"),
        Flag("--modx-temperature", "its temperature", 1.0, real(above=0), shown="1",
             example="2 --method modx --train-dataset flickr30k"),
        Flag("--modx-reduction", "sum or mean over rows", "sum", choices=("sum", "mean"),
             example="mean --method modx --train-dataset flickr30k"),
        Flag("--retrieval-split", "5k: all images; 1k: the first thousand; 1k-fold5: the mean of five thousands",
             "auto", choices=("auto", "5k", "1k", "1k-fold5"), runs=SCORING, shown="by dataset",
             example="1k --eval-only --eval-datasets coco"),
        Flag("--linear-eval", "with --eval-only: train a linear layer on frozen features of this dataset", runs=(EVAL,),
             metavar="NAME", example="DTD --eval-only"),
        Flag("--linear-epochs", "epochs of --linear-eval",
             100, whole(1), runs=(EVAL,), example="50 --linear-eval DTD --eval-only"),
        Flag("--linear-lr", "learning rate of --linear-eval", 0.3, real(above=0), runs=(EVAL,),
             example="0.1 --linear-eval DTD --eval-only"),
        Flag("--linear-wd", "weight decay of --linear-eval",
             1e-6, real(0), runs=(EVAL,), example="0 --linear-eval DTD --eval-only"),
        Flag("--linear-batch-size", "batch size of --linear-eval", 256, whole(1), runs=(EVAL,),
             example="512 --linear-eval DTD --eval-only"),
        Flag("--linear-percent", "share of the training images", 100.0, real(above=0, high=100), runs=(EVAL,),
             shown="100", example="10 --linear-eval DTD --eval-only"),
        switch("--linear-cache-features", "encode once, without augmentation", runs=(EVAL,),
               example="--linear-eval DTD --eval-only"),
    ]


def evaluation_flags():
    return [
        Flag("--eval-datasets", "datasets to score, named as for training", (), datasets, runs=SCORING,
             metavar="NAMES", shown="the one trained on, or the whole sequence", example="DTD,Flowers"),
        Flag("--eval-interval", "steps between evaluations", parse=whole(1), numbers=False, shown="at the end",
             example="100"),
        switch("--eval-every-epoch", "evaluate after each epoch", numbers=False),
        switch("--eval-only", "evaluate and do not train", runs=MODEL, numbers=False,
               example="--load ckpt/run/DTD.pth"),
        Flag("--eval-single", "classify an image, several (A.jpg,B.jpg) or a folder of them: the five most probable "
             "classes of each; with --save as csv and as a picture",
             runs=(SINGLE,), numbers=False, metavar="IMAGES",
             example="cat.jpg --class-names names.txt"),
        Flag("--class-names", "names joined by commas (cat,dog), or a file with one per line or in json; if they "
             "match a trained head in --load, in order, that head scores", runs=(SINGLE,), numbers=False,
             metavar="NAMES", shown="those of the last task in --load",
             example="names.txt --eval-single cat.jpg"),
        Flag("--prompt", "prompt of --eval-single; {} is the class name", "a photo of a {}.", runs=(SINGLE,),
             numbers=False, metavar="TEXT",
             example="'a sketch of a {}.' --eval-single cat.jpg --class-names names.txt"),
        Flag("--template", "family of prompt templates for data without its own, or one prompt with {c}; all:NAME or "
             "all:PROMPT applies to all data; all:first keeps only the first prompt of each dataset",
             runs=(*SCORING, RESCORE), metavar="NAME", shown="simple",
             example="'a sketch of a {c}.' --train-dataset folder:photos --epochs 5"),
        Flag("--batch-size-eval", "images per evaluation batch", 128, whole(1), runs=(*SCORING, SINGLE, RESCORE),
             numbers=False, example="256"),
        Flag("--max-evaluation-size", "number of images to score, evenly over the classes", parse=whole(1),
             runs=SCORING, shown="all", example="1000"),
        Flag("--eval-split", "split to score", "test", choices=("test", "val"), runs=SCORING, example="val"),
        Flag("--label-space", "classes to choose among: the task's own, those of all tasks seen so far, or all; "
             "several are scored in one pass, as in task,all",
             ("task",), label_spaces, runs=(*SCORING, RESCORE),
             metavar="SPACES", shown="task", example="task,all --dataset-order toy"),
        switch("--keep-features", "keep the features of everything scored, in fp16, and every prediction, for "
               "--rescore: after each task, under <save>/features", runs=SCORING, numbers=False,
               example="--dataset-order toy --save ckpt/toy"),
        Flag("--rescore", "score a run again from the features that it kept, without its images: other label spaces, "
             "other templates, calibration and per-class accuracy", runs=(RESCORE,), numbers=False,
             metavar="RUN", example="ckpt/toy --label-space task,all --save ckpt/toy_all"),
        Flag("--wilds-split", "test images of FMOW and IWildCam: in or out of distribution", "id",
             choices=("id", "ood"), runs=SCORING, example="ood --eval-only --eval-datasets FMOW"),
        switch("--wandb", "log to Weights & Biases (package wandb); its environment variables apply, such as "
               "WANDB_MODE=offline", runs=SCORING, numbers=False),
        switch("--tensorboard", "log to <save>/tensorboard (package tensorboard)", runs=SCORING, numbers=False),
    ]


def data_flags():
    return [
        Flag("--data-location", "root of all datasets", "./data", runs=(*SCORING, LIST, CHECK, FETCH), numbers=False,
             metavar="DIR", example="/mnt/data"),
        Flag("--class-order", "order in which the classes of class splits arrive: drawn by --seed; zscl: that of ZSCL "
             "and MoE-Adapters; pilot: that of PILOT, numpy's seed 1993; or a file of class numbers (yaml, "
             "json, text)",
             "seed", choices=ORDERS, also=os.path.isfile, metavar="ORDER", runs=SCORING,
             example="pilot --dataset-order CIFAR100/10 --epochs 1"),
        Flag("--val-fraction", "share of each class of train that becomes val; diki: with --split-file DIR, CIFAR100 "
             "and MNIST as DIKI draws them", parse=word_or(DIKI, real(above=0, high=0.9)),
             runs=SCORING, example="0.1"),
        Flag("--shots", "training images per class", parse=whole(1), shown="all", example="16"),
        Flag("--shot-seed", "seed that draws the images of --shots", 0, whole(0), example="1 --shots 16"),
        Flag("--shots-file", "json file that lists the training images, such as the <save>/shots.json of any few-shot "
             "run; with --shots K it must list K per class", metavar="FILE",
             example="ckpt/few/shots.json --train-dataset DTD --epochs 5"),
        Flag("--split-file", "json file with a published split of one dataset; or a folder of CoOp's split files, "
             "which also name the classes; coop: those under --data-location",
             runs=SCORING, metavar="FILE",
             example="coop --dataset-order mtil-1"),
        switch("--skip-bad-images", "skip and count images that cannot be decoded, and rows of csv: and pairs: whose "
               "image is missing", runs=(*SCORING, SINGLE)),
        Flag("--cache-images", "cache decoded evaluation and reference images in <data-location>/cache: disk; device "
             "holds them there too; auto keeps splits of at most 20 GB that leave half of the free disk", "auto",
             choices=("auto", "off", "disk", "device"), bare="disk", means={"true": "disk", "on": "disk",
                                                                            "false": "off"},
             runs=SCORING, numbers=False, example="device --eval-only --eval-datasets DTD"),
        switch("--cache-ref-features", "encode each reference image with the teacher once per task, even if it is "
               "used at most twice; beyond that this is always done",
               example="--method ZSCL --ref-dataset ImageNet"),
        switch("--keep-ref-features", "encode all reference images once with the teacher and keep the features in "
               "<data-location>/cache, for all tasks and runs with this teacher",
               example="--method ZSCL --ref-dataset ImageNet"),
        switch("--list-datasets", "list every dataset: size, how to get it, whether it is there", runs=(LIST,),
               numbers=False),
        Flag("--check-data", "check the files of these datasets; exit status 1 for faults and findings",
             parse=names, runs=(CHECK,), numbers=False, metavar="NAMES", example="DTD,EuroSAT"),
        Flag("--fetch", "download these datasets, or those of a sequence such as mtil-1, and check them; print size "
             "and licence first (--dry-run: nothing else), and the steps for those that come by hand; exit status 1 "
             "where something is left", parse=whole_datasets, runs=(FETCH,), numbers=False, metavar="NAMES",
             example="DTD,ImageNetV2"),
    ]


def output_flags():
    return [
        Flag("--dry-run", "resolve the run and print it (data, trained values, steps, memory) without writing or "
             "fetching anything; exit status 2 if the run would be refused or weights to fetch are unknown; probe "
             "also times 3 steps; for a study or a reproduction: print the command of each run; of --fetch: the list",
             "off", choices=("off", "on", "probe"), bare="on", runs=(*SCORING, STUDY, REPRODUCE, FETCH), numbers=False),
        Flag("--report", "compare sequences, with mean and deviation over seeds: their folders, a folder above them "
             "or a quoted pattern; --save DIR adds the tables of a paper",
             parse=names, runs=(REPORT,), numbers=False,
             metavar="RUN,RUN...", example="ckpt/run,ckpt/other"),
        Flag("--study", "run each cell of the grid in this file, with --resume, and compare them; flags beside it "
             "apply to every cell", runs=(STUDY,), numbers=False, metavar="FILE",
             example="studies/toy.yaml --save ckpt/study"),
        Flag("--jobs", "cells of a study to run in parallel; auto: one per CUDA device", 1,
             auto_or(whole(1, 1024)), runs=(STUDY,), numbers=False,
             example="2 --study studies/toy.yaml --save ckpt/study"),
        switch("--status", "print which cells of a study are done, running, failed or waiting", runs=(STUDY,),
               numbers=False, example="--study studies/toy.yaml --save ckpt/study"),
        Flag("--reproduce", "rerun a published result and compare it cell by cell, with a certificate in --save: "
             + ", ".join(reproduction_names()) + "; or a custom FILE.yaml", runs=(REPRODUCE,), numbers=False,
             metavar="NAME", example="mtil-1-zeroshot --save ckpt/zeroshot"),
        Flag("--export", "write a model to this folder as safetensors, in the layout of --export-format: after "
             "training the final one, with --eval-only the scored one, with neither --load FILE or --model NAME as it "
             "is", runs=EXPORTING, numbers=False, metavar="DIR", example="ckpt/open_clip"),
        Flag("--export-format", "whose layout --export writes: open_clip's, or that of transformers' CLIPModel (ViTs "
             "only)", "open_clip", choices=("open_clip", "transformers"), runs=EXPORTING, numbers=False,
             example="transformers --export ckpt/hf --load ckpt/run/DTD.pth"),
        switch("--quiet", "no progress bars, no list of resolved values", runs=SCORING, numbers=False),
        switch("--verbose", "list every value in use, defaults included", runs=SCORING, numbers=False),
        Flag("--log-interval", "steps between log lines", 10, whole(1), numbers=False, example="50"),
    ]


GROUPS = {
    "training": training_flags(), "checkpoints": checkpoint_flags(), "model and machine": model_flags(),
    **method_flags.GROUPS, "image-text pairs and linear evaluation": image_text_flags(),
    "evaluation": evaluation_flags(), "data": data_flags(), "output": output_flags(),
}
FLAGS = {flag.key: flag for flags in GROUPS.values() for flag in flags}


def groups_named(text):
    """Return the titles of the groups that ``--help TEXT`` means: the one of this title, else those that have these
    words, in any capitals and joined in any way. Raises UserError where there is none."""
    titles = {tuple(re.findall(r"\w+", title.lower())): title for title in GROUPS}
    words = tuple(re.findall(r"\w+", text.lower().replace("_", " ")))
    found = [titles[words]] if words in titles else [
        title for key, title in titles.items() if words and set(words) <= set(key)]
    if not found:
        raise UserError(f"--help {text}: no such group of flags; {hint_before(text, GROUPS)}the groups are "
                        f"{', '.join(GROUPS)}")
    return found


def unknown_flag(word, others=()):
    """Return what to say about a word in a file that is not a flag. ``others``: names that may be meant besides
    flags."""
    hint = nearest(word, [*others, *(flag.name[2:] for flag in FLAGS.values())])
    return f"unknown flag {word}; {hint or 'see --help'}"
