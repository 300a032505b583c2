"""Trained scalars at any positions (APET, BitFit): eligibility, selection, live weights, storage and export."""

from fulgurite.adapters.config import APET, BitFit
from fulgurite.adapters.methods import register_method
from fulgurite.adapters.sparse.attaching import SparseMethod
from fulgurite.adapters.sparse.bitfit import BitFitMethod

register_method(APET, SparseMethod())
register_method(BitFit, BitFitMethod())
