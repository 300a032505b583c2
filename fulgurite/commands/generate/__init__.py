"""`fulgurite generate`: answers to a prompt, to a file of prompts, or in a chat."""
