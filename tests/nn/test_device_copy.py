"""A copy to the device changes nothing on the way."""

import torch

from tbps.nn.device_copy import to_device


def test_on_the_host_nothing_is_copied() -> None:
    host = torch.arange(6.0).view(2, 3)[:, 1:]
    assert to_device(host, torch.device("cpu")) is host


def test_what_lies_on_the_device_stays() -> None:
    there = torch.empty(2, device="meta")
    assert to_device(there, torch.device("meta")) is there
