"""Compare and repair DVC experiments: the commands ``diff``, ``review`` and ``repair``, outside the pipeline.

diff            the command ``finegrain diff``
difference      what changed between the results of two revisions
git             git commands: merge base, clean work tree, changed files
markdown        a difference as Markdown
pull_request    the command ``finegrain review``: a branch's changes as a pull request comment
repair          the command ``finegrain repair``: repair what a killed dvc leaves broken
results         the results of one revision
revision        read the results of a revision without checking it out
revision_files  the project's files at a revision
stale           stages whose results do not match the current code and parameters
"""
