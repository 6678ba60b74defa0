"""What parameters do is seen from what their layer computes, whatever it is called."""

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, layer_norm, linear, normalize

from letitgo import biases, fraction, norms, prunable

Conv1D = pytest.importorskip("transformers.pytorch_utils").Conv1D
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")


class NormedLinear(nn.Linear):
    def forward(self, input):
        return linear(normalize(input), normalize(self.weight), self.bias)


class LayerNormLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer_norm_weight, self.layer_norm_bias = nn.Parameter(torch.ones(4)), nn.Parameter(torch.zeros(4))
        self.weight, self.bias = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.zeros(6))

    def forward(self, x):
        return linear(layer_norm(x, (4,), self.layer_norm_weight, self.layer_norm_bias), self.weight, self.bias)


class Gained(nn.Module):
    def __init__(self):
        super().__init__()
        self.g, self.v = nn.Parameter(torch.ones(6, 1)), nn.Parameter(torch.randn(6, 4))

    def forward(self, x):
        return linear(x, self.g * normalize(self.v))


class OwnConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(6, 4, 3, 3))

    def forward(self, x):
        return conv2d(x, self.kernel)


class RootMeanSquareNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4, 5))

    def forward(self, x):
        return x / x.square().mean((1, 2), keepdim=True).sqrt() * self.scale


@pytest.mark.parametrize(
    ("layer", "weights", "of_norms", "of_biases"),
    [
        (Conv1D(6, 4), ["weight"], [], ["bias"]),
        (NormedLinear(4, 6), ["weight"], [], ["bias"]),
        (LayerNormLinear(), ["weight"], ["layer_norm_weight", "layer_norm_bias"], ["bias"]),
        (Gained(), ["v"], [], []),
        (OwnConvolution(), ["kernel"], [], []),
        (RootMeanSquareNorm(), [], ["scale"], []),
        (nn.utils.parametrizations.weight_norm(nn.Linear(1, 6)), ["parametrizations.weight.original1"], [], ["bias"]),
        (nn.Linear(1, 6), ["weight"], [], ["bias"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_weights_norms_and_biases_are_what_they_do(layer, weights, of_norms, of_biases):
    whole = nn.Sequential(layer, nn.Linear(2, 2), nn.LayerNorm(2))
    state = torch.get_rng_state()
    own = [
        [name.removeprefix("0.") for name in choose(whole) if name.startswith("0.")]
        for choose in (prunable, norms, biases)
    ]
    assert own == [weights, of_norms, of_biases]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("inputs", [4, 6])
def test_units_of_a_transposed_product_are_its_columns(inputs):
    part = fraction(nn.Sequential(Conv1D(6, inputs)), 0.5)
    columns = part.entries["0.weight"].all(0)
    assert int(columns.sum()) == 3
    assert not part.entries["0.weight"][:, ~columns].any()
    assert torch.equal(part.entries["0.bias"], columns)


@pytest.mark.parametrize("wrap", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
def test_gains_of_weight_norm_go_with_their_units_and_are_not_cut(wrap):
    module = nn.Sequential(wrap(nn.Linear(4, 6)))
    assert len(fraction(module, 0.5, of="weights").entries) == 1
    gain, weight = (mask for name, mask in fraction(module, 0.5).entries.items() if mask.ndim > 1)
    assert torch.equal(gain.expand(6, 4), weight)
