"""What runs a bento: `parent.py`, which imports and forks, and `worker.py`, the forked server.

Both are run by path, with the interpreter of the bento's own locked environment, and import nothing of Ekiben.
"""
