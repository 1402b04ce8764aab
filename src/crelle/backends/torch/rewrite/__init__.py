"""Rewriting of aten graphs; :mod:`crelle.backends.torch.graph` drives it."""
