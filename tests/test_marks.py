"""Parts of documents that programs write."""

import pytest

from scripts.marks import between_marks, marked


def test_only_what_stands_between_the_marks_is_replaced():
    document = f"a\n{marked('one', 'old')}\nb\n{marked('two', 'kept')}\n"
    assert between_marks(document, "one", r"new \1") == f"a\n{marked('one', chr(92).join(('new ', '1')))}\nb\n" \
        f"{marked('two', 'kept')}\n"


@pytest.mark.parametrize("document", ["a", marked("two", ""), "<!-- one -->", marked("one", "") + marked("one", "")])
def test_marks_stand_there_once(document):
    with pytest.raises(ValueError, match="one <!-- one -->"):
        between_marks(document, "one", "new")
