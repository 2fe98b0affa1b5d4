"""Metrics, predictions, plots and example images of one trained model.

metrics           top-1, top-5, macro-F1, loss and calibration error with 95 % intervals; confused classes
summary           the numbers of a model's files of results, intervals and metrics
predictions       the table of predictions that is kept for comparisons
car_groups        make, body type and year, and the mistakes that stay within them
gallery           example images for the report
gradcam           Grad-CAM heat maps
doubtful_labels   images whose label is improbable by predictions that were made without them
prediction_plots  plots of the confusion matrix and of the reliability
class_plots       plots of recall and number of images by class
plot_style        colors, fonts and PNG rendering of all plots
"""
