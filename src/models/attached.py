"""A method's own modules (experts, routers, prefixes, prompts), attached to the towers for the duration of
a forward.

They live beside the CLIP and never in it. Outside ``attached`` the CLIP is plain, so copies, teachers,
merges and checkpoints of it carry none of them. A module says where its parts go with a method
``places(model)`` that yields ``(owner, seam, part)``:

| owner | seam | part | effect |
|---|---|---|---|
| a transformer block | ``beside`` | (B, L, W) -> (B, L, W), of what the MLP's norm gets | added to the MLP's output |
| a block's ``attn`` | ``beside`` | query, key, value (B, H, L, W/H) -> (B, H, L, W/H) | added to the heads' mix |
| the CLIP | ``context`` | a tensor (M, W) | the embeddings of positions 1 to M of every text |

A module with a context defines class prompts by ``template``, in training and for every score: M tokens
that the context replaces, then the class name, e.g. "a a a a {c}.".
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
    """Attach the parts of ``modules`` to the towers of ``model``, and detach them on exit.

    Run backward inside as well: recomputed blocks run a second time there.
    """
    put = []
    try:
        for owner, seam, part in places_of(model, modules):
            put.append((owner, seam, vars(owner).get(seam, MISSING)))
            vars(owner)[seam] = part  # bypasses nn.Module, which would register it as a part of the CLIP
        yield
    finally:
        for owner, seam, before in reversed(put):
            if before is MISSING:
                del vars(owner)[seam]
            else:
                vars(owner)[seam] = before


def places_of(model, modules):
    """Return [(owner, seam, part)] of all modules that go into the towers. Raise ValueError if a seam does
    not exist or is taken."""
    found, taken = [], {}
    for module in modules:
        for owner, seam, part in module.places(model) if hasattr(module, "places") else ():
            owner = getattr(owner, "base_layer", owner)  # look behind an adapter
            name, place = type(module).__name__, (id(owner), seam)
            if getattr(type(owner), seam, MISSING) is not None:
                raise ValueError(f"{name}.places: {type(owner).__name__} has no seam {seam!r}; blocks and their attn "
                                 "have 'beside', the CLIP has 'context'")
            if place in taken:
                raise ValueError(f"{name}.places: {seam!r} of a {type(owner).__name__} is taken by {taken[place]}; let "
                                 "one part call the other")
            taken[place] = name
            found.append((owner, seam, part))
    return found


def build_own(hooks, model, device, stored=None):
    """Build each hook's module beside ``model`` and return {hook name: module}, on the device.

    ``stored`` {hook name: state dict} holds the tensors of a checkpoint. Raises UserError if they do not
    fit.
    """
    own = {}
    for name, hook in named(hooks).items():
        module = hook.build(model)
        if module is not None:
            _require_template(name, module, model)
            own[name] = device.place(module)  # first, because loading would round the tensors to the module's dtype
            _load(own[name], name, kept_for(stored or {}, name))
    return own


def _require_template(name, module, model):
    """Raise ValueError if a context would replace class names, UserError if it leaves them no room."""
    template = template_of([module]) or ""
    for length in (len(part) for _, seam, part in places_of(model, [module]) if seam == "context"):
        if "{c}" not in template or len(encode(template.partition("{c}")[0])) < length:
            raise ValueError(f"{name}: a context of {length} vectors needs a template with as many tokens before "
                             f"{{c}}, which it replaces; that of {type(module).__name__} is {template!r}")
        if length + 3 > model.context_length:  # start, context, one token of a name, end
            raise UserError(f"{name}: a context of {length} vectors leaves no room for class names; texts of this "
                            f"model have {model.context_length} tokens")


def template_of(modules):
    """Return the template of class prompts that one of ``modules`` defines; None if none does."""
    return next((module.template for module in modules if getattr(module, "template", None)), None)


def prompted(task, modules):
    """Return the Task with the class prompts that ``modules`` define; the task itself if none does."""
    template = template_of(modules)
    return task if template is None else replace(task, templates=(template,))


def _load(module, name, tensors):
    if not tensors:
        return
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:  # lists every name and shape that differs
        reason = " ".join(str(error).split("\n\t")[1:2]).strip()
        raise UserError(f"the modules of {name} in the checkpoint differ from those built here: {reason} Give the "
                        "keywords it was trained with") from None


def stored_tensors(own):
    """Convert {hook name: module} to {name: state dict on the host}, the form that a checkpoint stores."""
    return {name: {key: value.detach().cpu().clone() for key, value in module.state_dict().items()}
            for name, module in own.items()}


def tensors_kept(module):
    """Return {name: parameter or buffer} of what a module saves, not copied; a tensor with two names appears once."""
    kept = {}
    for name, value in module.state_dict(keep_vars=True).items():
        kept.setdefault(id(value), (name, value))
    return dict(kept.values())


def copied(own):
    """Convert {hook name: module} to {name: {name: tensor}}, copies of what the modules save."""
    return {name: {key: value.detach().clone() for key, value in tensors_kept(module).items()}
            for name, module in own.items()}


@contextlib.contextmanager
def holding(own, tensors):
    """Swap values on entry and back on exit: modules {hook name: module} hold ``tensors`` (form of
    ``copied``) meanwhile, and ``tensors`` hold theirs. Nothing is copied."""
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
    """Return the names of the modules {hook name: module} that change CLIP's output in eval mode, by parts
    in its towers or by a prompt template. The others act only through their method's scores."""
    return [name for name, module in own.items() if places_of(model, [module]) or template_of([module])]


def trains_in(model, modules, tower):
    """Return whether a trainable module has a part in the ``"image"`` or ``"text"`` tower."""
    return any(any(parameter.requires_grad for parameter in module.parameters()) and _parts_in(model, module, tower)
               for module in modules)


def rows_alone(model, modules, tower):
    """Return whether the modules treat each token of a tower independently of its position and of other
    rows.

    True if they have no part there, or promise it with ``token_by_token = True``. A prompt context is the
    same in every row and does not count.
    """
    return all(not _parts_in(model, module, tower, besides="context")
               or getattr(module, "token_by_token", False) and not draws(module) for module in modules)


def _parts_in(model, module, tower, besides=None):
    inside = {id(part) for part in (model.visual if tower == "image" else model.transformer).modules()}
    return [seam for owner, seam, _ in places_of(model, [module])
            if seam != besides and (id(owner) in inside or tower == "text" and owner is model)]


def draws(module):
    """Return whether a module in training mode depends on the other rows of its batch, as dropout and batch
    norms do."""
    return any(part.training and (isinstance(part, _BatchNorm) or is_dropout(part)) for part in module.modules())


def is_dropout(module):
    """Return whether a module is an active dropout of any kind."""
    return isinstance(module, _DropoutNd) and module.p > 0
