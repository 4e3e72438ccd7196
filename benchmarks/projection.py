"""The row of gradient projection: what GradientTracker adds to a fine-tuning step."""

import contextlib
import statistics
import time

import torch

from benchmarks.harness import compared, in_turns, nothing, summary
from benchmarks.our_step import OurStep, batch_of
from benchmarks.sizes import class_names, random_images, random_model
from src.machine.device import Device
from src.models.gradients import GradientTracker, tracked_parameters

INSIDE = 1e-3  # of a weight's movement in fp32, as methods promise; an unprojected step of small tensors has 0.1


class RandomBases(GradientTracker):
    """Projects gradient and update of every tracked tensor off ``k`` random orthonormal rows, without a file."""

    def __init__(self, model, k):
        super().__init__(orthogonal_gradients_path=f"{k} random rows per tensor")
        self.model, self.k = model, k

    def earlier(self):
        return {name: {"basis": random_basis(self.k, value.numel(), seed), "energy": None}
                for seed, (name, value) in enumerate(tracked_parameters(self.model).items())}


def random_basis(k, values, seed):
    """Return (k, N) orthonormal rows. Random rows are far from collinear, so a Cholesky factor of their
    products suffices."""
    drawn = torch.randn(k, values, generator=torch.Generator().manual_seed(seed))
    factor = torch.linalg.cholesky((drawn @ drawn.T).double()).float()                   # (k, N) x (N, k) -> (k, k)
    return torch.linalg.solve_triangular(factor, drawn, upper=False)


@contextlib.contextmanager
def around_the_optimiser(step, tracker, wait=nothing):
    """Run the tracker in every step of an OurStep, at the same points as the loop; yield the list of
    seconds per call."""
    seconds = []

    def timed(hook):
        def act(*_):
            wait()
            start = time.perf_counter()
            hook(step.state)
            wait()
            seconds.append(time.perf_counter() - start)
        return act
    optimizer = step.state.optimizer
    handles = (optimizer.register_step_pre_hook(timed(tracker.after_backward)),
               optimizer.register_step_post_hook(timed(tracker.after_step)))
    try:
        yield seconds
    finally:
        for handle in handles:
            handle.remove()


def inside_share(step, tracker):
    """Return {name: share of the movement since the tracker began that lies in the span}, in float64."""
    parameters, shares = dict(step.state.model.named_parameters()), {}
    for name, rows in tracker.protected.items():
        moved = (parameters[name].detach() - tracker.start[name]).double().flatten()
        shares[name] = ((rows.double() @ moved).norm() / moved.norm()).item()            # (k, N) x (N,) -> (k,)
    return shares


def projected_step(model, classes, batches, at, k, rounds, precision="fp32", device="cpu", budget=None):
    """Time a fine-tuning step with gradient and update projected off ``k`` rows per tensor, against the
    same step without.

    The figure is for ``at`` images, which do not fit a CPU: the step without projection lies on the line
    through two measured ``batches`` (b, B), seconds(at) = s_b + (s_B - s_b) (at - b) / (B - b), and the
    projection, whose cost does not depend on the batch, is timed within the steps of b images. With B =
    ``at`` the step without projection is measured.
    """
    small, large = batches
    place = Device(device, precision)
    wait = torch.cuda.synchronize if place.device.type == "cuda" else nothing
    clip = place.place(random_model(model))
    given = {size: batch_of(random_images(size, clip.image_resolution).to(place.device),
                            (torch.arange(size) % classes).to(place.device)) for size in batches}
    step = OurStep(clip, place, class_names(classes), given[small], lr=1e-4)
    tracker, projections = RandomBases(clip, k), []
    tracker.begin(step.state)

    def projected():
        step.batch = given[small]
        with around_the_optimiser(step, tracker, wait) as seconds:
            step()
        projections.append(sum(seconds))

    def plain():
        step.batch = given[large]
        step()

    projected()
    checks = [compared("1 + share of each movement inside the span, after one step",
                       [1 + share for share in inside_share(step, tracker).values()],
                       torch.ones(len(tracker.protected)), INSIDE)]
    plain()
    projections.clear()
    whole, without = in_turns(projected, plain, rounds, budget, wait)
    return {**at_batch(whole, without, projections, small, large, at), "checks": checks,
            "rows": sum(map(len, tracker.protected.values())),
            "basis_bytes": sum(group.rows.nbytes for group in tracker.row_groups)}


def at_batch(whole, without, projections, small, large, at):
    """Summarise steps of ``at`` images with projection against those without, from the seconds of steps of
    ``small`` images with it, of steps of ``large`` images without, and of the projections in the former."""
    part = (at - small) / (large - small)
    fitted = [(1 - part) * (both - own) + part * other
              for both, own, other in zip(whole, projections, without, strict=True)]
    projection, first, second = map(statistics.median, (projections, whole, without))
    return {**summary([step + own for step, own in zip(fitted, projections, strict=True)], fitted),
            "scaled": at not in (small, large), "projection_s": projection, "seconds_measured": {
                f"batch {small}, with": list(whole), f"batch {large}, without": list(without),
                "projection alone": list(projections)},
            "note": f"batch {at} by the line through steps of {small} and {large} images: {first - projection:.2f} and "
                    f"{second:.2f} s without, the projection {projection:.3f} s at any batch; the ratio is "
                    f"{(first - projection) / first:.3f} at {small} and {second / (second + projection):.3f} at "
                    f"{large}"}
