"""The kernels compile for GPUs that are not there, to the instructions they are made for.

In a process of its own: where no GPU is, those of the other tests are interpreted.
"""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")
pytestmark = pytest.mark.slow

DEFINITIONS = """
from importlib import import_module

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from dgq.ops.triton import epilogue, gated, matmul, padding, tma, tma_tiles

quantize = import_module("dgq.ops.triton.quantize")
unpack = import_module("dgq.ops.triton.unpack")
unpack_all = import_module("dgq.ops.triton.unpack_all")

WINDOW = dict(KERNEL_H=3, KERNEL_W=3, STRIDE_H=1, STRIDE_W=1, PAD_H=0, PAD_W=0,
              DILATION_H=1, DILATION_W=1, TILES_AT_ONCE=8, PER_ROW=True)
TABLES = dict(weight_scale_ptr="*fp32", scale_ptr="*fp32", bias_ptr="*fp32", step_ptr="*i64")
BYTES = dict(x_ptr="*i8", weight_ptr="*i8", out_ptr="*bf16", **TABLES)
NIBBLES = BYTES | dict(weight_ptr="*u8", zero_ptr="*i8", factor_ptr="*i8", shift_ptr="*u8")
ALONE = dict(x_ptr="*bf16", weight_ptr="*u8", zero_ptr="*i8", shift_ptr="*u8", out_ptr="*bf16",
             weight_scale_ptr="*fp32", bias_ptr="*fp32")


def compiled(kernel, pointers, capability, warps=4, stages=3, **constants):
    names, signature, values, aligned = kernel.arg_names, {}, {}, {}
    for place, name in enumerate(names):
        if name in pointers:
            signature[name], aligned[(place,)] = pointers[name], [["tt.divisibility", 16]]
        elif name in constants or name.endswith(("_ptr", "_desc")):
            signature[name], values[(place,)] = "constexpr", constants.get(name)
        else:
            signature[name] = "i32"
            if "channels" in name or name in ("depth", "half", "n_columns"):
                aligned[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, values, aligned)
    options = {"num_warps": warps, "num_stages": stages}
    return triton.compile(source, GPUTarget("cuda", capability, 32), options=options)


def code_for(*arguments, **constants):  # in PTX
    return compiled(*arguments, **constants).asm["ptx"]
"""

