"""Run one command: its device, datasets and folder, its tasks in order, their scores and the summary."""

import contextlib
import itertools
import sys
import time
from dataclasses import asdict

from clip import loader
from src.cli.flags import FLAGS
from src.datasets import class_split, is_pairs, known_pairs, phase_of, stem
from src.datasets.cache import ImageCache
from src.datasets.loading import require_shares
from src.datasets.shots import FILE as SHOTS
from src.datasets.shots import with_entry
from src.errors import UserError
from src.machine.distributed import in_turn, this_world
from src.machine.interruption import Signals
from src.machine.notices import warn
from src.machine.progress import progress
from src.models import METHODS, OwnHook
from src.models.class_code import code_digests, uncounted
from src.report.conditions import conditions_of, router_of, router_of_class, together
from src.report.latex import summary_latex
from src.report.measures import ACCURACY, RETRIEVAL
from src.report.page import write_report, write_task_report
from src.report.tables import matrix_csv, scores_table, summary_markdown
from src.run.build import (
    build_device,
    build_hooks,
    build_settings,
    own_modules,
    refuse_averages,
    refuse_other_data,
    scoring_hooks,
    untaken_carry,
)
from src.run.cached import SharedTasks
from src.run.datasets import Datasets, dataset_of
from src.run.kept import kept_text, refuse_other_scores
from src.run.preflight import open_data, open_for_layer, refuse_other_lists, refuse_to_replace, scorable
from src.run.scoring import Scorer, plain_scores, scores_of
from src.run.settings import CUTS
from src.run.task import TaskRun
from src.run.weights import ZeroshotOpener
from src.store.checkpoint import carry_bytes, in_words
from src.store.records import RunFolder, code_changes, describe_run
from src.store.resume import NOT_SHARED, ResumePoints, inputs_of, refuse_other_inputs
from src.store.trackers import open_trackers

LARGE_CARRY = 100 * 2 ** 20  # bytes per checkpoint from which a note is printed


