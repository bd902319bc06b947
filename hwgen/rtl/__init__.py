# SPDX-License-Identifier: Apache-2.0
"""The accelerator in Amaranth. A unit's stem equals its numerics stem where one exists."""
