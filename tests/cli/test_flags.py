"""The table of flags: names and defaults."""

from src.cli.flags import FLAGS, GROUPS
from src.cli.texts import read_value, shown_default


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
