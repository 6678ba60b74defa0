"""A small transformer that classifies sequences."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from letitgo.errors import BadRequest
from letitgo.recipes.splits import PADDING


class Transformer(nn.Module):
    """Embeddings of tokens and places, encoder layers with norms last, and a classifier on the mean over all tokens.

    Padding is neither attended to nor part of the mean. No dropout (arXiv:1706.03762 without it).

    Args:
        input_shape: Tokens of a sequence.
        num_classes: Number of outputs.
        vocab_size: Number of tokens, padding included.
        widths: Units of an embedding, one number; four times as many between the two maps of each layer.
        depth: Number of encoder layers.
        heads: Of the attention.

    Raises:
        BadRequest: The inputs are no sequences, or there are several widths.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        vocab_size: int,
        widths: tuple[int, ...] = (64,),
        depth: int = 2,
        heads: int = 4,
    ) -> None:
        super().__init__()
        if len(widths) != 1 or widths[0] % heads:
            raise BadRequest(
                f"transformer takes one width that {heads} heads divide, as in --widths 64: it was given "
                f"{'x'.join(map(str, widths))}"
            )
        (width,), (length,) = widths, input_shape
        self.tokens = nn.Embedding(vocab_size, width, padding_idx=PADDING)
        self.places = nn.Embedding(length, width)
        self.encoder = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True) for _ in range(depth)
        )
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Outputs of shape (N, num_classes) from token numbers of shape (N, length)."""
        padding = tokens == PADDING
        padding[:, 0] = False  # so that an empty sequence attends to something
        hidden = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        for layer in self.encoder:
            hidden = layer(hidden, src_key_padding_mask=padding)
        there = (~padding).unsqueeze(-1).to(hidden.dtype)
        return self.classifier((hidden * there).sum(1) / there.sum(1))
