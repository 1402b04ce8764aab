"""Who guards which kind of object, where its exact type does not tell. Importing this module completes the list."""

from __future__ import annotations

import functools
import types

from torch import Tensor, nn

from crelle.backends.torch.guards.code import impure_class
from crelle.backends.torch.guards.containers import visit_subclass
from crelle.backends.torch.guards.functions import visit_partial, visit_property, visit_python_module
from crelle.backends.torch.guards.layers import visit_module
from crelle.backends.torch.guards.objects import (
    is_inert,
    visit_class,
    visit_impure,
    visit_inert,
    visit_object,
    visit_tensor_subclass,
)
from crelle.backends.torch.guards.walk import FALLBACKS, Walk

__all__ = ["Walk"]

FALLBACKS[:] = [
    (lambda value: isinstance(value, Tensor), visit_tensor_subclass),
    (lambda value: isinstance(value, nn.Module), visit_module),
    (lambda value: isinstance(value, type), visit_class),
    (lambda value: isinstance(value, types.ModuleType), visit_python_module),
    (lambda value: isinstance(value, functools.partial), visit_partial),
    (lambda value: isinstance(value, property), visit_property),
    (is_inert, visit_inert),
    (lambda value: impure_class(type(value)), visit_impure),
    (lambda value: isinstance(value, (tuple, list, dict)), visit_subclass),
    (lambda value: True, visit_object),
]
