"""What the stages of the pipeline share. Imports run one way, top to bottom of this map.

errors       the one exception that is shown to the user as a message, without a traceback
params       typed params.yaml: the only module that reads it
paths        where each artefact lives, relative to the current folder
record       JSON and CSV writers, progress bars, provenance
sources/     sample, kaggle, archive, cifar: put a readable archive in data/<name>/archive
picture      the only place that decodes images
manifest     checks, hashes, duplicates, stratified split
packing      decode every image once into uint8 arrays
runtime      allocator, device, precision, peak memory: import it before torch
augment      draw, then apply: pure functions of a batch
packed       open the arrays, give batches on a device
model        build, head, layer groups, freeze, save, load
optim        optimizers and schedules
checkpoint   keyed, atomic, locked
loop         fit() and predict()
predictions  the kept answers for every test image
scores       metrics, intervals, paired tests
leaderboard  rank the models
figures      matplotlib
report       the offline HTML page
"""
