"""Random augmentation and normalization of a batch of images.

sampling        draws what happens to each image, from the seed, the epoch and the step
transform       applies it: crop, flip, augment, normalize
crop            random resized crops and horizontal flips
policy          TrivialAugment and RandAugment, by torchvision's operators
geometry        padding crops; rotation, zoom and perspective in one resampling
color           brightness, contrast, saturation, hue; random erasing
triton_kernels  the whole transform in four kernels, for a GPU
triton_color    the color arithmetic of those kernels
"""
