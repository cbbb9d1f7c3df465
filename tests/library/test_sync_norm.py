"""Batch norm over all ranks: refused where torch has none, and the same network before, during and after."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from training_example import AUGMENT, TRAIN, bits, new_model, write_stripes

from condensenet.config import TrainConfig
from condensenet.training import fit
from condensenet.training.sync_norm import plain_norms, synchronise_norms


def test_a_cpu_is_refused_in_one_line(tmp_path) -> None:
    data = write_stripes(tmp_path / "data")
    with pytest.raises(ValueError, match="sync_batch_norm=true is not allowed on a CPU") as error:
        list(fit(new_model(), data, AUGMENT, replace(TRAIN, sync_batch_norm=True)))
    assert "\n" not in str(error.value)


def test_torch_says_so_too() -> None:
    """If this fails, torch can do it on CPUs, and we need not refuse it."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="SyncBatchNorm expected input tensor to be on GPU"):
            nn.SyncBatchNorm(2)(torch.zeros(1, 2, 3, 3))
    finally:
        torch.distributed.destroy_process_group()


def test_the_network_stays_the_same() -> None:
    """Without a process group SyncBatchNorm computes what batch norm does, on a CPU too."""
    network, expected = new_model(), new_model()
    parameters = dict(network.named_parameters())
    images = torch.rand(4, 1, 8, 8)
    kinds = [type(module) for module in network.modules()]
    synchronise_norms(network, torch.device("cuda"))
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in network.modules()) == kinds.count(nn.BatchNorm2d) > 0
    for model in (network, expected):
        torch.manual_seed(0)  # dropout
        model.train()(images)
    plain_norms(network)
    assert [type(module) for module in network.modules()] == kinds
    assert all(value is parameters[name] for name, value in network.named_parameters())
    assert bits(network) == bits(expected)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(images), expected.eval()(images))


@pytest.mark.parametrize("other", [{"compile": "default"}, {"cuda_graph": True}])
def test_it_does_not_go_with_recorded_graphs(other: dict) -> None:
    with pytest.raises(ValueError, match="sync_batch_norm=true is not allowed with compile or cuda_graph"):
        TrainConfig(sync_batch_norm=True, **other)
