"""What an operator can be asked: its methods that estimate or solve. Each hands over to the module that knows how."""

from __future__ import annotations


class Questions:
    """The questions, as methods of :class:`crelle.operators.Operator`."""
