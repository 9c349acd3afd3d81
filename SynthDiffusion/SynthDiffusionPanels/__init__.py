"""Panels of the module: what the user sees. They use qt and ctk and hold no logic.

Every panel is a class with `widget` (what goes into the layout), and

* `refresh()`: shows what the session now is; called after any change, so it must be cheap and must not change anything,
* `enter()` and `exit()`: the module is shown and hidden,
* `close()`: lets go of everything; called once, before the widget is destroyed.

A panel is given the `SynthDiffusionJobs.Session.Session` and listens to its signals itself. `ModulePanel` puts them
together. Their texts and layout are in Resources/UI. Importing this package imports nothing else.
"""
