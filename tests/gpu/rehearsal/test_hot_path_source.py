"""What tensors without numbers cannot see is found in the source of the hot path: of a step, and of embedding.

A rehearsal sees the lines that it runs. These are banned on all others, too, or leave no trace on a tensor without numbers:

- `.item()`, `.cpu()`, `bool()`, `int()` or `float()` of a tensor, a branch on one: the host waits, in a branch that no
  rehearsed run takes, too;
- `print` and f-strings that format a tensor: they read it on a GPU, and not here;
- `torch.tensor`, `torch.as_tensor`, `torch.asarray` outside of a constructor: a constant that every micro-step makes anew,
  which on a GPU is a copy from memory that is not pinned;
- `.cuda()`, "cuda" as a place, anything of `torch.cuda`: a step computes where its batch lies, and need not know where;
- which process this is: a collective behind such a branch hangs all others.

`.numpy()`, `.tolist()` and `nonzero()` are not among them: the hot path lays much out on the host, by arrays; of a tensor of
the device the rehearsal sees them. What names a tensor is our rule that its name ends in its shape (`feature_BE`); arrays of
the host have such names, too, so that places where one is meant stand in ALLOWED.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
HOT = ("tbps/methods", "tbps/objectives", "tbps/nn")
ALONE = (
    *("tbps/training/step.py", "tbps/training/contrast.py", "tbps/training/data_parallel.py", "tbps/training/agreement.py"),
    *("tbps/data/views.py", "tbps/evaluation/embedding.py"),
)
COLD = re.compile(r"exhibit|heat_map|reconstructions|phrase_maps|masked_words|registry|lora\.py|building")
"""Reports, and what is done once, before training."""
HOST = "an array of the host"
ALLOWED = {
    "tbps/methods/albef/aga.py: AgaMethod.chosen_words": "for reports",
    "tbps/methods/albef/cross_calls.py: CrossPass.cls_states": HOST,
    "tbps/methods/albef/laip.py: LaipMethod._read": HOST,
    "tbps/methods/albef/mars.py: MarsMethod._context_bias": HOST,
    "tbps/methods/albef/pair_calls.py: share_out": HOST,
    "tbps/objectives/attribute.py: chunk_table": HOST,
    "tbps/objectives/phrases.py: PhraseTable.num_phrases": HOST,
    "tbps/objectives/phrases.py: phrase_table": HOST,
    "tbps/nn/packing.py: Layout.to": HOST,
    "tbps/nn/packing.py: _RowPlan.rows": HOST,
    "tbps/nn/packing.py: _images_by_group": HOST,
    "tbps/nn/packing.py: _grid": HOST,
    "tbps/nn/dropout.py: Site.seed_device": "the device's generator, which the host seeds without waiting",
    "tbps/nn/host_copy.py: HostCopy.__init__": "an event, which is waited for late",
    "tbps/training/step.py: Stepper._make_batch": "which pairs of the batch are this process's",
    "tbps/training/step.py: Stepper._agree": "where in the vector that all send its own number lies",
    "tbps/evaluation/embedding.py: _free_bytes": "asks the driver once, for no work of the device",
}
"""file: function -> why that is no wait, and no branch that only one process takes."""

TENSOR = re.compile(r"_[A-Z][A-Za-z0-9]*$")
CONSTANTS = ("tensor", "as_tensor", "asarray")
READS = ("item", "cpu")
PROCESS = ("get_rank", "process_index", "is_main_process", "is_local_main_process", "local_process_index")


def files() -> list[Path]:
    """Of the hot path."""
    found = [file for folder in HOT for file in sorted((REPOSITORY / folder).rglob("*.py"))]
    return [file for file in found if not COLD.search(file.name)] + [REPOSITORY / name for name in ALONE]


def find(source: str) -> Iterator[tuple[str, int, str]]:
    """Function, line and what is wrong there."""
    yield from _find(ast.parse(source), "")


def _find(node: ast.AST, function: str) -> Iterator[tuple[str, int, str]]:
    for child in ast.iter_child_nodes(node):
        inside = f"{function}.{child.name}".lstrip(".") if isinstance(child, ast.FunctionDef | ast.ClassDef) else function
        if why := _wrong(child, inside):
            yield inside, getattr(child, "lineno", 0), why
        yield from _find(child, inside)


def _wrong(node: ast.AST, function: str) -> str:
    if isinstance(node, ast.Call):
        return _wrong_call(node, function)
    if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch.cuda."):
        return "torch.cuda"
    if isinstance(node, ast.Attribute | ast.Name) and _last(node) in PROCESS:
        return "which process this is"
    if isinstance(node, ast.If | ast.While | ast.IfExp | ast.Assert) and _is_truth_of_tensor(node.test):
        return "a branch on a tensor"
    if isinstance(node, ast.FormattedValue) and _names_tensor(node.value):
        return "a tensor in words"
    return ""


def _wrong_call(call: ast.Call, function: str) -> str:
    name = _last(call.func)
    if name == "print":
        return "print"
    if isinstance(call.func, ast.Attribute) and name in READS:
        return f".{name}()"
    if isinstance(call.func, ast.Name) and name in ("bool", "int", "float") and call.args and _names_tensor(call.args[0]):
        return f"{name}() of a tensor"
    if ast.unparse(call.func) in [f"torch.{constant}" for constant in CONSTANTS] and not function.endswith("__init__"):
        return f"torch.{name}() outside of a constructor"
    places = (
        [*call.args, *(word.value for word in call.keywords if word.arg == "device")] if name in ("to", "device") else []
    )
    if name == "cuda" or any(isinstance(one, ast.Constant) and str(one.value).startswith("cuda") for one in places):
        return '"cuda" as a place'
    return ""


def _last(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _names_tensor(node: ast.AST) -> bool:
    """x_BD, self.x_BD, x_BD[0], x_BD.sum(), x_BD > 0; not x_BD.shape[0] nor len(x_BD)."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) and _names_tensor(node.func.value)
    if isinstance(node, ast.Subscript):
        return _names_tensor(node.value)
    if isinstance(node, ast.Compare):
        plain = all(not isinstance(one, ast.Is | ast.IsNot | ast.In | ast.NotIn) for one in node.ops)
        return plain and any(map(_names_tensor, [node.left, *node.comparators]))
    return isinstance(node, ast.Name | ast.Attribute) and bool(TENSOR.search(_last(node))) and not _last(node).isupper()


