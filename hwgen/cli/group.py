# SPDX-License-Identifier: Apache-2.0
"""The command that has all others below it."""

from __future__ import annotations

import click

from hwgen import __version__
from hwgen.cli.options import examples
from hwgen.installation import check_one_tree, package_folder, parts


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "hwgen run                                  the embedded default model, every stage",
        "hwgen run deit_tiny --checkpoint deit_tiny.safetensors",
        "hwgen simulate rtl_out/digits_zcu102 --images 5",
        "hwgen doctor                               is everything here that is needed?",
    ),
)
@click.version_option(__version__, prog_name="hwgen")
@click.pass_context
def commands(context: click.Context) -> None:
    """Generate an accelerator for a quantised Vision Transformer, and prove it by simulation."""
    if context.invoked_subcommand != "doctor":  # which says it in a line of its report
        check_one_tree(package_folder(), parts())
