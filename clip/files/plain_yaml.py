"""YAML without surprises: no tag makes an object, no `no` is False, and no value is more than what was written."""

import re
from collections import Counter
from pathlib import Path

import yaml


class PlainLoader(yaml.BaseLoader):
    """Dicts, lists and texts, every value as it was written; a key that stands twice in a mapping is an error."""

    def construct_mapping(self, node, deep=False):
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            [(key, _)] = Counter(self.construct_object(key) for key, _ in node.value).most_common(1)
            raise yaml.constructor.ConstructorError(None, None, f"{key} stands there twice", node.start_mark)
        return mapping


class NumberLoader(PlainLoader):
    """What is not quoted may also be a whole number, true, false or nothing."""

    def construct_scalar(self, node):
        text = super().construct_scalar(node)
        if node.style is not None:
            return text
        return int(text) if re.fullmatch("-?[0-9]{1,18}", text) else WORDS.get(text, text)


WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}


def read_yaml(path, loader=PlainLoader):
    """Content of a YAML file. OSError where it cannot be read, ValueError in one line where it is no YAML."""
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8-sig"), Loader=loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(line + " ".join(filter(None, (error.context, error.problem)))) from None
    except RecursionError:
        raise ValueError("cannot be read as YAML (it is nested too deeply)") from None
    except (ValueError, OverflowError, yaml.YAMLError) as error:
        raise ValueError(f"cannot be read as YAML ({' '.join(str(error).split())})") from None
