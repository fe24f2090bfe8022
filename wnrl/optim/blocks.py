"""What moves together, in few tensors.

An elementwise optimizer takes the same step on one long tensor as on its parts, in one go.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from wnrl.optim.pairs import Pair
from wnrl.optim.stacks import Stack, by_row_length

Kind = Literal["v", "g", "plain"]
State = dict[str, Any]
TOGETHER: tuple[set[torch.layout | None], ...] = ({None}, {torch.strided})
"""Layouts of gradients with which the parameters of a block rest, or move, together."""


class Part(NamedTuple):
    """Some numbers of a lane: v or g of a pair, or a plain parameter itself."""

    owner: Pair | Tensor
    kind: Kind

    def values(self) -> Tensor:
        """The numbers, in the shape that their owner has them in."""
        if isinstance(self.owner, Pair):
            return self.owner.v if self.kind == "v" else self.owner.g
        return self.owner.detach()

    def state(self, states: dict[Tensor, State]) -> State:
        """What the base optimizer keeps for them; ``states`` has that of each parameter."""
        if isinstance(self.owner, Pair):
            return states[self.owner.w].get(f"{self.kind}_state", {})
        return states.get(self.owner, {})

    def set_state(self, states: dict[Tensor, State], state: State) -> None:
        """The opposite of ``state``."""
        if isinstance(self.owner, Pair):
            states[self.owner.w][f"{self.kind}_state"] = state
        elif state:
            states[self.owner] = state


class Lane:
    """A tensor that the base optimizer steps on, made of parts that it treats alike.

    Attributes:
        values: all numbers in a row.
        regions: those of each kind.
    """

    def __init__(self, parts: dict[Kind, list[Part]]) -> None:
        self.parts = [*chain(*parts.values())]
        self.sizes = [part.values().numel() for part in self.parts]
        self.values = torch.cat([part.values().flatten() for part in self.parts])
        sizes = [sum(part.values().numel() for part in of_kind) for of_kind in parts.values()]
        self.regions = dict(zip(parts, self.values.split(sizes), strict=True))

    def give(self, gradients: dict[Kind, list[Tensor]]) -> None:
        """Puts the gradients of the parts, by kind, into that of the whole."""
        parts = [part for kind in self.regions for part in gradients[kind]]
        # one call, where ``torch.cat`` needs a flat view of each part first
        self.values.grad = torch._C._nn.flatten_dense_tensors(parts)

    def load(self, states: dict[Tensor, State], inner: dict[Tensor, State], counters: bool) -> None:
        """Puts together what the base optimizer keeps for the parts.

        Args:
            states: of each parameter; those of the parts differ in no counter.
            inner: the base optimizer's own, by tensor.
            counters: whether they have to be on the device of the values, too.
        """
        owned = [part.state(states) for part in self.parts]
        device = self.values.device
        joined = inner[self.values] = dict(owned[0])
        for key, first in owned[0].items():
            if isinstance(first, Tensor) and first.dim():
                joined[key] = torch.cat([own[key].flatten().to(device) for own in owned])
            elif isinstance(first, Tensor) and counters:
                joined[key] = first.to(device)

    def show(self, states: dict[Tensor, State], inner: dict[Tensor, State]) -> None:
        """The opposite of ``load``: gives each part its share, copied."""
        shares: list[State] = [{} for _ in self.parts]
        for key, value in inner.get(self.values, {}).items():
            if isinstance(value, Tensor) and value.dim():
                pieces = value.split(self.sizes)
                for share, piece, part in zip(shares, pieces, self.parts, strict=True):
                    share[key] = piece.view(part.values().shape).clone()
            else:
                for share in shares:
                    share[key] = value.clone() if isinstance(value, Tensor) else value
        for part, share in zip(self.parts, shares, strict=True):
            part.set_state(states, share)


class Block:
    """Parameters that get their gradients at the same steps, in as few lanes as can be.

    Args:
        pairs: weights, of one type and on one device.
        plain: parameters with one axis, of that type and on that device, which are stepped on as
            they are.
        joint: whether the base optimizer treats v, g and plain parameters alike.
    """

    def __init__(self, pairs: list[Pair], plain: list[Tensor], joint: bool) -> None:
        self.pairs, self.plain, self.joint = pairs, plain, joint
        self._members = [*(pair.w for pair in pairs), *plain]
        small, large = by_row_length(pairs)
        parts: dict[Kind, list[Part]] = {
            "v": [Part(pair, "v") for pair in chain(*small)],
            "g": [Part(pair, "g") for pair in chain(*small, large)],
            "plain": [Part(w, "plain") for w in plain],
        }
        self._long = [Lane(parts)] if joint else [Lane({k: p}) for k, p in parts.items() if p]
        self._large = [Lane({"v": [Part(pair, "v")]}) for pair in large]
        self._lanes = [*self._long, *self._large]
        regions = dict.fromkeys(parts, torch.empty(0))
        for lane in self._long:
            regions |= lane.regions
        self._plain_values = regions["plain"]
        self._plain_parts = regions["plain"].split([len(w) for w in plain])

        stacks = [*small, *([pair] for pair in large)]
        vs = regions["v"].split([sum(pair.v.numel() for pair in stack) for stack in small])
        gs = regions["g"].split([sum(len(pair.v) for pair in stack) for stack in stacks])
        self._stacks = [
            Stack(stack, v.view(len(g), -1), g.view(-1, 1))
            for stack, v, g in zip(
                stacks, [*vs, *(lane.values for lane in self._large)], gs, strict=True
            )
        ]

    def lanes(self) -> Iterator[tuple[Kind, Tensor]]:
        """What the base optimizer steps on, and with whose options."""
        for lane in self._lanes:
            yield "plain" if self.joint else next(iter(lane.regions)), lane.values

    def load(self, states: dict[Tensor, State], inner: dict[Tensor, State], counters: bool) -> None:
        """Hands the state of the parameters to the base optimizer, as ``Lane.load`` does."""
        for lane in self._lanes:
            lane.load(states, inner, counters)
        for pair in self.pairs:
            states[pair.w] = {"v": pair.v, "g": pair.g}
        for w in self.plain:
            states.pop(w, None)

    def show(self, states: dict[Tensor, State], inner: dict[Tensor, State]) -> None:
        """Copies the state of the base optimizer into those of the parameters."""
        for lane in self._lanes:
            lane.show(states, inner)

    def unload(self, states: dict[Tensor, State], inner: dict[Tensor, State]) -> None:
        """The opposite of ``load``."""
        self.show(states, inner)
        for lane in self._lanes:
            inner.pop(lane.values, None)

    def layouts(self) -> set[torch.layout | None]:
        """Of the gradients; None for a parameter that has none."""
        return {_layout(w) for w in self._members}

    def by_layout(self) -> Iterator[tuple[torch.layout | None, list[Pair], list[Tensor]]]:
        """What can stay together: each layout, and the pairs and plain parameters that have it."""
        for layout in dict.fromkeys(map(_layout, self._members)):
            pairs = [pair for pair in self.pairs if _layout(pair.w) is layout]
            yield layout, pairs, [w for w in self.plain if _layout(w) is layout]

    def rests(self) -> bool:
        """Whether there are no gradients, where ``layouts`` has one element."""
        return self._members[0].grad is None

    def receive(self) -> None:
        """Follows what others have written, and gives the lanes the gradients of v, g and so on."""
        of_v, of_g = [], []
        for stack in self._stacks:
            v_grad, g_grad = stack.gradients()
            of_v.append(v_grad)
            of_g.append(g_grad)
        n_small = len(of_v) - len(self._large)
        of_plain = [w.grad for w in self.plain if w.grad is not None]
        for lane in self._long:
            lane.give({"v": of_v[:n_small], "g": of_g, "plain": of_plain})
        for lane, v_grad in zip(self._large, of_v[n_small:], strict=True):
            lane.values.grad = v_grad.view(-1)
        if self.plain:
            torch.cat(self.plain, out=self._plain_values)

    def write(self) -> None:
        """Writes w = g v/‖v‖ and the plain parameters."""
        targets, values = [*self.plain], [*self._plain_parts]
        for stack in self._stacks:
            of_stack = stack.write()
            targets += of_stack[0]
            values += of_stack[1]
        if targets:
            torch._foreach_copy_(targets, values)
        for pair in self.pairs:
            pair.mark_as_written()

    def drop_gradients(self) -> None:
        """Frees those of the lanes; those of the parameters stay with their owner."""
        for lane in self._lanes:
            lane.values.grad = None

    def follow(self) -> None:
        """Lets v and g follow what others have written, seen by torch or not."""
        for stack in self._stacks:
            stack.follow(stack.pairs)


def _layout(w: Tensor) -> torch.layout | None:
    return None if w.grad is None else w.grad.layout


def separated(
    pairs: Sequence[Pair], plain: Sequence[Tensor], states: dict[Tensor, State]
) -> list[tuple[list[Pair], list[Tensor]]]:
    """What can be a block: of one type, on one device, and at one point of its training."""
    found: list[tuple[Any, list[Pair], list[Tensor]]] = []

    def alike(values: Tensor, state: State) -> tuple[list[Pair], list[Tensor]]:
        counters = {k: v for k, v in state.items() if not (isinstance(v, Tensor) and v.dim())}
        key = (values.device, values.dtype, state.keys(), counters)
        for known, own_pairs, own_plain in found:
            if known == key:
                return own_pairs, own_plain
        found.append((key, [], []))
        return found[-1][1], found[-1][2]

    for pair in pairs:
        alike(pair.v, states[pair.w].get("v_state", {}))[0].append(pair)
    for w in plain:
        alike(w, states.get(w, {}))[1].append(w)
    return [(own_pairs, own_plain) for _, own_pairs, own_plain in found]
