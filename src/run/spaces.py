"""Define label spaces: which datasets' classes an image is scored against."""


from src.datasets import class_split, stem
from src.errors import UserError
from src.machine.notices import warn


class LabelSpaces:
    """Map datasets to label spaces.

    ``task``: the dataset's own classes. ``seen``: those of the tasks trained so far. ``all``: those of the
    sequence, or of all evaluated datasets. ``open_task(name)`` opens a dataset.
    """

    def __init__(self, spaces, evaluated, open_task):
        self.spaces, self.evaluated, self.open_task = spaces, evaluated, open_task

    def claim(self, history, names):
        """Open, before training, what will be trained on and scored against; refuse other classes than were
        trained on. -> {file: Task}"""
        self._refuse_other_classes(history, names)
        _, opened = self.after([*history, *({"dataset": stem(name), "source": name} for name in names)])
        if self.spaces != ("task",):
            self._warn_of_equal_names(opened)
        if self.spaces == ("seen",):
            seen = {entry["dataset"] for entry in history} | set(map(stem, names))
            if unseen := [name for name in self.evaluated if stem(name) not in seen]:
                warn(f"{', '.join(unseen)} has no score in --label-space seen: it is not trained on")
        return opened | {stem(name): self.open_task(name) for name in names}

    @staticmethod
    def _warn_of_equal_names(opened):
        owners = {}
        for file, task in opened.items():
            for classname in task.classnames:
                owners.setdefault(classname, []).append(file)
        if shared := [f"{classname!r} ({', '.join(files)})" for classname, files in owners.items() if len(files) > 1]:
            warn(f"equal class names stay different classes: {'; '.join(shared)}")

    def after(self, history):
        """Return the spaces once the tasks of ``history`` are trained: (file -> {space: files whose classes it
        joins}, {file: Task})."""
        names = self.sources(history)
        parts = {"seen": tuple(self._seen(history)), "all": tuple(names)}

        def spaces(file):
            return {space: parts.get(space, (file,)) for space in self.spaces}
        return spaces, {file: self.open_task(name) for file, name in names.items()}

    def sources(self, history):
        """Return {file: the dataset as on the command line} of everything that ``after`` opens."""
        names = {stem(name): name for name in self.evaluated}
        return names | {file: source for file, source in self._seen(history).items() if file not in names}

    def _seen(self, history):
        if self.spaces == ("task",):
            return {}
        return {entry["dataset"]: entry.get("source", entry["dataset"]) for entry in history}

    def _refuse_other_classes(self, history, names):
        """Refuse another class order: --seed and --class-order cut class splits, and a sequence would then
        repeat classes."""
        for entry in history:
            base, part, _ = class_split(entry["dataset"])
            siblings = [name for name in dict.fromkeys([*self.evaluated, *names])
                        if part is not None and class_split(name)[0] == base != name]
            for name in siblings:
                known, now = entry["classnames"], list(self.open_task(entry["dataset"]).classnames)
                shared = name != entry["dataset"] and {*known} & {*self.open_task(name).classnames}
                if now != known or shared:
                    raise UserError(f"{name}: --load was trained on {entry['dataset']} with another class order; give "
                                    "the --seed, the --class-order and the number of splits of "
                                    "that run")
