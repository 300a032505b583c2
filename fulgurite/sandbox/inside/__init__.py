"""What runs inside a sandbox: the first process, the candidate's process and the judge's. Standard library only; copied
there whole.
"""
