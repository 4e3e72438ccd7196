"""YAML without surprises: no tag creates an object, `no` is not False, and values stay as written."""

import re
from collections import Counter
from pathlib import Path

import yaml


class PlainLoader(yaml.BaseLoader):
    """Dicts, lists and texts, every value as written; a repeated key in a mapping is an error."""

    def construct_mapping(self, node, deep=False):
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            [(key, _)] = Counter(self.construct_object(key) for key, _ in node.value).most_common(1)
            raise yaml.constructor.ConstructorError(None, None, f"{key} occurs twice", node.start_mark)
        return mapping


class NumberLoader(PlainLoader):
    """Unquoted values may also be whole numbers, true, false or null."""

    def construct_scalar(self, node):
        text = super().construct_scalar(node)
        if node.style is not None:
            return text
        return int(text) if re.fullmatch("-?[0-9]{1,18}", text) else WORDS.get(text, text)


WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}


def read_yaml(path, loader=PlainLoader):
    """Return the content of a YAML file. Raise OSError if it cannot be read, ValueError, in one line, if it
    is not YAML."""
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8-sig"), Loader=loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(line + " ".join(filter(None, (error.context, error.problem)))) from None
    except RecursionError:
        raise ValueError("cannot be read as YAML (it is nested too deeply)") from None
    except (ValueError, OverflowError, yaml.YAMLError) as error:
        raise ValueError(f"cannot be read as YAML ({' '.join(str(error).split())})") from None
