"""`fulgurite convert`: a GGUF file as a folder that stock transformers loads."""
