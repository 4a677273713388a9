"""Ways in which a caller may have switched gradients off."""

import torch


class Switched:
    """Gradients switched off for good, until the block ends."""

    def __enter__(self):
        torch.set_grad_enabled(False)

    def __exit__(self, *_):
        torch.set_grad_enabled(True)


OFF = {"set": Switched, "no_grad": torch.no_grad, "inference": torch.inference_mode}
