"""What several processes must do as one does: each case gives numbers that test_distributed compares."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F
import wrapping
from conftest import CLASSNAMES, SENTENCES, reference_task, tiny_clip, tiny_task
from decompositions import flipped_beside_the_first, projector

from src.datasets.common import Split, Task
from src.datasets.pairs import joint_task
from src.machine.code_files import load_file
from src.machine.device import Device
from src.machine.distributed import World, this_world
from src.main import main
from src.models.attached import build_own, stored_tensors
from src.models.averaging import WeightEnsemble
from src.models.classifiers import classifier
from src.models.condu import ConDU
from src.models.condu_lora import ConDULoRA
from src.models.diki import DIKI
from src.models.evaluation import evaluate, evaluate_each
from src.models.ewc import EWC
from src.models.features import encode_split
from src.models.finetune import ZSCL, Finetune, LwF
from src.models.gradients import GradientTracker
from src.models.hooks import Hooks
from src.models.icarl import ICaRL
from src.models.inflora import InfLoRA
from src.models.keeplora import KeepLoRA
from src.models.linear_probe import linear_evaluation
from src.models.lora_injection import inject_lora, inject_peft
from src.models.modeling import ClassificationHead, image_features, select_trainable
from src.models.modx import Contrastive, ModX
from src.models.moe_adapters import MoEAdapters
from src.models.nusa import NuSA
from src.models.penalties import L2
from src.models.rail import Rail
from src.models.retrieval import retrieve
from src.models.state import Settings, TrainingState
from src.models.training import train, weighed
from src.run.method_scores import MethodScores

BATCH, STEPS = 8, 3  # of 23 images: the last step of an epoch has 7, of which two processes take 4 and 3
LONELY = 22  # the last step has a single image: one of two processes has none
# The gradient of a key's bias is nothing but rounding, which AdamW must not blow up to a step.
EPS = 1e-4
EXPERTS = Path(__file__).parents[2] / "examples" / "methods" / "experts.py"


class Watch(Hooks):
    """Keeps the gradients and the logged numbers of each step."""

    __module__ = "src.models.watch"  # so that the step counts as one of ours
    all_used = True

    def __init__(self, world):
        self.world, self.gradients, self.numbers = world, [], []

    def after_backward(self, state):
        self.gradients.append({name: value.grad.clone() for name, value in state.named_parameters()
                               if value.grad is not None})

    def report(self, state, losses):
        self.numbers.append(self.world.means({**losses, **state.metrics}))


class ImagesOnly(Hooks):
    """Leaves the text tower out, whatever trains."""

    def losses(self, state, batch):
        return {"own": image_features(state.model, batch.images)[:, 0].square().mean()}


class Coupled(Hooks):
    """What a custom method may do: compare the rows of a batch, sum them, replay others, draw weights to 0."""

    other_terms = ("summed", "replayed", "weights")

    def begin(self, state):
        self.replayed = state.stream(state.open_task("tiny-reference").split("train"), "reference", 4)

    def losses(self, state, batch):
        features, world = image_features(state.model, batch.images), state.world                 # (n, D)
        partners = world.first_row(features) + torch.arange(len(features))
        replayed = image_features(state.model, next(self.replayed).images)
        return {"coupled": F.cross_entropy(9 * features @ world.gather(features.sin()).T, partners),
                "mean": (features[:, 1] * features[:, 2]).mean() + state.model.text_projection.square().mean(),
                "summed": world.size * features[:, 0].square().sum(), "replayed": replayed[:, 1].square().mean(),
                "weights": state.model.text_projection.abs().sum()}


class Passes(Hooks):
    """Two passes before the first step: a sum over all images, in order, and the gradient of a mean, shuffled and
    cropped. The last batch leaves one of two processes without a row. In ``end`` the sum again."""

    def begin(self, state):
        self.sum = self.sum_of_features(state)
        for batch in state.once(state.task.split("train"), "gradient", LONELY, train_transform=True, shuffle=True):
            loss = image_features(state.model, batch.images)[:, 0].square().mean()
            share = batch.rows / len(state.task.split("train"))
            (share * weighed(loss, batch.weight)).backward()
        state.world.average_gradients(state.model.visual)
        self.slope = state.model.visual.proj.grad.clone()
        state.model.zero_grad(set_to_none=True)

    @torch.no_grad()
    def sum_of_features(self, state):
        passed = state.once(state.task.split("train"), "sum", LONELY)
        return state.world.sum(sum(image_features(state.model, batch.images).sum(dim=0) for batch in passed))

    def losses(self, state, batch):
        proj, features = state.model.visual.proj, image_features(state.model, batch.images)
        return {"drawn": (proj * self.slope).sum() + (features * self.sum).sum(dim=1).mean()}

    def end(self, state):
        with torch.no_grad():
            state.model.visual.proj += 0.01 * self.sum_of_features(state)


class Nothing(Hooks):
    """A closed-form method: it has no term."""


def pairs_task():
    """As many pairs as the tiny task has training images, one caption each; the label is the caption's number."""
    split = tiny_task().split("train")
    captions = [(f"{SENTENCES[index % 5]} {CLASSNAMES[index % 4]}{' dog' * (index // 20)}",)
                for index in range(len(split))]
    assert len(set(captions)) == len(split)  # of two equal ones rounding would choose the most similar
    train = Split(split.image, range(len(split)), captions=captions)
    return Task("pairs", (), (), {"train": train}, in_memory=True, pairs=True)


