"""Measures one row in its own process: loads it, calls it, and reports the cost."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.inference.device import GIB, is_gpu, resident_gib
from benchmarks.inference.kernels import by_kind, kernels_of
from benchmarks.inference.machine import busy_seconds
from benchmarks.inference.onnx_runtime import OnnxUNet
from benchmarks.inference.peers import EXPORTED, MODEL, OpenVINOUNet, tensors_of
from benchmarks.inference.request import Request
from benchmarks.inference.rows import ROWS, Row
from benchmarks.inference.subjects import Call, Subject
from benchmarks.inference.traffic import counted_traffic
from benchmarks.inference.turns import Turns
from dgq.devices import forget_peak, peak_bytes, wait
from dgq.math.reconstruction import decibels, noise_and_signal
from dgq.storage.checkpoint import find_model, load_quantized_unet
from dgq.unet.arguments import converted
from dgq.unet.call_rows import to_device

ALWAYS_ALONE = Turns(None)

MIN_SECONDS = 1.0
"""Small models are called until their timed calls add up to this many seconds."""


@dataclass(frozen=True)
class Loaded:
    """A UNet that is ready to be called.

    Args:
        unet: to call.
        n_bytes: bytes of its file.
        execution: description of what runs, in one line.
        compile_s: seconds to compile for the first batch size, if that happens while loading.
    """

    unet: Callable[..., Any]
    n_bytes: int
    execution: str
    compile_s: float = 0.0


@torch.no_grad()
def measure(subject: Subject, request: Request) -> dict[str, Any]:
    """Figures of one row for all batch sizes, ready for JSON."""
    torch.set_num_threads(subject.options.threads)
    row, device = ROWS[request.row], subject.options.device
    turns = Turns.of(subject.options.turns)
    started = time.perf_counter()
    loaded = load(subject, row, request)
    load_s = time.perf_counter() - started
    gc.collect()
    figures: dict[str, Any] = {
        "load_s": load_s,
        "loading_peak_gib": peak_bytes(device) / GIB,
        "resident_gib": resident_gib(device),
        "file_mb": loaded.n_bytes / 1e6,
        "execution": loaded.execution,
        "batches": {},
    }
    compile_s = loaded.compile_s
    for batch in request.batches:
        call = to_device(prepared(row, subject.call(batch)), device)

        def run(call: Call = call) -> None:
            loaded.unet(**call)
            wait(device)

        counted = counted_traffic() if row.compiled else nullcontext(lambda: None)
        with counted as traffic_gb:
            timed = timings(run, subject.options.calls, device, turns)
        timed["traffic_gb"] = traffic_gb()
        timed["compile_s"] = compile_s + max(0.0, timed.pop("first_s") - min(timed["wall_s"]))
        figures["batches"][str(batch)] = timed
        compile_s = 0.0
    if request.quality:
        figures["sqnr_db"] = pooled_sqnr_db(row, loaded.unet, subject)
    return figures


def load(subject: Subject, row: Row, request: Request) -> Loaded:
    """The UNet of a row; OpenVINO compiles it for the first batch size, torch when it is called."""
    if row.engine == "stock":
        return _load_stock(subject, row)
    if row.engine == "quantized":
        return _load_quantized(subject, row, request.ckpt)
    if row.engine == "torchao":
        return _load_torchao(subject, row)
    if row.engine == "onnx":
        return _load_onnx(subject, row, request.ckpt)
    return _load_openvino(subject, row, request)


def _load_stock(subject: Subject, row: Row) -> Loaded:
    unet = _stock(subject, row)
    words = f"torch {unet.dtype}".replace("torch.", "")
    return Loaded(_compiled(unet, row, subject), _bytes(unet), words)


def _stock(subject: Subject, row: Row) -> Any:
    unet = subject.stock().requires_grad_(False)
    if row.bfloat16:
        unet.bfloat16()
    return unet.to(device=subject.options.device, memory_format=torch.channels_last)


def _bytes(unet: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in unet.parameters())


def _load_torchao(subject: Subject, row: Row) -> Loaded:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    unet = _stock(subject, row)
    # Torch multiplies int8 only with more than 16 rows; the timestep's embedding has fewer.
    config = Int8DynamicActivationInt8WeightConfig()
    quantize_(unet, config, lambda m, name: isinstance(m, nn.Linear) and "transformer" in name)
    return Loaded(_compiled(unet, row, subject), _bytes(unet), "torchao, linear layers alone")


def _load_quantized(subject: Subject, row: Row, ckpt: str) -> Loaded:
    part = subject.part("weight-only", ckpt) if "weight-only" in row.parts else None
    folder = part.folder if part else subject.quantized(ckpt)
    dtype = getattr(torch, row.precision) if row.precision else None
    unet = load_quantized_unet(folder, row.execution, dtype, subject.options.device)
    size = find_model(folder).size()
    return Loaded(_compiled(unet, row, subject), size, str(unet.execution))


def _load_onnx(subject: Subject, row: Row, ckpt: str) -> Loaded:
    part = subject.part(row.parts[-1], ckpt)
    assert part is not None
    unet = OnnxUNet(part.folder, subject.options.threads)
    return Loaded(unet, unet.n_bytes, f"ONNX Runtime, {unet.products}")


def _load_openvino(subject: Subject, row: Row, request: Request) -> Loaded:
    part = subject.part(row.parts[-1], request.ckpt)
    assert part is not None
    file = part.folder / (EXPORTED if row.of_ckpt else MODEL)
    unet = OpenVINOUNet(file, subject.options.threads, row.precision)
    call = subject.call(request.batches[0])
    shapes = [list(tensor.shape) for tensor in tensors_of(call).values()]
    compile_s = unet.compile_(shapes)
    return Loaded(unet, unet.n_bytes, f"OpenVINO, {unet.precision}", compile_s)


def _compiled(unet: nn.Module, row: Row, subject: Subject) -> Callable[..., Any]:
    return compiled(unet, subject.options.device) if row.compiled else unet


def compiled(unet: nn.Module, device: str) -> Callable[..., Any]:
    """Compile for each batch size separately, because dynamic shapes give slower code."""
    # On a GPU with graphs, without which launching takes longer than computing.
    mode = "reduce-overhead" if is_gpu(device) else None
    unet.compile(fullgraph=True, dynamic=False, mode=mode)
    return unet


def prepared(row: Row, call: Call) -> Call:
    """A call in the layout and dtype that suit a row best."""
    if row.engine in ("openvino", "onnx"):
        return call
    call = call | {"sample": call["sample"].to(memory_format=torch.channels_last)}
    if not row.bfloat16:
        return call
    exact: Call = {"timestep": call["timestep"]}  # bfloat16 rounds integers beyond 256
    rounded: Call = converted(call, torch.bfloat16)
    return rounded | exact


def timings(
    run: Callable[[], object], calls: int, device: str = "cpu", turns: Turns = ALWAYS_ALONE
) -> dict[str, Any]:
    """Seconds of a first call and of timed calls, and the peak memory meanwhile.

    Args:
        run: a call.
        calls: least number of timed calls.
        device: device whose memory is counted.
        turns: turns of this process and others; the first call, which compiles, does not wait.
    """
    gc.collect()
    forget_peak(device)
    first_s, _, _ = _stopwatch(run)
    with turns.alone():
        run()  # again, since a GPU records its graph in the second call
        wall, cpu, others = map(list, zip(*_many(run, calls), strict=True))
        peak = peak_bytes(device) / GIB
        kernels = kernels_of(run) if is_gpu(device) else []
    figures = {"first_s": first_s, "wall_s": wall, "cpu_s": cpu, "others_cpu_s": others}
    of_device = {"kernels": by_kind(kernels), "each_kernel": [asdict(each) for each in kernels]}
    return figures | {"peak_gib": peak} | of_device


def _many(run: Callable[[], object], calls: int) -> Iterator[tuple[float, float, float]]:
    total, n = 0.0, 0
    while n < calls or total < MIN_SECONDS:
        seconds = _stopwatch(run)
        yield seconds
        total, n = total + seconds[0], n + 1


def _stopwatch(run: Callable[[], object]) -> tuple[float, float, float]:
    """Wall seconds, and CPU seconds of this process and of all others."""
    wall, cpu, busy = time.perf_counter(), time.process_time(), busy_seconds()
    run()
    cpu = time.process_time() - cpu
    return time.perf_counter() - wall, cpu, max(0.0, busy_seconds() - busy - cpu)


def pooled_sqnr_db(row: Row, unet: Callable[..., Any], subject: Subject) -> float | None:
    """SQNR of the UNet's output in dB, pooled over all held-out calls; None if nothing differs."""
    sums, device = torch.zeros(2, dtype=torch.float64), subject.options.device
    for call, reference in subject.held_out():
        output: Tensor = unet(**to_device(prepared(row, call), device))[0]
        sums += noise_and_signal(output.cpu(), reference)
    noise, signal = sums.tolist()
    return decibels(noise, signal) if noise > 0 else None
