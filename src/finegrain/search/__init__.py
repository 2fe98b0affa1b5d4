"""Hyperparameter search with DVC experiments: the command ``finegrain sweep``, outside the pipeline.

importance_plot  plot of how much each parameter matters
search_space     parameters and their values as the user types them, and what Optuna samples from them
sweep            the command ``finegrain sweep``
trial            the trials and their log on disk
"""
