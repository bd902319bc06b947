# SPDX-License-Identifier: Apache-2.0
"""Several images of a START: the work for one, again for each, and in what order.

One behind the other, or two *in flight*: the work of a pair is cut in front of every LayerNorm, and
the pieces of both alternate, so that LayerNorm, softmax and drains of one image hide behind the
array working on the other. Each of the two has buffers of its own; scores, row shifts, parameters
and tables are shared, and the second image finds the parameters that the first one has loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from hwgen.graph.ops import LayerNorm
from hwgen.isa.instructions import (
    OFFSET_BITS,
    Engine,
    StationarySource,
)
from hwgen.program.lower.context import Lowering
from hwgen.program.schedule import Draft, Item

#: Fields that name words of the activation memory.
_WORDS = ("base", "source", "destination")
#: What both images of a pair use, and the first one loads.
_SHARED = ("LOAD_LAYERNORM", "LOAD_TABLE")


def repeat(low: Lowering, frames: int, in_flight: int) -> None:
    """Replace the items of one image by those of all.

    Images are loaded in pieces beside the attention of the one before (of the pair before), whose
    matmuls need no weights; the first ones whole. The last operation, a row of each image, is done
    for ``plan.together`` images at once: its weights are loaded once, and to load them
    into the array takes longer than one row does.

    Args:
        low: the compilation; every operation is lowered.
        frames: images.
        in_flight: 1, or 2 with an even number of them.
    """
    if frames == 1:
        return
    once = low.items
    low.items = []
    done = 0  # images whose last operation has come
    for first in range(0, frames, in_flight):
        group = range(first, first + in_flight)
        for span in _spans(low, in_flight):
            for frame in group:
                low.items += _items(low, once, span, frame, frames, in_flight)
        if group.stop - done == low.plan.together or group.stop == frames:
            low.items += _together(low, once[low.starts[-1] :], range(done, group.stop))
            done = group.stop


def _spans(low: Lowering, in_flight: int) -> list[range]:
    """Pieces of an image's work that alternate with those of the other one in flight.

    All but the last operation.
    """
    cuts = [0, low.starts[-1]]
    if in_flight > 1:
        starts = zip(low.graph.ops, low.starts, strict=True)
        cuts[1:1] = [start for op, start in starts if isinstance(op, LayerNorm)]
    return [range(*span) for span in pairwise(cuts)]


def _together(low: Lowering, closing: Sequence[Item], frames: range) -> Iterator[Item]:
    """The items of the last operation, which is linear, for a row of each image."""
    for item in closing:
        drafts = []
        for draft in item.drafts:
            fields = dict(draft.fields)
            if draft.opcode == "STORE":
                for row, frame in enumerate(frames):
                    own = replace(draft, fields=fields | {"source": fields["source"] + row})
                    drafts.append(of_frame(low, own, frame, None))
                continue
            if draft.opcode in ("MATMUL", "DRAIN"):
                fields["rows"] = len(frames)
            parts = tuple(
                (tensor, values | {"base": values["base"] + row, "index": (frame,)})
                for tensor, values in draft.parts
                for row, frame in enumerate(frames)
            )
            drafts.append(replace(draft, fields=fields, parts=parts))
        yield replace(item, drafts=drafts, predecessors=[])


def _items(
    low: Lowering,
    once: Sequence[Item],
    span: range,
    frame: int,
    frames: int,
    in_flight: int,
) -> Iterator[Item]:
    """Some of the items, for one of the images."""
    second = frame % in_flight
    offsets = low.plan.second_words if second else None
    images = _beside(once, low.image_pieces)
    for number in span:
        item = once[number]
        drafts = item.drafts
        if frame >= in_flight or second:
            # Its image has come before, its parameters with the first of the pair.
            unwanted = ("LOAD_IMAGE",) * (frame >= in_flight) + _SHARED * second
            drafts = [draft for draft in drafts if draft.opcode not in unwanted]
        moved = [of_frame(low, draft, frame, offsets) for draft in drafts]
        for piece in images.get(number, ()):
            if frame + in_flight < frames:
                moved.append(of_frame(low, piece, frame + in_flight, offsets))
        loads = [draft for draft in moved if draft.opcode in _SHARED]
        if in_flight > 1 and 0 < len(loads) < len(moved):
            # Apart, so that it need not wait until the other image has used what they replace.
            moved = [draft for draft in moved if draft.opcode not in _SHARED]
            yield replace(item, drafts=moved, predecessors=[])
            item, moved = Item(engine=Engine.LOAD, drafts=loads), loads
        if moved:
            yield replace(item, drafts=moved, predecessors=[])


def _beside(once: Sequence[Item], pieces: Sequence[Draft]) -> dict[int, list[Draft]]:
    """Which pieces come with which items: evenly with the matmuls of queries."""
    places = [
        number
        for number, item in enumerate(once)
        if any(
            draft.opcode == "STATIONARY" and draft.fields["source"] == StationarySource.COLUMNS
            for draft in item.drafts
        )
    ]
    found: dict[int, list[Draft]] = {}
    for k, piece in enumerate(pieces):
        place = places[k * len(places) // len(pieces)]
        found.setdefault(place, []).append(piece)
    return found


def of_frame(low: Lowering, draft: Draft, frame: int, offsets: Sequence[int] | None) -> Draft:
    """The same of another image, in buffers that lie so many words further in each bank."""
    fields = dict(draft.fields)
    if draft.frame_stride:
        fields["address"] += frame * draft.frame_stride
    parts = draft.parts
    if draft.row_per_frame:
        row = frame % low.plan.together
        fields["destination"] += row
        parts = tuple((tensor, values | {"base": values["base"] + row}) for tensor, values in parts)
    if offsets is not None:
        names = [name for name in _WORDS if name in fields]
        if draft.row_per_frame:
            names.remove("destination")
        if draft.opcode == "STATIONARY":
            weights = fields["source"] == StationarySource.WEIGHTS
            names = [] if weights else ["base"]
        for name in names:
            fields[name] += offsets[fields[name] >> OFFSET_BITS]
        if not draft.row_per_frame:
            parts = tuple(
                (tensor, values | {"base": _moved(values["base"], values["first_token"], offsets)})
                for tensor, values in parts
            )
    parts = tuple(
        (tensor, values | {"index": (frame, *values.get("index", ()))}) for tensor, values in parts
    )
    return replace(draft, fields=fields, parts=parts)


def _moved(base: int, first_token: int, offsets: Sequence[int]) -> int:
    """The base of a part; the row shifts, behind the banks, are shared."""
    bank = base + first_token >> OFFSET_BITS
    return base + (offsets[bank] if bank < len(offsets) else 0)


__all__ = ["of_frame", "repeat"]
