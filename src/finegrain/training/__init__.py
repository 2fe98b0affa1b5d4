"""Train a network by the recipe of params.yaml.

run         a run from packed images to a saved model
loop        fit(): phases, epochs, validation, early stopping
phase_networks  the network of each phase: the run's own, or one with a head of the phase
train_step  one step: mixing, forward, loss, backward, optimizer step
cuda_graph  forward and backward replayed from a CUDA graph
optim       optimizers, learning-rate schedules, moving average of the weights
choose_lr   the peak learning rate of a phase, by an LR range test if the recipe wants one
lr_finder   the LR range test and its suggestions
history     rows, best weights and other results of a run in progress
checkpoint  locked, atomic checkpoints keyed by parameters, code and data
"""
