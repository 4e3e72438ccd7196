"""Run one task, from its first step to its checkpoint."""

import contextlib

from src.datasets import stem
from src.datasets.loading import steps_per_epoch
from src.machine.interruption import Interrupted
from src.models.attached import stored_tensors
from src.models.hooks import named
from src.models.lora_injection import adapter_state
from src.models.memory import weight_copies
from src.models.training import train
from src.models.wrapped import has_lora
from src.run.build import build_task, scorer_of, silent_choices, unused_modules
from src.run.cached import task_facts
from src.run.scoring import task_and_phase
from src.run.weights import model_name
from src.store.checkpoint import carry_bytes, finished_checkpoint
from src.store.records import Journal
from src.store.resume import TaskPoints


class TaskRun:
    """Run the task ``name`` of a Run from the checkpoint ``origin``, or what --resume leaves to do.

    Its weights move from the checkpoint into the model. ``inputs``: from ``inputs_of``. ``place``: where it is
    shared with other runs.
    """

    def __init__(self, run, name, origin, inputs, place):
        self.run, self.training, self.name, self.file, self.origin = run, run.training, name, stem(name), origin
        run.device.forget_peak()
        self.state, self.hooks = build_task(self.training, run.datasets, name, origin, run.device, run.open_zeroshot,
                                            run.basis)
        if not self.training.pairs:  # their drift is measured against these weights
            del origin["state_dict"]
        self.state.world, self.state.signals, self.state.images = run.world, run.signals, run.images
        self.place = place
        place.watch(self.state)
        self.points = TaskPoints(run.files, run.folder, self.state, self.hooks, self.file, inputs, place.key)
        self.journal = Journal(run.folder, self.file, self.state.settings.iterations, run.files.log_interval,
                               run.world.means, self.points.iteration, run.progress, run.trackers)
        self.memory = None  # known once hooks have begun
        self.facts = None  # set when it is finished
        run.trackers.begin(self.file, self.points.iteration, run.before.get(self.file, 0))

    def train(self):
        """Train the task. -> (the finished checkpoint, {dataset: Scores})"""
        with self.interruptible(), self.run.folder.heard() as heard:
            with self.run.device.enough_memory(f"--batch-size {self.training.batch_size}"):
                train(self.state, self.hooks, self.step_done, self.start, self.points.interrupted, self.resumed)
            scores = self.score_at_end()
            checkpoint = self.keep(scores)
        self.points.forget()
        self.place.keep(checkpoint, scores, self.facts, heard, self.points.key)
        return checkpoint, scores

    @contextlib.contextmanager
    def interruptible(self):
        """Defer signals while entered; ``step_done`` and ``score`` then end the task, in all processes
        together.

        However the task ends, its hooks write what they hold; an interruption names what it resumes from.
        """
        signals = self.run.signals
        try:
            with signals.held(), self.points.told_if_interrupted(), self.run.world.interrupted_together():
                yield
        except BaseException:
            with signals.held():
                self._write_files(finished=False)
            raise
        finally:
            self.journal.close()

    def start(self, state, hooks):
        """Print, before the first step, what is held in memory and what was chosen without a flag."""
        self.memory = weight_copies(state, hooks, {"zero-shot": self.run.open_zeroshot.kept, "checkpoint": self.origin})
        for choice in filter(None, [*silent_choices(self.training, state), unused_modules(self.origin, state.own)]):
            self.run.note(choice)
        self.run.print_memory(str(self.memory))
        self.run.keep_shots(self.name)  # only after every hook has accepted the task
        self.points.begin()

    def resumed(self):
        """Score what the interrupted run had not scored yet."""
        if self.points.unscored:
            self.score()

    def step_done(self, state, losses):
        """Log a step. Score, stop and keep a resume point when due."""
        self.journal.step(state, losses)
        last = state.iteration == state.settings.iterations
        if self.rhythm and state.iteration % self.rhythm == 0 and not last:
            self.score()
        with self.points.kept_if_interrupted():
            if not last and (reason := self.run.world.all_stop(self.run.signals.reason, state.iteration)):
                raise Interrupted(reason)
        self.points.keep_where_due(last)

    @property
    def rhythm(self):
        """The number of steps between scores; None to score only at the end."""
        if self.training.eval_every_epoch:
            settings = self.state.settings
            return steps_per_epoch(self.state.task, settings.batch_size, settings.last_batch)
        return self.training.eval_interval

    def score(self):
        """Score the weights between two steps. A signal interrupts it; the resume point records that it must be
        repeated."""
        with self.points.kept_if_interrupted(while_scoring=True), self.run.world.interrupted_together(), \
                self.run.signals.released():
            self.run.scorer.trained(self.state, self.hooks, self.file)

    def score_at_end(self):
        """Score the weights that the task leaves; for the last task, write the prediction for every image."""
        with self.run.signals.released():
            return self.run.scorer.trained(self.state, self.hooks, self.file, keep=self.run.ends_with(self.name),
                                           finished=True)

    def keep(self, scores):
        """Write everything that the task leaves, its checkpoint last: if that exists, so does the rest."""
        run, state, seconds = self.run, self.state, self.points.seconds
        run.folder.forget_other_iterations({(self.file, ""), task_and_phase(self.file, self.name)}, self._scored_at())
        checkpoint = self._checkpoint(scores)
        self.facts = self._facts(seconds, checkpoint)
        run.folder.write_json(f"run_{self.file}.json", task_facts(run, self.facts, self.points.inputs, scores,
                                                                  self.place.facts()))
        self._write_files(finished=True)
        if has_lora(state.model):
            run.folder.write_tensors(f"{self.file}.lora.pth", adapter_state(state.model))
        run.folder.write_checkpoint(self.file, checkpoint)
        run.leave_to_the_next(self.name, checkpoint)
        run.world.wait()  # all processes now see the first one's files
        print(f"{self.file}: {state.iteration} steps in {seconds:.1f} s, {run.scorer.in_words(scores)}", flush=True)
        return checkpoint

    def _scored_at(self):
        """Return the steps after which the task was scored."""
        between = range(self.rhythm, self.state.iteration, self.rhythm) if self.rhythm else ()
        return [*between, self.state.iteration]

    def _checkpoint(self, scores):
        state = self.state
        return finished_checkpoint(
            state.final_model, self.origin, dataset=self.file, source=state.source, task=state.task,
            metrics={dataset: score.summary() for dataset, score in self.run.scorer.shown(scores).items()},
            iteration=state.iteration,
            carry={name: kept for name, hook in named(self.hooks).items() if (kept := hook.carry())},
            own=stored_tensors(state.own), scorer=scorer_of(self.training, self.hooks, state.own),
            config=self.run.files.numbers, name=model_name(self.origin))

    def _facts(self, seconds, checkpoint):
        run, state = self.run, self.state
        trained = state.trained()
        run.peak = max(run.peak, run.device.peak_memory())
        drift = {"drift": run.scorer.drift(self.origin, state)} if self.training.pairs else {}
        carried = {"carry_bytes": sizes} if (sizes := carry_bytes(checkpoint)) else {}
        return {"iterations": state.iteration, "seconds": round(seconds, 2), "processes": run.world.size,
                "peak_memory_bytes": run.device.peak_memory(), "trainable_tensors": len(trained),
                "trainable_values": sum(parameter.numel() for parameter in trained), **self.memory.facts(), **drift,
                **carried}

    def _write_files(self, finished):
        for hook in self.hooks:
            for name, content in hook.files(finished).items():
                self.run.folder.write_tensors(name.replace("{task}", self.file), content)
