"""Our models, sandbox and tasks in inspect_ai (extra `inspect`). inspect_ai finds them by the entry point `registry.py`.

These files import inspect_ai, so that nothing else of the package imports them.
"""
