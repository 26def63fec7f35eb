"""The rehearsal: what every method does on a GPU, done at real size on a GPU that is not there. It runs everywhere.

    pytest tests/gpu/rehearsal

Tensors of the device are torch's fake ones: they have shapes, types and a device, and no numbers
(tbps/planning/fake_device.py). On them run the whole training step (views, forward, backward, update, momentum, queue),
embedding, ranking and re-ranking, in float32 and bf16, as the loop and the evaluation call them. A test is red, and names
the line of our code, where

- the host would wait for the device (tbps/planning/waits.py): item(), tolist(), bool() or `if` on a tensor of the device,
  nonzero, a boolean index, unique, torch.tensor(..., device=), a copy from memory that is not pinned or that blocks, cpu();
- an operand lies on another device, two operands are of types that CUDA does not take together, or the operation has no
  bf16 kernel;
- a process sends something else than the others do (test_collectives.py).

Waits that are meant stand in the tests with their reasons. What such tensors cannot see is found in the source
(test_hot_path_source.py). That the tests do turn red is tested by planted faults (test_planted_faults.py).

To send something to the device, call `to_device` (tbps/nn/device_copy.py), or `upload` for indices; to read something from
it, make a `HostCopy` and wait for it late; in place of a constant tensor, fill one on the device.
"""
