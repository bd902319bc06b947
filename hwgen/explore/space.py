# SPDX-License-Identifier: Apache-2.0
"""The design space: what the explorer varies, and which combinations the generator builds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from hwgen.columns import dense
from hwgen.config import PARAMETERS, AcceleratorConfig
from hwgen.graph.spec import ModelSpec
from hwgen.program.buffer_plan import default_tile_rows, row_blocks, sized_config

#: Legal values of the parameters that are varied; columns follow from the rows.
ROWS = PARAMETERS["rows"].powers()
PORTS = tuple(range(PARAMETERS["memory_ports"].low, PARAMETERS["memory_ports"].high + 1))
SOFTMAX_LANES = PARAMETERS["softmax_vec"].powers()
#: The parameters that are varied, by the names of their options.
VARIED = ("rows", "columns", "memory_ports", "softmax_vec", "row_blocks")
#: Row blocks beside the rule's (:func:`hwgen.program.buffer_plan.row_blocks`).
ROW_BLOCKS = (1, 2, 3, 4)


@dataclass(frozen=True, order=True, kw_only=True)
class Candidate:
    """One point of the space; everything else of a configuration follows from it and the model."""

    rows: int
    columns: int
    memory_ports: int
    softmax_vec: int
    row_blocks: int

    @property
    def macs_per_cycle(self) -> int:
        """Products that the array makes in a cycle."""
        return self.rows * self.columns

    @property
    def relaxed(self) -> Candidate:
        """The same array and row blocks with the most ports and the fastest softmax."""
        return replace(self, memory_ports=PORTS[-1], softmax_vec=min(self.rows, SOFTMAX_LANES[-1]))

    def text(self) -> str:
        """In a few words, for messages."""

        def many(count: int, what: str) -> str:
            return f"{count} {what}{'s' * (count > 1)}"

        return (
            f"{self.rows} x {self.columns}, {many(self.memory_ports, 'port')},"
            f" {self.softmax_vec} softmax lanes, {many(self.row_blocks, 'row block')}"
        )

    def to_json(self) -> dict[str, int]:
        """Plain values, in declaration order."""
        return asdict(self)

    def config(self, spec: ModelSpec, fixed: Mapping[str, Any]) -> AcceleratorConfig:
        """The configuration whose memories fit the model exactly.

        Raises:
            ConfigError: the generator does not build it.
            DoesNotFitError: an address cannot name all words of a bank.
        """
        return sized_config(
            spec,
            rows=self.rows,
            groups=dense(self.columns),
            blocks=self.row_blocks,
            memory_ports=self.memory_ports,
            softmax_vec=self.softmax_vec,
            **fixed,
        )


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Values to try; an empty tuple stands for all legal ones."""

    rows: tuple[int, ...] = ()
    columns: tuple[int, ...] = ()
    memory_ports: tuple[int, ...] = ()
    softmax_vec: tuple[int, ...] = ()
    row_blocks: tuple[int, ...] = ()
    #: Further fields of the configuration, the same for every design.
    fixed: Mapping[str, Any] = field(default_factory=dict)


def legal_columns(rows: int, most_macs: int) -> list[int]:
    """Columns that an array of ``rows`` can have, up to ``most_macs`` products a cycle."""
    return [
        columns
        for columns in range(rows // 2, most_macs // rows + 1, rows // 2)
        if columns % rows == 0 or rows % columns == 0
    ]


def legal_blocks(spec: ModelSpec, rows: int) -> list[int]:
    """Numbers of row blocks that a model can be run with: the rule's and those of a few, sorted."""
    rule = len(row_blocks(spec.tokens, rows, default_tile_rows(spec.tokens)))
    return sorted({rule, *(count for count in ROW_BLOCKS if count <= spec.tokens)})


def candidates(
    spec: ModelSpec, choices: Choices, *, most_ports: int, most_macs: int
) -> Iterator[Candidate]:
    """All combinations that the generator accepts, in a fixed order.

    Args:
        spec: the model.
        choices: values to keep to.
        most_ports: AXI masters that the board has room for.
        most_macs: products a cycle beyond which nothing is looked at.
    """

    def chosen(given: Sequence[int], legal: Sequence[int]) -> list[int]:
        return [value for value in legal if not given or value in given]

    for rows in chosen(choices.rows, ROWS):
        blocks = chosen(choices.row_blocks, legal_blocks(spec, rows))
        for columns in chosen(choices.columns, legal_columns(rows, most_macs)):
            for ports in chosen(choices.memory_ports, PORTS[:most_ports]):
                for vec in chosen(choices.softmax_vec, SOFTMAX_LANES):
                    for count in blocks:
                        yield Candidate(
                            rows=rows,
                            columns=columns,
                            memory_ports=ports,
                            softmax_vec=vec,
                            row_blocks=count,
                        )
