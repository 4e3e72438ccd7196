"""Modules of a method's own (experts, routers, prefixes, prompts) in the towers, for the time of a forward.

They live beside the CLIP and never in it: outside of ``attached`` the CLIP is plain, so that copies, teachers, merges
and checkpoints of it carry none of them. Where they go is for them to say, by a method ``places(model)`` that gives
``(owner, seam, part)``:

| owner | seam | the part | what it gives |
|---|---|---|---|
| a transformer block | ``beside`` | (B, L, W) -> (B, L, W), of what the MLP's norm is given | added to the MLP's |
| a block's ``attn`` | ``beside`` | query, key, value (B, H, L, W/H) -> (B, H, L, W/H) | added to the heads' mix |
| the CLIP | ``context`` | a tensor (M, W) | the embeddings of positions 1 to M of every text |
"""

import contextlib

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
