"""What every stage and command needs; imports nothing else of finegrain.

errors       UserError, whose text is a message to the user
paths        where each file of a dataset and of a run is
file_io      files and folders that are replaced as a whole; JSON, CSV, SHA-256; names of unknown encoding
disk         check of the free disk space
log          progress bars and messages on standard error
parallel     an ordered map over a thread pool
process      setup and exit of a stage's process, and the code that it runs
dvc_cache    what dvc.lock records, and the files that DVC's cache has of it
local_files  links by which DVC notices changed local files, and hashes of their content
allocator    settings of glibc's memory allocator
"""
