"""The embedded sample dataset: drawings of vehicles, made without a download.

drawings  paint a vehicle in a scene; write the dataset's zip
vehicles  the classes: shapes and colors of each vehicle
"""
