"""Comparison of models on the same test images: leaderboard, verdicts and the report.

significance  difference of two models with its 95 % interval and p-value
chosen_metric the same for each metric that may choose between models
leaderboard   the ranking by validation, and the comparison of each pair of models
plots         training curves, LR range test, accuracy against training time
report_data   what the report shows, read from the files of earlier stages
report        the HTML page and the Markdown table
next_steps    what is worth trying next, and why
formatting    numbers as text
"""
