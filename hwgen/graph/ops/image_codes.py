# SPDX-License-Identifier: Apache-2.0
"""The image's pixels as int8 codes, patch by patch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import with_config

from hwgen.errors import FormatError
from hwgen.graph.ops.base import Batch, Op, Shapes, Tensor, Values
from hwgen.graph.spec import ModelSpec
from hwgen.numerics.image import image_codes, patchify
from hwgen.reading import STRICT


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True, eq=False)
class ImageCodes(Op):
    """Pixels uint8 [H, W, channels] -> int8 [patches, patch*patch*channels], ``d = pixel - 128``.

    Patches are row-major; within a patch the order is (dy, dx, channel).
    """

    patch: int

    @property
    def inputs(self) -> tuple[str, ...]:
        """None: it reads the image."""
        return ()

    @property
    def edges(self) -> tuple[int, ...]:
        """None: exact."""
        return ()

    def shapes(self, made: Mapping[str, Tensor], spec: ModelSpec) -> Shapes:
        """A row per patch."""
        del made
        if self.patch != spec.patch:
            raise FormatError(f"patch must be the model's {spec.patch}, not {self.patch!r}")
        return {self.output: ((spec.patches, spec.patch_values), "int8")}

    def execute(self, batch: Batch) -> Values:
        """Subtract and rearrange."""
        return {self.output: patchify(image_codes(batch.images), self.patch)}
