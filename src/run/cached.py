"""Share tasks between runs by --task-cache: take each from there, or train it and leave it there."""

import contextlib
import functools
import json
from dataclasses import replace

import torch

from src.datasets import comes_from_code, is_pairs, stem
from src.datasets.pairs import JOINT
from src.machine.files import WriteError
from src.machine.notices import warn
from src.models.custom import GIVEN
from src.run.build import build_scored, scoring_hooks
from src.run.scoring import class_tasks, plain_scores, scores_of, task_and_phase
from src.run.task_key import TaskKeys, key_of
from src.run.weights import model_name
from src.store.checkpoint import finished_again
from src.store.records import describe_run
from src.store.resume import NOT_SHARED, points_left
from src.store.task_cache import FLAG, GB, TaskCache
from src.store.trackers import EVALUATION

SHOWN = 12  # characters of a key in a line


def task_facts(run, facts, inputs, scores, shared):
    """Return the content of ``run_<task>.json``. ``facts``: of its training; ``shared``: from ``Place.facts``."""
    return {**describe_run(run.files, run.device, **facts), "inputs": inputs, "scores": plain_scores(scores), **shared}


class SharedTasks:
    """Manage the tasks of a Run in the folder of --task-cache."""

    def __init__(self, run):
        self.run, files = run, run.files
        self.cache = TaskCache(files.task_cache, files.task_cache_size * GB) if files.task_cache else None
        self.keys, self.taken = None, {}  # {file of a task: key of the entry that it was taken from}

    def claim(self):
        """Check before training: raise UserError if the folder is not writable, print a note if tasks cannot be
        shared."""
        if self.cache is None:
            return
        run = self.run
        if run.world.first:
            self.cache.prepare()
        if run.training.eval_interval or run.training.eval_every_epoch:
            run.note(f"{FLAG} does nothing with --eval-interval or --eval-every-epoch: scores between two steps need "
                     "the weights of that step")
            self.cache = None
            return
        if code := next(filter(comes_from_code, self._named()), None):
            run.note(f"{FLAG} does nothing with {code}: images that code gives may change unnoticed")
            self.cache = None
            return
        if row := next((row for row in run.training.custom if row.target.rpartition(":")[0] == GIVEN), None):
            run.note(f"{FLAG} does nothing with {row.target}: what the class reads may change unnoticed; "
                     f"{row.flag} FILE.py:Class shares tasks")
            self.cache = None
            return
        if run.command.data.skip_bad_images:
            run.note(f"tasks taken from {FLAG} do not repeat the warnings about skipped images")
        self.keys = TaskKeys(run.training, run.scoring, run.files, run.datasets, run.device)

    def _named(self):
        """Return all datasets that the run names."""
        training = self.run.training
        return filter(None, (*training.trained, *self.run.evaluated, training.ref_dataset, training.ref_sentences,
                             *training.text_datasets))

    def scores_of_start(self, start):
        """Return the Scores of the weights that a sequence starts from, {dataset: {label space: Scores}}.

        Take those that are in the cache; compute the others and leave them there.
        """
        run = self.run
        if self.cache is None or run.scoring.keep_features or self._scored_in_its_own_way(start):
            return run.evaluate(start, start=True)
        key, scored = self.key(self.keys.start_parts(start)), self.score_keys(start.get("history", []))
        with contextlib.ExitStack() as held, run.world.interrupted_together():
            if run.world.first:
                self.hold(held, key, "the scores before training")
            run.world.wait()
            return self._start_scores(start, key, scored)

    def _scored_in_its_own_way(self, start):
        """Return whether a given method, or the one that made the checkpoint, may score it; a note says which."""
        return self.keys.custom or start.get("scorer") or scoring_hooks(self.run.scoring, start)

    def _start_scores(self, start, key, scored):
        run, there = self.run, {} if self.run.files.overwrite else self.kept_scores(key, scored)
        missing = [name for name in run.evaluated if stem(name) not in there]
        found = {}
        if missing:
            with run.folder.heard() as heard:
                found = run.scorer.part(missing).checkpoint(start, start=True)
            self.keep_scores(key, scored, found, heard.rows)
        if there:
            self.write_rows(there)
            taken = {file: scores for file, (scores, _) in there.items()}
            run.trackers.scores(EVALUATION, start.get("iteration", 0), taken)
            words = run.scorer.in_words(taken)
            print(f"scores before training, taken from {FLAG} ({key[:SHOWN]}): {words}", flush=True)
            found |= taken
        return {stem(name): found[stem(name)] for name in run.evaluated}

    def key(self, parts):
        """Return the key of {what: digest}, the same in all processes."""
        keys = self.run.world.interleave([key_of(parts)], self.run.world.size)
        return keys[0] if len(keys) == 1 else key_of(keys)

    def score_keys(self, history):
        """Return {file of a dataset: key of its scores} once the tasks of ``history`` are trained."""
        spaces, opened = self.run.scorer.spaces.after(class_tasks(history))
        return {stem(name): self.keys.scored(name, {} if is_pairs(name) else spaces(stem(name)), opened,
                                             self.run.evaluated) for name in self.run.evaluated}

    def kept_scores(self, key, scored):
        """Return {file of a dataset: ({label space: Scores}, rows of its metrics)} of an entry. ``scored``:
        from ``score_keys``."""
        kept = self.cache.scores(key)
        found = {file: (scores_of({"scores": {file: kept[one]["scores"]}}), kept[one]["rows"])
                 for file, one in scored.items() if one in kept}
        there = {file: (scores[file], rows) for file, (scores, rows) in found.items() if scores}
        self.require_same(sorted(there))
        return there

    def require_same(self, seen):
        """Raise UserError if the processes see different content in the folder."""
        self.run.world.require_same(seen, NOT_SHARED.format(flag=FLAG, folder=self.cache.folder))

    def keep_scores(self, key, scored, scores, rows):
        """Add {dataset: {label space: Scores}} and {dataset: rows of its metrics} to an entry."""
        if self.run.world.first:
            self.cache.add_scores(key, {scored[file]: {"scores": found, "rows": rows.get(file, [])}
                                        for file, found in plain_scores(scores).items()})

    def write_rows(self, there):
        """Write the rows of metrics of ``kept_scores`` as scoring would."""
        for file, (_, rows) in there.items():
            for row in rows:
                self.run.folder.add_metrics(file, row)

    @contextlib.contextmanager
    def place(self, name, start, inputs):
        """Return the Place of the task ``name`` from the checkpoint ``start``.

        While entered, no other run holds it; wait for a run that trains the same task.
        """
        if self.cache is None:
            yield Unshared()
            return
        world, place = self.run.world, Place(self, name, start, inputs)
        with contextlib.ExitStack() as held:
            with world.interrupted_together():
                if world.first:
                    self.hold(held, place.key, place.file)
                world.wait()
            if not self.run.files.overwrite:
                place.content = self.cache.read(place.key)
            self.require_same(place.content is not None)
            yield place

    def hold(self, held, key, what):
        """Keep other runs from an entry until ``held`` is left. Wait for one that has it."""
        def note_waiting(holder):
            print(f"{what}: waits for {holder}, which is working on the same entry of {FLAG}", flush=True)
        try:
            held.enter_context(self.cache.alone(key, note_waiting))
        except WriteError as error:
            warn(f"{FLAG} {self.cache.folder}: cannot lock it, so another run may repeat the work: {error}")

    def remember(self, file, facts):
        """Note a task that was finished before, from the content of its ``run_<task>.json``."""
        found = facts.get("task_cache")
        if isinstance(found, dict) and found.get("taken"):
            self.taken[file] = found.get("key")

    def facts(self):
        """Return its part of ``run.json``."""
        return {"tasks_from_cache": self.taken} if self.run.files.task_cache else {}


