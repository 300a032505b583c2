"""Modules put into a network beside its layers: bottlenecks behind sublayers and soft prompts before the input."""

from fulgurite.adapters.config import Bottleneck, SoftPrompt
from fulgurite.adapters.inserted.attaching import BottleneckMethod, SoftPromptMethod
from fulgurite.adapters.methods import register_method

register_method(Bottleneck, BottleneckMethod())
register_method(SoftPrompt, SoftPromptMethod())
