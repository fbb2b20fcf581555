"""The record of a world under a scheme, with what only the machine itself can tell."""

from __future__ import annotations

from pasidlab.explore.compiled.layout import SCHEMES, Records, world_record
from pasidlab.explore.world import World
from pasidlab.machine import Machine
from pasidlab.schemes import Scheme


def record_of(world: World, scheme: type[Scheme]) -> Records:
    """Return the record, alone in its array, of a world that is supported under a scheme."""
    made, rules = world_record(world), scheme(world.options)
    machine = Machine(world.machine, rules)
    devices = [endpoint.dev for endpoint in machine.endpoints.values()]
    made["scheme"] = SCHEMES.index(scheme.name)
    made["own"][0, : len(devices)] = [rules.has_own_space(dev) for dev in devices]
    made["enqcmd_like"] = machine.kernel.enqcmd_like
    return made
