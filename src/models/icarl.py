"""ICaRL (Rebuffi et al., 2017, arXiv:1611.07725) for CLIP: replay and distillation on a memory of exemplars."""

import torch

from src.datasets import stem
from src.datasets.common import Split
from src.datasets.seeds import seed_of
from src.errors import UserError
from src.models.classifiers import other_classes
from src.models.features import encode_split
from src.models.finetune import ClassesOfTasks, Distill, Finetune, Prompts, Reference
from src.models.modeling import ClassificationHead, tokens_of


class ICaRL(Distill):
    """From the second task on, each step also takes one batch of exemplars. It gives "replay", each
    exemplar's cross-entropy over its own dataset's classes, and distillation from the model at the start of
    the task, over the prompts of the earlier tasks.

    ``memory_size`` exemplars in all are shared evenly over the classes seen so far. The memory holds
    indices, not pixels: {source, train_data, size, classes: a hash of their names, exemplars: one tensor of
    training indices per class, in herding order}. Prediction uses the text classifier, not the nearest mean
    of exemplars.
    """

    other_terms = (*Distill.other_terms, "replay")
    all_used = True

    def __init__(self, memory_size=10000, replay_weight=1.0, **options):
        super().__init__(**options)
        self.memory_size, self.replay_weight, self.memory = memory_size, replay_weight, []

    def begin(self, state):
        self.memory = [entry for entry in self.memory if entry["source"] != state.source]  # redraw a task trained again
        self.quota = self.memory_size // (len(state.task.classnames) + sum(len(entry["exemplars"])
                                                                           for entry in self.memory))
        if not self.quota:
            raise UserError(f"--memory-size {self.memory_size}: less than one exemplar for each class seen so far; "
"give a larger one")
        if not self.memory:  # first task: plain fine-tuning
            Finetune.begin(self, state)
            return
        self.tasks = [_reopened(state, entry) for entry in self.memory]
        self.earlier = ClassesOfTasks(
            [_class_scores(state, entry, task) for entry, task in zip(self.memory, self.tasks, strict=True)],
            [len(task.classnames) for task in self.tasks])
        super().begin(state)

    def reference(self, state):
        prompts = [prompt for task in self.tasks for prompt in task.prompts()]
        return Reference(state.teacher, exemplar_split(self.memory, self.tasks), tokens_of(state.model, prompts))

    def losses(self, state, batch):
        return super().losses(state, batch) if self.memory else Finetune.losses(self, state, batch)

    def needs_student(self, state):
        return True  # of the replay

    def comparison(self, state, reference, student, teacher):
        replay = self.earlier.cross_entropy(reference, student, self.label_smoothing)
        return {"replay": self.replay_weight * replay,
                **super().comparison(state, reference, student, teacher)}

    def end(self, state):
        split = state.task.split("train")
        positions, features = encode_split(state.final_model, split, state.device, workers=state.workers(split),
                                           world=state.world)
        rows_of = [[] for _ in state.task.classnames]
        for row, position in enumerate(positions):
            rows_of[split.labels[position]].append(row)
        exemplars = [torch.tensor([positions[rows[pick]] for pick in herding(features[rows], self.quota)],
                                  dtype=torch.long) for rows in rows_of]
        self.memory = [{**entry, "exemplars": [indices[:self.quota].clone() for indices in entry["exemplars"]]}
                       for entry in self.memory]
        self.memory.append({"source": state.source, **_drawn_from(state.task), "exemplars": exemplars})

    def carry(self):
        return {"memory": self.memory}

    def load_carry(self, content):
        self.memory = content.get("memory", [])


def herding(features, count):
    """Return the indices of up to ``count`` rows of (N, D), L2-normalised: each pick brings the mean of the
    picks closest to the mean of all (algorithm 4 of the paper). A shorter list is a prefix of a longer one."""
    mean, total = features.mean(dim=0), features.new_zeros(features.shape[1])               # (D,)
    taken, chosen = features.new_zeros(len(features)), []
    for picked in range(1, min(count, len(features)) + 1):
        # Rows have length 1, so |mean - (total + row) / picked| is least where row . (picked mean - total) is largest.
        best = (features @ (picked * mean - total) + taken).argmax()                        # (N, D) x (D,) -> (N,)
        taken[best] = -torch.inf
        total = total + features[best]
        chosen.append(best)
    return torch.stack(chosen).tolist() if chosen else []


def exemplar_split(memory, tasks):
    """Return the exemplars of all earlier tasks as one Split; labels run through the classes of all of them."""
    found, labels, first = [], [], 0
    for entry, task in zip(memory, tasks, strict=True):
        split = task.split("train")
        for label, indices in enumerate(entry["exemplars"]):
            found += [(split, index) for index in indices.tolist()]
            labels += [first + label] * len(indices)
        first += len(entry["exemplars"])
    return Split(lambda position: found[position][0].image(found[position][1]), labels,
                 in_memory=all(task.in_memory for task in tasks))


def _drawn_from(task):
    """Return what identifies the training images of a Task and its classes in order."""
    return {"train_data": task.train_data, "size": len(task.split("train")), "classes": seed_of(*task.classnames)}


def _reopened(state, entry):
    """Return the Task that exemplars were drawn from. Raise UserError if its data has changed."""
    task = state.open_task(entry["source"], trained=True)
    now = _drawn_from(task)
    if any(entry[key] != value for key, value in now.items()):
        different = "of other classes, " if entry["classes"] != now["classes"] else ""
        raise UserError(f"the exemplars of {entry['source']} were drawn from {entry['size']} training images "
                        f"({entry['train_data']}), there are {now['size']} now ({different}{now['train_data']}); give "
                        "the same --shots, --shot-seed, --val-fraction and --data-location as then, and for class "
                        "splits the same --seed and --class-order")
    return task


def _class_scores(state, entry, task):
    """Return a task's classifier, (B, D) -> (B, C): the linear head it left if it is scored by one, else
    its prompts."""
    file = stem(entry["source"])
    head = state.heads.get(file)
    if head is None or other_classes(state.history, file, task.classnames):
        return Prompts(state, state.prompts(task))
    return ClassificationHead.unpacked(head, state.model.logit_scale).requires_grad_(False)
