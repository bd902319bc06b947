# SPDX-License-Identifier: Apache-2.0
"""What is said about a design: tables on a terminal, progress, and the JSON of the results."""
