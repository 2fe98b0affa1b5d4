"""Batches of a network's input from the arrays that stage pack wrote.

batches      PackedSplit: shuffled training batches, ordered evaluation batches, the images themselves
prefetch     brings packed images to the device: CPU, GPU with the whole pack in memory, GPU with a stream
class_weights  weights of the images in a training loss, by class
pack_reader  reads rows of packed images from the disk
"""
