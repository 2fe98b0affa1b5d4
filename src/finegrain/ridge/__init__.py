"""The exact linear head: ridge regression on the features of all training images, each computed once.

solve_head      a phase that is solved: features, strength, head, learning curve
projection      which combinations of channels a covariance pooling keeps
features        inputs of the last linear layer of a frozen network, for every image of a split
feature_cache   features on disk, found again by the images' content
regression      the exact solution for any strength, and the leave-one-out scores of every image
linear_system   a large symmetric matrix that is factorized in its own memory
strength        the strength with the lowest leave-one-out loss, and class weights
learning_curve  what more photos would bring
"""
