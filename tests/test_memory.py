"""Fresh memory for results."""

import pytest

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")

from shrinkstats.adapters.torch import memory  # noqa: E402


@pytest.mark.parametrize("advice", [True, False], ids=["with madvise", "without"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [8, 64])  # a few KB, and above memory.LARGE
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_is_empty_like(advice, dtype, size, order, monkeypatch):
    if not advice:
        monkeypatch.setattr(memory, "_madvise", lambda: None)
    x = torch.randn(size, 8, size, size).contiguous(memory_format=order)
    assert (4 * x.numel() > memory.LARGE) == (size == 64)
    y = memory.empty_like(x, dtype)
    assert (y.dtype, y.shape, y.stride()) == (dtype, x.shape, x.stride())
    assert torch.equal(y.copy_(x), x.to(dtype))


def test_large_results_ask_for_large_pages_within_their_own_memory(monkeypatch):
    asked = []
    monkeypatch.setattr(memory, "_madvise", lambda: lambda *arguments: asked.append(arguments))
    memory.empty_like(torch.empty(memory.LARGE // 4 - 1), torch.float32)
    assert not asked
    y = memory.empty_like(torch.empty(memory.LARGE), torch.float32)
    ((start, length, _),) = asked
    assert y.data_ptr() <= start < start + length <= y.data_ptr() + y.nbytes
