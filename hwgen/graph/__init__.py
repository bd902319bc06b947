# SPDX-License-Identifier: Apache-2.0
"""The quantised integer graph: operations, validation, save and load, bit-exact interpreter."""