SCRIPT = """
for capability, name in ((90, "wgmma"), (80, "mma.sync")):
    for pointers, sums, kind in ((BYTES, tl.int32, "s8.s8"), (NIBBLES, tl.int32, "s8.s8"),
                                 (ALONE, tl.float32, "bf16.bf16")):
        for parts in (1, 2):
            own = pointers if parts == 1 else pointers | {"out_ptr": "*i32"}
            if parts == 2 and pointers is ALONE:
                own = pointers | {"out_ptr": "*fp32"}
            window = WINDOW | (dict(PER_ROW=False, PAD_H=1, PAD_W=1) if pointers is ALONE else {})
            if parts == 2 and capability == 80:
                continue
            ptx = code_for(matmul.product, own, capability, **window, GROUP_SIZE=64,
                           SHARED=parts > 1,
                           SUMS=sums, BLOCK_M=64, BLOCK_N=64, BLOCK_K=64)
            lines = [line for line in ptx.splitlines() if name in line and "mma" in line]
            assert any(kind in line for line in lines), (capability, kind, parts)

TABLES.pop("weight_scale_ptr")
ptx = code_for(quantize._quantize,
               dict(x_ptr="*bf16", multiple_ptr="*fp32", zero_ptr="*i16", factor_ptr="*fp32",
                    scale_ptr="*fp32", step_ptr="*i64", out_ptr="*i8"), 90,
               LARGEST=255.0, OFFSET=128, PAD_H=1, PAD_W=1, PER_STEP=True, PER_ROW=True,
               BLOCK_P=quantize.PIXELS, BLOCK_C=quantize.CHANNELS)
assert "div.rn.f32" in ptx
for steps in (dict(PER_STEP=True, PER_ROW=True), dict(PER_STEP=True, PER_ROW=False)):
    code_for(padding._pad, dict(codes_ptr="*i8", zero_ptr="*i16", factor_ptr="*fp32",
                                step_ptr="*i64", out_ptr="*i8"), 90,
             LARGEST=127.0, OFFSET=0, PAD_H=1, PAD_W=1, **steps,
             BLOCK_P=padding.PIXELS, BLOCK_C=padding.CHANNELS)
for out, scale in (("*i8", {}), ("*bf16", {"scale_ptr": "*fp32"})):
    code_for(unpack._expand, dict(codes_ptr="*u8", zero_ptr="*i8", factor_ptr="*i8",
                                  shift_ptr="*u8", out_ptr=out, **scale), 90,
             TAPS=9, GROUP_SIZE=64, BLOCK_N=unpack.ROWS, BLOCK_K=unpack.BYTES)
for factors in ({"factor_ptr": "*i32"}, {}):
    ptx = code_for(unpack_all._expand_all,
                   dict(codes_ptr="*i32", zero_ptr="*i8", shift_ptr="*u8", layers_ptr="*i32",
                        programs_ptr="*i32", out_ptr="*i32", **factors), 90, unpack_all.WARPS,
                   GROUP_SIZE=64, BLOCK_N=unpack_all.ROWS, BLOCK_K=unpack_all.BYTES // 4,
                   TIMES=unpack_all.TIMES)
    # 16 bytes at a time, and threads exchange nothing.
    assert ptx.count("ld.global.v4.b32") == 1 + len(factors)
    assert ptx.count("st.global") == ptx.count("st.global.v4.b32") == 1
    assert "shared" not in ptx and "bar.sync" not in ptx and ".local" not in ptx
for per_row in (True, False):
    ptx = code_for(epilogue.add_parts,
                   dict(parts_ptr="*i32", out_ptr="*bf16", weight_scale_ptr="*fp32", **TABLES), 90,
                   PER_ROW=per_row, PARTS=4, BLOCK_M=epilogue.ROWS, BLOCK_N=epilogue.COLUMNS)
    assert ptx.count("ld.global.v4.b32") >= 4  # of each part four sums at a time
for tile in tma_tiles.TILES:
    samples, height, width = tma.box_of(tile.rows, 16, 32, 32)
    sums = "bf16" if tile.parts == 1 else "i32"
    boxes = dict(
        x_desc=f"tensordesc<i8[{samples},{height},1,{width},{tile.inputs}]>",
        weight_desc=f"tensordesc<i8[{tile.columns},{tile.inputs}]>",
        out_desc=f"tensordesc<{sums}[1,{samples},{height},{width},{tile.columns}]>")
    tables = dict(weight_scale_ptr="*fp32", scale_ptr="*fp32", bias_ptr="*fp32", step_ptr="*i64")
    residual = dict(residual_desc=boxes["out_desc"])
    for adds in ({}, residual) if tile.parts == 1 else ({},):
        ptx = code_for(tma.product_of_boxes, boxes | tables | adds, 90, tile.warps, tile.stages,
                       KERNEL_H=3, KERNEL_W=3, STRIDE=1, PER_SAMPLE=False, PARTS=tile.parts,
                       SAMPLES=samples, HEIGHT=height, WIDTH=width, BLOCK_N=tile.columns,
                       BLOCK_K=tile.inputs, TILES_AT_ONCE=8)
        assert "wgmma.mma_async" in ptx and "s32.s8.s8" in ptx, tile
        assert "cp.async.bulk.tensor.5d" in ptx, tile
        assert "st.local" not in ptx, tile
        # Both operands are read from shared memory; a residual is loaded into registers.
        assert adds or "ldmatrix" not in ptx, tile
tile = gated.TILE
boxes = dict(x_desc=f"tensordesc<i8[{tile.rows},{tile.inputs}]>",
             weight_desc=f"tensordesc<i8[{tile.columns},{tile.inputs}]>",
             out_desc=f"tensordesc<i8[{tile.rows},{tile.columns}]>")
tables = dict(weight_scale_ptr="*fp32", scale_ptr="*fp32", bias_ptr="*fp32", step_ptr="*i64",
              next_scale_ptr="*fp32", multiple_ptr="*fp32", zero_ptr="*i16", factor_ptr="*fp32")
ptx = code_for(gated.gated_product, boxes | tables, 90, tile.warps, tile.stages,
               LARGEST=255.0, OFFSET=128, BLOCK_M=tile.rows, BLOCK_N=tile.columns,
               BLOCK_K=tile.inputs, TILES_AT_ONCE=8)
assert "s32.s8.s8" in ptx and "ldmatrix" not in ptx
assert "st.local" not in ptx  # no register is spilled
print("all compile")
"""

SMALLER_GPUS = """
from dgq.ops.triton.products import EXPANDED_FROM
from dgq.ops.triton.tiles import CANDIDATES, configurations, worth_trying

SHARED_MEMORY = 99 * 1024  # of a block, on capabilities 8.6, 8.9 and 12.0

for capability in (86, 120):
    for pointers, sums in ((BYTES, tl.int32), (NIBBLES, tl.int32), (ALONE, tl.float32)):
        alone = pointers is ALONE
        window = WINDOW | (dict(PER_ROW=False, PAD_H=1, PAD_W=1) if alone else {})
        fitting = []
        for tile, config in zip(CANDIDATES, configurations(), strict=True):
            made = compiled(matmul.product, pointers, capability, tile.warps, tile.stages, **window,
                            GROUP_SIZE=64, SHARED=False, SUMS=sums, BLOCK_M=tile.rows,
                            BLOCK_N=tile.columns, BLOCK_K=tile.inputs)
            assert "mma.sync" in made.asm["ptx"]
            if made.metadata.shared <= SHARED_MEMORY:
                fitting.append(str(config))
        assert alone or len(fitting) >= 5
        for rows in (1, 64, 1023, 1024, 4095, 4096, 65536):
            if alone and rows >= EXPANDED_FROM:
                continue  # the weight is expanded, and torch multiplies it
            for columns in (4, 64, 320, 10240):
                sizes = dict(n_rows=rows, out_channels=columns)
                tried = worth_trying(configurations(), sizes)
                assert any(str(config) in fitting for config in tried), (capability, sizes)
print("all compile")
"""


def run(script: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", DEFINITIONS + script]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.strip().endswith("all compile")


def test_products_use_tensor_cores_and_division_is_exact() -> None:
    run(SCRIPT)


def test_some_tile_fits_into_the_shared_memory_of_smaller_gpus() -> None:
    run(SMALLER_GPUS)
