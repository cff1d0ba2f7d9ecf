#!/usr/bin/env python3
"""Golden file of the safetensors writer test: spec/golden/reference.safetensors.

    python3 -m venv V && V/bin/pip install safetensors==0.8.0
    V/bin/python spec/support/gen_safetensors.py

Written by the reference implementation (PyPI package safetensors) from the tensors of
test_safetensors_write.c; byte i of tensor number t is (7 i + t) mod 256.
"""
import ctypes
import pathlib

import safetensors

TENSORS = [  # name, dtype, shape, bytes: the order test_safetensors_write.c declares them in
    ("z", "float8_e4m3fn", [3, 5], 15),
    ("model.norm.weight", "bfloat16", [8], 16),
    ("b", "float32", [], 4),
    ("a", "float32", [2, 1], 8),
    ('quote"and\\back', "float16", [1], 2),
    ("tab\tand\u00e9", "uint8", [3], 3),
    ("empty", "float32", [0, 4], 0),
    ("wide \x01\x1f", "int64", [1, 2], 16),
    ("i", "int32", [1], 4),
    ("bool", "bool", [1], 1),
]


def main():
    tensors, keep = {}, []
    for t, (name, dtype, shape, size) in enumerate(TENSORS):
        data = bytes((7 * i + t) % 256 for i in range(size))
        keep.append(ctypes.create_string_buffer(data, max(size, 1)))
        address = ctypes.addressof(keep[-1])
        tensors[name] = safetensors.TensorSpec(
            dtype=dtype, shape=shape, data_ptr=address, data_len=size
        )
    golden = pathlib.Path(__file__).resolve().parent.parent / "golden"
    (golden / "reference.safetensors").write_bytes(
        safetensors.serialize(tensors, {"format": "pt"})
    )


main()
