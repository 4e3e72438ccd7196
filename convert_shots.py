"""Build a file for --shots-file from pickled few-shot draws, shot_<K>-seed_<S>.pkl. Nothing in them is
executed.

    python convert_shots.py --input DTD=dtd/split_fewshot/shot_16-seed_1.pkl --output shots.json
    python convert_shots.py --input DTD=dtd.pkl --input Flowers=flowers.pkl --output shots.json
"""

import argparse
import json
import sys


def main(argv=None):
    """Write the list; return exit status 2 for a file that cannot be read or written."""
    arguments = parse(argv)
    from src.errors import UserError
    from src.machine.notices import complain
    try:
        entries = convert(arguments.input, arguments.output)
    except (UserError, OSError) as error:
        message = f"--output {arguments.output}: {error.strerror}" if isinstance(error, OSError) else error
        complain(message)
        return 2
    for name, entry in entries.items():
        images = sum(len(row["images"]) for row in entry["train"])
        print(f"{arguments.output}: {name}, {len(entry['train'])} classes, {images} training images")
    return 0


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--input", required=True, action="append", type=source, metavar="DATASET=FILE",
                        help="a dataset, spelled as in --train-dataset, and its pickle; may be repeated")
    parser.add_argument("--output", required=True, help="the JSON file to write")
    return parser.parse_args(argv)


def source(text):
    """Split ``DTD=a.pkl`` -> ("DTD", "a.pkl")."""
    name, _, path = text.partition("=")
    if not (name and path):
        raise argparse.ArgumentTypeError(f"{text}: expected DATASET=FILE, as in DTD=shot_16-seed_1.pkl")
    return name, path


def convert(sources, target):
    """Read [(dataset, pickle)], write the file and return {dataset: its entry}."""
    from src.datasets import find_entry, stem
    from src.datasets.pickled_shots import read_pickled_shots
    from src.datasets.shots import file_of
    from src.errors import UserError
    from src.machine.files import atomic_file
    written = set()
    for name, _ in sources:
        find_entry(name)
        if stem(name) in written:
            raise UserError(f"--input {name}: {stem(name)} is given twice; give one pickle per dataset")
        written.add(stem(name))
    entries = {stem(name): read_pickled_shots(path) for name, path in sources}
    with atomic_file(target, "w") as file:
        json.dump(file_of(entries), file, indent=1)
    return entries


if __name__ == "__main__":
    sys.exit(main())
