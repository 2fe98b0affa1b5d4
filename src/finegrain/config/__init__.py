"""Typed parameters: params.yaml is read and checked as a whole before any work starts.

params    the whole file: dataset, split, pack and run settings; load_params
training  how a network is trained: head, phases, optimizers, schedules, augmentation
base      the type of each mapping in the file, and number types with limits
messages  one line for the user for each validation error
"""
