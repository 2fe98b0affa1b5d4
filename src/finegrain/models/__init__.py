"""Networks: build them, compute predictions with them, and keep them in files.

build         a torchvision network with initial weights and a head
pretrained    reads initial weights: torchvision's, of a file or the Hub, of a trained model
pooling       average, maximum and covariance pooling of feature maps
multi_stage   a network that is cut off above the stages whose feature maps it pools
layer_groups  which parameters train, and with which learning rate multiplier
inference     logits of the images of a split or a batch
outputs       predictions from logits: most probable classes, probabilities and loss; means over classes
calibration   expected calibration error, temperature scaling, threshold for unknown images
storage       a trained model in two files: safetensors and JSON metadata
"""
