"""A small language model."""

from __future__ import annotations

from torch import Tensor, nn

from letitgo.errors import BadRequest


class LSTM(nn.Module):
    """Embedding, one LSTM layer, and a classifier over the next word.

    Args:
        num_classes: Number of words.
        widths: Units of the embedding and of the hidden state, one number.
        tied: Whether the classifier's weights are the embedding's.

    Raises:
        BadRequest: There are several widths.
    """

    def __init__(self, num_classes: int, widths: tuple[int, ...] = (128,), tied: bool = False) -> None:
        super().__init__()
        if len(widths) != 1:
            raise BadRequest(f"lstm takes one width, as in --widths 128: it was given {len(widths)}")
        (width,) = widths
        self.embedding = nn.Embedding(num_classes, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.classifier = nn.Linear(width, num_classes)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        if tied:
            self.classifier.weight = self.embedding.weight

    def forward(self, words: Tensor) -> Tensor:
        """Logits of shape (N, L, num_classes) from word numbers of shape (N, L); each row begins without memory."""
        hidden, _ = self.lstm(self.embedding(words))
        return self.classifier(hidden)
