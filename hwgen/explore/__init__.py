# SPDX-License-Identifier: Apache-2.0
"""The explorer: which design meets a frame rate within a board's resources, and what it costs."""
