"""Copies of the weights: counted by hand and by what is alive; shared and lowered without a bit's difference."""

import gc
import re
import weakref
from types import SimpleNamespace

import pytest
import torch
from cli_files import read_json
from torch import nn

import src.run.task
from src.datasets.common import Split, Task
from src.machine.device import Device
from src.models.averaging import MovingAverage, WeightEnsemble, WiseEnsemble, WiseMerge
from src.models.finetune import ZSCL, Finetune, LwF
from src.models.gradients import GradientTracker
from src.models.hooks import Hooks
from src.models.icarl import ICaRL
from src.models.lora_injection import inject_peft
from src.models.memory import Memory, lower_, share_, storage_of, tensors_of, weight_copies
from src.models.modeling import ClassificationHead, frozen_copy, image_features, text_features
from src.models.modx import Contrastive, ModX
from src.models.penalties import L2
from src.models.state import TrainingState
from src.models.training import begin, train

pytest_plugins = ["cli_fixtures"]

TOKENS = torch.tensor([[49406, 320, 2368, 49407], [49406, 1929, 49407, 0]])
LOWERED = re.compile(r"(in_proj_(weight|bias)|(out_proj|c_fc|c_proj|[qkv]_proj)\.(weight|bias)|conv\d\.weight"
                     r"|downsample\.0\.weight|visual\.proj|text_projection)$")


def values(model, wanted=""):
    """How many floating values a model has under the names that match."""
    return sum(value.numel() for name, value in model.state_dict().items()
               if value.is_floating_point() and re.search(wanted, name))


# -- the autocast type -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lower_type", [torch.bfloat16, torch.float16], ids=str)
def test_a_lowered_teacher_has_the_same_features_under_autocast(kind, make_model, lower_type):
    model = make_model(kind, dtype=torch.float32)
    lowered = lower_(frozen_copy(model), lower_type)
    images = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", lower_type):
        for ask, asked in ((image_features, images), (text_features, TOKENS)):
            assert torch.equal(ask(model, asked), ask(lowered, asked))
    types = {name: value.dtype for name, value in lowered.state_dict().items() if value.is_floating_point()}
    assert types == {name: lower_type if LOWERED.search(name) else torch.float32 for name in types}


def test_what_others_read_is_not_lowered(make_model):
    model = make_model("vit", dtype=torch.float32)
    lower_(model, torch.bfloat16, {storage_of(model.text_projection)})
    assert model.text_projection.dtype == torch.float32 and model.visual.proj.dtype == torch.bfloat16


# -- one storage -------------------------------------------------------------------------------------------------------


def test_only_what_is_equal_is_shared(make_model):
    one, other = make_model("resnet"), make_model("resnet")
    with torch.no_grad():
        other.text_projection[0, 0] += 1e-9
        other.visual.bn1.running_mean[0] += 1e-9
    other.visual.conv1.weight.data = other.visual.conv1.weight.data.float()
    share_(one, dict(tensors_of(other)))
    apart = {name for name, value in tensors_of(one)
             if value.numel() > 0 and storage_of(value) != storage_of(dict(tensors_of(other))[name])}
    assert apart == {"text_projection", "visual.bn1.running_mean", "visual.conv1.weight"}


class Nosy(Hooks):
    """Reads the weights at load in full, and after the task has begun."""

    def begin(self, state):
        self.copies = state.at_load, state.at_load, state.teacher

    def after_step(self, state):
        with pytest.raises(ValueError, match="weights have moved"):
            _ = state.at_load


def test_hooks_have_one_copy_a_task(make_model, make_state):
    state, hook = make_state(make_model("vit"), iterations=1), Nosy()
    train(state, [Finetune(), hook])
    first, *same = hook.copies
    assert all(copy is first for copy in same) and first is not state.model
    train(state, [Finetune(), hook])
    assert hook.copies[0] is not first


METHODS = {"lwf": lambda: LwF(), "ZSCL": lambda: ZSCL("tiny-reference"),
           "mix": lambda: ZSCL("tiny-reference", ref_wise=True, ref_wise_alpha=0.3)}
ADD_ONS = {"l2": lambda: L2(3.0), "we-wise": lambda: WiseEnsemble(1, 0.7), "merge": lambda: WiseMerge(0.6),
           "zeroshot": lambda: WiseMerge(0.6, "zeroshot")}


