"""The table of flags: names and defaults."""

import pytest

from src.cli.flags import FLAGS, GROUPS, groups_named
from src.cli.texts import read_value, shown_default
from src.errors import UserError


def test_names_and_defaults_of_flags():
    assert len(FLAGS) == sum(map(len, GROUPS.values())), "two flags of one name"
    assert all(flag.name.startswith("--") and "_" not in flag.name for flag in FLAGS.values())
    assert all(flag.help for flag in FLAGS.values())
    for flag in FLAGS.values():  # or a value of a protocol would look like a typing error
        assert not flag.choices or flag.default in flag.choices, flag.name


def test_a_default_is_what_its_own_text_would_give():
    """``shown`` aside, typing the documented default changes nothing."""
    for flag in FLAGS.values():
        if not flag.switch and flag.shown is None and flag.default is not None:
            assert read_value(flag, shown_default(flag)) == flag.default, flag.name


@pytest.mark.parametrize(("text", "titles"), [
    *((title, [title]) for title in GROUPS), ("lora", ["LoRA"]), ("weight-averaging", ["weight averaging"]),
    ("AVERAGING", ["weight averaging"]), ("evaluation", ["evaluation"]), ("model_and_machine", ["model and machine"]),
    ("machine", ["model and machine"]), ("pairs", ["image-text pairs and linear evaluation"])])
def test_a_group_is_named_by_its_title_or_by_words_of_it(text, titles):
    assert groups_named(text) == titles


def test_several_groups_may_have_a_word():
    assert len(groups_named("and")) > 1


@pytest.mark.parametrize("text", ["", "-", "lorra", "--lr", "weights"])
def test_no_group_is_a_message_with_all_of_them(text):
    with pytest.raises(UserError) as caught:
        groups_named(text)
    assert str(caught.value).startswith(f"--help {text}: no such group") and all(
        title in str(caught.value) for title in GROUPS)
