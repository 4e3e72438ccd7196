"""Build a basis for --orthogonal-gradients-path from the raw gradients of an interrupted run.

    python convert_grad_to_basis.py --input ckpt/dtd/grad_DTD.raw.pth --output ckpt/dtd/grad_DTD.pth
    python convert_grad_to_basis.py --input grad_DTD.pth --output basis_DTD.pth --energy 0.97

If the input is already a basis, its rows are orthonormalised again and stored in fp32.
"""

import argparse
import sys


def main(argv=None):
    """Write the basis; return exit status 2 for a file that cannot be read or written."""
    arguments = parse(argv)
    from src.errors import UserError
    from src.machine.notices import complain
    try:
        content = convert(arguments.input, arguments.output, arguments.energy)
    except (UserError, OSError) as error:
        message = f"--output {arguments.output}: {error.strerror}" if isinstance(error, OSError) else error
        complain(message)
        return 2
    print(f"{arguments.output}: {len(content)} tensors, {sum(len(entry['energy']) for entry in content.values())} rows")
    return 0


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--input", required=True, help="grad_<DATASET>.raw.pth, or a basis, grad_<DATASET>.pth")
    parser.add_argument("--output", required=True, help="the basis file to write, in fp32")
    parser.add_argument("--energy", type=share, default=0.97,
                        help="share of the squared singular values to keep of raw gradients [0.97]")
    return parser.parse_args(argv)


def share(text):
    """Parse a number in (0, 1]."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in (0, 1]")
    return value


def convert(source, target, energy):
    """Read, orthonormalise and write; return the written {name: {"basis": (k, numel), "energy": (k,)}}."""
    import torch

    from src.machine.files import atomic_file
    from src.models.bases import as_basis, is_basis, read_file
    content = read_file(source, "--input")
    if is_basis(content):
        print(f"note: {source} is already a basis: orthonormalising its rows again, --energy has no effect")
    basis = {name: {key: value.float() for key, value in entry.items()}
             for name, entry in as_basis(content, energy).items()}
    with atomic_file(target) as file:
        torch.save(basis, file)
    return basis


if __name__ == "__main__":
    sys.exit(main())
