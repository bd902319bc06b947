# SPDX-License-Identifier: Apache-2.0
"""Checkpoint -> FloatModel -> IntegerGraph: the only place for floating point and for torch."""
