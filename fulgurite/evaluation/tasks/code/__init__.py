"""Tasks whose answer is a program, judged by its tests in the sandbox."""
