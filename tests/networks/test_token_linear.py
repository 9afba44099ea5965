"""Linear layers of tokens as convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ovseg_ray.networks.token_linear import TokenLinear, use_token_linears


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5,), (7, 5), (2, 7, 5)])
def test_it_is_the_linear_layer(shape: tuple[int, ...], bias: bool) -> None:
    layer, tokens = TokenLinear(5, 3, bias=bias), torch.randn(shape)
    trained = layer(tokens)
    with torch.inference_mode():
        found = layer(tokens)
    assert found.shape == trained.shape
    torch.testing.assert_close(found, trained)


def test_tokens_need_not_lie_in_order() -> None:
    layer, tokens = TokenLinear(5, 3), torch.randn(4, 5, 6).transpose(1, 2)[:, 1:]
    with torch.inference_mode():
        found = layer(tokens)
    torch.testing.assert_close(found, layer(tokens))


def test_gradients_flow_and_keys_stay() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2))
    keys = list(network.state_dict())
    use_token_linears(network)
    assert [type(layer) for layer in network] == [TokenLinear, nn.GELU, TokenLinear]
    assert list(network.state_dict()) == keys
    network(torch.randn(3, 4)).sum().backward()
    assert network[0].weight.grad is not None


def test_what_is_more_than_a_linear_layer_stays() -> None:
    attention = nn.MultiheadAttention(4, 2)
    use_token_linears(attention)
    assert type(attention.out_proj) is not TokenLinear
