"""Ways to start a process apart from the rest of the machine, strongest first."""

from .base import Layer, Start
from .bubblewrap import Bubblewrap
from .namespaces import Namespaces
from .plain import Plain

__all__ = ["LAYERS", "Bubblewrap", "Layer", "Namespaces", "Plain", "Start"]

LAYERS: dict[str, type[Layer]] = {"bubblewrap": Bubblewrap, "namespaces": Namespaces, "limits": Plain}