class OwnCopies(TrainingState):
    """As if everyone copied for itself, in full."""

    at_load = teacher = property(lambda self: self.frozen())
    zeroshot = zeroshot_teacher = lambda self, path=None: frozen_copy(self.open_zeroshot(path))
    lowered = staticmethod(lambda copy: copy)

    def share_copies(self):
        pass


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("method", "add_ons", "mode"), [
    ("lwf", [], "whole"), ("lwf", ["l2", "we-wise", "merge"], "image"), ("lwf", ["l2", "zeroshot"], "whole"),
    ("ZSCL", ["l2", "zeroshot"], "whole"), ("ZSCL", ["merge"], "image"), ("mix", ["l2"], "whole"),
    ("lwf", ["l2", "merge"], "lora")], ids=str)
def test_shared_and_lowered_copies_change_no_bit(make_model, make_state, method, add_ons, mode, precision):
    """Beside a first task, whose weights at load are the zero-shot ones."""
    found = []
    for kind in (TrainingState, OwnCopies):
        state = first_task_of(make_state, make_model, "whole" if mode == "lora" else mode, precision,
                              iterations=3, batch_norm="train")
        if mode == "lora":
            inject_peft(state.model, ["attn.out_proj", "mlp.c_fc"], dropout=0.0, bias="all")
        state.__class__ = kind
        train(state, [METHODS[method](), *(ADD_ONS[name]() for name in add_ons)])
        found.append(state.final_model.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


# -- counted by hand ---------------------------------------------------------------------------------------------------


def first_task_of(make_state, make_model, mode="whole", precision="fp32", kind="vit", same=True, **settings):
    """A state in fp32 weights whose zero-shot weights are those at load, or with ``same`` False all others."""
    state = make_state(make_model(kind, dtype=torch.float32), mode, **settings)
    zeroshot = make_model(kind, dtype=torch.float32).requires_grad_(False)
    if not same:
        zeroshot = make_model(kind, seed=9, dtype=torch.float32).requires_grad_(False)
        for (_, value), (_, other) in zip(tensors_of(zeroshot), tensors_of(state.model), strict=True):
            value.data = torch.where(value == other, other + 1, value) if value.is_floating_point() else value
    state.device = Device("cpu", precision)
    state.open_zeroshot = lambda path=None: zeroshot
    state.open_teacher = None if precision == "fp32" else lambda path=None: lower_(
        frozen_copy(zeroshot), torch.bfloat16)
    return state


def counted(state, *hooks):
    begin(state, hooks)
    return weight_copies(state, hooks)


def shares(state):
    """Whole model 1; t what trains, i the image tower; h and e the bytes of a whole and of a trained bf16 copy."""
    model = state.model
    total = values(model)
    low = values(model, LOWERED.pattern) / 2 / total
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad) / total
    return {"t": trained, "i": values(model, r"^visual\.") / total, "h": 1 - low, "e": trained - low}


COUNTS = [
    ([Finetune], "whole", "fp32", {}), ([Finetune], "image", "fp32", {}),
    ([lambda: LwF()], "whole", "fp32", {"teacher": "t"}), ([lambda: LwF()], "image", "fp32", {"teacher": "i"}),
    ([lambda: LwF()], "whole", "bf16", {"teacher": "e"}),
    ([lambda: LwF(), lambda: L2(1.0)], "whole", "fp32", {"teacher": "t"}),
    ([lambda: LwF(), lambda: L2(1.0)], "whole", "bf16", {"teacher": "t"}),
    ([Finetune, lambda: L2(1.0)], "whole", "fp32", {"weights at load": "t"}),
    ([Finetune, lambda: L2(1.0)], "image", "fp32", {"weights at load": "i"}),
    ([Finetune, WeightEnsemble], "whole", "fp32", {"ensemble": 1}),
    ([Finetune, MovingAverage], "image", "fp32", {"ensemble": 1}),
    ([Finetune, WiseEnsemble], "whole", "fp32", {"ensemble": 1, "weights at load": "t"}),
    ([Finetune, WiseMerge], "whole", "fp32", {"weights at load": "t"}),
    ([Finetune, lambda: WiseMerge(0.5, "zeroshot")], "whole", "fp32", {"zero-shot": 1}),
    ([lambda: L2(1.0), WiseMerge, WiseEnsemble, Finetune, lambda: LwF()], "whole", "fp32",
     {"ensemble": 1, "teacher": "t"}),
    ([METHODS["ZSCL"]], "whole", "fp32", {"teacher": 1}), ([METHODS["ZSCL"]], "image", "fp32", {"teacher": 1}),
    ([METHODS["ZSCL"]], "whole", "bf16", {"teacher": "h"}),
    ([METHODS["ZSCL"], lambda: L2(1.0)], "whole", "fp32", {"teacher": 1, "weights at load": "t"}),
    ([METHODS["ZSCL"], lambda: L2(1.0)], "whole", "bf16", {"teacher": "h", "weights at load": "t"}),
    ([METHODS["mix"]], "whole", "fp32", {"teacher": 1}), ([METHODS["mix"]], "whole", "bf16", {"teacher": "h"}),
]


