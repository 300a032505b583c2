"""`fulgurite plug-in`: layers that were tuned on an emulator, back in the full model."""
