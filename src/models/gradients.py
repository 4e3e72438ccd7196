"""Gradient projection: GradientTracker takes snapshots of gradients and keeps training out of the span of
earlier ones."""

import math

import torch

from src.errors import UserError
from src.models.bases import chained, placed, read_gradients, within_budget
from src.models.hooks import Hooks

STORED = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def tracked_parameters(model):
    """Return {name: parameter} of the trainable weights of attention, MLP and layer norms, and of a
    ResNet's convolutions, batch norms and attention pool. Biases, embeddings, output projections, the logit
    scale and classifiers are not tracked."""
    parameters = dict(model.named_parameters())
    # Tensors called weight within the towers are all of these and one more: visual.conv1 is a convolution in a ResNet,
    # but in a ViT, which also has a class embedding, it embeds the patches.
    patches = "visual.conv1.weight" if "visual.class_embedding" in parameters else None
    return {name: value for name, value in parameters.items() if value.requires_grad and name != patches
            and name.startswith(("visual.", "transformer.", "ln_final.")) and name.endswith("weight")}


class GradientTracker(Hooks):
    """Orthogonal gradient projection: training does not move any weight within the span of earlier tasks'
    gradients.

    The idea is orthogonal gradient descent (Farajtabar et al., 2020, arXiv:1910.07104), with another span.
    Here it is the span of **gradients of the training loss**, all hooks' terms together, taken during the
    run, tensor by tensor. In the paper it is the span of the gradients of the model's logits at the
    optimum, over all parameters as one vector; only that one preserves the old outputs to first order.

    ``orthogonal_gradients`` n: take n snapshots of the gradient, before the projection, in the middles of n
    equal parts of the run, and build a basis from them at the end. ``orthogonal_gradients_path``: project
    off the basis, or the raw snapshots, of this file. With both, the file's basis grows by the new
    snapshots.

    ``orthogonal_target``: "gradient" projects the current gradient before each step, "update" also projects
    the weights' movement. Under AdamW a projected gradient does not give a projected update: dividing by
    the root of the second moment scales each coordinate differently, which turns the step back into the
    span, and weight decay moves along the weights. (Momentum alone would not: a sum of projected gradients
    is projected. Neither would clipping.) The projected movement is measured from the weights at load,
    which in exact arithmetic equals projecting each step; step by step, the rounding of fp32 weights adds
    up to 2.5e-2 of the movement after 300 steps at lr 1e-6.

    ``orthogonal_energy``: share of squared singular values that a basis holds. ``orthogonal_dtype``: fp32,
    fp16 or bf16, of the file. ``orthogonal_budget``: GiB of the file; above it, rows with the lowest
    energies are dropped.

    In memory the bases are fp32, stacked by equal shapes; those that do not fit on a CUDA device stay on
    the host.
    """

    data = "both"
    all_used = True

    def __init__(self, orthogonal_gradients=None, orthogonal_gradients_path=None, orthogonal_target="update",
                 orthogonal_energy=0.97, orthogonal_dtype="fp32", orthogonal_budget=None):
        self.count, self.path = orthogonal_gradients or 0, orthogonal_gradients_path
        self.projects_update = orthogonal_target == "update"
        self.energy, self.budget = orthogonal_energy, orthogonal_budget
        self.dtype, self.stored = orthogonal_dtype, STORED[orthogonal_dtype]
        self.snapshots, self.basis = {}, {}

    def begin(self, state):
        self.old = self.earlier() if self.path else {}
        self.row_groups = self._grouped(state.model) if self.path else []
        self.protected = {name: rows for group in self.row_groups                        # {name: (k, numel)}
                          for name, rows in zip(group.names, group.rows, strict=True)}
        self.start = {name: value.detach().clone() for name, value in state.model.named_parameters()
                      if name in self.protected and self.projects_update}
        self.steps, self.snapshots = [], {}
        if self.count:
            self.steps = snapshot_steps(self.count, state.settings.iterations)
            self.snapshots = {name: [] for name in tracked_parameters(state.model)}
            if not self.snapshots:
                raise UserError(f"--orthogonal-gradients {self.count}: none of the tensors it tracks is trained here "
                                "(weights of attention, MLP, norms and convolutions); leave it out")

    def copies(self):
        return {"gradient basis": [self.old, self.protected], "weights at load": self.start}

    def earlier(self):
        """Return {name: {"basis": (k, numel), "energy": (k,)}} to project off and to extend."""
        return read_gradients(self.path, self.energy)

    def _grouped(self, model):
        """Return BasisGroups of the trained tensors that the file protects."""
        parameters = dict(model.named_parameters())
        wrong = [f"{name} ({entry['basis'].shape[1]} values, "
                 f"the model {parameters[name].numel() if name in parameters else 'has none'})"
                 for name, entry in self.old.items()
                 if name not in parameters or parameters[name].numel() != entry["basis"].shape[1]]
        if wrong:
            more = f" and {len(wrong) - 10} more" if len(wrong) > 10 else ""
            raise UserError(f"--orthogonal-gradients-path {self.path}: does not fit the model: "
                            f"{', '.join(wrong[:10])}{more}; give gradients of the same --model")
        shapes = {name: entry["basis"].shape for name, entry in self.old.items()
                  if parameters[name].requires_grad and len(entry["basis"])}
        if not shapes:
            raise UserError(f"--orthogonal-gradients-path {self.path}: would protect nothing: none of its "
                            f"{len(self.old)} tensors is trained here and has a row; give another --train-mode or file")
        weight = parameters[next(iter(shapes))]
        print(f"projection off {self.path}: {len(shapes)} of its {len(self.old)} tensors, "
              f"{size(shapes, weight.itemsize)}")
        return placed(shapes, self.old, weight)

    def after_backward(self, state):
        parameters = dict(state.model.named_parameters())
        taken = len(next(iter(self.snapshots.values()), ()))
        if taken < sum(step <= state.iteration for step in self.steps):
            self._take(parameters)
        for group in self.row_groups:
            weights = [parameters[name] for name in group.names]
            group.project([torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights])

    def _take(self, parameters):
        """Take a snapshot; if loss scaling made the gradient overflow, the next step takes it instead."""
        rows = {name: torch.zeros_like(parameters[name]) if parameters[name].grad is None else parameters[name].grad
                for name in self.snapshots}
        if all(bool(row.isfinite().all()) for row in rows.values()):
            for name, row in rows.items():
                self.snapshots[name].append(row.detach().flatten().to("cpu", copy=True))

    @torch.no_grad()
    def after_step(self, state):
        if not self.projects_update:
            return
        parameters = dict(state.model.named_parameters())
        for group in self.row_groups:
            weights, starts = ([of[name] for name in group.names] for of in (parameters, self.start))
            moved = torch._foreach_sub(weights, starts)
            group.project(moved)
            torch._foreach_copy_(weights, torch._foreach_add(starts, moved))

    def end(self, state):
        if not self.count:
            return
        parameters = dict(state.model.named_parameters())
        self.basis = {name: self._stored(entry) for name, entry in self.old.items() if name not in self.snapshots}
        for name, rows in self.snapshots.items():
            none = parameters[name].new_zeros(0, parameters[name].numel())
            old = self.old.get(name, {"basis": none, "energy": none[:, 0]})
            rows = torch.stack(rows).to(none.device) if rows else none                   # (m, numel)
            old = {key: value.to(none.device) for key, value in old.items()}
            self.basis[name] = self._stored(chained(old, rows, self.energy))
        self.snapshots = {}  # only now, so that an interruption while building bases leaves them all in the raw file
        if self.budget is not None:
            self.basis, dropped = within_budget(self.basis, self.budget * 2 ** 30)
            if dropped:
                print(f"--orthogonal-budget {self.budget:g}: {dropped} rows of the lowest energies were dropped")
        shapes = {name: entry["basis"].shape for name, entry in self.basis.items()}
        print(f"gradient basis: {len(shapes)} tensors, {size(shapes, self.stored.itemsize)} in {self.dtype}")

    def _stored(self, entry):
        """Copy an entry for storage: a view would drag its whole stack into the file."""
        return {"basis": entry["basis"].to("cpu", self.stored, copy=True),
                "energy": entry["energy"].to("cpu", torch.float32)}

    def files(self, finished):
        """Return {file name with {task} in it: content}: the basis of a finished task, if snapshots were
        requested; the snapshots so far of an interrupted one."""
        if finished:
            return {"grad_{task}.pth": self.basis, "grad_{task}.raw.pth": None} if self.count else {}
        raw = {name: {"snapshots": torch.stack(rows)} for name, rows in self.snapshots.items() if rows}
        return {"grad_{task}.raw.pth": raw} if raw else {}

    def state_dict(self):
        return {"snapshots": {name: list(rows) for name, rows in self.snapshots.items()}, "start": self.start}

    def load_state_dict(self, content):
        self.snapshots = {name: list(rows) for name, rows in content["snapshots"].items()}
        self.start = {name: start.to(self.start[name]) for name, start in content["start"].items()}


def snapshot_steps(count, iterations):
    """Return the steps, from 0, in the middles of ``count`` equal parts of the run; all steps if there are fewer."""
    if count > iterations:
        print(f"note: --orthogonal-gradients {count}: the run has only {iterations} steps; taking one snapshot at each")
    count = min(count, iterations)
    return [(2 * index + 1) * iterations // (2 * count) for index in range(count)]


def size(shapes, itemsize):
    """Return rows and MiB in words, from {name: (k, numel)} and bytes per value."""
    return (f"{sum(count for count, _ in shapes.values())} rows, "
            f"{sum(map(math.prod, shapes.values())) * itemsize / 2 ** 20:.1f} MiB")