@pytest.mark.parametrize(("hooks", "mode", "precision", "expected"), COUNTS)
def test_counts_by_hand(make_model, make_state, kind, hooks, mode, precision, expected):
    """Of a later task, whose weights at load have nothing in common with the zero-shot ones."""
    state = first_task_of(make_state, make_model, mode, precision, kind, same=False)
    share = shares(state)
    if kind == "resnet":  # statistics of batch norms do not train, and are copied
        statistics = values(state.model, "running") / values(state.model)
        own = {"t": share["t"] + statistics, "e": share["e"] + statistics}
        share_of = share | own
    else:
        share_of = share
    found = counted(state, *(hook() for hook in hooks))
    trained = share["i" if mode == "image" else "t"]
    if mode == "image" and kind == "resnet":
        trained = share["t"]
    wanted = {"model": 1, "gradients": trained, "AdamW": 2 * trained,
              **{holder: share_of.get(number, number) for holder, number in expected.items()}}
    assert found.copies == pytest.approx(wanted)
    assert found.unit == 4 * values(state.model)


def test_plain_finetuning_is_four_copies(make_model, make_state):
    found = counted(first_task_of(make_state, make_model), Finetune())
    assert sum(found.copies.values()) == pytest.approx(4, abs=1e-3)
    assert found.bytes == pytest.approx(4 * found.unit, 1e-3)
    assert str(found).startswith("memory: 4 copies of the weights (model 1, gradients 1, AdamW 2), ")


def test_on_a_first_task_the_zero_shot_weights_are_those_at_load(make_model, make_state):
    state = first_task_of(make_state, make_model, same=True)
    found = counted(state, METHODS["ZSCL"](), L2(1.0), WiseEnsemble(), WiseMerge())
    t = shares(state)["t"]
    assert found.copies == pytest.approx({"model": 1, "gradients": t, "AdamW": 2 * t, "ensemble": 1, "teacher": 1})
    lowered = first_task_of(make_state, make_model, precision="bf16", same=True)
    share = shares(lowered)
    found = counted(lowered, METHODS["ZSCL"](), L2(1.0))
    common = 2 * share["h"] - 1  # what is in full in the teacher too
    assert found.copies == pytest.approx({"model": 1, "gradients": t, "AdamW": 2 * t, "teacher": share["h"],
                                          "weights at load": 1 - common}, abs=1e-12)


def test_adapters_leave_nothing_to_copy(make_model, make_state):
    """What they are put on is at rest, and they begin as nothing."""
    state = first_task_of(make_state, make_model, same=False)
    inject_peft(state.model, ["attn.out_proj", "mlp.c_fc"])
    factors = sum(value.numel() for value in state.model.parameters() if value.requires_grad)
    found = counted(state, LwF(), L2(1.0), WiseMerge())
    share = factors * 4 / found.unit
    assert found.copies == pytest.approx({"model": 1 + share, "gradients": share, "AdamW": 2 * share})


def test_a_head_is_no_copy_of_the_weights(make_model, make_state):
    model = make_model("vit", dtype=torch.float32)
    model.head = ClassificationHead(torch.zeros(4, 8), torch.zeros(4))
    state = make_state(model, "fc")
    state.device = Device("cpu", "fp32")
    found, share = counted(state, Finetune()), 36 / values(model, "^(?!head)")
    assert found.copies == pytest.approx({"model": 1 + share, "gradients": share, "AdamW": 2 * share})


