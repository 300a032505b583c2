"""`fulgurite export`: a checkpoint as an adapter for PEFT, a merged model, or a reward model that transformers loads."""
