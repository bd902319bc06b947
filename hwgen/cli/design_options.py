# SPDX-License-Identifier: Apache-2.0
"""Options that state a parameter of the design."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from hwgen.columns import parse_groups
from hwgen.errors import ConfigError
from hwgen.stages.options import BY_NAME, DesignOption


class Words(click.ParamType[Any]):
    """Numbers with commas between them."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The numbers as a tuple."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(number) for number in value.split(","))
        except ValueError:
            self.fail(f"{value!r} must be integers with commas between them.", param, ctx)


class ColumnGroups(click.ParamType[Any]):
    """Column groups: ``dual:58:8,digits:70:4``."""

    name = "groups"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The groups as a tuple."""
        if isinstance(value, tuple):
            return value
        try:
            return parse_groups(value)
        except ConfigError as error:
            raise BY_NAME["groups"].refusal(error) from error


class _DesignParameter(click.Option):
    """An option that states a parameter of the design; ``--help`` shows it under its group."""

    def __init__(self, chosen: DesignOption) -> None:
        """All that is said of it stands in the table of options."""
        if chosen.name == "bank_words":
            values: dict[str, Any] = {"type": Words(), "metavar": "N,N,..."}
        elif chosen.name == "groups":
            values = {"type": ColumnGroups(), "metavar": "KIND:COLUMNS:BITS,..."}
        elif chosen.name == "no_pump":
            values = {"is_flag": True, "default": None}
        elif chosen.parameter.flag:
            values = {"type": bool, "metavar": "true|false"}
        else:
            values = {"type": int, "metavar": "N"}
        super().__init__(
            [chosen.option, chosen.name],
            **values,
            help=chosen.help,
            callback=self._check,
        )
        self.group = chosen.group

    @staticmethod
    def _check(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        assert param.name is not None
        if value is not None:
            BY_NAME[param.name].check(value)
        return value


class DesignCommand(click.Command):
    """A command with parameters of a design, all or those of ``stated``, among its options."""

    def __init__(
        self, *arguments: Any, stated: Sequence[str] = tuple(BY_NAME), **more: Any
    ) -> None:
        """The design's parameters follow the command's own."""
        super().__init__(*arguments, **more)
        self.params += [_DesignParameter(BY_NAME[name]) for name in stated]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command's own options, then the design's, group by group."""
        groups: dict[str, list[tuple[str, str]]] = {"Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                title = "Options"
                if isinstance(param, _DesignParameter):
                    title = f"{param.group} of the design"
                groups.setdefault(title, []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


def stated(given: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the design that the user states."""
    return {name: value for name, value in given.items() if value is not None}