def joined_task():
    """Two tasks as one, of 23 images together."""
    parts = tiny_task(), tiny_task(2, "tiny-other")
    return joint_task([replace(part, splits={"train": part.split("train").subset(range(count))})
                       for part, count in zip(parts, (12, 11), strict=True)])


TASKS = {"tiny": tiny_task(), "tiny-other": tiny_task(2, "tiny-other"), "tiny-third": tiny_task(3, "tiny-third"),
         "tiny-reference": reference_task(), "pairs": pairs_task(), "joint": joined_task()}


def state_of(world, task="tiny", model=None, mode="whole", **settings):
    model = model or tiny_clip("vit")
    if mode in ("image-fc", "fc"):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            model.head = ClassificationHead(torch.randn(4, 8, dtype=torch.float64), torch.zeros(4).double())
    select_trainable(model, mode)
    return TrainingState(
        model=model, task=TASKS[task], source=task, device=Device("cpu", "fp64"), world=world,
        open_task=lambda name, trained=False: TASKS[name],
        open_zeroshot=lambda path=None: tiny_clip("vit", seed=5).requires_grad_(False),
        settings=Settings(**{"iterations": STEPS, "lr": 1e-2, "batch_size": BATCH, "warmup": 2, "wd": 0.1, "eps": EPS,
                             **settings}))


def trained(state, *hooks):
    """-> what a run gives, all of which must not depend on the number of processes."""
    watch = Watch(state.world)
    train(state, [*hooks, watch], watch.report)
    weights = {name: value.detach().clone() for name, value in state.final_model.state_dict().items()}
    weights |= {name: value.detach().clone() for name, value in state.named_parameters() if name.startswith("own.")}
    return {"gradients": watch.gradients, "numbers": watch.numbers, "weights": weights}


def method(hook, *add_ons, **options):
    return lambda world: trained(state_of(world, **options), hook(), *(add_on() for add_on in add_ons))


def own_modules(world, **settings):
    """A mixture of experts in both towers, of which some have no token in a step."""
    hook, state = load_file(EXPERTS).Experts(experts=5, rank=4, chosen=1), state_of(world, **settings)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        state.own = build_own([hook], state.model, state.device)
        for value in state.own["Experts"].parameters():
            torch.nn.init.normal_(value, std=0.3)
    return trained(state, hook)


def replay(world, batch_size=BATCH, **options):
    """Three tasks of ICaRL; a process's two exemplars a step are not of all earlier datasets."""
    carry, found = {}, {}
    for task in ("tiny-other", "tiny-third", "tiny"):
        hook = ICaRL(memory_size=60, ref_batch_size=4, **options)
        hook.load_carry(carry)
        found[task] = trained(state_of(world, task, batch_size=batch_size), hook)
        carry = hook.carry()
    found["memory"] = [[indices.tolist() for indices in entry["exemplars"]] for entry in carry["memory"]]
    return found


