"""How a benchmark measures: interleaved samples, peak memory, the machine's stamp, the register of entries."""