class Run:
    """Run one command.

    ``evaluated``: the datasets that every evaluation scores: the whole sequence plus --eval-datasets, or
    --eval-datasets, or the dataset that is trained on.
    """

    def __init__(self, command, folder=None, signals=None, open_datasets=Datasets):
        self.command, self.signals, self.open_datasets = command, signals or Signals(), open_datasets
        self.training, self.scoring, self.files = command.training, command.scoring, command.files
        self.quiet = command.quiet
        self.world = this_world()
        self.device = build_device(command.hardware, self.world.local_rank if self.world.size > 1 else None)
        with self.signals.unheard():
            self.world.start(self.device.device)
        self.datasets = open_datasets(command.data)
        mode = "off" if command.data.skip_bad_images else command.data.cache_images  # a cache holds every image
        self.images = ImageCache(command.data.data_location, mode, self.device.device)
        self.folder = RunFolder(folder or self.files.save, writes=self.world.first)
        self.progress = progress(self.quiet or not self.world.first)
        self.trackers, self.before = open_trackers(self.files, self.world.first), {}  # {task: steps of earlier tasks}
        self.evaluated, self.scorer = [], None
        named = [*(self.training.trained if self.scoring.in_order else ()), *self.scoring.eval_datasets]
        self.score_on(list(dict.fromkeys(phase_of(name)[0] for name in named or self.training.trained)))
        self.basis = self.training.orthogonal_gradients_path
        self.shared = SharedTasks(self)
        self.with_carry = []  # files of finished tasks whose carry may be dropped
        self.began, self.peak, self.noted, self.memory = time.perf_counter(), 0, set(), None
        self.open_zeroshot = None  # set by ``refuse``, once the starting weights are known

    def note(self, text):
        """Print a note, once per run."""
        if text not in self.noted:
            print(f"note: {text}", flush=True)
        self.noted.add(text)

    def print_memory(self, text):
        """Print what a task holds in memory, unless the previous task held the same."""
        if text != self.memory and not self.quiet:
            print(text, flush=True)
        self.memory = text

    def score_on(self, names):
        self.evaluated = names
        self.scorer = self.scorer_of(names)

    def scorer_of(self, names):
        """Return the scorer of the datasets ``names``."""
        return Scorer(self.scoring, self.files, self.datasets, self.device, self.folder, names, self.world,
                      self.progress, self.trackers, self.images)

    @contextlib.contextmanager
    def shown(self):
        """Show progress and log to trackers while entered."""
        with self.trackers, self.progress:
            yield

    def adopt(self, checkpoint):
        """Take from an evaluated checkpoint what the command line leaves open: which dataset to score, and how
        it was trained."""
        load = self.command.weights.load
        self.command = as_trained(self.command, checkpoint)
        self.scoring, self.files = self.command.scoring, self.command.files
        self.datasets = self.open_datasets(self.command.data)
        named = () if self.evaluated else (dataset_of(checkpoint, load),)
        self.score_on(list(named) or self.evaluated)
        self.scorer.named_by_checkpoint = tuple(map(stem, named))
        note_method(self.scoring, checkpoint, load or self.command.weights.model)

    @in_turn
    def open_for_training(self, name):
        """Refuse a dataset that a linear layer cannot be trained on."""
        open_for_layer(self.scoring.eval_split, self.datasets, name)

    @in_turn
    def open(self, trained):
        """Open everything that the run will read, and refuse unusable data; the first process fetches and draws."""
        if trained:
            refuse_other_data(self.training)
        if trained and (kept := scorable(self.scoring, self.datasets, self.evaluated)) != self.evaluated:
            self.score_on(kept)
        open_data(self.training, self.scoring, self.datasets, trained, self.evaluated)
        for task in map(self.datasets.open, trained):
            if task.pairs:
                require_shares(len(task.split("train")), self.training.batch_size, self.world.size)
        settings = {name: build_settings(self.training, self.datasets.open(name), name) for name in trained}
        warn_of_warmup(self.training.warmup_length, settings)
        lengths = {stem(name): found.iterations for name, found in settings.items()}
        self.before = dict(zip(lengths, itertools.accumulate([0, *lengths.values()]), strict=False))
        self.progress.plan(lengths)

    @in_turn
    def claim(self, names, start):
        """Check before anything is written: ``refuse``, and also refuse a folder that is not writable."""
        self.refuse(names, start, ZeroshotOpener(self.command.weights, start, self.device))
        self.folder.prepare()
        if text := kept_text(self, names, start):
            self.note(text)
        self._note_uncounted()
        self.shared.claim()

    def _note_uncounted(self):
        """Say what of custom code is not compared where its run resumes."""
        for name, kind in classes_of(self.training) if self.folder.path else ():
            if names := uncounted(kind):
                self.note(f"what resumes, or is finished, is not refused where {', '.join(names)} changed: of what the "
                          f"class {name} uses only code and plain values are compared")

    def refuse(self, names, start, open_zeroshot):
        """Refuse to replace a finished task of ``names`` made with another configuration, a teacher that does
        not fit the checkpoint ``start``, and other classes than it was trained on. Writes nothing."""
        if not self.files.overwrite:
            wholes = [phase_of(name)[0] for name in names if self._is_last_phase(name)]
            for name in map(stem, [*names, *wholes]):
                if name not in map(stem, wholes) or self.folder.has(f"run_{name}.json"):  # not the files of phases
                    refuse_to_replace(self.files, self.folder, name)
        trained = {stem(class_split(name)[0]) for name in names}  # these use the lists of this run
        scored = [name for name in self.evaluated if stem(class_split(name)[0]) not in trained]
        refuse_other_lists(start.get("history", []), self.datasets, scored, "split_file" in self.command.cuts_given)
        if self.scoring.keep_features or self.scoring.hooks and not names:  # hooks that do not score are refused
            scorers = scoring_hooks(self.scoring, start)
            if self.scoring.keep_features:
                refuse_other_scores(scorers)
        if names:
            hooks = build_hooks(self.training, start)  # refuses a method that cannot be built
            if self.scoring.keep_features:
                refuse_other_scores(hooks)
            if left := untaken_carry(hooks, start):
                warn(left)
            if self.training.averages:
                refuse_averages(self.training, hooks, own_modules(hooks, start, self.device))
        self.open_zeroshot = open_zeroshot
        if names and "ref_model" in self.training.reads:
            open_teacher = self.open_zeroshot if self.training.ref_wise else self.open_zeroshot.teacher
            open_teacher(self.training.ref_model)
        if names and self.training.wise_merge and self.training.wise_ft_model == "zeroshot":
            self.open_zeroshot()
        self.scorer.claim(names, start)

    def train(self, name, start):
        """Train one task from the checkpoint ``start``, or what --resume leaves to do, or take it from
        --task-cache.

        The weights move from the checkpoint into the model. A finished task is not trained again without
        --overwrite; ``refuse`` has checked that it has the same configuration. -> (its finished checkpoint,
        {dataset: Scores})
        """
        inputs = {}
        if self.files.save:
            inputs = inputs_of(start, self.training.ref_model, self.basis, self.open_zeroshot.digests)
            inputs |= self.datasets.lists_of(name) | code_digests(classes_of(self.training))
        finished = self.is_finished(name)
        self.world.require_same(finished, NOT_SHARED.format(flag="--save", folder=self.folder.path))
        if finished:
            return self._finished(name, inputs)
        with self.shared.place(name, start, inputs) as place:
            if place.content:
                return place.take()
            return TaskRun(self, name, start, inputs, place).train()  # refuses a resume point of other inputs

    def keep_shots(self, name):
        """Add the images of a few-shot task to the list that --shots-file reads."""
        task = self.datasets.open(name)
        if task.shots:
            self.folder.write_json(SHOTS, with_entry(self.folder.read_json(SHOTS), task.name, task.shots))

    def is_finished(self, name):
        return not self.files.overwrite and self.folder.has(f"{stem(name)}.pth")

    def _finished(self, name, inputs):
        """Return (checkpoint, {dataset: Scores}) of a task that an earlier run of this command finished."""
        file = stem(name)
        facts = self.folder.read_json(f"run_{file}.json")
        refuse_other_inputs(facts.get("inputs"), inputs, self.folder.file(f"{file}.pth"))
        checkpoint = _as_written(loader.read_checkpoint(self.folder.file(f"{file}.pth")))
        scores = scores_of(facts)
        if missing := [dataset for dataset in map(stem, self.evaluated) if dataset not in scores]:
            raise UserError(f"{self.folder.file(f'{file}.pth')} is finished, but its run_{file}.json has no scores of "
                            f"{', '.join(missing)}; train it again with --overwrite, without --resume")
        if self.scorer.lacks_features(file):
            self.note(f"{file} was finished without kept features: scoring it again for --keep-features")
            self.evaluate(checkpoint)
        self.leave_to_the_next(name, checkpoint)
        self.shared.remember(file, facts)
        self.progress.skip(file)
        ResumePoints(self.folder, file, self.files.save_interval).forget()
        again = "" if self.files.resume else "; give --overwrite to train it again"
        print(f"{file}: already finished, {self.scorer.in_words(scores)}{again}", flush=True)
        if changed := code_changes(facts):
            self.note(f"finished tasks in {self.folder.path} were made by other code: {'; '.join(changed)}; "
                      "--overwrite trains with the current code")
        return checkpoint, scores

    def leave_to_the_next(self, name, checkpoint):
        """Do what is due once the checkpoint of a task is complete."""
        files = [stem(name)]
        if self._is_last_phase(name):  # stands for the whole dataset
            files.append(stem(phase_of(name)[0]))
            self.folder.write_checkpoint(files[-1], checkpoint)
        if self.files.keep_carry == "last":
            for file in self.with_carry:
                self.folder.leave_carry_out(file, later=f"{files[0]}.pth")
        self.with_carry = files if checkpoint.get("carry") else []
        self._note_large_carry(checkpoint)
        if self.training.orthogonal_gradients:  # the next task of a sequence protects what this one needs
            self.basis = str(self.folder.file(f"grad_{stem(name)}.pth"))

    def _note_large_carry(self, checkpoint):
        several, sizes = len(self.training.trained) > 1 and self.training.sequence, carry_bytes(checkpoint)
        if several and self.files.keep_carry == "all" and self.folder.path and sum(sizes.values()) >= LARGE_CARRY:
            self.note(f"{in_words(sizes)} are stored in the checkpoint of each task; --keep-carry last stores them "
                      "only in the last")

    def ends_with(self, name):
        """Return whether a task is the last of a sequence."""
        return self.training.sequence and name == self.training.trained[-1]

    def _is_last_phase(self, name):
        return phase_of(name)[1] == self.training.num_phases and phase_of(name)[1] is not None

    def evaluate(self, checkpoint, alpha=None, start=False):
        """Score a checkpoint, or alpha * its weights + (1 - alpha) * zero-shot ones. -> {dataset: {space:
        Scores}}

        ``start``: a sequence starts from it.
        """
        return self.scorer.checkpoint(checkpoint, alpha, None if alpha is None else self.open_zeroshot(), start)

    def score_start(self, start):
        """Score the weights that a sequence starts from; reuse scores found before with --resume or if all
        tasks are finished."""
        finished = all(map(self.is_finished, self.training.trained))
        kept = self.folder.read_json("start.json") if self.files.resume or finished else {}
        scores = scores_of(kept) if kept.get("config") == self.files.numbers else {}
        known = scores.keys() == {*map(stem, self.evaluated)} and not self.scorer.lacks_features("")
        self.world.require_same(known, NOT_SHARED.format(flag="--save", folder=self.folder.path))
        if known:
            return scores
        scores = self.shared.scores_of_start(start)
        self.folder.write_json("start.json", {"config": self.files.numbers, "scores": plain_scores(scores)})
        return scores

    def summarise(self, trained, rows, history=(), **facts):
        """Store a sequence's matrices and summary numbers. -> the summaries, {label space or "retrieval": ...}

        ``trained``: the tasks as on the command line. ``rows``: the scores before and after each of them; row 0
        is None if those before are unknown. Class data: accuracy on each task of the sequence. Image-text
        pairs: recall on each of the evaluated sets of pairs. ``history``: that of the last checkpoint, if other
        runs trained. ``facts`` go into ``run.json``.
        """
        pairs = any(map(known_pairs, trained))
        measure, spaces = (RETRIEVAL, [RETRIEVAL.space]) if pairs else (ACCURACY, self.scoring.label_space)
        untrained = self.scoring.evaluation and "trained_with" not in facts
        named, trained_with = trained, [] if untrained else facts.get("trained_with", [self.files.values()])
        trained = [stem(name) for name in trained]
        columns = [stem(name) for name in self.evaluated if is_pairs(name)] if pairs else trained
        if not columns:
            print("note: no image-text pairs are scored, so no matrix is written")
            return {}
        summaries = {}
        for number, space in enumerate(spaces):
            mark = f"_{space}" if number else ""  # the first label space gets the plain names
            chosen = [row and {name: row[name].get(space) for name in columns} for row in rows]
            summaries[space] = measure.summarise(trained, chosen, space, self.device.precision) | {
                "conditions": asdict(self.conditions(named, trained_with, space, history))} | self.scorer.remarks(space)
            self.folder.write_json(f"summary{mark}.json", summaries[space])
            self.trackers.summary(space, summaries[space], len(trained))
            for score in measure.matrices:
                self.folder.write_text(f"matrix_{score}{mark}.csv", matrix_csv(trained, columns, chosen, score))
        tables = {space: measure.untrained(found) for space, found in summaries.items()} if untrained else summaries
        self.folder.write_text("summary.md", summary_markdown(tables))
        self.folder.write_text("summary.tex", summary_latex(tables))
        self.folder.write_json("run.json", describe_run(
            self.files, self.device, seconds=round(time.perf_counter() - self.began, 2),
            processes=self.world.size, peak_memory_bytes=max(self.peak, self.device.peak_memory()), **facts,
            **self.shared.facts()))
        if self.folder.writes:
            write_report(self.folder.path)
        return summaries

    def report_task(self, name, scores, checkpoint):
        """Write the page of a task trained by itself, with its ``scores`` and finished checkpoint."""
        if not self.folder.writes:
            return
        if not any(scores.values()):
            self.note(f"no report_{stem(name)}.html: nothing was held out to score")
            return
        made, history = flags_behind(checkpoint), checkpoint.get("history") or ()
        scored = {space: [source for source in self.evaluated if space in scores[stem(source)]]
                  for found in scores.values() for space in found}
        write_task_report(self.folder.path, stem(name), {
            space: self.conditions(names, made, space, history) for space, names in scored.items()})

    def scores_table(self, scores, checkpoint, linear=()):
        """Return the tables of a checkpoint's scores, each below the conditions of its numbers.

        ``linear``: the dataset, if any, that a linear layer was trained on.
        """
        history = checkpoint.get("history") or ()
        trained_with = [*flags_behind(checkpoint), *(self.files.values() for _ in linear)]
        names = {stem(name): name for name in (*self.evaluated, *linear)}

        def head(datasets, spaces):
            named = [names[dataset] for dataset in datasets]
            return together([self.conditions(named, trained_with, space, history) for space in spaces]).text()
        return scores_table(scores, head)

    def conditions(self, names, trained_with, space, history=()):
        """Return the conditions of the numbers on the datasets ``names``. ``history``: the tasks recorded in
        checkpoints."""
        pairs = space == RETRIEVAL.space
        routers = self._routers(trained_with, pairs)
        train_data = {} if pairs else {name: self.datasets.open(name).train_data for name in names}
        train_data |= {entry.get("source", entry["dataset"]): entry["train_data"] for entry in history
                       if "train_data" in entry}
        return conditions_of(names, self.files.values(), trained_with, routers, space, train_data)

    def _routers(self, trained_with, pairs):
        """What chooses among parts at test in what scores, one of --hooks or methods."""
        if scorer := next((row for row, _ in self.scoring.hooks if row.scores()), None):
            return [router_of_class(scorer.hook())]
        return [router_of(flags["method"], flags, pairs) for flags in self._scored_with(trained_with)]

    def _scored_with(self, trained_with):
        """Return [{flag key: value}] of the methods that score, as ``build.scoring_hooks`` takes them.

        Without --method the checkpoint chooses among METHODS; its keywords hold if the method is the same,
        except for given ones.
        """
        scoring, values = self.scoring, self.files.values()
        if not scoring.evaluation:
            return [values]
        made = [flags for flags in trained_with if flags.get("method") in METHODS]
        if scoring.method_given:
            made = [flags for flags in made if flags["method"] == scoring.method] or [values]
        return [values | flags | scoring.keywords_given for flags in made]