def consolidated(world, tasks, **options):
    """One task of EWC after the other; what the last one carries too."""
    hook, found, model = EWC(ewc_strength=3.0, **options), {}, tiny_clip("vit")
    for task in tasks:
        found[task] = trained(state_of(world, task, model, batch_size=LONELY if task != "pairs" else BATCH), hook)
        carry, hook = hook.carry(), EWC(ewc_strength=3.0, **options)
        hook.load_carry(carry)
    last = found.pop(tasks[-1])
    return {**last, "earlier": found, "carry": carry}


def adapted(world, inject, **settings):
    state = state_of(world, **settings)
    inject(state.model)
    return trained(state, LwF(text_loss=True))


def gathered(world, counts=(3, 3)):
    """A loss in which every row meets every other: the mean over processes, and its gradient by the own rows.
    ``counts``: the rows of each of two processes."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(6, 4, dtype=torch.float64, generator=generator)
    own, factor = (every if world.size == 1 else every.split(counts)[world.rank]
                   for every in (rows, torch.arange(1, 7).double()))
    own = own.clone().requires_grad_()
    with world.uneven(len(set(counts)) > 1):
        pairs = own @ world.gather(own.square()).T                                      # (n, N)
        loss = (factor * pairs.logsumexp(dim=1)).sum() / 6 * world.size + world.gather(own).T.softmax(dim=1)[0, 3]
        loss.backward()
        gradient, first = world.gather(own.grad) / world.size, world.first_row(own)
    assert first == sum(counts[:world.rank])
    return {"loss": world.means({"loss": loss}), "gradient": gradient}


class Film:
    """Frames of videos: the scores tell which predictions came in which order."""

    def scores(self, predictions):
        return len(predictions), sum(place * value for place, value in enumerate(predictions)), predictions[-1]


def scored(world):
    task, device, model = TASKS["tiny"], Device("cpu", "fp64"), tiny_clip("vit")
    film = replace(task, splits={"test": replace(task.split("test"), video=Film())})
    one = replace(task, splits={"test": task.split("test").subset([4])})
    captioned = replace(task.split("test"), captions=[(SENTENCES[index % 5], CLASSNAMES[index % 4])
                                                      for index in range(31)])
    scores = [evaluate(model, opened, device, batch_size=5, world=world)["task"] for opened in (task, film, one)]
    return {"scores": [asdict(score) for score in scores],
            "features": encode_split(model, task.split("test"), device, 4, world=world),
            "retrieval": asdict(retrieve(model, captioned, device, world=world)),
            "linear": asdict(linear_evaluation(model, task, device, epochs=2, batch_size=6, world=world))}


def protecting(hook, batch_size, **options):
    """Two tasks, of which the second keeps off what the first needs."""
    def case(world):
        carry, found = {}, {}
        for task in ("tiny", "tiny-other"):
            method = hook(**options)
            method.load_carry(carry)
            found[task] = trained(state_of(world, task, batch_size=batch_size), method)
            carry = method.carry()
        found["protected"] = {name: projector(basis) for name, basis in carry["bases"].items()}
        return found
    return flipped_beside_the_first(case)


def inflora(**options):
    return protecting(InfLoRA, LONELY, inflora_rank=3, inflora_dropout=0.0, inflora_energy=0.99, **options)


def closed_form(hook, *kept):
    """Two tasks of a method without steps; the sums or features that it carries."""
    def case(world):
        method = hook()
        for task in ("tiny", "tiny-other"):
            train(state_of(world, task, batch_size=LONELY), [method])
        carry = method.carry()
        return {name: carry[name] for name in kept}
    return case


def prefixes(world):
    """Two tasks of DIKI, the statistics that they carry, and how single images are then scored."""
    carry, stored, found = {}, None, {}
    for task in ("tiny", "tiny-other"):
        hook, state = DIKI(diki_length=3), state_of(world, task, batch_size=LONELY, optimizer="sgd", lr=1.0, warmup=0)
        hook.load_carry(carry)
        state.own = build_own([hook], state.model, state.device, stored)
        found[task] = trained(state, hook)
        carry, stored = hook.carry(), stored_tensors(state.own)
    kept, task = {}, TASKS["tiny-other"]
    with state.in_place(state.model):
        scores, = evaluate_each(
            state.model, {task.name: task}, state.device, {task.name: classifier(state.model, task, state.device)},
            {task.name: {"task": (task.name,)}}, batch_size=5, world=world, method=MethodScores(state, [hook]),
            keep=lambda name, space, found: kept.update(losses=found.losses, ranks=found.ranks))
    return {**found, **kept, "means": carry["means"], "covariances": carry["covariances"],
            "scores": asdict(scores["task"])}


def experts(world, **settings):
    """Two tasks of MoE-Adapters, whose noise is drawn for the images of all processes."""
    found, carry, stored, model = {}, {}, {}, tiny_clip("vit")
    for task in ("tiny", "tiny-other"):
        state = state_of(world, task, model, **settings)
        hook = MoEAdapters(0.1, moe_experts=5, moe_rank=3, moe_dropout=0.0, ddas_features="clip", ddas_iterations=4,
                           ddas_lr=1e-3, ddas_threshold="80%")
        hook.load_carry(carry)
        with torch.random.fork_rng():
            torch.manual_seed(4)
            state.own = build_own([hook], state.model, state.device, stored)
        found[task] = trained(state, hook)
        found[task]["counts"] = torch.stack([mixture.counts for mixture in hook.own.all()])
        stored, carry = stored_tensors(state.own), hook.carry()
    return {**found.pop("tiny-other"), "earlier": found, "saved": stored, "frozen": carry["frozen"]}


def unified(hook):
    """Two tasks of ConDU: the delta that is left of each, its factor and its prototypes."""
    def case(world):
        carry, found = {}, {}
        for task in ("tiny", "tiny-other"):
            method = hook()
            method.load_carry(carry)
            found[task] = trained(state_of(world, task, batch_size=LONELY), method)
            carry = method.carry()
        kept = method.unified
        found["deltas"] = {task: {name: kept.delta(task, name) for name in kept.values} for task in kept.factors}
        found["prototypes"] = {task: expert["prototypes"] for task, expert in method.experts.items()}
        return {**found, "factors": kept.factors}
    return case


EVERYTHING = {"image_loss": True, "text_loss": True, "ablation_loss_2": True, "feature_mse": True}
CASES = {
    "gather": gathered,
    "gather uneven": lambda world: gathered(world, (4, 2)),
    "gather nothing": lambda world: gathered(world, (6, 0)),
    "scores": scored,
    "finetune": method(lambda: Finetune(ls=0.1)),
    "finetune resnet": lambda world: trained(state_of(world, model=tiny_clip("resnet")), Finetune()),
    "head": method(Finetune, mode="image-fc"),
    "head alone": method(Finetune, mode="fc"),
    "lwf": method(LwF),
    "lwf everything": method(lambda: LwF(**EVERYTHING, distill_text_tower=True, weight_adjust=True)),
    "zscl text tower": method(lambda: ZSCL("tiny-reference", text_loss=True, distill_text_tower=True,
                                           ref_batch_size=6, ref_sentences="tiny-reference"), mode="text"),
    "icarl": replay,
    "icarl everything": lambda world: replay(world, **EVERYTHING, distill_text_tower=True),
    "contrastive": method(Contrastive, task="pairs"),
    "modx sum": method(ModX, task="pairs"),
    "modx mean": method(lambda: ModX(modx_alpha=3.0, modx_temperature=0.5, modx_reduction="mean"), task="pairs"),
    "ewc": lambda world: consolidated(world, ("tiny-other", "tiny")),
    "ewc of pairs": lambda world: consolidated(world, ("tiny", "pairs"), ewc_fisher="true"),
    "average": method(Finetune, lambda: WeightEnsemble(avg_freq=1), lambda: L2(0.3)),
    "projection": method(lambda: LwF(text_loss=True), lambda: GradientTracker(orthogonal_gradients=2)),
    "clipped": method(Finetune, max_grad_norm=0.05),
    "lora": lambda world: adapted(world, lambda model: inject_lora(model, ("attn", "c_fc"), 2, 4,
                                                                   torch.Generator().manual_seed(1))),
    "peft": lambda world: adapted(world, lambda model: inject_peft(model, ("c_fc", "c_proj"), 2, 4, dropout=0.0)),
    "unused parameters": method(ImagesOnly),
    "no terms": method(Nothing),
    "own modules": own_modules,
    "own modules, no share": lambda world: own_modules(world, batch_size=LONELY),
    "passes": method(Passes),
    "moe-adapters": experts,
    "moe-adapters, no share": lambda world: experts(world, batch_size=LONELY),
    "inflora": inflora(),
    "inflora code": inflora(inflora_statistics="code", inflora_memory="dualgpm"),
    "keeplora": protecting(KeepLoRA, BATCH, keeplora_rank=3),
    "diki": prefixes,
    "condu": unified(ConDU),
    "condu-lora": unified(lambda: ConDULoRA(condu_rank=3, condu_init="code")),
    "rail": closed_form(lambda: Rail(rail_width=12), "gram", "targets"),
    "rail dual": closed_form(lambda: Rail(rail_form="dual"), "features", "labels"),
    "frozen factors": method(wrapping.FrozenInputs),
    "core": method(wrapping.NullCore, lambda: L2(0.3), lambda: WeightEnsemble(avg_freq=1)),
    "null space": flipped_beside_the_first(
        method(lambda: NuSA(ls=0.1, nusa_rank=4, nusa_energy=0.8, nusa_dropout=0.0))),
    "split weights, no share": method(wrapping.Split, lambda: L2(0.3), batch_size=LONELY),
    "coupled": method(Coupled, Finetune),
    "clipped adapters, no share": lambda world: adapted(world, lambda model: inject_peft(
        model, ("c_fc", "c_proj"), 2, 4, dropout=0.0), batch_size=LONELY, max_grad_norm=0.05),
    "coupled, no share": method(Coupled, Finetune, batch_size=LONELY),
    "resnet, no share": lambda world: trained(
        state_of(world, model=tiny_clip("resnet"), batch_size=LONELY), Finetune(0.1)),
    "head, no share": method(Finetune, mode="image-fc", batch_size=LONELY),
    "head alone, no share": method(Finetune, mode="fc", batch_size=LONELY),
    "parts, no share": method(Finetune, batch_size=LONELY, grad_accum=3),
    "recomputed, no share": method(Finetune, batch_size=LONELY, grad_checkpointing=True),
    "joint": method(Finetune, task="joint"),
    "joint, no share": method(Finetune, task="joint", batch_size=LONELY),
    "zscl, no share": method(lambda: ZSCL("tiny-reference", ref_batch_size=4, **EVERYTHING, distill_text_tower=True),
                             lambda: L2(0.3), lambda: GradientTracker(orthogonal_gradients=3),
                             lambda: WeightEnsemble(avg_freq=1), batch_size=LONELY),
    "icarl, no share": lambda world: replay(world, batch_size=LONELY),
}


# The fast tests': each kind of exchange between processes once.
QUICK = ("gather", "gather uneven", "gather nothing", "scores", "finetune", "head", "lwf everything", "icarl",
         "modx sum", "ewc", "average", "projection", "clipped", "lora", "unused parameters", "no terms",
         "own modules, no share", "passes", "inflora", "keeplora", "diki", "moe-adapters, no share", "rail",
         "null space", "split weights, no share", "coupled, no share", "resnet, no share", "joint, no share")


def run_cases(world, names=CASES):
    return {name: CASES[name](world) for name in names}


def different_parts(world):
    """Each process's own numbers: rows of the stream, the dropout that it draws, whether DDP is there."""
    state = state_of(world, task="pairs")
    rows = [batch.labels_on_host.tolist() for batch in state.training_stream()]
    step = world.parallel(torch.nn.Linear(2, 2))
    frozen = world.parallel(torch.nn.Linear(2, 2).requires_grad_(False))
    return {"rows": rows, "wrapped": [type(module).__name__ for module in (step, frozen)],
            "interleaved": world.interleave(list(range(world.rank, 7, world.size)), 7)}


def give(rank, out, names, commands):
    """A target of ``ranks``: numbers of these cases to OUT/cases<rank>.pt, then the command lines, as ``run`` runs
    them."""
    world = this_world()
    assert isinstance(world, World) and world.size > 1
    world.start(torch.device("cpu"))
    torch.save(different_parts(world), out / f"part{world.rank}.pt")
    found = run_cases(world, names)
    torch.save(found, out / f"cases{world.rank}.pt")
    world.stop()
    run(rank, out, commands)


def run(rank, out, commands):
    """A target of ``ranks``: the command lines {name: words} in turn; what the processes say to OUT/told.txt."""
    sys.stdout = sys.stderr = open(out / "told.txt", "a", encoding="utf-8", buffering=1)
    statuses = {name: main(words) for name, words in commands.items()}
    (out / f"statuses{rank}.json").write_text(json.dumps(statuses))
