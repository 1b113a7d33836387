"""Measurements: counts are exact, ratios are ratios, and the paper's real-time figure is arithmetic."""

import time

import numpy as np
import pytest
import torch

from ecgmoe import efficiency


def test_counted_operations_are_exact_and_more_work_takes_longer():
    a = torch.randn(256, 256)

    def once() -> torch.Tensor:
        return a @ a

    def eight_times() -> list[torch.Tensor]:
        return [a @ a for _ in range(8)]

    table = efficiency.measure({"once": once, "eight": eight_times}, n_records=4, rounds=9)
    assert table.loc["once", "gflop_per_record"] == pytest.approx(2 * 256**3 / 4 / 1e9)
    assert table.loc["eight", "gflop_per_record"] == pytest.approx(8 * table.loc["once", "gflop_per_record"])
    assert table.loc["once", "relative"] == 1
    assert table.loc["eight", "relative"] > 3
    assert (table["ms_per_record"] * table["records_per_s"]).tolist() == pytest.approx([1000, 1000])


def test_runs_of_different_size_are_compared_by_record():
    a = torch.randn(64, 64)
    runs = {"one": lambda: time.sleep(0.02) or a @ a, "four": lambda: time.sleep(0.02) or [a @ a for _ in range(4)]}
    table = efficiency.measure(runs, n_records=[1, 4], rounds=3)
    assert table["gflop_per_record"].tolist() == pytest.approx([2 * 64**3 / 1e9] * 2)
    assert table.loc["four", "relative"] < 0.6, "four in about the time of one"


def test_the_bound_is_above_what_a_tiny_product_reaches():
    a = torch.randn(16, 16)
    tiny = efficiency.measure({"tiny": lambda: a @ a}, n_records=1, rounds=9).iloc[0]
    assert efficiency.matmul_peak(size=512, rounds=3) > 2 * tiny["gflop_per_record"] * tiny["records_per_s"]


def test_real_time_is_seconds_of_recording_a_second():
    assert efficiency.times_real_time(14.7) == pytest.approx(147)
    assert efficiency.times_real_time(14.7, 5) == pytest.approx(73.5)


def test_threads_are_restored() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), efficiency.one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == before


def test_a_call_is_timed_whole() -> None:
    assert 0.02 <= efficiency.seconds(lambda: time.sleep(0.02)) < 2


def test_peak_memory_is_that_of_the_call_alone() -> None:
    """What this process holds, or what the call gave back in the end, neither hides nor adds anything."""
    held = np.ones(2**27)  # 1,024 MiB here, nothing there
    few, many = (efficiency.peak_memory(np.ones, mebibytes * 2**17) for mebibytes in (1, 200))
    assert many - few == pytest.approx(199, abs=8)
    assert few < held.nbytes / 2**20


def test_a_failing_call_says_why() -> None:
    with pytest.raises(RuntimeError, match="ones failed in its own process") as raised:
        efficiency.peak_memory(np.ones, "many")
    assert "TypeError" in str(raised.value)
