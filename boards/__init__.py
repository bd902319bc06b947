# SPDX-License-Identifier: Apache-2.0
"""Boards: one data file each, with device resources, clock and memory."""
