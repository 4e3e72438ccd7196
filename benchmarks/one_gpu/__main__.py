"""``python -m benchmarks.one_gpu``: see the package."""

import sys

from benchmarks.one_gpu.supervise import main

if __name__ == "__main__":
    sys.exit(main())
