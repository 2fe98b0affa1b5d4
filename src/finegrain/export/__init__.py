"""The command ``finegrain export``: a trained model as a folder for the Hugging Face Hub.

model_folder   the command: writes the folder
onnx_graph     writes the ONNX graph and compares it with the network
check_images   the images for that comparison
test_results   the project's test results of the model
model_card     the model card, README.md (template: model_card.md.j2)
output_folder  protects a folder that the user has changed from being replaced
"""
