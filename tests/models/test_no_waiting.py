"""Between two log lines no step of any method or add-on waits for the device.

The device is "meta": its tensors have shapes and no values, so whatever would read one fails (``item``, ``bool``,
``tolist``, ``cpu``, ``nonzero``, masks as indices), while tensors that live on the host by design can be read. What
meta forgives and a device does not, a copy from the host that blocks and a host tensor indexed by a device's, is
counted. Left out: fp16, whose scaler must know after each step whether a gradient overflowed; the snapshots of
--orthogonal-gradients, which go to the host n times a run; what happens once a task.
"""

import contextlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from distributed_cases import pairs_task
from torch.overrides import TorchFunctionMode

import src.models.finetune
import src.models.modeling
import src.models.nusa
import src.models.resuming
import src.models.state
from src.machine.batch import Batch
from src.machine.device import Device
from src.machine.distributed import World
from src.models import ADD_ONS, METHODS
from src.models.averaging import MovingAverage, WeightEnsemble, WiseEnsemble, WiseMerge
from src.models.condu import ConDU
from src.models.condu_lora import ConDULoRA
from src.models.ddas import DDAS
from src.models.diki import DIKI
from src.models.evaluation import _Tally
from src.models.ewc import EWC
from src.models.finetune import ZSCL, Finetune, LwF
from src.models.gradients import GradientTracker, tracked_parameters
from src.models.hooks import Hooks
from src.models.icarl import ICaRL
from src.models.inflora import InfLoRA
from src.models.keeplora import KeepLoRA
from src.models.keeplora_plus import KeepLoRAPlus
from src.models.lora_injection import inject_lora, inject_peft
from src.models.modeling import ClassificationHead, select_trainable
from src.models.modx import Contrastive, ModX
from src.models.moe_adapters import MoEAdapters
from src.models.nusa import NuSA
from src.models.penalties import L2
from src.models.training import train
from src.store.records import Journal, RunFolder

STEPS, ITERATIONS = 2, 10  # a snapshot of one would be taken at the sixth step
EVERYTHING = {"feature_mse": True, "ablation_loss_2": True, "distill_text_tower": True, "image_loss": True,
              "text_loss": True}
SOURCES = Path(src.models.finetune.__file__).parents[1]


class EndOfTest(Exception):
    """The last step that is looked at is done; what comes at the end of a task may wait."""


class Steps(Hooks):
    """Comes last: what ``waits`` saw until all have begun is forgotten."""

    def __init__(self, waits):
        self.waits = waits

    def begin(self, state):
        self.waits.found.clear()


