"""Use a trained model outside the pipeline.

find_model      finds a model by file, folder, run or model name
hub             the exported folder: its file names, local lookup, download from the Hugging Face Hub
inputs          finds the photos in files, folders, globs and archives
lenient_reader  reads what it can of a damaged archive
labels          reads the true classes of photos from a CSV
predictor       Predictor: loads a model and classifies photos
predict         the command ``finegrain predict``
demo            the command ``finegrain demo``: classify photos on a local web page
demo_page       the web page itself, drawn by Gradio
"""
