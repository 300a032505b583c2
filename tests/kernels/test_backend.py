"""What the backend switch answers where Triton is missing, broken, or cannot compute a kernel."""

from __future__ import annotations

import logging
import sys
import types

import pytest
import torch

from fulgurite.kernels import backend, use_backend


class OnAGPU:
    """As much of a CUDA tensor as the switch looks at, for machines without one."""

    device = torch.device("cuda", 0)
    dtype = torch.float32
    shape = (4, 4)


@pytest.fixture
def fresh(monkeypatch):
    """Nothing loaded yet, no notice given yet, a backend module of its own."""
    monkeypatch.setattr(backend, "_loaded", {})
    monkeypatch.setattr(backend, "_noticed", set())
    monkeypatch.setattr(backend, "_PROVEN", frozenset({"gated_lora_linear", "proximal_adamw_step_", "soft_threshold_"}))
    monkeypatch.setattr(backend, "_triton_modules", dict(backend._triton_modules))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def test_missing_triton_falls_back_with_one_notice(fresh, monkeypatch, caplog):
    monkeypatch.setattr(backend, "has_triton", lambda: False)
    with caplog.at_level(logging.WARNING):
        assert backend.resolve("gated_lora_linear", torch.ones(2)) is None
        assert not caplog.records
        for kernel in ("gated_lora_linear", "gated_lora_linear", "proximal_adamw_step_"):
            assert backend.resolve(kernel, OnAGPU()) is None
    assert len(caplog.records) == 1 and "triton is not installed" in caplog.text
    with pytest.raises(RuntimeError, match="package triton is not installed"):
        use_backend("triton")
    assert backend.current_backend() == "auto"


def test_auto_leaves_a_kernel_that_has_not_won_to_pytorch(fresh, monkeypatch):
    monkeypatch.setattr(backend, "_PROVEN", frozenset())
    assert backend.resolve("gated_lora_linear", OnAGPU()) is None


def test_auto_leaves_what_is_too_small_to_pytorch(fresh, monkeypatch):
    def kernel():
        """What Triton would compute."""

    modules = {"fulgurite.kernels.small": True, "fulgurite.kernels.large": False}
    for name, small in modules.items():
        module = types.ModuleType(name)
        module.soft_threshold_, module.refusal = kernel, lambda *_: None
        module.too_small = lambda *_, small=small: small
        monkeypatch.setitem(sys.modules, name, module)
        backend.register_triton("soft_threshold_", name)
        assert backend.resolve("soft_threshold_", OnAGPU()) is (None if small else kernel)
        with monkeypatch.context() as asked:
            asked.setattr(backend, "_setting", "triton")
            assert backend.resolve("soft_threshold_", OnAGPU()) is kernel


def test_triton_that_does_not_import_falls_back_with_its_reason(fresh, monkeypatch, caplog):
    monkeypatch.setattr(backend, "has_triton", lambda: True)
    backend.register_triton("gated_lora_linear", "fulgurite.kernels.no_such_module")
    with caplog.at_level(logging.WARNING):
        assert backend.resolve("gated_lora_linear", OnAGPU()) is None
    assert "no_such_module" in caplog.text
    monkeypatch.setattr(backend, "_setting", "triton")
    with pytest.raises(RuntimeError, match=r"gated_lora_linear: .* cannot be used .*no_such_module"):
        backend.resolve("gated_lora_linear", OnAGPU())


def test_kernel_without_a_triton_implementation_is_named(fresh, monkeypatch):
    assert backend.resolve("soft_threshold_", OnAGPU()) is None
    monkeypatch.setattr(backend, "_setting", "triton")
    with pytest.raises(RuntimeError, match=r"soft_threshold_: .*no Triton implementation .*gated_lora_linear"):
        backend.resolve("soft_threshold_", OnAGPU())


def test_registered_module_decides_what_it_refuses(fresh, monkeypatch, tmp_path):
    (tmp_path / "their_kernels.py").write_text(
        "def soft_threshold_(*a): return 'triton'\n"
        "def refusal(value): return 'value is too small; 4 rows are allowed' if value.shape[0] < 4 else None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    backend.register_triton("soft_threshold_", "their_kernels")
    monkeypatch.setattr(backend, "has_triton", lambda: True)
    assert backend.resolve("soft_threshold_", OnAGPU())() == "triton"
    small = OnAGPU()
    small.shape = (3,)
    assert backend.resolve("soft_threshold_", small) is None
    monkeypatch.setattr(backend, "_setting", "triton")
    with pytest.raises(RuntimeError, match="value is too small"):
        backend.resolve("soft_threshold_", small)
    with use_backend("torch"):
        assert backend.resolve("soft_threshold_", OnAGPU()) is None


@pytest.mark.parametrize(
    ("settings", "precision"),
    [
        ({}, "ieee"),
        ({"allow_tf32": True}, "tf32"),
        ({"fp32_precision": "tf32"}, "tf32"),
        ({"fp32_precision": "ieee"}, "ieee"),
    ],
    ids=str,
)
def test_float32_products_follow_pytorch_s_setting(settings, precision, monkeypatch):
    pytest.importorskip("triton")
    from fulgurite.kernels.low_rank import triton_launch

    class Matmul:
        pass

    matmul = Matmul()
    for name, value in {"fp32_precision": "tf32" if settings.get("allow_tf32") else "none", **settings}.items():
        setattr(matmul, name, value)
    monkeypatch.setattr(torch.backends.cuda, "matmul", matmul)
    monkeypatch.setattr(triton_launch, "INTERPRETED", False)
    monkeypatch.setattr(torch.version, "hip", None)
    assert triton_launch.precision(torch.float32) == precision
    assert triton_launch.precision(torch.bfloat16) == "ieee"
    del matmul.fp32_precision  # before torch 2.9 there was only the older setting
    matmul.allow_tf32 = precision == "tf32"
    assert triton_launch.precision(torch.float32) == precision
