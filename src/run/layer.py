"""Keep a linear evaluation and resume it: its layer, a log of its epochs, a resume point.

    linear_<DATASET>[_after_<TASK>].pth    head (C, D + 1) on unnormalised features, class names, scores
    log_linear_<DATASET>[_after_<TASK>].jsonl
"""

import json
from dataclasses import asdict

import torch

from src.models.evaluation import Scores
from src.models.fingerprints import fingerprint
from src.store.checkpoint import CheckpointError, read_checked, write_checked
from src.store.resume import NOT_SHARED, ResumePoints, refuse_other_configuration, refuse_other_inputs


class KeptLayer:
    """Keep the layer of ``dataset`` (its name in files) on the features of ``checkpoint``, in a RunFolder that
    may be read-only.

    While entered, its log is open. ``start``: the resume point, or None; ``epochs``: how many it has done.
    """

    def __init__(self, files, epochs, folder, dataset, classnames, checkpoint, world):
        after = checkpoint.get("dataset")
        self.name = f"linear_{dataset}" + (f"_after_{after}" if after else "")
        self.files, self.folder, self.classnames = files, folder, list(classnames)
        self.there = folder.path is not None
        self.made = {"config": files.numbers,
                     "inputs": {"--load": fingerprint(list(checkpoint["state_dict"].items()))} if self.there else {}}
        self.points = ResumePoints(folder, self.name, files.save_interval)
        self.start = self.points.read() if files.resume and self.there else None
        if self.start:
            refuse_other_configuration(files, self.start, self.points.newest)
            refuse_other_inputs(self.start["inputs"], self.made["inputs"], f"--resume: {self.points.newest}")
        self.epochs, self._head, self._log = self.start["iteration"] if self.start else 0, None, None
        world.require_same(self.epochs, NOT_SHARED.format(flag="--save", folder=folder.path))
        if self.start:
            self._head = self.start["head"]
            print(f"{self.name}: resumes after epoch {self.epochs} of {epochs}", flush=True)

    def scores(self):
        """Return the Scores of a finished layer with the same flags and weights; None without one, or with
        --overwrite."""
        path = self.folder.path and self.folder.file(f"{self.name}.pth")
        if self.files.overwrite or not (path and path.is_file()):
            return None
        try:
            content = read_checked(path)
        except CheckpointError as error:
            print(f"note: {error}; training the layer again", flush=True)
            return None
        if any(content[key] != self.made[key] for key in self.made) or content["classnames"] != self.classnames:
            return None
        print(f"{self.name}: already finished, top-1 {content['scores']['top1']:.1f}; give --overwrite to train it "
              "again", flush=True)
        return Scores(**content["scores"])

    def __enter__(self):
        self._log = self.folder.open_log(self.name, self.epochs)
        return self

    def __exit__(self, *error):
        if self._log:
            self._log.close()
        self.points.wait()

    def log(self, line):
        if self._log:
            self._log.write(json.dumps(line) + "\n")

    def keep(self, content):
        """Keep the state after an epoch; write a resume point when --save-interval is due."""
        self._head = content["head"]
        if self.points.due(content["iteration"]):
            self.points.keep({**self.made, **content})

    def finish(self, scores):
        if self.folder.writes:
            head = torch.cat([self._head["weight"], self._head["bias"][:, None]], dim=1).detach().cpu()
            write_checked(self.folder.file(f"{self.name}.pth"), {
                **self.made, "head": head, "classnames": self.classnames, "scores": asdict(scores)})
        self.points.forget()
