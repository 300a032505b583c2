"""CRaSh and uniform LayerDrop on a real model and real questions: emulator, training, plug-in."""
