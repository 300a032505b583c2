"""From records to tokens: templates, prompts, what is supervised, how texts are cut."""
