"""Modules of a method's own (experts, routers, prefixes, prompts) in the towers, for the time of a forward.

They live beside the CLIP and never in it: outside of ``attached`` the CLIP is plain, so that copies, teachers, merges
and checkpoints of it carry none of them. Where they go is for them to say, by a method ``places(model)`` that gives
``(owner, seam, part)``:

| owner | seam | the part | what it gives |
|---|---|---|---|
| a transformer block | ``beside`` | (B, L, W) -> (B, L, W), of what the MLP's norm is given | added to the MLP's |
| a block's ``attn`` | ``beside`` | query, key, value (B, H, L, W/H) -> (B, H, L, W/H) | added to the heads' mix |
| the CLIP | ``context`` | a tensor (M, W) | the embeddings of positions 1 to M of every text |

A module with a context says by ``template`` what class prompts look like, in training and in every score: M tokens that
the context replaces, then the class name, such as "a a a a {c}.".
"""

import contextlib
from dataclasses import replace

from torch.nn.modules.batchnorm import _BatchNorm  # of SyncBatchNorm too
from torch.nn.modules.dropout import _DropoutNd

from clip.tokenizer import encode
from src.errors import UserError
from src.models.hooks import kept_for, named

MISSING = object()


@contextlib.contextmanager
def attached(model, modules):
    """Put the parts of ``modules`` into their places in the towers of ``model``, and take them out again.

    Backward has to be inside too: blocks that are recomputed run a second time there.
    """
    put = []
    try:
        for owner, seam, part in places_of(model, modules):
            put.append((owner, seam, vars(owner).get(seam, MISSING)))
            vars(owner)[seam] = part  # past nn.Module, which would make it a part of the CLIP
        yield
    finally:
        for owner, seam, before in reversed(put):
            if before is MISSING:
                del vars(owner)[seam]
            else:
                vars(owner)[seam] = before


def places_of(model, modules):
    """[(owner, seam, part)] of all modules that go into the towers. ValueError for a place that is none or is taken."""
    found, taken = [], {}
    for module in modules:
        for owner, seam, part in module.places(model) if hasattr(module, "places") else ():
            owner = getattr(owner, "base_layer", owner)  # behind an adapter
            name, place = type(module).__name__, (id(owner), seam)
            if getattr(type(owner), seam, MISSING) is not None:
                raise ValueError(f"{name}.places: {type(owner).__name__} has no seam {seam!r}; blocks and their attn "
                                 "have 'beside', the CLIP has 'context'")
            if place in taken:
                raise ValueError(f"{name}.places: {seam!r} of a {type(owner).__name__} is taken by {taken[place]}; one "
                                 "part may call another")
            taken[place] = name
            found.append((owner, seam, part))
    return found


def build_own(hooks, model, device, stored=None):
    """Return {name of a hook: the module that it builds beside ``model``}, on the device, with the tensors that a
    checkpoint has ``stored`` {name of a hook: state dict}. UserError where they do not fit."""
    own = {}
    for name, hook in named(hooks).items():
        module = hook.build(model)
        if module is not None:
            _require_template(name, module, model)
            own[name] = device.place(module)  # in the type of its tensors, which loading would round to another
            _load(own[name], name, kept_for(stored or {}, name))
    return own


def _require_template(name, module, model):
    """ValueError where a context would stand in the place of class names, UserError where it leaves them no room."""
    template = template_of([module]) or ""
    for length in (len(part) for _, seam, part in places_of(model, [module]) if seam == "context"):
        if "{c}" not in template or len(encode(template.partition("{c}")[0])) < length:
            raise ValueError(f"{name}: a context of {length} vectors needs a template with as many tokens before "
                             f"{{c}}, which it replaces; that of {type(module).__name__} is {template!r}")
        if length + 3 > model.context_length:  # start, context, one token of a name, end
            raise UserError(f"{name}: a context of {length} vectors leaves no room for class names; texts of this "
                            f"model have {model.context_length} tokens")


def template_of(modules):
    """The template of class prompts that one of ``modules`` asks for; None where none does."""
    return next((module.template for module in modules if getattr(module, "template", None)), None)


def prompted(task, modules):
    """A Task with the class prompts that ``modules`` ask for; the task itself where none does."""
    template = template_of(modules)
    return task if template is None else replace(task, templates=(template,))


def _load(module, name, tensors):
    if not tensors:
        return
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:  # it lists every name and shape that differs
        reason = " ".join(str(error).split("\n\t")[1:2]).strip()
        raise UserError(f"the modules of {name} in the checkpoint are others than it builds here: {reason} Give the "
                        "keywords that it was trained with") from None


def stored_tensors(own):
    """{name of a hook: module} -> {name: state dict on the host}, as a checkpoint keeps it."""
    return {name: {key: value.detach().cpu().clone() for key, value in module.state_dict().items()}
            for name, module in own.items()}


def tensors_kept(module):
    """Return {name: parameter or buffer} of what a module is saved with, themselves; one that has two names once."""
    kept = {}
    for name, value in module.state_dict(keep_vars=True).items():
        kept.setdefault(id(value), (name, value))
    return dict(kept.values())


def copied(own):
    """{name of a hook: module} -> {name: {name: tensor}}, copies of what the modules are saved with."""
    return {name: {key: value.detach().clone() for key, value in tensors_kept(module).items()}
            for name, module in own.items()}


@contextlib.contextmanager
def holding(own, tensors):
    """While entered, modules {name of a hook: module} hold the values of ``tensors``, of the form of ``copied``, in the
    place of their own, and these hold theirs: no value is copied."""
    pairs = [(value, tensors[name][key]) for name in tensors for key, value in tensors_kept(own[name]).items()]
    _swap(pairs)
    try:
        yield
    finally:
        _swap(pairs)


def _swap(pairs):
    for one, other in pairs:
        one.data, other.data = other.data, one.data


def acting(model, own):
    """The names of those of modules {name of a hook: module} in eval mode that change what the CLIP gives: by parts in
    its towers, or by the prompts they ask for. Others act in a method's scores alone."""
    return [name for name, module in own.items() if places_of(model, [module]) or template_of([module])]


def trains_in(model, modules, tower):
    """Whether a module that trains has a part in the ``"image"`` or ``"text"`` tower."""
    return any(any(parameter.requires_grad for parameter in module.parameters()) and _parts_in(model, module, tower)
               for module in modules)


def rows_alone(model, modules, tower):
    """Whether what the modules make of a token in a tower depends on nothing else, neither on its place nor on other
    rows: they have no part there, or promise it by ``token_by_token = True``. Prompts' context is the same in each."""
    return all(not _parts_in(model, module, tower, besides="context")
               or getattr(module, "token_by_token", False) and not draws(module) for module in modules)


def _parts_in(model, module, tower, besides=None):
    inside = {id(part) for part in (model.visual if tower == "image" else model.transformer).modules()}
    return [seam for owner, seam, _ in places_of(model, [module])
            if seam != besides and (id(owner) in inside or tower == "text" and owner is model)]


def draws(module):
    """Whether a module in training mode gives other values for other rows beside it: dropout and batch norms do."""
    return any(part.training and (isinstance(part, _BatchNorm) or is_dropout(part)) for part in module.modules())


def is_dropout(module):
    """Whether a module is a dropout of any kind that drops something."""
    return isinstance(module, _DropoutNd) and module.p > 0
