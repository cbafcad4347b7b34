"""`gantk data check`: describes images and finds problems in them before a training.

Read `check` first: it inspects each image once (`inspect`), looks at a training's use of them, and
lists what is found in the images (`findings`) and in their pairs (`pairs`). `kinds` compares kinds of
images, for trainings and translations too.
"""
