"""A language model with SigLIP's eyes, as upstream's branch Qwen3-Siglip2 builds it."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import LlavaConfig, LlavaForConditionalGeneration


class SiglipLlava(LlavaForConditionalGeneration):
    """LLaVA on what its vision tower puts out behind the last norm; transformers' own takes it in front of that."""

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__(config)
        self.model.multi_modal_projector.register_forward_pre_hook(self._behind_the_last_norm)

    def _behind_the_last_norm(self, projector: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (self.model.vision_tower.post_layernorm(inputs[0]),)