def classes_of(training):
    """[(how messages call it, class)] of the custom code of a run."""
    return [(row.target.rpartition(":")[2] + (" of --hooks" if isinstance(row, OwnHook) else ""), row.hook())
            for row in training.custom]


def flags_behind(checkpoint):
    """Return [{flag key: value}] of the runs that trained a checkpoint, as far as recorded.

    The flags of the last run are known, and {} stands for earlier tasks. An empty list for untrained weights.
    """
    made, history = checkpoint.get("config") or {}, checkpoint.get("history") or []
    own = set(map(stem, made.get("dataset_order") or ())) or {entry["dataset"] for entry in history[-1:]}
    before = any(entry["dataset"] not in own for entry in history)
    return [*([{}] if before else []), *([made] if history else [])]


def as_trained(command, checkpoint):
    """Return the command with the settings that scores depend on, where no flag gives them, taken from the
    checkpoint's training.

    A note names each but the seed.
    """
    last = (checkpoint.get("history") or [{}])[-1]
    found = command.as_trained(checkpoint.get("config", {}), last.get("source", last.get("dataset")))
    for key in CUTS:
        if key != "seed" and getattr(found.data, key) != getattr(command.data, key):
            print(f"note: {FLAGS[key].name} {getattr(found.data, key)}, as the checkpoint was trained")
    return found


