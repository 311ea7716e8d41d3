"""What runs becomes what is wanted: the reconciler with a keeper for each plugin, and the plugin as it is hosted.

Here alone plugins are started and stopped. An error in one plugin's keeper is that plugin's, and nobody else's.
"""
