#!/usr/bin/env bash
# torch.compile and a forward hook that is an object with a number in an attribute (a layer's index, a length, a step).
# Expected: as for an argument: after the second value one graph serves all integers.
# Seen (torch 2.13.0): each value of an integer attribute makes a graph of its own, until the limit of recompiles is met;
# a float in the same attribute, or the integer as an argument, makes two graphs in all, a tensor one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch

print("torch", torch.__version__)
graphs = []


def backend(graph, _inputs):
    graphs.append(graph)
    return graph.forward


class Scale:
    def __init__(self, by):
        self.by = by

    def __call__(self, _module, _args, output):
        return output * self.by


def as_attribute(values):
    torch._dynamo.reset()
    graphs.clear()
    linear, scale = torch.nn.Linear(3, 3), Scale(values[0])
    linear.register_forward_hook(scale)
    compiled = torch.compile(lambda x: linear(x), backend=backend)
    for value in values:
        scale.by = value
        compiled(torch.ones(2, 3))
    return len(graphs)


def as_argument(values):
    torch._dynamo.reset()
    graphs.clear()
    compiled = torch.compile(lambda x, by: x * by, backend=backend)
    for value in values:
        compiled(torch.ones(2, 3), value)
    return len(graphs)


integers, floats = [2, 3, 4, 5, 6, 7], [2.5, 3.5, 4.5, 5.5, 6.5, 7.5]
counts = {
    "integer attribute": as_attribute(integers),
    "float attribute": as_attribute(floats),
    "tensor attribute": as_attribute([torch.tensor(value) for value in floats]),
    "integer argument": as_argument(integers),
}
print("graphs for six values:", counts)
sys.exit(0 if list(counts.values()) == [6, 2, 1, 2] else "CHANGED")
PYTHON