class Waits(TorchFunctionMode):
    """Collects, as "file function", who copies from the host to the device and blocks, or indexes a host tensor by one
    of the device."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_function__(self, function, types, arguments=(), options=None):
        options = options or {}
        result = function(*arguments, **options)
        if blocks(function, arguments, options, result):
            self.found.add(caller())
        return result


def is_meta(value):
    return isinstance(value, torch.Tensor) and value.is_meta


def blocks(function, arguments, options, result):
    if function in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor):
        return is_meta(result) and not is_meta(arguments[-1])
    if function is torch.Tensor.to:
        return is_meta(result) and not is_meta(arguments[0]) and not options.get("non_blocking")
    if function is torch.Tensor.copy_:
        return is_meta(arguments[0]) and not is_meta(arguments[1]) and not options.get("non_blocking")
    if function is torch.Tensor.__getitem__:
        indices = arguments[1] if isinstance(arguments[1], tuple) else arguments[1:]
        return not is_meta(arguments[0]) and any(map(is_meta, indices))
    return False


def caller():
    """The innermost function of src/ that is being called, or of this file."""
    frame = sys._getframe()
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if SOURCES in path.parents or path.name == Path(__file__).name and frame.f_code.co_name == "losses":
            return f"{path.name} {frame.f_code.co_name}"
        frame = frame.f_back
    return "nobody"


@pytest.fixture
def on_meta(make_model, make_state, device, monkeypatch):
    """-> on_meta(kind="vit", mode="whole", adapt=None, head=False, **settings): a state without values."""
    monkeypatch.setattr(src.models.modeling, "_note_unknown_words", lambda *args: None)  # once a task, may wait
    monkeypatch.setattr(src.models.finetune, "constant_text_features",  # the same
                        lambda model, tokens: torch.empty(len(tokens), 8, device="meta", dtype=torch.float64))
    monkeypatch.setattr(src.models.state, "packed_where_shorter", lambda model, tokens: tokens)  # the same
    monkeypatch.setattr(src.models.penalties, "start_of_updates", lambda model: [])  # the same
    monkeypatch.setattr(src.models.resuming, "digests", lambda tensors: [0] * len(tensors))  # the same
    monkeypatch.setattr(src.models.state, "encode_split", lambda model, split, *args, **options: (  # the same
        list(range(len(split))), torch.empty(len(split), 8, device="meta", dtype=torch.float64)))
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: contextlib.nullcontext())  # meta has none
    monkeypatch.setattr(Device, "waits", True)  # losses are read a step later
    monkeypatch.setattr(Device, "read", lambda device, values: lambda: [1.0] * len(values))
    device.device = torch.device("meta")
    device._mean, device._std = device._mean.to("meta"), device._std.to("meta")

    def on_meta(kind="vit", mode="whole", adapt=None, **settings):
        model = make_model(kind).to("meta")
        if mode in ("image-fc", "fc"):
            like = model.text_projection.detach()
            model.head = ClassificationHead(like.new_zeros(4, 8), like.new_zeros(4))
        select_trainable(model, mode)
        if adapt:
            adapt(model)
        state = make_state(model, mode, iterations=ITERATIONS, **settings)
        if adapt:
            for name, value in model.named_parameters():
                value.requires_grad_("lora_" in name)
        state.device, state.open_zeroshot = device, lambda path=None: make_model(kind, seed=5).to("meta")
        return state
    return on_meta


def steps(state, *hooks):
    """Run STEPS steps -> (who blocked, the last step's terms). An error where a step reads a value of the device."""
    journal, last = Journal(RunFolder(None), "task", ITERATIONS, interval=ITERATIONS), {}

    def report(state, losses):
        journal.step(state, losses)
        last.update(losses)
        if state.iteration == STEPS:
            raise EndOfTest
    with Waits() as waits, pytest.raises(EndOfTest):
        train(state, [*hooks, Steps(waits)], report)
    assert all(value.is_meta for value in (*last.values(), *state.metrics.values()))
    return waits.found, last


# -- methods -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, method, terms", [
    ("vit", lambda: Finetune(0.1), 1), ("resnet", LwF, 3),
    ("vit", lambda: LwF(weight_adjust=True, **EVERYTHING), 7),
    ("vit", lambda: ZSCL("tiny-reference", cache_ref_features=True, ref_sentences="tiny-reference"), 3),
    ("vit", lambda: ZSCL("tiny-reference", ref_wise=True, ref_size=8, ref_batch_size=3, **EVERYTHING), 7)],
    ids=["finetune", "lwf", "lwf everything", "zscl cached", "zscl everything"])
def test_methods_on_classes(kind, method, terms, on_meta):
    waits, losses = steps(on_meta(kind), method())
    assert not waits and len(losses) == terms


@pytest.mark.parametrize("options", [{}, {**EVERYTHING, "cache_ref_features": True}], ids=["plain", "everything"])
def test_replay(options, on_meta, make_task, task):
    tasks = {"one": make_task(2, "one"), "two": make_task(3, "two"), "tiny": task}
    hook, state = ICaRL(ref_batch_size=6, **options), on_meta()
    state.open_task = lambda name, trained=False: tasks[name]
    state.heads = {"two": torch.zeros(3, 9)}
    state.history = [{"dataset": "two", "classnames": list(tasks["two"].classnames)}]
    hook.memory = [memory_of(name, tasks[name]) for name in ("one", "two")]
    waits, losses = steps(state, hook)
    assert not waits and "replay" in losses


def memory_of(name, task):
    from src.models.icarl import _drawn_from
    return {"source": name, **_drawn_from(task),
            "exemplars": [torch.tensor([row, row + 4]) for row in range(len(task.classnames))]}


def test_several_tasks_as_one(on_meta, make_task):
    parts = (make_task(2, "one"), make_task(2, "two"))
    state = on_meta()
    object.__setattr__(state.task, "parts", parts)
    waits, _ = steps(state, Finetune())
    assert not waits


@pytest.mark.parametrize("method", [Contrastive, ModX])
def test_pairs(method, on_meta):
    state = on_meta()
    state.task = pairs_task()
    waits, losses = steps(state, method())
    assert not waits and "contrastive" in losses


def test_null_spaces(on_meta, monkeypatch):
    """Which directions they are takes a decomposition of each weight, once a task."""
    monkeypatch.setattr(src.models.nusa, "least_used", lambda weight, energy, rank: (
        weight.new_zeros(len(weight), 4), weight.new_zeros(4, weight.shape[1]), 4))
    assert steps(on_meta(), NuSA(nusa_rank=4, nusa_dropout=0.0))[0] == set()