def test_a_memory_s_teacher(make_model, make_state, task):
    state, hook = first_task_of(make_state, make_model, same=False), ICaRL()
    assert list(counted(state, hook).copies) == ["model", "gradients", "AdamW"]
    train(state, [hook])
    state.source = "next"
    assert counted(state, hook).copies["teacher"] == pytest.approx(shares(state)["t"])


@pytest.mark.parametrize(("hook", "teacher"), [(Contrastive, 0), (ModX, 1)])
def test_pairs(make_model, make_state, task, hook, teacher):
    state, split = first_task_of(make_state, make_model), task.split("train")
    state.task = Task("pairs", (), (), {"train": Split(split.image, range(23), captions=[("a dog",)] * 23)})
    expected = {"model": 1, "gradients": 1, "AdamW": 2, **({"teacher": 1} if teacher else {})}
    assert counted(state, hook()).copies == pytest.approx(expected)


def test_a_basis_is_told_apart(make_model, make_state, tmp_path):
    state, name = first_task_of(make_state, make_model), "visual.conv1.weight"
    weight = state.model.get_parameter(name)
    rows = torch.linalg.qr(torch.randn(weight.numel(), 3))[0].T.contiguous()
    torch.save({name: {"basis": rows, "energy": torch.ones(3)}}, tmp_path / "grad.pth")
    found = counted(state, Finetune(), GradientTracker(orthogonal_gradients_path=tmp_path / "grad.pth"))
    assert found.copies["weights at load"] == pytest.approx(weight.nbytes / found.unit)  # where the movement began
    assert found.others["gradient basis"] in (rows.nbytes + 12, 2 * rows.nbytes + 12)
    assert "and a gradient basis of 0.0 MiB" in str(found)


def test_processes_hold_gradients_twice(make_model, make_state):
    state = first_task_of(make_state, make_model)
    begin(state, [])
    state.world = SimpleNamespace(size=2)
    found = weight_copies(state, [])
    assert found.copies["gradients between processes"] == found.copies["gradients"]


def test_what_the_run_keeps_and_what_a_custom_method_names(make_model, make_state):
    class Own(Hooks):
        def begin(self, state):
            self.weights = {name: value.detach().clone() for name, value in state.model.named_parameters()}
            self.matrices = [self.weights["text_projection"].clone(), torch.zeros(7, 3)]
            self.scratch = torch.zeros(100)

        def copies(self):
            return {"anchor": {"old": self.weights, "features": torch.zeros(5, 8)}, "matrices": self.matrices}
    state = first_task_of(make_state, make_model, mode="fc")
    hook, kept = Own(), make_model("vit", seed=3, dtype=torch.float32)
    begin(state, [hook])
    found = weight_copies(state, [hook], {"zero-shot": {None: kept}, "again": kept})
    matrix = state.model.text_projection.numel() / values(state.model)
    assert found.copies == pytest.approx({"model": 1, "anchor": 1, "matrices": matrix, "zero-shot": 1})
    assert found.others == {"anchor": 160, "matrices": 84}


def test_words():
    memory = Memory({"model": 1.0, "gradients": 0.5834, "AdamW": 1.1668, "teacher": 0.0001}, 2 ** 30, {})
    assert str(memory) == ("memory: 2.75 copies of the weights (model 1, gradients 0.58, AdamW 1.17), 2.8 GiB")
    assert memory.facts() == {"weight_copies": {"model": 1.0, "gradients": 0.5834, "AdamW": 1.1668, "teacher": 0.0001},
                              "weight_bytes": round(2.7503 * 2 ** 30), "other_bytes": {}}


# -- counted by what is alive ------------------------------------------------------------------------------------------


def alive():
    """{storage: a tensor in it} of all floating tensors that Python knows, without the fake ones of a compiler."""
    tensors = (thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter))
    return {storage_of(tensor): tensor.detach() for tensor in tensors
            if tensor.is_floating_point() and tensor.numel() and not tensor.is_meta}


