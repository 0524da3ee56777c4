"""Parameters, bytes and operations of detectors."""

import io

import pytest
import torch
from tiny_detectors import FAMILIES, seeded_on_one_thread, tiny
from torch import nn

from frs_train.evaluation.complexity import flops, parameter_count, weight_bytes


@pytest.fixture(autouse=True)
def quiet():
    with seeded_on_one_thread():
        yield


@pytest.mark.parametrize("family", FAMILIES)
def test_flops_are_two_per_multiplication_of_the_convolutions_and_linear_layers(family):
    detector = tiny(family).eval()
    expected = 0

    def add(layer, inputs, output):
        nonlocal expected
        expected += 2 * output.numel() * layer.weight[0].numel()

    for layer in detector.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(add)
    image = torch.rand(3, 64, 64)
    found = flops(detector, image)
    assert found > 1e6
    # GFL adds one small matrix product, the mean of its distributions of distances.
    assert expected <= found <= 1.02 * expected


def test_parameters_and_bytes_of_a_module():
    module = nn.Sequential(nn.Conv2d(3, 4, 5), nn.BatchNorm2d(4))
    module[0].weight.requires_grad_(False)
    assert parameter_count(module) == 3 * 4 * 25 + 4 + 2 * 4
    assert weight_bytes(module) == 4 * (parameter_count(module) + 2 * 4) + 8, (
        "with mean, variance and a count"
    )


def test_bytes_are_close_to_those_of_a_file():
    detector = tiny("fcos")
    buffer = io.BytesIO()
    torch.save(detector.state_dict(), buffer)
    assert weight_bytes(detector) < buffer.tell() < weight_bytes(detector) + 1000 * len(detector.state_dict())
