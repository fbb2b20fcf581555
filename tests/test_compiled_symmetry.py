from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.explore.compiled.layout import decode
from pasidlab.explore.state import OnDevice, State, canonical, device_orders
from pasidlab.explore.world import World
from tests.compiled_states import WORLDS, Packer, on_devices, states

SCHEMES = ("mainline", "rfc")


@dataclass(frozen=True)
class Setting:
    world: World
    scheme: str
    packer: Packer


SETTINGS = tuple(Setting(world, scheme, Packer(world, scheme, symmetry=True)) for world in WORLDS for scheme in SCHEMES)
settled = st.sampled_from(SETTINGS)


def renamed(draw: st.DrawFn, state: State, world: World) -> State:
    """The state with tasks, processes and devices exchanged within their classes."""
    order = draw(st.sampled_from(device_orders(world.classes.devices)))
    place = {old: new for new, old in enumerate(order)}
    processes = []
    for process in state.processes:
        steps, device, number = process.window
        processes.append(
            process._replace(
                tasks=tuple(draw(st.permutations(process.tasks))),
                order=tuple(place[device] for device in process.order),
                window=(steps, place[device - 1] + 1 if device else 0, number),
                on=tuple(process.on[old] for old in order),
            )
        )
    for kind in set(world.classes.processes):
        places = [index for index, one in enumerate(world.classes.processes) if one == kind]
        for index, process in zip(places, draw(st.permutations([processes[index] for index in places])), strict=True):
            processes[index] = process
    per_device = (tuple(row[old] for old in order) for row in (state.module, state.attached, state.armed))
    return State(tuple(processes), *per_device)


def changed(draw: st.DrawFn, state: State, world: World) -> State:
    """The state with what one process has on one device moved, exchanged or drawn anew."""
    index = draw(st.integers(0, len(world.processes) - 1))
    other = draw(st.integers(0, len(world.processes) - 1))
    device = draw(st.integers(0, len(world.devices) - 1))
    cells = [list(process.on) for process in state.processes]
    if draw(st.booleans()):
        cells[index][device], cells[other][device] = cells[other][device], cells[index][device]
    else:
        cells[index][device] = draw(on_devices(world.numbers))
    return state._replace(
        processes=tuple(one._replace(on=tuple(on)) for one, on in zip(state.processes, cells, strict=True))
    )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_states_that_differ_by_names_are_packed_alike(data: st.DataObject) -> None:
    setting = data.draw(settled)
    state = data.draw(states(setting.world, setting.scheme))
    other = renamed(data.draw, state, setting.world)
    assert setting.packer.pack(other) == setting.packer.pack(state)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_states_are_packed_alike_just_when_their_canonical_forms_are_equal(data: st.DataObject) -> None:
    setting = data.draw(settled)
    state = data.draw(states(setting.world, setting.scheme))
    other = renamed(data.draw, changed(data.draw, state, setting.world), setting.world)
    alike = canonical(state, setting.world.classes) == canonical(other, setting.world.classes)
    assert (setting.packer.pack(state) == setting.packer.pack(other)) == alike


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_representative_is_one_of_the_states_it_stands_for(data: st.DataObject) -> None:
    setting = data.draw(settled)
    state = data.draw(states(setting.world, setting.scheme))
    words = setting.packer.pack(state)
    representative = decode(setting.packer.unpack(words), setting.world)
    assert canonical(representative, setting.world.classes) == canonical(state, setting.world.classes)
    assert setting.packer.pack(representative) == words


def test_devices_are_told_apart_by_which_processes_share_them() -> None:
    """Two devices of two processes each are not one device of both: what each device holds is alike."""
    world, packer = WORLDS[2], SETTINGS[4].packer
    assert SETTINGS[4].world is world
    empty = decode(packer.unpack((0,) * packer.size), world)
    bound = OnDevice(opened=1, entry=2)

    def bonds(*pairs: tuple[int, int]) -> State:
        cells = [[bound if (process, device) in pairs else OnDevice() for device in range(4)] for process in range(3)]
        return empty._replace(
            processes=tuple(one._replace(on=tuple(on)) for one, on in zip(empty.processes, cells, strict=True))
        )

    ring = packer.pack(bonds((1, 0), (1, 1), (2, 2), (2, 3)))
    assert packer.pack(bonds((2, 0), (1, 1), (1, 2), (2, 3))) == ring
    assert packer.pack(bonds((1, 0), (2, 0), (1, 1), (2, 1))) != ring
    assert packer.pack(bonds((1, 0), (1, 1), (1, 2), (2, 3))) != ring


def test_without_symmetry_nothing_is_exchanged() -> None:
    world = WORLDS[0]
    plain = Packer(world, "mainline", symmetry=False)
    empty = decode(plain.unpack((0,) * plain.size), world)
    first, *rest = empty.processes
    one = empty._replace(processes=(first._replace(number=1), *rest))
    other = empty._replace(processes=(*rest, first._replace(number=1)))
    assert plain.pack(one) != plain.pack(other)
    assert SETTINGS[0].packer.pack(one) == SETTINGS[0].packer.pack(other)
