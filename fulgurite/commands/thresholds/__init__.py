"""`fulgurite thresholds`: a sweep over SoRA's sparsity thresholds."""
