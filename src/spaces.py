"""Label spaces: which datasets' classes an image has to be told apart from."""

import sys

from src.datasets import class_split, stem
from src.errors import UserError


class LabelSpaces:
    """``task``: the dataset's own classes; ``seen``: those of the tasks trained so far; ``all``: those of the sequence,
    or of all that is evaluated. ``open_task(name)`` opens a dataset."""

    def __init__(self, spaces, evaluated, open_task):
        self.spaces, self.evaluated, self.open_task, self.told = spaces, evaluated, open_task, False

    def claim(self, history, names):
        """Before training: open what will be scored against, and refuse other classes than were trained on."""
        self._refuse_other_classes(history, names)
        _, opened = self.after([*history, *({"dataset": stem(name), "source": name} for name in names)])
        if self.spaces == ("task",):
            return
        owners = {}
        for file, task in opened.items():
            for classname in task.classnames:
                owners.setdefault(classname, []).append(file)
        if shared := [f"{classname!r} ({', '.join(files)})" for classname, files in owners.items() if len(files) > 1]:
            print(f"warning: equal class names stay different classes: {'; '.join(shared)}", file=sys.stderr)

    def after(self, history):
        """Once the tasks of ``history`` are trained -> (file -> {space: files whose classes it joins}, {file: Task})."""
        names = {stem(name): name for name in self.evaluated}
        seen = {entry["dataset"]: entry.get("source", entry["dataset"]) for entry in history}
        if self.spaces != ("task",):
            names |= {file: source for file, source in seen.items() if file not in names}
        parts = {"seen": tuple(seen), "all": tuple(names)}

        def spaces(file):
            return {space: parts.get(space, (file,)) for space in self.spaces}
        return spaces, {file: self.open_task(name) for file, name in names.items()}

    def _refuse_other_classes(self, history, names):
        """Class splits are cut by --seed: a sequence that goes on with another seed would meet classes twice."""
        for entry in history:
            base, part, _ = class_split(entry["dataset"])
            siblings = [name for name in dict.fromkeys([*self.evaluated, *names])
                        if part is not None and class_split(name)[0] == base != name]
            for name in siblings:
                classnames = list(self.open_task(name).classnames)
                known = entry["classnames"]
                fits = classnames == known if name == entry["dataset"] else not set(classnames) & set(known)
                if not fits:
                    raise UserError(f"{name}: --load was trained on {entry['dataset']} with another order of the classes; "
                                    "give the --seed, and the number of splits, of that run")
