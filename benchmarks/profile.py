"""Where the seconds of one step go, in ours and in the published loop, by kind of operator and by part of
the step:

    python -m benchmarks.profile zscl               # ViT-B/16, batch 8, 47 classes, 1000 sentences, fp32
    python -m benchmarks.profile finetune           # 397 classes
    python -m benchmarks.profile zscl --size tiny   # any model in seconds

Prints Markdown. torch's profiler adds about a microsecond per operator, which matters at tiny sizes.
"""

import argparse
from collections import Counter

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.rows import ROWS
from benchmarks.steps import Pair

KINDS = {  # aten's names of working operators, without "_backward" and a trailing "_"
    "linear, convolution": ("addmm", "mm", "bmm", "matmul", "mkldnn_linear", "linear", "mkldnn_convolution",
                            "convolution", "_convolution", "thnn_conv2d", "_slow_conv2d_forward", "baddbmm"),
    "attention": ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_attention_math"),
    "layer norm": ("native_layer_norm",),
    "elementwise": ("mul", "add", "sub", "div", "sigmoid", "exp", "neg", "sqrt", "square", "pow", "sum", "where",
                    "masked_fill", "rsub", "clamp_min", "linalg_vector_norm", "norm", "softmax", "_softmax",
                    "log_softmax", "_log_softmax"),
    "copies, fills": ("copy", "fill", "zero", "clone", "cat", "_to_copy", "contiguous", "empty", "zeros", "new_zeros"),
}
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}
WHOLE_CALLS = ("attention",)  # operators called by these count as the same kind
OPTIMISER, REST = "optimiser", "rest"
PART, OPTIMISER_RANGE, BACKWARD = "part: ", "Optimizer.", "autograd::engine::evaluate_function: "
PARTS = ("student, images", "student, class prompts", "teacher, images", "teacher, sentences")


def labelled(part, work):
    """Wrap ``work`` in a range that the profiler records."""
    def call(*arguments):
        with record_function(PART + part):
            return work(*arguments)
    return call


def label_towers(student, teacher):
    """Label each encoder of the models as a part, in place. ``teacher`` may be None."""
    for model, names in ((student, PARTS[:2]), (teacher, PARTS[2:])):
        if model is not None:
            for part, name in zip(("encode_image", "encode_text"), names, strict=True):
                setattr(model, part, labelled(name, getattr(model, part)))
            if hasattr(model, "encode_packed"):
                model.encode_packed = labelled(names[1], model.encode_packed)


def events_of(step):
    """Run a step and return its events: operators and ranges, each with its parent."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    return profiler.events()


def ancestors(event):
    """Yield the event, its parent, and so on."""
    while event is not None:
        yield event
        event = event.cpu_parent


def kind_of(event):
    """Return the kind of operator that an event's own time belongs to."""
    names = [part.name for part in ancestors(event)]
    if any(name.startswith(OPTIMISER_RANGE) for name in names):
        return OPTIMISER
    kinds = [KIND_OF.get(_plain(name)) for name in names]
    outer = next((kind for kind in kinds if kind in WHOLE_CALLS), None)
    return outer or kinds[0] or REST


def _plain(name):
    return name.removeprefix("aten::").removesuffix("_backward_data").removesuffix("_backward").rstrip("_")


def part_of(event, forward):
    """Return the part of the step that an event belongs to. ``forward``: {sequence number: part} of the
    forward pass, which identifies the part of a backward event."""
    for part in ancestors(event):
        if part.name.startswith(OPTIMISER_RANGE):
            return OPTIMISER
        if part.name.startswith(PART):
            return part.name.removeprefix(PART)
        if part.name.startswith(BACKWARD):
            return forward.get(part.sequence_nr, REST)
    return REST


def forward_parts(events):
    """Return {autograd's sequence number: part in which its operator ran}."""
    inside = ((event, next((part.name for part in ancestors(event) if part.name.startswith((PART, BACKWARD))), ""))
              for event in events if event.sequence_nr >= 0)
    return {event.sequence_nr: name.removeprefix(PART) for event, name in inside if name.startswith(PART)}


def seconds_of(events):
    """Return ({kind: seconds}, {part: seconds}); every event's own time counts once in each."""
    kinds, parts, forward = Counter(), Counter(), forward_parts(events)
    for event in events:
        own = event.self_cpu_time_total / 1e6
        kinds[kind_of(event)] += own
        parts[part_of(event, forward)] += own
    return kinds, parts


def table(title, ours, peer):
    """Return a Markdown table of two {name: seconds}, sorted by the larger cost of both sides."""
    names = sorted({*ours, *peer}, key=lambda name: -max(peer[name], ours[name]))
    totals = [sum(side.values()) for side in (ours, peer)]
    lines = [f"| {title} | ours, s | % | published, s | % |", "|---|---:|---:|---:|---:|"]
    for name in names:
        cells = [f"{side[name]:.3g} | {100 * side[name] / total:.1f}"
                 for side, total in zip((ours, peer), totals, strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, f"| together | {totals[0]:.3g} | | {totals[1]:.3g} | |"])


def profiled(row, size):
    """Profile the step of a row of ``benchmarks.rows``, warmed up -> {"ours": (kinds, parts), "peer":
    (kinds, parts)}."""
    options = ROWS[row].options(size)
    pair = Pair(options["model"], options["classes"], options["batch"], options.get("sentences", 0))
    pair.check()
    label_towers(pair.ours.state.model, getattr(pair.ours.method, "teacher", None))
    label_towers(pair.peer.student, pair.peer.teacher)
    return {"ours": seconds_of(events_of(pair.ours)), "peer": seconds_of(events_of(pair.step_of_peer))}


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=("zscl", "finetune"))
    parser.add_argument("--size", choices=("full", "tiny", "test"), default="full")
    arguments = parser.parse_args(words)
    found = profiled(arguments.row, arguments.size)
    print(f"{ROWS[arguments.row].work}; {arguments.size} size, torch {torch.__version__}, "
          f"{torch.get_num_threads()} threads; forward and backward of a part together\n")
    for number, title in enumerate(("kind of operator", "part of the step")):
        print(table(title, found["ours"][number], found["peer"][number]) + "\n")


if __name__ == "__main__":
    main()
