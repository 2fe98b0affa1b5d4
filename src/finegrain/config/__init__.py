"""Typed parameters: params.yaml is read and checked as a whole before any work starts.

params     the whole file: pack and run settings; load_params
dataset    source of the images, table of labels, splits
phases     the phases of a training: optimizers, schedules, or an exact solve
training   the network's head, augmentation, normalization, evaluation
weights    what `weights` names: torchvision's, files, trained models, the Hub
base       the type of each mapping in the file, and number types with limits
messages   one line for the user for each validation error
yaml_text  reads numbers as YAML 1.2 does; rejects values that YAML 1.1 and 1.2 read differently
"""
