# SPDX-License-Identifier: Apache-2.0
"""Exact comparison of layer boundaries; the first difference in network order raises."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from hwgen.errors import MismatchError

Tensor = npt.NDArray[np.integer]


def compare(
    expected: Mapping[str, Tensor],
    got: Mapping[str, Tensor],
    *,
    where: str | None = None,
    lanes: int | None = None,
    tile_columns: int | None = None,
    image: int | None = None,
    written: Callable[[str, tuple[int, ...]], int | None] | None = None,
) -> int:
    """Compare all tensors exactly and return how many were compared.

    Args:
        expected: the reference's tensors by name, in network order. That order decides which
            difference is the first: later ones mostly follow from it.
        got: the tensors under test; one that is missing is a difference.
        where: the two links compared, for the message.
        lanes: requantise lanes; gives the lane of a difference in the last axis.
        tile_columns: columns of an output tile; gives its number.
        image: index of the image, for whoever handles the difference.
        written: the cycle in which an element of a tensor was written, if it is known.

    Raises:
        MismatchError: names tensor, tile, lane, index, expected and got, and how many elements of
            the tensor differ by how much.
    """
    for name, reference in expected.items():
        if name not in got:
            raise MismatchError(
                name,
                expected=f"a tensor {list(reference.shape)}",
                got="nothing",
                where=where,
                image=image,
            )
        value = got[name]
        if reference.shape != value.shape:
            raise MismatchError(
                name,
                expected=f"the shape {list(reference.shape)}",
                got=f"the shape {list(value.shape)}",
                where=where,
                image=image,
            )
        different = np.not_equal(reference, value)
        if not different.any():
            continue
        index = np.unravel_index(int(np.argmax(different)), different.shape)
        place = tuple(int(i) for i in index)
        channel = place[-1] if place else 0
        raise MismatchError(
            name,
            expected=int(reference[index]),
            got=int(value[index]),
            tile=None if tile_columns is None else channel // tile_columns,
            lane=None if lanes is None else channel % lanes,
            index=place,
            where=where,
            differing=int(np.count_nonzero(different)),
            elements=different.size,
            largest_difference=_largest(reference[different], value[different]),
            image=image,
            cycle=None if written is None else written(name, place),
        )
    if extra := [name for name in got if name not in expected]:
        raise MismatchError(
            extra[0], expected="no such tensor", got="one", where=where, image=image
        )
    return len(expected)


def _largest(reference: Tensor, value: Tensor) -> int:
    """The largest absolute difference; no tensor has elements of more than 32 bits."""
    return int(np.max(np.abs(reference.astype(np.int64) - value.astype(np.int64))))