@pytest.mark.parametrize("statistics", ["clean", "code"])
def test_inputs_of_earlier_tasks(on_meta, monkeypatch, statistics):
    """Which directions they take is decomposed on the host, once a task."""
    monkeypatch.setattr(InfLoRA, "_directions", lambda hook, state: {
        name: torch.zeros(4, width) for name, width in hook.widths.items()})
    hook = InfLoRA(inflora_rank=4, inflora_dropout=0.0, inflora_statistics=statistics)
    assert steps(on_meta(), hook)[0] == set()


def test_prefixes(on_meta, monkeypatch):
    """The statistics of the images are gathered once a task."""
    monkeypatch.setattr(DIKI, "statistics", lambda hook, state: (torch.zeros(8), torch.eye(8)))
    state, hook = on_meta(optimizer="sgd"), DIKI()
    state.own = {"DIKI": hook.build(state.model)}
    assert steps(state, hook)[0] == set()


@pytest.mark.parametrize("mode", ["image", "text", "image-fc", "fc"])
def test_train_modes(mode, on_meta):
    assert steps(on_meta(mode=mode, max_grad_norm=1.0), Finetune())[0] == set()


# -- add-ons -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def basis(tmp_path, make_model):
    """A basis file of two rows per tensor."""
    path = tmp_path / "grad.pth"
    torch.save({name: {"basis": torch.eye(2, value.numel(), dtype=torch.float64), "energy": torch.ones(2)}
                for name, value in tracked_parameters(make_model("vit")).items()}, path)
    return str(path)


ADDED = {
    "l2": lambda basis: L2(0.1),
    "snapshots": lambda basis: GradientTracker(orthogonal_gradients=1),
    "projected gradient": lambda basis: GradientTracker(orthogonal_gradients_path=basis, orthogonal_target="gradient"),
    "projected update": lambda basis: GradientTracker(1, basis),
    "we": lambda basis: WeightEnsemble(1),
    "we-wise": lambda basis: WiseEnsemble(1),
    "ema": lambda basis: MovingAverage(),
    "merge": lambda basis: WiseMerge(),
}


@pytest.mark.parametrize("name", ADDED)
def test_add_ons(name, on_meta, basis):
    assert not steps(on_meta(), Finetune(), ADDED[name](basis))[0]


def test_all_that_go_together(on_meta, basis):
    waits, losses = steps(on_meta(max_grad_norm=1.0), ZSCL("tiny-reference"), *(
        ADDED[name](basis) for name in ("l2", "projected update", "we-wise", "merge")))
    assert not waits and len(losses) == 4


@pytest.mark.parametrize("adapt", [
    lambda model: inject_lora(model, ("attn", "c_fc"), 2, 4, torch.Generator().manual_seed(1)),
    lambda model: inject_peft(model, ("c_fc", "c_proj"), 2, 4, dropout=0.1)], ids=["own", "peft"])
def test_adapters(adapt, on_meta):
    assert steps(on_meta(adapt=adapt), Finetune(), L2(0.1))[0] == set()


@pytest.mark.parametrize("kind", [KeepLoRA, KeepLoRAPlus])
def test_updates_outside_of_bases(kind, on_meta, monkeypatch):
    """Factors and first heads take passes and decompositions, once a task."""
    monkeypatch.setattr(KeepLoRA, "gradients", lambda hook, state, weights: {})
    monkeypatch.setattr(KeepLoRAPlus, "first_head", lambda hook, state: state.model.text_projection.new_empty(4, 8))
    state, hook = on_meta(), kind(keeplora_rank=4)
    own = hook.build(state.model)
    state.own = {} if own is None else {"own": own}
    assert steps(state, hook)[0] == set()


@pytest.mark.parametrize(("unchosen", "optimizer"), [("zero", "adamw"), ("skip", "sgd")])
def test_experts(on_meta, monkeypatch, unchosen, optimizer):
    """Autoencoders are fitted once a task. On meta AdamW is not fused and counts steps on the host, from where nothing
    can be taken back; on CUDA it is."""
    monkeypatch.setattr(DDAS, "fit", lambda ddas, state, number: None)
    state = on_meta(optimizer=optimizer)
    hook = MoEAdapters(moe_dropout=0.0, moe_unchosen=unchosen, ddas_features="clip")
    state.own = {"MoEAdapters": hook.build(state.model).to("meta", torch.float64)}
    assert steps(state, hook)[0] == set()


