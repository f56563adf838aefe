"""What each script of the workflow imports before it does anything, in seconds of the processor.

    python benchmarks/imports.py

The median of three new processes each; what Python itself takes to start stands first.
"""

import ast
import os
import statistics
import subprocess
import sys
from pathlib import Path

WORKFLOW = Path(__file__).parent.parent / "workflow"
HEAVY = "torch torchvision sklearn scipy.stats pandas skimage cv2 matplotlib lime pytorch_grad_cam"
MEASURE = """
import time
began = time.process_time()
{imports}
import sys
print(began, time.process_time() - began, *(name for name in {heavy} if name in sys.modules))
"""


def measure(imports: str) -> tuple[float, float, list[str]]:
    """Return seconds to start Python and to import, and what of :data:`HEAVY` that loads."""
    code = MEASURE.format(imports=imports, heavy=HEAVY.split())
    environment = os.environ | {"PYTHONPATH": str(WORKFLOW), "OMP_NUM_THREADS": "1"}
    said = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout.split()
        for _ in range(3)
    ]
    start, taken = (statistics.median(float(one[n]) for one in said) for n in (0, 1))
    return start, taken, said[0][2:]


def main() -> None:
    print(f"{measure('')[0]:5.2f} s  Python itself")
    found = []
    for path in sorted((WORKFLOW / "scripts").glob("*.py")):
        tree = ast.parse(path.read_text())
        kinds = ast.Import | ast.ImportFrom
        imports = [ast.unparse(node) for node in tree.body if isinstance(node, kinds)]
        found.append((measure("\n".join(imports))[1:], path.stem))
    for (seconds, heavy), name in sorted(found, reverse=True):
        print(f"{seconds:5.2f} s  {name:22} {' '.join(heavy)}")


if __name__ == "__main__":
    main()
