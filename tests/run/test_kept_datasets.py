"""Class names and prompts that a run has kept, under --template."""

from types import SimpleNamespace

import pytest

from src.errors import UserError
from src.run.kept_datasets import KeptDatasets
from src.templates.collections import MNIST, SIMPLE


def described(template=None, own=("a photo of the {c}", "the {c}"), other=tuple(SIMPLE)):
    facts = {"name": "x", "classnames": ["a", "b"], "train_data": "all", "pairs": False, "splits": ["test", "ood_test"]}
    return {"task": "DTD", "flags": {"template": {"value": template}}, "datasets": {
        "DTD": facts | {"templates": list(own), "has_templates": True},
        "photos": facts | {"templates": list(other), "has_templates": False}}}


@pytest.mark.parametrize("before, template, own, other", [
    (None, None, ["a photo of the {c}", "the {c}"], SIMPLE),
    (None, "a {c}", ["a photo of the {c}", "the {c}"], ["a {c}"]),
    (None, "all:MNIST", MNIST, MNIST),
    (None, "all:first", ["a photo of the {c}"], SIMPLE),
    ("old {c}", "all:first", ["a photo of the {c}"], SIMPLE),
    ("all:old {c}", "all:a {c}", ["a {c}"], ["a {c}"])])
def test_prompts_are_those_of_a_run_with_this_template(before, template, own, other):
    kept = KeptDatasets(described(before), template is not None, SimpleNamespace(template=template or before))
    assert kept.open("DTD").templates == own
    assert kept.open("folder:/elsewhere/photos").templates == other
    assert "ood_test" in kept.open("DTD").splits


@pytest.mark.parametrize("template", ["a {c}", "all:first"])
def test_prompts_that_the_run_replaced_are_not_known(template):
    with pytest.raises(UserError, match="the run was scored with --template all:old .*give all:NAME or all:PROMPT"):
        KeptDatasets(described("all:old {c}"), True, SimpleNamespace(template=template))


def test_classes_that_nothing_was_compared_with_are_named():
    kept = KeptDatasets(described(), False, SimpleNamespace(template=None))
    with pytest.raises(UserError, match="features after DTD lack the classes of MNIST.*--label-space task"):
        kept.open("MNIST")