def _as_written(checkpoint):
    """Drop what reading added, so that the same content can be written again."""
    return {key: value for key, value in checkpoint.items() if key not in loader.REMARKS}


def note_method(scoring, checkpoint, place):
    """Note where --method does not affect scores, and where a custom method that trained the checkpoint at
    ``place`` is not given to score it.

    Older checkpoints do not record this themselves.
    """
    made, method = checkpoint.get("config", {}), scoring.method
    if scoring.method_given and method in METHODS and not METHODS[method].scores():
        warn(f"--method has no effect in an evaluation run: {method} is scored as plain CLIP")
    if ".py:" in made.get("method", "") and not scoring.method_given and "scorer" not in checkpoint:
        print(f"note: {place} was trained by {made['method']}; give --method to use its own scores", file=sys.stderr)


def warn_of_warmup(length, settings):
    """Warn if tasks, {name: Settings}, end before the warm-up of --warmup-length does."""
    short = {name: found for name, found in settings.items() if _ends_in_warmup(found)}
    if not short:
        return
    rates = ", ".join(f"{name}: {found.iterations} steps reach {found.peak_rate:g} of {found.lr:g}"
                      for name, found in itertools.islice(short.items(), 3))
    more = f" and {len(short) - 3} more" if len(short) > 3 else ""
    falls = next(iter(short.values())).schedule == "cosine"
    effect = "the rate never falls" if falls else "the rate never reaches its peak"
    warn(f"--warmup-length {length} is not shorter than the run, so {effect} ({rates}{more}); "
         "give fewer steps, or a share such as 20%")


def _ends_in_warmup(settings):
    """Return whether the schedule after the warm-up never acts; a constant rate is reached at the warm-up's
    last step."""
    longest = settings.warmup if settings.schedule == "cosine" else settings.warmup - 1
    return 0 < settings.iterations <= longest