@pytest.mark.parametrize("kind", [ConDU, ConDULoRA])
def test_tasks_from_one_start(kind, on_meta, monkeypatch):
    """Prototypes take a pass, and the start is compared to the bit, once a task."""
    monkeypatch.setattr(kind, "_expert", lambda hook, state: {"classes": {}})
    monkeypatch.setattr(kind, "_require_th0", lambda hook, model: None)
    assert steps(on_meta(), kind())[0] == set()


@pytest.mark.parametrize("keeps", [False, True])
def test_a_scored_batch(keeps, task):
    """Neither counts nor kept predictions are read before the last batch."""
    images, meta, waits = SimpleNamespace(split=task.split("test")), SimpleNamespace(device="meta"), Waits()
    tally = _Tally("tiny", [("other", 2), ("tiny", 4)], images, meta, World(), keeps)
    batch = Batch(None, torch.empty(4, dtype=torch.long, device="meta"), indices=torch.arange(4))
    with waits:
        tally.add(torch.empty(4, 2 + 4, device="meta"), batch)
    assert waits.found == set() and len(tally.rows) == len(tally.places) == keeps


@pytest.mark.parametrize("pairs", [False, True])
def test_weights_held_by_their_fisher_information(pairs, on_meta, monkeypatch):
    """The information itself is gathered image by image, once a task."""
    monkeypatch.setattr(EWC, "end", lambda hook, state: None)
    state, hook = on_meta(), EWC()
    state.task = pairs_task() if pairs else state.task
    for kept in (hook.fisher, hook.anchor):
        kept.update({name: value.detach() for name, value in state.model.named_parameters() if value.requires_grad})
    found, last = steps(state, hook)
    assert found == set() and "ewc" in last


def test_nothing_that_the_command_line_names_is_left_out():
    """But for closed forms, which take no step."""
    rows = [*METHODS.values(), *ADD_ONS.values(), *(row.on_pairs for row in METHODS.values() if row.on_pairs)]
    rows = [row for row in rows if not row.closed_form]
    tried = {Finetune, LwF, ZSCL, ICaRL, Contrastive, ModX, EWC, InfLoRA, KeepLoRA, KeepLoRAPlus, NuSA, DIKI,
             MoEAdapters, ConDU, ConDULoRA, *(type(add("")) for add in ADDED.values())}
    assert {row.target for row in rows} == {f"{hook.__module__}:{hook.__name__}" for hook in tried}


# -- each kind of waiting is seen --------------------------------------------------------------------------------------


class Planted(Hooks):
    """Does something with a term of the loss."""

    def __init__(self, work):
        self.work = work

    def losses(self, state, batch):
        term = state.model.text_projection.square().sum()
        self.work(term, batch)
        return {"planted": term}


@pytest.mark.parametrize("read", [
    lambda term, batch: term.item(), lambda term, batch: float(term.detach()), lambda term, batch: bool(term > 0),
    lambda term, batch: batch.labels.tolist(), lambda term, batch: term.detach().cpu(),
    lambda term, batch: batch.labels[batch.labels > 1], lambda term, batch: batch.labels.nonzero(),
    lambda term, batch: f"{term.detach():.3f}", lambda term, batch: term.detach().numpy()],
    ids=["item", "float", "bool", "tolist", "cpu", "mask", "nonzero", "format", "numpy"])
def test_a_read_value_fails(read, on_meta):
    with pytest.raises((RuntimeError, NotImplementedError, TypeError), match="(?i)meta|data|format"):
        train(on_meta(), [Finetune(), Planted(read)])


@pytest.mark.parametrize("work, found", [
    (lambda term, batch: torch.arange(3).to(term.device), True),
    (lambda term, batch: torch.arange(3).to(term.device, non_blocking=True), False),
    (lambda term, batch: torch.tensor([1.0, 2.0], device=term.device), True),
    (lambda term, batch: torch.arange(9)[batch.labels], True),
    (lambda term, batch: batch.labels_on_host.tolist(), False),
    (lambda term, batch: term * 2.0 + term.new_zeros(3), False)],
    ids=["copy", "copy that does not block", "tensor", "index", "host", "numbers"])
def test_what_blocks_without_reading_is_counted(work, found, on_meta):
    waits, _ = steps(on_meta(), Finetune(), Planted(work))
    assert bool(waits) == found and waits <= {"test_no_waiting.py losses"}


def test_a_log_line_reads_its_terms(on_meta):
    journal = Journal(RunFolder(None), "task", ITERATIONS, interval=2)
    state, read = on_meta(), []
    with pytest.raises(RuntimeError, match="meta"):
        train(state, [Finetune()], lambda state, losses: (read.append(state.iteration), journal.step(state, losses)))
    assert read == [1, 2]
