"""What everything stands on; nothing here needs TensorFlow to be imported.

Read first: settings.py (what a YAML file may say, and the one error, KitError). files.py: whole files or none.
digests.py, code.py: names for what something is made of. places.py: the repository, the data, the runs. setup.py:
`prepare`, which starts TensorFlow and Keras. machine.py: what this machine is and is fast at.
"""
