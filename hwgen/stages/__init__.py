# SPDX-License-Identifier: Apache-2.0
"""The stages of the flow, one module each: what it takes, what it makes of it."""
