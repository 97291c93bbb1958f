"""The lab: a local web page on which two networks train side by side, and every layer's gradient shows.

    sigmoid-core lab

The browser draws; PyTorch trains, in this process. docs/lab.md says what the page shows, and how it is protected.
"""