@pytest.mark.parametrize(("names", "same", "precision"), [
    (["lwf", "l2", "we-wise", "merge"], True, "fp32"), (["ZSCL", "l2"], True, "bf16"),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        (["lwf"], False, "bf16"), (["ZSCL"], False, "bf16"), (["ZSCL", "l2", "we-wise"], True, "fp32"),
        (["ZSCL", "zeroshot"], False, "fp32"), (["mix", "merge"], False, "bf16")))], ids=str)
def test_the_count_is_what_is_alive(make_model, make_state, names, same, precision):
    before = alive()
    state = first_task_of(make_state, make_model, "image", precision, same=same)
    hooks = [(METHODS | ADD_ONS)[name]() for name in names]
    found = counted(state, *hooks)
    shapes = {value.shape for _, value in tensors_of(state.model)}
    if "zeroshot" not in names and (precision == "bf16" or names[0] != "ZSCL"):
        state.open_zeroshot = state.open_teacher = None  # the fixture's own copy, which a run would not keep
    now = alive()
    expected = sum(tensor.nbytes for storage, tensor in now.items() if storage not in before and tensor.shape in shapes)
    measured = sum(share for holder, share in found.copies.items() if holder not in ("gradients", "AdamW"))
    assert measured * found.unit == pytest.approx(expected, abs=found.unit / 500)  # a few scalars are of no copy


# -- in a run ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def sequence(cli, world, tmp_path, monkeypatch):
    """sequence(word, ...) -> what the command line gives, and what ``look(state, hooks)`` gives as each task begins."""
    seen, original = [], src.run.task.weight_copies

    def run(look, *words):
        def count(state, hooks, kept=None):
            seen.append(look(state, hooks))
            return original(state, hooks, kept)
        monkeypatch.setattr("src.run.task.weight_copies", count)
        done = cli("--load", world.model, "--dataset-order", f"{world.colours},{world.tones}", "--iterations", 1,
                   "--batch-size", 4, "--lr", "1e-3", "--workers", 0, "--save", tmp_path / "out", "--ref-dataset",
                   world.loose, "--ref-model", world.model, "--warmup-length", 0, *words)
        assert done.status == 0, done.err
        return done, seen
    return run


def test_nothing_of_a_finished_task_lives_in_the_next(sequence):
    references = []

    def look(state, hooks):
        gc.collect()
        left = [reference() is not None for reference in references]
        at_load = dict(state.copies()).get("weights at load") or state.copies()["teacher"]
        references.extend(map(weakref.ref, (state, state.model, state.ensemble, at_load, *hooks)))
        return left
    _, (first, second) = sequence(look, "--method", "lwf", "--l2", 1, "--we-wise", "--wise-merge")
    assert first == [] and second == [False] * 8


@pytest.mark.slow
def test_no_teacher_in_full_stays_under_autocast(sequence):
    """Of what a run of ZSCL has alive in fp32, no matrix is left but the live model's."""
    before = alive()

    def look(state, hooks):
        own = {storage_of(value) for _, value in tensors_of(state.model)}
        return [tensor.shape for storage, tensor in alive().items() if storage not in before and storage not in own
                and tensor.dtype == torch.float32 and tensor.shape in {
                    module.weight.shape for module in state.model.modules() if isinstance(module, nn.Linear)}]
    done, found = sequence(look, "--method", "ZSCL", "--precision", "bf16")
    assert found == [[], []] and "teacher 0.5" in done.out


def test_the_line_and_the_record(sequence, tmp_path):
    done, _ = sequence(lambda state, hooks: None, "--method", "ZSCL", "--l2", 1)
    lines = [line for line in done.out.splitlines() if line.startswith("memory: ")]
    one, two = (read_json(tmp_path / "out" / f"run_{name}.json")["weight_copies"] for name in ("colours", "tones"))
    assert len(lines) == 2 and lines[0].startswith("memory: 5 copies of the weights (model 1, gradients 1, AdamW 2, te")
    assert one == pytest.approx({"model": 1, "gradients": 1, "AdamW": 2, "teacher": 1}, abs=1e-3)
    assert two == pytest.approx(one | {"weights at load": 1}, abs=1e-3)


@pytest.mark.parametrize(("words", "lines"), [((), 1), (("--quiet",), 0)])
def test_the_line_is_printed_once_where_tasks_hold_the_same(sequence, words, lines):
    done, _ = sequence(lambda state, hooks: None, *words)
    assert done.out.count("memory:") == lines
