"""Forward passes of ResNet18 as the study has it, with direct convolutions and with ours."""

import copy
import platform
import statistics
import time

import torch

from consilience.classifiers import build_architecture
from consilience.convolution import accelerate

ROUNDS = 7


def measure(model: torch.nn.Module, inputs: torch.Tensor) -> float:
    """Return pictures per second of processor time."""
    with torch.inference_mode():
        began = time.process_time()
        model(inputs)
        return len(inputs) / (time.process_time() - began)


def main() -> None:
    """Print pictures per second of each, interleaved, and the ratio of the medians."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}")
    for architecture, side, keep in (("resnet18", 96, ["layer4"]), ("resnet18", 224, [])):
        direct = build_architecture(architecture, 10, keep).to(memory_format=torch.channels_last)
        fast = copy.deepcopy(direct)
        accelerate(fast, winograd=True)
        for batch in (16, 32):
            inputs = torch.randn(batch, 3, side, side)
            with torch.inference_mode():
                difference = (direct(inputs) - fast(inputs)).abs().max() / direct(inputs).std()
            speeds = [(measure(direct, inputs), measure(fast, inputs)) for _ in range(ROUNDS)]
            slow, quick = (statistics.median(column) for column in zip(*speeds, strict=True))
            print(
                f"{architecture} at {side}, batch {batch}: direct {slow:.1f}, ours {quick:.1f} "
                f"pictures/s; ratio {quick / slow:.2f}; largest difference of a logit, in "
                f"standard deviations of the logits, {difference:.0e}"
            )


if __name__ == "__main__":
    main()