class Unshared:
    """Replace a Place where tasks are not shared."""

    key = content = None

    def watch(self, state):
        pass

    def keep(self, *finished):
        pass

    def facts(self):
        return {}


class Place:
    """Represent the shared place of a task. ``content``: what it holds, None before the task is trained."""

    def __init__(self, shared, name, start, inputs):
        self.shared, self.run, self.cache, self.keys = shared, shared.run, shared.cache, shared.keys
        self.name, self.file, self.start, self.inputs = name, stem(name), start, inputs
        self.parts = self.keys.parts(name, start, inputs, self.run.open_zeroshot)
        self.key = shared.key(self.parts)
        self.content, self.unknown = None, []
        # Predictions and features from scoring are not cached.
        self.scores_again = self.run.ends_with(name) or self.run.scoring.keep_features

    def facts(self):
        """Return its part of ``run_<task>.json``."""
        return {"task_cache": {"folder": str(self.cache.folder), "key": self.key, "taken": self.content is not None,
                               "made_of": self.parts}}

    # -- trained here --------------------------------------------------------------------------------------------------

    def watch(self, state):
        """Record what hooks open during training without the key covering it."""
        known = {name for name, _ in self.keys.read(self.start)} | {self.name, *self.keys.joint}
        state.open_task = self._noted(state.open_task, known)
        for opener in ("open_zeroshot", "open_teacher"):
            setattr(state, opener, self._noted(getattr(state, opener), {*self.keys.teachers}))

    def _noted(self, function, known):
        def opened(name=None, **options):
            if name not in known:
                self.unknown.append(name or "the zero-shot weights")
            return function(name, **options)
        return opened

    def keep(self, checkpoint, scores, facts, heard, key):
        """Leave the task there once it is finished.

        ``facts``: of its training. ``heard``: what was logged. ``key``: the one under which all its steps were
        made.
        """
        if not self.run.world.first:
            return
        files = [f"log_{self.file}.jsonl", *(name for name, there in heard.tensors.items() if there)]
        if reason := self._why_not(key, facts["iterations"]):
            self.run.note(f"{self.file} is not kept in {FLAG}: {reason}")
            return
        self.cache.write(self.key, {
            "checkpoint": checkpoint, "facts": json.dumps(facts),
            "files": {name: _bytes_of(self.run.folder.file(name)) for name in files},
            "gone": [name for name, there in heard.tensors.items() if not there]})
        self.shared.keep_scores(self.key, self.shared.score_keys(checkpoint["history"]), scores, heard.rows)

    def _why_not(self, key, iterations):
        if key != self.key:
            return "it was resumed, and its first steps are of other code, another machine or an uncached run"
        if self.unknown:
            return f"the method opens {', '.join(dict.fromkeys(self.unknown))}, named by no flag"
        log = self.run.folder.file(f"log_{self.file}.jsonl")
        lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
        if iterations and not (lines and json.loads(lines[-1])["iteration"] == iterations):
            return "its log is incomplete"
        return None

    # -- taken from there ----------------------------------------------------------------------------------------------

    def take(self):
        """Write everything that training the task here would leave. -> (its finished checkpoint, {dataset:
        Scores})"""
        run, file, kept = self.run, self.file, self.content["checkpoint"]
        points = points_left(run.files, run.folder, file, self.inputs)
        run.keep_shots(self.name)
        source = ",".join(run.training.trained) if self.name == JOINT else self.name
        again = functools.partial(finished_again, kept, self.start, dataset=file, source=source,
                                  task=run.datasets.open(self.name), config=run.files.numbers,
                                  name=model_name(self.start))
        with run.world.interrupted_together():
            scores = self._scores(again(metrics={}))
            shown = run.scorer.shown(scores)
            checkpoint = again(metrics={dataset: score.summary() for dataset, score in shown.items()})
            facts = self._facts(checkpoint)
        self._write(checkpoint, facts, scores)
        points.forget()
        self._log(checkpoint, scores)
        return checkpoint, scores

    def _scores(self, checkpoint):
        """Take the scores that are there, and score the checkpoint for the rest."""
        run, scored = self.run, self.shared.score_keys(checkpoint["history"])
        there = {} if self.scores_again else self.shared.kept_scores(self.key, scored)
        self.shared.write_rows(there)
        missing = [name for name in run.evaluated if stem(name) not in there]
        found = {file: scores for file, (scores, _) in there.items()}
        if missing:
            with run.folder.heard() as heard:
                again = run.scorer.part(missing).finished(checkpoint, keep=run.ends_with(self.name))
            self.shared.keep_scores(self.key, scored, again, heard.rows)
            found |= again
        return {stem(name): found[stem(name)] for name in run.evaluated}

    def _facts(self, checkpoint):
        """Return the facts of the training there; feature drift is measured on what this run scores."""
        run, facts = self.run, json.loads(self.content["facts"])
        if run.training.pairs:
            state, _ = build_scored(replace(run.scoring, method_given=True), checkpoint, run.device, run.world)
            facts["drift"] = run.scorer.drift(self.start, state)
        return facts

    def _write(self, checkpoint, facts, scores):
        """Write files as ``TaskRun.keep`` does, the checkpoint last."""
        run, file, folder = self.run, self.file, self.run.folder
        folder.forget_other_iterations({(file, ""), task_and_phase(file, self.name)}, [checkpoint["iteration"]])
        folder.write_json(f"run_{file}.json", task_facts(run, facts, self.inputs, scores, self.facts()))
        for name, content in self.content["files"].items():
            folder.write_bytes(name, content.numpy())
        for name in self.content["gone"]:
            folder.write_tensors(name, None)
        folder.write_checkpoint(file, checkpoint)
        run.leave_to_the_next(self.name, checkpoint)
        run.world.wait()
        self.shared.taken[file] = self.key
        print(f"{file}: taken from {FLAG} ({self.key[:SHOWN]}), not trained: {run.scorer.in_words(scores)}", flush=True)

    def _log(self, checkpoint, scores):
        """Show progress and feed trackers as a training would have."""
        run = self.run
        run.progress.skip(self.file)
        run.trackers.begin(self.file, 0, run.before.get(self.file, 0))
        for text in bytes(self.content["files"][f"log_{self.file}.jsonl"].numpy()).decode().splitlines():
            line = json.loads(text)  # non-finite numbers are stored as text
            run.trackers.line({name: float(value) if isinstance(value, str) else value for name, value in line.items()})
        run.trackers.scores(self.file, checkpoint["iteration"], scores)


def _bytes_of(path):
    return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8) if path.stat().st_size else \
        torch.empty(0, dtype=torch.uint8)
