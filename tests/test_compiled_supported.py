"""Which worlds and schemes the compiled search leaves to the readable one, and why."""

from __future__ import annotations

from typing import Any

import pytest

from pasidlab.explore.compiled.supported import unsupported
from pasidlab.explore.world import World
from pasidlab.schemes import Mainline, Scheme

SMMU: dict[str, Any] = {"name": "smmu0", "max_pasids": 4}
DEVICE: dict[str, Any] = {"name": "d", "iommu": "smmu0", "pasid_bits": 2}
OTHER_MODE = {"name": "smmu1", "max_pasids": 4, "ops": "other_driver"}


class Users(Mainline):
    name = "users"


def world(device: dict[str, Any] | None = None, **more: Any) -> World:
    devices = [DEVICE | (device or {})]
    return World.from_dict(
        {"actions": ["bind", "submit", "forge"], "iommu": [SMMU], "device": devices, "process": [{"name": "p"}]} | more
    )


@pytest.mark.parametrize(
    ("given", "scheme", "reason"),
    [
        (world(), Users, "scheme users has no compiled form"),
        (world(options={"quota_user": 1}), Mainline, "option quota_user"),
        (world(options={"min_sva_bits": 3}), Mainline, "option min_sva_bits"),
        (world(iommu=[SMMU, OTHER_MODE]), Mainline, "IOMMUs of different drivers"),
        (world(iommu=[SMMU | {"ops": "amd-vi"}]), Mainline, "iommu.ops = 'amd-vi'"),
        (world(iommu=[SMMU | {"sva": False}]), Mainline, "iommu smmu0 cannot share page tables"),
        (world({"kind": "dsa"}), Mainline, "a device of kind dsa"),
        (world({"submit": "enqcmd"}, cpu={"arch": "arm64"}), Mainline, "a device that takes enqcmd on arm64, d"),
        (world(kernel="v6.12", cpu={"arch": "x86"}), Mainline, "kernel v6.12 refuses SVA on x86"),
        (world(switches={"pasid_freed_at_mmput": True}), Mainline, "switch pasid_freed_at_mmput"),
        (world(cpu={"arch": "arm64", "ls64": 0}), Mainline, "posted stores that the CPU does not have"),
        (world(process=[{"name": "p", "count": 9}]), Mainline, "9 processes, more than 6"),
    ],
)
def test_the_first_thing_that_has_no_compiled_form_is_named(given: World, scheme: type[Scheme], reason: str) -> None:
    assert unsupported(given, scheme) == reason


def test_a_kernel_that_changes_no_transition_is_taken() -> None:
    assert unsupported(world(kernel="v6.19"), Mainline) is None
