"""Determinants of Jacobians from their structure. No framework is imported here."""

from crelle.determinants._result import SlogdetResult
from crelle.determinants._transform import Slogdet, slogdet

__all__ = ["Slogdet", "SlogdetResult", "slogdet"]