def _is_truth_of_tensor(node: ast.AST) -> bool:
    if isinstance(node, ast.BoolOp):
        return any(map(_is_truth_of_tensor, node.values))
    if isinstance(node, ast.UnaryOp):
        return _is_truth_of_tensor(node.operand)
    return _names_tensor(node)


def test_nothing_in_the_hot_path_waits_unseen() -> None:
    found = [
        f"{file.relative_to(REPOSITORY)}:{line} ({function}): {why}"
        for file in files()
        for function, line, why in find(file.read_text())
        if f"{file.relative_to(REPOSITORY)}: {function}" not in ALLOWED
    ]
    assert not found, "\n".join(found)


def test_what_is_allowed_is_there() -> None:
    there = {f"{file.relative_to(REPOSITORY)}: {function}" for file in files() for function, _, _ in find(file.read_text())}
    assert set(ALLOWED) <= there, set(ALLOWED) - there


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("a_B.sum().item()", ".item()"),
        ("self.a_BD.cpu()", ".cpu()"),
        ("int(a_B[0])", "int() of a tensor"),
        ("if a_B.any(): pass", "a branch on a tensor"),
        ("if b and not a_B > 0: pass", "a branch on a tensor"),
        ("print(a)", "print"),
        ("x = f'{a_B}'", "a tensor in words"),
        ("torch.tensor([1.0], device=d)", "torch.tensor() outside of a constructor"),
        ("a.to('cuda:0')", '"cuda" as a place'),
        ("torch.cuda.synchronize()", "torch.cuda"),
        ("dist.get_rank()", "which process this is"),
    ],
)
def test_a_planted_line_is_found(line: str, why: str) -> None:
    assert [(function, number, said) for function, number, said in find(f"def f():\n    {line}")] == [("f", 2, why)]


@pytest.mark.parametrize(
    "line",
    ["if a_B is None: pass", "if len(a_B) > 1: pass", "x = int(a_B.shape[0])", "x = a.to(b_B.device)", "if A_B: pass"],
)
def test_a_harmless_line_is_not(line: str) -> None:
    assert not list(find(f"def f():\n    {line}"))
